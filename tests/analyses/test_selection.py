"""Data selection with models whose margins are linear: the best subset is known."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from mdhelpers.analyses import selection
from mdhelpers.analyses.selection import WAYS, Evidence, SelectionOptions, compare_selections
from mdhelpers.data.datasets import Split
from mdhelpers.stages.applications import target_members

N_TEST, N_TRAIN = 40, 60


OPTIONS = SelectionOptions(targets=("even",), sizes=(12, 30), n_models=5, seed=0)


TARGETS = {"even": np.arange(0, N_TEST, 2)}


@pytest.fixture(scope="module")
def evidence():
    """All test examples of the target rest on the same training examples, but for noise."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=N_TRAIN)
    weights = rng.normal(0, 0.3, (N_TEST, N_TRAIN))
    weights[::2] += shared
    labels = np.arange(N_TRAIN) % 3, np.arange(N_TEST) % 2 * 0
    return Evidence(weights, rng.random((N_TEST, N_TRAIN)), *labels)


def trainer(evidence, seen=None):
    rng = np.random.default_rng(1)

    def train(masks, name):
        assert name == "selection"
        if seen is not None:
            seen.append(masks)
        noise = rng.normal(0, 0.5, (*masks.shape[:2], N_TEST))
        centred = masks - masks.mean(axis=-1, keepdims=True)
        return centred @ evidence.weights.T + noise

    return train


def test_where_the_truth_is_linear_datamodels_choose_best_on_images_that_chose_nothing(evidence):
    graded, _ = compare_selections(evidence, TARGETS, trainer(evidence), OPTIONS)
    assert len(graded) == len(WAYS) * 2
    table = graded.set_index(["way", "size"])
    for size in (12, 30):
        best = table.loc[("datamodels", size)]
        for way in ("random", "nearest"):
            assert best["margin_low"] > table.loc[(way, size), "margin_high"]
        assert best["right"] > table.loc[("random", size), "right"]


def test_subsets_have_their_sizes_and_classes_and_random_ones_differ(evidence):
    seen = []
    _, chosen = compare_selections(evidence, TARGETS, trainer(evidence, seen), OPTIONS)
    masks = seen[0]
    assert masks.shape == (6, 5, N_TRAIN)
    assert sorted(masks.sum(-1)[:, 0]) == [12] * 3 + [30] * 3
    for label in range(3):
        held = masks[..., evidence.train_labels == label].sum(-1)
        assert (held == masks.sum(-1) / 3).all()
    assert [len(np.unique(m, axis=0)) for m in masks] == [5, 5, 1, 1, 1, 1]
    listed = chosen.groupby(["way", "size"])["train"].apply(set)
    assert set(listed.index.get_level_values("way")) == set(WAYS) - {"random"}
    assert set(np.flatnonzero(masks[4, 0])) == listed["datamodels", 12]


def test_grades_are_means_over_the_other_half_with_students_intervals(evidence):
    options = SelectionOptions(sizes=(12,), n_models=5, seed=0)
    kept = []

    def train(masks, name):
        kept.append(trainer(evidence)(masks, name))
        return kept[0]

    graded, _ = compare_selections(evidence, TARGETS, train, options)
    rows = graded.set_index("way")
    everyone = (kept[0][0] > 0).mean(axis=1)  # the first are random subsets
    interval = ttest_1samp(everyone, 0).confidence_interval()
    row = rows.loc["random"]
    assert row["right_all"] == pytest.approx(everyone.mean())
    assert (row["right_all_low"], row["right_all_high"]) == pytest.approx(
        (interval.low, interval.high)
    )
    assert 0 <= row["right"] <= 1


def test_targets_are_features_classes_or_the_hardest():
    labels = np.arange(24) % 2
    truth = pd.DataFrame({"feature_tag": np.arange(24) < 3})
    test = Split(np.zeros((24, 4, 4, 3), np.uint8), labels, truth)
    margins = np.arange(24.0)[::-1]
    given = {"test": test, "class_names": ("cat", "dog"), "margins": margins}
    assert target_members("tag", **given).tolist() == [0, 1, 2]
    assert target_members("dog", **given).tolist() == list(range(1, 24, 2))
    assert target_members("hardest", **given).tolist() == [18, 19, 20, 21, 22, 23]
    with pytest.raises(ValueError, match=r"unknown target 'cow'.*hardest, tag, cat, dog"):
        target_members("cow", **given)


LABELS = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2])


@pytest.mark.parametrize("size", [1, 4, 6, 11, 12])
def test_class_shares_are_kept_as_near_as_can_be(size):
    counts = selection.class_counts(LABELS, size)
    exact = np.bincount(LABELS) * size / 12
    assert counts.sum() == size
    assert (np.abs(counts - exact) < 1).all()


def test_no_other_subset_with_these_classes_has_a_larger_sum():
    weights = np.random.default_rng(0).normal(size=(9, 12))
    targets = np.array([1, 4, 6])
    scores = selection.target_scores(weights, targets)
    mask = selection.largest_by_class(scores, LABELS, 6)
    counts = np.bincount(LABELS[mask], minlength=3).tolist()
    sums = [
        weights[targets][:, list(chosen)].sum()
        for chosen in combinations(range(12), 6)
        if np.bincount(LABELS[list(chosen)], minlength=3).tolist() == counts
    ]
    assert weights[targets][:, mask].sum() == pytest.approx(max(sums))


def test_nearness_is_to_the_nearest_target():
    distances = np.array([[1.0, 5, 9], [4, 2, 8], [0, 0, 0]])
    scores = selection.nearness_scores(distances, np.array([0, 1]))
    assert scores.tolist() == [-1, -2, -8]


def test_random_subsets_differ_and_use_every_image_equally():
    subsets = selection.random_by_class(LABELS, 6, 600, np.random.default_rng(1))
    assert (subsets.sum(1) == 6).all()
    assert len(np.unique(subsets, axis=0)) > 50
    for label, count in enumerate(selection.class_counts(LABELS, 6)):
        of_class = label == LABELS
        assert (subsets[:, of_class].sum(1) == count).all()
        share = subsets[:, of_class].mean(0)
        assert np.abs(share - count / of_class.sum()).max() < 0.1


def test_the_halves_of_a_target_share_nothing_and_each_class():
    labels, members = np.repeat([0, 1], 20), np.array([0, 2, 3, 7, 22, 25, 31])
    halves = selection.split_target(members, labels, np.random.default_rng(2))
    assert sorted(np.concatenate(halves)) == members.tolist()
    assert [np.bincount(labels[half]).tolist() for half in halves] == [[2, 2], [2, 1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: selection.class_counts(LABELS, 13), "13 of 12"),
        (
            lambda: selection.split_target(
                np.array([1]), np.zeros(3, int), np.random.default_rng(0)
            ),
            "larger target",
        ),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
