r"""How much either algorithm uses what marks a subpopulation: shares, their ratio, and a word.

A direction may be significant, and both algorithms still use the feature that leaps to the eye in
its subpopulation. So the feature itself is looked at: what makes an output of a subpopulation S
differ from outputs of its class, those of the half C that lies least along the direction. The mean
output of S less that of C is one number a model; its datamodel, the *contrast datamodel*, says
which training images make the difference,

.. math:: \kappa^{(a)} = \frac{1}{|S|} \sum_{x \in S} \theta^{(a)}_x
   - \frac{1}{|C|} \sum_{x \in C} \theta^{(a)}_x .

All is measured on models that did not find S, from products of different models' outputs, so that
noise has no part in it (:mod:`mdhelpers.method.evidence`):

- *share*: the squared length of :math:`\kappa^{(a)}` over the mean squared length of the class's
  datamodels. It does not change with the scale of an algorithm's outputs.
- *ratio*: how many times longer one algorithm's contrast datamodel is than the other's, both in
  units of their class, the root of the ratio of shares.
- *cosine* of the two: whether both depend on the same training images.

**Words.** That one algorithm uses a feature *more*, that *only* one does, that both do *alike*:
each is a claim with an interval of its own. *Only* asks that the other's contrast datamodel be
shorter than ``only_below`` times the one's; *alike* that neither be longer than ``alike_within``
times the other, and that they point the same way; *through other images* that they surely do not.
Where a ratio is surely above 1 and something else holds too, the word is *more* if the ratio is
nearer to ``alike_within`` than to 1. Where no claim holds, there are too few models to tell. Claims
of a difference are made for directions along which the algorithms surely differ
(:mod:`mdhelpers.method.crossfit`), so that looking at many makes few false ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from mdhelpers.method.comparison import Comparison
from mdhelpers.method.evidence import (
    Outputs,
    fieller,
    interval_quantile,
    over_splits,
    products,
)
from mdhelpers.method.subpopulations import ENDS

DIFFERENT = ("only_1", "more_1", "only_2", "more_2", "other_images")
USES = (*DIFFERENT, "alike", "too_few")
_LEAST_PART = 0.25  # of a subpopulation, for a class to be looked at


@dataclass(frozen=True)
class Margins:
    """What counts as none and as alike, in ratios of lengths of contrast datamodels.

    Attributes
    ----------
    only_below : float
        An algorithm whose part is surely smaller than this does not use what the other does.
    alike_within : float
        Both use it alike where neither's part is larger than this many times the other's.
    cosine : float
        And where their contrast datamodels point the same way at least so far; through other
        training images where surely less.

    Raises
    ------
    ValueError
        If ``only_below`` is not in (0, 1), or ``alike_within`` does not lie above 1 or overlaps it.
    """

    only_below: float = 0.5
    alike_within: float = 1.5
    cosine: float = 0.7

    def __post_init__(self) -> None:
        if not 0 < self.only_below < 1:
            raise ValueError(f"only_below is {self.only_below}; expected a ratio between 0 and 1.")
        if not 1 < self.alike_within <= 1 / self.only_below:
            raise ValueError(
                f"alike_within is {self.alike_within}; expected a ratio above 1 and at most "
                f"{1 / self.only_below:g}, one over only_below."
            )


def subpopulation_classes(
    comparison: Comparison, labels: np.ndarray, *, top_k: int = 24
) -> pd.DataFrame:
    """The classes that make up each end of each direction, to be measured one by one.

    Parameters
    ----------
    comparison : Comparison
    labels : ndarray, shape (n_test,), int
    top_k : int
        Test examples at an end, at most half of them.

    Returns
    -------
    DataFrame
        ``comparison, direction, end, label, n``: of each end the classes that hold at least a
        quarter of it, the largest first, with their number there.
    """
    rows, labels = [], np.asarray(labels)
    for found in comparison:
        for position, component in enumerate(found.component):
            for end, sign in zip(ENDS, (-1, 1), strict=True):
                members = np.argsort(sign * found.projections[:, position], kind="stable")[:top_k]
                counts = np.bincount(labels[members])
                for label in np.argsort(-counts, kind="stable"):
                    if counts[label] >= max(_LEAST_PART * len(members), 1):
                        rows.append((found.name, component, end, label, counts[label]))
    return pd.DataFrame(rows, columns=["comparison", "direction", "end", "label", "n"])


def contrast_weights(
    projections: np.ndarray, labels: np.ndarray, label: int, n: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n_test,) of a contrast, and of the mean over its class.

    The ``n`` examples of class ``label`` with the largest projections (n_test,) against the half of
    it with the smallest; against all others where the rest has fewer than two.
    """
    in_class = labels == label
    order = np.flatnonzero(in_class)[np.argsort(-projections[in_class], kind="stable")]
    members, rest = order[:n], order[max(n, len(order) - len(order) // 2) :]
    if len(rest) < 2:
        rest = np.setdiff1d(np.arange(len(labels)), members)
    weights, of_class = np.zeros(len(labels)), np.zeros(len(labels))
    weights[members], weights[rest] = 1 / len(members), -1 / max(len(rest), 1)
    of_class[in_class] = 1 / in_class.sum()
    return weights, of_class


def contrasts(
    first: Outputs, second: Outputs, weights: np.ndarray, of_class: np.ndarray
) -> np.ndarray:
    """Contrast datamodels of both algorithms, measured; for `measured_uses`.

    Parameters
    ----------
    first, second : Outputs
        In as many groups.
    weights, of_class : ndarray, shape (n_test, p)
        Of `contrast_weights`.

    Returns
    -------
    ndarray, shape (1 + n_groups, 5, p)
        Squared length of the first, of the second, their inner product, and the mean squared length
        of either's datamodels in the class, as `mdhelpers.method.evidence.products` gives them.
    """
    chosen = torch.from_numpy(np.asarray(weights, np.float32)).to(first.device)
    one, two = (outputs.contrasts(chosen) for outputs in (first, second))
    lengths = [outputs.squared_lengths @ of_class for outputs in (first, second)]
    return np.stack([products(one, one), products(two, two), products(one, two), *lengths], 1)


def measured_uses(
    splits: list[list[np.ndarray]], ids: list[list[np.ndarray]], margins: Margins | None = None
) -> pd.DataFrame:
    """Shares, ratio, cosine and a word of each contrast, from what `contrasts` gave.

    Parameters
    ----------
    splits : list of lists of ndarray, shape (1 + n_groups, 5, p)
        Of each split one array a half.
    ids : list of lists of ndarray
        The groups that each half has.
    margins : Margins, optional

    Returns
    -------
    DataFrame
        One row a contrast: ``share_first, share_first_low, share_first_high``, the same of the
        second, ``times, times_low, times_high`` (how many times longer the first's is), ``cosine,
        cosine_low, cosine_high`` (NaN where a length is not above zero), with 95% intervals; and
        ``use``: ``only_1``, ``more_1``, ``only_2``, ``more_2`` (1 is the first), ``alike``,
        ``other_images`` or ``too_few``.
    """
    margins = margins or Margins()
    values, influences = over_splits(splits, ids)
    covariance = np.einsum("gap,gbp->abp", influences, influences)
    shares, of_shares = _shares(values, covariance)
    cosine, of_cosine = _cosine(values, covariance)
    q95, q90 = (interval_quantile(len(influences), level) for level in (0.95, 0.9))
    table = {}
    for name, share, variance in zip(
        ("first", "second"), shares, (of_shares[0, 0], of_shares[1, 1]), strict=True
    ):
        error = np.sqrt(variance)
        table |= {f"share_{name}": share, f"share_{name}_low": share - q95 * error}
        table |= {f"share_{name}_high": share + q95 * error}
    times = [np.sqrt(end) for end in fieller(shares, of_shares, q95)]
    table |= dict(zip(("times", "times_low", "times_high"), times, strict=True))
    table |= {"cosine": cosine, "cosine_low": cosine - q95 * of_cosine}
    table |= {"cosine_high": cosine + q95 * of_cosine}
    found = pd.DataFrame(table)
    low, high = (np.sqrt(end) for end in fieller(shares, of_shares, q90)[1:])
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = (low >= 1 / margins.alike_within) & (high <= margins.alike_within)
        alike &= cosine - q90 * of_cosine >= margins.cosine
        near = np.abs(np.log(found["times"])) <= np.log(margins.alike_within) / 2
        apart = found["cosine_high"] < margins.cosine
        known = (found["share_first_low"] > 0) | (found["share_second_low"] > 0)
        rules = [
            ("too_few", ~known),
            ("only_1", found["times_low"] > 1 / margins.only_below),
            ("only_2", found["times_high"] < margins.only_below),
            ("alike", alike & near),
            ("other_images", apart & near),
            ("more_1", found["times_low"] > 1),
            ("more_2", found["times_high"] < 1),
            ("other_images", apart),
        ]
    words, holds = zip(*rules, strict=True)
    return found.assign(use=np.select(holds, words, "too_few"))


def _shares(values: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shares (2, p) and their covariance (2, 2, p), to first order; NaN where a length is not
    above zero."""
    gradients = np.zeros((2, 5, values.shape[1]))
    lengths = np.where(values[3:] > 0, values[3:], np.nan)
    shares = values[:2] / lengths
    for a in (0, 1):
        gradients[a, a], gradients[a, 3 + a] = 1 / lengths[a], -shares[a] / lengths[a]
    return shares, np.einsum("iap,abp,jbp->ijp", gradients, covariance, gradients)


def _cosine(values: np.ndarray, covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine (p,) and its standard error, to first order; NaN where a length is not above zero."""
    known = (values[0] > 0) & (values[1] > 0)
    one, two = np.where(known, values[:2], np.nan)
    cosine = values[2] / np.sqrt(one * two)
    gradient = np.zeros((5, values.shape[1]))
    gradient[:3] = -cosine / (2 * one), -cosine / (2 * two), 1 / np.sqrt(one * two)
    return cosine, np.sqrt(np.einsum("ap,abp,bp->p", gradient, covariance, gradient))
