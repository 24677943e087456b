"""Could the subpopulations that datamodels find have been seen in the predictions alone?

At the level of predictions a test example has one number: how much more sure of its label models
of algorithm 1 are than those of algorithm 2. Examples are put in order by it, and the order is
graded as a distinguishing direction is: by how well it sorts the carriers of a planted feature,
or the members of a subpopulation, from other examples of their class.

A study has many directions, and the best of many is high by chance. So the level that chance
reaches is given beside every grade, by shuffling the carriers within their class.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.analyses.predictions import Predictions, specialisation_angle
from mdhelpers.method.subpopulations import aucs, grade_scores, main_class

SCORES = ("confidence", "angle", "margin")
SHOWN = 12
KEYS = ["comparison", "direction", "end"]


def prediction_scores(
    one: Predictions, two: Predictions, margins_1: np.ndarray, margins_2: np.ndarray
) -> pd.DataFrame:
    """Numbers by which test examples differ between the algorithms, without any datamodel.

    Parameters
    ----------
    one, two : Predictions
        Of models with equal masks, row by row.
    margins_1, margins_2 : ndarray, shape (n_models, n_test)
        Of all models, as many as the datamodels were fitted on: the outputs that these predict.

    Returns
    -------
    DataFrame of n_test rows
        ``confidence``: mean confidence in the label under 1 less that under 2; ``angle``: mean
        specialisation angle of the two; ``margin``: mean margin under 1 less that under 2.
        Positive: algorithm 1 does better. Without models in ``one``, ``margin`` alone.
    """
    margin = {"margin": margins_1.mean(axis=0) - margins_2.mean(axis=0)}
    if not len(one.probabilities):
        return pd.DataFrame(margin)
    confidences = one.label_confidence, two.label_confidence
    found = {
        "confidence": confidences[0].mean(axis=0) - confidences[1].mean(axis=0),
        "angle": specialisation_angle(*confidences).mean(axis=0),
    }
    return pd.DataFrame(found | margin)


def grade_features(
    scores: pd.DataFrame,
    directions: pd.DataFrame,
    labels: np.ndarray,
    truth: pd.DataFrame,
    *,
    seed: int = 0,
) -> pd.DataFrame:
    """How well the predictions and the best direction find each planted feature.

    Parameters
    ----------
    scores : DataFrame of n_test rows
        From `prediction_scores`.
    directions : DataFrame of n_test rows
        Projections on each distinguishing direction, a column each, named as it is to be called.
    labels : ndarray, shape (n_test,), int
    truth : DataFrame of n_test rows, bool
        Carriers of each feature.

    Returns
    -------
    DataFrame
        One row per feature and score, the scores of ``scores`` and "direction":
        ``feature, score, which, end, auc_within_class, auc, precision_at_k, first, n, n_looks,
        chance``. ``first`` is the share of carriers among the `SHOWN` outermost test examples, what
        a person sees who looks at them.
        ``end`` is the better end; ``which`` names the best direction, or repeats the score;
        ``n_looks`` ends were looked at, and ``chance`` is the AUC within class that the best of
        so many stays below in 95% of draws of as many examples of the class.
    """
    groups = {name: scores[[name]] for name in scores.columns} | {"direction": directions}
    parts = [
        _best_grades(values, labels, truth, seed).assign(score=k) for k, values in groups.items()
    ]
    table = pd.concat(parts).sort_values("feature", kind="stable", ignore_index=True)
    columns = ["feature", "score", "which", "end", "auc_within_class", "auc", "precision_at_k"]
    return table[[*columns, "first", "n", "n_looks", "chance"]]


def _best_grades(
    values: pd.DataFrame, labels: np.ndarray, truth: pd.DataFrame, seed: int
) -> pd.DataFrame:
    """Of several scores the one that finds each feature best, and what chance would reach."""
    graded = grade_scores(values.to_numpy(), labels, truth).dropna(subset="auc_within_class")
    best = graded.loc[graded.groupby("feature")["auc_within_class"].idxmax()]
    chance, first = [], []
    for row in best.itertuples():
        carries = truth[row.feature].to_numpy()
        inside = main_class(labels, carries)
        n_carriers = int(carries[inside].sum())
        chance.append(chance_level(values.to_numpy()[inside], n_carriers, seed=seed))
        towards = (-1 if row.end == "top" else 1) * values.iloc[:, row.score].to_numpy()
        first.append(carries[np.argsort(towards, kind="stable")[:SHOWN]].mean())
    which = values.columns.to_numpy()[best["score"]]
    return best.assign(which=which, n_looks=2 * values.shape[1], chance=chance, first=first)


def grade_members(
    scores: pd.DataFrame, members: pd.DataFrame, labels: np.ndarray, *, seed: int = 0
) -> pd.DataFrame:
    """How well the predictions sort each subpopulation from the rest of its main class.

    Parameters
    ----------
    scores : DataFrame of n_test rows
        From `prediction_scores`.
    members : DataFrame
        ``comparison, direction, end, index``, as `subpopulations.subpopulations` gives it.
    labels : ndarray, shape (n_test,), int

    Returns
    -------
    DataFrame
        One row a subpopulation: its keys, ``label`` and ``n``, the class of most members and how
        many these are, the AUC by each score at its better end, and ``chance``, as in
        `grade_features`. Where all of the class are members there is no AUC: NaN.
    """
    rows = []
    for key, part in members.groupby(KEYS, sort=False):
        carries = np.zeros(len(labels), bool)
        carries[part["index"]] = True
        in_class = main_class(labels, carries)
        inside, n = carries[in_class], int(carries[in_class].sum())
        row = dict(zip(KEYS, key, strict=True)) | {"label": labels[in_class][0], "n": n}
        values = scores.to_numpy()[in_class]
        found = aucs(values, inside[None])[0]
        row |= dict(zip(scores.columns, np.maximum(found, 1 - found), strict=True))
        rows.append(row | {"chance": chance_level(values[:, :1], n, seed=seed)})
    return pd.DataFrame(rows)


def chance_level(
    scores: np.ndarray, n_carriers: int, *, n_draws: int = 1000, seed: int = 0
) -> float:
    """What the best AUC of any score at any end stays below, in 95% of random draws of carriers.

    Scores (n, n_scores) are those of the examples of one class, of which ``n_carriers`` are drawn.
    In [0.5, 1]; NaN if no example or every example would carry.
    """
    n = len(scores)
    if not 0 < n_carriers < n:
        return float("nan")
    rng = np.random.default_rng(seed)
    order = rng.random((n_draws, n)).argsort(axis=1)
    found = aucs(scores, order < n_carriers)
    return float(np.quantile(np.maximum(found, 1 - found).max(axis=1), 0.95))
