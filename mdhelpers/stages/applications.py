"""Stage 08: what else datamodels are good for, each use verified by training anew.

Images that uphold a prediction are removed; copies of test images are found in the training set;
test images are clustered by what they learn from; and training sets are chosen for a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
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
from mdhelpers.data.datasets import Dataset, Split
from mdhelpers.formats.own import load_datamodels, save_datamodels
from mdhelpers.method.datamodels import Datamodels
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import APPLICATIONS, DATAMODELS, MODELS
from mdhelpers.stages.datamodels import how_fitted, read_datamodels
from mdhelpers.stages.gradients import mean_scores
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.study import check_targets
from mdhelpers.training.mask_training import retrain

EFFECTS, MARGINS = "removal_effects", "datamodels_of_margins.safetensors"
LEAKAGE_ROWS = 40


@dataclass(frozen=True, eq=False)
class StudyApplications:
    """What stage 08 made.

    Attributes
    ----------
    removals : Removals
        Of the chosen algorithm, see `mdhelpers.analyses.removal`.
    leakage, clusters, cluster_grades : DataFrame
        Of both algorithms, with a column ``algorithm``. ``clusters`` has a row a test example:
        its ``cluster`` and its place ``x, y`` on the map.
    selections, chosen : DataFrame
        Of the chosen algorithm, see `mdhelpers.analyses.selection.compare_selections`.
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
    n_models, algorithm = n_models_per_set, application_algorithm
    choice = {"targets": list(selection_targets), "sizes": list(selection_sizes)}
    parameters = {
        "algorithm": algorithm,
        "removal": {"n_tests": n_removal_tests, "n_models": n_models},
        "selection": choice | {"n_models": n_models},
        "n_clusters": n_clusters,
        "seed": seed,
    }
    stage = run.stage(APPLICATIONS, parameters, after=[MODELS, DATAMODELS])
    with stage.working() as needed:
        if needed:
            models, how = read_models(run, device=device), how_fitted(run)
            fits, fitting = read_datamodels(run), models.fitting(algorithm)
            # A prediction flips where its margin does: what is relative cannot say when.
            of_margins = replace(how, relative=False, seed=seed)
            own = fits[algorithm - 1]
            if how.relative:
                raw = mean_scores(run, models, algorithm, False) if how.by_gradients else None
                own = of_margins.fit(models, fitting, raw)
            data, means = models.dataset, fitting.margins.mean(axis=0)
            targets = members_of(data, selection_targets, selection_sizes, means)
            distances = pixel_distances(data.test.images, data.train.images)
            evidence = Evidence(own.weights, distances, data.train.labels, data.test.labels)
            train = trainer(models, algorithm, workers, scheduler, cluster)
            removing = RemovalOptions(models.plan.alpha, n_removal_tests, n_models, seed)
            selecting = SelectionOptions(selection_targets, selection_sizes, n_models, seed)
            if models.made_elsewhere:  # there is nothing to train anew
                removals = join([])
                chosen = pd.DataFrame(columns=GRADED), pd.DataFrame(columns=CHOSEN)
            else:
                removals = measure_removals(own.weights, means, train, removing)
                chosen = compare_selections(evidence, targets, train, selecting)
            tables = {"removals": removals.table, "removal_sets": removals.members}
            tables |= dict(zip(("selections", "chosen"), chosen, strict=True))
            tables |= neighbour_tables(models, fits, distances)
            tables |= cluster_tables(data.test, fits, n_clusters, seed)
            stage.keep(
                tables=tables,
                arrays={EFFECTS: removals.effects},
                files={MARGINS: partial(save_datamodels, own)},
                figures=application_figures(models, fits, distances, removals, tables),
            )
    return read_applications(run)


def read_applications(run: Run) -> StudyApplications:
    """What stage 08 wrote."""
    run.check(APPLICATIONS)
    tables, effects = run.kept(APPLICATIONS), run.kept_arrays(APPLICATIONS, EFFECTS)
    removals = Removals(tables.pop("removals"), tables.pop("removal_sets"), effects)
    fit = load_datamodels(run.output(APPLICATIONS, MARGINS))
    algorithm = run.manifest(APPLICATIONS)["parameters"]["algorithm"]
    return StudyApplications(removals=removals, datamodels=fit, algorithm=algorithm, **tables)


def trainer(
    models: StudyModels, algorithm: int, workers: int, scheduler: str, cluster: dict | None
) -> Callable[[np.ndarray, str], np.ndarray]:
    """What trains models that no stage has trained before.

    It takes masks (n_sets, n_models, n_train) and a name, and gives margins (n_sets, n_models,
    n_test).
    """

    def train(masks: np.ndarray, name: str) -> np.ndarray:
        n_sets, n_models, n_train = masks.shape
        trained = retrain(
            models.plan,
            algorithm,
            masks.reshape(-1, n_train),
            models.plan.n_models + np.tile(np.arange(n_models), n_sets),
            name=name,
            workers=workers,
            scheduler=scheduler,
            cluster=cluster,
        )
        return trained.margins.reshape(n_sets, n_models, -1)

    return train


def members_of(
    data: Dataset, targets: Sequence[str], sizes: Sequence[int], margins: np.ndarray
) -> dict[str, np.ndarray]:
    """The test images of each target; ValueError where one, or a size, cannot be."""
    for size in sizes:
        class_counts(data.train.labels, size)
    return {name: target_members(name, data.test, data.class_names, margins) for name in targets}


def target_members(name: str, test: Split, class_names, margins: np.ndarray) -> np.ndarray:
    """The test examples of a target: a planted feature, a class, or "hardest".

    The hardest are, of each class, the quarter with the smallest ``margins`` (n_test,), which are
    means over the study's models. ValueError where there is no such feature or class.
    """
    check_targets([name], [*test.truth.columns, *class_names])
    if name == HARDEST:
        quarters = []
        for label in np.unique(test.labels):
            members = np.flatnonzero(test.labels == label)
            order = np.argsort(margins[members], kind="stable")
            quarters.append(members[order[: max(2, len(members) // 4)]])
        return np.sort(np.concatenate(quarters))
    if name in test.truth.columns:
        return np.flatnonzero(test.truth[name])
    return np.flatnonzero(test.labels == list(class_names).index(name))


def neighbour_tables(models: StudyModels, fits, distances: np.ndarray) -> dict[str, pd.DataFrame]:
    """The pairs of test and training image whose weights are most distinctive."""
    copies = copies_of(models)
    tables = [
        leakage_table(fit.weights, distances, top=LEAKAGE_ROWS, duplicate_of=copies) for fit in fits
    ]
    return {"leakage": by_algorithm(tables)}


def cluster_tables(test: Split, fits, n_clusters: int, seed: int) -> dict[str, pd.DataFrame]:
    """Clusters, the map and their grades, of both algorithms."""
    found, graded = [], []
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


def application_figures(
    models: StudyModels, fits, distances: np.ndarray, removals: Removals, tables: dict
) -> dict[str, Any]:
    """The figures that the book quotes."""
    labels, copies = models.dataset.test.labels, copies_of(models)
    figures = {
        "removal": removal_figures(removals),
        "clusters": {
            f"rand_of_classes_{a}": adjusted_rand_score(labels, part["cluster"])
            for a, part in tables["clusters"].groupby("algorithm")
        },
        "cluster_grades": tables["cluster_grades"].to_dict("records"),
        "selections": tables["selections"].to_dict("records"),
    }
    if copies is not None:
        figures["duplicates"] = duplicate_figures(fits, distances, copies)
    return figures


def removal_figures(removals: Removals) -> dict[str, Any]:
    """Correlations of predicted and retrained effects, and flips, of each setting."""
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


def duplicate_figures(fits, distances: np.ndarray, copies: np.ndarray) -> dict[str, Any]:
    """In which share of cases a known copy is the nearest training image, or among three."""
    values = {f"distinctive_{a}": distinctive_weights(f.weights) for a, f in enumerate(fits, 1)}
    values |= {f"weights_{a}": fit.weights for a, fit in enumerate(fits, 1)}
    values["pixels"] = -distances
    figures: dict[str, Any] = {"n": int((copies >= 0).sum())}
    for name, value in values.items():
        ranks = duplicate_ranks(value, copies)
        figures[name] = {"first": float((ranks == 1).mean()), "among_3": float((ranks <= 3).mean())}
    return figures
