"""Figures of the further analyses: similarity, many components, the number of models.

Every function draws on the `Axes` it is given and returns it. Explained variances come as fractions
and are drawn in percent.

Figures of several axes for the further analyses, empty where a run has none of them.

Tables and prose of the further analyses, from a run's figures: appendices D and F.1 to F.4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, SUBPOPULATIONS
from mdhelpers.show.models import algorithm_names
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    COMPARISONS,
    DEFAULT_NAMES,
    INK,
    MARKERS,
    compared,
    comparison_label,
    draw_if,
    escaped,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)
from mdhelpers.stages.analyses import Analyses

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


def draw_similarity(axes, further: Analyses | None, names) -> None:
    """The matrix of mean cosines as measured, and with the noise taken out."""
    alike = further and further.named(names)
    titles = ("as measured", "corrected for noise")
    tables = (alike.matrix, alike.corrected) if alike else (None, None)
    for ax, table, title in zip(axes, tables, titles, strict=True):
        draw_if(table, similarity_heatmap, ax).set_title(title, pad=24)


def draw_curves(axes, further: Analyses | None, names) -> None:
    """A panel a comparison: curves on all models, and on models other than a half's own."""
    curves = further and further.curves_on("all")
    others = further and further.curves_on("others")
    for ax, comparison in zip(axes, COMPARISONS, strict=True):
        options = {"comparison": comparison, "names": names, "others": others}
        draw_if(curves, variance_curves, ax, **options)


def draw_counts(axes, further: Analyses | None, names) -> None:
    """Cosines of datamodels, and directions found again, against the number of models."""
    counts = further and further.counts
    draw_if(counts and counts.cosines, cosines_by_models, axes[0], names=names)
    draw_if(counts and counts.directions, directions_by_models, axes[1], names=names)


def draw_components(axes, further: Analyses | None, names) -> None:
    """A panel an algorithm: its own components found and measured with few and many models."""
    components: pd.DataFrame | None = further and further.counts and further.counts.components
    for algorithm, ax in enumerate(axes, 1):
        draw_if(components, components_by_models, ax, algorithm=algorithm, names=names)


NOTHING = "This run has no models to divide, so there is nothing to say here."
TOO_FEW = (
    "This run has no models, or their predictions agree on too few test images, so there is "
    "nothing to say here."
)


def figures_of(run: Run) -> dict:
    """What stage 04 recorded of the analyses, perhaps nothing."""
    return run.results.get(COMPARISON, {}).get("analyses", {})


def similarity(run: Run) -> Markdown:
    """How alike the algorithms are, beside how alike each is to itself (F.1)."""
    figures, names = figures_of(run).get("similarity"), escaped(algorithm_names(run))
    if not figures:
        return Markdown(NOTHING)
    text = (
        f"Fitted on halves of the models, the two algorithms' datamodels have a mean cosine of "
        f"**{figures['pair']:.2f}**; *{names[0]}* has {figures['itself_1']:.2f} with itself and "
        f"*{names[1]}* {figures['itself_2']:.2f}, the most that its noise allows."
    )
    corrected = figures["pair_corrected"]
    if corrected is None or corrected != corrected:
        return Markdown(f"{text} With this few models the noise cannot be corrected for.")
    return Markdown(f"{text} Without noise the pair would have about **{corrected:.2f}**.")


def curves(run: Run) -> Markdown:
    """How many components have a gap of the right sign, as found and on other models (F.2)."""
    rows, names = figures_of(run).get("curves", []), escaped(algorithm_names(run))
    by_key = {(row["comparison"], row["on"]): row for row in rows}
    lines = []
    for name in COMPARISONS:
        if (name, "all") not in by_key:
            continue
        row = by_key[name, "all"]
        text = (
            f"- *{comparison_label(name, names)}*: {row['share_positive']:.0%} of "
            f"{row['components']} components explain more under *{names[compared(name)[0] - 1]}*; "
            f"their gaps add up to {row['gap']:.1f}% of the variance"
        )
        if (name, "others") in by_key:
            half, others = by_key[name, "half"], by_key[name, "others"]
            text += (
                f". Found with half of the models, to {half['gap']:.1f}% on that half and "
                f"**{others['gap']:.1f}%** on the other"
            )
        lines.append(f"{text}.")
    return Markdown("\n".join(lines) or NOTHING)


def model_counts(run: Run) -> Markdown:
    """What more models do to datamodels and to the subspace of directions (F.3)."""
    figures, names = figures_of(run), escaped(algorithm_names(run))
    rows = [r for r in figures.get("model_counts", []) if r["against"] == "others"]
    if not rows:
        return Markdown(NOTHING)
    few, many = (pick(r["n_models"] for r in rows) for pick in (min, max))
    parts = []
    for algorithm in (1, 2):
        mean = {r["n_models"]: r["mean"] for r in rows if r["algorithm"] == algorithm}
        parts.append(f"from {mean[few]:.2f} to **{mean[many]:.2f}** for *{names[algorithm - 1]}*")
    subspaces = []
    for name in COMPARISONS:
        share = {
            r["n_models"]: r["cosine"]
            for r in figures["directions_by_models"]
            if r["comparison"] == name and r["against"] == "others"
        }
        label = comparison_label(name, names)
        subspaces.append(f"{share[few]:.0%} to **{share[many]:.0%}** of *{label}*")
    return Markdown(
        f"From {few:,} to {many:,} models, the mean cosine between two samples that share no model "
        f"goes {' and '.join(parts)}. Of the subspace of all directions the two find in common "
        f"{' and '.join(subspaces)}."
    )


def without_disagreement(further: Analyses | None, names) -> pd.DataFrame | str:
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


def left_out(row: dict) -> list[str]:
    """How many test images are left out, and by which rule; nothing where an older run is mute."""
    if "rule" not in row:
        return []
    count = f"**{row['left_out']} of {row['n'] + row['left_out']}** test images are left out"
    if row["rule"] == "predictions":
        return [
            f"{count}: those on which the most common predictions of the algorithms differ, over "
            f"{row['n_models']} kept models of each.\n"
        ]
    return [
        f"{count}: those that one algorithm's models usually get right and the other's wrong, by "
        "the signs of margins, without predictions of kept networks. On images that both usually "
        "get wrong the predictions may still differ.\n"
    ]


def disagreement(run: Run) -> Markdown:
    """Whether directions hang on the test images that are predicted differently (F.4)."""
    rows, names = figures_of(run).get("disagreement", []), escaped(algorithm_names(run))
    rows = [row for row in rows if row["kept"] == "agree"]
    if not rows:
        return Markdown(TOO_FEW)
    lines = left_out(rows[0])
    for row in rows:
        same = row["cosine"] > row["random"] - 0.05
        verdict = (
            "no further than by leaving out as many at random"
            if same
            else "**further than by leaving out as many at random**"
        )
        lines.append(
            f"- *{comparison_label(row['comparison'], names)}*: median |cos| {row['cosine']:.3f}, "
            f"least {row['least']:.3f}; at random {row['random']:.3f}. The directions turn "
            f"{verdict}."
        )
    return Markdown("\n".join(lines))


def classes(found, class_names, names, *, n: int = 3) -> pd.DataFrame:
    """The commonest class at both ends of the first directions, and its share (App. D)."""
    table = found.classes.copy()
    order = table.drop_duplicates(["comparison", "direction"]).groupby("comparison").cumcount()
    first = table.loc[order.index[order < n], ["comparison", "direction"]]
    table = table.merge(first, on=["comparison", "direction"])
    table["class"] = [class_names[label] for label in table["label"]]
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    titles = {"share": "share of the subpopulation", "expected": "share of all test images"}
    keys = ["comparison", "direction", "end"]
    return table.set_index(keys)[["class", *titles]].rename(columns=titles).round(2)


def influence(run: Run) -> Markdown:
    """Whether the first directions' training images pull under one algorithm only (App. D)."""
    rows, names = run.results[SUBPOPULATIONS].get("influence", []), escaped(algorithm_names(run))
    lines = []
    for name in COMPARISONS:
        row = next((r for r in rows if r["comparison"] == name and r["end"] == "top"), None)
        if row is None:
            continue
        own, other = compared(name)
        lines.append(
            f"- *{comparison_label(name, names)}*, direction {row['direction']} (top): these "
            f"training images hold {row[f'influence_{own}']:.2f} of a datamodel's absolute weight "
            f"(its length being 1) under *{names[own - 1]}* and {row[f'influence_{other}']:.2f} "
            f"under *{names[other - 1]}*. Of the test images that they pull most, "
            f"{row[f'in_{own}']:.0%} belong to the subpopulation under the first, "
            f"{row[f'in_{other}']:.0%} under the second; the two sets share {row['in_both']:.0%}."
        )
    return Markdown("\n".join(lines) or NOTHING)
