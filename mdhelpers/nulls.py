"""Gaps of an algorithm compared with itself: how large a gap chance makes.

Beside them the gaps of the two algorithms against each other, at the same number of models.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pandas as pd

from mdhelpers.comparison import COMPARISONS, normalise_rows
from mdhelpers.crossfit import find_directions, signed_gap
from mdhelpers.fitters import Fit, fit_all
from mdhelpers.slots import split_models

__all__ = ["PAIRS", "null_gaps", "null_totals"]

PAIRS = {"1 against 2": (1, 2), "1 against 1": (1, 1), "2 against 2": (2, 2)}


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


def _fits_on(fits: tuple[Fit, Fit], parts: list[np.ndarray]) -> Callable[[int, int], np.ndarray]:
    """Normalised fits of algorithm 1 or 2 on each part."""
    found = fit_all((fit, models) for fit in fits for models in parts)
    rows = [normalise_rows(found.pop(0)) for _ in range(len(found))]  # one at a time twice there
    return lambda algorithm, part: rows[(algorithm - 1) * len(parts) + part]


def _null_table(found, measured, n_directions: int, center: bool) -> pd.DataFrame:
    tables = []
    for name in COMPARISONS:
        directions = find_directions(name, *found, n_directions, center)
        columns = {"comparison": name, "direction": np.arange(1, len(directions) + 1)}
        columns["naive_gap"] = signed_gap(name, *found, directions)
        columns["gap"] = signed_gap(name, *measured, directions)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)
