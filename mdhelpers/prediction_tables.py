"""What notebook 09 shows as tables, and the images that it shows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.datasets import Split
from mdhelpers.prediction_grades import SCORES, SHOWN
from mdhelpers.prediction_pairs import PAIRS
from mdhelpers.prediction_plots import pair_label
from mdhelpers.prediction_stage import StudyPredictions
from mdhelpers.selections import Rows
from mdhelpers.style import comparison_label
from mdhelpers.subpopulations import random_same_class

MASK_NAMES = {"equal": "same", "other": "different"}
MEASURE_NAMES = {
    "inconsistency": "one of two right, %",
    "of_expected": "of what independent errors give, %",
    "conversion": "put right by the ensemble, %",
    "gain": "ensemble over the mean, points",
    "gain_over_better": "ensemble over the better, points",
    "gain_of_logits": "ensemble of logits over the mean, points",
    "surer_is_right": "the surer is right, %",
}


def kinds(found: StudyPredictions, names) -> pd.DataFrame:
    """Every measure of every kind of pair, with its 95% interval over models."""
    table = found.tables.kinds.copy()
    table["kind"] = [kind_label(pair, names) for pair in table["pair"]]
    table["cell"] = [
        f"{100 * row.mean:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        for row in table.itertuples()
    ]
    table["measure"] = table["measure"].map(MEASURE_NAMES)
    table["masks"] = table["masks"].map(MASK_NAMES)
    index, present = ["masks", "measure"], set(table["pair"])
    columns = [kind_label(pair, names) for pair in (*PAIRS, "difference") if pair in present]
    order = list(dict.fromkeys(zip(table["masks"], table["measure"], strict=True)))
    wide = table.pivot(index=index, columns="kind", values="cell")
    return wide.loc[order, columns].fillna("–")


def kind_label(pair: str, names) -> str:
    """A pair in words, or that it is the difference between across and within."""
    return "across less within" if pair == "difference" else pair_label(pair, names)


def accuracies(found: StudyPredictions, names) -> pd.DataFrame:
    """Accuracies of the pairs' members: errors can be compared only where these are alike."""
    grouped = found.tables.pairs.groupby(["masks", "pair"], sort=False)
    table = 100 * grouped[["accuracy_1", "accuracy_2", "expected"]].mean()
    table["pairs"] = grouped.size()
    kinds = [(MASK_NAMES[masks], pair_label(pair, names)) for masks, pair in table.index]
    table.index = pd.MultiIndex.from_tuples(kinds, names=["masks", "kind"])
    columns = {"accuracy_1": "accuracy of the first, %", "accuracy_2": "of the second, %"}
    return table.rename(columns=columns | {"expected": "independent errors: one of two, %"}).round(
        1
    )


def features(found: StudyPredictions, names) -> pd.DataFrame | str:
    """How well predictions and the best direction find each planted feature."""
    if not len(found.tables.grades):
        return "No truth is known for this data: nothing to grade."
    table = found.tables.grades.copy()
    table["first"] = (SHOWN * table["first"]).round().astype(int)
    table["which"] = [spoken(which, names) for which in table["which"]]
    columns = {"auc_within_class": "AUC within class", "auc": "AUC over all"}
    columns |= {"precision_at_k": "precision at n", "first": f"carriers of the first {SHOWN}"}
    columns |= {"n_looks": "ends looked at"}
    columns |= {"chance": "chance, 95%"}
    shown = ["which", "end", *columns, "n"]
    return table.set_index(["feature", "score"])[shown].rename(columns=columns).round(3)


def spoken(which: str, names) -> str:
    """ "1_minus_2 #3" with the algorithms' names; a score stays as it is."""
    comparison, hash_sign, number = which.partition(" #")
    return f"{comparison_label(comparison, names)} #{number}" if hash_sign else which


def members(found: StudyPredictions, class_names, names, *, n_directions: int = 3) -> pd.DataFrame:
    """How well predictions find the subpopulations of the first directions."""
    table = found.tables.members
    place = table.groupby("comparison")["direction"].transform(lambda d: pd.factorize(d)[0])
    shown = table[place < n_directions].copy()
    shown["comparison"] = [comparison_label(name, names) for name in shown["comparison"]]
    shown["class"] = [class_names[label] for label in shown["label"]]
    columns = ["class", "n", *SCORES, "chance"]
    shown = shown.set_index(["comparison", "direction", "end"])
    shown = shown[[name for name in columns if name in shown]].round(2)
    return shown.rename(columns={"n": "members", "chance": "chance, 95%"})


def seen_rows(found: StudyPredictions, test: Split, names, *, n: int = SHOWN) -> Rows:
    """Test images that one algorithm masters and the other does not, above others of the class."""
    margin, rows = found.tables.scores["margin"].to_numpy(), {}
    for name, order in zip(names, (np.argsort(-margin), np.argsort(margin)), strict=True):
        index = order[:n]
        others = random_same_class(test.labels, index, n)
        rows[f"better under\n{name}"] = test.images[index]
        rows[f"random, as\nbetter under {name}"] = test.images[others]
    return rows
