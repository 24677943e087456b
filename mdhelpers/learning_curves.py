"""Quality of datamodels against the number of models.

Subsets of the models are nested and disjoint in pairs: halves, halves of a half, and so on. Each
gives an LDS on the held-out masks, each pair a cosine of rows.

How the curve goes on is in :mod:`mdhelpers.learning_laws`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdhelpers.fitters import fit_all
from mdhelpers.lds import Ranks, resamples, row_correlations
from mdhelpers.quality import row_cosines
from mdhelpers.slots import split_models

__all__ = [
    "POINTS",
    "LearningCurve",
    "TooFewModels",
    "learning_curve",
]

POINTS = (
    "n_models",
    "n_fits",
    "lds",
    "lds_low",
    "lds_high",
    "pearson",
    "cosine",
    "cosine_low",
    "cosine_high",
)

_FEWEST_MODELS = 16


class TooFewModels(ValueError):
    """There are too few models to be halved."""


@dataclass(frozen=True)
class LearningCurve:
    """Scores at several numbers of models.

    Attributes
    ----------
    table : DataFrame
        Columns ``POINTS``, fewest models first: means over ``n_fits`` fits,
        with percentiles 2.5 and 97.5 of the bootstrap over held-out masks and test
        examples. No cosine (NaN) for all models: there is no second set.
    draws : ndarray, shape (n_bootstrap, 2, n_points)
        The bootstrap's LDS and cosines.
    half_cosines : ndarray, shape (n_test,)
        Cosine of each test example between halves of the models.
    """

    table: pd.DataFrame
    draws: np.ndarray
    half_cosines: np.ndarray


def learning_curve(
    fit: Callable[[np.ndarray], np.ndarray],
    full: np.ndarray,
    heldout: tuple[np.ndarray, np.ndarray],
    *,
    n_models: int,
    slots: np.ndarray | None = None,
    n_levels: int = 3,
    n_splits: int = 2,
    n_bootstrap: int = 100,
    seed: int = 0,
) -> LearningCurve:
    """Measure LDS and cosines at 1, 1/2, 1/4, … of the models; two fits a level and split.

    Parameters
    ----------
    fit : callable
        Takes indices of models, gives weights (n_test, n_train); see `mdhelpers.crossfit.fitter`.
    full : ndarray, shape (n_test, n_train)
        Weights fitted on all models.
    heldout : pair of ndarrays, shapes (n_masks, n_train) and (n_masks, n_test)
        Masks and margins of models that no datamodel was fitted on, slots removed.
    n_models : int
    slots : ndarray, shape (n_models,), int, optional
        Subsets take evenly from them.
    n_levels : int
        How often models are halved at most; fewer times where parts would have under 16 models or
        two of a slot.
    n_splits, n_bootstrap, seed : int

    Raises
    ------
    TooFewModels
        If models cannot be halved; a ValueError.
    """
    rng = np.random.default_rng(seed)
    levels = _n_levels(n_models, slots, n_levels)
    splits = [_nested_pairs(n_models, levels, rng, slots) for _ in range(n_splits)]
    masks, true = heldout
    predictions, cosines = [[masks @ full.T]], [np.full((1, len(full)), np.nan)]
    for level in range(levels):
        found = fit_all((fit, part) for pairs in splits for part in pairs[level])
        fits = list(zip(found[::2], found[1::2], strict=True))
        predictions.append([masks @ weights.T for pair in fits for weights in pair])
        cosines.append(np.array([row_cosines(*pair) for pair in fits]))
    sizes = [n_models, *(len(pair[0]) for pair in splits[0])]
    cosines = np.array([found.mean(0) for found in cosines])
    scores, pearson, draws = _scores(true, predictions, cosines, n_bootstrap, seed)
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    columns = [sizes, [len(p) for p in predictions], scores, low[0], high[0], pearson]
    columns += [cosines.mean(1), low[1], high[1]]
    table = pd.DataFrame(dict(zip(POINTS, columns, strict=True)))
    order = np.argsort(sizes)
    return LearningCurve(table.loc[order].reset_index(drop=True), draws[:, :, order], cosines[1])


def _n_levels(n_models: int, slots: np.ndarray | None, n_levels: int) -> int:
    smallest = n_models if slots is None else np.unique(slots, return_counts=True)[1].min()
    levels = [n for n in range(1, n_levels + 1) if smallest >> n >= 2]
    levels = [n for n in levels if n_models >> n >= _FEWEST_MODELS]
    if not levels:
        raise TooFewModels(
            f"{n_models} models, {smallest} in the smallest slot, cannot be halved into parts of "
            f"{_FEWEST_MODELS} with two of each slot. Train more models, or use fewer slots."
        )
    return levels[-1]


def _nested_pairs(n_models: int, n_levels: int, rng, slots) -> list[tuple[np.ndarray, np.ndarray]]:
    """Disjoint pairs of a half, a quarter, … of the models, each within the first one before."""
    models, pairs = np.arange(n_models), []
    for _ in range(n_levels):
        own = None if slots is None else slots[models]
        one, two = (models[part] for part in split_models(len(models), 2, rng, own))
        pairs.append((one, two))
        models = one
    return pairs


def _scores(true, predictions, cosines, n_bootstrap: int, seed: int):
    """LDS and Pearson of each level, and the bootstrap's LDS and cosines."""
    once = np.ones(len(true))
    columns = np.ascontiguousarray(np.asarray(true, np.float64).T)
    levels = [[np.ascontiguousarray(p.T, np.float64) for p in level] for level in predictions]
    ranks, ranked = Ranks(columns), [[Ranks(p) for p in level] for level in levels]

    def lds(counts: np.ndarray, rows) -> list[float]:
        own = ranks.weighted(counts)
        found = [[row_correlations(own, r.weighted(counts), counts) for r in lev] for lev in ranked]
        return [np.mean(level, axis=0)[rows].mean() for level in found]

    pearson = [np.mean([row_correlations(columns, p, once) for p in level]) for level in levels]
    draws = [
        (lds(counts, rows), cosines[:, rows].mean(1))
        for counts, rows in resamples(len(true), len(columns), n_bootstrap, seed=seed)
    ]
    return lds(once, slice(None)), pearson, np.array(draws)
