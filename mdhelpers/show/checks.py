"""The notebooks' checks: each result again by a plainer way; a disagreement is an error.

Notebook 09's results again, by plainer ways; a disagreement is an error.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from mdhelpers.stages.models import StudyModels
from mdhelpers.stages.predictions import StudyPredictions

COUNTED = ("inconsistency", "conversion", "gain")


def pairs(models: StudyModels, found: StudyPredictions) -> pd.DataFrame | str:
    """One pair of each kind, counted image by image from the checkpoints."""
    if not models.plan.n_keep:
        return "No model is kept: nothing to count again."
    kept = [all_logits(models, a) for a in (1, 2)]
    labels, rows = torch.from_numpy(models.dataset.test.labels), []
    table = found.tables.pairs.dropna(subset="gain")
    for (masks, pair), part in table.groupby(["masks", "pair"], sort=False):
        row = part.iloc[0]
        sides = (int(number) - 1 for number in pair.split(" against "))
        given = [kept[s][int(row[m])] for s, m in zip(sides, ("model_1", "model_2"), strict=True)]
        counted = count(given[0].softmax(-1), given[1].softmax(-1), labels)
        for measure in COUNTED:
            again, listed = counted[measure], row[measure]
            assert np.isclose(again, listed, atol=1e-6, equal_nan=True), (
                f"{measure} of {pair}, {masks} mask: {listed} in the table, {again} counted"
            )
        rows.append({"pair": pair, "masks": masks} | {m: row[m] for m in COUNTED})
        rows[-1] |= {f"{m}, counted": counted[m] for m in COUNTED}
    return pd.DataFrame(rows).set_index(["pair", "masks"]).round(4)


def all_logits(models: StudyModels, algorithm: int) -> torch.Tensor:
    kept = models.kept(algorithm)
    return torch.cat([stack.logits(models.dataset.test.images) for stack in kept])


def count(one: torch.Tensor, two: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """The measures of one pair, an image at a time."""
    n = {"one": 0, "two": 0, "both": 0, "alone": 0, "converted": 0}
    for first, second, label in zip(one, two, labels, strict=True):
        votes = [chooses(p, int(label)) for p in (first, second, first + second)]
        for name, vote in zip(("one", "two", "both"), votes, strict=True):
            n[name] += vote
        n["alone"] += votes[0] != votes[1]
        n["converted"] += votes[0] != votes[1] and votes[2]
    return {
        "inconsistency": n["alone"] / len(labels),
        "conversion": n["converted"] / n["alone"] if n["alone"] else np.nan,
        "gain": (n["both"] - (n["one"] + n["two"]) / 2) / len(labels),
    }


def chooses(scores: torch.Tensor, label: int) -> bool:
    """Whether the label comes first and alone: forests give two classes the same votes at times."""
    ranked = sorted(scores.tolist(), reverse=True)
    return float(scores[label]) == ranked[0] > ranked[1]


def features(models: StudyModels, found: StudyPredictions) -> pd.DataFrame | str:
    """AUC of the difference in margins for each feature, by scikit-learn."""
    if not len(found.tables.grades):
        return "No truth is known for this data: nothing to grade."
    test, rows = models.dataset.test, []
    margins = [models.all(a).margins.astype(np.float64).mean(axis=0) for a in (1, 2)]
    graded = found.tables.grades[found.tables.grades["score"] == "margin"]
    for row in graded.itertuples():
        carries = test.truth[row.feature].to_numpy()
        inside = test.labels == np.bincount(test.labels[carries]).argmax()
        auc = roc_auc_score(carries[inside], (margins[0] - margins[1])[inside])
        again = max(auc, 1 - auc)
        assert abs(again - row.auc_within_class) < 1e-3, f"AUC of {row.feature} differs: {again}"
        rows.append((row.feature, row.auc_within_class, again))
    columns = ["feature", "AUC of the margins", "by scikit-learn"]
    return pd.DataFrame(rows, columns=columns).set_index("feature").round(4)
