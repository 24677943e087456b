"""Predictions and directions graded alike: planted carriers, and none to find."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mdhelpers.analyses.prediction_grades import (
    SCORES,
    chance_level,
    grade_features,
    grade_members,
    prediction_scores,
)
from mdhelpers.analyses.predictions import Predictions

N = 300
LABELS = np.arange(N) % 3
CARRIES = (LABELS == 1) & (np.arange(N) < 90)  # 30 of class 1


def models(shift, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 0.5, (12, N, 3))
    logits[:, np.arange(N), LABELS] += 1 + shift * CARRIES
    e = np.exp(logits)
    own = logits[:, np.arange(N), LABELS]
    others = np.where(np.arange(3) == LABELS[:, None], -np.inf, logits).max(-1)
    return Predictions(e / e.sum(-1, keepdims=True), LABELS), own - others


@pytest.fixture(scope="module")
def scores():
    (one, margins_1), (two, margins_2) = models(2.0, 1), models(0.0, 2)
    return prediction_scores(one, two, margins_1, margins_2)


def test_scores_are_positive_where_algorithm_1_does_better(scores):
    assert tuple(scores.columns) == SCORES
    assert (scores[CARRIES].mean() > 0.1).all()
    assert (scores[~CARRIES].mean().abs() < 0.05).all()


def test_features_are_graded_as_scikit_learn_grades(scores):
    rng = np.random.default_rng(0)
    directions = pd.DataFrame(
        rng.normal(size=(N, 6)), columns=[f"1_minus_2 #{i}" for i in range(6)]
    )
    directions["1_minus_2 #9"] = -5.0 * CARRIES + rng.normal(size=N)
    truth = pd.DataFrame({"mark": CARRIES, "none": np.zeros(N, bool)})
    table = grade_features(scores, directions, LABELS, truth).set_index("score")
    assert set(table["feature"]) == {"mark"}  # nobody carries the other
    inside = LABELS == 1
    for name in SCORES:
        auc = roc_auc_score(CARRIES[inside], scores[name][inside])
        assert table.loc[name, "auc_within_class"] == pytest.approx(auc)
        assert table.loc[name, "end"] == "top"
        assert table.loc[name, "n_looks"] == 2
    found = table.loc["direction"]
    assert (found["which"], found["end"], found["n_looks"]) == ("1_minus_2 #9", "bottom", 14)
    assert found["chance"] > table.loc["margin", "chance"]
    assert found["n"] == 30
    outermost = np.argsort(directions["1_minus_2 #9"])[:12]
    assert found["first"] == pytest.approx(CARRIES[outermost].mean())
    outermost = np.argsort(-scores["margin"])[:12]
    assert table.loc["margin", "first"] == pytest.approx(CARRIES[outermost].mean())


def test_subpopulations_are_told_from_their_class_or_not(scores):
    rng = np.random.default_rng(1)
    class_1 = np.flatnonzero(LABELS == 1)
    seen = np.concatenate([np.flatnonzero(CARRIES)[:20], [0, 3]])  # two strangers of class 0
    unseen = rng.permutation(class_1)[:20]
    members = pd.DataFrame(
        {"comparison": "1_minus_2", "direction": 4, "end": ["top"] * 22 + ["bottom"] * 20,
         "index": [*seen, *unseen]}
    )  # fmt: skip
    table = grade_members(scores, members, LABELS).set_index("end")
    assert list(table["label"]) == [1, 1]
    assert list(table["n"]) == [20, 20]
    carries = np.isin(class_1, seen)
    auc = roc_auc_score(carries, scores["margin"][class_1])
    assert table.loc["top", "margin"] == pytest.approx(auc)
    assert table.loc["top", "margin"] > 0.85
    assert table.loc["bottom", "margin"] < table.loc["bottom", "chance"] + 0.1
    assert (table[list(SCORES)] >= 0.5).all().all()


def test_chance_stays_below_its_level_19_times_in_20():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(120, 6))
    level = chance_level(values, 20, seed=5)
    above = 0
    for _ in range(150):
        carries = np.isin(np.arange(120), rng.choice(120, 20, replace=False))
        aucs = [roc_auc_score(carries, column) for column in values.T]
        above += max(max(auc, 1 - auc) for auc in aucs) > level
    assert 1 <= above <= 17  # 7 or 8 are expected


def test_more_looks_and_fewer_carriers_raise_what_chance_reaches():
    values = np.random.default_rng(3).normal(size=(150, 30))
    one_score, few = chance_level(values[:, :1], 40), chance_level(values[:, :1], 10)
    assert one_score < chance_level(values, 40)
    assert one_score < few
    assert np.isnan(chance_level(values, 0))
    assert np.isnan(chance_level(values, 150))
