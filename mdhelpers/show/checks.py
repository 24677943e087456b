"""The notebooks' checks: each result again by a plainer way; a disagreement is an error.

Notebook 09's results again, by plainer ways; a disagreement is an error.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from mdhelpers.data.datasets import Split
from mdhelpers.method.comparison import Comparison
from mdhelpers.runs.stage import TILTING
from mdhelpers.show.style import COMPARISONS
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.models import StudyModels
from mdhelpers.stages.predictions import StudyPredictions
from mdhelpers.stages.reweighting import RANDOM
from mdhelpers.training.store import ModelStore


def mask_overlap(models) -> pd.DataFrame:
    """Shared images of pairs of masks: expected at random, and found.

    Models that were trained here have subsets of one size, the same under both algorithms.
    """
    masks, other = (models.all(algorithm).masks for algorithm in (1, 2))
    plan = models.plan
    if not models.made_elsewhere:
        assert (masks == other).all(), "the two algorithms saw different subsets"
        assert (masks.sum(axis=1) == round(plan.alpha * plan.n_train)).all(), "a subset's size"
    share = masks.mean()
    pairs = masks[::2][: len(masks) // 2] & masks[1::2][: len(masks) // 2]
    found = {"expected": share**2, "found": pairs.mean()}
    return pd.DataFrame(found, index=["images in both of two masks, share of all"]).round(4)


def agreement_with_means(models, fits) -> pd.DataFrame:
    """Correlation of fitted weights with the difference of mean margins, over all pairs.

    The means are taken within common initialisations, as the fit was.
    """
    rows = {}
    for algorithm, (name, fit) in enumerate(zip(models.names, fits.datamodels, strict=True), 1):
        fitting = models.fitting(algorithm)
        outputs = models.outputs(fitting, fits.relative)
        masks, margins = (np.array(a, np.float64) for a in (fitting.masks, outputs))
        for slot in np.unique(fitting.slots):
            margins[fitting.slots == slot] -= margins[fitting.slots == slot].mean(axis=0)
        inside = masks / masks.sum(axis=0)
        outside = (1 - masks) / (1 - masks).sum(axis=0)
        means = margins.T @ (inside - outside)
        used = fit.weights != 0
        r = np.corrcoef(means[used], fit.weights[used])[0, 1]
        sign = (np.sign(means[used]) == np.sign(fit.weights[used])).mean()
        rows[name] = {"correlation where the weight is not zero": r, "same sign": sign}
    return pd.DataFrame(rows).round(3)


def directions(found) -> pd.DataFrame:
    """Directions against eigenvectors of the residuals' covariance, with NumPy alone."""
    thetas = [np.asarray(d.weights, np.float64) for d in found.datamodels]
    unit = [t / np.maximum(np.linalg.norm(t, axis=1, keepdims=True), 1e-300) for t in thetas]
    rows = []
    for name, (one, two) in zip(COMPARISONS, (unit, unit[::-1]), strict=True):
        residuals = one - (one * two).sum(axis=1, keepdims=True) * two
        residuals -= residuals.mean(axis=0)
        eigenvectors = np.linalg.eigh(residuals.T @ residuals)[1][:, ::-1].T
        for component, direction in zip(
            found.comparison[name].component, found.comparison[name].directions, strict=True
        ):
            cosine = abs(float(direction @ eigenvectors[component - 1]))
            rows.append({"comparison": name, "direction": int(component), "|cos|": cosine})
    table = pd.DataFrame(rows)
    assert (table["|cos|"] > 0.999).all(), "directions differ from the covariance's eigenvectors"
    return table.pivot(index="comparison", columns="direction", values="|cos|").round(5)


def grades(found, comparison: Comparison, test: Split) -> pd.DataFrame | str:
    """AUC within class of the best direction of each feature, by counting pairs."""
    if found.grades is None:
        return "No truth is known for this data: nothing to grade."
    best = found.grades.loc[found.grades.groupby("feature")["auc_within_class"].idxmax()]
    rows = []
    for row in best.itertuples():
        chosen = comparison[row.comparison]
        position = list(chosen.component).index(row.direction)
        projection = chosen.projections[:, position] * (1 if row.end == "top" else -1)
        carries = test.truth[row.feature].to_numpy()
        label = np.bincount(test.labels[carries]).argmax()
        inside = projection[carries & (test.labels == label)][:, None]
        others = projection[~carries & (test.labels == label)][None]
        counted = (inside > others).mean() + 0.5 * (inside == others).mean()
        assert abs(counted - row.auc_within_class) < 1e-6, f"AUC of {row.feature} differs"
        rows.append((row.feature, row.comparison, row.direction, row.auc_within_class, counted))
    columns = ["feature", "comparison", "direction", "AUC within class", "counted by pairs"]
    return pd.DataFrame(rows, columns=columns).set_index("feature").round(4)


def tilted_inclusion(run, found) -> pd.DataFrame | str:
    """How often a direction's heaviest training images were included along and against it."""
    if found.table is None:
        return "No models were trained here."
    comparison, rows = read_comparison(run).comparison, []
    (folder,) = run.path.glob("retrained/tilts_1-*")
    trained = ModelStore.open(folder / "models_1.zarr", read_only=True).read_masks()
    keys = found.table.loc[found.table["algorithm"] == 1, ["comparison", "direction"]]
    shape = (len(keys), 2, run.manifest(TILTING)["parameters"]["n_pairs"])
    groups = trained[: np.prod(shape)].reshape(*shape, -1)
    assert (trained.sum(1) == trained.shape[1] // 2).all(), "a mask of another size"
    for (name, direction), (along, against) in zip(keys.to_numpy(), groups, strict=True):
        if name == RANDOM:
            continue
        chosen = comparison[name]
        vector = chosen.directions[list(chosen.component).index(direction)]
        heavy = vector >= np.quantile(vector, 0.9)
        shares = along[:, heavy].mean(), against[:, heavy].mean()
        assert shares[0] > shares[1], "the tilt went the other way"
        rows.append((name.replace("_minus_", " ∖ "), direction, *shares))
    columns = ["comparison", "direction", "included along it", "included against it"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:2]).round(3)


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
