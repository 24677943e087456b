"""Stage 10 of a run: do directions move the algorithms as Proposition 1 says they do?"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.analyses.reweighting import TiltEffect, measure_tilt, predicted_change, tilted_masks
from mdhelpers.runs.run import Run, read_tables, write_tables
from mdhelpers.runs.stage import COMPARISON, DATAMODELS, MODELS, STORE, TILTING, is_inside, lies_in
from mdhelpers.stages.comparison import PAIRS, read_comparison
from mdhelpers.stages.datamodels import read_datamodels
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.training.mask_training import retrain

RANDOM = "random"
TABLES = ("tilts", "tilt_changes")
_FIRST_KEY = 1_000_000  # beyond the keys of any run's own models
_SUMMARY = ("correlation", "ceiling", "slope", "size", "predicted_size")


@dataclass(frozen=True, eq=False)
class StudyTilts:
    """What stage 10 made; both are None for models that were trained elsewhere.

    Attributes
    ----------
    table : DataFrame
        ``comparison`` ("random" for drawn directions), ``direction, algorithm`` and the figures of
        `mdhelpers.analyses.reweighting.TiltEffect`.
    changes : DataFrame
        ``comparison, direction, algorithm, example, predicted, measured``: margins.
    """

    table: pd.DataFrame | None
    changes: pd.DataFrame | None

    def correlations(self, comparison: str) -> pd.DataFrame:
        """Correlations by direction (rows, in order) and algorithm (columns)."""
        rows = self.table[self.table["comparison"] == comparison]
        order = rows["direction"].drop_duplicates()
        return rows.pivot(index="direction", columns="algorithm", values="correlation").loc[order]


def tilt_directions(
    run: Run,
    *,
    n_tilted: int = 3,
    n_random_tilts: int = 2,
    n_tilt_pairs: int = 24,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
) -> StudyTilts:
    """Stage 10: train with the training images of a direction likelier, and less likely.

    Parameters
    ----------
    run
        The run's folder, with stage 04 finished.
    n_tilted
        Directions of each comparison, those of the strongest evidence first.
    n_random_tilts
        Random directions beside them.
    n_tilt_pairs
        Pairs of models a direction and algorithm.
    seed
        Of masks and random directions.
    device, workers
        Who trains; no result depends on it, but for the kind of device.

    """
    parameters = {"n_directions": n_tilted, "n_random": n_random_tilts, "n_pairs": n_tilt_pairs}
    stage = run.stage(TILTING, parameters | {"seed": seed}, after=[MODELS, DATAMODELS, COMPARISON])
    with stage.working() as needed:
        models = read_models(run, device=device)
        if needed and models.made_elsewhere:
            stage.withdraw()
            stage.finish([])
        elif needed:
            remove_changed(run)
            chosen = choose_directions(run, n_tilted, n_random_tilts, seed)
            masks = [
                tilted_masks(u, n_tilt_pairs, seed=seed + k) for k, u in enumerate(chosen.vectors)
            ]
            parts = [measure(run, models, a, chosen, np.stack(masks), workers) for a in (1, 2)]
            joined = (pd.concat(each, ignore_index=True) for each in zip(*parts, strict=True))
            tables = dict(zip(TABLES, joined, strict=True))
            stage.withdraw()
            outputs = write_tables(run.path, tables)
            outputs += sorted(
                run.folder.glob("retrained/tilts_?-*/models_?.zarr")
            )  # the page reads
            stage.finish(outputs, figures=figures_of(tables["tilts"]))
    tables = read_tables(run, TILTING)
    return StudyTilts(*(tables.get(name) for name in TABLES))


def remove_changed(run: Run) -> None:
    """Remove stores of tilted models that are not what was trained, so that they are trained anew.

    What is whole in itself and of other models no checksum tells.
    """
    manifest = run.manifest(TILTING)
    for name in manifest.get("outputs", ()):
        path = run.folder / name
        ours = path.suffix == STORE and is_inside(name) and lies_in(path, run.folder)
        if ours and run.problem(manifest, name, thorough=True):
            shutil.rmtree(path, ignore_errors=True)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Directions to tilt along: ``keys`` of (comparison, direction), ``vectors`` (n, n_train)."""

    keys: list[tuple[str, int]]
    vectors: np.ndarray


def choose_directions(run: Run, n_directions: int, n_random: int, seed: int) -> Chosen:
    """The first directions of both comparisons, and random ones."""
    comparison = read_comparison(run).comparison
    keys, vectors = [], []
    for name in PAIRS:
        found = comparison[name]
        keys += [(name, int(component)) for component in found.component[:n_directions]]
        vectors += list(found.directions[:n_directions])
    rng = np.random.default_rng([seed, 10])
    drawn = rng.normal(size=(n_random, len(vectors[0])))
    keys += [(RANDOM, k + 1) for k in range(n_random)]
    return Chosen(keys, np.array([*vectors, *drawn]))


def measure(
    run: Run, models: StudyModels, algorithm: int, chosen: Chosen, masks: np.ndarray, workers: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one algorithm on all tilted masks (n_directions, 2, n_pairs, n_train)."""
    n_all, _, n_pairs, n_train = masks.shape
    keys = _FIRST_KEY + np.arange(n_all * n_pairs).reshape(n_all, 1, n_pairs)
    keys = np.broadcast_to(keys, masks.shape[:3]).ravel()
    flat = masks.reshape(-1, n_train)
    trained = retrain(models.plan, algorithm, flat, keys, name="tilts", workers=workers)
    relative = run.manifest(DATAMODELS)["parameters"]["relative"]
    outputs = models.outputs(trained, relative).reshape(*masks.shape[:3], -1)
    weights = read_datamodels(run)[algorithm - 1].weights
    summaries, changes = [], []
    for key, vector, (along, against) in zip(chosen.keys, chosen.vectors, outputs, strict=True):
        predicted = predicted_change(weights, vector)
        effect = measure_tilt(along, against, predicted)
        head = {"comparison": key[0], "direction": key[1], "algorithm": algorithm}
        summaries.append(head | {name: getattr(effect, name) for name in _SUMMARY})
        changes.append(changes_of(head, predicted, effect))
    return pd.DataFrame(summaries), pd.concat(changes, ignore_index=True)


def changes_of(head: dict, predicted: np.ndarray, effect: TiltEffect) -> pd.DataFrame:
    columns = {"example": np.arange(len(predicted)), "predicted": predicted}
    return pd.DataFrame(head | columns | {"measured": effect.measured})


def figures_of(table: pd.DataFrame) -> dict[str, Any]:
    """Smallest and mean correlation, and mean sizes, by comparison and algorithm."""
    figures = {}
    for (comparison, algorithm), rows in table.groupby(["comparison", "algorithm"]):
        figures[f"{comparison}_algorithm_{algorithm}"] = {
            "n": len(rows),
            "correlation": rows["correlation"].mean(),
            "correlation_lowest": rows["correlation"].min(),
            "ceiling": rows["ceiling"].mean(),
            "size": rows["size"].mean(),
            "predicted_size": rows["predicted_size"].mean(),
        }
    return figures
