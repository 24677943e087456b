r"""How two models differ by their predictions alone: errors, ensembles, specialisation.

The measures are those of Gontijo-Lopes, Dauphin and Cubuk, "No One Representation to Rule Them
All", who set pairs of models from one method that differ in their seed beside pairs from methods
that differ more and more. Where their summary leaves a choice open, the docstring says what was
chosen. Arrays end in an axis of test examples; axes before it are broadcast, so that one call
measures many pairs of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

__all__ = [
    "OUTCOMES",
    "Predictions",
    "conversion_rate",
    "ensemble_gain",
    "ensemble_right",
    "error_inconsistency",
    "expected_inconsistency",
    "outcomes",
    "specialisation_angle",
    "surer_is_right",
]

OUTCOMES = ("both right", "only 1 right", "only 2 right", "both wrong")
Average = Literal["probabilities", "logits"]
_SMALLEST = 1e-30  # of a probability before its logarithm is taken


@dataclass(frozen=True, eq=False)
class Predictions:
    """What some models of one algorithm predict on the test examples.

    Attributes
    ----------
    probabilities : ndarray, shape (n_models, n_test, n_classes), float
        Softmax of the logits.
    labels : ndarray, shape (n_test,), int

    Raises
    ------
    ValueError
        If shapes disagree, a value is not in [0, 1] or a row does not add up to 1.
    """

    probabilities: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        shape, n_test = np.shape(self.probabilities), len(self.labels)
        if len(shape) != 3 or shape[1] != n_test:
            raise ValueError(
                f"probabilities have shape {shape} for {n_test} labels; expected (n_models, "
                f"{n_test}, n_classes)."
            )
        if not shape[0]:
            return
        sums = np.sum(self.probabilities, axis=-1)
        if not (np.min(self.probabilities) >= 0 and np.allclose(sums, 1, atol=1e-3)):
            raise ValueError(
                f"probabilities add up to {sums.min():.3g} to {sums.max():.3g}, the smallest is "
                f"{np.min(self.probabilities):.3g}; expected softmax outputs. Apply the softmax."
            )

    @cached_property
    def right(self) -> np.ndarray:
        """Whether a model's first choice is the label, (n_models, n_test) bool."""
        return first_choice_is(self.probabilities, self.labels)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Confidence in the model's own first choice, right or wrong, (n_models, n_test)."""
        return self.probabilities.max(axis=-1)

    @cached_property
    def label_confidence(self) -> np.ndarray:
        """Confidence in the label, (n_models, n_test)."""
        return self.probabilities[:, np.arange(len(self.labels)), self.labels]


def first_choice_is(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the label's score is above all others; a tie is an error, as in `outputs.is_right`.

    Parameters
    ----------
    scores : ndarray, shape (..., n_test, n_classes)
    labels : ndarray, shape (n_test,), int

    Returns
    -------
    ndarray, shape (..., n_test), bool
    """
    is_label = np.arange(scores.shape[-1]) == np.asarray(labels)[:, None]
    of_label = np.where(is_label, scores, -np.inf).max(axis=-1)
    return of_label > np.where(is_label, -np.inf, scores).max(axis=-1)


def error_inconsistency(right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """Share of the test examples on which exactly one of two models is right (their Figure 1).

    Parameters
    ----------
    right_1, right_2 : ndarray, shape (..., n_test), bool

    Returns
    -------
    ndarray, shape (...), in [0, 1]
    """
    return (_bool(right_1) ^ _bool(right_2)).mean(axis=-1)


def expected_inconsistency(accuracy_1: np.ndarray, accuracy_2: np.ndarray) -> np.ndarray:
    """What the error inconsistency would be if the two models erred independently.

    ``a1 (1 - a2) + a2 (1 - a1)``. Models that find the same examples hard stay below it.

    Parameters
    ----------
    accuracy_1, accuracy_2 : ndarray, in [0, 1]

    Raises
    ------
    ValueError
        If an accuracy is not in [0, 1].
    """
    one, two = np.asarray(accuracy_1, float), np.asarray(accuracy_2, float)
    for name, values in (("accuracy_1", one), ("accuracy_2", two)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"{name} reaches from {values.min():.3g} to {values.max():.3g}; expected shares in "
                "[0, 1]. Divide percentages by 100."
            )
    return one * (1 - two) + two * (1 - one)


def ensemble_right(
    probabilities_1: np.ndarray,
    probabilities_2: np.ndarray,
    labels: np.ndarray,
    *,
    average: Average = "probabilities",
) -> np.ndarray:
    """Whether the ensemble of two models is right.

    The summary of the source does not say what it averages: here the probabilities, or, with
    ``average="logits"``, the logits. The logarithms of the probabilities stand for these: they
    differ by a constant of each example, which moves no first choice.

    Parameters
    ----------
    probabilities_1, probabilities_2 : ndarray, shape (..., n_test, n_classes)
        Softmax outputs.
    labels : ndarray, shape (n_test,), int
    average : {"probabilities", "logits"}

    Returns
    -------
    ndarray, shape (..., n_test), bool

    Raises
    ------
    ValueError
        If ``average`` is neither.
    """
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average is {average!r}; give 'probabilities' or 'logits'.")
    both = np.asarray(probabilities_1), np.asarray(probabilities_2)
    if average == "logits":
        both = tuple(np.log(np.maximum(p, _SMALLEST)) for p in both)
    return first_choice_is(both[0] + both[1], labels)


def conversion_rate(
    right_1: np.ndarray, right_2: np.ndarray, right_ensemble: np.ndarray
) -> np.ndarray:
    """Share of the inconsistent examples that the ensemble gets right (their Figure 2, right).

    Parameters
    ----------
    right_1, right_2, right_ensemble : ndarray, shape (..., n_test), bool

    Returns
    -------
    ndarray, shape (...)
        NaN for a pair that errs on the same examples.
    """
    inconsistent = _bool(right_1) ^ _bool(right_2)
    return _share(_bool(right_ensemble) & inconsistent, inconsistent)


def ensemble_gain(
    right_1: np.ndarray,
    right_2: np.ndarray,
    right_ensemble: np.ndarray,
    *,
    over: Literal["mean", "better"] = "mean",
) -> np.ndarray:
    """Accuracy of the ensemble less that of its members (their Figure 2, left and centre).

    Parameters
    ----------
    right_1, right_2, right_ensemble : ndarray, shape (..., n_test), bool
    over : {"mean", "better"}
        Less the members' mean accuracy, as in the source, or less the better member's.

    Returns
    -------
    ndarray, shape (...), a difference of shares
    """
    if over not in ("mean", "better"):
        raise ValueError(f"over is {over!r}; give 'mean' or 'better'.")
    members = _bool(right_1).mean(axis=-1), _bool(right_2).mean(axis=-1)
    base = np.maximum(*members) if over == "better" else (members[0] + members[1]) / 2
    return _bool(right_ensemble).mean(axis=-1) - base


def specialisation_angle(confidence_1: np.ndarray, confidence_2: np.ndarray) -> np.ndarray:
    """Angle from the diagonal in the confidence–confidence plot (their Figures 3 and 4).

    ``theta = atan(c1 / c2) - pi / 4``: 0 where both models are equally confident, positive where
    model 1 is more so, ``pi / 4`` where model 2 has no confidence at all.

    The summary of the source does not say confidence in what. Histograms of outcomes use that in
    the model's own first choice: with the label's, the model that alone is right would be the
    surer by construction. Which algorithm is better at a class is told by that in the label.

    Parameters
    ----------
    confidence_1, confidence_2 : ndarray, in [0, 1], not both 0

    Returns
    -------
    ndarray, radians in [-pi / 4, pi / 4]

    Raises
    ------
    ValueError
        If a confidence is not in [0, 1].
    """
    one, two = np.asarray(confidence_1), np.asarray(confidence_2)
    for name, values in (("confidence_1", one), ("confidence_2", two)):
        if not ((values >= 0) & (values <= 1 + 1e-5)).all():
            raise ValueError(f"{name} has values outside [0, 1], or NaN; expected confidences.")
    return np.arctan2(one, two) - np.pi / 4


def outcomes(right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """Position in `OUTCOMES` of each example, shape (..., n_test), int."""
    one, two = _bool(right_1), _bool(right_2)
    return np.select([one & two, one & ~two, two & ~one], [0, 1, 2], 3)


def surer_is_right(theta: np.ndarray, right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """Share of the inconsistent examples on which the right model is the surer (their Figure 3).

    Parameters
    ----------
    theta : ndarray, shape (..., n_test)
        Of the confidence in the models' own first choices.
    right_1, right_2 : ndarray, shape (..., n_test), bool

    Returns
    -------
    ndarray, shape (...)
        0.5 where confidence says nothing; equal confidence counts half; NaN without inconsistency.
    """
    one, two = _bool(right_1), _bool(right_2)
    towards_right = np.sign(theta) * (one.astype(int) - two)
    return _share((towards_right + 1) / 2, one ^ two)


def _share(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean of ``values`` over the examples ``among``, NaN where there are none."""
    n = among.sum(axis=-1).astype(float)
    total = np.where(among, values, 0).sum(axis=-1)
    return np.divide(total, n, out=np.full(np.shape(n), np.nan), where=n > 0)


def _bool(right: np.ndarray) -> np.ndarray:
    right = np.asarray(right)
    if right.dtype != bool:
        raise ValueError(
            f"got correctness of dtype {right.dtype}; expected bool, True where right."
        )
    return right
