r"""Whether a direction distinguishes two algorithms: gaps free of noise, their errors, p-values.

A direction ``u`` of training examples is given, found on other models than those used here. With
``z_i`` the centred mask of model i along it and ``y_ix`` the centred output for test example x, in
units of the length of that example's datamodel, the sum of ``c_ix = z_i y_ix`` over models
estimates the datamodel's part along ``u``. Its square is inflated by the noise of the outputs; the
sum of products of *different* models is not,

.. math:: U_x = \Big(\sum_i c_{ix}\Big)^2 - \sum_i c_{ix}^2 ,

and the noise-free explained variance is the sum of ``U_x`` over test examples as a share of the
same sum over all training examples. The gap of Proposition 1 is the difference between algorithms.

**Null.** The half of the models that found ``u`` also says how far each test example's residual
projects on it, ``p_x``. If the algorithms differ as found, the other half's datamodels have more of
this pattern along ``u`` under the first: ``sum_x p_x (theta_x . u)`` is larger there. It is linear
in the models, so that it is known far better than the squares of the gap. If the algorithms do not
differ, the two contributions of a pair of models (i of either algorithm, trained on the same mask)
can change places, which turns the sign of their difference ``t_i``. Signs drawn at random give the
distribution of the sum of ``t_i`` under the null, which is normal for many models. Without a
pattern the gap itself is tested, which is a sum over pairs too.

**Error.** The gap is a U-statistic of the pairs; the jackknife gives its standard error, also
where the algorithms do differ.

**Size.** A gap can be sure and small: both algorithms may depend on a direction, one somewhat more.
The ratio of the two explained variances says how many times more, with Fieller's interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm

from mdhelpers.method.engines.moments import within_slots

WORDS = ("strong", "weak", "none")
STRONG, WEAK = 0.05, 0.2
REPLICATES = 0.5
_LEAST_SHARE = 0.05
_LEAST_LENGTH = 0.5
_NORMAL = 1.96


@dataclass(frozen=True)
class Outputs:
    """One algorithm's models that take part in measuring, centred within their slots.

    Attributes
    ----------
    masks : Tensor, shape (n_models, n_train), float32
    outputs : Tensor, shape (n_models, n_test), float32
        In units of each test example's datamodel length.
    total : float
        Noise-free squared length of all datamodels, in the units of :func:`gaps_along`.
    """

    masks: torch.Tensor
    outputs: torch.Tensor
    total: float

    @classmethod
    def measured(
        cls,
        masks: np.ndarray,
        margins: np.ndarray,
        lengths: np.ndarray,
        *,
        slots: np.ndarray | None = None,
    ) -> Outputs:
        """Centre, scale, and estimate the datamodels' total length.

        Parameters
        ----------
        masks : ndarray, shape (n_models, n_train), bool
        margins : ndarray, shape (n_models, n_test)
        lengths : ndarray, shape (n_test,)
            Of datamodels fitted on *other* models. Half the median stands in for smaller ones,
            which are hardly known and would otherwise outweigh all others.
        slots : ndarray, shape (n_models,), int, optional
        """
        slots = np.zeros(len(masks), np.int64) if slots is None else slots
        groups = torch.from_numpy(np.unique(slots, return_inverse=True)[1])
        everyone = torch.arange(len(masks))
        lengths = np.asarray(lengths, float)
        least = _LEAST_LENGTH * np.median(lengths[lengths > 0]) if (lengths > 0).any() else 1.0
        scale = 1 / np.maximum(lengths, least)
        x = torch.from_numpy(np.asarray(masks, np.float32))
        y = torch.from_numpy(np.asarray(margins * scale, np.float32))
        x, y = (within_slots(values, groups, everyone) for values in (x, y))
        whole = (x.T @ y).square().sum()
        diagonal = (x.square().sum(1) * y.square().sum(1)).sum()
        # With hardly any signal the total is not known either, and could be of either sign.
        total = max(float(whole - diagonal), _LEAST_SHARE * float(whole))
        return cls(x, y, max(total, np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class Gaps:
    """Gaps of some directions, positive where the first-named algorithm relies on them more.

    Attributes
    ----------
    flips : ndarray, shape (n_directions, n_models)
        ``t_i``: what each pair of models adds to the sum that is tested, and what exchanging the
        pair would turn the sign of.
    influences : ndarray, shape (2, n_directions, n_models)
        What leaving each pair out would take from either algorithm's explained variance.
    levels : ndarray, shape (2, n_directions)
        Noise-free explained variance under either algorithm; their difference is the gap.
    """

    flips: np.ndarray
    influences: np.ndarray
    levels: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """Noise-free gaps, fractions of the datamodels' variance, (n_directions,)."""
        return self.levels[0] - self.levels[1]

    @property
    def covariance(self) -> np.ndarray:
        """Jackknife variance of the first level, covariance, variance of the second, (3, …)."""
        n = self.influences.shape[-1]
        one, two = self.influences - self.influences.mean(-1, keepdims=True)
        return (n - 1) * np.stack([one * one, one * two, two * two]).mean(-1)

    @property
    def z(self) -> np.ndarray:
        """Sums that are tested, in standard deviations of the exchange null, (n_directions,)."""
        spread = np.sqrt(np.square(self.flips).sum(1))
        total = self.flips.sum(1)
        return np.divide(total, spread, out=np.zeros(len(spread)), where=spread > 0)

    def mixed(self, weights: np.ndarray) -> Gaps:
        """Weighted means of the directions' gaps; ``weights`` (n_new, n_directions) sum to 1."""
        return Gaps(weights @ self.flips, weights @ self.influences, self.levels @ weights.T)


def gaps_along(
    first: Outputs, second: Outputs, directions: np.ndarray, patterns: np.ndarray | None = None
) -> Gaps:
    """Noise-free gap of each direction between two algorithms, with what its error follows from.

    Parameters
    ----------
    first, second : Outputs
        As many models of each; pair i should have been trained on one mask.
    directions : ndarray, shape (n_directions, n_train)
        Unit vectors, found on other models.
    patterns : ndarray, shape (n_directions, n_test), optional
        Projections of the residuals of the first on them, of the same other models: what is tested.
        The gap is, where there are none.

    Raises
    ------
    ValueError
        If the numbers of models or training examples differ.
    """
    if first.outputs.shape != second.outputs.shape or len(first.masks) != len(second.masks):
        raise ValueError(
            f"outputs have shapes {tuple(first.outputs.shape)} and {tuple(second.outputs.shape)}; "
            "expected as many models of both algorithms, and the same test examples."
        )
    u = torch.from_numpy(np.asarray(directions, np.float32))
    parts = [_parts(outputs, u) for outputs in (first, second)]
    if patterns is None:
        mean = (parts[0].sums + parts[1].sums) / 2
        flips = [2 * part.along(mean) - part.own for part in parts]
    else:
        wanted = torch.from_numpy(np.asarray(patterns.T, np.float32))
        flips = [part.along(wanted) for part in parts]
    influences = [2 * (part.along(part.sums) - part.own) for part in parts]
    flips, *influences = (v.T.double().numpy() for v in (flips[0] - flips[1], *influences))
    levels = [part.sums.square().sum(0) - part.own.sum(0) for part in parts]
    return Gaps(flips, np.stack(influences), torch.stack(levels).double().numpy())


def combine(halves: list[list[Gaps]]) -> dict[str, np.ndarray]:
    """Evidence over random splits, in each of which the two halves measured what the other found.

    Parameters
    ----------
    halves : list of lists of Gaps
        For each split one ``Gaps`` a half, all of the same directions.

    Returns
    -------
    dict
        ``gap``, ``low``, ``high`` (95% interval), ``ratio``, ``ratio_low``, ``ratio_high`` (of the
        explained variances, first over second, with Fieller's 95% interval), ``z`` and one-sided
        ``p``, (n_directions,).

    Notes
    -----
    Each half's z is normal with variance 1 under the null, given the other half. The two of a split
    need not be independent: at worst both are the same sum of products, one half's differences with
    the other's, and adding them up doubles the variance of a split's z. Over S random splits every
    two models are parted in half of them, and the mean of the splits' z has the variance 1 + 1/S at
    worst; it is divided by the root of that. Where halves are less alike, p-values err on the large
    side.
    """
    levels = np.mean([[half.levels for half in split] for split in halves], axis=(0, 1))
    shared = [np.sum([h.covariance for h in split], 0) / len(split) ** 2 for split in halves]
    covariance = np.mean(shared, 0)
    gap = levels[0] - levels[1]
    error = np.sqrt(covariance[0] - 2 * covariance[1] + covariance[2])
    z = np.mean([np.sum([half.z for half in split], 0) / len(split) ** 0.5 for split in halves], 0)
    z /= (1 + (len(halves[0]) - 1) / len(halves)) ** 0.5
    interval = {"low": gap - _NORMAL * error, "high": gap + _NORMAL * error}
    sizes = dict(zip(("ratio", "ratio_low", "ratio_high"), _ratio(levels, covariance), strict=True))
    return {"gap": gap, **interval, **sizes, "z": z, "p": norm.sf(z)}


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values: calling those up to q significant makes q of the calls false, at most.

    Benjamini and Hochberg (1995), for p-values that are independent or positively dependent; in the
    last bit other than ``scipy.stats.false_discovery_control``, which divides before it multiplies.
    """
    order = np.argsort(p := np.asarray(p, float))
    ranked = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1)
    return adjusted


def word(q: float, replication: float, gap: float) -> str:
    """Evidence in a word: ``strong``, ``weak`` or ``none``.

    ``strong`` asks for 5% false calls at most and a direction that both halves of the models find
    (mean |cos| at least one half); ``weak`` for 20%, or for the first without the second. Both ask
    for a gap above zero: the first-named algorithm depends more on the direction.
    """
    if gap <= 0:
        return "none"
    if q < STRONG and replication >= REPLICATES:
        return "strong"
    return "weak" if q < WEAK else "none"


@dataclass(frozen=True)
class _Parts:
    """Contributions of one algorithm, scaled so that its squared sums are shares of its variance.

    ``z`` (n_models, n_directions), ``y`` (n_models, n_test), ``sums`` (n_test, n_directions) and
    ``own`` (n_models, n_directions), squared contributions summed over test examples.
    """

    z: torch.Tensor
    y: torch.Tensor
    sums: torch.Tensor
    own: torch.Tensor

    def along(self, sums: torch.Tensor) -> torch.Tensor:
        """``sum_x c_ix S_x``, (n_models, n_directions), for ``sums`` S (n_test, n_directions)."""
        return self.z * (self.y @ sums)


def _parts(outputs: Outputs, u: torch.Tensor) -> _Parts:
    z = outputs.masks @ u.T
    y = outputs.outputs / outputs.total**0.5
    return _Parts(z, y, y.T @ z, z.square() * y.square().sum(1, keepdim=True))


def _ratio(levels: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, ...]:
    """Ratio of two levels with Fieller's interval; infinite where the second may be nothing.

    The interval holds the r with ``(one - r two)^2 <= 1.96^2 (v11 - 2 r v12 + r^2 v22)``.
    """
    one, two = levels
    a = two**2 - _NORMAL**2 * covariance[2]
    b = one * two - _NORMAL**2 * covariance[1]
    c = one**2 - _NORMAL**2 * covariance[0]
    root = np.sqrt(np.maximum(b**2 - a * c, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        # of a quadratic whose leading part may vanish, the root that stays finite
        low = np.where(c > 0, c / (b + root), 0.0)
        high = np.where(a > 0, (b + root) / a, np.inf)
        ratio = np.where(two > 0, one / two, np.inf)
    return np.maximum(ratio, 0), np.maximum(low, 0), high
