import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, kstest

from mdhelpers.method.evidence import Gaps, Outputs, benjamini_hochberg, combine, gaps_along, word

N_TRAIN, N_TEST = 30, 20


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw_masks(rng, n_models):
    order = rng.random((n_models, N_TRAIN)).argsort(1)
    return order < N_TRAIN // 2


def margins_of(rng, masks, weights, noise=1.0):
    return masks @ weights.T + noise * rng.normal(size=(len(masks), len(weights)))


def unit(rng, n):
    directions = rng.normal(size=(n, N_TRAIN))
    directions -= directions.mean(1, keepdims=True)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def measured(masks, margins, **options) -> Outputs:
    return Outputs.measured(masks, margins, np.ones(N_TEST), **options)


def gaps_of(flips: np.ndarray) -> Gaps:
    """Gaps of a first algorithm alone: the second has nothing along any direction."""
    influences = np.stack([2 * flips, np.zeros_like(flips)])
    return Gaps(flips, influences, np.stack([flips.sum(1), np.zeros(len(flips))]))


def test_gaps_are_sums_over_pairs_of_different_models(rng):
    masks = draw_masks(rng, 12)
    margins = [rng.normal(size=(12, N_TEST)) for _ in range(2)]
    directions = unit(rng, 3)
    outputs = [measured(masks, y) for y in margins]
    expected = []
    for u in directions:
        shares = []
        for y, part in zip(margins, outputs, strict=True):
            z = (masks - masks.mean(0)) @ u
            c = z[:, None] * (y - y.mean(0))
            pairs = sum(c[i] @ c[j] for i in range(12) for j in range(12) if i != j)
            shares.append(pairs / part.total)
        expected.append(shares[0] - shares[1])
    np.testing.assert_allclose(gaps_along(*outputs, directions).gap, expected, atol=1e-5)


def test_exchanging_a_pair_turns_the_sign_of_its_part(rng):
    masks = draw_masks(rng, 10)
    one, two = (measured(masks, rng.normal(size=(10, N_TEST))) for _ in range(2))
    one, two = (Outputs(part.masks, part.outputs, 1.0) for part in (one, two))
    directions = unit(rng, 2)
    before = gaps_along(one, two, directions)
    swap = torch.zeros(10, 1, dtype=torch.bool)
    swap[[2, 7]] = True
    mixed = [torch.where(swap, a.outputs, b.outputs) for a, b in ((two, one), (one, two))]
    after = gaps_along(*(Outputs(one.masks, y, 1.0) for y in mixed), directions)
    np.testing.assert_allclose(before.gap, before.flips.sum(1), rtol=1e-3, atol=1e-3)
    signs = np.where(swap.numpy()[:, 0], -1, 1)
    np.testing.assert_allclose(after.gap, before.flips @ signs, rtol=1e-3, atol=1e-3)


def test_the_jackknife_is_what_leaving_a_pair_out_does(rng):
    masks = draw_masks(rng, 10)
    parts = [measured(masks, rng.normal(size=(10, N_TEST))) for _ in range(2)]
    parts = [Outputs(part.masks, part.outputs, 1.0) for part in parts]
    directions = unit(rng, 2)
    gaps = gaps_along(*parts, directions)
    rest = [Outputs(part.masks[1:], part.outputs[1:], 1.0) for part in parts]
    without = gaps_along(*rest, directions).gap
    influence = gaps.influences[0, :, 0] - gaps.influences[1, :, 0]
    np.testing.assert_allclose(gaps.gap - without, influence, rtol=1e-3, atol=1e-3)


def test_noise_does_not_pass_for_a_gap(rng):
    """Equal datamodels, one algorithm far noisier: squared sums differ, the gap does not."""
    weights, u = rng.normal(size=(N_TEST, N_TRAIN)), unit(rng, 1)
    found, naive = [], []
    for _ in range(200):
        masks = draw_masks(rng, 200)
        parts = [measured(masks, margins_of(rng, masks, weights, noise)) for noise in (1, 8)]
        found.append(gaps_along(*parts, u).gap[0])
        sums = [(p.outputs.T @ (p.masks @ torch.tensor(u[0]).float())).numpy() for p in parts]
        naive.append(np.square(sums[1]).sum() / np.square(sums[0]).sum() - 1)
    assert abs(np.mean(found)) < 3 * np.std(found) / 200**0.5
    assert np.mean(naive) > 0.3


def test_p_values_are_uniform_where_algorithms_are_alike(rng):
    weights, u = rng.normal(size=(N_TEST, N_TRAIN)), unit(rng, 1)
    z = []
    for _ in range(300):
        masks = draw_masks(rng, 80)
        parts = [measured(masks, margins_of(rng, masks, weights, 3.0)) for _ in range(2)]
        z.append(gaps_along(*parts, u).z[0])
    assert kstest(z, "norm").pvalue > 0.01


def test_intervals_hold_the_true_gap(rng):
    """A direction that one algorithm's datamodels have and the other's lack."""
    u = unit(rng, 1)
    shared = rng.normal(size=(N_TEST, N_TRAIN))
    shared -= shared.mean(1, keepdims=True)
    shared -= shared @ u.T * u
    one = shared + 3 * rng.normal(size=(N_TEST, 1)) * u
    truth = np.square(one @ u[0]).sum() / np.square(one).sum()
    inside = 0
    for _ in range(100):
        masks = draw_masks(rng, 300)
        parts = [measured(masks, margins_of(rng, masks, w, 2.0)) for w in (one, shared)]
        found = combine([[gaps_along(*parts, u)]])
        inside += found["low"][0] <= truth <= found["high"][0]
        assert found["p"][0] < 1e-3
    assert inside >= 85


def test_slots_are_centred_apart(rng):
    masks, slots = draw_masks(rng, 40), np.arange(40) % 4
    margins = rng.normal(size=(40, N_TEST))
    moved = margins + 100 * rng.normal(size=(4, N_TEST))[slots]
    u = unit(rng, 2)
    plain = [measured(masks, y, slots=slots) for y in (margins, margins[::-1])]
    shifted = [measured(masks, moved, slots=slots), plain[1]]
    np.testing.assert_allclose(
        gaps_along(*plain, u).gap, gaps_along(*shifted, u).gap, rtol=1e-2, atol=1e-4
    )


def test_evidence_of_two_halves_is_stronger_than_of_one(rng):
    half = gaps_of(rng.normal(0.3, 1, size=(1, 100)))
    one, two = combine([[half]]), combine([[half, half]] * 2)
    assert two["p"][0] < one["p"][0]
    assert two["gap"][0] == pytest.approx(one["gap"][0])
    assert two["high"][0] < one["high"][0]
    many = combine([[half, half]] * 5)
    assert many["z"][0] == pytest.approx(2**0.5 * half.z[0] / 1.2**0.5)
    assert one["z"][0] == pytest.approx(half.z[0])


def test_the_pattern_makes_a_faint_difference_sure(rng):
    """Algorithm 1 has a faint pattern along a direction: noise hides the gap, but not the sum."""
    u, pattern = unit(rng, 1), rng.normal(size=N_TEST)
    shared = rng.normal(size=(N_TEST, N_TRAIN))
    shared -= shared @ u.T * u
    by_gap, by_sum = [], []
    for _ in range(60):
        masks = draw_masks(rng, 100)
        weights = shared + 0.6 * pattern[:, None] * u, shared
        parts = [measured(masks, margins_of(rng, masks, w, 3.0)) for w in weights]
        by_gap.append(gaps_along(*parts, u).z[0])
        by_sum.append(gaps_along(*parts, u, pattern[None]).z[0])
    assert np.mean(by_sum) > 2 * np.mean(by_gap) > 0


def test_sums_with_a_pattern_are_standard_normal_where_algorithms_are_alike(rng):
    weights, u = rng.normal(size=(N_TEST, N_TRAIN)), unit(rng, 1)
    z = []
    for _ in range(300):
        masks = draw_masks(rng, 80)
        parts = [measured(masks, margins_of(rng, masks, weights, 3.0)) for _ in range(2)]
        z.append(gaps_along(*parts, u, rng.normal(size=(1, N_TEST))).z[0])
    assert kstest(z, "norm").pvalue > 0.01


def test_the_sum_is_that_of_products_with_the_pattern(rng):
    masks, u = draw_masks(rng, 12), unit(rng, 2)
    margins = [rng.normal(size=(12, N_TEST)) for _ in range(2)]
    patterns = rng.normal(size=(2, N_TEST))
    parts = [Outputs(p.masks, p.outputs, 1.0) for p in (measured(masks, y) for y in margins)]
    z = (masks - masks.mean(0)) @ u.T
    sums = [((y - y.mean(0)) @ patterns.T * z).T for y in margins]
    found = gaps_along(*parts, u, patterns)
    np.testing.assert_allclose(found.flips, sums[0] - sums[1], atol=1e-4)
    np.testing.assert_allclose(found.gap, gaps_along(*parts, u).gap, atol=1e-5)


def test_mixed_directions_have_mixed_gaps(rng):
    gaps = gaps_of(rng.normal(size=(3, 8)))
    weights = np.array([[0.5, 0.5, 0], [0, 0, 1]])
    mixed = gaps.mixed(weights)
    np.testing.assert_allclose(mixed.gap, weights @ gaps.gap)
    np.testing.assert_allclose(mixed.flips, weights @ gaps.flips)
    np.testing.assert_allclose(mixed.z[1], gaps.z[2])
    np.testing.assert_allclose(mixed.covariance[:, 1], gaps.covariance[:, 2])
    np.testing.assert_allclose(mixed.levels[0] - mixed.levels[1], mixed.gap)


def test_levels_are_the_two_sides_of_the_gap(rng):
    masks, u = draw_masks(rng, 30), unit(rng, 4)
    one, two = (
        measured(masks, margins_of(rng, masks, rng.normal(size=(N_TEST, N_TRAIN))))
        for _ in range(2)
    )
    gaps, back = gaps_along(one, two, u), gaps_along(two, one, u)
    np.testing.assert_allclose(gaps.levels[0] - gaps.levels[1], gaps.gap, atol=1e-6)
    np.testing.assert_allclose(gaps.levels, back.levels[::-1])


def test_the_ratio_s_interval_holds_the_true_ratio(rng):
    """One algorithm has three times the other's variance along a direction."""
    u = unit(rng, 1)
    rest = rng.normal(size=(N_TEST, N_TRAIN))
    rest -= rest @ u.T * u
    along = rng.normal(size=(N_TEST, 1))
    inside, ratios = 0, []
    for _ in range(100):
        masks = draw_masks(rng, 400)
        parts = [
            measured(masks, margins_of(rng, masks, rest + size * along * u, 2.0))
            for size in (2 * 3**0.5, 2)
        ]
        parts = [Outputs(part.masks, part.outputs, 1.0) for part in parts]
        found = combine([[gaps_along(*parts, u)]])
        ratios.append(found["ratio"][0])
        inside += found["ratio_low"][0] <= 3 <= found["ratio_high"][0]
    assert np.median(ratios) == pytest.approx(3, rel=0.1)
    assert 85 <= inside <= 100
    assert np.ptp(ratios) > 0.1


def test_the_ratio_to_nothing_is_without_bound(rng):
    flips = rng.normal(1, 0.1, size=(1, 50))
    influences = np.stack([2 * flips, rng.normal(0, 1, size=(1, 50))])
    found = combine([[Gaps(flips, influences, np.array([[50.0], [0.0]]))]])
    assert found["ratio"][0] == found["ratio_high"][0] == np.inf
    assert 0 < found["ratio_low"][0] < np.inf
    nothing = combine([[Gaps(flips, influences, np.array([[0.0], [50.0]]))]])
    assert nothing["ratio_low"][0] == 0


def test_false_discoveries_are_controlled_as_scipy_does(rng):
    p = rng.random(25) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))


def test_models_that_do_not_pair_are_refused(rng):
    one, two = (measured(draw_masks(rng, n), rng.normal(size=(n, N_TEST))) for n in (8, 10))
    with pytest.raises(ValueError, match="as many models of both"):
        gaps_along(one, two, unit(rng, 1))


@pytest.mark.parametrize(
    ("q", "replication", "gap", "expected"),
    [
        (0.01, 0.9, 0.1, "strong"),
        (0.01, 0.2, 0.1, "weak"),
        (0.1, 0.9, 0.1, "weak"),
        (0.5, 0.9, 0.1, "none"),
        (0.01, 0.9, -0.1, "none"),
    ],
)
def test_evidence_has_a_word(q, replication, gap, expected):
    assert word(q, replication, gap) == expected
