"""Removal with models whose margins are linear, so that what removal does is known."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from mdhelpers.analyses.removal import (
    RemovalOptions,
    Setting,
    exchange_effects,
    find_brittle,
    measure_removals,
)

N_TEST, N_TRAIN = 12, 40
OPTIONS = RemovalOptions(alpha=0.5, n_tests=5, n_models=6, seed=0)


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(0, 0.3, (N_TEST, N_TRAIN))


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
    weights = np.zeros((4, N_TRAIN))
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
