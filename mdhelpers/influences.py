r"""Training examples that one algorithm uses for a subpopulation, and what they do (appendix D).

Two steps of the paper. From a subpopulation to the training examples: those of largest *relative
influence*, the absolute weights summed over the subpopulation under one algorithm less the same
under the other. And back, from these training examples to the test examples: for each algorithm,
the ones that they influence most (Figures 9 to 11). Where the difference is real, the test
examples of the algorithm that uses the feature show it, and those of the other do not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.comparison import Comparison
from mdhelpers.datamodels import Datamodels
from mdhelpers.subpopulations import ENDS, relative_influence

__all__ = ["class_shares", "influence_on_tests", "influence_table", "most_influenced", "used_by"]

Weights = Datamodels | np.ndarray


def used_by(
    algorithm: int,
    datamodels_1: Weights,
    datamodels_2: Weights,
    test_indices: np.ndarray,
    *,
    n: int = 12,
) -> np.ndarray:
    """Training examples that matter more to a subpopulation under one algorithm, the first most.

    Parameters
    ----------
    algorithm : int
        1 or 2: under which they matter more.
    datamodels_1, datamodels_2 : Datamodels, or ndarray of shape (n_test, n_train)
    test_indices : ndarray of int
        The subpopulation.
    n : int

    Returns
    -------
    ndarray of int, shape (n,)
    """
    if algorithm not in (1, 2):
        raise ValueError(f"algorithm is {algorithm!r}; expected 1 or 2.")
    influence = relative_influence(datamodels_1, datamodels_2, test_indices)
    return np.argsort(influence if algorithm == 2 else -influence, kind="stable")[:n]


def influence_on_tests(datamodels: Weights, train_indices: np.ndarray) -> np.ndarray:
    """Absolute weights of some training examples, summed, in normalised datamodels: (n_test,)."""
    weights = datamodels.weights if isinstance(datamodels, Datamodels) else np.asarray(datamodels)
    lengths = np.linalg.norm(weights, axis=1)
    sums = np.abs(weights[:, train_indices]).sum(axis=1)
    return np.divide(sums, lengths, out=np.zeros(len(sums)), where=lengths > 0)


def most_influenced(datamodels: Weights, train_indices: np.ndarray, *, n: int = 12) -> np.ndarray:
    """Test examples that some training examples influence most under an algorithm, (n,) int."""
    return np.argsort(-influence_on_tests(datamodels, train_indices), kind="stable")[:n]


def influence_table(
    comparison: Comparison,
    datamodels_1: Weights,
    datamodels_2: Weights,
    *,
    top_k: int = 24,
    n_train: int = 12,
    n_directions: int = 3,
) -> pd.DataFrame:
    """For both ends of the first directions: how far the two test subsets of appendix D agree.

    Parameters
    ----------
    comparison : Comparison
    datamodels_1, datamodels_2 : Datamodels, or ndarray of shape (n_test, n_train)
    top_k : int
        Test examples in a subpopulation, and in each subset.
    n_train : int
        Training examples of largest relative influence under the first-named algorithm.
    n_directions : int
        Of each comparison, in its order.

    Returns
    -------
    DataFrame
        ``comparison, direction, end, influence_1, influence_2, in_1, in_2, in_both``: the mean
        influence of these training examples on the subpopulation under both algorithms; the share
        of the subpopulation among the ``top_k`` test examples that they influence most under each;
        and the share that these two subsets have in common.
    """
    datamodels, rows = (datamodels_1, datamodels_2), []
    for directions in comparison:
        algorithm = 1 if directions.name == "1_minus_2" else 2
        for position, component in enumerate(directions.component[:n_directions]):
            for end, sign in zip(ENDS, (-1, 1), strict=True):
                order = np.argsort(sign * directions.projections[:, position], kind="stable")
                members = order[:top_k]
                train = used_by(algorithm, *datamodels, members, n=n_train)
                influence = [influence_on_tests(d, train)[members].mean() for d in datamodels]
                subsets = [most_influenced(d, train, n=top_k) for d in datamodels]
                shares = [np.isin(subset, members).mean() for subset in subsets]
                both = np.isin(*subsets).mean()
                rows.append((directions.name, component, end, *influence, *shares, both))
    columns = ["comparison", "direction", "end", "influence_1", "influence_2", "in_1", "in_2"]
    return pd.DataFrame(rows, columns=[*columns, "in_both"])


def class_shares(members: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """How far each subpopulation belongs to one class (the premise of App. D's inspection).

    Parameters
    ----------
    members : DataFrame
        ``comparison, direction, end, index``, as :func:`mdhelpers.subpopulations.subpopulations`.
    labels : ndarray, shape (n_test,), int

    Returns
    -------
    DataFrame
        ``comparison, direction, end, label, share, expected``: the commonest class, its share of
        the subpopulation, and its share of all test examples.
    """
    labels = np.asarray(labels)
    overall, rows = np.bincount(labels) / len(labels), []
    keys = ["comparison", "direction", "end"]
    for key, part in members.groupby(keys, sort=False):
        counts = np.bincount(labels[part["index"]], minlength=len(overall))
        label = int(counts.argmax())
        rows.append((*key, label, counts[label] / len(part), overall[label]))
    return pd.DataFrame(rows, columns=[*keys, "label", "share", "expected"])
