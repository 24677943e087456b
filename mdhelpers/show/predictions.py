"""Page 09: pairs of models by their errors, ensembles of two, and who finds what differs.

A colour is a pair: algorithm 1 against itself, algorithm 2 against itself, and, in green, the two
against each other. What chance reaches is grey.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.analyses.prediction_grades import SCORES, SHOWN
from mdhelpers.analyses.predictions import PAIRS
from mdhelpers.data.datasets import Split
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.show.gallery import Rows, image_rows
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    compared,
    comparison_label,
    draw_if,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)
from mdhelpers.stages.predictions import SIDES, StudyPredictions

PAIR_STYLES = {
    "1 against 1": (ALGORITHM_COLORS[1], "o"),
    "2 against 2": (ALGORITHM_COLORS[2], "s"),
    "1 against 2": ("#009E73", "D"),
}
OUTCOME_STYLES = {
    "both right": ("#BBBBBB", "."),
    "only 1 right": (ALGORITHM_COLORS[1], "o"),
    "only 2 right": (ALGORITHM_COLORS[2], "s"),
    "both wrong": (INK, "x"),
}
SCORE_STYLES = {
    "confidence": ("#56B4E9", "v", "predictions: confidence"),
    "angle": ("#E69F00", "^", "predictions: angle"),
    "margin": ("#CC79A7", "s", "predictions: margin, all models"),
    "direction": ("#009E73", "D", "datamodels: best direction"),
}
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
SEEN = 0.75  # of the outermost images carry a feature: then a person sees it


def pair_label(pair: str, names: Sequence[str] = DEFAULT_NAMES) -> str:
    """What readers see: "1 against 1" becomes "two plain", "1 against 2" "plain and augmented"."""
    if pair == "difference":
        return "across less within"
    one, two = (names[int(number) - 1] for number in pair.split(" against "))
    return f"two {one}" if one == two else f"{one} and {two}"


# ---- errors and ensembles


def accuracies(found: StudyPredictions, names: Sequence[str]) -> pd.DataFrame:
    """Accuracies of the pairs' members: errors can be compared only where these are alike."""
    grouped = found.tables.pairs.groupby(["masks", "pair"], sort=False)
    table = 100 * grouped[["accuracy_1", "accuracy_2", "expected"]].mean()
    table["pairs"] = grouped.size()
    kinds = [(MASK_NAMES[masks], pair_label(pair, names)) for masks, pair in table.index]
    table.index = pd.MultiIndex.from_tuples(kinds, names=["masks", "kind"])
    columns = {"accuracy_1": "accuracy of the first, %", "accuracy_2": "of the second, %"}
    columns |= {"expected": "independent errors: one of two, %"}
    return table.rename(columns=columns).round(1)


def kinds(found: StudyPredictions, names: Sequence[str]) -> pd.DataFrame:
    """Every measure of every kind of pair, with its 95% interval over models.

    The verdict is on the difference: "more" or "less" across algorithms than within, or "cannot
    tell" where its interval holds zero.
    """
    table = found.tables.kinds.copy()
    index, present = ["masks", "measure"], set(table["pair"])
    columns = [pair_label(pair, names) for pair in (*PAIRS, "difference") if pair in present]
    low, high = table["low"], table["high"]
    table["verdict"] = np.select([low > 0, high < 0], ["more", "less"], "cannot tell")
    table["pair"] = [pair_label(pair, names) for pair in table["pair"]]
    table["measure"] = table["measure"].map(MEASURE_NAMES)
    table["masks"] = table["masks"].map(MASK_NAMES)
    table["cell"] = [
        f"{100 * row.mean:.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]"
        for row in table.itertuples()
    ]
    order = list(dict.fromkeys(zip(table["masks"], table["measure"], strict=True)))
    wide = table.pivot(index=index, columns="pair", values="cell").loc[order, columns]
    across = table[table["pair"] == pair_label("difference")]
    return wide.assign(verdict=across.set_index(index)["verdict"]).fillna("–")


def error_inconsistencies(
    ax: Axes, kinds: pd.DataFrame, pairs: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How often exactly one of two models is right (Gontijo-Lopes et al., Figure 1, left).

    The means of ``kinds`` are markers with their intervals; each of ``pairs`` is a faint point, and
    a vertical bar the mean of what independent errors would give.
    """
    names = label_texts(names)
    shown = kinds[(kinds["measure"] == "inconsistency") & kinds["pair"].isin(PAIR_STYLES)]
    rng, labels = np.random.default_rng(0), []
    for y, row in enumerate(shown.itertuples()):
        color, marker = PAIR_STYLES[row.pair]
        part = pairs[(pairs["pair"] == row.pair) & (pairs["masks"] == row.masks)]
        places = y + rng.uniform(-0.22, 0.22, len(part))
        ax.plot(100 * part["inconsistency"], places, ".", color=color, alpha=0.25, markersize=3)
        bar = [[100 * (row.mean - row.low)], [100 * (row.high - row.mean)]]
        style = {"color": color, "marker": marker, "markeredgecolor": "white", "capsize": 4}
        ax.errorbar(100 * row.mean, y, xerr=bar, markersize=9, **style)
        expected = 100 * part["expected"].mean()
        label = "if errors were independent" if y == 0 else None
        ax.plot([expected] * 2, [y - 0.32, y + 0.32], color=NULL_COLOR, label=label)
        masks = "same mask" if row.masks == "equal" else "different masks"
        labels.append(f"{pair_label(row.pair, names)},\n{masks}")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set(xlabel="test images on which exactly one of two is right (%)", xlim=(0, None))
    ax.grid(True, axis="x")
    if labels:
        legend_below(ax, columns=1)
    return ax


def ensemble_panels(found: StudyPredictions, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Gain and conversion rate of ensembles against the inconsistency of their errors."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.4))
    pairs = found.tables.pairs.dropna(subset="gain")
    for ax, measure in zip(axes, ("gain", "conversion"), strict=True):
        draw_if(pairs if len(pairs) else None, ensemble_scatter, ax, measure=measure, names=names)
    return fig


def ensemble_scatter(
    ax: Axes,
    pairs: pd.DataFrame,
    *,
    measure: str = "gain",
    masks: str = "other",
    names: Sequence[str] = DEFAULT_NAMES,
) -> Axes:
    """What an ensemble of two wins, against how differently they err (Figure 2 of the same).

    Parameters
    ----------
    ax : Axes
    pairs : DataFrame
        ``pair, masks, inconsistency`` and ``measure``, of `analyses.predictions.measure_pairs`.
    measure : {"gain", "gain_over_better", "gain_of_logits", "conversion"}
    masks : {"other", "equal"}
    names : pair of str
    """
    names = label_texts(names)
    need_columns(pairs, ("pair", "masks", "inconsistency", measure))
    chosen = pairs[(pairs["masks"] == masks) & pairs[measure].notna()]
    for pair, (color, marker) in PAIR_STYLES.items():
        part = chosen[chosen["pair"] == pair]
        if not len(part):
            continue
        x, y = 100 * part["inconsistency"], 100 * part[measure]
        ax.plot(x, y, marker, color=color, alpha=0.25, markersize=3)
        style = {"color": color, "marker": marker, "linestyle": "", "markeredgecolor": "white"}
        ax.plot(x.mean(), y.mean(), markersize=11, label=pair_label(pair, names), **style)
    won = "of these, put right by the ensemble (%)"
    ylabel = won if measure == "conversion" else "gain of the ensemble (points)"
    ax.set(xlabel="exactly one of two is right (%)", ylabel=ylabel)
    ax.grid(True)
    if len(chosen):
        legend_below(ax, columns=1)
    return ax


# ---- confidence against confidence


def confidence_panels(found: StudyPredictions, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """The first two models' confidences, on different masks, a panel per kind of pair."""
    fig, axes = plt.subplots(1, 3, figsize=(9, 4.8))
    for ax, (pair, sides) in zip(axes, SIDES.items(), strict=True):
        if len(found.right[0]) < 2:
            draw_if(None, None, ax)
            continue
        rows = list(zip(sides, (0, 1), strict=True))
        confidence = [found.confidence[side][row] for side, row in rows]
        right = [found.right[side][row] for side, row in rows]
        confidence_confidence(ax, *confidence, *right, names=[names[side] for side in sides])
        ax.set_title(pair_label(pair, label_texts(names)))
    return fig


def confidence_confidence(
    ax: Axes,
    confidence_1: np.ndarray,
    confidence_2: np.ndarray,
    right_1: np.ndarray,
    right_2: np.ndarray,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
) -> Axes:
    """Two models' confidence in their own first choice, a point a test example (Figure 3, left).

    All arrays have the shape (n_test,): softmax in [0, 1], and whether each model is right.
    """
    names = label_texts(names)
    outcomes = np.array([["both wrong", "only 2 right"], ["only 1 right", "both right"]])
    outcomes = outcomes[np.asarray(right_1).astype(int), np.asarray(right_2).astype(int)]
    ax.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=":")
    for outcome, (color, marker) in OUTCOME_STYLES.items():
        x, y = (100 * np.asarray(c)[outcomes == outcome] for c in (confidence_2, confidence_1))
        ax.plot(x, y, marker, color=color, markersize=4, alpha=0.7, label=outcome)
    low = 100 * min(np.min(confidence_1), np.min(confidence_2)) - 3
    ax.set(xlim=(low, 102), ylim=(low, 102), aspect="equal")
    ax.set(xlabel=f"confidence of 2, {names[1]} (%)", ylabel=f"confidence of 1, {names[0]} (%)")
    legend_below(ax, columns=2)
    return ax


def angle_panels(found: StudyPredictions, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Histograms of the specialisation angle, a panel per outcome in which someone errs."""
    fig, axes = plt.subplots(1, 3, figsize=(9, 4.6), sharey=True)
    angles = found.tables.angles if len(found.tables.angles) else None
    for ax, outcome in zip(axes, ("only 1 right", "only 2 right", "both wrong"), strict=True):
        draw_if(angles, angle_histograms, ax, outcome=outcome, names=names)
    return fig


def angle_histograms(
    ax: Axes, angles: pd.DataFrame, *, outcome: str, masks: str = "other",
    names: Sequence[str] = DEFAULT_NAMES,
) -> Axes:  # fmt: skip
    """Specialisation angles of the examples with one outcome, by kind of pair (Figure 3).

    ``angles`` has ``pair, masks, outcome, left, right, share``: bins of
    `analyses.predictions.histogram_of_angles`.
    """
    names = label_texts(names)
    chosen = angles[(angles["outcome"] == outcome) & (angles["masks"] == masks)]
    for pair, (color, _) in PAIR_STYLES.items():
        part = chosen[chosen["pair"] == pair].sort_values("left")
        if not len(part):
            continue
        edges = np.degrees([*part["left"], part["right"].iloc[-1]])
        label = f"{pair_label(pair, names)}: {100 * part['share'].sum():.1f}%"
        ax.stairs(100 * part["share"], edges, color=color, linewidth=2, label=label)
    ax.axvline(0, color=INK, linewidth=1, linestyle=":")
    ax.set(xlabel="specialisation angle θ (degrees)", ylabel="share of test images (%)")
    ax.set_title(outcome)
    if len(chosen):
        legend_below(ax, columns=1)
    return ax


def class_angles(
    ax: Axes, classes: pd.DataFrame, class_names: Sequence[str], *, masks: str = "other",
    names: Sequence[str] = DEFAULT_NAMES,
) -> Axes:  # fmt: skip
    """Mean specialisation angle in each class, over pairs of models (Figure 4).

    ``classes`` has ``pair, masks, label, theta_mean, theta_low, theta_high``, of
    `analyses.predictions.class_angles`. Bars reach over the middle 90% of the pairs.
    """
    if classes.empty:
        return draw_if(None, None, ax)
    names = label_texts(names)
    for shift, (pair, (color, marker)) in zip((-0.2, 0, 0.2), PAIR_STYLES.items(), strict=True):
        part = classes[(classes["pair"] == pair) & (classes["masks"] == masks)]
        if not len(part):
            continue
        mean, low, high = np.degrees(part[["theta_mean", "theta_low", "theta_high"]].to_numpy()).T
        bars = np.clip([mean - low, high - mean], 0, None)
        style = {"color": color, "marker": marker, "linestyle": "", "capsize": 3}
        label = pair_label(pair, names)
        ax.errorbar(part["label"] + shift, mean, yerr=bars, label=label, **style)
    ax.axhline(0, color=INK, linewidth=1)
    width = max(12, 72 // len(class_names))
    ax.set_xticks(range(len(class_names)), [label_text(name, width) for name in class_names])
    ax.set_ylabel("specialisation angle θ,\nconfidence in the label (degrees)")
    ax.grid(True, axis="y")
    legend_below(ax, columns=3)
    return ax


def classes(found: StudyPredictions, class_names, names: Sequence[str]) -> pd.DataFrame | str:
    """To which algorithm each class leans on the same mask, and whether single pairs show it."""
    table = found.tables.classes
    across = table[(table["pair"] == "1 against 2") & (table["masks"] == "equal")]
    if not len(across):
        return "Without checkpoints there are no confidences to compare."
    mean, low, high = np.degrees(
        across[["theta_mean", "theta_low", "theta_high"]].to_numpy(float)
    ).T
    shown = {
        "class": [class_names[label] for label in across["label"]],
        "leans to": np.where(mean > 0, *names),
        "by, degrees": abs(mean).round(1),
        "nine of ten pairs": [f"{a:+.1f} to {b:+.1f}" for a, b in zip(low, high, strict=True)],
        "verdict": np.where((low > 0) | (high < 0), "nearly every pair", "pairs go either way"),
    }
    return pd.DataFrame(shown).set_index("class").sort_values("by, degrees", ascending=False)


# ---- predictions beside datamodels


def seen_images(found: StudyPredictions, test: Split, names: Sequence[str]) -> Figure:
    """Test images that one algorithm masters and the other does not, above others of the class."""
    fig, ax = plt.subplots(figsize=(9, 3.6))
    image_rows(ax, seen_rows(found, test, names))
    return fig


def seen_rows(found: StudyPredictions, test: Split, names, *, n: int = SHOWN) -> Rows:
    """Test images that one algorithm masters and the other does not, above others of the class."""
    margin, rows = found.tables.scores["margin"].to_numpy(), {}
    for name, order in zip(names, (np.argsort(-margin), np.argsort(margin)), strict=True):
        index = order[:n]
        others = random_same_class(test.labels, index, n)
        rows[f"{name}\ndoes better"] = test.images[index]
        rows[f"random, as\nfor {name}"] = test.images[others]
    return rows


def feature_grades(ax: Axes, grades: pd.DataFrame) -> Axes:
    """How well predictions, and the best direction, sort carriers of a feature in their class.

    ``grades`` has ``feature, score, auc_within_class, chance``, of
    `analyses.prediction_grades.grade_features`. The short grey bar is the 95% level of chance,
    higher for the best of many directions.
    """
    if grades.empty:
        return draw_if(None, None, ax)
    features = list(dict.fromkeys(grades["feature"]))
    for shift, (score, (color, marker, label)) in zip(
        (-0.24, -0.08, 0.08, 0.24), SCORE_STYLES.items(), strict=True
    ):
        part = grades[grades["score"] == score].set_index("feature").reindex(features)
        y = np.arange(len(features)) + shift
        bar = {"color": NULL_COLOR, "label": "chance, 95%" if shift == -0.24 else None}
        ax.plot(part["chance"], y, "|", markersize=9, markeredgewidth=2, **bar)
        ax.plot(part["auc_within_class"], y, marker, color=color, markersize=8, label=label)
    ax.set_yticks(range(len(features)), [label_text(f.replace("_", " "), 24) for f in features])
    ax.set(xlim=(0.48, 1.02), xlabel="AUC within the class of the carriers")
    ax.set_ylim(len(features) - 0.5, -0.5)
    ax.grid(True, axis="x")
    legend_below(ax, columns=2)
    return ax


def features(found: StudyPredictions, names: Sequence[str]) -> pd.DataFrame | str:
    """How well predictions and the best direction find each planted feature.

    The verdict says whether a person who looks at the outermost images sees it: most carry it.
    """
    if found.tables.grades.empty:
        return "No truth is known for this data: nothing to grade."
    table = found.tables.grades.copy()
    table["verdict"] = np.where(table["first"] >= SEEN, "seen", "not seen")
    table["first"] = (SHOWN * table["first"]).round().astype(int)
    table["which"] = [spoken(which, names) for which in table["which"]]
    columns = {"auc_within_class": "AUC within class", "chance": "chance, 95%"}
    columns |= {"first": f"carriers of the first {SHOWN}"}
    shown = ["which", "end", *columns, "verdict"]
    return table.set_index(["feature", "score"])[shown].rename(columns=columns).round(3)


def spoken(which: str, names: Sequence[str]) -> str:
    """ "1_minus_2 #3" with the algorithms' names; a score stays as it is."""
    comparison, hash_sign, number = which.partition(" #")
    return f"{comparison_label(comparison, names)} #{number}" if hash_sign else which


def member_grades(
    ax: Axes, members: pd.DataFrame, *, score: str = "margin", names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How well predictions sort each subpopulation from its class, in the order of evidence.

    ``members`` has ``comparison, direction, end, chance`` and ``score`` (one of
    `analyses.prediction_grades.SCORES`), of `analyses.prediction_grades.grade_members`.
    """
    names = label_texts(names)
    need_columns(members, ("comparison", "direction", "end", "chance", score))
    ticks, labels = [], []
    for comparison, part in members.groupby("comparison", sort=True):
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        order = list(dict.fromkeys(part["direction"]))
        start = len(ticks) + bool(ticks)
        for end, marker in (("top", "^"), ("bottom", "v")):
            rows = part[part["end"] == end].set_index("direction").loc[order]
            x = start + np.arange(len(order)) + (0.12 if end == "bottom" else -0.12)
            label = f"{comparison_label(comparison, names)}, {end}"
            ax.plot(x, rows["chance"], "_", color=NULL_COLOR, markersize=8)
            ax.plot(x, rows[score], marker, color=color, markersize=7, label=label)
        ticks += list(start + np.arange(len(order)))
        labels += [str(direction) for direction in order]
    ax.set_xticks(ticks, labels)
    ax.set(ylim=(0.48, 1.02), xlabel="direction (grey: chance, 95%)", ylabel=f"AUC of the {score}")
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def members(found: StudyPredictions, class_names, names, *, n_directions: int = 3) -> pd.DataFrame:
    """How well predictions find the subpopulations of the first directions.

    The verdict is on the margins of all models.
    """
    table = found.tables.members
    place = table.groupby("comparison")["direction"].transform(lambda d: pd.factorize(d)[0])
    shown = table[place < n_directions].copy()
    shown["comparison"] = [comparison_label(name, names) for name in shown["comparison"]]
    shown["class"] = [class_names[label] for label in shown["label"]]
    above, known = shown["margin"] > shown["chance"], shown["margin"].notna()
    shown["verdict"] = np.select([above, known], ["above chance", "as by chance"], "–")
    columns = ["class", "n", *SCORES, "chance", "verdict"]
    shown = shown.set_index(["comparison", "direction", "end"])
    shown = shown[[name for name in columns if name in shown]].round(2)
    return shown.rename(columns={"n": "members", "chance": "chance, 95%"})
