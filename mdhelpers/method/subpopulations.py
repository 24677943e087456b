r"""From directions to images: subpopulations, their grades, and what influences them.

A distinguishing subpopulation is the set of test examples at an end of a direction (paper,
section 3, step 3(ii)). PCA fixes no sign, so both ends are looked at: the top, where projections
are largest, and the bottom, where they are smallest. Where carriers of a feature are known, an end
is graded by the area under the ROC curve: the chance that a carrier lies nearer it than another
test example.

Appendix D goes from a subpopulation S to the training examples, those of largest *relative
influence*,

.. math:: r_i = \sum_{x \in S} |\theta^{(1)}_{xi}| - |\theta^{(2)}_{xi}| ,

and back, from these training examples to the test examples: for each algorithm, the ones that they
influence most (Figures 9 to 11). Where the difference is real, the test examples of the algorithm
that uses the feature show it, and those of the other do not.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from mdhelpers.method.comparison import Comparison, DirectionSet, Weights, normalise_rows

ENDS = ("top", "bottom")
SATURATED = 0.99  # an AUC that shows all there is


def subpopulations(direction_set: DirectionSet, *, top_k: int = 24) -> pd.DataFrame:
    """Test examples at both ends of every direction.

    Parameters
    ----------
    direction_set : DirectionSet
    top_k : int
        Examples at an end; at most half of the test set.

    Returns
    -------
    DataFrame
        ``comparison, direction, end, rank, index, projection``: ``direction`` is the rank of the
        principal component, ``rank`` counts from 1 at the extreme, ``index`` is the test example.

    Raises
    ------
    ValueError
        If ``top_k`` is below 1 or above half of the test examples.
    """
    n_test = len(direction_set.projections)
    if not 1 <= top_k <= n_test // 2:
        raise ValueError(
            f"top_k is {top_k}; expected 1 to {n_test // 2}, half of the {n_test} test examples, "
            "so that the two ends do not overlap."
        )
    tables = []
    for position, component in enumerate(direction_set.component):
        projections = direction_set.projections[:, position]
        for end, order in zip(ENDS, _ends(projections), strict=True):
            index = order[:top_k]
            columns = {"comparison": direction_set.name, "direction": component, "end": end}
            columns |= {"rank": np.arange(1, top_k + 1), "index": index}
            tables.append(pd.DataFrame({**columns, "projection": projections[index]}))
    return pd.concat(tables, ignore_index=True)


def class_shares(members: pd.DataFrame, labels: np.ndarray) -> pd.DataFrame:
    """How far each subpopulation belongs to one class (the premise of App. D's inspection).

    Of ``members`` as :func:`subpopulations` gives them: ``comparison, direction, end, label, share,
    expected``, the commonest class, its share of the subpopulation, and its share of all test
    examples.
    """
    labels = np.asarray(labels)
    overall, rows = np.bincount(labels) / len(labels), []
    keys = ["comparison", "direction", "end"]
    for key, part in members.groupby(keys, sort=False):
        counts = np.bincount(labels[part["index"]], minlength=len(overall))
        label = int(counts.argmax())
        rows.append((*key, label, counts[label] / len(part), overall[label]))
    return pd.DataFrame(rows, columns=[*keys, "label", "share", "expected"])


def grade(direction_set: DirectionSet, labels: np.ndarray, truth: pd.DataFrame) -> pd.DataFrame:
    """How well each end of each direction picks out features whose carriers are known.

    Parameters
    ----------
    direction_set : DirectionSet
    labels : ndarray, shape (n_test,), int
    truth : DataFrame of n_test rows
        A bool column for each feature: which test examples carry it.

    Returns
    -------
    DataFrame
        ``comparison, direction, end, feature, auc_within_class, auc, precision_at_k, n``. ``auc``
        is the chance that a carrier lies nearer the end than another test example;
        ``auc_within_class`` the same among examples of the class that has most carriers, so that
        finding the class alone earns 0.5; ``precision_at_k`` the share of carriers among the ``n``
        outermost, ``n`` being the number of carriers. A feature that no example or every example
        carries has NaN.

    Raises
    ------
    ValueError
        If lengths disagree or a column is not bool.
    """
    graded = grade_scores(direction_set.projections, labels, truth)
    graded.insert(0, "comparison", direction_set.name)
    graded["score"] = direction_set.component[graded["score"]]
    return graded.rename(columns={"score": "direction"})


def grade_scores(scores: np.ndarray, labels: np.ndarray, truth: pd.DataFrame) -> pd.DataFrame:
    """`grade` for any numbers ``scores`` (n_test, n_scores) that put test examples in order.

    The table has ``score``, the column of ``scores``, and the columns of `grade` from ``end`` on.
    """
    labels = np.asarray(labels)
    _check_truth(len(scores), labels, truth)
    tables = []
    for feature in truth.columns:
        carries = truth[feature].to_numpy(dtype=bool)
        for end, sign in zip(ENDS, (1, -1), strict=True):
            grades = _grade_feature(sign * scores, carries, labels)
            columns = {"score": np.arange(scores.shape[1]), "end": end, "feature": feature}
            tables.append(pd.DataFrame({**columns, **grades, "n": carries.sum()}))
    return pd.concat(tables, ignore_index=True)


def best_at_random(
    comparison_name: str,
    datamodels_1: Weights,
    datamodels_2: Weights,
    labels: np.ndarray,
    truth: pd.DataFrame,
    *,
    n_directions: int,
    measure: str = "auc_within_class",
    n_draws: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """What the best of as many *random* directions reaches: the 95th percentile of a grade.

    The best of several directions and both ends is above 0.5 by selection alone, and the more where
    algorithms depend much on a feature. Random directions are unit vectors of no preference.

    Parameters
    ----------
    comparison_name : str
        Whose residuals are projected on them.
    datamodels_1, datamodels_2 : Datamodels, or ndarray of shape (n_test, n_train)
    labels, truth
        As in `grade`.
    n_directions : int
        The best of how many.
    measure : str
        A column of `grade`: ``auc_within_class`` or ``precision_at_k``.
    n_draws : int
        How often so many are drawn.
    seed : int

    Returns
    -------
    dict
        For each feature that some test examples carry.
    """
    own, other = (
        normalise_rows(getattr(part, "weights", part)) for part in (datamodels_1, datamodels_2)
    )
    if comparison_name == "2_minus_1":
        own, other = other, own
    rng, labels = np.random.default_rng(seed), np.asarray(labels)
    found: dict[str, list[float]] = {}
    cosines = (own * other).sum(1, keepdims=True)
    carried = {name: truth[name].to_numpy(bool) for name in truth.columns if truth[name].any()}
    classes = {name: main_class(labels, carries) for name, carries in carried.items()}
    for _ in range(n_draws):
        directions = rng.normal(size=(own.shape[1], n_directions))
        scores = own @ directions - cosines * (other @ directions)
        for name, carries in carried.items():
            if measure == "precision_at_k":
                best = max(_precision(end, carries).max() for end in (scores, -scores))
            else:
                auc = aucs(scores[classes[name]], carries[None, classes[name]])[0]
                best = np.maximum(auc, 1 - auc).max()
            found.setdefault(name, []).append(best)
    return {name: float(np.percentile(values, 95)) for name, values in found.items()}


def shows(auc: np.ndarray, random: np.ndarray) -> np.ndarray:
    """Whether a direction shows a feature: AUCs within class against what random directions reach.

    Above it; or above 0.99, where a feature is used so much that random directions show it whole
    too, and no AUC can say more.
    """
    return np.asarray(auc > np.minimum(random, SATURATED))


def match_features(grades: pd.DataFrame) -> pd.DataFrame:
    """The planted feature that each end of each direction picks out best.

    Parameters
    ----------
    grades : DataFrame
        From `grade`, of one or both comparisons, with a column ``random``: what the best of as
        many random directions reaches (`best_at_random`). Above it an end matches (`shows`).

    Returns
    -------
    DataFrame
        One row an end, directions in the order of ``grades``: ``comparison, direction, end,
        feature, auc_within_class, auc, precision_at_k, n, random, matched``. An end matches at most
        one feature; the two ends of a direction may match two, and a feature several ends.
    """
    keys = ["comparison", "direction", "end"]
    known = grades.dropna(subset="auc_within_class")
    best = known.loc[known.groupby(keys, sort=False)["auc_within_class"].idxmax()]
    columns = [*keys, "feature", "auc_within_class", "auc", "precision_at_k", "n", "random"]
    best = best[columns].assign(matched=shows(best["auc_within_class"], best["random"]))
    order = grades[keys[:2]].drop_duplicates()
    places = pd.MultiIndex.from_frame(order).get_indexer(pd.MultiIndex.from_frame(best[keys[:2]]))
    ends = best["end"].map(ENDS.index)
    return best.iloc[np.lexsort([ends, places])].reset_index(drop=True)


def aucs(scores: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, from ranks, of each score for each set of carriers.

    Parameters
    ----------
    scores : ndarray, shape (n, n_scores)
    carries : ndarray, shape (n_sets, n), bool

    Returns
    -------
    ndarray, shape (n_sets, n_scores)
        NaN for a set of none or all.
    """
    n = carries.sum(axis=1, keepdims=True).astype(float)
    others = carries.shape[1] - n
    places = carries @ rankdata(scores, axis=0) - n * (n + 1) / 2
    return np.divide(places, n * others, out=np.full(places.shape, np.nan), where=n * others > 0)


def main_class(labels: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """Which examples belong to the class that has most carriers, (n,) bool."""
    return labels == np.bincount(labels[carries], minlength=1).argmax()


def relative_influence(
    datamodels_1: Weights,
    datamodels_2: Weights,
    test_indices: np.ndarray,
) -> np.ndarray:
    """How much more algorithm 1 than 2 relies on each training example, (n_train,), for some tests.

    The sum over the test examples ``test_indices`` of the absolute weights of normalised
    datamodels, under algorithm 1 less under 2 (paper, appendix D). The sign is kept: the largest
    values are used more by algorithm 1, the smallest more by 2; the paper's figure is the absolute
    value.
    """
    sums = []
    for datamodels in (datamodels_1, datamodels_2):
        weights = np.asarray(getattr(datamodels, "weights", datamodels))
        sums.append(np.abs(normalise_rows(weights[test_indices])).sum(0))
    return sums[0] - sums[1]


def used_by(
    algorithm: int,
    datamodels_1: Weights,
    datamodels_2: Weights,
    test_indices: np.ndarray,
    *,
    n: int = 12,
) -> np.ndarray:
    """The ``n`` training examples that matter more to a subpopulation under ``algorithm`` 1 or 2.

    The first matters most. Weights are (n_test, n_train), or datamodels.
    """
    if algorithm not in (1, 2):
        raise ValueError(f"algorithm is {algorithm!r}; expected 1 or 2.")
    influence = relative_influence(datamodels_1, datamodels_2, test_indices)
    return np.argsort(influence if algorithm == 2 else -influence, kind="stable")[:n]


def influence_on_tests(datamodels: Weights, train_indices: np.ndarray) -> np.ndarray:
    """Absolute weights of some training examples, summed, in normalised datamodels: (n_test,)."""
    weights = np.asarray(getattr(datamodels, "weights", datamodels))
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
            for end, order in zip(ENDS, _ends(directions.projections[:, position]), strict=True):
                members = order[:top_k]
                train = used_by(algorithm, *datamodels, members, n=n_train)
                influence = [influence_on_tests(d, train)[members].mean() for d in datamodels]
                subsets = [most_influenced(d, train, n=top_k) for d in datamodels]
                shares = [np.isin(subset, members).mean() for subset in subsets]
                both = np.isin(*subsets).mean()
                rows.append((directions.name, component, end, *influence, *shares, both))
    columns = ["comparison", "direction", "end", "influence_1", "influence_2", "in_1", "in_2"]
    return pd.DataFrame(rows, columns=[*columns, "in_both"])


def random_same_class(
    labels: np.ndarray, indices: np.ndarray, n: int, *, seed: int = 0
) -> np.ndarray:
    """Random examples of a subpopulation's classes, to hold beside it (paper, appendix D).

    The classes keep the shares that they have in ``indices``; the subpopulation itself is left out.
    Fewer than ``n`` come back where a class runs out.
    """
    labels, indices = np.asarray(labels), np.asarray(indices)
    rng = np.random.default_rng(seed)
    others = np.setdiff1d(np.arange(len(labels)), indices)
    wanted = labels[indices][np.arange(n) * len(indices) // n]
    chosen = [
        rng.permutation(others[labels[others] == label])[:count]
        for label, count in zip(*np.unique(wanted, return_counts=True), strict=True)
    ]
    return rng.permutation(np.concatenate(chosen))


def _ends(projections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.argsort(-projections, kind="stable"), np.argsort(projections, kind="stable")


def _grade_feature(scores: np.ndarray, carries: np.ndarray, labels: np.ndarray) -> dict:
    n = carries.sum()
    in_class = main_class(labels, carries)
    return {
        "auc_within_class": aucs(scores[in_class], carries[None, in_class])[0],
        "auc": aucs(scores, carries[None])[0],
        "precision_at_k": _precision(scores, carries) if n else np.nan,
    }


def _precision(scores: np.ndarray, carries: np.ndarray) -> np.ndarray:
    """Share of carriers among as many examples as there are, those of the largest scores."""
    outermost = np.argsort(-scores, axis=0, kind="stable")[: carries.sum()]
    return carries[outermost].mean(0)


def _check_truth(n_test: int, labels: np.ndarray, truth: pd.DataFrame) -> None:
    if len(labels) != n_test or len(truth) != n_test:
        raise ValueError(
            f"got {len(labels)} labels and {len(truth)} rows of truth for {n_test} projected test "
            "examples; expected one of each for every test example."
        )
    wrong = [name for name in truth.columns if truth[name].dtype != bool]
    if wrong:
        raise ValueError(
            f"truth columns {wrong} are not bool; expected True where a test example carries the "
            "feature. Pass the feature columns of the metadata only."
        )
