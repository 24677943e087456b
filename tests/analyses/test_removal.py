"""Removal against enumeration: every mask, every set, of problems small enough for that."""

from itertools import combinations

import numpy as np
import pytest

from mdhelpers.analyses.removal import (
    exchange_effects,
    exchange_masks,
    mask_effects,
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
