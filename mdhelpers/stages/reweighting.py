"""Stage 10: do directions move the algorithms as Proposition 1 says they do?

Models of both algorithms are trained anew, with the training images of a direction likelier to be
drawn and with them less likely; how margins change is held against what the datamodels predict.
A direction that stage 04 calls is *confirmed* where the tilted models of the two algorithms change
unlike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import norm

from mdhelpers.analyses.reweighting import (
    difference_along,
    measure_tilt,
    predicted_change,
    tilted_masks,
)
from mdhelpers.method.comparison import COMPARISONS, Comparison, normalise_rows
from mdhelpers.method.datamodels import Datamodels
from mdhelpers.method.evidence import STRONG, Outputs, benjamini_hochberg, least_length
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, DATAMODELS, MODELS, TILTING
from mdhelpers.stages.comparison import StudyComparison, read_comparison
from mdhelpers.stages.datamodels import how_fitted, read_datamodels
from mdhelpers.stages.models import StudyModels, read_models, remove_changed
from mdhelpers.training.mask_training import retrain
from mdhelpers.training.store import ModelStore
from mdhelpers.training.store_files import Trained

RANDOM = "random"
FEWEST_SLOTS = 4
_FIRST_KEY = 1_000_000  # beyond the keys of any run's own models
_SUMMARY = ("correlation", "ceiling", "slope", "size", "predicted_size")
_KEYS = {"comparison": str, "direction": int, "algorithm": int}
TABLES = {
    "tilts": _KEYS | dict.fromkeys(_SUMMARY, float),
    "tilt_changes": _KEYS | {"example": int, "predicted": float, "measured": float},
    "confirmations": {"comparison": str, "direction": int, "called": bool}
    | dict.fromkeys(("z", "p", "q"), float)
    | {"confirmed": str},
}


@dataclass(frozen=True, eq=False)
class StudyTilts:
    """What stage 10 made; none has rows for models that were trained elsewhere.

    Attributes
    ----------
    table : DataFrame
        ``comparison`` ("random" for drawn directions), ``direction, algorithm`` and the figures of
        `mdhelpers.analyses.reweighting.TiltEffect`.
    changes : DataFrame
        ``comparison, direction, algorithm, example, predicted, measured``: margins.
    confirmations : DataFrame
        ``comparison, direction``, whether stage 04 ``called`` it, ``z`` and one-sided ``p`` of
        `mdhelpers.analyses.reweighting.difference_along`, ``q`` over all that were tilted, and
        ``confirmed``: "confirmed", "not confirmed", or "not tested" where it was not called.
        Without models to weigh evidence with, every direction counts as called.
    """

    table: pd.DataFrame
    changes: pd.DataFrame
    confirmations: pd.DataFrame


def tilt_directions(
    run: Run,
    *,
    n_tilted: int = 8,
    n_random_tilts: int = 1,
    n_tilt_pairs: int = 6,
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
    parameters |= {"seed": seed, "initialisations": "of each pair"}
    stage = run.stage(TILTING, parameters, after=[MODELS, DATAMODELS, COMPARISON])
    with stage.working() as needed:
        models = read_models(run, device=device)
        if needed and models.made_elsewhere:
            stage.keep()
        elif needed:
            remove_changed(run, TILTING)
            found, relative = read_comparison(run), how_fitted(run).relative
            chosen = choose_directions(found.comparison, n_tilted, n_random_tilts, seed)
            vectors = enumerate(chosen.values())
            masks = [tilted_masks(u, n_tilt_pairs, seed=seed + k) for k, u in vectors]
            parts, outputs, fits = [], [], read_datamodels(run)
            for a, fit in enumerate(fits, 1):
                trained = train_tilted(models, a, np.stack(masks), workers)
                shape = len(chosen), 2, n_tilt_pairs, models.plan.n_test
                outputs.append(models.outputs(trained, relative).reshape(shape))
                parts.append(measure(chosen, fit.weights, a, outputs[-1]))
            joined = [pd.concat(each, ignore_index=True) for each in zip(*parts, strict=True)]
            joined.append(confirm(found, models, fits, relative, [*chosen], outputs))
            tables = dict(zip(TABLES, joined, strict=True))
            made = sorted(run.folder.glob("retrained/tilts_?-*/models_?.zarr"))  # the page reads
            figures = figures_of(tables["tilts"]) | confirmed_figures(tables["confirmations"])
            stage.keep(tables=tables, made=made, figures=figures)
    none = {name: pd.DataFrame(columns=list(c)).astype(c) for name, c in TABLES.items()}
    tables = none | run.kept(TILTING)
    return StudyTilts(*(tables[name] for name in TABLES))


def read_tilted(run: Run, algorithm: int) -> tuple[np.ndarray, np.ndarray]:
    """What stage 10 trained: pairs of models along each direction and against it.

    Returns
    -------
    masks : ndarray, shape (n_tilts, 2, n_pairs, n_train), bool
    outputs : ndarray, shape (n_tilts, 2, n_pairs, n_test), float
        What datamodels predict: margins, perhaps relative to the class. Both arrays are empty
        where models were trained elsewhere.

    """
    models, n_pairs = read_models(run), run.manifest(TILTING)["parameters"]["n_pairs"]
    masks = np.empty((0, models.plan.n_train), bool)
    outputs = np.empty((0, models.plan.n_test))
    for store in run.outputs(TILTING, f"retrained/tilts_{algorithm}-*/models_{algorithm}.zarr"):
        n_tilts = (run.kept(TILTING)["tilts"]["algorithm"] == algorithm).sum()
        trained = ModelStore.open(store, read_only=True).read(2 * n_pairs * int(n_tilts))
        masks, outputs = trained.masks, models.outputs(trained, how_fitted(run).relative)
    return tuple(each.reshape(-1, 2, n_pairs, each.shape[-1]) for each in (masks, outputs))


def choose_directions(
    comparison: Comparison, n_directions: int, n_random: int, seed: int
) -> dict[tuple[str, int], np.ndarray]:
    """The first directions of both comparisons, and random ones, by comparison and number."""
    chosen = {}
    for found in comparison:
        first = zip(found.component[:n_directions], found.directions, strict=False)
        chosen |= {(found.name, int(number)): vector.astype(float) for number, vector in first}
    n_train = comparison.one_minus_two.directions.shape[1]
    drawn = np.random.default_rng([seed, 10]).normal(size=(n_random, n_train))
    return chosen | {(RANDOM, k): vector for k, vector in enumerate(drawn, 1)}


def train_tilted(models: StudyModels, algorithm: int, masks: np.ndarray, workers: int) -> Trained:
    """Train one algorithm on all tilted masks (n_directions, 2, n_pairs, n_train).

    Each pair has an initialisation of its own, which no model had that the direction was found on.
    """
    n_all, _, n_pairs, n_train = masks.shape
    keys = _FIRST_KEY + np.arange(n_all * n_pairs).reshape(n_all, 1, n_pairs)
    keys = np.broadcast_to(keys, masks.shape[:3]).ravel()
    flat = masks.reshape(-1, n_train)
    plan = replace(models.plan, n_slots=0, share_order=False)
    return retrain(plan, algorithm, flat, keys, name="tilts", workers=workers)


def measure(
    chosen: dict[tuple[str, int], np.ndarray],
    weights: np.ndarray,
    algorithm: int,
    outputs: np.ndarray,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predicted and measured changes of outputs (n_directions, 2, n_pairs, n_test)."""
    summaries, changes = [], []
    for (key, vector), (along, against) in zip(chosen.items(), outputs, strict=True):
        predicted = predicted_change(weights, vector)
        effect = measure_tilt(along, against, predicted)
        head = dict(zip(_KEYS, (*key, algorithm), strict=True))
        summaries.append(head | {name: getattr(effect, name) for name in _SUMMARY})
        rows = {"example": np.arange(len(predicted)), "predicted": predicted}
        changes.append(pd.DataFrame(head | rows | {"measured": effect.measured}))
    return pd.DataFrame(summaries), pd.concat(changes, ignore_index=True)


def confirm(
    found: StudyComparison,
    models: StudyModels,
    fits: tuple[Datamodels, Datamodels],
    relative: bool,
    chosen: list[tuple[str, int]],
    outputs: list[np.ndarray],
) -> pd.DataFrame:
    """Whether the algorithms change unlike along each chosen direction, see `StudyTilts`.

    Outputs (n_directions, 2, n_pairs, n_test) of both algorithms are of models in the order of
    ``chosen``. The held-out models, which no direction was found on, are the others that the test
    needs.
    """
    lengths = [np.linalg.norm(fit.weights, axis=1) for fit in fits]
    scales = [np.maximum(each, least_length(each)) for each in lengths]
    heldout, rows = [models.heldout(a) for a in (1, 2)], []
    for name, (first, second) in zip(COMPARISONS, ((0, 1), (1, 0)), strict=True):
        toward = torch.from_numpy(normalise_rows(fits[second].weights).astype(np.float32))
        towards = tuple(
            Outputs.measured(
                heldout[a].masks,
                models.outputs(heldout[a], relative),
                lengths[a],
                slots=whole_slots(models.slots(heldout[a])),
            )
            .toward(toward)
            .numpy()
            .astype(float)
            for a in (first, second)
        )
        patterns = found.comparison[name]
        places = {int(number): i for i, number in enumerate(patterns.component)}
        for i, (comparison, number) in enumerate(chosen):
            if comparison == name:
                pairs = [outputs[a][i] / scales[a] for a in (first, second)]
                changes = tuple(along - against for along, against in pairs)
                pattern = patterns.projections[:, places[number]]
                z = difference_along(changes, towards, pattern.astype(float))
                rows.append({"comparison": name, "direction": number, "z": z, "p": norm.sf(z)})
    table = pd.DataFrame(rows, columns=["comparison", "direction", "z", "p"])
    table["q"] = benjamini_hochberg(table["p"])
    called = np.ones(len(table), bool)
    if found.gaps is not None:
        keys = ["comparison", "direction"]
        called = (table[keys].merge(found.gaps, on=keys, how="left")["q"] < STRONG).to_numpy()
    word = np.where(table["q"] < STRONG, "confirmed", "not confirmed")
    table["confirmed"] = np.where(called, word, "not tested")
    return table.assign(called=called)[list(TABLES["confirmations"])]


def whole_slots(slots: np.ndarray | None) -> np.ndarray | None:
    """Slots of models to be compared within; None where they are too few, or hold too few."""
    if slots is None:
        return None
    sizes = np.unique(slots, return_counts=True)[1]
    return slots if sizes.min() > 1 and len(sizes) >= FEWEST_SLOTS else None


def confirmed_figures(table: pd.DataFrame) -> dict[str, int]:
    """How many directions were called, tilted, and confirmed."""
    called = table[table["called"]]
    n = int((called["confirmed"] == "confirmed").sum())
    return {"n_tilted": len(table), "n_called": len(called), "n_confirmed": n}


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
