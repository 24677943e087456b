"""Effects against known answers, a loop, and the coverage that a 95% interval promises."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mdhelpers.method.effects import Effect, difference, treatment_effect, verdict


def confidences(rng, n_models=30, n_examples=40, *, shift=0.1, spread=0.02):
    """Before, and after: a shift that varies with the model, the example and both."""
    before = rng.uniform(0.3, 0.5, (n_models, n_examples))
    noise = (
        rng.normal(0, spread, (n_models, 1))
        + rng.normal(0, spread, (1, n_examples))
        + rng.normal(0, spread, (n_models, n_examples))
    )
    return before, before + shift + noise


def effect(mean, half_width):
    return Effect(mean, mean - half_width, mean + half_width, 10, 10)


def test_constant_shift_is_known_exactly():
    before = np.random.default_rng(0).uniform(0, 0.5, (7, 11)).astype(np.float32)
    result = treatment_effect(before, before + 0.25)
    assert result.mean == pytest.approx(25, abs=1e-4)
    assert (result.low, result.high) == pytest.approx((25, 25), abs=1e-4)
    assert (result.n_models, result.n_examples) == (7, 11)


def test_the_interval_is_that_of_both_means():
    """Where models vary alone, or images alone, it is the usual interval of their mean."""
    rng = np.random.default_rng(1)
    for axis, n in ((0, 12), (1, 30)):
        varies = rng.normal(0.1, 0.02, (n, 1) if axis == 0 else (1, n))
        before = np.full((12, 30), 0.4)
        change = 100 * np.broadcast_to(varies, before.shape).mean(1 - axis)
        result = treatment_effect(before, before + varies)
        expected = ttest_1samp(change, 0).confidence_interval(0.95)
        assert (result.low, result.high) == pytest.approx((expected.low, expected.high))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(300):
        result = treatment_effect(*confidences(rng))
        hits += result.low <= 10 <= result.high
    assert 0.92 <= hits / 300 <= 0.99


@pytest.mark.parametrize("n_slots", [4, 8, 32])
def test_models_that_share_initialisations_are_not_taken_for_independent(n_slots):
    """What an initialisation does to an effect is common to its models; so few were drawn."""
    rng, slots, hits, naive = np.random.default_rng(3), np.arange(64) % n_slots, 0, 0
    for _ in range(200):
        before, after = confidences(rng, n_models=64)
        after = after + rng.normal(0, 0.05, n_slots)[slots][:, None]
        result, plain = (treatment_effect(before, after, slots=s) for s in (slots, None))
        hits += result.low <= 10 <= result.high
        naive += plain.low <= 10 <= plain.high
    assert 0.91 <= hits / 200 <= 0.99
    assert naive < hits


def test_one_initialisation_does_not_tell_of_others():
    before, after = confidences(np.random.default_rng(4))
    result = treatment_effect(before, after, slots=np.zeros(30, int))
    assert (result.low, result.high) == (-100, 100)
    gap = difference(before, after, before, after, slots_1=np.zeros(30, int))
    assert (gap.low, gap.high) == (-200, 200)


def test_swapping_before_and_after_turns_the_sign():
    before, after = confidences(np.random.default_rng(4))
    forth, back = treatment_effect(before, after), treatment_effect(after, before)
    assert (back.mean, back.low, back.high) == pytest.approx((-forth.mean, -forth.high, -forth.low))


def test_difference_uses_the_same_examples_for_both():
    """Noise that both algorithms share, example by example, cancels; alone it does not."""
    rng = np.random.default_rng(6)
    per_example = rng.normal(0, 0.1, (1, 50))
    before_1, before_2 = np.full((20, 50), 0.5), np.full((15, 50), 0.4)
    after_1, after_2 = before_1 + per_example + 0.05, before_2 + per_example
    result = difference(before_1, after_1, before_2, after_2)
    assert (result.mean, result.low, result.high) == pytest.approx((5, 5, 5))
    assert result.n_models == 15
    alone = treatment_effect(before_1, after_1)
    assert alone.high - alone.low > 3


def test_difference_is_antisymmetric():
    rng = np.random.default_rng(7)
    one, two = confidences(rng), confidences(rng, shift=0.0)
    forth, back = difference(*one, *two), difference(*two, *one)
    assert back.mean == pytest.approx(-forth.mean)
    assert back.low == pytest.approx(-forth.high)
    assert forth.low > 0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (np.zeros((3, 4)), np.zeros((3, 5)), "shape"),
        (np.zeros(4), np.zeros(4), "shape"),
        (np.zeros((1, 4)), np.zeros((1, 4)), "at least two"),
        (np.full((3, 4), np.nan), np.zeros((3, 4)), "before holds NaN"),
        (np.zeros((3, 4)), np.full((3, 4), 40.0), "after holds"),
    ],
)
def test_unusable_confidences_are_refused(before, after, message):
    with pytest.raises(ValueError, match=message):
        treatment_effect(before, after)


def test_difference_refuses_different_examples():
    with pytest.raises(ValueError, match="same examples"):
        difference(*[np.zeros((3, 4))] * 2, *[np.zeros((3, 5))] * 2)


def test_single_precision_softmax_may_pass_one_by_rounding():
    ones = np.full((2, 2), 1 + 1e-7)
    assert treatment_effect(ones, ones).mean == 0


@pytest.mark.parametrize(
    ("mean_1", "mean_2", "uses", "outcome"),
    [
        (30, 1, 1, "distinguishing"),
        (1, 30, 2, "distinguishing"),
        (1, 30, 1, "opposite"),
        (30, 1, 2, "opposite"),
        (30, 25, 1, "not shown"),
        (1, 1, 1, "not shown"),
        (10.5, 1, 1, "not shown"),  # the mean passes, the interval does not
        (30, 4.5, 1, "not shown"),
    ],
)
def test_verdict(mean_1, mean_2, uses, outcome):
    result = verdict(effect(mean_1, 1), effect(mean_2, 1), epsilon=5, delta=10, uses=uses)
    assert result.outcome == outcome
    assert result.distinguishing == (outcome == "distinguishing")


def test_verdict_says_what_was_compared():
    names = ("fixed", "shifted")
    shown = verdict(effect(30, 2), effect(1, 1), epsilon=5, delta=10, uses=1, names=names)
    assert "fixed by +30.0 (+28.0 to +32.0) points" in shown.text
    assert "at most 5 for shifted" in shown.text
    missed = verdict(effect(30, 2), effect(7, 1), epsilon=5, delta=10, uses=1, names=names)
    assert "for shifted it ends at +8.0, above the 5 allowed" in missed.text
    assert "fixed the interval" not in missed.text


def test_verdict_refuses_meaningless_settings():
    with pytest.raises(ValueError, match="below delta"):
        verdict(effect(1, 1), effect(1, 1), epsilon=5, delta=5, uses=1)
    with pytest.raises(ValueError, match="uses is 0"):
        verdict(effect(1, 1), effect(1, 1), epsilon=1, delta=5, uses=0)
