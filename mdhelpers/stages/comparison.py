"""Stage 04: the algorithms' residuals, their principal directions, and what noise alone would make.

Datamodels of stage 03 are compared, or scores that were made elsewhere. With models at hand the
directions' gaps are cross-fitted and weighed against a null.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mdhelpers.base.places import resolve
from mdhelpers.formats.own import load_comparison, load_datamodels, save_comparison, save_datamodels
from mdhelpers.formats.scores import scores_of_study
from mdhelpers.method import crossfit
from mdhelpers.method.comparison import COMPARISONS, Comparison, compare
from mdhelpers.method.datamodels import Datamodels
from mdhelpers.method.evidence import STRONG
from mdhelpers.method.uses import Margins
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, DATA, DATAMODELS, MODELS, TILTING
from mdhelpers.stages import gradients
from mdhelpers.stages.data import read_data
from mdhelpers.stages.datamodels import HowFitted, how_fitted, read_datamodels
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.outside import scores_digest
from mdhelpers.training.tasks import device_here

FILE = "comparison.safetensors"
SCORES = ("scores_1.safetensors", "scores_2.safetensors")


@dataclass(frozen=True, eq=False)
class StudyComparison:
    """What stage 04 made.

    Attributes
    ----------
    comparison
        Directions of both residuals, in the order of their cross-fitted gaps (of the naive ones
        where scores were made elsewhere, without models to split).
    gaps
        One row per direction, in the same order, or None without models. ``confirmed`` is of the
        models on random masks where datamodels come from gradients, or of stage 10's tilted ones.
    null
        Gaps of the algorithms against each other and against themselves, or None.
    uses
        How much either algorithm uses what marks each subpopulation, in the same order, or None
        (`mdhelpers.method.uses`); empty where there are too few models or slots to tell.
    datamodels
        Both algorithms' datamodels, as compared.
    """

    comparison: Comparison
    gaps: pd.DataFrame | None
    null: pd.DataFrame | None
    uses: pd.DataFrame | None
    datamodels: tuple[Datamodels, Datamodels]


@dataclass(frozen=True, eq=False)
class ModelsGiven:
    """What comparisons of a study's models need of them.

    Attributes
    ----------
    fits : pair of callables
        As `mdhelpers.method.datamodels.Fitter` makes them, of algorithms 1 and 2.
    n_models : int
        Models of each algorithm that can be fitted on.
    slots : ndarray of int, shape (n_models,), or None
    margins : pair of ndarray, shape (any models, n_test)
        Correct-class margins, as the models gave them.
    """

    fits: tuple
    n_models: int
    slots: np.ndarray | None
    margins: tuple[np.ndarray, np.ndarray]


def compare_algorithms(
    run: Run,
    *,
    n_directions: int = 8,
    rotation: str = "none",
    n_splits: int = 8,
    n_null_splits: int = 4,
    top_k: int = 24,
    only_below: float = 0.5,
    alike_within: float = 1.5,
    datamodels_1_path: str = "",
    datamodels_2_path: str = "",
    scores_options: dict | None = None,
    seed: int = 0,
    device: str = "auto",
) -> StudyComparison:
    """Stage 04: residuals, their principal directions, and gaps that noise does not make.

    Parameters
    ----------
    run
        The run's folder; with stage 03 finished, unless scores are given.
    n_directions
        Directions of each residual.
    rotation
        How they are turned together: see `mdhelpers.method.rotation`.
    n_splits, n_null_splits
        Random halves (quarters) of the models for cross-fitted gaps (of the null).
    top_k
        Test images at either end of a direction whose use is measured.
    only_below, alike_within
        What counts as not used, and as used alike: see `mdhelpers.method.uses.Margins`.
    datamodels_1_path, datamodels_2_path
        Paths of both algorithms' attribution scores made elsewhere, in any format that
        `mdhelpers.formats.scores.load_scores` reads. Both or neither.
    scores_options
        What those files do not say: ``orientation``, ``positive_means`` and the like.
    seed
        Of the splits.
    device
        Where fits and comparisons are computed; no result depends on it, but for the kind of
        device.

    """
    if bool(datamodels_1_path) != bool(datamodels_2_path):
        raise ValueError("give datamodels_1_path and datamodels_2_path both, or neither")
    elsewhere = [resolve(path) for path in (datamodels_1_path, datamodels_2_path) if path]
    for path in elsewhere:
        if not path.exists():
            raise FileNotFoundError(
                f"no attribution scores at {path}; relative paths count from the project's folder"
            )
    margins = Margins(only_below, alike_within)
    parameters = {"n_directions": n_directions, "seed": seed}
    if rotation != "none":
        parameters["rotation"] = rotation
    if elsewhere:
        parameters["scores"] = [scores_digest(path) for path in elsewhere]
        parameters |= {"scores_options": scores_options} if scores_options else {}
        stage = run.stage(COMPARISON, parameters)
        datamodels = read_scores(elsewhere, scores_options or {}, run)
    else:
        parameters |= {"n_splits": n_splits, "n_null_splits": n_null_splits, "top_k": top_k}
        parameters |= {"only_below": only_below, "alike_within": alike_within}
        stage = run.stage(COMPARISON, parameters, after=[MODELS, DATAMODELS])
        datamodels = read_datamodels(run)
    with stage.working() as needed:
        if needed:
            about = {"seed": seed, "device": device_here(device)}
            directions = {"n_directions": n_directions, "rotation": rotation}
            comparison = compare(*datamodels, **directions, **about)
            files, tables, figures = {}, {}, {}
            if elsewhere:
                pairs = zip(SCORES, datamodels, strict=True)
                files = {name: partial(save_datamodels, scores) for name, scores in pairs}
            else:
                models = read_models(run, device=about["device"])
                given = models_given(run, models, replace(how_fitted(run), seed=seed))
                labelled = {"labels": models.dataset.test.labels, "top_k": top_k}
                halves, null = cross_fit(
                    given,
                    comparison,
                    n_splits,
                    n_null_splits,
                    seed,
                    labelled | {"margins": margins},
                )
                comparison = crossfit.order_by_gap(comparison, halves)
                gaps = ordered(halves.directions)
                tables = {"gaps": gaps, "null": null, "uses": in_rank(halves.uses, gaps)}
                figures = gap_figures(halves) | null_figures(null)
            figures |= {"n_zero": comparison.n_zero.tolist()}
            figures["left_out"] = int(comparison.left_out.sum())
            figures["cosine_median"] = float(np.nanmedian(comparison.cosines))
            stage.keep(
                tables=tables,
                files={FILE: partial(save_comparison, comparison)} | files,
                figures=figures,
            )
    return read_comparison(run, datamodels)


def read_scores(paths: list[Path], options: dict, run: Run) -> tuple[Datamodels, Datamodels]:
    """Scores made elsewhere, of the sizes of the run's data where it has some; prints notes."""
    if run.manifest(DATA):
        data = read_data(run, mmap=True)
        options = {"n_train": len(data.train), "n_test": len(data.test)} | options
    datamodels = tuple(scores_of_study(path, options) for path in paths)
    for path, scores in zip(paths, datamodels, strict=True):
        print(f"{path.name}:", *scores.notes, sep="\n  ")
    return datamodels


def read_comparison(
    run: Run, datamodels: tuple[Datamodels, Datamodels] | None = None
) -> StudyComparison:
    """What stage 04 wrote, and, where stage 10 has been run since, what it confirms."""
    run.check(COMPARISON)
    tables = run.kept(COMPARISON)
    return StudyComparison(
        load_comparison(run.output(COMPARISON, FILE)),
        confirmed_by_tilts(run, tables.get("gaps")),
        tables.get("null"),
        tables.get("uses"),
        datamodels or compared_datamodels(run),
    )


def confirmed_by_tilts(run: Run, gaps: pd.DataFrame | None) -> pd.DataFrame | None:
    """Gaps whose ``confirmed`` is what tilted models said, where stage 10 trained some."""
    if gaps is None or TILTING not in run.results:
        return gaps
    keys = ["comparison", "direction"]
    said = run.kept(TILTING).get("confirmations", pd.DataFrame(columns=[*keys, "confirmed"]))
    said = gaps[keys].merge(said, on=keys, how="left")["confirmed"].set_axis(gaps.index)
    before = gaps.get("confirmed", "not tested")
    return gaps.assign(confirmed=said.where(said.notna(), before)) if said.notna().any() else gaps


def compared_datamodels(run: Run) -> tuple[Datamodels, Datamodels]:
    """The datamodels that stage 04 compared: scores made elsewhere, or those of stage 03.

    Raises
    ------
    StudyError
        If scores made elsewhere were compared and their files are not there, or not the same.
    """
    given = run.manifest(COMPARISON)["parameters"]
    if "scores" not in given:
        return read_datamodels(run)
    return tuple(load_datamodels(run.output(COMPARISON, name)) for name in SCORES)


def cross_fit(
    given: ModelsGiven,
    comparison: Comparison,
    n_splits: int,
    n_null_splits: int,
    seed: int,
    subpopulations: dict[str, Any],
) -> tuple[crossfit.CrossFit, pd.DataFrame]:
    """Refit on halves and quarters of the models, as stage 03 fitted on all of them.

    ``subpopulations`` holds the labels, and how ends are cut and graded.
    """
    size = max(len(directions) for directions in comparison)
    with tqdm(total=4 * n_splits + 8 * n_null_splits, unit="fit", mininterval=2.0) as bar:
        fits = [replace(fit, after=bar.update) for fit in given.fits]
        halves = crossfit.cross_fitted_gaps(
            *fits,
            given.n_models,
            comparison=comparison,
            n_directions=size,
            n_splits=n_splits,
            slots=given.slots,
            seed=seed,
            **subpopulations,
        )
        null = crossfit.null_gaps(
            *fits,
            given.n_models,
            n_directions=size,
            n_splits=n_null_splits,
            slots=given.slots,
            seed=seed,
        )
    return halves, null


def models_given(run: Run, models: StudyModels, how: HowFitted) -> ModelsGiven:
    """Fits on any of the models as stage 03 made them; all models' margins."""
    trained = [models.all(a) for a in (1, 2)]
    fitting = [each.rows(slice(models.n_heldout, None)) for each in trained]
    scores = [gradients.read_scores(run, a) if how.by_gradients else None for a in (1, 2)]
    return ModelsGiven(
        fits=tuple(how.fitter(*each) for each in zip([models] * 2, fitting, scores, strict=True)),
        n_models=len(fitting[0].masks),
        slots=models.slots(fitting[0]),
        margins=tuple(each.margins for each in trained),
    )


def ordered(gaps: pd.DataFrame) -> pd.DataFrame:
    """Rows by evidence, numbered by ``rank``; ``direction`` stays the PCA's number."""
    ranked = crossfit.in_order(gaps)
    ranked.insert(1, "rank", ranked.groupby("comparison").cumcount() + 1)
    return ranked.reset_index(drop=True)


def in_rank(uses: pd.DataFrame, gaps: pd.DataFrame) -> pd.DataFrame:
    """Rows of directions in the order of ``gaps``."""
    places = gaps[["comparison", "rank", "direction"]]
    table = uses.merge(places, on=["comparison", "direction"], how="left")
    table = table.sort_values(["comparison", "rank"], kind="stable")
    return table.reset_index(drop=True)


def gap_figures(halves: crossfit.CrossFit) -> dict[str, Any]:
    """Sums over all directions, in percent of the datamodels' variance."""
    figures = {}
    for name in COMPARISONS:
        rows = halves.directions[halves.directions["comparison"] == name]
        totals = halves.totals[halves.totals["comparison"] == name].iloc[-1]
        figures[f"naive_gap_{name}"] = 100 * rows["naive_gap"].sum()
        figures[f"gap_{name}"] = 100 * totals["gap"]
        figures[f"gap_{name}_low"] = 100 * totals["low"]
        figures[f"gap_{name}_high"] = 100 * totals["high"]
        if "evidence" in rows:
            figures[f"evidence_{name}"] = rows["evidence"].value_counts().to_dict()
            figures[f"significant_{name}"] = int((rows["q"] < STRONG).sum())
    return figures


def null_figures(null: pd.DataFrame) -> dict[str, dict[str, float]]:
    """The same of each pair of the null."""
    columns = ["naive_gap", "gap", "low", "high"]
    totals = crossfit.null_totals(null).set_index(["pair", "comparison"])[columns]
    return {
        f"null_{pair.replace(' ', '_')}_{name}": (100 * row).to_dict()
        for (pair, name), row in totals.iterrows()
    }
