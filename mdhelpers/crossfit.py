r"""Explained variance gaps that a direction did not choose for itself.

A direction found in the residuals of two fits fits their noise too, and measured on the same fits
its gap is large even where an algorithm is compared with itself. So the models are split at
random: directions come from one half, and their gap is measured on datamodels fitted to the other
half, whose noise they never saw. An algorithm compared with itself then has a gap of zero but for
chance (:func:`null_gaps`).

A direction of the comparison on all models saw both halves, and projecting it on what one half
found does not undo that: in simulations the gap of such a projection stayed at two thirds of the
real one under the null. It is therefore given the gaps of the half's own directions, each weighted
by the fourth power of its cosine with it: no bias under the null, less variance than taking the
most similar direction alone, and planted differences came first more often.

Gaps are fractions of the variance of normalised datamodels (see :mod:`mdhelpers.comparison`),
positive where the first-named algorithm relies on the direction more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import pandas as pd

from mdhelpers.comparison import (
    COMPARISONS,
    Comparison,
    explained_variance,
    normalise_rows,
    principal_directions,
    residual_datamodels,
)
from mdhelpers.datamodels import fit_datamodels
from mdhelpers.slots import split_models

__all__ = [
    "PAIRS",
    "CrossFit",
    "Fit",
    "cross_fitted_gaps",
    "fitter",
    "null_gaps",
    "null_totals",
    "order_by_gap",
]

Fit = Callable[[np.ndarray], np.ndarray]
"""Takes indices of models, gives their datamodels' weights (n_test, n_train)."""

PAIRS = {"1 against 2": (1, 2), "1 against 1": (1, 1), "2 against 2": (2, 2)}


@dataclass(frozen=True)
class CrossFit:
    """Cross-fitted gaps; ``low`` and ``high`` are percentiles 5 and 95 over splits and halves.

    They show how much a gap hangs on the split; the splits share models, so they are not a
    confidence interval.

    Attributes
    ----------
    ranks : DataFrame
        ``comparison, rank, gap, low, high``: gaps of the directions of half the models, by their
        rank among that half's principal components.
    totals : DataFrame
        ``comparison, n_directions, gap, low, high``: the sum of these gaps.
    directions : DataFrame
        ``comparison, direction, naive_gap, gap, low, high, replication``: for each direction
        (rank of its component) of the comparison on all models. ``replication`` is the mean over
        halves of its largest absolute cosine with a direction found there. Empty where no
        comparison was given.
    """

    ranks: pd.DataFrame
    totals: pd.DataFrame
    directions: pd.DataFrame


def fitter(
    masks: np.ndarray, margins: np.ndarray, *, slots: np.ndarray | None = None, **options
) -> Fit:
    """What :func:`cross_fitted_gaps` asks for: fits datamodels on any choice of these models.

    Parameters are those of :func:`mdhelpers.datamodels.fit_datamodels`.
    """

    def fit(models: np.ndarray) -> np.ndarray:
        chosen = None if slots is None else slots[models]
        return fit_datamodels(masks[models], margins[models], slots=chosen, **options).weights

    return fit


def cross_fitted_gaps(
    fit_1: Fit,
    fit_2: Fit,
    n_models: int,
    *,
    comparison: Comparison | None = None,
    n_directions: int = 8,
    n_splits: int = 8,
    slots: np.ndarray | None = None,
    center: bool = True,
    seed: int = 0,
) -> CrossFit:
    """Gaps of directions found on half of the models and measured on the other half.

    Each split serves twice, its halves changing places, and costs two fits an algorithm.

    Parameters
    ----------
    fit_1, fit_2 : callable
        Takes indices of models (a sorted int array), gives weights of shape (n_test, n_train).
    n_models : int
        Models of each algorithm; both are split alike.
    comparison : Comparison, optional
        Of the fits on all models: its directions get a gap too.
    n_directions : int
        Directions taken from a half. Twice as many are considered for a direction of
        ``comparison``, whose rank may change.
    n_splits : int
    slots : ndarray, shape (n_models,), int, optional
        Each slot is split evenly, so that a fit within slots finds models in all of them.
    center : bool
        As in ``compare``.
    seed : int
        Of the splits.

    Raises
    ------
    ValueError
        If there are too few models, or a fit gives the wrong shape.
    """
    rng = np.random.default_rng(seed)
    gaps = {name: [] for name in COMPARISONS}
    matched = {name: [] for name in COMPARISONS}
    for _ in range(n_splits):
        halves = split_models(n_models, 2, rng, slots)
        fits = [_fitted((fit_1, fit_2), models) for models in halves]
        for found, measured in (fits, fits[::-1]):
            for name in COMPARISONS:
                directions = _find(name, *found, 2 * n_directions, center)
                gap = _gap(name, *measured, directions)
                gaps[name].append(gap[:n_directions])
                if comparison is not None:
                    matched[name].append(_match(comparison[name].directions, directions, gap))
    return CrossFit(_rank_table(gaps), _total_table(gaps), _direction_table(comparison, matched))


def null_gaps(
    fit_1: Fit,
    fit_2: Fit,
    n_models: int,
    *,
    n_directions: int = 8,
    n_splits: int = 4,
    slots: np.ndarray | None = None,
    center: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Gaps of the two algorithms against each other, and of each against itself, at one budget.

    Models are split in four quarters. Each party of a pair finds directions with one and measures
    them with another, no quarter serving twice, so that an algorithm compared with itself is
    fitted on disjoint models. All six choices of the two quarters that find are used. Each split
    costs four fits an algorithm.

    An algorithm against itself has an expected gap of exactly zero, the parties being exchangeable:
    what these rows tell is how large a gap chance makes. At a quarter of the models gaps are
    smaller and noisier than those of :func:`cross_fitted_gaps`; compare them with each other only.

    Parameters are those of :func:`cross_fitted_gaps`.

    Returns
    -------
    DataFrame
        ``pair, comparison, direction, naive_gap, gap, split``: one row a pair ("1 against 2",
        "1 against 1", "2 against 2"), comparison, rank of the direction and choice of quarters.
        The naive gap is measured on the quarters that found the direction.
    """
    rng = np.random.default_rng(seed)
    tables = []
    for split in range(n_splits):
        fitted = _fits_on((fit_1, fit_2), split_models(n_models, 4, rng, slots))
        for choice, (i, j) in enumerate(combinations(range(4), 2)):
            k, m = (quarter for quarter in range(4) if quarter not in (i, j))
            for pair, (first, second) in PAIRS.items():
                found = fitted(first, i), fitted(second, j)
                measured = fitted(first, k), fitted(second, m)
                table = _null_table(found, measured, n_directions, center)
                tables.append(table.assign(pair=pair, split=6 * split + choice))
    columns = ["pair", "comparison", "direction", "naive_gap", "gap", "split"]
    return pd.concat(tables, ignore_index=True)[columns]


def null_totals(gaps: pd.DataFrame) -> pd.DataFrame:
    """Sums over directions of :func:`null_gaps`, averaged over splits.

    Returns
    -------
    DataFrame
        ``pair, comparison, naive_first, naive_gap, gap, low, high``: the naive gap of the first
        direction, the sums of naive and cross-fitted gaps, and percentiles 5 and 95 of the latter
        over splits and choices of quarters.
    """
    keys = ["pair", "comparison"]
    sums = gaps.groupby([*keys, "split"], sort=False)[["naive_gap", "gap"]].sum()
    groups = sums.groupby(keys, sort=False)
    first = gaps[gaps["direction"] == 1].groupby(keys, sort=False)["naive_gap"].mean()
    table = groups.mean().assign(
        low=groups["gap"].quantile(0.05), high=groups["gap"].quantile(0.95), naive_first=first
    )
    columns = [*keys, "naive_first", "naive_gap", "gap", "low", "high"]
    return table.reset_index()[columns]


def order_by_gap(comparison: Comparison, gaps: CrossFit | pd.DataFrame) -> Comparison:
    """The comparison with the directions of the largest cross-fitted gap first.

    Parameters
    ----------
    gaps : CrossFit or DataFrame
        What :func:`cross_fitted_gaps` gave for this comparison (or its ``directions``).
    """
    table = gaps.directions if isinstance(gaps, CrossFit) else gaps
    ordered = []
    for direction_set in comparison:
        rows = table[table["comparison"] == direction_set.name].set_index("direction")["gap"]
        missing = np.setdiff1d(direction_set.component, rows.index)
        if len(missing):
            raise ValueError(
                f"no gap for directions {missing.tolist()} of {direction_set.name}; expected one "
                "for each. Pass the comparison to cross_fitted_gaps."
            )
        order = np.argsort(-rows.loc[direction_set.component].to_numpy(), kind="stable")
        ordered.append(direction_set.reordered(order))
    return Comparison(*ordered, cosines=comparison.cosines, n_zero=comparison.n_zero)


def _fitted(fits: tuple[Fit, Fit], models: np.ndarray) -> list[np.ndarray]:
    rows = [normalise_rows(fit(models)) for fit in fits]
    if rows[0].shape != rows[1].shape or rows[0].ndim != 2:
        raise ValueError(
            f"fit_1 gave shape {rows[0].shape} and fit_2 {rows[1].shape}; expected "
            "(n_test, n_train) twice, for the same examples."
        )
    return rows


def _fits_on(fits: tuple[Fit, Fit], parts: list[np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """Fit of algorithm 1 or 2 on a part, made once."""
    return cache(lambda algorithm, part: normalise_rows(fits[algorithm - 1](parts[part])))


def _find(name: str, first, second, n_directions: int, center: bool) -> np.ndarray:
    pair = (first, second) if name == "1_minus_2" else (second, first)
    n_directions = min(n_directions, *first.shape)
    return principal_directions(residual_datamodels(*pair), n_directions, center=center)


def _gap(name: str, first, second, directions) -> np.ndarray:
    gap = explained_variance(first, directions) - explained_variance(second, directions)
    return gap if name == "1_minus_2" else -gap


def _match(full: np.ndarray, half: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """Gap and replication of each direction of all models, (2, n_directions)."""
    cosines = np.abs(full @ half.T)
    weights = cosines**4 + 1e-12
    return np.stack([weights @ gap / weights.sum(1), cosines.max(1)])


def _null_table(found, measured, n_directions: int, center: bool) -> pd.DataFrame:
    tables = []
    for name in COMPARISONS:
        directions = _find(name, *found, n_directions, center)
        columns = {"comparison": name, "direction": np.arange(1, len(directions) + 1)}
        columns["naive_gap"] = _gap(name, *found, directions)
        columns["gap"] = _gap(name, *measured, directions)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)


def _spread(values: np.ndarray) -> dict[str, np.ndarray]:
    low, high = np.percentile(values, [5, 95], axis=0)
    return {"gap": values.mean(0), "low": low, "high": high}


def _rank_table(gaps: dict[str, list]) -> pd.DataFrame:
    tables = []
    for name, values in gaps.items():
        values = np.array(values)
        rank = np.arange(1, values.shape[1] + 1)
        tables.append(pd.DataFrame({"comparison": name, "rank": rank, **_spread(values)}))
    return pd.concat(tables, ignore_index=True)


def _total_table(gaps: dict[str, list]) -> pd.DataFrame:
    rows = []
    for name, values in gaps.items():
        values = np.array(values)
        head = {"comparison": name, "n_directions": values.shape[1]}
        rows.append({**head, **_spread(values.sum(1))})
    return pd.DataFrame(rows)


def _direction_table(comparison: Comparison | None, matched: dict[str, list]) -> pd.DataFrame:
    columns = ["comparison", "direction", "naive_gap", "gap", "low", "high", "replication"]
    if comparison is None:
        return pd.DataFrame(columns=columns)
    tables = []
    for direction_set in comparison:
        values = np.array(matched[direction_set.name])
        table = {"comparison": direction_set.name, "direction": direction_set.component}
        table |= {"naive_gap": direction_set.naive_gap, **_spread(values[:, 0])}
        table["replication"] = values[:, 1].mean(0)
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)[columns]
