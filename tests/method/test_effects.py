"""Effects against known answers, a loop, and the coverage that a 95% interval promises."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mdhelpers.method.effects import Effect, difference, holm, treatment_effect, verdict


def confidences(rng, n_models=30, n_examples=40, *, shift=0.1, spread=0.02):
    """Before, and after: a shift that varies with the model, the example and both."""
    before = rng.uniform(0.3, 0.5, (n_models, n_examples))
    noise = (
        rng.normal(0, spread, (n_models, 1))
        + rng.normal(0, spread, (1, n_examples))
        + rng.normal(0, spread, (n_models, n_examples))
    )
    return before, before + shift + noise


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


def made(mean: float, error: float, n_models: int = 32, n_examples: int = 200, of=1) -> Effect:
    """An effect whose variance comes from models and images in equal parts."""
    half = (error**2 / 2 / of, n_models - 1)
    return Effect(mean, n_models, n_examples, (half,) * of, (error**2 / 2, n_examples - 1))


def dose(mean_1: float, mean_2: float, error: float = 0.5) -> tuple[Effect, Effect, Effect]:
    return made(mean_1, error), made(mean_2, error), made(mean_1 - mean_2, error, of=2)


@pytest.mark.parametrize(
    ("means", "outcome"),
    [
        ([(30, 1)], "only_1"),
        ([(1, 30)], "only_2"),
        ([(30, 12)], "more_1"),
        ([(12, 30)], "more_2"),
        ([(-30, -1)], "only_1"),  # what takes confidence away is a response too
        ([(-3, 30)], "only_2"),
        ([(20, -15)], "only_1"),  # Definition 2: at most epsilon, and -15 is
        ([(30, 29)], "alike"),
        ([(-30, -29)], "alike"),
        ([(1, 2)], "neither"),
        ([(0, 0)], "neither"),
        ([(10.3, 5.2)], "undecided"),  # a difference about as large as epsilon
        ([(2, 2), (11, 2), (30, 2)], "only_1"),  # one intensity is enough,
        ([(2, 2), (20, 2), (60, 12)], "more_1"),  # where they differ most, both respond
        ([(2, 2), (30, 29), (11, 5.9)], "undecided"),  # and all must be alike
        ([(30, 1), (1, 30)], "undecided"),  # one more here, the other there
    ],
)
def test_verdicts_of_effects_that_are_known_well(means, outcome):
    found = verdict([dose(*pair) for pair in means], epsilon=5, delta=10)
    assert found.outcome == outcome
    assert found.dose == int(np.argmax([abs(a - b) for a, b in means]))


def test_exchanging_the_algorithms_exchanges_the_verdict():
    rng = np.random.default_rng(8)
    for _ in range(200):
        one, two = rng.normal(0, 15, 2)
        error = rng.uniform(0.2, 4)
        forth = verdict([dose(one, two, error)], epsilon=5, delta=10).outcome
        back = verdict([dose(two, one, error)], epsilon=5, delta=10).outcome
        assert back == forth.translate(str.maketrans("12", "21"))


def test_more_models_decide_what_fewer_left_open():
    unsure = dose(16, 2, 5.0)
    found = verdict([unsure], epsilon=5, delta=10)
    assert found.outcome == "undecided"
    enough = [tuple(e.expected(found.n_models) for e in unsure)]
    fewer = [tuple(e.expected(int(found.n_models / 1.2)) for e in unsure)]
    assert verdict(enough, epsilon=5, delta=10).outcome == "more_1"
    assert verdict(fewer, epsilon=5, delta=10).outcome == "undecided"


def test_where_images_are_too_few_no_number_of_models_decides():
    image = (9.0, 20)
    effects = [Effect(m, 32, 21, ((0.01, 31),) * of, image) for m, of in ((14, 1), (4, 1), (10, 2))]
    found = verdict([tuple(effects)], epsilon=5, delta=10)
    assert (found.outcome, found.n_models) == ("undecided", 0)


def test_a_claim_of_many_hypotheses_needs_stronger_evidence():
    pair = [dose(9.3, 0.5, 1.3)]
    assert verdict(pair, epsilon=5, delta=10).outcome == "more_1"
    assert verdict(pair, epsilon=5, delta=10, n_hypotheses=20).outcome == "undecided"


def simulated(rng, mean_1, mean_2, n_models=32, n_images=150):
    """A study's confidences: images, models, and both vary; images alike under both."""
    image = rng.normal(0, 0.12, n_images)
    pairs = []
    for mean in (mean_1, mean_2):
        own = rng.normal(0, 0.06, (n_models, 1)) + rng.normal(0, 0.05, n_images)
        change = mean / 100 + image + own + rng.normal(0, 0.1, (n_models, n_images))
        before = np.full(change.shape, 0.5)
        pairs.append((before, np.clip(before + change, 0, 1)))
    one, two = (treatment_effect(*pair) for pair in pairs)
    return one, two, difference(*pairs[0], *pairs[1])


@pytest.mark.slow
def test_intervals_and_claims_of_a_difference_are_as_sure_as_they_say():
    rng, covered, wrong = np.random.default_rng(9), [], 0
    for _ in range(500):
        found = simulated(rng, 12, 7)  # a difference of just epsilon
        for effect, truth in zip(found, (12, 7, 5), strict=True):
            covered.append(effect.low <= truth <= effect.high)
        outcome = verdict([found], epsilon=5, delta=10).outcome
        wrong += outcome not in ("alike", "undecided")
    assert 0.93 <= np.mean(covered) <= 0.97
    assert wrong / 500 <= 0.05


@pytest.mark.slow
def test_equivalence_is_claimed_of_what_is_not_in_five_of_a_hundred():
    rng, wrong, right = np.random.default_rng(10), 0, 0
    for _ in range(500):
        wrong += verdict([simulated(rng, 12, 7)], epsilon=5, delta=10).outcome == "alike"
        right += verdict([simulated(rng, 12, 12)], epsilon=5, delta=10).outcome == "alike"
    assert 0.02 <= wrong / 500 <= 0.07  # nominally 5%, at the edge
    assert right / 500 >= 0.8


def test_corrected_p_values_are_those_by_hand():
    found = holm([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(found, [0.04, 0.09, 0.09, 0.5])
    assert holm([]).shape == (0,)


def test_p_is_that_of_a_t_test_where_models_vary_alone():
    rng = np.random.default_rng(11)
    varies = rng.normal(0.02, 0.03, (12, 1))
    before = np.full((12, 30), 0.4)
    found = treatment_effect(before, before + varies)
    assert found.p == pytest.approx(ttest_1samp(varies.ravel(), 0).pvalue)
    assert treatment_effect(before, before).p == 1


def test_an_effect_is_that_of_a_loop():
    rng = np.random.default_rng(12)
    before, after = rng.random((2, 5, 7))
    changes = [after[m, i] - before[m, i] for m in range(5) for i in range(7)]
    assert treatment_effect(before, after).mean == pytest.approx(100 * sum(changes) / 35, abs=1e-6)


def test_nothing_changed_has_no_effect_at_all():
    same = np.random.default_rng(13).random((4, 6))
    found = treatment_effect(same, same.copy())
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    assert verdict([(found, found, difference(same, same, same, same))], epsilon=5, delta=10).p == 1


@pytest.mark.parametrize(("epsilon", "delta"), [(10, 5), (5, 5), (0, 5), (-1, 5)])
def test_epsilon_must_lie_between_nothing_and_delta(epsilon, delta):
    with pytest.raises(ValueError, match="epsilon"):
        verdict([dose(1, 1)], epsilon=epsilon, delta=delta)


def test_a_verdict_needs_an_intensity():
    with pytest.raises(ValueError, match="no intensity"):
        verdict([], epsilon=5, delta=10)
