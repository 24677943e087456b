"""Figures of prose pages, drawn when the book is built from what runs and benchmarks recorded.

Each takes what lies at a place in a record and gives a figure and its text alternative. The first
sentence of its docstring is the caption.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from scipy.stats import binomtest

import mdhelpers
from mdhelpers.base.places import typeset
from mdhelpers.base.records import digest, file_digest, written
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.sources import NO_COPY, load_dataset
from mdhelpers.show.analyses import similarity_heatmap
from mdhelpers.show.gallery import image_rows
from mdhelpers.show.several import LADDER, looks, rungs_panel
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    EXAMPLE_COLORS,
    INK,
    NULL_COLOR,
    TRUTH_COLOR,
    comparison_label,
    label_text,
    legend_below,
    use_style,
)
from mdhelpers.show.transformations import FAMILIES, gallery

_MARKERS = "osD^vP"
_FEW_DRAWINGS = 5
_STEP = 1.025  # markers of methods stand side by side, each this much further right
_ROW, _RIM = 0.42, 1.5  # inches of a row of points, and of what is written below


Drawing = Callable[[str, Any], tuple[bytes, str]]


def drawn(name: str, data: Any) -> tuple[bytes, str]:
    """One of ``FIGURES`` as PNG, the same bytes each time, and its text alternative."""
    with matplotlib.rc_context(), BytesIO() as file:
        use_style()
        figure, alternative = FIGURES[name](data)
        figure.savefig(file, format="png")
        plt.close(figure)
        return file.getvalue(), alternative


def remembered(folder: Path) -> Drawing:
    """`drawn`, or what this very code has drawn before of the same data and left in a folder."""
    package = Path(mdhelpers.__file__).parent
    made_by = digest([file_digest(path) for path in sorted(package.rglob("*.py"))])[:16]
    for other in folder.glob("*"):
        if other.name != made_by:
            shutil.rmtree(other)
    folder = folder / made_by
    folder.mkdir(parents=True, exist_ok=True)

    def draw(name: str, data: Any) -> tuple[bytes, str]:
        kept = folder / digest([matplotlib.__version__, name, data])[:32]
        picture, words = kept.with_suffix(".png"), kept.with_suffix(".txt")
        if not words.is_file():
            body, alternative = drawn(name, data)
            with written(picture) as unfinished:
                unfinished.write_bytes(body)
            with written(words) as unfinished:  # last: it says that both are there
                unfinished.write_text(alternative, encoding="utf-8")
        return picture.read_bytes(), words.read_text(encoding="utf-8")

    return draw


def lds_by_method(budgets: Mapping[str, Any]) -> tuple[Figure, str]:
    """LDS of each method against the number of models, a panel per algorithm."""
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
    """One line per method: ``score`` with ``score_low`` and ``score_high`` against ``models``."""
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
    """Share of drawings in which what is said of each feature is right, by the number of models.

    Markers are hollow where a share is of fewer than five drawings.
    """
    rows = recorded["rows"]
    figure, ax = plt.subplots(figsize=(6.4, 4.2))
    told = []
    kinds = dict.fromkeys((row["feature"], row["truth"]) for row in rows)
    for number, (feature, truth) in enumerate(kinds):
        own = [row for row in rows if (row["feature"], row["truth"]) == (feature, truth)]
        x = np.array([row["models"] for row in own]) * _STEP**number
        share = np.array([row["right"] / row["drawings"] for row in own])
        exact = [binomtest(row["right"], row["drawings"]).proportion_ci() for row in own]
        style = {"color": EXAMPLE_COLORS[number], "marker": _MARKERS[number], "markersize": 6}
        spread = np.abs(np.array([(each.low, each.high) for each in exact]).T - share)
        label = f"{feature}, {truth}"
        ax.errorbar(x, share, spread, **style, linewidth=1.5, capsize=2, label=label)
        few = np.array([row["drawings"] < _FEW_DRAWINGS for row in own])
        hollow = {"linestyle": "none", "markerfacecolor": "white", "zorder": 3}
        ax.plot(x[few], share[few], **style, **hollow)
        counts = [f"{row['right']} of {row['drawings']} with {row['models']}" for row in own]
        told.append(f"{label}: {', '.join(counts)} models")
    ax.axhline(0.9, color=INK, linestyle=":", linewidth=1.5, label="nine in ten")
    ax.axvline(recorded["default"], color=NULL_COLOR, linewidth=1, label="models of the study")
    ax.set(ylim=(-0.03, 1.03), ylabel="share of drawings, said right")
    against_models(ax, rows)
    return figure, f"Shares of drawings in which what is said is right. {'; '.join(told)}."


def similarity(recorded: Mapping[str, Any]) -> tuple[Figure, str]:
    """How alike the datamodels of several algorithms are, each with each."""
    names = [row["changed"] for row in recorded["rows"]]
    matrix = pd.DataFrame(recorded["corrected"]).loc[names, names]
    names = [name.replace("_", " ") for name in names]
    matrix = matrix.set_axis(names, axis=0).set_axis(names, axis=1)
    figure, ax = plt.subplots(figsize=(7.2, 5.4))
    similarity_heatmap(ax, matrix)
    told = [f"{name} {value:.2f}" for name, value in matrix.iloc[0].items()]
    return figure, f"How alike algorithms are. With {names[0]}: {', '.join(told[1:])}."


def effects(study: Mapping[str, Any]) -> tuple[Figure, str]:
    """What adding a feature does to the confidence in its class, and by how much that differs.

    Takes ``names`` of both algorithms (or ``about`` with them) and rows: ``features`` of a recorded
    study, or ``rows`` of tests that were made again. Points; the difference has a 95% interval.
    """
    names = study["names"] if "names" in study else study["about"]["names"]
    rows = study["features"] if "features" in study else study["rows"]
    order = [row.get("hypothesis") for row in rows]
    rows = sorted(rows, key=lambda row: order.index(row.get("hypothesis")))
    labels = [feature_label(row) for row in rows]
    places = np.arange(len(rows))
    tall = _ROW * max(label.count("\n") + 1 for label in labels) * len(rows) + _RIM
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, tall), sharey=True)
    ends = {a: np.array([row[f"effect_{a}"] for row in rows]) for a in (1, 2)}
    left.hlines(places, ends[1], ends[2], color=NULL_COLOR, linewidth=1.5)
    for a, name in enumerate(names, 1):
        left.plot(ends[a], places, "os"[a - 1], color=ALGORITHM_COLORS[a], label=label_text(name))
    middle, low, high = (
        np.array([row[f"difference{end}"] for row in rows]) for end in ("", "_low", "_high")
    )
    right.hlines(places, low, high, color=INK, linewidth=2)
    right.plot(middle, places, "D", color=INK, markersize=5, label="difference, with 95% interval")
    for ax in (left, right):
        ax.axvline(0, color=INK, linewidth=1)
        ax.grid(True, axis="x")
        legend_below(ax, columns=2)
    left.set(xlabel="change of confidence (points)", ylim=(len(rows) - 0.5, -0.5))
    left.set_yticks(places, [label_text(label) for label in labels])
    right.set_xlabel(f"{label_text(names[0], 20)} less {label_text(names[1], 20)} (points)")
    told = [
        f"{label}: {in_type(row['effect_1'])} under {names[0]}, {in_type(row['effect_2'])} under "
        f"{names[1]}, difference {in_type(row['difference_low'])} to "
        f"{in_type(row['difference_high'])}"
        for label, row in zip(labels, rows, strict=True)
    ]
    return figure, f"Effects in points. {'; '.join(told)}.".replace("\n", ", ")


def in_type(value: float, spec: str = "+.0f") -> str:
    """A number in type, with a true minus sign and no sign on zero."""
    return typeset(format(value, spec))


def row_by_row(ax: Axes, labels: Sequence[str], xlabel: str, *, width: int = 40) -> Axes:
    """Labels of rows from the top down, a grid across them and the legend below."""
    ax.set_yticks(np.arange(len(labels)), [label_text(label, width) for label in labels])
    ax.set(xlabel=xlabel, ylim=(len(labels) - 0.5, -0.5))
    ax.grid(True, axis="x")
    legend_below(ax, columns=2)
    return ax


def feature_label(row: Mapping[str, Any]) -> str:
    """The feature of a row, and on what it was tested where the row says so."""
    name = row["feature"] if "feature" in row else row["hypothesis"]
    target = row.get("class_name", "")
    name = name if not target or target in name else f"{name} → {target}"
    return f"{name}\n{row['on']}" if "on" in row else name


def gaps(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Cross-fitted gaps with their 95% intervals, beside the naive ones where these are known.

    Takes rows of ``comparison`` (or ``side``), perhaps ``study`` and ``naive``, and ``gap``,
    ``low`` and ``high``, in percent of the datamodels' variance. A naive gap holds noise; zero
    means no difference.
    """
    labels = [row.get("side") or row["comparison"] for row in rows]
    labels = [
        f"{r['study']}: {said}" if "study" in r else said
        for r, said in zip(rows, labels, strict=True)
    ]
    labels = [label.replace("_", " ") for label in labels]
    places = np.arange(len(rows))
    figure, ax = plt.subplots(figsize=(7.6, _ROW * 0.8 * len(rows) + _RIM))
    gap, low, high = (np.array([row[key] for row in rows]) for key in ("gap", "low", "high"))
    naive = [row["naive"] for row in rows if "naive" in row]
    ax.axvline(0, color=INK, linewidth=1)
    if naive:
        ax.plot(naive, places, "o", color=NULL_COLOR, markerfacecolor="white", label="naive")
    ax.hlines(places, low, high, color=ALGORITHM_COLORS[1], linewidth=2)
    ax.plot(gap, places, "o", color=ALGORITHM_COLORS[1], label="cross-fitted, with 95% interval")
    row_by_row(ax, labels, "gap (% of the datamodels' variance)", width=48)
    found = [in_type(value, ".1f") for value in gap]
    if naive:
        pairs = zip(naive, found, strict=True)
        found = [f"{in_type(before, '.1f')} and {after}" for before, after in pairs]
    told = ", ".join(f"{label} {said}" for label, said in zip(labels, found, strict=True))
    kinds = "Naive and cross-fitted gaps" if naive else "Cross-fitted gaps"
    return figure, f"{kinds}, in percent: {told}."


def halves(results: Mapping[str, Any]) -> tuple[Figure, str]:
    """Gaps between halves of the models: of one algorithm with the other, and with itself.

    Takes a run's results. Of an algorithm with itself the naive gap is noise alone.
    """
    names = [results["02_mask_training"][f"name_{a}"] for a in (1, 2)]
    rows = []
    for first, second in ((1, 2), (1, 1), (2, 2)):
        for side in ("1_minus_2", "2_minus_1"):
            found = results["04_residual_pca"][f"null_{first}_against_{second}_{side}"]
            way = {"1_minus_2": "one way", "2_minus_1": "the other"}[side]
            label = f"{names[first - 1]} with itself, {way}"
            if first != second:
                label = comparison_label(side, names)
            rows.append({"comparison": label, "naive": found["naive_gap"], **found})
    return gaps(rows)


def pairs(recorded: Mapping[str, Any]) -> tuple[Figure, str]:
    """How much of each algorithm's datamodels the other's do not have, pair by pair.

    Takes ``rows`` of ``pair``, ``gap_1``, ``gap_2`` and their ends: cross-fitted gaps with 95%
    intervals, in percent of the datamodels' variance.
    """
    rows = sorted(recorded["rows"], key=lambda row: -row["gap_1"] - row["gap_2"])
    places = np.arange(len(rows))
    figure, ax = plt.subplots(figsize=(7.6, _ROW * len(rows) + _RIM))
    ax.axvline(0, color=INK, linewidth=1)
    sides = {1: "the first algorithm's side", 2: "the second's"}
    for a, label in sides.items():
        color, at = ALGORITHM_COLORS[a], places + 0.2 * a - 0.3
        gap, low, high = (np.array([r[f"gap_{a}{e}"] for r in rows]) for e in ("", "_low", "_high"))
        ax.hlines(at, low, high, color=color, linewidth=2)
        ax.plot(gap, at, "os"[a - 1], color=color, label=label)
    row_by_row(ax, [row["pair"] for row in rows], "gap (% of the datamodels' variance)", width=36)
    told = [
        f"{row['pair']} {in_type(row['gap_1'], '.1f')} and {in_type(row['gap_2'], '.1f')}"
        for row in rows
    ]
    return figure, f"Gaps of both sides, in percent: {', '.join(told)}."


def planted(recorded: Mapping[str, Any]) -> tuple[Figure, str]:
    """Carriers at the best end of a direction, a dot per drawing, and how often that is a find.

    Takes ``each`` of a power study, a row per drawing, and ``rows``, their counts. Grey is the
    share at the best end of random directions. Shares of drawings have exact 95% intervals.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4))
    told = []
    random = pd.DataFrame(recorded["each"]).groupby("models")["random"].mean()
    left.plot(random.index, 100 * random, color=NULL_COLOR, linestyle="--", label="random ones")
    for number, side in enumerate(dict.fromkeys(row["strength"] for row in recorded["rows"])):
        style = {"color": EXAMPLE_COLORS[number + 3], "marker": _MARKERS[number], "markersize": 5}
        each = [row for row in recorded["each"] if row["strength"] == side]
        at = [row["models"] * _STEP ** (2 * number) for row in each]
        left.plot(at, [100 * row["share"] for row in each], linestyle="none", **style)
        rows = [row for row in recorded["rows"] if row["strength"] == side]
        at = np.array([row["models"] for row in rows]) * _STEP ** (2 * number)
        label = f"square of {side:g} px"
        left.plot(at, [100 * row["share"] for row in rows], color=style["color"], label=label)
        share = np.array([row["found"] / row["drawings"] for row in rows])
        exact = [binomtest(row["found"], row["drawings"]).proportion_ci() for row in rows]
        spread = np.abs(np.array([(each.low, each.high) for each in exact]).T - share)
        right.errorbar(at, share, spread, **style, capsize=2, label=label)
        counts = [f"{row['found']} of {row['drawings']} with {row['models']}" for row in rows]
        told.append(f"{side:g} px: {', '.join(counts)} models")
    left.set(ylim=(-3, 103), ylabel="carriers at the best end (%)")
    right.set(ylim=(-0.03, 1.03), ylabel="share of drawings, found")
    against_models(left, recorded["rows"])
    against_models(right, recorded["rows"])
    return figure, f"How often a planted square is found. {'; '.join(told)}."


def turned(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Carriers of a feature at the end that shows it best: principal components, turned, random.

    Takes rows of ``study``, ``feature``, ``drawings`` and shares ``none``, ``varimax`` and
    ``random``, means over drawings.
    """
    labels = [f"{row['study'].replace('_', ' ')}: {row['feature']}" for row in rows]
    counts = [row["drawings"] for row in rows]
    labels = [
        f"{said}, {n} drawings" if n > 1 else said for said, n in zip(labels, counts, strict=True)
    ]
    places = np.arange(len(rows))
    figure, ax = plt.subplots(figsize=(7.6, _ROW * len(rows) + _RIM))
    kinds = {
        "random": ("random directions", {"color": NULL_COLOR, "marker": "|", "markersize": 12}),
        "none": ("principal components", {"color": ALGORITHM_COLORS[1], "marker": "o"}),
        "varimax": ("turned by varimax", {"color": EXAMPLE_COLORS[0], "marker": "s"}),
    }
    found = {key: 100 * np.array([row[key] for row in rows]) for key in kinds}
    ax.hlines(places, found["none"], found["varimax"], color=NULL_COLOR, linewidth=1.5)
    for key, (label, style) in kinds.items():
        ax.plot(found[key], places, linestyle="none", label=label, **style)
    row_by_row(ax, labels, "carriers at the best end (%)", width=40)
    ax.set(xlim=(0, 103))
    told = [
        f"{label} {none:.0f}, turned {var:.0f}, random {chance:.0f}"
        for label, none, var, chance in zip(
            labels, found["none"], found["varimax"], found["random"], strict=True
        )
    ]
    return figure, f"Carriers at the best end, in percent: {'; '.join(told)}."


def retrained(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """How well datamodels predict what models do that are trained again along a direction.

    Takes rows of ``study``, ``directions``, ``algorithm``, ``own`` (directions of this algorithm's
    side, or random ones), and correlations over test images: ``correlation``, the lowest of
    several directions, and the ``ceiling``.
    """
    rows = [row for row in rows if "own" in row]
    random = [row["directions"].startswith("random") for row in rows]
    labels = [
        f"{row['study']}: {'random, ' + row['algorithm'] if chance else row['directions']}"
        for row, chance in zip(rows, random, strict=True)
    ]
    labels = [label.replace("_", " ") for label in labels]
    places = np.arange(len(rows))
    figure, ax = plt.subplots(figsize=(7.6, 0.28 * len(rows) + _RIM))
    colors = [NULL_COLOR if chance else INK for chance in random]
    found, lowest, ceiling = (
        np.array([row[key] for row in rows])
        for key in ("correlation", "correlation_lowest", "ceiling")
    )
    ax.hlines(places, lowest, found, color=colors, linewidth=1)
    ax.scatter(found, places, s=30, c=colors, zorder=3)
    for color, label in ((INK, "directions of a comparison"), (NULL_COLOR, "random directions")):
        ax.plot([], [], "o", color=color, label=label)
    ceilings = {"color": TRUTH_COLOR, "marker": "|", "markersize": 11, "markeredgewidth": 2}
    ax.plot(ceiling, places, linestyle="none", label="exact datamodels", **ceilings)
    row_by_row(ax, labels, "correlation of predicted and measured change", width=52)
    told = [
        f"{label} {r:.2f} of {c:.2f}" for label, r, c in zip(labels, found, ceiling, strict=True)
    ]
    told = f"Correlations, and what exact datamodels reach: {', '.join(told)}."
    return figure, told


def effects_of_several(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """What each feature does to each algorithm, at the largest intensity, with 95% intervals.

    Takes rows of ``hypothesis``, ``class_name``, ``algorithm``, ``effect``, ``low``, ``high``.
    """
    features = list(dict.fromkeys(row["hypothesis"] for row in rows))
    names = list(dict.fromkeys(row["algorithm"] for row in rows))
    look = looks(names)
    figure, ax = plt.subplots(figsize=(7.6, 0.2 * len(names) * len(features) + _RIM + 0.5))
    ax.axvline(0, color=INK, linewidth=1)
    told = []
    for number, name in enumerate(names):
        own = [row for row in rows if row["algorithm"] == name]
        at = np.array([features.index(row["hypothesis"]) for row in own], float)
        at += 0.7 * (number + 0.5) / len(names) - 0.35
        ax.hlines(at, [r["low"] for r in own], [r["high"] for r in own], color=look[name]["color"])
        effect = [row["effect"] for row in own]
        ax.plot(effect, at, linestyle="none", markersize=5, label=label_text(name), **look[name])
        parts = [f"{row['hypothesis']} {in_type(row['effect'])}" for row in own]
        told.append(f"{name}: {', '.join(parts)}")
    ax.set_yticks(range(len(features)), [label_text(feature) for feature in features])
    ax.set(xlabel="change of confidence (points)", ylim=(len(features) - 0.5, -0.5))
    ax.grid(True, axis="x")
    legend_below(ax, columns=3)
    return figure, f"Effects in points. {'; '.join(told)}."


def ladder(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """On how many images only one of two models is right, by what the two differ in.

    Takes rows of ``first``, ``second``, ``rung``, ``mean``, ``low`` and ``high``, as shares.
    """
    figure, ax = plt.subplots(figsize=(7.6, 0.28 * len(rows) + _RIM))
    rungs_panel(ax, pd.DataFrame(rows)).set_xlabel(LADDER["inconsistency"])
    told = [f"{row['first']} with {row['second']} {100 * row['mean']:.1f}" for row in rows]
    return figure, f"Only one of two models is right, percent of images: {', '.join(told)}."


def accuracy_by_size(rows: Sequence[Mapping[str, Any]]) -> tuple[Figure, str]:
    """Test accuracy of a linear head on a network's features, by the size of the images.

    Takes rows of ``size``, ``weights`` and ``accuracy``.
    """
    figure, ax = plt.subplots(figsize=(6.4, 3.8))
    told = []
    for number, weights in enumerate(dict.fromkeys(row["weights"] for row in rows)):
        own = sorted((r for r in rows if r["weights"] == weights), key=lambda row: row["size"])
        style = {"color": EXAMPLE_COLORS[number + 3], "marker": _MARKERS[number]}
        right = [100 * row["accuracy"] for row in own]
        ax.plot([row["size"] for row in own], right, label=label_text(weights, 48), **style)
        shares = ", ".join(f"{row['accuracy']:.0%} at {row['size']} px" for row in own)
        told.append(f"{weights}: {shares}")
    ax.set(xlabel="side of the images (px)", ylabel="test accuracy (%)", ylim=(0, 103))
    ax.set_xticks(sorted({row["size"] for row in rows}))
    ax.grid(True, axis="y")
    legend_below(ax, columns=1)
    return figure, f"Accuracy of a linear head. {'; '.join(told)}."


COPY_KINDS = {
    "distinctive_1": "distinctive weights, {}",
    "distinctive_2": "distinctive weights, {}",
    "weights_1": "weights, {}",
    "weights_2": "weights, {}",
    "pixels": "distance in pixels",
}


def copies_found(results: Mapping[str, Any]) -> tuple[Figure, str]:
    """How many of the copies come first, or among the first three, by each kind of nearness.

    Takes a run's results.
    """
    found = results["08_datamodel_applications"]["duplicates"]
    names = [results["02_mask_training"][f"name_{a}"] for a in (1, 2)]
    labels = [said.format(names[key.endswith("2")]) for key, said in COPY_KINDS.items()]
    places = np.arange(len(labels))
    shares = {
        k: 100 * np.array([found[key][k] for key in COPY_KINDS]) for k in ("among_3", "first")
    }
    figure, ax = plt.subplots(figsize=(7.6, _ROW * len(labels) + _RIM))
    ax.barh(places, shares["among_3"], 0.7, color="#BFD9EA", label="among the first three")
    ax.barh(places, shares["first"], 0.7, color=ALGORITHM_COLORS[1], label="first")
    row_by_row(ax, labels, "copies found (%)")
    ax.set(xlim=(0, 100))
    told = [
        f"{label} {first:.0f}, {three:.0f}"
        for label, first, three in zip(labels, shares["first"], shares["among_3"], strict=True)
    ]
    return figure, f"Copies first, and among the first three, in percent: {'; '.join(told)}."


def copies(dataset: Mapping[str, Any], n: int = 10) -> tuple[Figure, str]:
    """Test images, and below each the near-copy of it among the training images.

    Takes the ``dataset`` of a study of generated scenes.
    """
    data = load_dataset(DatasetSpec(**dataset))
    of = data.train.metadata["duplicate_of"].to_numpy()
    chosen = np.flatnonzero(of != NO_COPY)[:n]
    rows = {"test image": data.test.images[of[chosen]], "its copy": data.train.images[chosen]}
    figure, ax = plt.subplots(figsize=(9, 2.2))
    image_rows(ax, rows)
    return figure, f"{len(chosen)} test images and the copy of each among the training images."


def carriers(dataset: Mapping[str, Any], n: int = 8) -> tuple[Figure, str]:
    """Images of the class that each feature marks: half of them carry the feature, half do not.

    Takes the ``dataset`` of a study of generated scenes.
    """
    spec = DatasetSpec(**dataset)
    data = load_dataset(spec)
    truth, rows = data.test.truth, {}
    for feature in truth:
        carried = truth[feature].to_numpy()
        label = np.bincount(data.test.labels[carried]).argmax()
        own = data.test.labels == label
        chosen = [np.flatnonzero(own & which)[: n // 2] for which in (carried, ~carried)]
        name = f"{feature.replace('_', ' ')}, {data.class_names[label]}"
        rows[name] = data.test.images[np.concatenate(chosen)]
    figure, ax = plt.subplots(figsize=(7.6, 0.85 * len(rows) + 0.2))
    image_rows(ax, rows)
    told = ", ".join(rows)
    return figure, f"Generated pictures, four with each feature and four without: {told}."


GALLERY = "transformations_"
FIGURES: dict[str, Callable[[Any], tuple[Figure, str]]] = {
    "lds_by_method": lds_by_method,
    "power": power,
    "similarity": similarity,
    "effects": effects,
    "gaps": gaps,
    "halves": halves,
    "pairs": pairs,
    "planted": planted,
    "turned": turned,
    "retrained": retrained,
    "effects_of_several": effects_of_several,
    "ladder": ladder,
    "accuracy_by_size": accuracy_by_size,
    "copies_found": copies_found,
    "copies": copies,
    "carriers": carriers,
} | {GALLERY + family: partial(gallery, family) for family in FAMILIES}
