"""Choosing a small training set for a target: by datamodels, by likeness, at random.

In the manner of DsDm (Engstrom et al., 2024): the sum of a training example's weights over the
test examples of a target says what it does for the target as a whole, and the subset with the
largest sums is the best one that the datamodels know of. All three ways keep the shares that the
classes have in the whole training set. Without that, a target in which one class prevails would be
served best by that class alone, and the models would know nothing else.
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "class_counts",
    "largest_by_class",
    "nearness_scores",
    "random_by_class",
    "split_target",
    "target_scores",
]


def target_scores(weights: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What each training example does for the target's mean margin, (n_train,) float64."""
    return np.asarray(weights, np.float64)[targets].mean(axis=0)


def nearness_scores(distances: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Minus the distance to the nearest test example of the target, (n_train,) float64."""
    return -np.asarray(distances, np.float64)[targets].min(axis=0)


def class_counts(labels: np.ndarray, size: int) -> np.ndarray:
    """How many training examples of each class a subset holds, shares kept as near as can be."""
    if not 1 <= size <= len(labels):
        raise ValueError(f"a subset of {size} of {len(labels)} training examples cannot be chosen.")
    exact = np.bincount(labels) * size / len(labels)
    counts = np.floor(exact).astype(int)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[: size - counts.sum()]] += 1
    return counts


def largest_by_class(scores: np.ndarray, labels: np.ndarray, size: int) -> np.ndarray:
    """The training examples of largest score, class by class.

    Parameters
    ----------
    scores : ndarray, shape (n_train,)
    labels : ndarray, shape (n_train,), int
    size : int
        Of the subset.

    Returns
    -------
    ndarray, shape (n_train,), bool
        A mask of ``size`` training examples.
    """
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


def split_target(
    members: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Halves of a target, class by class: one chooses the subset, the other grades it.

    Parameters
    ----------
    members : int array
        Test examples of the target.
    labels : ndarray, shape (n_test,), int
        Of all test examples.
    rng : numpy.random.Generator

    Returns
    -------
    choosing, grading : sorted int arrays without a common member
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
