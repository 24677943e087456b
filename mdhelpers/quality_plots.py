"""Figures of learning curves; like those of `plots`, each draws on the `Axes` that it is given."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdhelpers.learning_laws import Law
from mdhelpers.style import ALGORITHM_COLORS, DEFAULT_NAMES, label_texts, legend_below

FAR = 4  # how far the curves are carried on, times the models that there are
_MARKERS = {1: "o", 2: "s"}


def learning_curves(ax: Axes, quality, *, score: str, names=DEFAULT_NAMES) -> Axes:
    """LDS or cosine against the number of models, and carried on to four times as many.

    Parameters
    ----------
    ax : Axes
    quality : StudyQuality
        What `mdhelpers.quality_stage.measure_quality` gives.
    score : str
        "lds", with the noise ceiling as a dotted line where it was measured, or "cosine".
    names : pair of str
        What to call algorithms 1 and 2.

    Returns
    -------
    Axes
    """
    names = label_texts(names)
    if not len(quality.curves):
        ax.axis("off")
        ax.text(0.5, 0.5, "too few models to be halved", ha="center", transform=ax.transAxes)
        return ax
    for algorithm, name in enumerate(names, 1):
        color, table = ALGORITHM_COLORS[algorithm], quality.curve(algorithm)
        points = table[table[score].notna()]
        spread = [points[score] - points[f"{score}_low"], points[f"{score}_high"] - points[score]]
        style = {"color": color, "marker": _MARKERS[algorithm], "linestyle": "", "capsize": 3}
        ax.errorbar(
            points["n_models"], points[score], np.clip(spread, 0, None), **style, label=name
        )
        if laws := quality.law(algorithm):
            half, there = table["n_models"].iloc[-2:]
            n = np.geomspace(half, FAR * there, 40)
            _carried_on(ax, laws, n, score, color)
        ceiling = quality.figures.get(f"ceiling_{algorithm}")
        if score == "lds" and ceiling is not None:
            ax.axhline(ceiling, color=color, linestyle=":", label=f"noise ceiling, {name}")
    ax.set(xscale="log", xlabel="models", ylabel=_LABELS[score], ylim=(0, 1))
    ticks = np.unique(quality.curves["n_models"])
    ax.set_xticks([*ticks, FAR * ticks[-1]])
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


_LABELS = {
    "lds": "LDS (Spearman, held-out masks)",
    "cosine": "cosine between disjoint fits",
}


def _carried_on(ax: Axes, laws: list[Law], n: np.ndarray, score: str, color: str) -> None:
    values = np.array([getattr(law, score)(n) for law in laws])
    low, high = np.percentile(values, [2.5, 97.5], axis=0)
    ax.fill_between(n, low, high, color=color, alpha=0.2, linewidth=0)
    ax.plot(n, values[0], color=color, linestyle="--", linewidth=1.5)
