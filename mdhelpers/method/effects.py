r"""Does a transformation change one algorithm's models and not the other's? (paper, Definition 2)

A hypothesis such as "only models trained without augmentation use the tag" is tested by adding
the tag to test images and watching the models' softmax confidence in one class,

.. math:: \mathbb{E}_{x, \, M} \big[ p_M(F(x)) - p_M(x) \big] .

The paper takes the expectation over test images *and* over the randomness of training, so the
intervals here are over both: the variance of a mean over images plus that over models. Models that
share an initialisation are not independent; where some do, what varies are the initialisations.
Where there is one of them, nothing bounds the effect of another but that it lies within 100 points.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import t as student

EFFECT_COLUMNS = ("hypothesis", "transformation", "intensity", "class_name", "algorithm")
_POINTS = 100.0  # percentage points in a unit of confidence


@dataclass(frozen=True)
class Effect:
    """Mean change of confidence, in percentage points, with its 95% interval.

    Attributes
    ----------
    mean, low, high : float
        Percentage points.
    n_models, n_examples : int
        What was averaged over; of a difference, the smaller number of models.
    """

    mean: float
    low: float
    high: float
    n_models: int
    n_examples: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f}) points"


@dataclass(frozen=True)
class Verdict:
    """What Definition 2 says about one transformation.

    Attributes
    ----------
    distinguishing : bool
        Whether the effects bear out the hypothesis, intervals included.
    outcome : {"distinguishing", "opposite", "not shown"}
    text : str
        What was compared, in plain words and with the figures.
    """

    distinguishing: bool
    outcome: Literal["distinguishing", "opposite", "not shown"]
    text: str


def treatment_effect(before, after, *, slots: np.ndarray | None = None) -> Effect:
    """Mean change of the softmax confidence in one class (paper, Definition 2 and B.4).

    The interval is Student's, with Satterthwaite's degrees of freedom, and covers other trainings
    and other test images; what varies with both is counted under each.

    Parameters
    ----------
    before, after : array_like, shape (n_models, n_examples)
        Confidence in the class, in [0, 1], without and with the transformation.
    slots : ndarray, shape (n_models,), int, optional
        Initialisations that models share.

    Returns
    -------
    Effect
        In percentage points, with a 95% interval.

    Raises
    ------
    ValueError
        If the arrays differ in shape, hold NaN or leave [0, 1], or hold fewer than two models
        or examples.
    """
    change = _change(before, after)
    return _effect(change.mean(), _parts(change, slots), change.mean(0), change.shape)


def difference(
    before_1,
    after_1,
    before_2,
    after_2,
    *,
    slots_1: np.ndarray | None = None,
    slots_2: np.ndarray | None = None,
) -> Effect:
    """Effect on models of algorithm 1 minus the effect on models of algorithm 2.

    Both see the same examples, which vary together; the models of the two algorithms vary on their
    own.

    Parameters
    ----------
    before_1, after_1 : array_like, shape (n_models_1, n_examples)
        Confidence in the class under algorithm 1, in [0, 1].
    before_2, after_2 : array_like, shape (n_models_2, n_examples)
        The same under algorithm 2, for the same examples in the same order.
    slots_1, slots_2 : ndarray, shape (n_models_1,) and (n_models_2,), int, optional
        Initialisations that models of either share.

    Raises
    ------
    ValueError
        As `treatment_effect`, or if the examples are not as many.
    """
    change_1, change_2 = _change(before_1, after_1), _change(before_2, after_2)
    n_examples = change_1.shape[1]
    if change_2.shape[1] != n_examples:
        raise ValueError(
            f"Algorithm 1 has {n_examples} examples and algorithm 2 has {change_2.shape[1]}; "
            "give confidences for the same examples in the same order."
        )
    parts = _parts(change_1, slots_1) + _parts(change_2, slots_2)
    shape = min(len(change_1), len(change_2)), n_examples
    of_example = change_1.mean(0) - change_2.mean(0)
    return _effect(change_1.mean() - change_2.mean(), parts, of_example, shape)


def verdict(
    effect_1: Effect,
    effect_2: Effect,
    *,
    epsilon: float,
    delta: float,
    uses: Literal[1, 2],
    names: tuple[str, str] = ("algorithm 1", "algorithm 2"),
) -> Verdict:
    """Whether a transformation is (epsilon, delta)-distinguishing (paper, Definition 2).

    Distinguishing: the effect on the algorithm said to use the feature is at least `delta` and
    the effect on the other at most `epsilon`, each with its whole 95% interval. Opposite: the
    same with the algorithms exchanged. Anything else is not shown, one way or the other.

    Parameters
    ----------
    effect_1, effect_2 : Effect
        Of the transformation on models of algorithms 1 and 2, in percentage points.
    epsilon, delta : float
        Percentage points; `epsilon` must be below `delta`.
    uses : {1, 2}
        The algorithm that the hypothesis says uses the feature.
    names : pair of str
        What the text calls algorithms 1 and 2.

    Raises
    ------
    ValueError
        If `epsilon` is not below `delta` or `uses` is neither 1 nor 2.
    """
    if not epsilon < delta:
        raise ValueError(
            f"epsilon is {epsilon} and delta is {delta}; epsilon must be below delta: "
            "an effect cannot be called both large and absent."
        )
    if uses not in (1, 2):
        raise ValueError(f"uses is {uses!r}; it must be 1 or 2, the algorithm that uses it.")
    sides = [(effect_1, names[0]), (effect_2, names[1])]
    (user, user_name), (other, other_name) = sides if uses == 1 else sides[::-1]
    figures = (
        f"The transformation changes the confidence of {user_name} by {user} "
        f"and that of {other_name} by {other}."
    )
    if user.low >= delta and other.high <= epsilon:
        outcome = "distinguishing"
        reason = (
            f"Distinguishing, as the hypothesis says: at least {delta:g} points for {user_name} "
            f"and at most {epsilon:g} for {other_name}, intervals included."
        )
    elif other.low >= delta and user.high <= epsilon:
        outcome = "opposite"
        reason = (
            f"The opposite of the hypothesis: at least {delta:g} points for {other_name} "
            f"and at most {epsilon:g} for {user_name}, intervals included."
        )
    else:
        outcome = "not shown"
        reason = _shortfall(user, user_name, other, other_name, epsilon, delta)
    return Verdict(outcome == "distinguishing", outcome, f"{figures} {reason}")


def _change(before, after) -> np.ndarray:
    before, after = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if before.shape != after.shape or before.ndim != 2 or min(before.shape) < 2:
        raise ValueError(
            f"before has shape {before.shape} and after {after.shape}; expected the same "
            "(n_models, n_examples), with at least two of each."
        )
    for name, confidence in (("before", before), ("after", after)):
        # Softmax in single precision may pass 1 by a rounding error.
        if not (np.all(confidence >= -1e-6) and np.all(confidence <= 1 + 1e-6)):
            raise ValueError(
                f"{name} holds NaN or values outside [0, 1]; expected softmax confidences: "
                "apply the softmax first, and do not multiply by 100."
            )
    return _POINTS * (after - before)


def _parts(change: np.ndarray, slots: np.ndarray | None) -> list[tuple[float, int]]:
    """Variance of the mean that comes from the models, and its degrees of freedom."""
    of_model = change.mean(1)
    slots = np.arange(len(change)) if slots is None else np.unique(slots, return_inverse=True)[1]
    n = int(slots.max()) + 1
    if n < 2:
        return [(np.inf, 1)]
    # of each slot, what its models add to the mean beyond their share
    added = np.bincount(slots, of_model - of_model.mean()) / len(change)
    return [(float(n / (n - 1) * np.square(added).sum()), n - 1)]


def _effect(mean: float, parts, of_example: np.ndarray, shape: tuple[int, int]) -> Effect:
    n_models, n_examples = shape
    parts = [*parts, (float(of_example.var(ddof=1) / n_examples), n_examples - 1)]
    variance = sum(part for part, _ in parts)
    half = 0.0
    if np.isinf(variance):
        half = np.inf
    elif variance > 0:
        freedom = variance**2 / sum(part**2 / n for part, n in parts)
        half = float(student.isf(0.025, freedom)) * variance**0.5
    most = _POINTS * (1 if len(parts) == 2 else 2)  # of a difference, from one end to the other
    low, high = max(mean - half, -most), min(mean + half, most)
    return Effect(float(mean), float(low), float(high), n_models, n_examples)


def _shortfall(user, user_name, other, other_name, epsilon, delta) -> str:
    reasons = []
    if user.low < delta:
        reasons.append(
            f"for {user_name} the interval begins at {user.low:+.1f}, below the {delta:g} required"
        )
    if other.high > epsilon:
        reasons.append(
            f"for {other_name} it ends at {other.high:+.1f}, above the {epsilon:g} allowed"
        )
    return f"Not shown: {'; '.join(reasons)}."
