"""Page 08: the uses of datamodels: removal, leakage, maps of clusters, chosen training sets."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from mdhelpers.analyses.removal import Removals, exchange_effects
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import APPLICATIONS
from mdhelpers.show.gallery import datamodel_neighbours, image_rows
from mdhelpers.show.style import (
    EXAMPLE_COLORS,
    INK,
    NULL_COLOR,
    TRUTH_COLOR,
    draw_if,
    label_text,
    legend_below,
    legend_columns,
    need_columns,
)
from mdhelpers.stages.applications import StudyApplications
from mdhelpers.stages.models import StudyModels

SET_COLOR = "#0072B2"
WAYS = {  # colour, marker, label: told apart without colour too
    "random": (NULL_COLOR, "o", "at random"),
    "nearest": ("#E69F00", "s", "nearest in pixels"),
    "datamodels": (SET_COLOR, "D", "by datamodels"),
}
SETTINGS = {"half": "half of the images", "full": "the whole training set"}


def removal_scatter(ax: Axes, table: pd.DataFrame, predicted=(), retrained=()) -> Axes:
    """Predicted against retrained effect of leaving a set out, with intervals over models.

    ``table`` is one setting of `analyses.removal.Removals.table`; ``predicted`` and ``retrained``,
    of one shape, are the effects on all test examples: grey hexagons behind.
    """
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
    ax.set(
        xlabel="predicted effect on the margin (logits)", ylabel="effect found by training (logits)"
    )
    legend_below(ax, columns=2)
    return ax


def flip_dumbbells(ax: Axes, table: pd.DataFrame) -> Axes:
    """Each test example's margin before its set is left out and after; left of zero is wrong.

    ``table`` is one setting of `analyses.removal.Removals.table`.
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
    ax.scatter(sets["foretold"], rows, color=INK, marker="|", s=90, label="predicted", zorder=4)
    ax.set_yticks(rows, [str(size) for size in sets["size"]], fontsize=9)
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
        ax.text(x, y, str(number), ha="center", va="center", size=9, bbox=paint, zorder=4)
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

    ``table`` is one target of `analyses.selection.compare_selections`; ``measure`` is "right" (on
    the target), "right_all" (on all test examples), or "margin".
    """
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
    ax.set(
        xlabel="training images", ylabel=names.get(measure, "mean margin on the target (logits)")
    )
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def removal_panels(removals: Removals) -> Figure:
    """Predicted against found effects, a panel per setting; behind, those on all test images."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 5.6))
    for ax, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        rows = removals.table[removals.table["setting"] == setting]
        predicted, retrained = (
            [effects for name, effects in sorted(removals.effects.items())
             if name.startswith(setting) and name.endswith(what)]
            for what in ("predicted", "retrained")
        )  # fmt: skip
        behind = {"predicted": predicted, "retrained": retrained}
        draw_if(rows if len(rows) else None, removal_scatter, ax, **behind)
        ax.set_title(f"left out of {title}")
    return fig


def flip_panels(removals: Removals) -> Figure:
    """Margins before and after, a panel per setting."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 6.5))
    for ax, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        rows = removals.table[removals.table["setting"] == setting]
        draw_if(rows if len(rows) else None, flip_dumbbells, ax)
        ax.set_title(f"left out of {title}")
    return fig


def image_maps(found: StudyApplications, models: StudyModels) -> Figure:
    """Both algorithms' maps of the test images, framed by class, numbered by cluster."""
    fig, axes = plt.subplots(2, 1, figsize=(8.6, 17.5))
    test, names = models.dataset.test, models.dataset.class_names
    for (_, rows), ax, title in zip(
        found.clusters.groupby("algorithm"), axes, models.names, strict=True
    ):
        places, numbers = rows[["x", "y"]].to_numpy(), rows["cluster"].to_numpy()
        image_map(ax, places, test.images, test.labels, names=names, numbers=numbers)
        ax.set_title(label_text(title))
    return fig


def selection_panels(selections: pd.DataFrame) -> Figure:
    """A row per target: right answers on the target, and on all test images."""
    targets = list(dict.fromkeys(selections["target"])) or [""]
    fig, axes = plt.subplots(len(targets), 2, figsize=(9, 4 * len(targets)), squeeze=False)
    for row, target in zip(axes, targets, strict=True):
        rows = selections[selections["target"] == target] if target else None
        for ax, measure in zip(row, ("right", "right_all"), strict=True):
            draw_if(rows, selection_curves, ax, measure=measure).set_title(label_text(target))
    return fig


def leaked_images(found: StudyApplications, models: StudyModels, *, n: int = 12) -> Figure:
    """The most distinctive pairs of each algorithm; planted copies have a green frame."""
    rows, outlines = {}, {}
    for algorithm, name in enumerate(models.names, 1):
        table = found.leakage[found.leakage["algorithm"] == algorithm].head(n)
        rows[f"{name}:\ntest"] = models.dataset.test.images[table["test"]]
        rows[f"{name}:\ntraining"] = models.dataset.train.images[table["train"]]
        known = table["copy"] if "copy" in table else np.zeros(len(table), bool)
        outlines[f"{name}:\ntraining"] = [TRUTH_COLOR if copy else None for copy in known]
    fig, ax = plt.subplots(figsize=(9, 4))
    image_rows(ax, rows, outlines=outlines)
    return fig


def brittle_neighbours(found: StudyApplications, models: StudyModels, *, top_k: int = 8) -> Figure:
    """The most brittle prediction's test image, and the training images that it rests on."""
    test = most_brittle(found)
    weights = {models.names[found.algorithm - 1]: found.datamodels.weights[test]}
    fig, ax = plt.subplots(figsize=(9, 2))
    images = models.dataset.test.images[test], models.dataset.train.images
    datamodel_neighbours(ax, *images, weights, top_k=top_k)
    return fig


def removals(run: Run) -> pd.DataFrame:
    """Correlation of predicted and retrained effects, and flips, of both settings."""
    rows = {}
    for setting, block in run.results[APPLICATIONS]["removal"].items():
        rows[SETTINGS[setting]] = {
            "test images": block["n_tests"],
            "images left out, median": block["median_size"],
            "correlation": with_ends(block, "correlation"),
            "with random sets": with_ends(block, "correlation_with_controls"),
            "found / predicted": "–" if block["slope"] is None else f"{block['slope']:.2f}",
            "on all test images": f"{block['correlation_on_all_tests']:.2f}",
            "flips predicted": block["flips_foretold"],
            "flips found": block["flips_found"],
            "flips by random sets": block["flips_of_controls"],
        }
    return pd.DataFrame(rows).rename_axis(columns="left out of")


def with_ends(block: dict, name: str) -> str:
    """A figure with its interval; a dash where there were too few test images."""
    if name not in block:
        return "–"
    return f"{block[name]:.2f} [{block[f'{name}_low']:.2f}, {block[f'{name}_high']:.2f}]"


def leakage(found: StudyApplications, models: StudyModels, *, n: int = 8) -> pd.DataFrame:
    """The ``n`` pairs of each algorithm whose weights are most distinctive."""
    table = found.leakage.groupby("algorithm").head(n).copy()
    table["algorithm"] = [models.names[a - 1] for a in table["algorithm"]]
    labels = models.dataset.test.labels[table["test"]]
    table["class"] = [models.dataset.class_names[label] for label in labels]
    table = table[["algorithm", "class", *table.columns.drop(["algorithm", "class"])]]
    names = {"test": "test image", "train": "training image", "distinctive": "distinctive by"}
    names |= {"pixel_rank": "rank by pixels", "copy": "planted copy"}
    return table.round({"weight": 2, "distinctive": 1}).rename(columns=names).set_index("algorithm")


def duplicates(run: Run) -> pd.DataFrame | str:
    """Of planted copies, the share that each way finds among a test image's first neighbours."""
    figures, names = run.results[APPLICATIONS].get("duplicates"), run.names
    if figures is None:
        return "No copies were planted in this study: the pairs above are for the eye."
    ways = {f"distinctive_{a}": f"distinctive weights, {names[a - 1]}" for a in (1, 2)}
    ways |= {f"weights_{a}": f"weights, {names[a - 1]}" for a in (1, 2)}
    ways |= {"pixels": "distance in pixels"}
    ranks = ("first", "among_3")
    rows = {w: [figures["n"], *(figures[way][r] for r in ranks)] for way, w in ways.items()}
    columns = ["planted copies", "come first", "among the first three"]
    return pd.DataFrame(rows, index=columns).T.rename_axis("by").astype({columns[0]: int}).round(2)


def cluster_grades(found: StudyApplications, models: StudyModels) -> pd.DataFrame | str:
    """The best cluster for each planted feature, of both algorithms; from an F1 of 2/3 its own."""
    if not len(found.cluster_grades):
        return "No truth is known for this data: judge the clusters by eye."
    table = found.cluster_grades.copy()
    table["algorithm"] = [models.names[a - 1] for a in table["algorithm"]]
    table["verdict"] = np.where(table["f1"] > 2 / 3, "a cluster of its own", "none of its own")
    names = {"n": "carriers", "size": "images in it", "f1": "F1", "f1_of_class": "F1 of the class"}
    return table.round(2).rename(columns=names).set_index(["feature", "algorithm"]).sort_index()


def selections(found: StudyApplications) -> pd.DataFrame:
    """Share of right answers on each target, and on all test images, in percent.

    The verdict says where datamodels choose better than chance and likeness, intervals apart.
    """
    table = found.selections.copy()
    others = table[table["way"] != "datamodels"].groupby(["target", "size"])["right_high"].max()
    beaten = others.reindex(pd.MultiIndex.from_frame(table[["target", "size"]])).to_numpy()
    better = (table["way"] == "datamodels") & (table["right_low"] > beaten)
    table["verdict"] = np.where(better, "better than both", "")
    table["chosen"] = [WAYS[way][2] for way in table["way"]]
    for name in ("right", "right_all"):
        ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        table[name] = [f"{100 * m:.0f} [{100 * a:.0f}, {100 * b:.0f}]" for m, a, b in ends]
    names = {"right": "right on the target, %", "right_all": "right on all, %", "size": "images"}
    table = table.rename(columns=names).set_index(["target", "images", "chosen"])
    columns = ["right on the target, %", "right on all, %", "verdict"]
    return table[columns].sort_index(level=[0, 1])


def most_brittle(found: StudyApplications) -> int:
    """The test image whose prediction the smallest set flipped; the first where none was tried."""
    tried = found.removals.table.query("kind == 'set' and foretold < 0")
    flipped = tried[tried["found"] < 0]
    rows = flipped if len(flipped) else tried
    return int(rows.loc[rows["size"].idxmin(), "test"]) if len(rows) else 0


def counted_effects(found: StudyApplications, models: StudyModels) -> pd.DataFrame:
    """The sets' effects from masks alone: held-out models, sorted by how much of the set they saw.

    The slope of a margin on the number of a set's members in the mask, times their number, is the
    same Δ in expectation, and no datamodel is asked.
    """
    heldout = models.heldout(found.algorithm)
    margins = heldout.margins
    if (slots := models.slots(heldout)) is not None:
        margins = margins - pd.DataFrame(margins).groupby(slots).transform("mean").to_numpy()
    members = found.removals.members.query("kind == 'set' and setting == 'half'")
    rows = []
    for test, part in members.groupby("test", sort=False):
        held = heldout.masks[:, part["train"]].sum(axis=1)
        if np.ptp(held):
            counted = len(part) * np.polyfit(held, margins[:, test], 1)[0]
            weights = found.datamodels.weights[[test]]
            foretold = exchange_effects(weights, [part["train"].to_numpy()])[0, 0]
            rows.append((test, len(part), foretold, counted))
    columns = ["test image", "images", "predicted by datamodels", "counted on held-out models"]
    return pd.DataFrame(rows, columns=columns).set_index("test image").round(2)
