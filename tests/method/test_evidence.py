import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, kstest

from mdhelpers.method.evidence import (
    Gaps,
    Outputs,
    benjamini_hochberg,
    combine,
    explained,
    fieller,
    group_models,
    jackknife,
    over_splits,
    products,
    residual_along,
    word,
)

N_TRAIN, N_TEST = 30, 20


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def draw_masks(rng, n_models, alpha=0.5):
    order = rng.random((n_models, N_TRAIN)).argsort(1)
    return order < round(alpha * N_TRAIN)


def margins_of(rng, masks, weights, noise=1.0):
    return masks @ weights.T + noise * rng.normal(size=(len(masks), len(weights)))


def unit(rng, n):
    """Directions without a mean: masks of equal sizes say nothing of a mean."""
    directions = rng.normal(size=(n, N_TRAIN))
    directions -= directions.mean(1, keepdims=True)
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def datamodels(rng):
    weights = rng.normal(size=(N_TEST, N_TRAIN))
    return weights - weights.mean(1, keepdims=True)


def measured(masks, margins, **options) -> Outputs:
    return Outputs.measured(masks, margins, np.ones(N_TEST), **options)


def gaps_of(parts, u, rng, others=None):
    """`residual_along` with a pattern and other datamodels of no meaning."""
    patterns = rng.normal(size=(len(u), N_TEST))
    others = rng.normal(size=(N_TEST, N_TRAIN)) if others is None else others
    return Gaps(residual_along(*parts, u, patterns, others), np.zeros((1, 2, len(u))))


def test_products_are_means_over_pairs_of_different_groups(rng):
    one, two = rng.normal(size=(2, 5, 3, 4))
    found = products(torch.from_numpy(one), torch.from_numpy(two))
    for row, left_out in enumerate([None, *range(5)]):
        pairs = [
            one[s] * two[t] for s in range(5) for t in range(5) if s != t and left_out not in (s, t)
        ]
        np.testing.assert_allclose(found[row], np.mean(pairs, 0).sum(-1), rtol=1e-6)


def test_the_jackknife_gives_a_mean_its_standard_error(rng):
    values = rng.normal(size=12)
    without = [np.delete(values, i).mean() for i in range(12)]
    stacked = np.array([values.mean(), *without])
    error = np.sqrt(np.square(jackknife(stacked)).sum())
    assert error == pytest.approx(values.std(ddof=1) / 12**0.5)


def test_what_is_tested_is_the_determinant_over_pairs_of_groups(rng):
    masks = draw_masks(rng, 12)
    parts = [measured(masks, rng.normal(size=(12, N_TEST))) for _ in range(2)]
    u, patterns = unit(rng, 2), rng.normal(size=(2, N_TEST))
    others = rng.normal(size=(N_TEST, N_TRAIN))
    estimates = [np.einsum("mx,mn->mxn", p.outputs.numpy(), p.masks.numpy()) for p in parts]
    along = [e @ u.T for e in estimates]  # (models, tests, directions)
    toward = [(e * others).sum(-1) for e in estimates]

    def by_hand(models):
        pairs = [(s, t) for s in models for t in models if s != t]
        terms = [
            toward[1][s][:, None] * along[0][t] - toward[0][s][:, None] * along[1][t]
            for s, t in pairs
        ]
        return (np.mean(terms, 0) * patterns.T).sum(0)

    found = residual_along(*parts, u, patterns, others)
    np.testing.assert_allclose(found[0], by_hand(range(12)), rtol=1e-3)
    np.testing.assert_allclose(found[4], by_hand([i for i in range(12) if i != 3]), rtol=1e-3)


def test_explained_variance_is_that_of_the_datamodels(rng):
    weights, u = datamodels(rng), unit(rng, 3)
    masks = draw_masks(rng, 20_000)
    found = explained(measured(masks, margins_of(rng, masks, weights, 0.5)), u)
    truth = np.square(weights @ u.T).sum(0) / np.square(weights).sum()
    np.testing.assert_allclose(found[0], truth, rtol=0.1)


@pytest.mark.parametrize("by_slot", [False, True])
def test_noise_is_no_part_of_what_is_called_noise_free(rng, by_slot):
    """Centring within slots makes a slot's models depend on each other: 8 slots of 4 models."""
    slots = np.arange(32) % 8 if by_slot else None
    lengths, naive = [], []
    for _ in range(300):
        masks = draw_masks(rng, 32)
        outputs = measured(masks, rng.normal(size=(32, N_TEST)), slots=slots)
        lengths.append(outputs.squared_lengths[0].mean())
        sums = (outputs.masks.T @ outputs.outputs).square().sum(0).mean()
        naive.append(float(sums) / outputs.n_groups**2)
    assert abs(np.mean(lengths)) < 4 * np.std(lengths) / 300**0.5
    assert np.std(lengths) / 300**0.5 < 0.02 * np.mean(naive)


KINDS = (
    "alike",
    "noisier",
    "scaled",
    "scaled by example",
    "noisier on some examples",
    "heavy tails",
    "wild models",
    "noise by mask",
)


def awkward(kind, rng, y, masks):
    """Outputs of an algorithm that differs from another, and not in its datamodels."""
    noise = rng.normal(size=y.shape)
    return {
        "alike": y,
        "noisier": y + 6 * noise,
        "scaled": 5 * y,
        "scaled by example": y * np.exp(rng.normal(size=y.shape[1])),
        "noisier on some examples": y + 8 * (np.arange(y.shape[1]) < 7) * noise,
        "heavy tails": y + rng.standard_t(2.1, size=y.shape),
        "wild models": y + 40 * (rng.random(len(y)) < 0.05)[:, None] * noise,
        "noise by mask": y + 6 * masks[:, :8].mean(1)[:, None] * noise,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_algorithms_that_differ_in_noise_or_scale_do_not_differ_in_use(rng, kind):
    """Both have the same normalised datamodels: p-values are not too small."""
    weights, u, z = datamodels(rng), unit(rng, 2), []
    for _ in range(200):
        masks = draw_masks(rng, 64)
        margins = [margins_of(rng, masks, weights, 2.0) for _ in range(2)]
        margins[1] = awkward(kind, rng, margins[1], masks)
        parts = [measured(masks, y) for y in margins]
        z.append(gaps_of(parts, u, rng, others=weights).z)
    z = np.array(z)
    assert abs(z.mean()) < 0.25
    assert np.mean(z > 1.645) < 0.09
    assert np.mean(z < -1.645) < 0.09


def test_p_values_are_uniform_where_algorithms_are_alike(rng):
    weights, u, z = datamodels(rng), unit(rng, 1), []
    for _ in range(300):
        masks = draw_masks(rng, 100)
        parts = [measured(masks, margins_of(rng, masks, weights, 3.0)) for _ in range(2)]
        z.append(gaps_of(parts, u, rng, others=weights).z[0])
    assert kstest(z, "norm").pvalue > 0.01


def test_initialisations_with_datamodels_of_their_own_are_not_called_a_difference(rng):
    """Each slot's datamodels deviate as far as they are long: what is random is the slot."""
    weights, u, z = datamodels(rng), unit(rng, 1), []
    slots = np.arange(128) % 16
    for _ in range(150):
        masks, parts = draw_masks(rng, 128), []
        for _ in range(2):
            margins = np.empty((128, N_TEST))
            for slot in range(16):
                rows = slots == slot
                margins[rows] = margins_of(rng, masks[rows], weights + datamodels(rng))
            parts.append(measured(masks, margins, slots=slots))
        z.append(gaps_of(parts, u, rng, others=weights).z[0])
    assert np.mean(np.array(z) > 1.645) < 0.1
    assert np.std(z) < 1.15


def test_a_faint_pattern_is_found(rng):
    """Algorithm 1 has a faint pattern along a direction: noise hides the gap, but not the sum."""
    u, pattern = unit(rng, 1), rng.normal(size=N_TEST)
    shared = datamodels(rng)
    shared -= shared @ u.T * u
    z, gaps = [], []
    for _ in range(60):
        masks = draw_masks(rng, 100)
        weights = shared + 0.6 * pattern[:, None] * u, shared
        parts = [measured(masks, margins_of(rng, masks, w, 3.0)) for w in weights]
        found = Gaps.along(*parts, u, pattern[None], shared)
        levels = found.levels[:, 0] - found.levels[:, 1]
        z.append(found.z[0])
        gaps.append(levels[0, 0] / np.sqrt(np.square(jackknife(levels)).sum()))
    assert np.mean(z) > 1.5 * np.mean(gaps) > 0
    assert np.mean(z) > 2


def test_intervals_hold_the_true_gap_and_ratio(rng):
    """One algorithm has four times the other's variance along a direction, and is noisier."""
    u, shared = unit(rng, 1), datamodels(rng)
    shared -= shared @ u.T * u
    along = 3 * rng.normal(size=(N_TEST, 1)) * u
    weights = shared + 2 * along, shared + along
    one, two = (np.square(w @ u[0]).sum() / np.square(w).sum() for w in weights)
    inside = np.zeros(2)
    for _ in range(200):
        masks = draw_masks(rng, 200)
        parts = [
            measured(masks, margins_of(rng, masks, w, s))
            for w, s in zip(weights, (6, 2), strict=True)
        ]
        levels = np.stack([explained(part, u) for part in parts], 1)
        gaps = Gaps(np.zeros_like(levels[:, 0]), levels)
        found = combine([[gaps]], [[parts[0].ids]])
        inside += (
            found["low"][0] <= one - two <= found["high"][0],
            (found["ratio_low"][0] <= one / two <= found["ratio_high"][0]),
        )
    assert (inside >= 180).all()
    assert (inside <= 199).all()


def test_slots_are_centred_apart(rng):
    masks, slots = draw_masks(rng, 64), np.arange(64) % 16
    margins = rng.normal(size=(64, N_TEST))
    moved = margins + 100 * rng.normal(size=(16, N_TEST))[slots]
    u = unit(rng, 2)
    plain, shifted = (explained(measured(masks, y, slots=slots), u) for y in (margins, moved))
    np.testing.assert_allclose(plain, shifted, rtol=1e-2, atol=1e-3)


def test_groups_hold_whole_slots_and_are_not_too_many():
    assert group_models(5).tolist() == [0, 1, 2, 3, 4]
    assert group_models(200).max() == 63
    slots = np.repeat(np.arange(100), 3) * 7
    groups = group_models(300, slots)
    assert groups.max() == 63
    for slot in np.unique(slots):
        assert len(np.unique(groups[slots == slot])) == 1


def test_splits_that_agree_are_no_more_certain_than_one(rng):
    values, ids = rng.normal(size=(7, 2)), np.arange(6)
    one = over_splits([[values]], [[ids]])
    thrice = over_splits([[values]] * 3, [[ids]] * 3)
    np.testing.assert_allclose(one[0], thrice[0])
    np.testing.assert_allclose(one[1], thrice[1])
    # Of two halves each says half, and each group is in one of them.
    halves = over_splits([[values, values]], [[ids, ids + 6]])
    np.testing.assert_allclose(np.square(halves[1]).sum(0), np.square(one[1]).sum(0) / 2)


def test_evidence_of_two_halves_is_stronger_than_of_one(rng):
    tested = np.array([1.0, *(1 + 0.1 * rng.normal(size=30))])[:, None]
    half, ids = Gaps(tested, np.ones((31, 2, 1))), np.arange(30)
    one = combine([[half]], [[ids]])
    many = combine([[half, half]] * 5, [[ids, ids + 30]] * 5)
    assert many["z"][0] == pytest.approx(2**0.5 * half.z[0] / 1.2**0.5)
    assert one["z"][0] == pytest.approx(half.z[0])
    assert many["p"][0] < one["p"][0]


def test_mixed_directions_have_mixed_gaps(rng):
    gaps = Gaps(rng.normal(size=(9, 3)), rng.normal(size=(9, 2, 3)))
    weights = np.array([[0.5, 0.5, 0], [0, 0, 1]])
    mixed = gaps.mixed(weights)
    np.testing.assert_allclose(mixed.z[1], gaps.z[2])
    np.testing.assert_allclose(mixed.levels[..., 0], gaps.levels[..., :2].mean(-1))
    np.testing.assert_allclose(mixed.tested[:, 0], gaps.tested[:, :2].mean(1))


def test_the_ratio_to_nothing_is_without_bound():
    covariance = np.diag([0.01, 0.01])[..., None]
    ratio, low, high = fieller(np.array([[1.0], [0.0]]), covariance, 1.96)
    assert ratio[0] == high[0] == np.inf
    assert 0 < low[0] < np.inf
    assert fieller(np.array([[0.0], [1.0]]), covariance, 1.96)[1][0] == 0
    below = fieller(np.array([[1.0], [-1.0]]), covariance, 1.96)
    assert below[0][0] == below[2][0] == np.inf


def test_false_discoveries_are_controlled_as_scipy_does(rng):
    p = rng.random(25) ** 2
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p))


def test_outputs_of_other_examples_or_groups_are_refused(rng):
    one, two = (measured(draw_masks(rng, n), rng.normal(size=(n, N_TEST))) for n in (20, 30))
    with pytest.raises(ValueError, match="as many of both algorithms"):
        residual_along(one, two, unit(rng, 1), np.ones((1, N_TEST)), np.ones((N_TEST, N_TRAIN)))


@pytest.mark.parametrize(
    ("q", "replication", "gap_low", "expected"),
    [
        (0.01, 0.9, 0.1, "strong"),
        (0.01, 0.2, 0.1, "weak"),
        (0.01, 0.9, -0.1, "weak"),
        (0.1, 0.9, 0.1, "weak"),
        (0.5, 0.9, 0.1, "none"),
        (np.nan, 0.9, 0.1, "too few"),
    ],
)
def test_evidence_has_a_word(q, replication, gap_low, expected):
    assert word(q, replication, gap_low) == expected
