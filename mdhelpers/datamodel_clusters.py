"""Datamodels as features: test examples that rest on the same training examples lie together.

The row of a test example, normalised, is an embedding that the learning algorithm made and not the
pixels (Ilyas et al., 2022, section 4.3). Clusters of such rows are subpopulations as the algorithm
sees them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from mdhelpers.comparison import normalise_rows

__all__ = ["cluster_rows", "embed_rows", "grade_clusters", "map_rows"]


def embed_rows(weights: np.ndarray, *, n_components: int = 16, seed: int = 0) -> np.ndarray:
    """Principal components of the normalised rows, (n_test, n_components) float64.

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)
        Datamodels, or any other features; a row of zeros stays one.
    n_components : int
        At most as many as there are rows and columns.
    seed : int
        Of the randomised solver, where scikit-learn takes that one.
    """
    rows = normalise_rows(np.asarray(weights, np.float64))
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
        One row a feature: ``feature, n, cluster, size, precision, recall, f1, f1_of_class``. The
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
        label = np.bincount(labels[carries]).argmax()
        rows.append(
            {"feature": feature, "n": carries.sum(), "cluster": best, "size": inside.sum()}
            | {"precision": hits / inside.sum(), "recall": hits / carries.sum(), "f1": f1}
            | {"f1_of_class": _f1(labels == label, carries)}
        )
    columns = ["feature", "n", "cluster", "size", "precision", "recall", "f1", "f1_of_class"]
    return pd.DataFrame(rows, columns=columns)


def _f1(inside: np.ndarray, carries: np.ndarray) -> float:
    return float(2 * (inside & carries).sum() / (inside.sum() + carries.sum()))
