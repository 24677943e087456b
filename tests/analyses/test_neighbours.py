import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import adjusted_rand_score, f1_score, precision_score, recall_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import scale

from mdhelpers.analyses import neighbours
from mdhelpers.analyses.neighbours import cluster_rows, embed_rows, grade_clusters, map_rows

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


TRUE = np.repeat([0, 1, 2, 3], [40, 30, 20, 10])


@pytest.fixture(scope="module")
def weights():
    """Four groups that rest on training examples of their own, at scales that tell nothing."""
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 0.3, (100, 60))
    for group in range(4):
        rows[group == TRUE, 15 * group : 15 * group + 15] += 1
    return rows * rng.uniform(0.01, 10, (100, 1))


@pytest.fixture(scope="module")
def coordinates(weights):
    return embed_rows(weights, n_components=5)


def test_groups_that_rest_on_other_images_are_found_whatever_their_scale(coordinates):
    found = cluster_rows(coordinates, 4)
    assert adjusted_rand_score(TRUE, found) == 1
    assert np.bincount(found).tolist() == [0, 40, 30, 20, 10]


def test_the_order_of_training_examples_is_of_no_matter(weights, coordinates):
    shuffled = embed_rows(weights[:, np.random.default_rng(1).permutation(60)], n_components=5)
    np.testing.assert_allclose(np.abs(shuffled), np.abs(coordinates), atol=1e-8)


def test_neighbours_on_the_map_are_of_one_group(coordinates):
    places = map_rows(coordinates)
    assert places.shape == (100, 2)
    near = NearestNeighbors(n_neighbors=4).fit(places).kneighbors(return_distance=False)
    assert (TRUE[near] == TRUE[:, None]).mean() > 0.98


def test_grades_are_scikit_learns():
    rng = np.random.default_rng(2)
    clusters = rng.integers(1, 5, 100)
    carries = (clusters == 3) & (rng.random(100) < 0.8)
    labels = rng.integers(0, 3, 100)
    truth = pd.DataFrame({"tag": carries})
    row = grade_clusters(clusters, labels, truth).iloc[0]
    inside = clusters == row["cluster"]
    best = max(f1_score(carries, clusters == c) for c in range(1, 5))
    assert (row["cluster"], row["n"], row["size"]) == (3, carries.sum(), inside.sum())
    assert row["f1"] == pytest.approx(best)
    assert row["precision"] == pytest.approx(precision_score(carries, inside))
    assert row["recall"] == pytest.approx(recall_score(carries, inside))
    label = np.bincount(labels[carries]).argmax()
    assert row["f1_of_class"] == pytest.approx(f1_score(carries, labels == label))


def test_data_without_truth_has_no_grades_and_equal_rows_one_cluster():
    grades = grade_clusters(np.ones(5, int), np.zeros(5, int), pd.DataFrame(index=range(5)))
    assert len(grades) == 0
    assert "precision" in grades
    assert cluster_rows(np.zeros((6, 2)), 4).tolist() == [1] * 6
