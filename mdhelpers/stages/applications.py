"""Stage 08 of a run: what else datamodels are good for, each use verified by training anew.

The figures of notebook 08 that go to ``results.json``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file
from sklearn.metrics import adjusted_rand_score

from mdhelpers.analyses.neighbours import (
    cluster_rows,
    distinctive_weights,
    duplicate_ranks,
    embed_rows,
    grade_clusters,
    leakage_table,
    map_rows,
    pixel_distances,
)
from mdhelpers.analyses.removal import KINDS, RemovalOptions, Removals, join, measure_removals
from mdhelpers.analyses.selection import (
    CHOSEN,
    GRADED,
    HARDEST,
    Evidence,
    SelectionOptions,
    class_counts,
    compare_selections,
)
from mdhelpers.base.arrays import write_tensors
from mdhelpers.formats.own import load_datamodels, save_datamodels
from mdhelpers.method.datamodels import Datamodels, fit_datamodels
from mdhelpers.method.engines.estimators import FitOptions
from mdhelpers.runs.run import Run, read_tables, write_tables
from mdhelpers.runs.stage import APPLICATIONS, DATAMODELS, MODELS
from mdhelpers.stages.datamodels import read_datamodels
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.study import target_members
from mdhelpers.training.mask_training import retrain

LEAKAGE_ROWS = 40


@dataclass(frozen=True, eq=False)
class StudyApplications:
    """What stage 08 made.

    Attributes
    ----------
    removals : Removals
        Of the chosen algorithm, see `removal_study`.
    leakage, clusters, cluster_grades : DataFrame
        Of both algorithms, with a column ``algorithm``. ``clusters`` has a row a test example:
        its ``cluster`` and its place ``x, y`` on the map.
    selections, chosen : DataFrame
        Of the chosen algorithm, see `selection_study.compare_selections`.
    datamodels : Datamodels
        Of the chosen algorithm's margins themselves.
    algorithm : int
        1 or 2.
    """

    removals: Removals
    leakage: pd.DataFrame
    clusters: pd.DataFrame
    cluster_grades: pd.DataFrame
    selections: pd.DataFrame
    chosen: pd.DataFrame
    datamodels: Datamodels
    algorithm: int


def apply_datamodels(
    run: Run,
    *,
    application_algorithm: int = 1,
    n_removal_tests: int = 20,
    n_models_per_set: int = 8,
    n_clusters: int = 12,
    selection_targets: Sequence[str] = (HARDEST,),
    selection_sizes: Sequence[int] = (30, 60, 120),
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict[str, Any] | None = None,
) -> StudyApplications:
    """Stage 08: removal, neighbours, clusters and data selection.

    Parameters
    ----------
    run
        The run's folder, with stage 03 finished.
    application_algorithm
        1 or 2: whose models are trained anew.
    n_removal_tests
        Test images whose predictions are to be flipped.
    n_models_per_set
        Models trained with or without each set of images, at least 2.
    n_clusters
        Of each algorithm's datamodels.
    selection_targets, selection_sizes
        What training sets are chosen for: planted features, classes or "hardest"; and their sizes.
    seed
        Of all that is drawn.
    device, workers, scheduler, cluster
        Who trains, see `mdhelpers.training.mask_training.train_all`.

    """
    algorithm, n_models = application_algorithm, n_models_per_set
    removal = {"n_tests": n_removal_tests, "n_models": n_models}
    selection = {
        "targets": list(selection_targets),
        "sizes": list(selection_sizes),
        "n_models": n_models,
    }
    parameters = {"algorithm": algorithm, "removal": removal, "selection": selection}
    parameters |= {"n_clusters": n_clusters, "seed": seed}
    stage = run.stage(APPLICATIONS, parameters, after=[MODELS, DATAMODELS])
    with stage.working() as needed:
        if needed:
            models, fits = read_models(run, device=device), read_datamodels(run)
            margins_fit = fit_margins(run, models, algorithm, seed)
            who = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
            work = Work(models, algorithm, margins_fit, who)
            options = SelectionOptions(**selection, seed=seed)
            targets = work.targets(options)  # before anything is trained, since it may refuse them
            removing = RemovalOptions(models.plan.alpha, **removal, seed=seed)
            removals = work.removals(removing)
            selections, chosen = work.selections(targets, options)
            tables = {"removals": removals.table, "removal_sets": removals.members}
            tables |= {"selections": selections, "chosen": chosen}
            tables |= neighbour_tables(models, fits)
            tables |= cluster_tables(models, fits, n_clusters, seed)
            figures = application_figures(models, fits, removals, tables)
            stage.withdraw()
            outputs = write_tables(run.path, tables) + [run.path / name for name in FILES]
            write_tensors(outputs[-2], removals.effects)
            save_datamodels(margins_fit, outputs[-1])
            stage.finish(outputs, figures=figures)
    return read_applications(run)


FILES = ("removal_effects.safetensors", "datamodels_of_margins.safetensors")


def read_applications(run: Run) -> StudyApplications:
    """What stage 08 wrote."""
    run.check(APPLICATIONS)
    manifest, tables = run.manifest(APPLICATIONS), read_tables(run, APPLICATIONS)
    effects = load_file(run.output(APPLICATIONS, FILES[0]))
    removals = Removals(tables.pop("removals"), tables.pop("removal_sets"), effects)
    fit = load_datamodels(run.output(APPLICATIONS, FILES[1]))
    return StudyApplications(
        removals=removals, datamodels=fit, algorithm=manifest["parameters"]["algorithm"], **tables
    )


def fit_margins(run: Run, models: StudyModels, algorithm: int, seed: int) -> Datamodels:
    """Datamodels of the margins themselves, fitted as stage 03 fitted its own.

    A prediction flips where its margin does: what is relative to a class's mean cannot say when.
    """
    given = run.manifest(DATAMODELS)["parameters"]
    if not given["relative"]:
        return read_datamodels(run)[algorithm - 1]
    options = {"method": given["method"], "seed": seed, "device": models.plan.device}
    if "options" in given:
        options["options"] = FitOptions(**given["options"])
    fitting = models.fitting(algorithm)
    return fit_datamodels(fitting.masks, fitting.margins, slots=models.slots(fitting), **options)


@dataclass(frozen=True, eq=False)
class Work:
    """One algorithm's models and datamodels, and who trains more of them."""

    models: StudyModels
    algorithm: int
    datamodels: Datamodels
    who: dict[str, Any]

    def train(self, masks: np.ndarray, name: str) -> np.ndarray:
        """Margins (n_sets, n_models, n_test) of models that no stage has trained before."""
        n_sets, n_models, n_train = masks.shape
        keys = self.models.plan.n_models + np.tile(np.arange(n_models), n_sets)
        flat = masks.reshape(-1, n_train)
        trained = retrain(self.models.plan, self.algorithm, flat, keys, name=name, **self.who)
        return trained.margins.reshape(n_sets, n_models, -1)

    def removals(self, options: RemovalOptions) -> Removals:
        if self.models.made_elsewhere:  # there is nothing to train anew
            return join([])
        margins = self.models.fitting(self.algorithm).margins.mean(axis=0)
        return measure_removals(self.datamodels.weights, margins, self.train, options)

    def targets(self, options: SelectionOptions) -> dict[str, np.ndarray]:
        """The test images of each target; ValueError where one, or a size, cannot be."""
        data = self.models.dataset
        for size in options.sizes:
            class_counts(data.train.labels, size)
        means = self.models.fitting(self.algorithm).margins.mean(axis=0)
        return {
            name: target_members(name, data.test, data.class_names, means)
            for name in options.targets
        }

    def selections(
        self, targets: dict[str, np.ndarray], options: SelectionOptions
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        if self.models.made_elsewhere:
            return pd.DataFrame(columns=GRADED), pd.DataFrame(columns=CHOSEN)
        data = self.models.dataset
        distances = pixel_distances(data.test.images, data.train.images)
        labels = data.train.labels, data.test.labels
        evidence = Evidence(self.datamodels.weights, distances, *labels)
        return compare_selections(evidence, targets, self.train, options)


def neighbour_tables(models: StudyModels, fits) -> dict[str, pd.DataFrame]:
    """The pairs of test and training image whose weights are most distinctive."""
    data = models.dataset
    distances = pixel_distances(data.test.images, data.train.images)
    tables = [
        leakage_table(fit.weights, distances, top=LEAKAGE_ROWS, duplicate_of=copies_of(models))
        for fit in fits
    ]
    return {"leakage": by_algorithm(tables)}


def cluster_tables(models: StudyModels, fits, n_clusters: int, seed: int) -> dict:
    """Clusters, the map and their grades, of both algorithms."""
    test, found, graded = models.dataset.test, [], []
    for fit in fits:
        coordinates = embed_rows(fit.weights, seed=seed)
        clusters = cluster_rows(coordinates, n_clusters, seed=seed)
        x, y = map_rows(coordinates, seed=seed).T
        found.append(pd.DataFrame({"cluster": clusters, "x": x, "y": y}))
        graded.append(grade_clusters(clusters, test.labels, test.truth))
    return {"clusters": by_algorithm(found), "cluster_grades": by_algorithm(graded)}


def by_algorithm(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Both algorithms' tables in one."""
    named = [table.assign(algorithm=a) for a, table in enumerate(tables, 1)]
    return pd.concat(named, ignore_index=True)


def copies_of(models: StudyModels) -> np.ndarray | None:
    """The test image that each training image is known to copy (-1: none), where that is known."""
    metadata = models.dataset.train.metadata
    return metadata["duplicate_of"].to_numpy() if "duplicate_of" in metadata else None


def application_figures(models: StudyModels, fits, removals: Removals, tables: dict) -> dict:
    """The figures that the book quotes."""
    figures: dict[str, Any] = {"removal": removal_figures(removals)}
    figures["clusters"] = {
        f"rand_of_classes_{a}": adjusted_rand_score(models.dataset.test.labels, part["cluster"])
        for a, part in tables["clusters"].groupby("algorithm")
    }
    figures["cluster_grades"] = tables["cluster_grades"].to_dict("records")
    figures["selections"] = tables["selections"].to_dict("records")
    if (copies := copies_of(models)) is not None:
        figures["duplicates"] = duplicate_figures(models, fits, copies)
    return figures


def removal_figures(removals: Removals) -> dict[str, Any]:
    """Correlations of foretold and retrained effects, and flips, of each setting."""
    figures = {}
    for setting, rows in removals.table.groupby("setting", sort=False):
        of_sets = rows[rows["kind"] == "set"]
        block = {"n_tests": len(of_sets), **correlation(of_sets, "correlation")}
        block |= correlation(rows, "correlation_with_controls")
        squares = float((of_sets["predicted"] ** 2).sum())
        products = float((of_sets["predicted"] * of_sets["retrained"]).sum())
        block["slope"] = products / squares if squares else None
        predicted, retrained = (
            np.concatenate([removals.effects[f"{setting}_{k}_{what}"] for k in KINDS]).ravel()
            for what in ("predicted", "retrained")
        )
        block["correlation_on_all_tests"] = float(np.corrcoef(predicted, retrained)[0, 1])
        for name, kind in (("flips_found", "set"), ("flips_of_controls", "control")):
            tried = rows[(rows["kind"] == kind) & (rows["foretold"] < 0)]
            block |= {"flips_foretold": len(tried), name: int((tried["found"] < 0).sum())}
        block["median_size"] = float(of_sets["size"].median())
        figures[setting] = block
    return figures


def correlation(rows: pd.DataFrame, name: str, *, n_bootstrap: int = 1000) -> dict[str, float]:
    """Pearson's, of the effects on the test examples that the sets were made for.

    With the ends of a 95% interval from resampling test examples; nothing of fewer than three.
    """
    tests = rows["test"].unique()
    if len(tests) < 3:
        return {}
    rng, values = np.random.default_rng(0), rows[["predicted", "retrained"]].to_numpy()
    of_test = [np.flatnonzero(rows["test"] == test) for test in tests]
    drawn = [
        values[np.concatenate([of_test[i] for i in rng.integers(len(tests), size=len(tests))])]
        for _ in range(n_bootstrap)
    ]
    spread = [np.corrcoef(d.T)[0, 1] for d in drawn if np.ptp(d, axis=0).all()]
    low, high = np.percentile(spread, [2.5, 97.5])
    return {name: np.corrcoef(values.T)[0, 1], f"{name}_low": low, f"{name}_high": high}


def duplicate_figures(models: StudyModels, fits, copies: np.ndarray) -> dict[str, Any]:
    """In which share of cases a known copy is the nearest training image, or among three."""
    data = models.dataset
    values = {f"distinctive_{a}": distinctive_weights(f.weights) for a, f in enumerate(fits, 1)}
    values |= {f"weights_{a}": fit.weights for a, fit in enumerate(fits, 1)}
    values["pixels"] = -pixel_distances(data.test.images, data.train.images)
    figures: dict[str, Any] = {"n": int((copies >= 0).sum())}
    for name, value in values.items():
        ranks = duplicate_ranks(value, copies)
        figures[name] = {"first": float((ranks == 1).mean()), "among_3": float((ranks <= 3).mean())}
    return figures
