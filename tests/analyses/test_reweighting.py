import numpy as np
import pytest
import torch

from mdhelpers.analyses.reweighting import (
    difference_along,
    inclusion,
    measure_tilt,
    predicted_change,
    tilted_masks,
)
from mdhelpers.method.evidence import Outputs

N_TRAIN, N_TEST = 60, 40


@pytest.fixture
def direction():
    direction = np.random.default_rng(0).normal(size=N_TRAIN)
    return direction / np.linalg.norm(direction)


def test_masks_have_half_of_the_examples_and_the_asked_for_probabilities(direction):
    along, against = tilted_masks(direction, 4000, seed=1)
    assert along.shape == against.shape == (4000, N_TRAIN)
    assert (along.sum(1) == N_TRAIN // 2).all()
    assert (against.sum(1) == N_TRAIN // 2).all()
    found = along.mean(0) - against.mean(0)
    np.testing.assert_allclose(found, inclusion(direction), atol=0.06)
    assert np.corrcoef(found, inclusion(direction))[0, 1] > 0.995


def test_a_pair_differs_only_where_the_tilt_makes_it(direction):
    along, against = tilted_masks(direction, 50)
    up = inclusion(direction) > 0
    assert not (against & ~along)[:, up].any()
    assert not (along & ~against)[:, ~up].any()
    assert np.array_equal(along, tilted_masks(direction, 50)[0])


def test_a_linear_world_does_what_its_weights_foretell(direction):
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(N_TEST, N_TRAIN))
    along, against = tilted_masks(direction, 3000)
    outputs = [masks @ weights.T + rng.normal(size=(3000, N_TEST)) for masks in (along, against)]
    effect = measure_tilt(*outputs, predicted_change(weights, direction))
    assert effect.correlation > 0.99
    assert effect.slope == pytest.approx(1, abs=0.05)
    assert effect.size == pytest.approx(effect.predicted_size, rel=0.05)
    assert effect.ceiling > 0.99


def test_noise_is_taken_out_of_the_size_and_shows_in_the_ceiling():
    rng = np.random.default_rng(3)
    true = rng.normal(size=2000)
    along = true + 8 * rng.normal(size=(16, 2000))
    effect = measure_tilt(along, np.zeros_like(along), true)
    assert effect.size == pytest.approx(1, abs=0.15)
    assert np.sqrt(np.square(effect.measured).mean()) > 2
    assert effect.correlation == pytest.approx(effect.ceiling, abs=0.05)
    silent = measure_tilt(along - true, np.zeros_like(along), true)
    assert abs(silent.correlation) < 0.1


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="tilts nothing"):
        tilted_masks(np.ones(N_TRAIN), 2)
    with pytest.raises(ValueError, match="expected"):
        measure_tilt(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros(3))


def along_a_direction(seed: int, *, differs: bool, n_pairs=5, n_models=48) -> float:
    """Linear algorithms of other lengths and noise, asked along a direction that is no matter."""
    rng = np.random.default_rng(seed)
    one = rng.normal(size=(N_TEST, N_TRAIN)) / N_TRAIN**0.5
    two = one * rng.uniform(0.5, 2, size=(N_TEST, 1))
    u = rng.normal(size=N_TRAIN)
    u /= np.linalg.norm(u)
    pattern = rng.normal(size=N_TEST)
    if differs:
        two = two - 0.3 * pattern[:, None] * u
    tilts = tilted_masks(u, n_pairs, seed=seed)
    masks = rng.random((n_models, N_TRAIN)).argsort(1) < N_TRAIN // 2
    toward = torch.from_numpy(two.astype(np.float32))
    changes, towards = [], []
    for weights, noise in ((one, 0.5), (two, 1.0)):
        said = [m @ weights.T + noise * rng.normal(size=(len(m), N_TEST)) for m in (*tilts, masks)]
        lengths = np.linalg.norm(weights, axis=1)
        changes.append((said[0] - said[1]) / lengths)
        towards.append(Outputs.measured(masks, said[2], lengths).toward(toward).numpy())
    return difference_along(tuple(changes), tuple(towards), pattern)


def test_algorithms_that_change_alike_are_rarely_called_different():
    """Of other lengths and noise: the tail is at most what is allowed, and no normal is missing."""
    z = np.array([along_a_direction(seed, differs=False) for seed in range(300)])
    assert (z > 1.645).mean() < 0.08
    assert (z < -1.645).mean() < 0.08
    assert z.std() > 0.6


def test_a_difference_along_the_direction_is_seen():
    z = np.array([along_a_direction(seed, differs=True) for seed in range(20)])
    assert (z > 1.645).mean() >= 0.9


def test_changes_of_other_shapes_are_refused():
    pair = (np.zeros((3, 4)),) * 2
    with pytest.raises(ValueError, match="expected"):
        difference_along(pair, pair, np.zeros(5))
    with pytest.raises(ValueError, match="from 2 on"):
        difference_along((np.zeros((1, 4)),) * 2, pair, np.zeros(4))
    assert difference_along(pair, pair, np.zeros(4)) == 0
