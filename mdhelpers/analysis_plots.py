"""Figures of the further analyses: similarity, many components, the number of models.

Every function draws on the `Axes` it is given and returns it. Explained variances come as fractions
and are drawn in percent.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdhelpers.style import (
    ALGORITHM_COLORS,
    COMPARISONS,
    DEFAULT_NAMES,
    INK,
    MARKERS,
    compared,
    comparison_label,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)

_AGAINST = {
    "others": ("-", "two samples without a common model"),
    "all": ("--", "a sample and all models, of which it is a part"),
}


def similarity_heatmap(ax: Axes, matrix: pd.DataFrame) -> Axes:
    """Mean cosine of every pair of algorithms (paper, Figure 18, as a matrix).

    Parameters
    ----------
    ax : Axes
    matrix : DataFrame
        `Similarity.matrix` or `.corrected`: algorithms by algorithms; NaN is drawn as a dash.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If rows and columns are not the same algorithms.
    """
    if list(matrix.index) != list(matrix.columns):
        raise ValueError(
            f"Got rows {list(matrix.index)} and columns {list(matrix.columns)}; expected the same "
            "algorithms in both."
        )
    values = matrix.to_numpy(dtype=float)
    ax.imshow(np.ma.masked_invalid(values), cmap="BuGn", vmin=0, vmax=1.1)
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value > 0.75 else INK
        text = f"{value:.2f}" if np.isfinite(value) else "–"
        ax.text(column, row, text, ha="center", va="center", color=color)
    ax.set_xticks(range(len(matrix)), [label_text(name, 24) for name in matrix.columns])
    ax.set_yticks(range(len(matrix)), [label_text(name, 24) for name in matrix.index])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def variance_curves(
    ax: Axes,
    curves: pd.DataFrame,
    comparison: str,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    others: pd.DataFrame | None = None,
) -> Axes:
    """What many components of one residual explain under both algorithms (paper, Figure 19).

    Parameters
    ----------
    ax : Axes
    curves : DataFrame
        From `variance_curves.variance_curves`: columns comparison, component, variance_1 and
        variance_2 (fractions of variance).
    comparison : str
        "1_minus_2" or "2_minus_1".
    names : pair of str
        What to call algorithms 1 and 2.
    others : DataFrame, optional
        The same components measured on datamodels of other models; drawn dashed.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    compared(comparison)
    for table, line in ((curves, "-"), (others, "--")):
        if table is None:
            continue
        need_columns(table, ("comparison", "component", "variance_1", "variance_2"))
        rows = table[table["comparison"] == comparison].sort_values("component")
        for algorithm, color in ALGORITHM_COLORS.items():
            label = f"under {names[algorithm - 1]}" + (", other models" if line == "--" else "")
            style = {"color": color, "linestyle": line, "linewidth": 1.6, "label": label}
            ax.plot(rows["component"], 100 * rows[f"variance_{algorithm}"], **style)
    ax.set_yscale("log")
    ax.set(xlabel="component, by rank", ylabel="variance explained (%)")
    ax.set_title(label_text(comparison_label(comparison, names)))
    ax.grid(True)
    legend_below(ax, columns=2)
    return ax


def cosines_by_models(
    ax: Axes, cosines: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How alike datamodels from so many models are, median and 90% of test images (Figure 20).

    Parameters
    ----------
    ax : Axes
    cosines : DataFrame
        `ModelCounts.cosines`: columns algorithm, n_models, against, low, median, high.
    names : pair of str
        What to call algorithms 1 and 2.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    need_columns(cosines, ("algorithm", "n_models", "against", "low", "median", "high"))
    for algorithm, color in ALGORITHM_COLORS.items():
        for against, (line, what) in _AGAINST.items():
            rows = cosines[(cosines["algorithm"] == algorithm) & (cosines["against"] == against)]
            rows = rows.sort_values("n_models")
            label = f"{names[algorithm - 1]}: {what}"
            style = {"color": color, "linestyle": line, "label": label}
            if against == "others":
                style |= {"marker": MARKERS[COMPARISONS[algorithm - 1]], "markersize": 5}
            ax.plot(rows["n_models"], rows["median"], **style)
            if against == "others":
                span = {"color": color, "alpha": 0.15, "linewidth": 0}
                ax.fill_between(rows["n_models"], rows["low"], rows["high"], **span)
    _models_axis(ax, cosines["n_models"])
    ax.set(ylabel="cosine of two datamodels\nof a test image", ylim=(None, 1))
    legend_below(ax, columns=1)
    return ax


def directions_by_models(
    ax: Axes, directions: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES, n: int = 3
) -> Axes:
    """How well directions are found again on models of which none is shared.

    A thick line for the subspace of all directions, thin ones for the first few directions.

    Parameters
    ----------
    ax : Axes
    directions : DataFrame
        `ModelCounts.directions`: columns comparison, n_models, against, direction, cosine.
    names : pair of str
        What to call algorithms 1 and 2.
    n : int
        Directions drawn for each comparison.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    need_columns(directions, ("comparison", "n_models", "against", "direction", "cosine"))
    chosen = directions[(directions["against"] == "others") & (directions["direction"] <= n)]
    for (comparison, direction), rows in chosen.groupby(["comparison", "direction"], sort=True):
        rows = rows.sort_values("n_models")
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        label = None if direction else f"{comparison_label(comparison, names)}: all directions"
        width, line = (0.9, ":") if direction else (2.4, "-")
        style = {"color": color, "linewidth": width, "linestyle": line, "label": label}
        ax.plot(rows["n_models"], rows["cosine"], marker=MARKERS[comparison], markersize=4, **style)
        if direction:
            last = rows.iloc[-1]
            place = {"xytext": (5, 0), "textcoords": "offset points", "va": "center", "size": 9}
            point = (last["n_models"], last["cosine"])
            ax.annotate(str(direction), point, color=color, **place)
    _models_axis(ax, chosen["n_models"])
    ax.set(ylabel="found again (|cos|; of all\ndirections: share)", ylim=(0, 1.03))
    legend_below(ax, columns=1)
    return ax


def components_by_models(
    ax: Axes, components: pd.DataFrame, algorithm: int, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """What components found with few or all models explain of datamodels from others (Figure 21).

    Parameters
    ----------
    ax : Axes
    components : DataFrame
        `ModelCounts.components`: columns algorithm, found_with, measured_with, component, variance
        (fraction).
    algorithm : int
        1 or 2.
    names : pair of str
        What to call algorithms 1 and 2.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing.
    """
    names = label_texts(names)
    need_columns(components, ("algorithm", "found_with", "measured_with", "component", "variance"))
    own = components[components["algorithm"] == algorithm]
    ends = sorted({own["found_with"].min(), own["found_with"].max()})
    shades = dict(zip(sorted(own["measured_with"].unique()), _shades(own, algorithm), strict=True))
    for found_with, (line, marker) in zip(ends, (("--", "v"), ("-", "o")), strict=False):
        for measured_with, rows in own[own["found_with"] == found_with].groupby("measured_with"):
            style = {"color": shades[measured_with], "linestyle": line, "marker": marker}
            label = f"{found_with} → {measured_with}"
            variance = 100 * rows["variance"]
            ax.plot(
                rows["component"], variance, markersize=3.5, linewidth=1.3, label=label, **style
            )
    ax.set(xlabel="component, by rank", ylabel="variance explained (%)", ylim=(0, None))
    ax.set_title(names[algorithm - 1])
    legend_below(ax, columns=2)
    ax.get_legend().set_title("models: found with → measured with")
    return ax


def _shades(own: pd.DataFrame, algorithm: int) -> list[str]:
    """The algorithm's colour, paler for fewer models."""
    n = own["measured_with"].nunique()
    base = np.array([int(ALGORITHM_COLORS[algorithm][i : i + 2], 16) for i in (1, 3, 5)])
    strengths = np.linspace(0.4, 1, n) if n > 1 else [1.0]
    mixed = [np.round(255 - s * (255 - base)).astype(int) for s in strengths]
    return ["#{:02X}{:02X}{:02X}".format(*color) for color in mixed]


def _models_axis(ax: Axes, n_models: pd.Series) -> None:
    sizes = sorted(n_models.unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("models in a sample")
    ax.grid(True)
