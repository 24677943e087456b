"""Stage 13: similarity, many components, fewer models, disagreement.

Appendices F.1 to F.4 of the paper on one study. Where models are at hand, two samples that share
none are fitted at several sizes; they serve F.1 (an algorithm's cosine with itself), F.2 (what
components explain on other models) and F.3. All of it is written into the run's ``analyses/``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.analyses.model_counts import ModelCounts, effect_of_model_count, fit_samples
from mdhelpers.analyses.similarity import (
    Similarity,
    components_of,
    curves_of,
    directions_without,
    most_common_predictions,
    similarity,
    usually_right,
    variance_curves,
)
from mdhelpers.method.comparison import Comparison, compare
from mdhelpers.method.datamodels import Datamodels, fit_all, n_scored
from mdhelpers.method.engines.moments import split_groups
from mdhelpers.method.evidence import group_models
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, DATAMODELS, FURTHER, MODELS
from mdhelpers.stages.comparison import ModelsGiven, models_given, read_comparison
from mdhelpers.stages.datamodels import how_fitted
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.training.tasks import TrainingPlan, device_here

FOLDER = "analyses"
PARTS = f"{FOLDER}/parts"  # datamodels on halves and quarters of the models
MOST_WEIGHTS = 250_000  # of a datamodel matrix, that a page can compare by itself
_COUNTS = ("cosines", "components", "directions")  # tables of ModelCounts


@dataclass(frozen=True, eq=False)
class Analyses:
    """Results of the further analyses; None where there were no models, or too few.

    Attributes
    ----------
    curves : DataFrame
        As `mdhelpers.analyses.similarity.variance_curves` gives it, with a column ``on``: "all"
        (found and measured on all models), "half" (on one half) and "others" (found on one half and
        measured on the other).
    similarity : Similarity or None
        Of the algorithms, named "1" and "2", each with fits on two halves of its models.
    counts : ModelCounts or None
    disagreement : DataFrame or None
        Tables of `mdhelpers.analyses.similarity.directions_without`, with further columns.
        ``rule``: "predictions" (the paper's: most common ones are compared) or "margins" (their
        signs). ``kept``: the examples where these "agree"; by margins also, apart, those that both
        algorithms usually get "right". ``n`` and ``left_out``: how many stay and do not.
        ``n_models``: how many of each algorithm were asked, the fewer of the two.
    """

    curves: pd.DataFrame
    similarity: Similarity | None
    counts: ModelCounts | None
    disagreement: pd.DataFrame | None

    def named(self, names) -> Similarity | None:
        """The similarity with the algorithms' own names in place of their numbers."""
        if self.similarity is None:
            return None
        label = dict(zip(("1", "2"), names, strict=True))
        table = self.similarity.cosines.copy()
        table["first"], table["second"] = table["first"].map(label), table["second"].map(label)
        return Similarity(tuple(names), table)


def analyse_further(run: Run, *, seed: int = 0, device: str = "auto") -> Analyses:
    """Stage 13: appendices F.1 to F.4 on what stage 04 compared.

    Parameters
    ----------
    run
        The run's folder, with stage 04 finished.
    seed
        Of the samples of models and of test images.
    device
        Where fits and comparisons are computed.

    """
    compared = read_comparison(run)
    elsewhere = "scores" in run.manifest(COMPARISON)["parameters"]
    after = [COMPARISON] if elsewhere else [MODELS, DATAMODELS, COMPARISON]
    stage = run.stage(FURTHER, {"seed": seed}, after=after)
    with stage.working() as needed:
        if needed:
            about = {"seed": seed, "device": device_here(device)}
            given, predictions = None, None
            if not elsewhere:
                models = read_models(run, device=about["device"])
                given = models_given(run, models, replace(how_fitted(run), seed=seed))
                predictions = predictions_of_kept(models)
            found = analyse(compared.datamodels, compared.comparison, given, predictions, **about)
            small = compared.datamodels[0].weights.size <= MOST_WEIGHTS
            parts = fits_of_parts(given, seed=seed) if given and small else {}
            arrays = {PARTS: parts} if parts else {}
            stage.keep(tables=tables_of(found), arrays=arrays, figures=figures_of(found))
    run.check(FURTHER)
    return analyses_of(run.kept(FURTHER))


def fits_of_parts(given: ModelsGiven, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Datamodels of both algorithms on halves and quarters of the models.

    Halves are two quarters each. Parts share no initialisation where there are enough of them.

    Returns
    -------
    dict of str to ndarray, shape (n_test, n_train), float32
        By name, ``<parts>_<which>_<algorithm>``; empty where there are too few models.
    """
    rng, first = np.random.default_rng(seed), n_scored(*given.fits)
    groups = group_models(given.n_models, given.slots)
    try:
        about = {"n_first": first}
        quarters = split_groups(given.n_models, 4, rng, given.slots, groups, **about)
    except ValueError:  # fewer than two models of a slot for each
        return {}
    halves = [np.sort(np.concatenate(quarters[i : i + 2])) for i in (0, 2)]
    named = {f"2_{i}": models for i, models in enumerate(halves)}
    named |= {f"4_{i}": models for i, models in enumerate(quarters)}
    jobs = {
        f"{name}_{a}": (fit, m) for name, m in named.items() for a, fit in enumerate(given.fits, 1)
    }
    fitted = fit_all(jobs.values())
    return {name: np.float32(w) for name, w in zip(jobs, fitted, strict=True)}


def analyse(
    datamodels: tuple[Datamodels, Datamodels],
    comparison: Comparison,
    given: ModelsGiven | None = None,
    predictions: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Analyses:
    """Carry out F.1 to F.4 as far as there are models for them.

    Parameters
    ----------
    datamodels : pair of Datamodels
        As compared.
    comparison : Comparison
        Of these datamodels.
    given : ModelsGiven, optional
    predictions : pair of ndarray of int, shape (any models, n_test), optional
        Classes that models of each algorithm predict, see :func:`predictions_of_kept`.
    seed : int
        Of the samples of models and of test examples.
    device : str
        Where datamodels are compared.
    """
    weights = tuple(d.weights for d in datamodels)
    curves = [variance_curves(*weights, seed=seed, device=device).assign(on="all")]
    if given is None:
        return Analyses(curves[0], None, None, None)
    samples = fit_samples(
        *given.fits, given.n_models, everyone=weights, slots=given.slots, seed=seed
    )
    alike, counts = None, None
    if samples.halves:
        halves = samples.halves[max(samples.halves)]
        curves += _curves_of_halves(halves, seed, device)
        by_algorithm = zip(("1", "2"), zip(*halves, strict=True), strict=True)
        alike = similarity({number: list(fits) for number, fits in by_algorithm}, device=device)
        counts = effect_of_model_count(samples, n_directions=_most(comparison), device=device)
    disagreement = _disagreement(weights, comparison, given, predictions, seed, device)
    return Analyses(pd.concat(curves, ignore_index=True), alike, counts, disagreement)


def _curves_of_halves(halves: list, seed: int, device: str) -> list[pd.DataFrame]:
    """Curves of one half's components on itself and on the other half."""
    n_components = components_of(*halves[0])
    found = compare(*halves[0], n_directions=n_components, seed=seed, device=device)
    return [
        curves_of(found).assign(on="half"),
        curves_of(found, measured_on=halves[1], device=device).assign(on="others"),
    ]


def _most(comparison: Comparison) -> int:
    return max(len(directions) for directions in comparison)


def predictions_of_kept(models: StudyModels) -> tuple[np.ndarray, np.ndarray] | None:
    """Classes (n_kept, n_test) that both algorithms' kept networks predict on the test images.

    None where an algorithm keeps no networks: models made elsewhere, classifiers and functions
    (which would have to be trained again), checkpoints that are gone.
    """
    if not all(_keeps_networks(models.plan, algorithm) for algorithm in (1, 2)):
        return None
    found = (models.confidences(a) for a in (1, 2))
    return tuple(probabilities.argmax(axis=-1) for probabilities in found)


def _keeps_networks(plan: TrainingPlan, algorithm: int) -> bool:
    tasks = range(-(-plan.n_keep // plan.stack))
    return (
        plan.algorithms[algorithm - 1].keeps_models
        and len(tasks) > 0
        and all(plan.checkpoint_path(algorithm, task).exists() for task in tasks)
    )


def _disagreement(
    weights, comparison, given: ModelsGiven, predictions, seed: int, device: str
) -> pd.DataFrame | None:
    """Directions without the test examples on which predictions differ, as far as is known."""
    rule, models = "predictions", predictions
    if models is None:
        rule, models = "margins", given.margins
    about, tables = {"rule": rule, "n_models": min(map(len, models))}, []
    for name, kept in _choices(rule, models).items():
        if kept.sum() > _most(comparison):
            table = directions_without(*weights, kept, comparison, seed=seed, device=device)
            counts = {"n": int(kept.sum()), "left_out": int((~kept).sum())}
            tables.append(table.assign(kept=name, **counts, **about))
    return pd.concat(tables, ignore_index=True) if tables else None


def _choices(rule: str, models: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """The test examples that stay, (n_test,) bool. Signs of margins cannot tell whether two
    algorithms are wrong in the same way, so that there are two choices by them."""
    if rule == "predictions":
        first, second = map(most_common_predictions, models)
        return {"agree": first == second}
    first, second = map(usually_right, models)
    return {"agree": first == second, "right": first & second}


def figures_of(found: Analyses) -> dict[str, Any]:
    """What results.json holds of the analyses."""
    figures: dict[str, Any] = {"curves": _curve_figures(found.curves)}
    if found.similarity is not None:
        matrix, corrected = found.similarity.matrix, found.similarity.corrected
        figures["similarity"] = {
            "itself_1": matrix.loc["1", "1"],
            "itself_2": matrix.loc["2", "2"],
            "pair": matrix.loc["1", "2"],
            "pair_corrected": corrected.loc["1", "2"],
        }
    if found.counts is not None:
        figures["model_counts"] = found.counts.cosines.to_dict("records")
        subspaces = found.counts.directions.query("direction == 0").drop(columns="direction")
        figures["directions_by_models"] = subspaces.to_dict("records")
    if found.disagreement is not None:
        figures["disagreement"] = _disagreement_figures(found.disagreement)
    return {"analyses": figures}


def _curve_figures(curves: pd.DataFrame) -> list[dict]:
    """For each comparison and kind: components, sum of gaps in percent, share above zero."""
    rows = []
    for (comparison, on), part in curves.groupby(["comparison", "on"], sort=False):
        row = {"comparison": comparison, "on": on, "components": len(part)}
        row |= {"gap": 100 * part["gap"].sum(), "share_positive": (part["gap"] > 0).mean()}
        rows.append(row)
    return rows


def _disagreement_figures(table: pd.DataFrame) -> list[dict]:
    rows = []
    for (kept, comparison), part in table.groupby(["kept", "comparison"], sort=False):
        row = {"kept": kept, "comparison": comparison}
        row |= part[["rule", "n_models", "n", "left_out"]].iloc[0].to_dict()
        row |= {name: float(part[name].median()) for name in ("cosine", "random")}
        rows.append(row | {"least": float(part["cosine"].min())})
    return rows


def tables_of(found: Analyses) -> dict[str, pd.DataFrame]:
    """The tables of the analyses that there are, by names to keep them under."""
    tables = {"curves": found.curves, "disagreement": found.disagreement}
    tables["similarity"] = found.similarity and found.similarity.cosines
    tables |= {name: getattr(found.counts, name, None) for name in _COUNTS}
    return {f"{FOLDER}/{name}": table for name, table in tables.items() if table is not None}


def analyses_of(tables: dict[str, pd.DataFrame]) -> Analyses | None:
    """The analyses of which :func:`tables_of` gave these tables, or None where there are none."""
    tables = {name.removeprefix(f"{FOLDER}/"): table for name, table in tables.items()}
    if "curves" not in tables:
        return None
    alike = Similarity(("1", "2"), tables["similarity"]) if "similarity" in tables else None
    counts = ModelCounts(*(tables[name] for name in _COUNTS)) if "cosines" in tables else None
    return Analyses(tables["curves"], alike, counts, tables.get("disagreement"))
