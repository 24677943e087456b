"""Which training images a prediction rests on most, and whether a test image leaked into them.

Where a near-copy of a test image lies in the training set, the test image's datamodel gives it a
large weight (Ilyas et al., 2022, section 4.2). Some training images have large weights for many
test images, though, and hide copies behind them. A copy is worth something to its own test image
above all, so a weight is compared with what the same training image is worth to other test images.
The study ``duplicates`` measures what that finds.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

__all__ = ["distinctive_weights", "duplicate_ranks", "leakage_table", "pixel_distances"]


def pixel_distances(test_images: np.ndarray, train_images: np.ndarray) -> np.ndarray:
    """Root mean squared difference of every pair of images, (n_test, n_train), in grey levels."""
    test, train = (
        np.asarray(x, np.float32).reshape(len(x), -1) for x in (test_images, train_images)
    )
    squares = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
    return np.sqrt(np.maximum(squares, 0) / test.shape[1])


def distinctive_weights(weights: np.ndarray) -> np.ndarray:
    """Weights in standard deviations of what the training example is worth to all test examples.

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)

    Returns
    -------
    ndarray, shape (n_test, n_train), float64
        Each column has mean 0 and variance 1; one without any spread is zero.
    """
    weights = np.asarray(weights, np.float64)
    centred, spread = weights - weights.mean(axis=0), weights.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def leakage_table(
    weights: np.ndarray, distances: np.ndarray, *, top: int, duplicate_of: np.ndarray | None = None
) -> pd.DataFrame:
    """The pairs of test and training example whose weights are most distinctive.

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)
    distances : ndarray, shape (n_test, n_train)
        Of the images, to judge the pairs by.
    top : int
        Pairs listed; of each test example the most distinctive weight alone is a candidate.
    duplicate_of : ndarray, shape (n_train,), int, optional
        The test example that each training example is known to copy, or -1.

    Returns
    -------
    DataFrame
        ``test, train, weight, distinctive, pixel_rank`` from the most distinctive on, and ``copy``
        (bool) where the truth is known. ``pixel_rank`` is 1 for the nearest training image.
    """
    scores = distinctive_weights(weights)
    first = np.argmax(scores, axis=1)
    scores = scores.max(axis=1)
    order = np.argsort(-scores, kind="stable")[:top]
    train, near = first[order], distances[order]
    table = {"test": order, "train": train, "weight": np.asarray(weights)[order, train]}
    table["distinctive"] = scores[order]
    table["pixel_rank"] = (near < near[np.arange(len(order)), train][:, None]).sum(1) + 1
    if duplicate_of is not None:
        table["copy"] = duplicate_of[train] == order
    return pd.DataFrame(table)


def duplicate_ranks(values: np.ndarray, duplicate_of: np.ndarray) -> np.ndarray:
    """The rank of each known copy among the training examples of the test example it copies.

    Parameters
    ----------
    values : ndarray, shape (n_test, n_train)
        Larger for what is nearer: weights, or distances with the sign changed.
    duplicate_of : ndarray, shape (n_train,), int
        The test example that each training example copies, or -1.

    Returns
    -------
    int array, one for each copy in the order of the training examples
        1 where the copy comes first; ties count against it.
    """
    copies = np.flatnonzero(np.asarray(duplicate_of) >= 0)
    rows = np.asarray(values)[duplicate_of[copies]]
    own = rows[np.arange(len(copies)), copies]
    return (rows >= own[:, None]).sum(1)
