"""Page 12: several algorithms, every pair of them, and what their models gain from each other."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.analyses.ladder import RUNGS
from mdhelpers.show.analyses import similarity_heatmap
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    EXAMPLE_COLORS,
    INK,
    comparison_label,
    label_text,
    legend_below,
    nothing_here,
)
from mdhelpers.stages.effects import word_of
from mdhelpers.stages.several import StudySeveral

SHAPES = "osD^vPX*"


def looks(names) -> dict[str, dict]:
    """A colour and a shape for each algorithm; the first two have those of the other pages."""
    colors = tuple(dict.fromkeys([*ALGORITHM_COLORS.values(), *EXAMPLE_COLORS]))
    return {
        name: {"color": colors[i % len(colors)], "marker": SHAPES[i % len(SHAPES)]}
        for i, name in enumerate(names)
    }


def matrices(found: StudySeveral) -> Figure:
    """Mean cosine of every pair's datamodels, as measured and corrected for noise (F.1)."""
    size = 1.2 + 0.8 * len(found.names)
    fig, axes = plt.subplots(2, 1, figsize=(1.3 + size, 2 * size))
    alike = found.similarity
    tables = {"as measured": alike.matrix, "corrected for noise": alike.corrected}
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        similarity_heatmap(ax, table)
        ax.set_xlabel(title, weight="bold")
    return fig


def pairs(found: StudySeveral) -> pd.DataFrame:
    """Every pair: what it differs in, how many directions tell it apart, and by how much.

    *Significant* and *strong* directions are counted on either side; the gap is cross-fitted, in
    percent of the datamodels' variance, with its 95% interval.
    """
    rows = []
    for row in found.pairs.to_dict("records"):
        names = row["first"], row["second"]
        known = row["significant"] == row["significant"]
        rows.append(
            {
                "pair": f"{names[0]}, {names[1]}",
                "differs in": row["rung"],
                "comparison": comparison_label(row["comparison"], names),
                "significant": f"{row['significant']:.0f}" if known else "too few models",
                "strong": f"{row['strong']:.0f}" if known else "",
                "gap, %": f"{row['gap']:.1f} ({row['low']:.1f} to {row['high']:.1f})",
            }
        )
    return pd.DataFrame(rows).set_index(["pair", "differs in", "comparison"])


def sweep_panels(found: StudySeveral) -> Figure:
    """Each hypothesis' effect by intensity, a line per algorithm (paper, Figures 15 to 17)."""
    cases = list(dict.fromkeys(found.sweep["hypothesis"]))
    fig, axes = plt.subplots(max(1, len(cases)), 1, figsize=(5.8, 3.9 * max(1, len(cases))))
    axes = np.atleast_1d(axes)
    if not cases:
        nothing_here(axes[0], "this study tests no hypothesis")
    for ax, case in zip(axes, cases, strict=False):
        effect_lines(ax, found.sweep[found.sweep["hypothesis"] == case], found.names)
    return fig


def effect_lines(ax: Axes, rows: pd.DataFrame, names) -> Axes:
    """One hypothesis' effect by intensity under each algorithm, with 95% intervals."""
    look, first = looks(names), rows.iloc[0]
    ax.axhline(0, color=INK, linewidth=1)
    for name in names:
        own = rows[rows["algorithm"] == name].sort_values("intensity")
        errors = np.abs(own[["low", "high"]].to_numpy().T - own["effect"].to_numpy())
        line = {"label": label_text(name, 28), "capsize": 3, **look[name]}
        ax.errorbar(own["intensity"], own["effect"], yerr=errors, **line)
    target = label_text(first["class_name"], 28)
    title = label_text(first["hypothesis"], 28)
    ax.set_title(title if f" → {target}" in title else f"{title} → {target}")
    ax.set(xlabel=f"intensity ({first['unit']})", ylabel="change of confidence (points)")
    ax.set_xticks(sorted(set(rows["intensity"])))
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def verdicts(found: StudySeveral) -> pd.DataFrame | str:
    """The verdict on each hypothesis, of every algorithm against the first."""
    rows = found.sweep[found.sweep["outcome"] != ""]
    if rows.empty:
        return "This study tests no hypothesis."
    rows = rows.drop_duplicates(["hypothesis", "algorithm"])
    first = found.names[0]
    said = [word_of(row.outcome, (first, row.algorithm)) for row in rows.itertuples()]
    table = rows.assign(said=said).pivot(index="hypothesis", columns="algorithm", values="said")
    table = table.reindex(index=rows["hypothesis"].unique(), columns=list(found.names[1:]))
    return table.rename_axis(index=f"{first} against", columns=None)


LADDER = {
    "inconsistency": "only one of two models is right, % of images",
    "conversion": "of these, right in the ensemble, %",
}


def ladder(found: StudySeveral) -> Figure:
    """Error inconsistency and conversion of every pair of algorithms, by what it differs in."""
    fig, axes = plt.subplots(2, 1, figsize=(6.4, 7.6))
    for ax, (measure, label) in zip(axes, LADDER.items(), strict=True):
        rungs_panel(ax, found.ladder[found.ladder["measure"] == measure]).set_xlabel(label)
    return fig


def rungs_panel(ax: Axes, rows: pd.DataFrame) -> Axes:
    """One measure, in percent: a row per pair of algorithms, the rungs of the ladder upward."""
    order = [r for r in RUNGS if r in set(rows["rung"])]
    rows = rows.assign(place=rows["rung"].map(order.index)).sort_values("place", kind="stable")
    values = 100 * rows[["mean", "low", "high"]].to_numpy()
    places = np.arange(len(rows))
    colors = [EXAMPLE_COLORS[place % len(EXAMPLE_COLORS)] for place in rows["place"]]
    ax.hlines(places, values[:, 1], values[:, 2], color=colors, linewidth=2)
    ax.scatter(values[:, 0], places, c=colors, zorder=3)
    labels = [
        label_text(f"{r.first}, twice" if r.first == r.second else f"{r.first}, {r.second}", 36)
        for r in rows.itertuples()
    ]
    ax.set_yticks(places, labels)
    for place, name in enumerate(order):
        ax.plot([], [], "o", color=EXAMPLE_COLORS[place % len(EXAMPLE_COLORS)], label=name)
    ax.grid(True, axis="x")
    legend_below(ax, columns=2)
    return ax


def ensembles(found: StudySeveral) -> Figure:
    """Accuracy of an ensemble that begins with each algorithm and adds the best of the others."""
    fig, ax = plt.subplots(figsize=(6.4, 4.4))
    look = looks(found.names)
    for name in found.names:
        own = found.ensembles[found.ensembles["base"] == name].sort_values("step")
        line = {"label": f"begins with {label_text(name, 24)}", **look[name]}
        ax.plot(own["step"] + 1, 100 * own["accuracy"], **line)
    ax.set(xlabel="models in the ensemble", ylabel="accuracy, %")
    ax.set_xticks(sorted(set(found.ensembles["step"] + 1)))
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return fig


def added(found: StudySeveral) -> pd.DataFrame:
    """What each ensemble added, step by step; the first algorithm's own name is another seed."""
    rows = found.ensembles[found.ensembles["step"] > 0]
    table = rows.pivot(index="base", columns="step", values="added").reindex(list(found.names))
    table.columns = [f"model {step + 1}" for step in table]
    return table.rename_axis(index="begins with")
