"""Page 10: what reweighting along directions does, predicted and measured."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.method.comparison import COMPARISONS
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
    p_text,
)
from mdhelpers.stages.reweighting import RANDOM, StudyTilts

NO_MODELS = "These models were trained elsewhere, and cannot be trained again here."
AIM = 0.8  # a correlation from which on measured changes are said to follow the predicted ones
COLUMNS = {
    "correlation": "correlation",
    "ceiling": "at best",
    "slope": "slope",
    "size": "measured change (RMS)",
    "predicted_size": "predicted change (RMS)",
    "verdict": "verdict",
}
_MARKERS = {1: "o", 2: "s"}


def tilts(found: StudyTilts, names: Sequence[str]) -> pd.DataFrame | str:
    """Every direction's correlation, slope and sizes under both algorithms, and a verdict.

    The verdict says whether measured changes follow the predicted ones, and of a comparison's
    first-named algorithm whether it is moved more than the other.
    """
    if found.table.empty:
        return NO_MODELS
    keys = ["comparison", "direction"]
    rows = found.table.assign(place=found.table.groupby(keys, sort=False).ngroup())
    rows = rows.sort_values("place", kind="stable")
    sizes = rows.groupby(keys)["size"].transform("max")
    rows["verdict"] = np.where(rows["correlation"] >= AIM, "follows", "does not follow")
    for name in COMPARISONS:
        own = (rows["comparison"] == name) & (rows["algorithm"] == compared(name)[0])
        moved = np.where(rows["size"] >= sizes, ", moved more", ", not moved more")
        rows.loc[own, "verdict"] += moved[own]
    labels = {name: comparison_label(name, names) for name in COMPARISONS} | {RANDOM: "random"}
    rows["comparison"] = rows["comparison"].map(labels)
    rows["algorithm"] = [names[a - 1] for a in rows["algorithm"]]
    return rows.set_index([*keys, "algorithm"])[list(COLUMNS)].rename(columns=COLUMNS).round(2)


def confirmations(found: StudyTilts, names: Sequence[str]) -> pd.DataFrame | str:
    """What tilted models say of each direction: the test, and its word where it was called."""
    if found.confirmations.empty:
        return NO_MODELS
    table = found.confirmations.copy()
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    table["q"] = table["q"].map(p_text)
    table["called"] = np.where(table["called"], "yes", "no")
    columns = {"called": "called", "z": "z", "q": "q", "confirmed": "by retraining"}
    table = table.set_index(["comparison", "direction"])[list(columns)].round({"z": 1})
    return table.rename(columns=columns | {"called": "called on page 4"})


def share_confirmed(found: StudyTilts) -> str:
    """One sentence: how many of the called directions that were tilted are confirmed."""
    called = found.confirmations[found.confirmations["called"]]
    if found.confirmations.empty:
        return NO_MODELS
    if called.empty:
        return "No direction was called, so that there is nothing to confirm."
    n = int((called["confirmed"] == "confirmed").sum())
    return f"Retraining confirms {n} of the {len(called)} directions that were called and tilted."


def tilt_panels(found: StudyTilts, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Predicted and measured changes along the first direction of each comparison."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.8))
    for ax, name in zip(axes, COMPARISONS, strict=True):
        rows = found.changes[found.changes["comparison"] == name]
        first = rows[rows["direction"].isin(rows["direction"].head(1))]
        draw_if(first if len(first) else None, tilt_scatter, ax, names=names)
        number = "".join(f", direction {n}" for n in first["direction"].unique())
        ax.set_title(label_text(f"{comparison_label(name, label_texts(names))}{number}", 60))
    return fig


def tilt_scatter(ax: Axes, changes: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """Change of every test image's margin along one direction: predicted and measured.

    ``changes`` has ``algorithm, predicted, measured``, of one direction.
    """
    names = label_texts(names)
    for algorithm, rows in changes.groupby("algorithm"):
        r = np.corrcoef(rows["predicted"], rows["measured"])[0, 1]
        style = {"s": 14, "alpha": 0.5, "linewidths": 0, "marker": _MARKERS[algorithm]}
        label = f"{names[algorithm - 1]} (r = {r:.2f})"
        color = ALGORITHM_COLORS[algorithm]
        ax.scatter(rows["predicted"], rows["measured"], color=color, label=label, **style)
    ends = [changes["predicted"].min(), changes["predicted"].max()]
    ax.plot(ends, ends, color=INK, linewidth=1, linestyle="--")
    ax.axhline(0, color=NULL_COLOR, linewidth=0.8)
    ax.set(xlabel="predicted change of the margin (logits)", ylabel="measured change (logits)")
    legend_below(ax, columns=1)
    for handle in ax.get_legend().legend_handles:
        handle.set(sizes=[45], alpha=1)
    return ax


def tilt_sizes(ax: Axes, table: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """How much each direction moves either algorithm: measured (filled), predicted (outline).

    ``table`` has ``comparison`` ("1_minus_2", "2_minus_1", or another for random directions),
    ``direction, algorithm, size, predicted_size``.
    """
    if table.empty:
        return draw_if(None, None, ax)
    names = label_texts(names)
    keys = table[["comparison", "direction"]].drop_duplicates()
    groups = keys["comparison"].to_numpy()
    x = np.arange(len(keys)) + 0.7 * np.cumsum(np.r_[0, groups[1:] != groups[:-1]])
    for algorithm, shift in ((1, -0.19), (2, 0.19)):
        rows = table[table["algorithm"] == algorithm]
        style = {"color": ALGORITHM_COLORS[algorithm], "label": f"{names[algorithm - 1]}, measured"}
        ax.bar(x + shift, rows["size"], 0.36, **style)
        outline = {"fill": False, "edgecolor": INK, "linewidth": 1.2}
        label = "predicted" if algorithm == 1 else None
        ax.bar(x + shift, rows["predicted_size"], 0.36, label=label, **outline)
    ax.set_xticks(x, [str(d) for d in keys["direction"]])
    for comparison in dict.fromkeys(groups):
        middle = x[groups == comparison].mean()
        label = comparison_label(comparison, names) if comparison in COMPARISONS else "random"
        ax.text(middle, 1.02, label, ha="center", transform=ax.get_xaxis_transform())
    ax.set(xlabel="direction", ylabel="root mean square change\nof the margin (logits)")
    legend_below(ax, columns=3)
    return ax
