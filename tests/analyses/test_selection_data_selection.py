from itertools import combinations

import numpy as np
import pytest

from mdhelpers.analyses import selection as data_selection

LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("size", [1, 4, 6, 11, 12])
def test_class_shares_are_kept_as_near_as_can_be(size):
    counts = data_selection.class_counts(LABELS, size)
    exact = np.bincount(LABELS) * size / 12
    assert counts.sum() == size
    assert (np.abs(counts - exact) < 1).all()


def test_no_other_subset_with_these_classes_has_a_larger_sum():
    weights = np.random.default_rng(0).normal(size=(9, 12))
    targets = np.array([1, 4, 6])
    scores = data_selection.target_scores(weights, targets)
    mask = data_selection.largest_by_class(scores, LABELS, 6)
    counts = np.bincount(LABELS[mask], minlength=3).tolist()
    sums = [
        weights[targets][:, list(chosen)].sum()
        for chosen in combinations(range(12), 6)
        if np.bincount(LABELS[list(chosen)], minlength=3).tolist() == counts
    ]
    assert weights[targets][:, mask].sum() == pytest.approx(max(sums))


def test_nearness_is_to_the_nearest_target():
    distances = np.array([[1.0, 5, 9], [4, 2, 8], [0, 0, 0]])
    scores = data_selection.nearness_scores(distances, np.array([0, 1]))
    assert scores.tolist() == [-1, -2, -8]


def test_random_subsets_differ_and_use_every_image_equally():
    subsets = data_selection.random_by_class(LABELS, 6, 600, np.random.default_rng(1))
    assert (subsets.sum(1) == 6).all()
    assert len(np.unique(subsets, axis=0)) > 50
    for label, count in enumerate(data_selection.class_counts(LABELS, 6)):
        of_class = label == LABELS
        assert (subsets[:, of_class].sum(1) == count).all()
        share = subsets[:, of_class].mean(0)
        assert np.abs(share - count / of_class.sum()).max() < 0.1


def test_the_halves_of_a_target_share_nothing_and_each_class():
    labels, members = np.repeat([0, 1], 20), np.array([0, 2, 3, 7, 22, 25, 31])
    halves = data_selection.split_target(members, labels, np.random.default_rng(2))
    assert sorted(np.concatenate(halves)) == members.tolist()
    assert [np.bincount(labels[half]).tolist() for half in halves] == [[2, 2], [2, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data_selection.class_counts(LABELS, 13), "13 of 12"),
        (
            lambda: data_selection.split_target(
                np.array([1]), np.zeros(3, int), np.random.default_rng(0)
            ),
            "larger target",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
