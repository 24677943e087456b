"""Models are shared out by slots."""

import numpy as np
import pytest
import torch

from mdhelpers.method.engines.moments import split_groups, split_models, split_validation


def test_validation_models_are_spread_over_slots():
    groups = torch.arange(120) % 12
    fitting, validating = split_validation(groups, 0.2, seed=0)
    assert len(validating) == 24
    assert torch.bincount(groups[validating]).tolist() == [2] * 12
    assert sorted(torch.cat([fitting, validating]).tolist()) == list(range(120))


def test_parts_are_disjoint_and_share_every_slot():
    slots = np.repeat(np.arange(5), 12)
    parts = split_models(60, 4, np.random.default_rng(0), slots)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(60))
    for part in parts:
        assert np.bincount(slots[part]).tolist() == [3] * 5


def test_unequal_slots_are_shared_as_evenly_as_can_be():
    slots = np.repeat([0, 1, 2], [9, 21, 13])
    for part in split_models(43, 2, np.random.default_rng(0), slots):
        sizes = np.bincount(slots[part])
        assert (np.abs(sizes - np.array([4.5, 10.5, 6.5])) == 0.5).all()


@pytest.mark.parametrize("slots", [None, np.arange(32) % 2, np.arange(32) % 4])
def test_models_with_scores_are_shared_out_evenly_too(slots):
    for seed in range(20):
        parts = split_models(32, 4, np.random.default_rng(seed), slots, n_first=8)
        assert [(part < 8).sum() for part in parts] == [2] * 4
        assert sorted(np.concatenate(parts)) == list(range(32))
    own = np.arange(40)
    halves = split_groups(40, 2, np.random.default_rng(0), None, own, n_first=10)
    assert [(half < 10).sum() for half in halves] == [5, 5]
