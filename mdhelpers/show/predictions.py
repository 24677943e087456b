"""Figures about pairs of models: their errors, ensembles of two, and specialisation angles.

Every function draws on the `Axes` it is given and returns it. A colour is a pair: algorithm 1
against itself, algorithm 2 against itself, and, in green, the two against each other.

Figures that set predictions beside datamodels: which of them finds what tells algorithms apart.

Every function draws on the `Axes` it is given and returns it. What chance reaches is grey.

Figures of several axes for notebook 09.

What notebook 09 shows as tables, and the images that it shows.

Prose of notebook 09 that quotes a run's figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from mdhelpers.analyses.prediction_grades import SCORES, SHOWN
from mdhelpers.analyses.predictions import PAIRS
from mdhelpers.data.datasets import Split
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import PREDICTIONS
from mdhelpers.show.gallery import Rows
from mdhelpers.show.models import algorithm_names
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    compared,
    comparison_label,
    draw_if,
    escape_markdown,
    escaped,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)
from mdhelpers.stages.predictions import StudyPredictions

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


def pair_label(pair: str, names: Sequence[str] = DEFAULT_NAMES) -> str:
    """What readers see: "1 against 1" becomes "two plain", "1 against 2" "plain and augmented"."""
    one, two = (names[int(number) - 1] for number in pair.split(" against "))
    return f"two {one}" if one == two else f"{one} and {two}"


def error_inconsistencies(
    ax: Axes, kinds: pd.DataFrame, pairs: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How often exactly one of two models is right (Gontijo-Lopes et al., Figure 1, left).

    Parameters
    ----------
    ax : Axes
    kinds : DataFrame
        ``pair, masks, measure, mean, low, high``, of `prediction_pairs.summarise`: drawn as a
        marker with its interval.
    pairs : DataFrame
        ``pair, masks, inconsistency, expected``: the share of every pair of models is drawn as a
        faint point, and the mean of what independent errors would give as a vertical bar.
    names : pair of str

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    need_columns(kinds, ("pair", "masks", "measure", "mean", "low", "high"))
    need_columns(pairs, ("pair", "masks", "inconsistency", "expected"))
    shown = kinds[(kinds["measure"] == "inconsistency") & kinds["pair"].isin(PAIR_STYLES)]
    rng, labels = np.random.default_rng(0), []
    mask_words = {"equal": "same mask", "other": "different masks"}
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
        labels.append(f"{pair_label(row.pair, names)},\n{mask_words[row.masks]}")
    ax.set_yticks(range(len(labels)), labels)
    ax.invert_yaxis()
    ax.set(xlabel="test images on which exactly one of two is right (%)", xlim=(0, None))
    ax.grid(True, axis="x")
    if labels:
        legend_below(ax, columns=1)
    return ax


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
        ``pair, masks, inconsistency`` and ``measure``, of `prediction_pairs.measure_pairs`.
    measure : {"gain", "gain_over_better", "gain_of_logits", "conversion"}
    masks : {"other", "equal"}
    names : pair of str

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
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
    ylabel = {"conversion": "of these, put right by the ensemble (%)"}
    ax.set(
        xlabel="exactly one of two is right (%)",
        ylabel=ylabel.get(measure, "gain of the ensemble (points)"),
    )
    ax.grid(True)
    if len(chosen):
        legend_below(ax, columns=1)
    return ax


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

    Parameters
    ----------
    ax : Axes
    confidence_1, confidence_2 : array, shape (n_test,)
        Softmax, in [0, 1].
    right_1, right_2 : array, shape (n_test,), bool
    names : pair of str
        What to call the two models.

    Returns
    -------
    Axes
    """
    names = label_texts(names)
    found = outcome_names(right_1, right_2)
    ax.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=":")
    for outcome, (color, marker) in OUTCOME_STYLES.items():
        inside = found == outcome
        x, y = (100 * np.asarray(c)[inside] for c in (confidence_2, confidence_1))
        ax.plot(x, y, marker, color=color, markersize=4, alpha=0.7, label=outcome)
    low = 100 * min(np.min(confidence_1), np.min(confidence_2)) - 3
    ax.set(xlim=(low, 102), ylim=(low, 102), aspect="equal")
    ax.set(xlabel=f"confidence of 2, {names[1]} (%)", ylabel=f"confidence of 1, {names[0]} (%)")
    legend_below(ax, columns=2)
    return ax


def outcome_names(right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """The outcome of each example in words, shape (n_test,)."""
    table = np.array([["both wrong", "only 2 right"], ["only 1 right", "both right"]])
    return table[np.asarray(right_1).astype(int), np.asarray(right_2).astype(int)]


def angle_histograms(
    ax: Axes, angles: pd.DataFrame, *, outcome: str, masks: str = "other",
    names: Sequence[str] = DEFAULT_NAMES,
) -> Axes:  # fmt: skip
    """Specialisation angles of the examples with one outcome, by kind of pair (Figure 3).

    Parameters
    ----------
    ax : Axes
    angles : DataFrame
        ``pair, masks, outcome, left, right, share``, of `prediction_pairs.histogram_of_angles`.
    outcome : str
        One of `prediction_level.OUTCOMES`.
    masks : {"other", "equal"}
    names : pair of str

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    need_columns(angles, ("pair", "masks", "outcome", "left", "right", "share"))
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

    Parameters
    ----------
    ax : Axes
    classes : DataFrame
        ``pair, masks, label, theta_mean, theta_low, theta_high``, of
        `prediction_pairs.class_angles`. Bars reach over the middle 90% of the pairs.
    class_names : sequence of str
    masks : {"other", "equal"}
    names : pair of str

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    need_columns(classes, ("pair", "masks", "label", "theta_mean", "theta_low", "theta_high"))
    for shift, (pair, (color, marker)) in zip((-0.2, 0, 0.2), PAIR_STYLES.items(), strict=True):
        part = classes[(classes["pair"] == pair) & (classes["masks"] == masks)]
        if not len(part):
            continue
        mean, low, high = (
            np.degrees(part[c].to_numpy()) for c in ("theta_mean", "theta_low", "theta_high")
        )
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


SCORE_STYLES = {
    "confidence": ("#56B4E9", "v", "predictions: confidence"),
    "angle": ("#E69F00", "^", "predictions: angle"),
    "margin": ("#CC79A7", "s", "predictions: margin, all models"),
    "direction": ("#009E73", "D", "datamodels: best direction"),
}


def feature_grades(ax: Axes, grades: pd.DataFrame) -> Axes:
    """How well predictions, and the best direction, sort carriers of a feature in their class.

    Parameters
    ----------
    ax : Axes
    grades : DataFrame
        ``feature, score, auc_within_class, chance``, of `prediction_grades.grade_features`. The
        short grey bar is the 95% level of chance, higher for the best of many directions.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    need_columns(grades, ("feature", "score", "auc_within_class", "chance"))
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


def member_grades(
    ax: Axes, members: pd.DataFrame, *, score: str = "margin", names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How well predictions sort each subpopulation from its class, in the order of evidence.

    Parameters
    ----------
    ax : Axes
    members : DataFrame
        ``comparison, direction, end, chance`` and ``score``, of `prediction_grades.grade_members`.
    score : str
        One of `prediction_grades.SCORES`.
    names : pair of str

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
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


EXAMPLES = {"1 against 1": (0, 0), "2 against 2": (1, 1), "1 against 2": (0, 1)}


def draw_confidences(axes, found: StudyPredictions, *, names) -> None:
    """The first pair of models of each kind, on different masks, a panel each."""
    if len(found.right[0]) < 2:
        draw_nothing(axes)
        return
    for ax, (pair, sides) in zip(axes, EXAMPLES.items(), strict=True):
        rows = list(zip(sides, (0, 1), strict=True))
        confidence = [found.confidence[side][row] for side, row in rows]
        right = [found.right[side][row] for side, row in rows]
        called = [names[side] for side in sides]
        confidence_confidence(ax, *confidence, *right, names=called)
        ax.set_title(pair_label(pair, label_texts(names)))


def draw_angles(axes, found: StudyPredictions, outcomes, *, names) -> None:
    """Histograms of the specialisation angle, a panel an outcome."""
    if not len(found.tables.angles):
        draw_nothing(axes)
        return
    for ax, outcome in zip(axes, outcomes, strict=True):
        angle_histograms(ax, found.tables.angles, outcome=outcome, names=names)


def draw_ensembles(axes, found: StudyPredictions, *, names) -> None:
    """Gain and conversion rate of ensembles against the inconsistency of their errors."""
    if found.tables.pairs["gain"].isna().all():
        draw_nothing(axes)
        return
    for ax, measure in zip(axes, ("gain", "conversion"), strict=True):
        ensemble_scatter(ax, found.tables.pairs, measure=measure, names=names)


def draw_classes(ax, found: StudyPredictions, class_names, *, names) -> None:
    """Specialisation angles by class."""
    if not len(found.tables.classes):
        draw_nothing([ax])
        return
    class_angles(ax, found.tables.classes, class_names, names=names)


def draw_nothing(axes) -> None:
    """Say that a run without checkpoints has none of these."""
    for ax in axes:
        draw_if(None, None, ax)


def draw_features(ax, found: StudyPredictions) -> None:
    """Who finds the planted features, or an empty panel where none is known."""
    grades = found.tables.grades
    draw_if(grades if len(grades) else None, feature_grades, ax)


def draw_members(ax, found: StudyPredictions, *, names) -> None:
    """How well the difference in margins finds each subpopulation."""
    member_grades(ax, found.tables.members, names=names)


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


MASKS = {"equal": "the same mask", "other": "different masks"}


def errors(run: Run) -> Markdown:
    """Whether models of different algorithms err more differently than reinitialisations do."""
    lines = [line for masks in MASKS if (line := _errors(run, masks))]
    return Markdown("\n".join(lines) or "This run has no pairs to compare.")


def _errors(run: Run, masks: str) -> str:
    figures, names = run.results[PREDICTIONS], escaped(algorithm_names(run))
    kinds = {p: figures.get(f"{masks}_masks_{p}") for p in ("1_against_1", "2_against_2")}
    across = figures.get(f"{masks}_masks_1_against_2")
    difference = figures.get(f"{masks}_masks_difference", {})
    if not across or not all(kinds.values()) or "inconsistency" not in difference:
        return ""
    within = " and ".join(
        f"**{_percent(k, 'inconsistency')}** of the test images for "
        f"{pair_label(p.replace('_', ' '), names)}"
        for p, k in kinds.items()
    )
    return (
        f"- On {MASKS[masks]}, exactly one of two models is right on {within}, and on "
        f"**{_percent(across, 'inconsistency')}** for one of each. "
        f"{_verdict(difference, 'inconsistency', 'Models of the two differ more than two alike')}"
    )


def _verdict(difference: dict, measure: str, words: str) -> str:
    low, high = (100 * difference[f"{measure}{end}"] for end in ("_low", "_high"))
    amount = f"{100 * difference[measure]:+.1f} points [{low:+.1f}, {high:+.1f}]"
    if low > 0:
        return f"{words}: {amount}."
    if high < 0:
        return f"Of two models of one algorithm that holds **more**: {amount}."
    return f"The difference to two models alike ({amount}) **cannot be told from none**."


def _percent(block: dict, measure: str) -> str:
    values = (100 * block[f"{measure}{end}"] for end in ("", "_low", "_high"))
    return "{:.1f}% [{:.1f}, {:.1f}]".format(*values)


def ensembles(run: Run) -> Markdown:
    """What an ensemble of one model of each algorithm wins beyond one of two alike."""
    figures = run.results[PREDICTIONS]
    across = figures.get("other_masks_1_against_2")
    difference = figures.get("other_masks_difference")
    if not across or "gain" not in (difference or ()):
        return Markdown("This run has no pairs of models with probabilities to compare.")
    return Markdown(
        f"An ensemble of one model of each is {100 * across['gain']:.1f} points better than its "
        f"members' mean and {100 * across['gain_over_better']:.1f} than the better of them; it "
        f"puts right {_percent(across, 'conversion')} of the images on which one alone is right. "
        f"{_verdict(difference, 'gain', 'It gains more than one of two models alike')} "
        f"{_verdict(difference, 'conversion', 'It puts a larger share right')}"
    )


def specialisation(run: Run) -> Markdown:
    """Whether the model that alone is right is also the surer, and more so across algorithms."""
    figures = run.results[PREDICTIONS]
    across = figures.get("other_masks_1_against_2")
    difference = figures.get("other_masks_difference")
    if not across or "gain" not in (difference or ()):
        return Markdown("This run has no pairs of models with probabilities to compare.")
    return Markdown(
        "Where exactly one of two models is right, one of each algorithm, it is the surer of the "
        f"two in {_percent(across, 'surer_is_right')} of the cases. "
        f"{_verdict(difference, 'surer_is_right', 'That is more often than of two models alike')}"
    )


def classes(found: StudyPredictions, class_names, names) -> Markdown:
    """The class that leans most to one algorithm, and whether single pairs show it."""
    table = found.tables.classes
    across = table[(table["pair"] == "1 against 2") & (table["masks"] == "equal")]
    if not len(across):
        return Markdown("Without checkpoints there are no confidences to compare.")
    names = escaped(names)
    row = across.loc[across["theta_mean"].abs().idxmax()]
    mean, low, high = np.degrees(row[["theta_mean", "theta_low", "theta_high"]].to_numpy(float))
    sure = low > 0 or high < 0
    return Markdown(
        f"On the same mask, *{escaped(class_names)[int(row['label'])]}* leans most: to "
        f"{names[0] if mean > 0 else names[1]}, by {abs(mean):.1f}° on average (nine of ten pairs: "
        f"{low:+.1f}° to {high:+.1f}°). "
        + (
            "Nearly every pair shows it."
            if sure
            else "Single pairs go either way: one pair of models would not tell."
        )
    )


def features_sentence(run: Run) -> Markdown:
    """For each planted feature, whether predictions or a direction find it better."""
    rows = run.results[PREDICTIONS]["features"]
    if not rows:
        return Markdown("No truth is known for this data: judge by eye, and by notebook 07.")
    names, lines = escaped(algorithm_names(run)), []
    for feature in dict.fromkeys(row["feature"] for row in rows):
        found = {row["score"]: row for row in rows if row["feature"] == feature}
        direction = found.pop("direction")
        best = max(found.values(), key=lambda row: row["auc_within_class"])
        lines.append(
            f"- **{escape_markdown(feature)}**: predictions reach an AUC of "
            f"{best['auc_within_class']:.2f} (by the {best['score']}; chance up to "
            f"{best['chance']:.2f}), the best direction "
            f"{direction['auc_within_class']:.2f} ({spoken(direction['which'], names)}; chance up "
            f"to {direction['chance']:.2f}). Of the {SHOWN} outermost images of all classes, "
            f"{round(SHOWN * best['first'])} and {round(SHOWN * direction['first'])} carry it: "
            f"{_who_sees(best, direction)}"
        )
    return Markdown("\n".join(lines))


def _who_sees(prediction: dict, direction: dict) -> str:
    """What a person sees in the outermost images, three quarters of which make a pattern."""
    sees = prediction["first"] >= 0.75, direction["first"] >= 0.75
    return {
        (True, True): "both show it to a person who looks.",
        (True, False): "the predictions show it, and the direction does not.",
        (False, True): "the direction shows it, and the predictions do not.",
        (False, False): "neither makes it plain to the eye.",
    }[sees]


def members_sentence(run: Run) -> Markdown:
    """How many of ModelDiff's subpopulations could have been seen in the predictions."""
    figures = run.results[PREDICTIONS]["members"]
    if not figures["n"]:
        return Markdown("No subpopulation can be graded within its class.")
    return Markdown(
        f"Of {figures['n']} ends of directions, the difference in margins sorts "
        f"**{figures['n_above_chance']}** from their class better than chance does, and "
        f"**{figures['n_at_0.9']}** with an AUC of 0.9 or more; the median AUC is "
        f"{figures['median']:.2f}. The others are groups that the algorithms treat alike in the "
        "outcome, however different the training images that they go by, or they are noise: "
        "notebook 04 tells which directions to believe."
    )
