"""Which examples lie together: a test image and its copy in training, and test images alike.

Where a near-copy of a test image lies in the training set, the test image's datamodel gives it a
large weight (Ilyas et al., 2022, section 4.2). Some training images have large weights for many
test images, though, and hide copies behind them. A copy is worth something to its own test image
above all, so a weight is compared with what the same training image is worth to other test images.
The study ``duplicates`` measures what that finds.

The normalised row of a test example is an embedding that the learning algorithm made and not the
pixels (section 4.3): test examples that rest on the same training examples lie together. Clusters
of such rows are subpopulations as the algorithm sees them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from mdhelpers.method.comparison import normalise_rows
from mdhelpers.method.subpopulations import main_class


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


def distinctive_weights(weights: np.ndarray) -> np.ndarray:
    """Weights in standard deviations of what the training example is worth to all test examples.

    Each column has mean 0 and variance 1; one without any spread is zero.
    """
    weights = np.asarray(weights, np.float64)
    centred, spread = weights - weights.mean(axis=0), weights.std(axis=0)
    return np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def duplicate_ranks(values: np.ndarray, duplicate_of: np.ndarray) -> np.ndarray:
    """The rank of each known copy among the training examples of the test example it copies.

    ``values`` (n_test, n_train) are larger for what is nearer: weights, or distances with the sign
    changed. ``duplicate_of`` (n_train,) is the test example that each training example copies, or
    -1. 1 where the copy comes first; ties count against it.
    """
    copies = np.flatnonzero(np.asarray(duplicate_of) >= 0)
    rows = np.asarray(values)[duplicate_of[copies]]
    own = rows[np.arange(len(copies)), copies]
    return (rows >= own[:, None]).sum(1)


def pixel_distances(test_images: np.ndarray, train_images: np.ndarray) -> np.ndarray:
    """Root mean squared difference of every pair of images, (n_test, n_train), in grey levels."""
    test, train = (
        np.asarray(x, np.float32).reshape(len(x), -1) for x in (test_images, train_images)
    )
    squares = (test**2).sum(1)[:, None] + (train**2).sum(1) - 2 * test @ train.T
    return np.sqrt(np.maximum(squares, 0) / test.shape[1])


def embed_rows(weights: np.ndarray, *, n_components: int = 16, seed: int = 0) -> np.ndarray:
    """Principal components of the normalised rows, (n_test, n_components) float64.

    Rows are of datamodels, or any other features; a row of zeros stays one. There are at most as
    many components as rows and columns; the seed is that of the randomised solver, where it is
    used.
    """
    rows = normalise_rows(weights)
    n_components = min(n_components, *rows.shape)
    return PCA(n_components, random_state=seed).fit_transform(rows)


def cluster_rows(coordinates: np.ndarray, n_clusters: int, *, seed: int = 0) -> np.ndarray:
    """Clusters by k-means, (n_test,) int, numbered from 1 in the order of their sizes."""
    n_clusters = min(n_clusters, len(np.unique(coordinates, axis=0)))
    found = KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(coordinates)
    sizes = np.bincount(found, minlength=n_clusters)
    number = np.empty(n_clusters, int)
    number[np.argsort(-sizes, kind="stable")] = np.arange(1, n_clusters + 1)
    return number[found]


def map_rows(coordinates: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """A map in two dimensions that keeps neighbours together (t-SNE), (n_test, 2) float32.

    Only who lies beside whom has a meaning: not distances between clusters, nor their sizes.
    """
    perplexity = min(30.0, (len(coordinates) - 1) / 3)
    return TSNE(2, perplexity=perplexity, random_state=seed).fit_transform(coordinates)


def grade_clusters(clusters: np.ndarray, labels: np.ndarray, truth: pd.DataFrame) -> pd.DataFrame:
    """How well some cluster picks out each feature whose carriers are known.

    Parameters
    ----------
    clusters : ndarray, shape (n_test,), int
    labels : ndarray, shape (n_test,), int
    truth : DataFrame of n_test rows
        A bool column for each feature.

    Returns
    -------
    DataFrame
        One row per feature: ``feature, n, cluster, size, precision, recall, f1, f1_of_class``. The
        cluster is the one of the largest F1, the harmonic mean of precision (share of carriers
        among its members) and recall (share of the carriers that it holds); ``f1_of_class`` is
        what the carriers' whole class would have, for comparison.
    """
    rows = []
    for feature in truth.columns:
        carries = truth[feature].to_numpy(bool)
        graded = [(_f1(clusters == c, carries), c) for c in np.unique(clusters)]
        f1, best = max(graded, key=lambda pair: (pair[0], -pair[1]))
        inside = clusters == best
        hits = (inside & carries).sum()
        rows.append(
            {"feature": feature, "n": carries.sum(), "cluster": best, "size": inside.sum()}
            | {"precision": hits / inside.sum(), "recall": hits / carries.sum(), "f1": f1}
            | {"f1_of_class": _f1(main_class(labels, carries), carries)}
        )
    columns = ["feature", "n", "cluster", "size", "precision", "recall", "f1", "f1_of_class"]
    return pd.DataFrame(rows, columns=columns)


def _f1(inside: np.ndarray, carries: np.ndarray) -> float:
    return float(2 * (inside & carries).sum() / (inside.sum() + carries.sum()))
