"""Figures of notebook 10: what reweighting along directions does, foretold and measured.

Tables, prose and panels of notebook 10.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import TILTING
from mdhelpers.show.models import algorithm_names
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    comparison_label,
    escaped,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)
from mdhelpers.stages.reweighting import RANDOM, StudyTilts

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


NO_MODELS = "These models were trained elsewhere, and cannot be trained again here."
AIM = 0.8  # a correlation from which on a direction is said to mean what it should
COLUMNS = {
    "correlation": "correlation",
    "ceiling": "at best",
    "slope": "slope",
    "size": "measured change (RMS)",
    "predicted_size": "foretold change (RMS)",
}


def table(found: StudyTilts, names) -> pd.DataFrame | str:
    """Every direction's correlation, slope and sizes under both algorithms."""
    if found.table is None:
        return NO_MODELS
    rows = found.table.assign(algorithm=[names[a - 1] for a in found.table["algorithm"]])
    labels = {name: comparison_label(name, names) for name in COMPARISONS} | {RANDOM: "random"}
    rows["comparison"] = rows["comparison"].map(labels)
    keys = ["comparison", "direction"]
    rows["place"] = rows.groupby(keys, sort=False).ngroup()
    rows = rows.sort_values("place", kind="stable").set_index([*keys, "algorithm"])
    return rows[list(COLUMNS)].rename(columns=COLUMNS).round(2)


def verdict(run: Run) -> Markdown:
    """Whether measured changes follow the foretold ones, and which algorithm moves more."""
    figures, names = run.results.get(TILTING, {}), escaped(algorithm_names(run))
    if not any(f"{name}_algorithm_1" in figures for name in COMPARISONS):
        return Markdown(NO_MODELS)
    return Markdown("\n".join(_verdict(figures, name, names) for name in COMPARISONS))


def _verdict(figures: dict, name: str, names) -> str:
    own, other = (1, 2) if name == "1_minus_2" else (2, 1)
    first, second = (figures[f"{name}_algorithm_{a}"] for a in (own, other))
    holds = first["correlation_lowest"] >= AIM
    words = "follow" if holds else "**do not all follow**"
    more = "more" if first["size"] > second["size"] else "**not more**"
    return (
        f"- *{comparison_label(name, names)}*: under *{names[own - 1]}* the measured changes "
        f"{words} the foretold ones: the correlation is {first['correlation']:.2f} on average and "
        f"{first['correlation_lowest']:.2f} at the lowest of {first['n']} directions (at best "
        f"{first['ceiling']:.2f}, with this many models). These directions move "
        f"*{names[own - 1]}* by {first['size']:.2f} and *{names[other - 1]}* by "
        f"{second['size']:.2f} (root mean square, margin units): {more}, as the proposition says."
    )


def draw_scatters(axes, found: StudyTilts, *, names) -> None:
    """The first direction of each comparison."""
    for ax, name in zip(axes, COMPARISONS, strict=True):
        if found.changes is None:
            ax.set_axis_off()
            ax.text(0.5, 0.5, NO_MODELS, ha="center", wrap=True)
            continue
        rows = found.changes[found.changes["comparison"] == name]
        first = rows["direction"].iloc[0]
        title = f"{comparison_label(name, names)}, direction {first}"
        tilt_scatter(ax, rows[rows["direction"] == first], names=names, title=title)


def draw_sizes(ax, found: StudyTilts, *, names) -> None:
    """All directions' sizes."""
    if found.table is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, NO_MODELS, ha="center")
    else:
        tilt_sizes(ax, found.table, names=names)
