r"""Does a transformation change one algorithm's models and not the other's? (paper, Definition 2)

A hypothesis such as "only models trained without augmentation use the tag" is tested by adding
the tag to test images and watching the models' softmax confidence in one class,

.. math:: \mathbb{E}_{x, \, M} \big[ p_M(F(x)) - p_M(x) \big] .

The paper takes the expectation over test images *and* over the randomness of training, so the
intervals here are over both: the variance of a mean over images plus that over models. Models that
share an initialisation are not independent; where some do, what varies are the initialisations.
Where there is one of them, nothing bounds the effect of another but that it lies within 100 points.

**Verdicts** (`verdict`) rest on every intensity. Below :math:`\epsilon` points an effect, or a
difference of two, counts as none; from :math:`\delta` on an effect counts as one. So a difference
is claimed where it surely exceeds :math:`\epsilon` at some intensity (intervals corrected for the
number of intensities), and *alike* and *neither* where a difference, or both effects, surely stay
below it at every intensity: the two one-sided tests of equivalence (Schuirmann, 1987) at 5%, which
need no correction over intensities since all must hold. Claims of a difference are corrected for
the number of hypotheses of a study. What is neither is *undecided*, and it is said how many models
would decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import t as student

EFFECT_COLUMNS = ("hypothesis", "transformation", "intensity", "class_name", "algorithm")
_POINTS = 100.0  # percentage points in a unit of confidence
_LEVEL = 0.05
_MOST_MODELS = 10_000  # more are not asked for

Outcome = Literal["only_1", "only_2", "more_1", "more_2", "alike", "neither", "undecided"]


@dataclass(frozen=True)
class Effect:
    """Mean change of confidence, in percentage points.

    Attributes
    ----------
    mean : float
        Percentage points.
    n_models, n_examples : int
        What was averaged over; of a difference, the smaller number of models.
    of_models, of_examples : tuple of (variance of the mean, degrees of freedom)
        What other trainings, of each algorithm, and other test images would change.
    """

    mean: float
    n_models: int
    n_examples: int
    of_models: tuple[tuple[float, int], ...]
    of_examples: tuple[float, int]

    @property
    def low(self) -> float:
        """Lower end of the 95% interval."""
        return self.interval()[0]

    @property
    def high(self) -> float:
        """Upper end of the 95% interval."""
        return self.interval()[1]

    @property
    def most(self) -> float:
        """How far it can go either way: of a difference, from one end to the other."""
        return _POINTS * len(self.of_models)

    @property
    def spread(self) -> tuple[float, float]:
        """Standard error of the mean, and Satterthwaite's degrees of freedom."""
        parts = [*self.of_models, self.of_examples]
        variance = sum(part for part, _ in parts)
        if variance == 0 or np.isinf(variance):
            return variance**0.5, 1.0
        return variance**0.5, variance**2 / sum(part**2 / n for part, n in parts)

    @property
    def p(self) -> float:
        """Two-sided, of no effect at all."""
        error, freedom = self.spread
        if error == 0:
            return float(self.mean == 0)
        return float(2 * student.sf(abs(self.mean) / error, freedom))

    def interval(self, level: float = _LEVEL) -> tuple[float, float]:
        """The interval that misses the truth in ``level`` of all cases, Student's."""
        error, freedom = self.spread
        half = error * float(student.isf(level / 2, freedom)) if 0 < error < np.inf else error
        return max(self.mean - half, -self.most), min(self.mean + half, self.most)

    def within(self, bound: float, level: float = _LEVEL) -> bool:
        """Whether it surely lies between ± ``bound``: two one-sided tests at ``level``."""
        low, high = self.interval(2 * level)
        return -bound < low and high < bound

    def expected(self, n_models: int) -> "Effect":
        """What would be measured with so many models, if this were the truth."""
        share = self.n_models / n_models
        models = tuple((v * share, max(1, n_models - 1)) for v, _ in self.of_models)
        return replace(self, n_models=n_models, of_models=models)

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ({self.low:+.1f} to {self.high:+.1f}) points"


@dataclass(frozen=True)
class Verdict:
    """What a transformation shows of two algorithms, all intensities taken together.

    Attributes
    ----------
    outcome : {"only_1", "only_2", "more_1", "more_2", "alike", "neither", "undecided"}
        *Only*: Definition 2 where they differ most, one algorithm responds by delta or more and the
        other by epsilon at most. *More*: the one responds more than the other, by more than
        epsilon.
    dose : int
        The intensity, by its number, that the figures are of: where the difference is largest.
    p : float
        Of no difference at any intensity, corrected for their number (Bonferroni).
    n_models : int
        Of an undecided one, how many models would decide if effects are as measured: 0 where only
        more test images would.
    """

    outcome: Outcome
    dose: int
    p: float
    n_models: int = 0


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
        In percentage points.

    Raises
    ------
    ValueError
        If the arrays differ in shape, hold NaN or leave [0, 1], or hold fewer than two models
        or examples.
    """
    change = _change(before, after)
    return _effect(change.mean(), [_of_models(change, slots)], change.mean(0), change.shape)


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
    parts = [_of_models(change_1, slots_1), _of_models(change_2, slots_2)]
    shape = min(len(change_1), len(change_2)), n_examples
    of_example = change_1.mean(0) - change_2.mean(0)
    return _effect(change_1.mean() - change_2.mean(), parts, of_example, shape)


def verdict(
    doses: Sequence[tuple[Effect, Effect, Effect]],
    *,
    epsilon: float,
    delta: float,
    n_hypotheses: int = 1,
) -> Verdict:
    """What a transformation at several intensities shows of two algorithms.

    Parameters
    ----------
    doses : sequence of (effect on 1, effect on 2, effect on 1 less that on 2)
        In percentage points, one of each intensity.
    epsilon, delta : float
        Percentage points; `epsilon`, above 0, must be below `delta`.
    n_hypotheses : int
        How many a study tests: claims of a difference share the error (Bonferroni).

    Raises
    ------
    ValueError
        If `epsilon` is not between 0 and `delta`, or there is no intensity.
    """
    if not 0 < epsilon < delta:
        raise ValueError(
            f"epsilon is {epsilon} and delta is {delta}; epsilon must be above 0 and below delta: "
            "an effect cannot be called both large and absent."
        )
    if not doses:
        raise ValueError("there is no intensity to judge by; give at least one")
    level = _LEVEL / n_hypotheses
    outcome, dose = _outcome(doses, epsilon, delta, level), _widest(doses)
    p = min(1.0, len(doses) * min(d.p for *_, d in doses))
    needed = 0 if outcome != "undecided" else _models_needed(doses, epsilon, delta, level)
    return Verdict(outcome, dose, p, needed)


def _outcome(doses, epsilon: float, delta: float, level: float) -> Outcome:
    each = [_claim(*dose, epsilon, delta, level / len(doses)) for dose in doses]
    claims = {claim for claim in each if claim}
    sides = {claim[-1] for claim in claims}
    if len(sides) == 1:
        return each[_widest(doses)] or f"more_{sides.pop()}"
    if sides:  # one more at one intensity, the other at another
        return "undecided"
    if all(e.within(epsilon) for *effects, _ in doses for e in effects):
        return "neither"
    return "alike" if all(d.within(epsilon) for *_, d in doses) else "undecided"


def _widest(doses) -> int:
    """The intensity, by its number, at which the algorithms differ most."""
    return int(np.argmax([abs(gap.mean) for *_, gap in doses]))


def _claim(one: Effect, two: Effect, gap: Effect, epsilon, delta, level: float) -> str:
    """Which algorithm surely responds more at an intensity; "" where none does."""
    side = 1 if abs(one.mean) >= abs(two.mean) else 2
    user, other = (one, two) if side == 1 else (two, one)
    sign = 1 if user.mean >= 0 else -1
    more = sorted(sign * (1 if side == 1 else -1) * x for x in gap.interval(level))
    if more[0] <= epsilon:
        return ""
    strong = min(sign * x for x in user.interval(level)) >= delta
    weak = max(sign * x for x in other.interval(level)) <= epsilon
    return f"only_{side}" if strong and weak else f"more_{side}"


def _models_needed(doses, epsilon: float, delta: float, level: float) -> int:
    """The fewest models, in steps of a tenth, that would decide if effects are as measured."""
    n = min(one.n_models for one, *_ in doses)
    while n < _MOST_MODELS:
        n = int(np.ceil(1.1 * n))
        expected = [tuple(effect.expected(n) for effect in dose) for dose in doses]
        if _outcome(expected, epsilon, delta, level) != "undecided":
            return n
    return 0


def holm(p: Sequence[float]) -> np.ndarray:
    """P-values corrected for their number (Holm, 1979), (n,) float."""
    p = np.asarray(p, float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(steps, 1)
    return corrected


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


def _of_models(change: np.ndarray, slots: np.ndarray | None) -> tuple[float, int]:
    """Variance of the mean that comes from the models, and its degrees of freedom."""
    of_model = change.mean(1)
    slots = np.arange(len(change)) if slots is None else np.unique(slots, return_inverse=True)[1]
    n = int(slots.max()) + 1
    if n < 2:
        return np.inf, 1
    # of each slot, what its models add to the mean beyond their share
    added = np.bincount(slots, of_model - of_model.mean()) / len(change)
    return float(n / (n - 1) * np.square(added).sum()), n - 1


def _effect(mean: float, parts, of_example: np.ndarray, shape: tuple[int, int]) -> Effect:
    n_models, n_examples = shape
    of_examples = float(of_example.var(ddof=1) / n_examples), n_examples - 1
    return Effect(float(mean), n_models, n_examples, tuple(parts), of_examples)
