r"""The linear datamodeling score: do datamodels predict the margins of models they have not seen?

For each test example, the Spearman correlation over held-out masks between predicted and true
margins; then the mean over test examples (Park et al., 2023, section 4),

.. math:: \mathrm{LDS} = \frac{1}{n} \sum_x \rho_{\mathrm{S}}\big( f_x(\text{mask}_i),
   \hat f_x(\text{mask}_i) \big)_i .

Its interval is over both the masks and the test examples, since a study draws both: their variances
are added, less that of single correlations, which is in both (Cameron, Gelbach and Miller, 2011).
The jackknife leaves out groups of masks, which gives their part and the small bias of a rank
correlation; resampling would draw some masks twice, whose ties lower it. The interval is
symmetrical on the scale of Fisher's transform.

*Noise ceiling.* A datamodel predicts the expected margin of a mask; a single training adds the
noise of its seed, which nothing can predict. Where two trainings of the same masks correlate by
``r``, no function of the mask correlates better than ``sqrt(r)`` with one of them (Spearman, 1904).
The trainings must share nothing but the mask: with a common initialisation, what it does to some
masks and not to others would count as foreseeable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import rankdata
from scipy.stats import t as student

_GROUPS = 32  # of masks, for the jackknife
_ALL = 1 - 1e-9  # the largest correlation with a Fisher transform


@dataclass(frozen=True)
class LDS:
    """Linear datamodeling score with an interval.

    Attributes
    ----------
    spearman : float
        Mean over test examples of the rank correlation over masks, in [-1, 1].
    low, high : float
        Interval of 95%, over masks and test examples.
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


def lds(true_margins: np.ndarray, predicted_margins: np.ndarray) -> LDS:
    """Linear datamodeling score of predictions on held-out models.

    Parameters
    ----------
    true_margins, predicted_margins : ndarray, shape (n_models, n_test)
        Of models that no datamodel was fitted on. To score within slots, pass
        ``datamodels.remove_slots(margins, slots)`` as the true margins.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 3 models, or a value is not finite.
    """
    true, predicted = _by_example(true_margins, predicted_margins)
    once = np.ones(true.shape[1])
    ranks = Ranks(true), Ranks(predicted)

    def correlations(counts: np.ndarray) -> np.ndarray:
        return row_correlations(*(r.weighted(counts) for r in ranks), counts)

    per_example = correlations(once)
    without = np.array([correlations(counts) for counts in left_out_counts(true.shape[1])])
    score = float(per_example.mean())
    low, high = correlation_interval(per_example, without)
    return LDS(
        spearman=score,
        low=low,
        high=high,
        pearson=float(row_correlations(true, predicted, once).mean()),
        per_example=per_example.astype(np.float32),
        n_constant=int((np.ptp(predicted, axis=1) == 0).sum()),
    )


@dataclass(frozen=True)
class NoiseCeiling:
    """The LDS beside the best that any function of the mask could reach.

    ``_low`` and ``_high`` are the ends of 95% intervals over masks and test examples, as that of
    the LDS.

    Attributes
    ----------
    reliability : float
        Mean over test examples of the rank correlation of two trainings of the same masks.
    ceiling, ceiling_low, ceiling_high : float
        Mean of its square root (0 where it is negative): the best LDS against single trainings.
        For normal margins it lies above the truth by at most 0.01, ranks not being quite linear.
    share, share_low, share_high : float
        LDS over ceiling: an estimate of the datamodels' correlation with the expected margin.
    ceiling_pearson : float
        The same ceiling for linear correlations.
    per_example : ndarray, shape (n_test,)
        Ceiling of each test example; noisy, look at their distribution only.
    n_trainings : int
        Trainings of each mask.
    """

    reliability: float
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    share: float
    share_low: float
    share_high: float
    ceiling_pearson: float
    per_example: np.ndarray
    n_trainings: int


def noise_ceiling(trainings: np.ndarray, predicted: np.ndarray) -> NoiseCeiling:
    """Estimate the noise ceiling of the LDS from masks that were trained more than once.

    Parameters
    ----------
    trainings : ndarray, shape (n_trainings, n_masks, n_test)
        Margins of two or more trainings of the same masks, less the effects of their slots. The
        LDS is that of the first.
    predicted : ndarray, shape (n_masks, n_test)
        What datamodels predict for these masks.

    Raises
    ------
    ValueError
        If shapes disagree, there are fewer than 2 trainings or 3 masks, or a value is not finite.
    """
    trainings, predicted = _repeats_by_example(trainings, predicted)
    n_masks = predicted.shape[1]
    ranks, foretold = [Ranks(margins) for margins in trainings], Ranks(predicted)

    def measure(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        each = [r.weighted(counts) for r in ranks]
        score = row_correlations(each[0], foretold.weighted(counts), counts)
        return _agreement(each, counts), score

    reliability, scores = measure(np.ones(n_masks))
    ceilings = np.sqrt(reliability.clip(0))
    ceiling, score = float(ceilings.mean()), float(scores.mean())
    share = score / ceiling if ceiling else 0.0
    measured = [measure(counts) for counts in left_out_counts(n_masks)]
    tops = np.sqrt(np.array([again for again, _ in measured]).clip(0))
    found = np.array([each for _, each in measured])
    low, high = correlation_interval(ceilings, tops)
    half = 0.0
    if ceiling:  # of a ratio of means, by what each test example adds to it
        added = (scores - share * ceilings) / ceiling
        half = _student(len(tops)) * _two_way(added, (found - share * tops) / ceiling) ** 0.5
    return NoiseCeiling(
        reliability=float(reliability.mean()),
        ceiling=ceiling,
        ceiling_low=low,
        ceiling_high=high,
        share=share,
        share_low=float(share - half),
        share_high=float(share + half),
        ceiling_pearson=float(np.sqrt(_agreement(trainings, np.ones(n_masks)).clip(0)).mean()),
        per_example=ceilings.astype(np.float32),
        n_trainings=len(trainings),
    )


def left_out_counts(n_masks: int) -> Iterator[np.ndarray]:
    """How often each mask counts, (n_masks,), with one of at most 32 groups of them left out."""
    groups = np.arange(n_masks) % min(n_masks, _GROUPS)
    for group in range(groups.max() + 1):
        yield (groups != group).astype(float)


def _two_way(values: np.ndarray, without: np.ndarray) -> float:
    """Variance of the mean of ``values`` (n_test,) over masks and test examples.

    ``without`` (n_groups, n_test) are the values without each group of masks.
    """
    n, centred = len(values), without - without.mean(0)
    of_masks = (len(without) - 1) * np.square(centred.mean(1)).mean()
    of_tests = values.var() / max(n - 1, 1)
    of_both = (len(without) - 1) * np.square(centred).mean() / n
    return float(max(of_masks + of_tests - of_both, of_masks, of_tests))


def _student(n_groups: int) -> float:
    return float(student.isf(0.025, n_groups - 1))


def correlation_interval(values: np.ndarray, without: np.ndarray) -> tuple[float, float]:
    """Student's 95% interval of a mean correlation, less its bias, on Fisher's scale.

    Of correlations (n_test,), and of those without each group of masks, (n_groups, n_test).
    """
    score = values.mean()
    bias = (len(without) - 1) * (without.mean() - score)
    inside = float(np.clip(score - bias, -_ALL, _ALL))
    half = _student(len(without)) * _two_way(values, without) ** 0.5 / (1 - inside**2)
    ends = np.tanh(np.arctanh(inside) + np.array([-half, half]))
    return float(min(ends[0], score)), float(max(ends[1], score))


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


def _agreement(trainings, counts: np.ndarray) -> np.ndarray:
    """Mean over pairs of trainings of their correlation, for each test example."""
    pairs = [row_correlations(one, two, counts) for one, two in combinations(trainings, 2)]
    return np.mean(pairs, axis=0)


def _ratio(score, ceiling):
    return np.divide(score, ceiling, out=np.zeros_like(score), where=np.asarray(ceiling) > 0)


def _by_example(true: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
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


def _repeats_by_example(trainings, predicted) -> tuple[np.ndarray, np.ndarray]:
    trainings, predicted = np.asarray(trainings, np.float64), np.asarray(predicted, np.float64)
    if trainings.ndim != 3 or trainings.shape[1:] != predicted.shape:
        raise ValueError(
            f"trainings have shape {trainings.shape} and predicted {predicted.shape}; expected "
            "(n_trainings, n_masks, n_test) and (n_masks, n_test), masks in the same order."
        )
    if len(trainings) < 2 or trainings.shape[1] < 3:
        raise ValueError(
            f"got {len(trainings)} trainings of {trainings.shape[1]} masks; a noise ceiling needs "
            "at least 2 trainings of 3 masks. Train the held-out masks once more."
        )
    for name, values in (("trainings", trainings), ("predicted", predicted)):
        if not np.isfinite(values).all():
            place = tuple(np.argwhere(~np.isfinite(values))[0].tolist())
            raise ValueError(
                f"{name}[{place}] is {values[place]}; margins must be finite. Leave that mask out."
            )
    return tuple(np.ascontiguousarray(part.swapaxes(-1, -2)) for part in (trainings, predicted))
