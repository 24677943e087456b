"""Figures about the uses of datamodels: removal, maps of clusters, chosen training sets.

Every function draws on the `Axes` it is given and returns it.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mdhelpers.style import (
    EXAMPLE_COLORS,
    INK,
    NULL_COLOR,
    label_text,
    legend_below,
    legend_columns,
    need_columns,
)

SET_COLOR = "#0072B2"
WAYS = {  # colour, marker, label: told apart without colour too
    "random": (NULL_COLOR, "o", "at random"),
    "nearest": ("#E69F00", "s", "nearest in pixels"),
    "datamodels": (SET_COLOR, "D", "by datamodels"),
}


def removal_scatter(ax: Axes, table: pd.DataFrame, predicted=(), retrained=()) -> Axes:
    """Foretold against retrained effect of leaving a set out, with intervals over models.

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        One setting of `removal_study.Removals.table`.
    predicted, retrained : arrays of one shape
        The effects on all test examples, drawn behind in grey hexagons.

    Returns
    -------
    Axes
    """
    need_columns(table, ("kind", "predicted", "retrained", "low", "high"))
    predicted, retrained = np.ravel(predicted), np.ravel(retrained)
    shown = [table[["predicted", "low", "high"]].to_numpy().ravel(), predicted, retrained]
    ends = np.concatenate([*shown, [0.0]])
    low, high = ends.min() - 0.3, ends.max() + 0.3
    if len(predicted):
        extent = (low, high, low, high)
        options = {"bins": "log", "mincnt": 1, "cmap": "Greys", "alpha": 0.6, "linewidths": 0}
        ax.hexbin(predicted, retrained, gridsize=45, extent=extent, **options)
    ax.plot([low, high], [low, high], color=INK, linewidth=1, linestyle=":")
    looks = {"control": ("random set of equal size", NULL_COLOR, "s")}
    looks["set"] = ("set", SET_COLOR, "o")
    for kind, (label, color, marker) in looks.items():
        rows = table[table["kind"] == kind]
        reach = np.abs(rows[["low", "high"]].to_numpy().T - rows["retrained"].to_numpy())
        style = {"color": color, "marker": marker, "linestyle": "none", "markersize": 6}
        ax.errorbar(
            rows["predicted"], rows["retrained"], yerr=reach, elinewidth=1.2, label=label, **style
        )
    ax.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    ax.set(xlabel="foretold effect on the margin", ylabel="effect found by training")
    legend_below(ax, columns=2)
    return ax


def flip_dumbbells(ax: Axes, table: pd.DataFrame) -> Axes:
    """Each test example's margin before its set is left out and after; left of zero is wrong.

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        One setting of `removal_study.Removals.table`.

    Returns
    -------
    Axes
    """
    need_columns(table, ("test", "kind", "size", "before", "foretold", "found"))
    table = table.sort_values(["size", "before"], kind="stable")
    sets, controls = (table[table["kind"] == kind] for kind in ("set", "control"))
    rows = np.arange(len(sets))
    ax.hlines(rows, sets["found"], sets["before"], color="#C8D9E6", linewidth=3, zorder=1)
    ax.axvline(0, color=INK, linewidth=1)
    points = {
        "nothing left out": (sets["before"], "white", INK, "o"),
        "without a random set": (controls["found"], NULL_COLOR, NULL_COLOR, "s"),
        "without the set": (sets["found"], SET_COLOR, SET_COLOR, "o"),
    }
    for label, (values, face, edge, marker) in points.items():
        ax.scatter(values, rows, color=face, edgecolor=edge, marker=marker, label=label, zorder=3)
    ax.scatter(sets["foretold"], rows, color=INK, marker="|", s=90, label="foretold", zorder=4)
    ax.set_yticks(rows, [str(size) for size in sets["size"]], fontsize=8)
    ax.set(xlabel="mean margin of the models (logits)", ylabel="images left out")
    legend_below(ax, columns=2)
    return ax


def image_map(
    ax: Axes,
    places: np.ndarray,
    images: np.ndarray,
    groups: np.ndarray,
    *,
    names: Sequence[str],
    numbers: np.ndarray | None = None,
    cells: int = 16,
) -> Axes:
    """Images where a map puts them, framed in the colour of their group.

    All are points; in each cell of a grid one of them shows its image, so that none hides another.

    Parameters
    ----------
    ax : Axes
    places : array, shape (n, 2)
    images : array, shape (n, height, width, 3), uint8
    groups : array, shape (n,), int
        Of ``names``, such as classes; at most six have a colour of their own.
    names : sequence of str
    numbers : array, shape (n,), int, optional
        Clusters; each one's number stands at the median of its places.
    cells : int
        Of the grid, along each side.

    Returns
    -------
    Axes
    """
    low, high = places.min(axis=0), places.max(axis=0)
    at = (places - low) / np.where(high > low, high - low, 1) * cells
    colors = [EXAMPLE_COLORS[g % len(EXAMPLE_COLORS)] for g in groups]
    ax.scatter(*at.T, c=colors, s=9, alpha=0.6, linewidths=0)
    cell = np.minimum(at.astype(int), cells - 1)
    away = np.abs(at - cell - 0.5).max(axis=1)
    shown = pd.DataFrame({"x": cell[:, 0], "y": cell[:, 1], "away": away})
    for i in shown.groupby(["x", "y"])["away"].idxmin():
        left, bottom = cell[i] + 0.06
        extent = (left, left + 0.88, bottom, bottom + 0.88)
        ax.imshow(images[i], extent=extent, interpolation="nearest", zorder=2)
        box = Rectangle((left, bottom), 0.88, 0.88, fill=False, linewidth=1.6, zorder=3)
        ax.add_patch(box).set_edgecolor(colors[i])
    for number in () if numbers is None else np.unique(numbers):
        x, y = np.median(at[numbers == number], axis=0)
        paint = {"facecolor": "white", "edgecolor": INK, "boxstyle": "round,pad=0.15", "alpha": 0.9}
        ax.text(x, y, str(number), ha="center", va="center", size=8, bbox=paint, zorder=4)
    ax.set(xlim=(-0.2, cells + 0.2), ylim=(-0.2, cells + 0.2), aspect="equal")
    ax.axis("off")
    handles = [
        Line2D([], [], color=color, marker="s", linestyle="none", label=label_text(name, 24))
        for name, color in zip(names, EXAMPLE_COLORS, strict=False)
    ]
    columns = legend_columns(ax, [handle.get_label() for handle in handles], len(handles))
    ax.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns)
    return ax


def selection_curves(ax: Axes, table: pd.DataFrame, *, measure: str = "right") -> Axes:
    """What models make of a target when trained on subsets chosen for it, by the subset's size.

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        One target of `selection_study.compare_selections`.
    measure : str
        "right" (share of right answers on the target), "right_all" (on all test examples), or
        "margin".

    Returns
    -------
    Axes
    """
    need_columns(table, ("way", "size", measure, f"{measure}_low", f"{measure}_high"))
    scale = 1 if measure == "margin" else 100
    for shift, (way, (color, marker, label)) in enumerate(WAYS.items()):
        rows = table[table["way"] == way].sort_values("size")
        sizes = rows["size"] * (1 + 0.02 * (shift - 1))  # else intervals would hide each other
        ends = rows[[f"{measure}_low", f"{measure}_high"]].to_numpy().T
        reach = scale * np.abs(ends - rows[measure].to_numpy())
        style = {"color": color, "marker": marker, "capsize": 2, "elinewidth": 1.2}
        ax.errorbar(sizes, scale * rows[measure], yerr=reach, label=label, **style)
    ticks = sorted(table["size"].unique())
    ax.set_xscale("log")
    ax.set_xticks(ticks, [str(size) for size in ticks])
    ax.minorticks_off()
    names = {"right": "right on the target (%)", "right_all": "right on all test images (%)"}
    ax.set(xlabel="training images", ylabel=names.get(measure, "mean margin on the target"))
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax
