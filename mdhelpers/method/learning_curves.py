r"""Learning curves: quality against the number of models, measured, and carried on by a law.

Subsets of the models are nested and disjoint in pairs: halves, halves of a half, and so on. Each
gives an LDS on the held-out masks, each pair a cosine of rows.

Weights fitted to ``m`` models are those of the truth and noise, the noise of two
disjoint sets independent, so a share ``k`` of their variance is common to both: their cosine is
``k``, and the LDS is ``sqrt(k)`` of that of the true weights, the *plateau*. How ``k`` grows with
``m`` follows from what a weight's noise is made of,

.. math:: \frac1k - 1 = \frac{f + h \, (1 - k)}{m},

``f`` the noise of trainings and ``h (1 - k)`` the effect of other training examples that the other
weights do not explain yet.

- Ridge regression: ``h = n_train``. This is the fixed point of the error of the best linear
  estimate in many dimensions (Dobriban and Wager, 2018); ``f`` is fitted to the cosines.
- Difference of means: the whole effect of other examples stays noise, so that ``h = 0`` and ``f``
  holds both. Then ``k`` for twice the models is by Spearman and Brown's formula.
- Scores from gradients, with ridge regression or without: ``h = 0``, and ``f`` is the spread of the
  models' own scores. What all models share, a bias, is not noise: the plateau is that of gradients,
  and what regression learns beyond it from many more models is not in the curve.
- Lasso: ``f`` and the plateau, which are properties of the trainings and the truth, are those of
  ridge regression on the same subsets; ``h`` is fitted, and may be small or negative where weights
  are sparse. It changes with ``m``, so the largest numbers of models decide.

With slots, each slot's mean costs a model: ``m`` counts models less slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd

from mdhelpers.method.comparison import row_cosines
from mdhelpers.method.datamodels import FitOn, fit_all, n_scored
from mdhelpers.method.engines.moments import split_models
from mdhelpers.method.lds import (
    Ranks,
    correlation_interval,
    left_out_counts,
    resamples,
    row_correlations,
)

POINTS = ("n_models", "n_fits", "lds", "lds_low", "lds_high", "pearson")
POINTS += ("cosine", "cosine_low", "cosine_high")
SPARSE = ("lasso", "fast_l1")  # methods whose law needs that of ridge regression
_FEWEST_MODELS, _MOST_LEVELS = 16, 3  # in a part; halvings
_LEAST, _MOST = 0.02, 0.999  # cosines and scores beyond tell of noise and rounding only


class TooFewModels(ValueError):
    """There are too few models to be halved."""


@dataclass(frozen=True)
class LearningCurve:
    """Scores at several numbers of models.

    Attributes
    ----------
    table : DataFrame
        Columns ``POINTS``, fewest models first: means over ``n_fits`` fits, with 95% intervals over
        held-out masks and test examples, those of cosines by the bootstrap. No cosine (NaN) for all
        models: there is no second set.
    draws : ndarray, shape (n_bootstrap, 2, n_points)
        The bootstrap's LDS and cosines. Masks that are drawn twice lower rank correlations: draws
        of the LDS are laid about the estimate.
    half_cosines : ndarray, shape (n_test,)
        Cosine of each test example between halves of the models.
    """

    table: pd.DataFrame
    draws: np.ndarray
    half_cosines: np.ndarray


def learning_curve(
    fit: FitOn,
    full: np.ndarray,
    heldout: tuple[np.ndarray, np.ndarray],
    *,
    n_models: int,
    slots: np.ndarray | None = None,
    n_splits: int = 2,
    n_bootstrap: int = 100,
    seed: int = 0,
) -> LearningCurve:
    """Measure LDS and cosines at 1, 1/2, 1/4, … of the models; two fits a level and split.

    Parameters
    ----------
    fit : callable
        Takes indices of models, gives weights (n_test, n_train); see
        `mdhelpers.method.datamodels.Fitter`.
    full : ndarray, shape (n_test, n_train)
        Weights fitted on all models.
    heldout : pair of ndarrays, shapes (n_masks, n_train) and (n_masks, n_test)
        Masks and margins of models that no datamodel was fitted on, slots removed.
    n_models : int
    slots : ndarray, shape (n_models,), int, optional
        Subsets take evenly from them.
    n_splits, n_bootstrap, seed : int

    Raises
    ------
    TooFewModels
        If models cannot be halved; a ValueError.
    """
    rng = np.random.default_rng(seed)
    levels = _n_levels(n_models, slots)
    shared = n_models, levels, rng, slots, n_scored(fit)
    splits = [_nested_pairs(*shared) for _ in range(n_splits)]
    masks, true = heldout
    predictions, cosines = [[masks @ full.T]], [np.full((1, len(full)), np.nan)]
    for level in range(levels):
        found = fit_all((fit, part) for pairs in splits for part in pairs[level])
        fits = list(zip(found[::2], found[1::2], strict=True))
        predictions.append([masks @ weights.T for pair in fits for weights in pair])
        cosines.append(np.array([row_cosines(*pair) for pair in fits]))
    sizes = [n_models, *(len(pair[0]) for pair in splits[0])]
    cosines = np.array([found.mean(0) for found in cosines])
    scores, ends, pearson, draws = _scores(true, predictions, cosines, n_bootstrap, seed)
    low, high = np.percentile(draws[:, 1], [2.5, 97.5], axis=0)
    columns = [sizes, [len(p) for p in predictions], scores, *ends.T, pearson]
    columns += [cosines.mean(1), low, high]
    table = pd.DataFrame(dict(zip(POINTS, columns, strict=True)))
    order = np.argsort(sizes)
    return LearningCurve(table.loc[order].reset_index(drop=True), draws[:, :, order], cosines[1])


def _n_levels(n_models: int, slots: np.ndarray | None) -> int:
    smallest = n_models if slots is None else np.unique(slots, return_counts=True)[1].min()
    levels = [n for n in range(1, _MOST_LEVELS + 1) if smallest >> n >= 2]
    levels = [n for n in levels if n_models >> n >= _FEWEST_MODELS]
    if not levels:
        raise TooFewModels(
            f"{n_models} models, {smallest} in the smallest slot, cannot be halved into parts of "
            f"{_FEWEST_MODELS} with two of each slot. Train more models, or use fewer slots."
        )
    return levels[-1]


def _nested_pairs(
    n_models: int, n_levels: int, rng, slots, n_first: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Disjoint pairs of a half, a quarter, … of the models, each within the first one before."""
    models, pairs = np.arange(n_models), []
    for _ in range(n_levels):
        own, first = None if slots is None else slots[models], int((models < n_first).sum())
        parts = split_models(len(models), 2, rng, own, n_first=first)
        one, two = (models[part] for part in parts)
        pairs.append((one, two))
        models = one
    return pairs


def _scores(true, predictions, cosines, n_bootstrap: int, seed: int):
    """LDS, its interval and Pearson of each level, and the bootstrap's LDS and cosines."""
    once = np.ones(len(true))
    columns = np.ascontiguousarray(np.asarray(true, np.float64).T)
    levels = [[np.ascontiguousarray(p.T, np.float64) for p in level] for level in predictions]
    ranks, ranked = Ranks(columns), [[Ranks(p) for p in level] for level in levels]

    def each(counts: np.ndarray) -> np.ndarray:  # (n_levels, n_test)
        own = ranks.weighted(counts)
        found = [[row_correlations(own, r.weighted(counts), counts) for r in lev] for lev in ranked]
        return np.array([np.mean(level, axis=0) for level in found])

    pearson = [np.mean([row_correlations(columns, p, once) for p in level]) for level in levels]
    draws = [
        (each(counts)[:, rows].mean(1), cosines[:, rows].mean(1))
        for counts, rows in resamples(len(true), len(columns), n_bootstrap, seed=seed)
    ]
    draws, per_example = np.array(draws), each(once)
    draws[:, 0] += per_example.mean(1) - draws[:, 0].mean(0)
    without = np.array([each(counts) for counts in left_out_counts(len(true))])
    ends = [correlation_interval(own, without[:, level]) for level, own in enumerate(per_example)]
    return per_example.mean(1), np.array(ends), pearson, draws


@dataclass(frozen=True)
class Law:
    """A fitted curve; for the symbols see this module's head.

    Attributes
    ----------
    noise, others : float
        ``f`` and ``h``, in models.
    plateau : float
        LDS of the true weights: what infinitely many models would reach.
    n_slots : int
    """

    noise: float
    others: float
    plateau: float
    n_slots: int = 0

    def cosine(self, n_models) -> np.ndarray:
        """Cosine of two fits on disjoint sets of ``n_models`` each."""
        m = np.maximum(np.asarray(n_models, float) - self.n_slots, 1e-9)
        total = m + self.noise + self.others
        return 2 * m / (total + np.sqrt(np.maximum(total**2 - 4 * self.others * m, 0)))

    def lds(self, n_models) -> np.ndarray:
        """LDS of a fit on ``n_models``."""
        return self.plateau * np.sqrt(self.cosine(n_models))


def models_needed(law: Law, *, lds: float | None = None, cosine: float | None = None) -> float:
    """Models that an LDS, or a cosine of disjoint fits, takes by the law: whole ones, or inf.

    Raises
    ------
    ValueError
        If not exactly one target is given, or it is not between 0 and 1.
    """
    targets = [target for target in (lds, cosine) if target is not None]
    if len(targets) != 1 or not 0 < targets[0] < 1:
        raise ValueError(
            f"got lds={lds} and cosine={cosine}; expected one of them, between 0 and 1."
        )
    k = cosine if lds is None else (lds / law.plateau) ** 2
    if k >= 1:
        return math.inf
    m = (law.noise + law.others * (1 - k)) * k / (1 - k)
    return float(math.ceil(max(m, 1) + law.n_slots - 1e-6))


def fit_law(
    table: pd.DataFrame,
    *,
    method: str,
    n_train: int,
    n_slots: int = 0,
    ceiling: float = 1.0,
    ridge: Law | None = None,
) -> Law | None:
    """Fit the curve to points, larger numbers of models counting for more.

    Parameters
    ----------
    table : DataFrame
        ``n_models, lds, cosine``; NaN where something was not measured.
    method : str
        How the weights were fitted, see `mdhelpers.method.datamodels.METHODS`.
    n_train, n_slots : int
    ceiling : float
        The plateau is at most this: the noise ceiling, where it was measured.
    ridge : Law, optional
        That of ridge regression on the same subsets; the lasso needs it.

    Returns
    -------
    Law or None
        None where nothing stands out from noise, so that there is nothing to carry on.
    """
    points, scored = (table[table[name] > _LEAST] for name in ("cosine", "lds"))
    if not len(points) or not len(scored):
        return None
    m = points["n_models"].to_numpy(float) - n_slots
    k = points["cosine"].clip(upper=_MOST).to_numpy()
    n = scored["n_models"].to_numpy(float)
    if method in SPARSE:
        if ridge is None:
            raise ValueError(f"the curve of {method} needs that of ridge regression; give ridge.")
        shares = ((scored["lds"] / ridge.plateau) ** 2).clip(upper=_MOST)
        others = _others(np.append(m, n - n_slots), np.append(k, shares), ridge.noise)
        return Law(ridge.noise, others, ridge.plateau, n_slots)
    others = float(n_train) if method == "ridge" else 0.0
    noise = np.average(m * (1 / k - 1) - others * (1 - k), weights=m)
    law = Law(max(float(noise), 1e-3), others, 1.0, n_slots)
    log_plateau = np.average(np.log(scored["lds"] / law.lds(n)), weights=n - n_slots)
    return replace(law, plateau=min(float(np.exp(log_plateau)), ceiling, 1.0))


def _others(m: np.ndarray, k: np.ndarray, noise: float) -> float:
    """Least squares for ``h``, dominated by the largest numbers of models."""
    excess, weights = m * (1 / k - 1) - noise, m**4
    return float((weights * excess * (1 - k)).sum() / (weights * (1 - k) ** 2).sum())


def fit_laws(
    curve: LearningCurve,
    *,
    method: str,
    n_train: int,
    n_slots: int = 0,
    ceiling: float = 1.0,
    ridge: LearningCurve | None = None,
) -> list[Law]:
    """The curve's law, and that of each of the bootstrap's draws, for intervals.

    Parameters
    ----------
    curve : LearningCurve
    method, n_train, n_slots, ceiling
        As in :func:`fit_law`.
    ridge : LearningCurve, optional
        Of ridge regression, from the same seed and number of draws; the lasso needs it.

    Returns
    -------
    list of Law
        The first is of the curve itself; empty where it has none.
    """
    law_of = partial(fit_law, n_train=n_train, n_slots=n_slots, ceiling=ceiling)
    laws = []
    for table, beside in zip(_tables(curve), _tables(ridge or curve), strict=True):
        law = None if ridge is None else law_of(beside, method="ridge")
        if ridge is None or law is not None:
            law = law_of(table, method=method, ridge=law)
        if law is None and not laws:
            return []
        laws += [law] if law else []
    return laws


def _tables(curve: LearningCurve) -> list[pd.DataFrame]:
    again = [curve.table.assign(lds=lds, cosine=cosine) for lds, cosine in curve.draws]
    return [curve.table, *again]
