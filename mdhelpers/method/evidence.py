r"""Whether a direction distinguishes two algorithms: a p-value, and a gap without noise.

A direction ``u`` of training examples was found on other models than those used here, the
*finding* models; they also give the *pattern* ``p_x``, the projections of their residual datamodels
on it.

**Null.** The expected datamodels of the two algorithms lie alike along this pattern: for each test
example, ``theta^(1)_x`` and ``theta^(2)_x`` point the same way, however long they are. Then

.. math:: (\theta^{(2)}_x \cdot g_x)(\theta^{(1)}_x \cdot u)
   - (\theta^{(1)}_x \cdot g_x)(\theta^{(2)}_x \cdot u) = 0

for any ``g_x``. What is tested is the sum of this over test examples, weighted by ``p_x``, against
being larger than 0; ``g_x`` is the second algorithm's datamodel as the finding models give it, so
that the sum is that of the residual datamodels (paper, eq. 3) along ``u``, times lengths.

**Random** are masks, initialisations and seeds. Images are not: the p-value is for these.

**Assumed** is that models are independent, or those of different slots where models share
initialisations, and that masks are drawn without regard to anything else. Noise may be of any kind,
unlike between the algorithms, and depend on the mask; outputs of either algorithm may be of another
scale, for each test example apart. Both factors of a product come from *different* models (of
different slots), so that noise has no part in its expectation, and no length is ever estimated.
Models that are exchanged, as in a permutation test, would have to be alike in noise and scale too.

**Error.** Models are put in at most 64 groups, whole slots or, without slots, whatever models. The
jackknife leaves out one group after the other; the sum over its standard error has Student's
distribution. A model that differs wildly from others widens the error: it makes calls rarer.

**Size.** The explained variance of ``u`` is that of all products of different groups, a share of
the same for whole datamodels. The gap of Proposition 1 is the difference between algorithms.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from mdhelpers.method.engines.moments import FEWEST_WHOLE, within_slots

WORDS = ("strong", "weak", "none", "too few")
STRONG, WEAK = 0.05, 0.2
REPLICATES = 0.5
MOST_GROUPS, FEWEST_GROUPS = 64, FEWEST_WHOLE  # halves share none
_LEAST_SHARE = 0.05
_LEAST_LENGTH = 0.5
_ELEMENTS = 1 << 24  # of groups' datamodels at once


@dataclass(frozen=True)
class Outputs:
    """One algorithm's models that take part in measuring, in groups, those of a group together.

    The sum over a group of products of masks with outputs estimates datamodels without bias, in
    units of their lengths.

    Attributes
    ----------
    masks : Tensor, shape (n_models, n_train), float32
        Less their mean.
    outputs : Tensor, shape (n_models, n_test), float32
        Less their mean (of the slot), and scaled.
    ends : tuple of int
        Where each group ends.
    ids : ndarray, shape (n_groups,), int
        What each group is called.
    """

    masks: Tensor
    outputs: Tensor
    ends: tuple[int, ...]
    ids: np.ndarray

    @classmethod
    def measured(
        cls,
        masks: np.ndarray,
        margins: np.ndarray,
        lengths: np.ndarray,
        *,
        slots: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        device: str = "cpu",
    ) -> Outputs:
        """Centre, scale and group.

        Parameters
        ----------
        masks : ndarray, shape (n_models, n_train), bool
        margins : ndarray, shape (n_models, n_test)
        lengths : ndarray, shape (n_test,)
            Of datamodels fitted on *other* models: they weigh test examples against each other.
            Half the median stands in for smaller ones, which would outweigh all others.
        slots : ndarray, shape (n_models,), int, optional
        groups : ndarray, shape (n_models,), int, optional
            As `group_models` gives them, which is done where there are none.
        device : str
            Where all that is asked of them is computed.
        """
        groups = group_models(len(masks), slots) if groups is None else groups
        ids, groups = np.unique(groups, return_inverse=True)
        sizes, order = np.bincount(groups), np.argsort(groups, kind="stable")
        lengths = np.asarray(lengths, float)
        x = torch.from_numpy(np.asarray(masks[order], np.float32))
        y = torch.from_numpy(
            np.asarray(margins[order] / np.maximum(lengths, least_length(lengths)), np.float32)
        )
        share = float(x.mean(dtype=torch.float64))
        # The mean is known without error where each mask holds equally many.
        equal = len(np.unique(masks.sum(1))) == 1
        x -= share if equal else x.mean(0)
        if slots is None:
            y, free = y - y.mean(0), sizes * (1 - 1 / len(y))
        else:
            names, slots = np.unique(slots, return_inverse=True)
            everyone = torch.arange(len(y))
            y = within_slots(y, torch.from_numpy(slots[order]), everyone)
            of_slot = np.zeros(len(names), int)
            of_slot[slots] = groups
            free = sizes - np.bincount(of_slot, minlength=len(sizes))
        scale = 1 / (np.maximum(free, 1)[groups[order]] * share * (1 - share))
        y *= torch.from_numpy(scale[:, None]).float()
        return cls(x.to(device), y.to(device), tuple(np.cumsum(sizes).tolist()), ids)

    @property
    def device(self) -> torch.device:
        return self.masks.device

    @property
    def n_groups(self) -> int:
        return len(self.ends)

    @property
    def n_test(self) -> int:
        return self.outputs.shape[1]

    @property
    def n_train(self) -> int:
        return self.masks.shape[1]

    def along(self, directions: Tensor) -> Tensor:
        """Datamodels along directions (d, n_train), by group: (n_groups, n_test, d)."""
        return self._sums(self.outputs, self.masks @ directions.T)

    def toward(self, rows: Tensor) -> Tensor:
        """Each test example's datamodel along its own row (n_test, n_train): (n_groups, n_test)."""
        products = self.outputs * (self.masks @ rows.T)
        return torch.stack([part.sum(0) for part in self._parts(products)])

    def contrasts(self, weights: Tensor) -> Tensor:
        """Datamodels of weighted sums of outputs, weights (n_test, p): (n_groups, p, n_train)."""
        return self._sums(self.outputs @ weights, self.masks)

    @cached_property
    def squared_lengths(self) -> np.ndarray:
        """Of each test example's datamodel, without noise, (1 + n_groups, n_test), see `products`.

        In units of the squared lengths that were given.
        """
        found, step = [], max(1, _ELEMENTS // (self.n_groups * self.n_train))
        for low in range(0, self.n_test, step):
            part = self._sums(self.outputs[:, low : low + step], self.masks)
            found.append(products(part, part))
        return np.concatenate(found, axis=1)

    @cached_property
    def noisy_total(self) -> float:
        """Squared length of all datamodels, with its noise."""
        return float((self.masks.T @ self.outputs).square().sum()) / self.n_groups**2

    def _sums(self, left: Tensor, right: Tensor) -> Tensor:
        pairs = zip(self._parts(left), self._parts(right), strict=True)
        return torch.stack([a.T @ b for a, b in pairs])

    def _parts(self, values: Tensor) -> list[Tensor]:
        starts = (0, *self.ends[:-1])
        return [values[low:high] for low, high in zip(starts, self.ends, strict=True)]


def group_models(n_models: int, slots: np.ndarray | None = None) -> np.ndarray:
    """Groups of models that are independent of each other, (n_models,) int: at most 64.

    Whole slots, which share an initialisation; or models, which share nothing.
    """
    if slots is not None:
        return np.unique(slots, return_inverse=True)[1] % MOST_GROUPS
    return np.arange(n_models) % MOST_GROUPS


def least_length(lengths: np.ndarray) -> float:
    """What stands in for smaller lengths (n_test,), which would outweigh all others."""
    return _LEAST_LENGTH * np.median(lengths[lengths > 0]) if (lengths > 0).any() else 1.0


def products(one: Tensor, two: Tensor) -> np.ndarray:
    """Mean inner product over all pairs of *different* groups, and again without each group.

    Parameters
    ----------
    one, two : Tensor, shape (n_groups, …, n)

    Returns
    -------
    ndarray, shape (1 + n_groups, …), float64
        Of all groups, then without the first, the second, …: a function of such arrays, row by row,
        is one again, and `jackknife` gives its error.
    """
    both = one.sum(0), two.sum(0)
    own = (one * two).sum(-1).double()
    total = (both[0] * both[1]).sum(-1).double() - own.sum(0)
    with_each = ((one * both[1]).sum(-1) + (two * both[0]).sum(-1)).double() - 2 * own
    return _means(total, with_each)


def jackknife(values: np.ndarray) -> np.ndarray:
    """What each group does to estimates (1 + n_groups, …), (n_groups, …): squared, it is variance.

    The delete-a-group jackknife; in ``values`` the first row is the estimate itself.
    """
    without = values[1:] - values[1:].mean(0)
    return (1 - 1 / len(without)) ** 0.5 * without


def explained(outputs: Outputs, directions: np.ndarray) -> np.ndarray:
    """Noise-free explained variance of directions (d, n_train), (1 + n_groups, d), see `products`.

    A share of the squared length of all datamodels. With hardly any signal that is not known
    either, and a twentieth of it with its noise stands in for less.
    """
    along = outputs.along(_tensor(directions, outputs.device)).permute(0, 2, 1).contiguous()
    return products(along, along) / _total(outputs)[:, None]


def residual_along(
    first: Outputs,
    second: Outputs,
    directions: np.ndarray,
    patterns: np.ndarray,
    others: np.ndarray,
) -> np.ndarray:
    """What is tested of each direction, (1 + n_groups, d), see `products`: 0 but for chance.

    Parameters
    ----------
    first, second : Outputs
        Models of both algorithms in as many groups; a group of either has the same slots.
    directions : ndarray, shape (d, n_train)
        Found on other models.
    patterns : ndarray, shape (d, n_test)
        Projections of the residuals of the first, of the same other models.
    others : ndarray, shape (n_test, n_train)
        Datamodels of the second, of the same other models: ``g`` above.

    Raises
    ------
    ValueError
        If the numbers of groups, training or test examples differ.
    """
    shapes = [(o.n_groups, o.n_train, o.n_test) for o in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"outputs have {shapes[0]} and {shapes[1]} groups, training and test examples; "
            "expected as many of both algorithms."
        )
    u, weights, others = (_tensor(v, first.device) for v in (directions, patterns.T, others))
    both = (first, second), (second, first)
    one, two = (_determinant_part(a, b, u, weights, others) for a, b in both)
    return one - two


def _determinant_part(own: Outputs, other: Outputs, u, weights, others) -> np.ndarray:
    """``sum_x p_x (theta^other_x . g_x)(theta^own_x . u)`` over pairs of different groups."""
    along, toward = own.along(u), other.toward(others)
    paired = torch.einsum("kx,kxd,xd->kd", toward, along, weights).double()
    sums = along.sum(0), toward.sum(0)
    total = (weights * sums[0] * sums[1][:, None]).sum(0).double() - paired.sum(0)
    with_each = toward @ (weights * sums[0])
    with_each = with_each + torch.einsum("kxd,xd->kd", along, weights * sums[1][:, None])
    return _means(total, with_each.double() - 2 * paired)


@dataclass(frozen=True)
class Gaps:
    """Some directions measured on models that did not find them, see `products`.

    Attributes
    ----------
    tested : ndarray, shape (1 + n_groups, n_directions)
        What has an expectation of 0 under the null, of either sign otherwise.
    levels : ndarray, shape (1 + n_groups, 2, n_directions)
        Noise-free explained variance under the first and the second algorithm.
    """

    tested: np.ndarray
    levels: np.ndarray

    @classmethod
    def along(
        cls,
        first: Outputs,
        second: Outputs,
        directions: np.ndarray,
        patterns: np.ndarray,
        others: np.ndarray,
    ) -> Gaps:
        """Of directions (d, n_train); arguments are those of `residual_along`."""
        tested = residual_along(first, second, directions, patterns, others)
        levels = [explained(outputs, directions) for outputs in (first, second)]
        return cls(tested, np.stack(levels, 1))

    @property
    def z(self) -> np.ndarray:
        """Standard normal under the null, (n_directions,); from Student's t."""
        error = np.sqrt(np.square(jackknife(self.tested)).sum(0))
        t = np.divide(self.tested[0], error, out=np.zeros(len(error)), where=error > 0)
        return normal_of(t, len(self.tested) - 2)

    def mixed(self, weights: np.ndarray) -> Gaps:
        """Weighted means of the directions; ``weights`` (n_new, n_directions) sum to 1."""
        return Gaps(self.tested @ weights.T, self.levels @ weights.T)


def normal_of(t: np.ndarray, freedom: float) -> np.ndarray:
    """Of Student's t with so many degrees of freedom, the standard normal of the same tail."""
    tail = student.sf(np.abs(t), freedom)
    return np.sign(t) * norm.isf(np.maximum(tail, np.finfo(float).tiny))


def combine(halves: list[list[Gaps]], ids: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
    """Evidence over random splits, in each of which the two halves measured what the other found.

    Parameters
    ----------
    halves : list of lists of Gaps
        For each split one ``Gaps`` a half, all of the same directions.
    ids : list of lists of ndarray
        The groups that each half has.

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

    Gap and ratio are of the directions that the halves found, at the mean over splits.
    """
    levels, influences = over_splits([[half.levels for half in split] for split in halves], ids)
    covariance = np.einsum("gad,gbd->abd", influences, influences)
    quantile = interval_quantile(len(influences))
    gap = levels[0] - levels[1]
    error = np.sqrt(covariance[0, 0] - 2 * covariance[0, 1] + covariance[1, 1])
    z = np.mean([np.sum([half.z for half in split], 0) / len(split) ** 0.5 for split in halves], 0)
    z /= (1 + (len(halves[0]) - 1) / len(halves)) ** 0.5
    interval = {"low": gap - quantile * error, "high": gap + quantile * error}
    sizes = fieller(levels, covariance, quantile)
    sizes = dict(zip(("ratio", "ratio_low", "ratio_high"), sizes, strict=True))
    return {"gap": gap, **interval, **sizes, "z": z, "p": norm.sf(z)}


def over_splits(
    splits: list[list[np.ndarray]], ids: list[list[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over halves and splits of estimates, and what each group does to it.

    A group is in one half of every split; what it does to that half's estimate is averaged over
    splits, so that it counts how far these agree.

    Parameters
    ----------
    splits : list of lists of ndarray, shape (1 + n_groups, …)
        Of each split one array a half, see `products`.
    ids : list of lists of ndarray, shape (n_groups,)
        The groups of each half.

    Returns
    -------
    mean : ndarray, shape (…)
    influences : ndarray, shape (n_groups of all halves, …)
        Sums of their products are covariances.
    """
    names = np.unique(np.concatenate([part for split in ids for part in split]))
    influences = np.zeros((len(names), *splits[0][0].shape[1:]))
    n = len(splits) * len(splits[0])
    for split, groups in zip(splits, ids, strict=True):
        for half, own in zip(split, groups, strict=True):
            influences[np.searchsorted(names, own)] += jackknife(half) / n
    return np.mean([[half[0] for half in split] for split in splits], axis=(0, 1)), influences


def interval_quantile(n_groups: int, level: float = 0.95) -> float:
    """Student's quantile for intervals from so many groups in two halves."""
    return float(student.isf((1 - level) / 2, max(n_groups - 2, 1)))


def fieller(
    levels: np.ndarray, covariance: np.ndarray, quantile: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ratio of two levels (2, …) with Fieller's interval; infinite where the second may be nothing.

    The interval holds the r with ``(one - r two)^2 <= q^2 (v11 - 2 r v12 + r^2 v22)``, covariances
    ``v`` (2, 2, …) and quantile ``q`` being given.
    """
    one, two = levels
    a = two**2 - quantile**2 * covariance[1, 1]
    b = one * two - quantile**2 * covariance[0, 1]
    c = one**2 - quantile**2 * covariance[0, 0]
    root = np.sqrt(np.maximum(b**2 - a * c, 0))
    known = (a > 0) & (two > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # of a quadratic whose leading part may vanish, the root that stays finite
        low = np.where((c > 0) & (one > 0), c / (b + root), 0.0)
        high = np.where(known, (b + root) / a, np.inf)
        ratio = np.where(two > 0, one / two, np.inf)
    return np.maximum(ratio, 0), np.nan_to_num(np.maximum(low, 0)), np.maximum(high, 0)


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


def word(q: float, replication: float, gap_low: float) -> str:
    """Evidence in a word: ``strong``, ``weak``, ``none``, or ``too few`` where q is not known.

    ``strong`` asks for 5% false calls at most, a direction that both halves of the models find
    (mean |cos| at least one half), and a gap whose interval lies above zero: the first-named
    algorithm surely depends more on the direction. ``weak`` asks for 20%, whatever the gap: the
    algorithms differ along the direction, and which of them depends more on it is not said.
    """
    if np.isnan(q):
        return "too few"
    if q < STRONG and replication >= REPLICATES and gap_low > 0:
        return "strong"
    return "weak" if q < WEAK else "none"


def _total(outputs: Outputs) -> np.ndarray:
    """Noise-free squared length of all datamodels, (1 + n_groups,)."""
    total = outputs.squared_lengths.sum(1)
    return np.maximum(total, max(_LEAST_SHARE * outputs.noisy_total, np.finfo(np.float32).tiny))


def _means(total: Tensor, with_each: Tensor) -> np.ndarray:
    """Means over pairs of different groups, of all and without each, from sums over pairs."""
    n = len(with_each)
    without = (total - with_each) / max((n - 1) * (n - 2), 1)
    return torch.cat([total[None] / max(n * (n - 1), 1), without]).cpu().numpy()


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)
