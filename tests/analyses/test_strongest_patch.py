from functools import partial

import numpy as np
import pytest
import torch

from mdhelpers.analyses.strongest_patch import (
    batches,
    confidence,
    five_places,
    objective_of,
    pasted,
    places,
    shuffled,
    strongest_patch,
)

GIVEN = {"label": 0, "size": 4, "n_steps": 40, "batch": 8}


def brightness(weights, images):
    """Logits 0 and a sum of the colours' means, so weighted, that the images' edge cannot sway."""
    mean = images.mean((1, 2)) / 255
    score = 20 * (mean - 0.5) @ torch.tensor(weights, dtype=torch.float32)
    return torch.stack([score, torch.zeros(len(images))], dim=1)


def network(*weights):
    return partial(brightness, weights)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 156, (30, 10, 12, 3), dtype=np.uint8)


def test_it_finds_the_known_optimum_of_two_tiny_networks(images):
    """One algorithm responds to red and against green, the other to blue."""
    networks = [network(1.0, -1.0, 0.0)] * 2, [network(0.0, 0.0, 1.0)]
    found = strongest_patch(networks, images, **GIVEN)
    assert found.patch[..., 0].min() > 245
    assert found.patch[..., 1:].max() < 10
    assert found.objective[-5:].mean() > found.objective[:5].mean() > 0
    flipped = strongest_patch(networks[::-1], images, **GIVEN)
    assert flipped.patch[..., 0].max() < 10
    assert flipped.patch[..., 1:].min() > 245


def test_the_objective_is_the_difference_of_the_mean_changes(images):
    networks = [network(1.0, 0, 0), network(2.0, 0, 0)], [network(0, 1.0, 0)]
    given, patch = torch.from_numpy(images), np.full((4, 4, 3), (200, 90, 10), np.uint8)
    rows, there = np.arange(5, 20), places(15, (10, 12), 4, np.random.default_rng(0))
    before = [confidence(nets, given, 0) for nets in networks]
    tensor = torch.from_numpy(patch).float()
    got = objective_of(networks, before, given, 0, rows, tensor, there)
    changed, means = pasted(images[rows], patch, *there), []
    for nets in networks:
        each = [
            net(torch.tensor(x).float()[None]).softmax(-1)[0, 0] * sign
            for net in nets
            for pair in zip(changed, images[rows], strict=True)
            for x, sign in zip(pair, (1, -1), strict=True)
        ]
        means.append(sum(each) / (len(nets) * len(rows)))
    assert float(got) == pytest.approx(float(means[0] - means[1]), abs=1e-6)


def test_at_one_place_it_finds_the_place_that_counts(images):
    """Models that look at one corner alone."""

    def corner(images):
        return brightness((1.0, 0.0, 0.0), images[:, :4, 8:])

    found = strongest_patch(([corner], [network(0, 0, 0)]), images, one_place=True, **GIVEN)
    assert found.place == (1, 7)
    assert found.patch[:3, 1:, 0].min() > 240  # what of it lies in that corner
    assert strongest_patch(([corner], [corner]), images, **GIVEN).place is None


def test_a_seed_gives_the_same_bits(images):
    networks = [network(1.0, 0, 0.5)], [network(0, 1.0, 0)]
    one, two = (strongest_patch(networks, images, seed=3, **GIVEN) for _ in range(2))
    assert np.array_equal(one.patch, two.patch)
    assert np.array_equal(one.objective, two.objective)
    other = strongest_patch(networks, images, seed=4, **GIVEN)
    assert not np.array_equal(one.objective, other.objective)


def test_pasting_is_that_of_a_slow_loop(images):
    patch = np.random.default_rng(1).integers(0, 255, (3, 3, 3), dtype=np.uint8)
    top, left = places(30, (10, 12), 3, np.random.default_rng(2))
    wanted = images.copy()
    for i in range(30):
        for row in range(3):
            for column in range(3):
                wanted[i, top[i] + row, left[i] + column] = patch[row, column]
    assert np.array_equal(pasted(images, patch, top, left), wanted)
    tensors = (torch.from_numpy(x) for x in (images, patch))
    assert np.array_equal(pasted(*tensors, top, left).numpy(), wanted)
    assert not np.array_equal(images, wanted)


def test_gradients_go_through_to_the_patch(images):
    canvas, patch = torch.from_numpy(images).float(), torch.zeros(3, 3, 3, requires_grad=True)
    pasted(canvas, patch, *places(30, (10, 12), 3, np.random.default_rng(2))).sum().backward()
    assert (patch.grad == 30).all()


def test_places_are_all_that_lie_inside():
    top, left = places(2000, (10, 12), 4, np.random.default_rng(0))
    assert set(top) == set(range(7))
    assert set(left) == set(range(9))
    assert five_places((10, 12), 4)[0] == (1, 1)
    assert five_places((10, 12), 4)[3:] == [(5, 7), (3, 4)]
    assert five_places((5, 5), 5) == [(0, 0)]


def test_a_shuffled_patch_has_the_same_pixels():
    patch = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    other = shuffled(patch, 0)
    assert not np.array_equal(other, patch)
    assert sorted(map(tuple, other.reshape(-1, 3))) == sorted(map(tuple, patch.reshape(-1, 3)))


def test_every_image_comes_before_one_comes_again():
    rows = np.concatenate([*batches(10, 4, 5, np.random.default_rng(0))])
    assert np.array_equal(np.bincount(rows), [2] * 10)
    assert [len(r) for r in batches(3, 8, 2, np.random.default_rng(0))] == [3, 3]


def test_confidence_is_a_mean_over_networks_in_any_batches(images):
    nets, given = [network(1.0, 0, 0), network(0, 1.0, 0)], torch.from_numpy(images)
    wanted = sum(net(given.float()).softmax(-1)[:, 1] for net in nets) / 2
    torch.testing.assert_close(confidence(nets, given, 1, batch=7), wanted)


@pytest.mark.parametrize("changes", [{"size": 11}, {"size": 0}])
def test_a_patch_that_does_not_fit_is_refused(images, changes):
    networks = [network(1.0, 0, 0)], [network(0, 1.0, 0)]
    with pytest.raises(ValueError, match="give patch_size: 1 to 10"):
        strongest_patch(networks, images, **GIVEN | changes)


def test_an_algorithm_without_networks_is_refused(images):
    with pytest.raises(ValueError, match="one has none"):
        strongest_patch(([network(1.0, 0, 0)], []), images, **GIVEN)
