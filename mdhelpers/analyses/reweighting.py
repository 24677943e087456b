"""Proposition 1, tested: train where a direction's images are likelier, and see what changes.

A direction ``u`` of training examples stands for a family of training distributions: example i is
included with probability ``(1 + s u_i) / 2``. Where datamodels are exact, the outputs on test
example x change by ``s theta_x . u / 2``; their squared change, summed over x, is a quarter of what
the direction explains of datamodels' squared lengths (paper, Proposition 1, with s = 1, where the
quarter is dropped). Here models are trained with probabilities tilted along ``u`` and against it,
on masks that differ as little as may be, and what they say is compared with what datamodels
predict.

Two algorithms that change alike along a direction are not told apart by it, whatever gradients or
fits said. :func:`difference_along` tests that on what was trained: the null of
:mod:`mdhelpers.method.evidence`, with the tilted models' changes in place of datamodels along the
direction. No gradient and no fit has a part in its error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mdhelpers.method.evidence import normal_of

_REACH = 0.96  # of the largest tilt with which all probabilities stay within 0 and 1
_DRAWS = 4096
_ATTEMPTS = 2000


def inclusion(direction: np.ndarray) -> np.ndarray:
    """Change of each example's probability between both tilts, ``s (u_i - mean)``, (n_train,).

    As large as probabilities allow; it sums to zero, since all masks have one size.
    """
    centred = np.asarray(direction, float) - np.mean(direction)
    largest = np.abs(centred).max()
    if not largest > 0:
        raise ValueError("a direction that is the same for all training examples tilts nothing.")
    return _REACH * centred / largest


def tilted_masks(
    direction: np.ndarray, n_pairs: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (n_pairs, n_train) of half of the examples, tilted along a direction and against it.

    Both masks of a pair come from the same uniform draws, so that they differ only where the tilt
    makes them; draws are kept where both have the same size, half of the examples. A direction that
    is constant, or along which too few pairs can be drawn, is a ValueError.
    """
    change, rng = inclusion(direction), np.random.default_rng(seed)
    n_train, kept = len(change), []
    for _ in range(_ATTEMPTS):
        draws = rng.random((_DRAWS, n_train))
        along, against = draws < (1 + change) / 2, draws < (1 - change) / 2
        fits = (along.sum(1) == n_train // 2) & (against.sum(1) == n_train // 2)
        kept += [np.stack(pair) for pair in zip(along[fits], against[fits], strict=True)]
        if len(kept) >= n_pairs:
            masks = np.stack(kept[:n_pairs], axis=1)
            return masks[0], masks[1]
    raise ValueError(
        f"only {len(kept)} of {n_pairs} pairs of masks of {n_train // 2} examples could be drawn "
        "along this direction; ask for fewer."
    )


def predicted_change(weights: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """What datamodels (n_test, n_train) predict of the outputs' change, shape (n_test,)."""
    return np.asarray(weights, float) @ inclusion(direction)


@dataclass(frozen=True)
class TiltEffect:
    """What a tilt did to one algorithm's outputs, beside what was foretold.

    Attributes
    ----------
    measured : ndarray, shape (n_test,)
        Mean change of the outputs.
    correlation : float
        Of predicted and measured changes over test examples.
    ceiling : float
        What the correlation could be at best, the measured changes being means of few models.
    slope : float
        Of measured on predicted changes; 1 where datamodels have the right size.
    size, predicted_size : float
        Root mean square of the true change, noise taken out, and of the predicted one.
    """

    measured: np.ndarray
    correlation: float
    ceiling: float
    slope: float
    size: float
    predicted_size: float


def measure_tilt(along: np.ndarray, against: np.ndarray, predicted: np.ndarray) -> TiltEffect:
    """Compare the change of outputs between pairs of models with what was foretold.

    Parameters
    ----------
    along, against : ndarray, shape (n_pairs, n_test)
        Outputs of models trained with either tilt.
    predicted : ndarray, shape (n_test,)
    """
    changes = np.asarray(along, float) - against
    n, measured = len(changes), changes.mean(0)
    if changes.shape != np.shape(against) or n < 2 or predicted.shape != measured.shape:
        raise ValueError(
            f"outputs have shapes {np.shape(along)} and {np.shape(against)} and predictions "
            f"{predicted.shape}; expected (n_pairs, n_test) twice, from 2 pairs on, and (n_test,)."
        )
    squares = np.square(changes.sum(0)) - np.square(changes).sum(0)
    size = max(float(squares.mean()) / (n * (n - 1)), 0.0)
    spread, noise = measured.var(), (changes.var(0, ddof=1) / n).mean()
    ceiling = np.sqrt(max(spread - noise, 0) / spread) if spread > 0 else 0.0
    moves = measured.std() > 0 and predicted.std() > 0
    return TiltEffect(
        measured=measured,
        correlation=float(np.corrcoef(predicted, measured)[0, 1]) if moves else 0.0,
        ceiling=float(ceiling),
        slope=float(np.polyfit(predicted, measured, 1)[0]) if moves else 0.0,
        size=size**0.5,
        predicted_size=float(np.sqrt(np.square(predicted).mean())),
    )


def difference_along(
    changes: tuple[np.ndarray, np.ndarray],
    toward: tuple[np.ndarray, np.ndarray],
    pattern: np.ndarray,
) -> float:
    """Whether two algorithms change unlike along a direction, standard normal if they do not.

    Of the sum over test examples of ``p_x [(theta2 . g)(theta1 . u) - (theta1 . g)(theta2 . u)]``,
    see :mod:`mdhelpers.method.evidence`: it is 0 where the algorithms' datamodels point the same
    way, however long they are. Large where the residual of the first lies along ``u`` as it was
    found. The datamodels along ``u`` are the changes of tilted models; those along ``g``, which is
    the same for both algorithms, are measured on others, on random masks. Its variance is the sum
    of what pairs and what groups do to it; it has the degrees of freedom of the fewer of them, so
    that it errs on the large side.

    Parameters
    ----------
    changes : two ndarrays, shape (n_pairs, n_test)
        Of both algorithms' outputs, in pairs of models on the same masks.
    toward : two ndarrays, shape (n_groups, n_test)
        Both algorithms' datamodels along ``g``, by group of other models.
    pattern : ndarray, shape (n_test,)
        Residuals of the first along ``u``, as they were found.
    """
    shapes = {np.shape(pair[0]) == np.shape(pair[1]) for pair in (changes, toward)}
    n_test = {np.shape(part)[-1] for part in (*changes, *toward, pattern)}
    if shapes != {True} or len(n_test) > 1 or min(len(changes[0]), len(toward[0])) < 2:
        raise ValueError(
            f"changes have shapes {[np.shape(c) for c in changes]}, toward "
            f"{[np.shape(b) for b in toward]} and the pattern {np.shape(pattern)}; expected "
            "(n_pairs, n_test) and (n_groups, n_test) twice, from 2 on, and (n_test,)."
        )
    (one, two), (own, other) = changes, toward
    by_pair = (one * other.mean(0) - two * own.mean(0)) @ pattern
    by_group = (one.mean(0) * other - two.mean(0) * own) @ pattern
    variances = np.array([part.var(ddof=1) / len(part) for part in (by_pair, by_group)])
    if not variances.sum() > 0:
        return 0.0
    freedom = min(len(by_pair), len(by_group)) - 1
    return float(normal_of(by_pair.mean() / variances.sum() ** 0.5, freedom))
