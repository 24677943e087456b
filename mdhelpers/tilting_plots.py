"""Figures of notebook 10: what reweighting along directions does, foretold and measured."""

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
    comparison_label,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)

_MARKERS = {1: "o", 2: "s"}


def tilt_scatter(
    ax: Axes, changes: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES, title: str = ""
) -> Axes:
    """Change of every test image's margin along one direction: foretold and measured.

    Parameters
    ----------
    ax : Axes
    changes : DataFrame
        Columns algorithm, predicted, measured, of one direction.
    names : pair of str
        What to call algorithms 1 and 2.
    title : str

    Returns
    -------
    Axes
    """
    names = label_texts(names)
    need_columns(changes, ("algorithm", "predicted", "measured"))
    for algorithm, rows in changes.groupby("algorithm"):
        r = np.corrcoef(rows["predicted"], rows["measured"])[0, 1]
        style = {"s": 14, "alpha": 0.5, "linewidths": 0, "marker": _MARKERS[algorithm]}
        label = f"{names[algorithm - 1]} (r = {r:.2f})"
        color = ALGORITHM_COLORS[algorithm]
        ax.scatter(rows["predicted"], rows["measured"], color=color, label=label, **style)
    ends = [changes["predicted"].min(), changes["predicted"].max()]
    ax.plot(ends, ends, color=INK, linewidth=1, linestyle="--")
    ax.axhline(0, color=NULL_COLOR, linewidth=0.8)
    ax.set(xlabel="foretold change of the margin", ylabel="measured change")
    ax.set_title(label_text(title, 60))
    legend_below(ax, columns=1)
    for handle in ax.get_legend().legend_handles:
        handle.set(sizes=[45], alpha=1)
    return ax


def tilt_sizes(ax: Axes, table: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """How much each direction moves either algorithm: measured (filled), foretold (outline).

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        Columns comparison, direction, algorithm, size, predicted_size; drawn in its order.
    names : pair of str
        What to call algorithms 1 and 2.

    Returns
    -------
    Axes
    """
    names = label_texts(names)
    need_columns(table, ("comparison", "direction", "algorithm", "size", "predicted_size"))
    keys = table[["comparison", "direction"]].drop_duplicates()
    groups = keys["comparison"].to_numpy()
    x = np.arange(len(keys)) + 0.7 * np.cumsum(np.r_[0, groups[1:] != groups[:-1]])
    for algorithm, shift in ((1, -0.19), (2, 0.19)):
        rows = table[table["algorithm"] == algorithm]
        style = {"color": ALGORITHM_COLORS[algorithm], "label": f"{names[algorithm - 1]}, measured"}
        ax.bar(x + shift, rows["size"], 0.36, **style)
        outline = {"fill": False, "edgecolor": INK, "linewidth": 1.2}
        label = "foretold" if algorithm == 1 else None
        ax.bar(x + shift, rows["predicted_size"], 0.36, label=label, **outline)
    ax.set_xticks(x, [str(d) for d in keys["direction"]])
    for comparison in dict.fromkeys(groups):
        middle = x[groups == comparison].mean()
        is_pair = "minus" in comparison
        label = comparison_label(comparison, names) if is_pair else "random"
        ax.text(middle, 1.02, label, ha="center", transform=ax.get_xaxis_transform())
    ax.set(xlabel="direction", ylabel="root mean square change\nof the margin")
    legend_below(ax, columns=3)
    return ax
