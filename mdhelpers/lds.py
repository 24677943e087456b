"""The linear datamodeling score: do datamodels predict the margins of models they have not seen?

For each test example, the Spearman correlation over held-out masks between predicted and true
margins; then the mean over test examples (Park et al., 2023, section 4). The interval resamples
both the masks and the test examples, since a study draws both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

__all__ = ["LDS", "Ranks", "lds", "resamples", "row_correlations"]


@dataclass(frozen=True)
class LDS:
    """Linear datamodeling score with an interval.

    Attributes
    ----------
    spearman : float
        Mean over test examples of the rank correlation over masks, in [-1, 1].
    low, high : float
        Percentiles 2.5 and 97.5 of the bootstrap over masks and test examples.
    pearson : float
        The same mean of linear correlations.
    per_example : ndarray, shape (n_test,)
        Rank correlation of each test example.
    n_constant : int
        Test examples whose predictions do not vary over the masks; they count as 0.
    """

    spearman: float
    low: float
    high: float
    pearson: float
    per_example: np.ndarray
    n_constant: int


def lds(
    true_margins: np.ndarray,
    predicted_margins: np.ndarray,
    *,
    n_bootstrap: int = 200,
    seed: int = 0,
) -> LDS:
    """Linear datamodeling score of predictions on held-out models.

    Parameters
    ----------
    true_margins, predicted_margins : ndarray, shape (n_models, n_test)
        Of models that no datamodel was fitted on. To score within slots, pass
        ``datamodels.remove_slots(margins, slots)`` as the true margins.
    n_bootstrap : int
        Resamples for the interval.
    seed : int
        Of the resampling.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 3 models, or a value is not finite.
    """
    true, predicted = _checked(true_margins, predicted_margins)
    n_test, n_models = true.shape
    once = np.ones(n_models)
    ranks = Ranks(true), Ranks(predicted)
    per_example = row_correlations(*(r.weighted(once) for r in ranks), once)
    means = np.empty(n_bootstrap)
    for b, (counts, rows) in enumerate(resamples(n_models, n_test, n_bootstrap, seed=seed)):
        resampled = row_correlations(*(r.weighted(counts) for r in ranks), counts)
        means[b] = resampled[rows].mean()
    low, high = np.percentile(means, [2.5, 97.5]) if n_bootstrap else (np.nan, np.nan)
    return LDS(
        spearman=float(per_example.mean()),
        low=float(low),
        high=float(high),
        pearson=float(row_correlations(true, predicted, once).mean()),
        per_example=per_example.astype(np.float32),
        n_constant=int((np.ptp(predicted, axis=1) == 0).sum()),
    )


def resamples(
    n_models: int, n_test: int, n: int, *, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws of masks and test examples with replacement, for intervals over both.

    Each is how often every mask was drawn, shape (n_models,), and the test examples, (n_test,).
    """
    rng = np.random.default_rng(seed)
    for _ in range(n):
        counts = np.bincount(rng.integers(n_models, size=n_models), minlength=n_models)
        yield counts, rng.integers(n_test, size=n_test)


class Ranks:
    """Average ranks of each row when column i is drawn ``counts[i]`` times.

    A value's rank is the middle of the places its ties take: what is smaller comes before, so two
    look-ups in the running count of draws give it, without sorting again.
    """

    def __init__(self, values: np.ndarray):
        self.order = np.argsort(values, axis=1, kind="stable")
        self.before = rankdata(values, axis=1, method="min").astype(np.int64) - 1
        self.through = rankdata(values, axis=1, method="max").astype(np.int64)

    def weighted(self, counts: np.ndarray) -> np.ndarray:
        running = np.zeros((len(self.order), len(counts) + 1), dtype=np.float32)
        np.cumsum(counts.astype(np.float32)[self.order], axis=1, out=running[:, 1:])
        before = np.take_along_axis(running, self.before, axis=1)
        return (before + np.take_along_axis(running, self.through, axis=1) + 1) / 2


def row_correlations(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Row by row correlation of columns drawn ``counts`` times; 0 where a row is constant."""
    weights = (counts / counts.sum()).astype(x.dtype)
    x = x - (x @ weights)[:, None]
    y = y - (y @ weights)[:, None]
    spread_x, spread_y = (x * x) @ weights, (y * y) @ weights
    spread = np.sqrt(spread_x.astype(np.float64) * spread_y)
    covariance = (x * y) @ weights
    return np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 1e-12)


def _checked(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.ndim != 2 or true.shape != predicted.shape:
        raise ValueError(
            f"true_margins {true.shape} and predicted_margins {predicted.shape} must both have "
            "shape (n_models, n_test). Predict on the held-out masks, for the same test examples."
        )
    if len(true) < 3:
        raise ValueError(
            f"got {len(true)} held-out models; a correlation over masks needs at least 3. "
            "Hold more models out."
        )
    for name, values in (("true_margins", true), ("predicted_margins", predicted)):
        if not np.isfinite(values).all():
            model, example = np.argwhere(~np.isfinite(values))[0]
            raise ValueError(
                f"{name} of model {model} on test example {example} is {values[model, example]}; "
                "margins must be finite. Leave that model out."
            )
    return np.ascontiguousarray(true.T), np.ascontiguousarray(predicted.T)
