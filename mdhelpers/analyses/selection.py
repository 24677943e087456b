"""Choosing a small training set for a target: by datamodels, by likeness, at random.

In the manner of DsDm (Engstrom et al., 2024): the sum of a training example's weights over the
test examples of a target says what it does for the target as a whole, and the subset with the
largest sums is the best one that the datamodels know of. All three ways keep the shares that the
classes have in the whole training set. Without that, a target in which one class prevails would be
served best by that class alone, and the models would know nothing else.

Each set is verified by models trained on it and nothing else, graded on the half of the target that
chose nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdhelpers.analyses.removal import Train, with_interval

HARDEST = "hardest"
WAYS = ("random", "nearest", "datamodels")
GRADED = ("target", "way", "size")
GRADED += ("margin", "margin_low", "margin_high", "right", "right_low", "right_high")
GRADED += ("right_all", "right_all_low", "right_all_high")
CHOSEN = ("target", "way", "size", "train")


@dataclass(frozen=True)
class SelectionOptions:
    """Which training sets are compared.

    Attributes
    ----------
    targets : sequence of str
        Planted features, classes, or "hardest".
    sizes : sequence of int
        Training examples chosen.
    n_models : int
        Models of each way and size, at least 2.
    seed : int
        Of the halves of a target and the random subsets.
    """

    targets: Sequence[str] = (HARDEST,)
    sizes: Sequence[int] = (60,)
    n_models: int = 8
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What subsets are chosen by.

    Attributes
    ----------
    weights : ndarray, shape (n_test, n_train)
        Datamodels of the margins themselves.
    distances : ndarray, shape (n_test, n_train)
        Between the images.
    train_labels, test_labels : int arrays
    """

    weights: np.ndarray
    distances: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray

    def scores(self, targets: np.ndarray) -> dict[str, np.ndarray]:
        """For each way that is not random what it takes each training example to be worth."""
        return {
            "nearest": nearness_scores(self.distances, targets),
            "datamodels": target_scores(self.weights, targets),
        }


def compare_selections(
    evidence: Evidence, targets: dict[str, np.ndarray], train: Train, options: SelectionOptions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train on subsets chosen in three ways, and grade them on the other half of each target.

    ``random`` draws another subset for each model; the others train several models on one subset:
    ``nearest`` on the images that lie nearest to some test example of the target, ``datamodels``
    on those of the largest mean weight over it. All have the same class counts.

    Parameters
    ----------
    evidence : Evidence
    targets : dict of str to int arrays
        Test examples by the target's name.
    train : callable
    options : SelectionOptions

    Returns
    -------
    graded : DataFrame
        ``target, way, size``, then ``margin`` and ``right`` (share of right answers) on the half
        of the target that chose nothing, and ``right_all`` on all test examples, each with
        ``…_low`` and ``…_high`` of a 95% interval over models.
    chosen : DataFrame
        ``target, way, size, train``: the subsets, random ones left out.
    """
    rng = np.random.default_rng([options.seed, 202])
    halves = {
        name: split_target(members, evidence.test_labels, rng) for name, members in targets.items()
    }
    masks = subsets(evidence, {name: half[0] for name, half in halves.items()}, rng, options)
    margins = dict(zip(masks, train(np.stack(list(masks.values())), "selection"), strict=True))
    rows = []
    for name, (_, grading) in halves.items():
        for (target, way, size), found in margins.items():
            if target in (name, ""):
                rows.append({"target": name, "way": way, "size": size} | graded(found, grading))
    chosen = [
        pd.DataFrame({"target": target, "way": way, "size": size, "train": np.flatnonzero(mask[0])})
        for (target, way, size), mask in masks.items()
        if target
    ]
    return pd.DataFrame(rows), pd.concat(chosen, ignore_index=True)


def subsets(
    evidence: Evidence, choosing: dict[str, np.ndarray], rng, options: SelectionOptions
) -> dict[tuple[str, str, int], np.ndarray]:
    """Masks (n_models, n_train) by target, way and size; random ones serve all targets."""
    labels, n_models = evidence.train_labels, options.n_models
    masks = {("", "random", k): random_by_class(labels, k, n_models, rng) for k in options.sizes}
    for name, targets in choosing.items():
        for way, scores in evidence.scores(targets).items():
            for size in options.sizes:
                mask = largest_by_class(scores, labels, size)
                masks[name, way, size] = np.tile(mask, (n_models, 1))
    return masks


def graded(margins: np.ndarray, grading: np.ndarray) -> dict[str, float]:
    """Means over models and test examples, with intervals over models."""
    right = margins > 0
    values = {"margin": margins[:, grading], "right": right[:, grading], "right_all": right}
    found = {}
    for name, value in values.items():
        interval = with_interval(value.mean(axis=1))
        found |= dict(zip((name, f"{name}_low", f"{name}_high"), interval, strict=True))
    return found


def split_target(
    members: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Halves of a target, class by class: one chooses the subset, the other grades it.

    ``members`` index the target, ``labels`` are of all test examples. Gives two sorted int arrays
    without a common member; a target too small for that is a ValueError.
    """
    halves = ([], [])
    for label in np.unique(labels[members]):
        shuffled = rng.permutation(members[labels[members] == label])
        for half, part in zip(halves, (shuffled[::2], shuffled[1::2]), strict=True):
            half.append(part)
    choosing, grading = (np.sort(np.concatenate(half)) for half in halves)
    if not len(grading):
        raise ValueError(
            f"the target has {len(members)} test examples, none of which can be set aside to grade "
            "by; choose a larger target."
        )
    return choosing, grading


def target_scores(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What each training example does for the target's mean margin, (n_train,) float64."""
    return np.asarray(weights, np.float64)[targets].mean(axis=0)


def nearness_scores(distances: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Minus the distance to the nearest test example of the target, (n_train,) float64."""
    return -np.asarray(distances, np.float64)[targets].min(axis=0)


def largest_by_class(scores: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """A mask (n_train,) of the ``size`` training examples of largest score, class by class."""
    mask = np.zeros(len(labels), bool)
    for label, count in enumerate(class_counts(labels, size)):
        members = np.flatnonzero(labels == label)
        order = np.argsort(-np.asarray(scores)[members], kind="stable")
        mask[members[order[:count]]] = True
    return mask


def random_by_class(
    labels: np.ndarray, size: int, n_subsets: int, rng: np.random.Generator
) -> np.ndarray:
    """Random subsets with the same class counts, (n_subsets, n_train) bool."""
    return np.stack(
        [largest_by_class(rng.random(len(labels)), labels, size) for _ in range(n_subsets)]
    )


def class_counts(labels: np.ndarray, size: int) -> np.ndarray:
    """How many training examples of each class a subset holds, shares kept as near as can be."""
    if not 1 <= size <= len(labels):
        raise ValueError(f"a subset of {size} of {len(labels)} training examples cannot be chosen.")
    exact = np.bincount(labels) * size / len(labels)
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: size - counts.sum()]] += 1
    return counts
