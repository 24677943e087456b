import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, f1_score, precision_score, recall_score
from sklearn.neighbors import NearestNeighbors

from mdhelpers.analyses.neighbours import cluster_rows, embed_rows, grade_clusters, map_rows

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
