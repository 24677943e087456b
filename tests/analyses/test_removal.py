"""Removal against enumeration: every mask, every set, of problems small enough for that."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mdhelpers.analyses.removal import (
    RemovalOptions,
    Setting,
    exchange_effects,
    exchange_masks,
    find_brittle,
    mask_effects,
    measure_removals,
    random_sets,
    smallest_flip,
)

N_TRAIN, SIZE = 7, 4


def all_masks():
    masks = np.zeros((35, N_TRAIN), bool)
    for row, members in enumerate(combinations(range(N_TRAIN), SIZE)):
        masks[row, list(members)] = True
    return masks


@pytest.mark.parametrize("members", [[2], [0, 5], [1, 3, 6]])
def test_the_effect_is_that_of_all_masks_with_the_set_against_all_without(members):
    weights = np.random.default_rng(0).normal(size=(3, N_TRAIN))
    masks = all_masks()
    margins = masks @ weights.T + 2
    held = masks[:, members].sum(1)
    wanted = margins[held == len(members)].mean(0) - margins[held == 0].mean(0)
    found = exchange_effects(weights, [np.array(members)])
    np.testing.assert_allclose(found[0], wanted, atol=1e-12)


def test_leaving_a_set_out_of_random_masks_takes_alpha_of_its_effect():
    weights = np.random.default_rng(1).normal(size=(1, N_TRAIN))
    members, masks = np.array([0, 4]), all_masks()
    margins = masks @ weights[0]
    without = margins[masks[:, members].sum(1) == 0].mean()
    effect = exchange_effects(weights, [members])[0, 0]
    assert margins.mean() - without == pytest.approx(SIZE / N_TRAIN * effect)


def test_a_constant_added_to_all_weights_changes_nothing():
    weights, sets = np.random.default_rng(2).normal(size=(4, 20)), [np.arange(3), np.arange(5, 16)]
    found = exchange_effects(weights, sets)
    np.testing.assert_allclose(found, exchange_effects(weights + 7, sets), atol=1e-10)
    small = [smallest_flip(w, 1.5, alpha=0.4)[0] for w in (weights[0], weights[0] + 7)]
    assert np.array_equal(*small)


@pytest.mark.parametrize("seed", range(6))
def test_no_smaller_set_flips_random_masks(seed):
    weights = np.random.default_rng(seed).normal(size=8)
    margin, alpha = 1.2, 0.5
    members, foretold = smallest_flip(weights, margin, alpha=alpha)
    effects = {
        chosen: alpha * exchange_effects(weights[None], [np.array(chosen)])[0, 0]
        for size in range(1, 8)
        for chosen in combinations(range(8), size)
    }
    flipping = [len(chosen) for chosen, effect in effects.items() if effect > margin]
    assert (foretold < 0) == bool(flipping)
    assert len(members) == min(flipping, default=7)
    assert foretold == pytest.approx(margin - effects[tuple(sorted(members))])


def test_no_smaller_set_flips_the_whole_training_set():
    weights = np.array([0.5, -1.0, 2.0, 0.0, 1.0, -2.5])  # mean 0
    members, foretold = smallest_flip(weights, 2.9)
    assert members.tolist() == [2, 4]
    assert foretold == pytest.approx(-0.1)


def test_a_limit_is_kept_and_said():
    members, foretold = smallest_flip(np.array([3.0, 2.0, 1.0, 0.0, 0.0]), 100.0, limit=2)
    assert members.tolist() == [0, 1]
    assert foretold > 0


def test_masks_hold_what_they_should():
    rng = np.random.default_rng(3)
    sets = [np.array([0, 1, 2]), np.array([7])]
    controls = random_sets(sets, 20, rng)
    masks = exchange_masks(sets, controls, n_train=20, size=9, n_pairs=5, rng=rng)
    for row, (members, control) in enumerate(zip(sets, controls, strict=True)):
        assert not np.intersect1d(members, control).size
        assert len(control) == len(members)
        kept, no_set, no_control = (masks[k][row] for k in ("kept", "set", "control"))
        assert kept[:, members].all()
        assert kept[:, control].all()
        assert not no_set[:, members].any()
        assert no_set[:, control].all()
        assert not no_control[:, control].any()
        assert no_control[:, members].all()
        assert ((kept & ~no_set).sum(1) == len(members)).all()
    assert all((m.sum(-1) == 9).all() for m in masks.values())
    assert len(np.unique(masks["kept"][0], axis=0)) == 5


def test_pairs_of_masks_are_foretold_exactly_where_margins_are_linear():
    rng = np.random.default_rng(4)
    weights, sets = rng.normal(size=(3, 12)), [np.array([3, 8]), np.array([0])]
    controls = random_sets(sets, 12, rng)
    masks = exchange_masks(sets, controls, n_train=12, size=6, n_pairs=4, rng=rng)
    for kind in ("set", "control"):
        differences = (masks["kept"] @ weights.T) - (masks[kind] @ weights.T)
        foretold = mask_effects(weights, masks["kept"], masks[kind])
        np.testing.assert_allclose(foretold, differences.mean(1), atol=1e-12)
        np.testing.assert_allclose(foretold, mask_effects(weights + 3, masks["kept"], masks[kind]))


def test_what_a_random_set_does_to_the_whole_training_set_is_nothing_on_average():
    weights = np.random.default_rng(5).normal(size=(2, 6))
    sets = [np.array(chosen) for chosen in combinations(range(6), 2)]
    without = np.ones((len(sets), 1, 6), bool)
    for mask, members in zip(without, sets, strict=True):
        mask[:, members] = False
    foretold = mask_effects(weights, np.ones((1, 1, 6), bool), without)
    np.testing.assert_allclose(foretold.mean(0), 0, atol=1e-12)
    spread = weights[:, [0, 1]].sum(1) - weights[:, [2, 5]].sum(1)
    by_set = dict(zip(map(tuple, sets), foretold, strict=True))
    np.testing.assert_allclose(by_set[0, 1] - by_set[2, 5], spread)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exchange_effects(np.ones((1, 4)), [np.array([1, 1])]), "1 of them distinct"),
        (lambda: exchange_effects(np.ones((1, 4)), [np.arange(4)]), "leave some out"),
        (lambda: smallest_flip(np.ones(4), -1.0), "positive margin"),
        (lambda: masks_for([0, 1], [1, 2]), "nothing shared"),
        (lambda: masks_for([0], [1, 2]), "equal sizes"),
        (lambda: masks_for([0, 1, 2], [3, 4, 5]), "up to 2"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def masks_for(members, control):
    rng = np.random.default_rng(0)
    sets = [np.array(members)], [np.array(control)]
    return exchange_masks(*sets, n_train=10, size=5, n_pairs=1, rng=rng)


N_TEST, N_OF_STUDY = 12, 40


OPTIONS = RemovalOptions(alpha=0.5, n_tests=5, n_models=6, seed=0)


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(0, 0.3, (N_TEST, N_OF_STUDY))


def linear(weights, bias=0.3, noise=2.0, calls=None):
    """Trains models with linear margins and noise that hangs on the model's key alone."""

    def train(masks, name):
        if calls is not None:
            calls.append((name, masks))
        per_model = np.random.default_rng(5).normal(0, noise, (masks.shape[1], len(weights)))
        return masks @ weights.T + bias + per_model

    return train


def mean_margins(weights, bias=0.3):
    return bias + OPTIONS.alpha * weights.sum(1)


def test_noise_of_seeds_drops_out_and_what_stands_in_the_masks_is_foretold(weights):
    found = measure_removals(weights, mean_margins(weights), linear(weights), OPTIONS)
    half = found.table[found.table["setting"] == "half"]
    assert len(half) == 10
    np.testing.assert_allclose(half["predicted"], half["retrained"], atol=1e-9)
    for kind in ("set", "control"):
        predicted, retrained = (
            found.effects[f"half_{kind}_{what}"] for what in ("predicted", "retrained")
        )
        assert predicted.shape == (5, N_TEST)
        np.testing.assert_allclose(predicted, retrained, atol=1e-5)


def test_effects_on_the_whole_training_set_are_foretold_but_for_its_size(weights):
    found = measure_removals(weights, mean_margins(weights), linear(weights), OPTIONS)
    table = found.table[found.table["setting"] == "full"]
    members = found.members[found.members["setting"] == "full"].groupby(["test", "kind"])["train"]
    for row in table.itertuples():
        left_out = members.get_group((row.test, row.kind))
        assert row.retrained == pytest.approx(weights[row.test, left_out].sum())
        of_size = row.size * weights[row.test].mean()
        assert row.predicted == pytest.approx(row.retrained - of_size)
        assert row.size == len(left_out)
        assert (row.low, row.high) == pytest.approx((row.retrained, row.retrained))


def test_half_sets_take_what_they_should_off_the_mean_of_random_masks(weights):
    options = RemovalOptions(n_tests=5, n_models=300, seed=1)
    train = linear(weights, noise=0.0)
    found = measure_removals(weights, mean_margins(weights), train, options)
    half = found.table.query("setting == 'half' and kind == 'set'")
    members = found.members.query("setting == 'half' and kind == 'set'").groupby("test")["train"]
    sets = [members.get_group(test).to_numpy() for test in half["test"]]
    effects = exchange_effects(weights, sets)[np.arange(5), half["test"]]
    np.testing.assert_allclose(half["foretold"], half["before"] - 0.5 * effects)
    assert (half["foretold"] < 0).all()
    # Only the control, one random set, is held by all of these masks.
    assert np.abs(half["found"] - half["foretold"]).max() < 1
    assert np.abs(half["found"] - half["foretold"]).mean() < 0.5


def test_only_right_predictions_are_flipped(weights):
    before = mean_margins(weights)
    found = measure_removals(weights, before, linear(weights), OPTIONS)
    assert (found.table["before"] > 0).all()
    half = found.table[found.table["setting"] == "half"]
    assert set(half["before"]) <= set(before)


def test_intervals_are_students(weights):
    calls, rng = [], np.random.default_rng(3)

    def train(masks, name):
        calls.append(name)
        return rng.normal(size=(*masks.shape[:2], N_TEST))

    found = measure_removals(weights, mean_margins(weights), train, OPTIONS)
    assert calls == ["whole", "removal_half", "removal_full"]
    rng = np.random.default_rng(3)
    rng.normal(size=(1, 6, N_TEST))
    kept, without = (rng.normal(size=(5, 6, N_TEST)) for _ in range(2))
    row = found.table.iloc[0]
    interval = ttest_1samp(kept[0, :, row.test] - without[0, :, row.test], 0).confidence_interval()
    assert (row.low, row.high) == pytest.approx((interval.low, interval.high))


def test_half_masks_have_the_studys_size_and_full_ones_lack_the_set_alone(weights):
    calls = []
    measure_removals(weights, mean_margins(weights), linear(weights, calls=calls), OPTIONS)
    masks = dict(calls)
    assert masks["whole"].all()
    assert (masks["removal_half"].sum(-1) == 20).all()
    missing = (~masks["removal_full"]).sum(-1)
    assert 1 <= missing.min() <= missing.max() <= 8
    assert (masks["removal_full"] == masks["removal_full"][:, :1]).all()


def test_those_that_no_small_set_flips_only_fill_up():
    weights = np.zeros((4, N_OF_STUDY))
    weights[2, :3] = 1
    setting = Setting("half", 0.5, np.ones(4))
    found = find_brittle(weights, setting, np.arange(4), RemovalOptions(n_tests=2))
    assert found.tests.tolist() == [2, 0]
    assert (found.foretold < 0).tolist() == [True, False]
    assert sorted(found.sets[0]) == [0, 1, 2]


def test_where_all_is_wrong_nothing_is_tried(weights):
    train = linear(weights, bias=-100.0)
    found = measure_removals(weights, np.full(N_TEST, -1.0), train, OPTIONS)
    assert len(found.table) == len(found.members) == len(found.effects) == 0
    assert "retrained" in found.table
