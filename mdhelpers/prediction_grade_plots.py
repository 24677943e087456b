"""Figures that set predictions beside datamodels: which of them finds what tells algorithms apart.

Every function draws on the `Axes` it is given and returns it. What chance reaches is grey.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdhelpers.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    NULL_COLOR,
    compared,
    comparison_label,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)

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
