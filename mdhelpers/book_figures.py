"""Figures of prose pages, drawn from what benchmarks recorded when the book is built."""

import re
from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.stats import binomtest

from mdhelpers.analysis_plots import similarity_heatmap
from mdhelpers.plain_text import escape_markdown
from mdhelpers.style import EXAMPLE_COLORS, INK, NULL_COLOR, label_text, legend_below, use_style

_FIGURE = re.compile(r"\{\{\s*figure\s+(\S+)\s+(\S+)\s*\}\}")
_MARKERS = "osD^vP"
_STEP = 1.025  # markers of methods stand side by side, each this much further right


def expand_figures(
    text: str, look_up: Callable[[str], Any], *, page: str
) -> tuple[str, dict[str, bytes]]:
    """Replace ``{{ figure lds_by_method recorded.budgets_scenes }}`` by an image.

    Parameters
    ----------
    text : str
        Markdown. A figure is one of ``FIGURES`` and the dotted path to what it is drawn from.
    look_up : callable
        Gives what lies at a dotted path.
    page : str
        Name of the page, for messages.

    Returns
    -------
    text : str
        With images and their text alternatives.
    files : dict of str to bytes
        The PNG files by their path below the source folder.

    Raises
    ------
    ValueError
        When there is no figure of that name.
    """
    files: dict[str, bytes] = {}

    def replace(match: re.Match) -> str:
        name, path = match.groups()
        if name not in FIGURES:
            raise ValueError(f"{page}: no figure {name!r}; there are {', '.join(FIGURES)}.")
        file = f"figures/{path.split('.')[-1]}-{name}.png"
        files[file], alternative = drawn(FIGURES[name], look_up(path))
        return f"![{escape_markdown(alternative)}]({file})"

    return _FIGURE.sub(replace, text), files


def drawn(draw: Callable[[Any], tuple[Figure, str]], data: Any) -> tuple[bytes, str]:
    """A figure in the book's style as PNG, the same bytes each time, and its text alternative."""
    with matplotlib.rc_context(), BytesIO() as file:
        use_style()
        figure, alternative = draw(data)
        figure.savefig(file, format="png")
        plt.close(figure)
        return file.getvalue(), alternative


def lds_by_method(budgets: Mapping[str, Any]) -> tuple[Figure, str]:
    """LDS of each method against the number of models, a panel an algorithm."""
    rows, settings = budgets["rows"], budgets["settings"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True)
    told = []
    for algorithm, (ax, name) in enumerate(zip(axes, settings["names"], strict=True), 1):
        ceiling = settings["ceilings"].get(f"ceiling_{algorithm}")
        draw_methods(ax, rows, f"lds_{algorithm}", ceiling=ceiling).set_title(label_text(name))
        told.append(f"for {name} {in_words(rows, f'lds_{algorithm}')}")
    axes[0].set_ylabel("LDS (Spearman, held-out masks)")
    axes[1].get_legend().remove()
    return figure, f"LDS against the number of models, {'; '.join(told)}."


def draw_methods(
    ax: Axes, rows: Sequence[Mapping[str, Any]], score: str, *, ceiling: float | None = None
) -> Axes:
    """One line a method: ``score`` with ``score_low`` and ``score_high`` against ``models``."""
    for number, (method, own) in enumerate(by_method(rows).items()):
        x = np.array([row["models"] for row in own]) * _STEP**number
        y, low, high = (np.array([r[score + end] for r in own]) for end in ("", "_low", "_high"))
        style = {"color": EXAMPLE_COLORS[number], "marker": _MARKERS[number], "markersize": 5}
        spread = np.clip([y - low, high - y], 0, None)
        ax.errorbar(x, y, spread, **style, linewidth=1.5, capsize=2, label=method)
    if ceiling is not None:
        ax.axhline(ceiling, color=INK, linestyle=":", linewidth=1.5, label="noise ceiling")
    ax.set_ylim(0, None)
    return against_models(ax, rows)


def against_models(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> Axes:
    """A logarithmic axis of the rows' numbers of models, a grid and the legend."""
    ticks = sorted({row["models"] for row in rows})
    shown = [n for i, n in enumerate(ticks) if not i or n / ticks[i - 1] > 1.5]
    ax.set(xscale="log", xlabel="models")
    ax.set_xticks(shown)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def by_method(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows of each method, fewest models first."""
    methods = dict.fromkeys(row["method"] for row in rows)
    ordered = sorted(rows, key=lambda row: row["models"])
    return {method: [r for r in ordered if r["method"] == method] for method in methods}


def in_words(rows: Sequence[Mapping[str, Any]], score: str) -> str:
    """Each method's first and last point."""
    parts = [
        f"{method} from {own[0][score]:.2f} with {own[0]['models']} to {own[-1][score]:.2f} with "
        f"{own[-1]['models']}"
        for method, own in by_method(rows).items()
    ]
    return ", ".join(parts)


def power(recorded: Mapping[str, Any]) -> tuple[Figure, str]:
    """Share of data seeds that show each feature that differs, against the number of models.

    Markers are hollow where fewer data seeds were drawn than elsewhere.
    """
    rows = [row for row in recorded["rows"] if row["differs"]]
    most = max(row["seeds"] for row in rows)
    figure, ax = plt.subplots(figsize=(6.4, 4.2))
    told = []
    for number, feature in enumerate(dict.fromkeys(row["feature"] for row in rows)):
        own = [row for row in rows if row["feature"] == feature]
        x = np.array([row["models"] for row in own]) * _STEP**number
        share = np.array([row["found"] / row["differs"] for row in own])
        exact = [binomtest(row["found"], row["differs"]).proportion_ci() for row in own]
        style = {"color": EXAMPLE_COLORS[number], "marker": _MARKERS[number], "markersize": 6}
        spread = np.abs(np.array([(each.low, each.high) for each in exact]).T - share)
        ax.errorbar(x, share, spread, **style, linewidth=1.5, capsize=2, label=feature)
        few = np.array([row["seeds"] < most for row in own])
        hollow = {"linestyle": "none", "markerfacecolor": "white", "zorder": 3}
        ax.plot(x[few], share[few], **style, **hollow)
        counts = [f"{row['found']} of {row['differs']} with {row['models']}" for row in own]
        told.append(f"{feature} in {', '.join(counts)} models")
    ax.axhline(0.9, color=INK, linestyle=":", linewidth=1.5, label="the aim")
    ax.axvline(recorded["default"], color=NULL_COLOR, linewidth=1, label="default budget")
    ax.set(ylim=(-0.03, 1.03), ylabel="share of drawings that show it")
    against_models(ax, rows)
    return figure, f"Shares of drawings in which features are found: {'; '.join(told)}."


def similarity(recorded: Mapping[str, Any]) -> tuple[Figure, str]:
    """How alike the datamodels of several algorithms are, each with each."""
    names = [row["changed"] for row in recorded["rows"]]
    matrix = pd.DataFrame(recorded["corrected"]).loc[names, names]
    figure, ax = plt.subplots(figsize=(7.2, 5.4))
    similarity_heatmap(ax, matrix)
    shown = [label_text(name, 24) for name in names]
    ax.set_xticks(range(len(names)), shown, rotation=30, ha="left")
    told = [f"{name} {value:.2f}" for name, value in matrix.iloc[0].items()]
    return figure, f"How alike algorithms are. With {names[0]}: {', '.join(told[1:])}."


FIGURES: dict[str, Callable[[Any], tuple[Figure, str]]] = {
    "lds_by_method": lds_by_method,
    "power": power,
    "similarity": similarity,
}
