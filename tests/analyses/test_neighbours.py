import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.preprocessing import scale

from mdhelpers.analyses import neighbours

N_TEST, N_TRAIN = 20, 30


@pytest.fixture
def planted():
    """Noise, and for five test examples a training example that copies them."""
    rng = np.random.default_rng(0)
    weights = rng.normal(0, 0.1, (N_TEST, N_TRAIN))
    duplicate_of = np.full(N_TRAIN, -1)
    duplicate_of[[3, 8, 12, 21, 29]] = [7, 0, 19, 4, 11]
    copies = np.flatnonzero(duplicate_of >= 0)
    weights[duplicate_of[copies], copies] += 2
    return weights, duplicate_of


def test_planted_copies_are_distinctive(planted):
    weights, duplicate_of = planted
    distances = np.random.default_rng(1).random(weights.shape)
    table = neighbours.leakage_table(weights, distances, top=8, duplicate_of=duplicate_of)
    assert table["copy"].tolist() == [True] * 5 + [False] * 3
    assert set(table["train"][:5]) == {3, 8, 12, 21, 29}
    found = neighbours.distinctive_weights(weights)
    assert neighbours.duplicate_ranks(found, duplicate_of).tolist() == [1] * 5
    row = table.iloc[0]
    test, train = int(row["test"]), int(row["train"])
    assert row["distinctive"] == pytest.approx(found.max())
    assert row["weight"] == weights[test, train]
    assert row["pixel_rank"] == (distances[test] < distances[test, train]).sum() + 1


def test_images_that_matter_to_all_hide_no_copy(planted):
    weights, duplicate_of = planted
    weights = weights + np.where(np.arange(N_TRAIN) % 5 == 0, 4, 0)
    assert neighbours.duplicate_ranks(weights, duplicate_of).min() > 3
    found = neighbours.distinctive_weights(weights)
    assert neighbours.duplicate_ranks(found, duplicate_of).tolist() == [1] * 5


def test_without_a_known_truth_nothing_is_graded(planted):
    weights, _ = planted
    assert "copy" not in neighbours.leakage_table(weights, weights, top=3)


def test_ranks_count_ties_against_the_copy():
    values = np.array([[1.0, 2, 3, 3], [0, 0, 0, 0]])
    assert neighbours.duplicate_ranks(values, np.array([-1, 0, 0, 1])).tolist() == [3, 2, 4]


def test_distinctive_weights_know_neither_scale_nor_place_of_a_training_example():
    rng = np.random.default_rng(2)
    columns = rng.normal(size=(50, 4))
    found = neighbours.distinctive_weights(columns)
    np.testing.assert_allclose(found, neighbours.distinctive_weights(5 * columns - rng.random(4)))
    np.testing.assert_allclose(found, scale(columns))


def test_training_examples_without_weight_are_not_distinctive():
    columns = np.zeros((10, 2))
    columns[4, 0] = 3
    found = neighbours.distinctive_weights(columns)
    assert found[:, 0].argmax() == 4
    assert not found[:, 1].any()


def test_pixels_are_compared_as_scipy_does():
    rng = np.random.default_rng(3)
    test, train = (rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8) for n in (5, 9))
    wanted = cdist(test.reshape(5, -1), train.reshape(9, -1)) / np.sqrt(108)
    found = neighbours.pixel_distances(test, train)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
