r"""Does a transformation change one algorithm's models and not the other's? (paper, Definition 2)

A hypothesis such as "only models trained without augmentation use the tag" is tested by adding
the tag to test images and watching the models' softmax confidence in one class,

.. math:: \mathbb{E}_{x, \, M} \big[ p_M(F(x)) - p_M(x) \big] .

The paper takes the expectation over test images *and* over the randomness of training, so the
intervals here resample both: images of the one test set at hand, and models of the ones that were
trained.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

EFFECT_COLUMNS = ("hypothesis", "transformation", "intensity", "class_name", "algorithm")
_POINTS = 100.0  # percentage points in a unit of confidence
_CHUNK = 128  # resamples a matrix product: bounds memory at test sets of 10,000


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


def treatment_effect(before, after, *, n_bootstrap: int = 1000, seed: int = 0) -> Effect:
    """Mean change of the softmax confidence in one class (paper, Definition 2 and B.4).

    Models and examples are resampled independently of each other in every replicate, so the
    interval covers other trainings and other test images. Such a two-way bootstrap errs on
    the wide side.

    Parameters
    ----------
    before, after : array_like, shape (n_models, n_examples)
        Confidence in the class, in [0, 1], without and with the transformation.
    n_bootstrap : int
        Number of resamples.
    seed : int
        Of the resampling.

    Returns
    -------
    Effect
        In percentage points, with a 95% percentile interval.

    Raises
    ------
    ValueError
        If the arrays differ in shape, hold NaN or leave [0, 1], or hold fewer than two models
        or examples.
    """
    change = _change(before, after)
    rng = _generator(n_bootstrap, seed)
    n_models, n_examples = change.shape
    replicates = np.concatenate(
        [
            _resampled_means(change, _weights(rng, n, n_models), _weights(rng, n, n_examples))
            for n in _chunks(n_bootstrap)
        ]
    )
    return _effect(change.mean(), replicates, n_models, n_examples)


def difference(
    before_1, after_1, before_2, after_2, *, n_bootstrap: int = 1000, seed: int = 0
) -> Effect:
    """Effect on models of algorithm 1 minus the effect on models of algorithm 2.

    Both see the same examples, which are therefore resampled together; the models of the two
    algorithms are resampled on their own.

    Parameters
    ----------
    before_1, after_1 : array_like, shape (n_models_1, n_examples)
        Confidence in the class under algorithm 1, in [0, 1].
    before_2, after_2 : array_like, shape (n_models_2, n_examples)
        The same under algorithm 2, for the same examples in the same order.
    n_bootstrap, seed : int
        As in `treatment_effect`, as is what is raised.
    """
    change_1, change_2 = _change(before_1, after_1), _change(before_2, after_2)
    n_examples = change_1.shape[1]
    if change_2.shape[1] != n_examples:
        raise ValueError(
            f"Algorithm 1 has {n_examples} examples and algorithm 2 has {change_2.shape[1]}; "
            "give confidences for the same examples in the same order."
        )
    rng = _generator(n_bootstrap, seed)
    replicates = []
    for n in _chunks(n_bootstrap):
        examples = _weights(rng, n, n_examples)
        means_1 = _resampled_means(change_1, _weights(rng, n, len(change_1)), examples)
        means_2 = _resampled_means(change_2, _weights(rng, n, len(change_2)), examples)
        replicates.append(means_1 - means_2)
    mean = change_1.mean() - change_2.mean()
    n_models = min(len(change_1), len(change_2))
    return _effect(mean, np.concatenate(replicates), n_models, n_examples)


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


def _generator(n_bootstrap: int, seed: int) -> np.random.Generator:
    if n_bootstrap < 1:
        raise ValueError(f"n_bootstrap is {n_bootstrap}; expected at least 1.")
    return np.random.default_rng(seed)


def _chunks(n_bootstrap: int) -> list[int]:
    full, rest = divmod(n_bootstrap, _CHUNK)
    return [_CHUNK] * full + [rest] * (rest > 0)


def _weights(rng: np.random.Generator, n_resamples: int, n: int) -> np.ndarray:
    """How often each of n is drawn, over n: shape (n_resamples, n), rows sum to 1."""
    return rng.multinomial(n, np.full(n, 1 / n), size=n_resamples) / n


def _resampled_means(change, model_weights, example_weights) -> np.ndarray:
    """w_m @ change @ w_x for each row of the two weight matrices."""
    return np.einsum("be,be->b", model_weights @ change, example_weights)


def _effect(mean: float, replicates: np.ndarray, n_models: int, n_examples: int) -> Effect:
    low, high = np.percentile(replicates, [2.5, 97.5])
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
