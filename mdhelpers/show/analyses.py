"""Page 04's further analyses, appendices F.1 to F.4: similarity, components, fewer models.

Explained variances come as fractions and are drawn in percent. Figures take what stage 04 found, or
None, of which they say so; tables take a run, and read its figures.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import FURTHER
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    MARKERS,
    compared,
    comparison_label,
    draw_if,
    label_text,
    label_texts,
    legend_below,
    need_columns,
    nothing_here,
)
from mdhelpers.stages.analyses import Analyses

NOTHING = "This run has no models to divide, so there is nothing to say here."
TOO_FEW = (
    "This run has no models, or their predictions agree on too few test images, so there is "
    "nothing to say here."
)
_AGAINST = {
    "others": ("-", "two samples"),
    "all": ("--", "a sample and all"),
}


def similarity(further: Analyses | None, *, names: Sequence[str]) -> Figure:
    """Mean cosines of both algorithms' datamodels, as measured and corrected for noise (F.1)."""
    fig, axes = plt.subplots(1, 2, figsize=(8.4, 4))
    alike = further and further.named(names)
    tables = (alike.matrix, alike.corrected) if alike else (None, None)
    for ax, table, title in zip(axes, tables, ("as measured", "corrected for noise"), strict=True):
        draw_if(table, similarity_heatmap, ax).set_title(title, pad=24)
    return fig


LONG_NAME = 12  # characters, beyond which names above columns would run into each other


def similarity_heatmap(ax: Axes, matrix: pd.DataFrame) -> Axes:
    """Mean cosine of every pair of algorithms (paper, Figure 18, as a matrix).

    ``matrix`` is `Similarity.matrix` or `.corrected`; NaN is drawn as a dash.
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
    names = [label_text(name, 24) for name in matrix.index]
    slanted = {"rotation": 30, "ha": "left"} if max(map(len, names)) > LONG_NAME else {}
    ax.set_xticks(range(len(matrix)), names, **slanted)
    ax.set_yticks(range(len(matrix)), names)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def variance_curves(further: Analyses | None, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """What many components explain under both algorithms, a panel per comparison (Figure 19).

    Solid on the datamodels they were found in, dashed on datamodels of other models.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.6), sharey=True)
    names = label_texts(names)
    for ax, comparison in zip(axes, COMPARISONS, strict=True):
        if further is None:
            nothing_here(ax)
            continue
        for on, line in (("all", "-"), ("others", "--")):
            rows = further.curves[further.curves["on"] == on]
            rows = rows[rows["comparison"] == comparison].sort_values("component")
            for algorithm, color in ALGORITHM_COLORS.items():
                label = f"under {names[algorithm - 1]}" + ", other models" * (on == "others")
                look = {"color": color, "linestyle": line, "linewidth": 1.6, "label": label}
                if len(rows):
                    ax.plot(rows["component"], 100 * rows[f"variance_{algorithm}"], **look)
        ax.set_yscale("log")
        ax.set(xlabel="component, by rank", ylabel="variance explained (%)")
        ax.set_title(label_text(comparison_label(comparison, names)))
        ax.grid(True)
        legend_below(ax, columns=2)
    return fig


def model_counts(further: Analyses | None, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Cosines of datamodels, and directions found again, against the number of models (F.3)."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 5))
    counts = further and further.counts
    draw_if(counts and counts.cosines, cosines_by_models, axes[0], names=names)
    draw_if(counts and counts.directions, directions_by_models, axes[1], names=names)
    return fig


def cosines_by_models(
    ax: Axes, cosines: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How alike datamodels from so many models are, median and 90% of test images (Figure 20).

    ``cosines`` is `ModelCounts.cosines`: algorithm, n_models, against, low, median, high.
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

    ``directions`` is `ModelCounts.directions`: comparison, n_models, against, direction, cosine. A
    thick line for the subspace of all of them, thin ones for the first ``n`` of each comparison.
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


def components(further: Analyses | None, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """What components found with few or all models explain of datamodels from others (Figure 21).

    A panel per algorithm: the components are those of its own datamodels.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9, 5.6), sharey=True)
    table: pd.DataFrame | None = further and further.counts and further.counts.components
    for algorithm, ax in enumerate(axes, 1):
        draw_if(table, components_by_models, ax, algorithm=algorithm, names=names)
    return fig


def components_by_models(
    ax: Axes, components: pd.DataFrame, algorithm: int, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """One algorithm's panel of `components`.

    ``components`` is `ModelCounts.components`: algorithm, found_with, measured_with, component,
    variance (fraction).
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


def figures_of(run: Run) -> dict:
    """What stage 13 recorded of the analyses, perhaps nothing."""
    return run.results.get(FURTHER, {}).get("analyses", {})


ON = {"all": "all models", "half": "half of the models", "others": "the other half"}


def curves_table(run: Run) -> pd.DataFrame | str:
    """How many components have a gap of the right sign, as found and on other models (F.2)."""
    table = pd.DataFrame(figures_of(run).get("curves", []))
    if not len(table):
        return NOTHING
    table = table.sort_values("comparison", kind="stable")
    table["comparison"] = [comparison_label(name, run.names) for name in table["comparison"]]
    table["measured on"] = table["on"].map(ON)
    table["explain more under the first, %"] = (100 * table["share_positive"]).round(0)
    table["gaps added up, %"] = table["gap"].round(2)
    return table.set_index(["comparison", "measured on"])[["components", *table.columns[-2:]]]


def model_counts_table(run: Run) -> pd.DataFrame | str:
    """What more models do to datamodels and to the subspace of all directions (F.3).

    Of two samples that share no model: the mean cosine of each algorithm's datamodels, and the
    share of each comparison's subspace that both find.
    """
    figures = figures_of(run)
    if not figures.get("model_counts"):
        return NOTHING
    columns = {}
    for key, what, value in (
        ("model_counts", "algorithm", "mean"),
        ("directions_by_models", "comparison", "cosine"),
    ):
        rows = pd.DataFrame(figures[key])
        rows = rows[rows["against"] == "others"]
        for each, part in rows.groupby(what):
            name = run.names[each - 1] if what == "algorithm" else comparison_label(each, run.names)
            word = "cosine" if what == "algorithm" else "found again"
            columns[f"{word}, {name}"] = part.set_index("n_models")[value]
    return pd.DataFrame(columns).rename_axis("models in a sample").round(3)


def without_disagreement(further: Analyses | None, *, names: Sequence[str]) -> pd.DataFrame | str:
    """F.4's table: |cos| of every direction with itself when test images are left out."""
    if further is None or further.disagreement is None:
        return TOO_FEW
    table, columns = further.disagreement, {}
    rules = table.get("rule", pd.Series("margins", table.index))  # older runs do not say
    for (rule, kept), part in table.groupby([rules, "kept"], sort=False):
        indexed, title = part.set_index(["comparison", "direction"]), TITLES[rule, kept]
        columns[f"{title} ({part['n'].iloc[0]} images)"] = indexed["cosine"]
        columns[f"as many at random ({title})"] = indexed["random"]
    shown = pd.DataFrame(columns)
    shown.index = pd.MultiIndex.from_tuples(
        [(comparison_label(name, names), number) for name, number in shown.index],
        names=["comparison", "direction"],
    )
    return shown.round(3)


TITLES = {
    ("predictions", "agree"): "predictions agree",
    ("margins", "agree"): "signs of margins agree",
    ("margins", "right"): "both right",
}


RULES = {"predictions": "most common predictions differ", "margins": "signs of margins differ"}


def disagreement(run: Run) -> pd.DataFrame | str:
    """Whether directions hang on the test images that are predicted differently (F.4).

    Directions turn *further* than by chance where their median |cos| is 0.05 below that of leaving
    out as many images at random.
    """
    rows = [row for row in figures_of(run).get("disagreement", []) if row["kept"] == "agree"]
    if not rows:
        return TOO_FEW
    table, titles = (
        pd.DataFrame(rows),
        {
            "rule": "left out where",
            "left_out": "left out",
            "n": "kept",
            "n_models": "models asked",
            "cosine": "median |cos|",
            "least": "least",
            "random": "median at random",
            "verdict": "directions turn",
        },
    )
    further = table["cosine"] <= table["random"] - 0.05
    table["verdict"] = np.where(further, "further than by chance", "no further than by chance")
    if "rule" in table:  # older runs do not say
        table["rule"] = table["rule"].map(RULES)
    table["comparison"] = [comparison_label(name, run.names) for name in table["comparison"]]
    shown = [name for name in titles if name in table]
    return table.set_index("comparison")[shown].rename(columns=titles).round(3)
