"""Figures about pairs of models: their errors, ensembles of two, and specialisation angles.

Every function draws on the `Axes` it is given and returns it. A colour is a pair: algorithm 1
against itself, algorithm 2 against itself, and, in green, the two against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdhelpers.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)

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
