"""Stage 08 of a run: what else datamodels are good for, each use verified by training anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import load_file

from mdhelpers.application_figures import application_figures, copies_of
from mdhelpers.data_selection import class_counts
from mdhelpers.datamodel_clusters import cluster_rows, embed_rows, grade_clusters, map_rows
from mdhelpers.datamodels import (
    Datamodels,
    FitOptions,
    fit_datamodels,
    load_datamodels,
    save_datamodels,
)
from mdhelpers.neighbours import leakage_table, pixel_distances
from mdhelpers.removal_study import RemovalOptions, Removals, join, measure_removals
from mdhelpers.retraining import retrain
from mdhelpers.runs import Run, read_tables, write_tables
from mdhelpers.selection_study import (
    CHOSEN,
    GRADED,
    Evidence,
    SelectionOptions,
    compare_selections,
    target_members,
)
from mdhelpers.stages import DATAMODELS, MODELS, StudyModels, read_datamodels, read_models
from mdhelpers.tensor_files import write_tensors

APPLICATIONS = "08_datamodel_applications"
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
    algorithm: int = 1,
    removal: dict | None = None,
    selection: dict | None = None,
    n_clusters: int = 12,
    seed: int = 0,
    device: str = "auto",
    **who: Any,
) -> StudyApplications:
    """Stage 08: removal, neighbours, clusters and data selection.

    Parameters
    ----------
    run
        The run's folder, with stage 03 finished.
    algorithm
        1 or 2: whose models are trained anew.
    removal
        ``n_tests`` and ``n_models`` of `removal_study.RemovalOptions`.
    selection
        ``targets``, ``sizes`` and ``n_models`` of `selection_study.SelectionOptions`.
    n_clusters
        Of each algorithm's datamodels.
    seed
        Of all that is drawn.
    device
        See `stages.read_models`.
    **who
        ``workers``, ``scheduler``, ``cluster``: who trains, see `mask_training.train_all`.

    """
    parameters = {"algorithm": algorithm, "removal": removal or {}, "selection": selection or {}}
    parameters |= {"n_clusters": n_clusters, "seed": seed}
    stage = run.stage(APPLICATIONS, parameters, after=[MODELS, DATAMODELS])
    with stage.working() as needed:
        if needed:
            models, fits = read_models(run, device=device), read_datamodels(run)
            margins_fit = fit_margins(run, models, algorithm, seed)
            work = Work(models, algorithm, margins_fit, who)
            options = SelectionOptions(**(selection or {}), seed=seed)
            targets = work.targets(options)  # before anything is trained, since it may refuse them
            removing = RemovalOptions(models.plan.alpha, **(removal or {}), seed=seed)
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
