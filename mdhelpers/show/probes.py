"""Page 11: the strongest patches, sweeps of factors, and backgrounds."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.show.gallery import Rows, image_rows
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    TRUTH_COLOR,
    draw_if,
    label_text,
    label_texts,
    legend_below,
    nothing_here,
    p_text,
)
from mdhelpers.stages.effect_models import EffectModels
from mdhelpers.stages.probes import (
    GAP,
    SURE,
    SWAPPED,
    StudyProbes,
    judged_images,
    level_names,
    swapped_images,
)

NO_NETWORKS = "A patch is optimised through kept networks of both algorithms; there are none here."
NO_FACTORS = "What these images were made from is not known, so that no factor can be set."
NO_MASKS = "These images have no masks that say where the object is."
MARKERS = {1: "o", 2: "s"}
COLUMNS = 4  # of panels
_WINDOW = 10  # steps that a curve is averaged over
_KINDS = {"patch": "patch", "shuffled": "its pixels shuffled", "feature": ""}


def patch_rows(
    found: StudyProbes,
    models: EffectModels,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    seed: int,
    n: int = 7,
) -> Rows:
    """Each patch by itself, as large as an image, and in some of the images it was judged on."""
    rows, names = {}, label_texts(names, 14)
    for (side, where), each in found.patches.items():
        _, after = judged_images(models, each, seed)
        k, (height, width) = len(each.patch), after.shape[1:3]
        large = each.patch[np.arange(height) * k // height][:, np.arange(width) * k // width]
        rows[f"{names[side - 1]},\n{where}"] = np.concatenate([large[None], after[:n]])
    return rows


def patch_images(
    found: StudyProbes, models: EffectModels, *, names: Sequence[str] = DEFAULT_NAMES, seed: int
) -> Figure:
    """The strongest patches of either algorithm, and test images with them."""
    fig, ax = plt.subplots(figsize=(9, 4.8))
    if not found.patches:
        nothing_here(ax, NO_NETWORKS)
        return fig
    image_rows(ax, patch_rows(found, models, names=names, seed=seed))
    return fig


def patch_progress(ax: Axes, steps: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """The objective in the course of the optimisation, averaged over ten steps.

    ``steps`` has ``side, where, step, objective``.
    """
    if steps.empty:
        return nothing_here(ax, NO_NETWORKS)
    names = label_texts(names)
    for (side, where), rows in steps.groupby(["side", "where"], sort=False):
        line = "-" if where == "anywhere" else "--"
        mean = rows["objective"].rolling(_WINDOW, min_periods=1).mean()
        label = f"{names[side - 1]}, {where}"
        ax.plot(rows["step"], mean, line, color=ALGORITHM_COLORS[side], label=label)
    ax.axhline(0, color=INK, linewidth=1)
    ax.set(xlabel="step", ylabel="difference of the algorithms\n(points)")
    legend_below(ax, columns=2)
    return ax


def patch_panels(found: StudyProbes, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Differences of the algorithms, a panel per side: patches, shuffled ones, and features."""
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 4.2))
    for side, ax in enumerate(axes, 1):
        rows = found.patch_effects
        rows = rows[(rows["side"] == side) & (rows["algorithm"] == 0)]
        draw_if(rows if len(rows) else None, patch_bars, ax, names=names)
    return fig


def patch_bars(ax: Axes, rows: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """One side's differences with intervals, from the top; positive where its algorithm is moved.

    ``rows`` are of algorithm 0 in `mdhelpers.stages.probes.StudyProbes.patch_effects`.
    """
    side, y = rows["side"].iloc[0], np.arange(len(rows))
    sign = 1 if side == 1 else -1
    ends = np.sort([sign * rows["low"], sign * rows["high"]], axis=0)
    middle = sign * rows["effect"].to_numpy()
    colors = {"patch": ALGORITHM_COLORS[side], "shuffled": NULL_COLOR, "feature": TRUTH_COLOR}
    error = {"xerr": np.abs(ends - middle), "ecolor": INK}
    ax.barh(y, middle, color=[colors[kind] for kind in rows["kind"]], **error)
    ax.set_yticks(y, [bar_label(row) for row in rows.itertuples()])
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=1)
    first, second = label_texts(names, 14)[:: int(sign)]
    ax.set(xlabel=f"effect on {first} − {second} (points)")
    ax.set_title(f"→ {label_text(rows['class_name'].iloc[0], 28)}, for {first}")
    ax.grid(True, axis="x")
    return ax


def bar_label(row) -> str:
    """What a row of ``patch_effects`` is of."""
    if row.kind == "feature":
        return label_text(f"{row.name} ({row.intensity:g})", 28)
    return f"{_KINDS[row.kind]}, {row.where}"


def patch_effects(found: StudyProbes, names: Sequence[str]) -> pd.DataFrame | str:
    """Every effect with its interval, patches and shuffled ones first, features below them."""
    if found.patch_effects.empty:
        return NO_NETWORKS
    rows = found.patch_effects
    shown = pd.DataFrame(
        {
            "for": [names[side - 1] for side in rows["side"]],
            "class": rows["class_name"],
            "what": [bar_label(row) for row in rows.itertuples()],
            "algorithm": [algorithm_word(a, names) for a in rows["algorithm"]],
            "cell": [interval(*x) for x in rows[["effect", "low", "high"]].to_numpy()],
        }
    )
    return wide(shown, ["for", "class", "what"], names)


def sweep_panels(
    found: StudyProbes, *, names: Sequence[str] = DEFAULT_NAMES, class_name: str = ""
) -> Figure:
    """A panel per factor: mean confidence in the true class at each level, of a class or of all."""
    table = found.sweeps[found.sweeps["class_name"] == class_name]
    factors = table["factor"].unique()
    lines = max(1, -(-len(factors) // COLUMNS))
    size = {"figsize": (9, 0.6 + 2.2 * lines), "sharey": True, "squeeze": False}
    fig, axes = plt.subplots(lines, COLUMNS, **size)
    for ax in axes.flat[len(factors) :]:
        ax.axis("off")
    for ax, factor in zip(axes.flat, factors, strict=False):
        sweep_curves(ax, table[table["factor"] == factor], names=names)
    for ax in axes[:, 0]:
        ax.set_ylabel("confidence (%)")
    if len(factors):
        handles, labels = axes.flat[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=2)
    else:
        nothing_here(axes.flat[0], NO_FACTORS)
    return fig


def sweep_curves(ax: Axes, rows: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """Mean confidence of both algorithms at each level of one factor.

    ``rows`` has ``factor, place, level, algorithm, confidence, low, high``.
    """
    names = label_texts(names)
    for algorithm, each in rows.groupby("algorithm"):
        shift = (0.02 if algorithm == 2 else -0.02) * len(each)
        error = [each["confidence"] - each["low"], each["high"] - each["confidence"]]
        style = {"color": ALGORITHM_COLORS[algorithm], "marker": MARKERS[algorithm]}
        place = each["place"] + shift
        label = names[algorithm - 1]
        ax.errorbar(place, each["confidence"], np.abs(error), label=label, ms=4, lw=1.2, **style)
    levels = rows.drop_duplicates("place")
    long = max(map(len, levels["level"])) * len(levels) > 18
    turn = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if long else {}
    ax.set_xticks(levels["place"], levels["level"], fontsize=9, **turn)
    ax.set(title=factor_word(rows["factor"].iloc[0]), ylim=(0, 100))
    ax.grid(True, axis="y")
    return ax


def swings(found: StudyProbes, names: Sequence[str], *, n: int = 12) -> pd.DataFrame | str:
    """The factors that move the algorithms most unlike, the largest differences first."""
    if found.swings.empty:
        return NO_FACTORS
    rows = found.swings
    rows = rows.loc[rows["difference"].abs().sort_values(ascending=False, kind="stable").index]
    rows = rows.head(n)
    shown = {
        "factor": rows["factor"].map(factor_word),
        "class": rows["class_name"].replace("", "all"),
        "from": rows["level_1"],
        "to": rows["level_2"],
    }
    for word, what in zip([*names, "difference"], _WHAT, strict=True):
        shown[word] = [interval(*x) for x in rows[[what, f"{what}_low", f"{what}_high"]].to_numpy()]
    shown["p, corrected"] = rows["p_corrected"].map(p_text)
    return pd.DataFrame(shown).set_index(["factor", "class"])


_WHAT = ("effect_1", "effect_2", "difference")


def pairs(found: StudyProbes, names: Sequence[str], *, n: int = 5) -> pd.DataFrame | str:
    """The pairs of factors that surely interact, the largest shares of each algorithm first."""
    if found.pairs.empty:
        return NO_FACTORS
    sure = found.pairs[found.pairs["p_corrected"] < SURE]
    rows = sure.groupby("algorithm").head(n)
    rows = pd.concat([rows[rows["algorithm"] == a] for a in (1, 2, 0)])
    shown = {
        "of": [algorithm_word(a, names) for a in rows["algorithm"]],
        "pair": [pair_word(row) for row in rows.itertuples()],
        "share of the variance (%)": (100 * rows["share"]).round(1),
        "p, corrected": rows["p_corrected"].map(p_text),
    }
    return pd.DataFrame(shown).set_index(["of", "pair"])


def strongest_pair(found: StudyProbes, algorithm: int = 0) -> tuple[str, str]:
    """The factors of the pair with the largest share, of the difference by default."""
    rows = found.pairs[found.pairs["algorithm"] == algorithm]
    return rows["factor_1"].iloc[0], rows["factor_2"].iloc[0]


def pair_panels(found: StudyProbes, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Mean confidence at each combination of the pair that the algorithms treat most unlike."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
    for algorithm, ax in enumerate(axes, 1):
        if found.pairs.empty:
            nothing_here(ax, NO_FACTORS if algorithm == 1 else "")
            continue
        one, two = strongest_pair(found)
        value = found.crossed[f"confidence_{algorithm}"]
        levels = [level_names(found.crossed[name]) for name in (one, two)]
        pair_table(ax, value.groupby(levels, observed=True).mean().unstack())
        ax.set_title(label_texts(names)[algorithm - 1])
    return fig


def pair_table(ax: Axes, table: pd.DataFrame) -> Axes:
    """A two-way table of confidences, 0 to 100, as coloured cells with their numbers."""
    ax.imshow(table, cmap="Greys", vmin=0, vmax=150, aspect="auto")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        ax.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=10)
    turn = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(range(table.shape[1]), label_texts(table.columns, 16), **turn)
    ax.set_yticks(range(table.shape[0]), label_texts(table.index, 16))
    ax.set(xlabel=factor_word(table.columns.name), ylabel=factor_word(table.index.name))
    return ax


def background_images(models: EffectModels, *, seed: int, n: int = 8) -> Figure:
    """A few test images, and the same with their backgrounds taken away and exchanged."""
    fig, ax = plt.subplots(figsize=(9, 5))
    test = models.dataset.test
    if test.foreground is None:
        nothing_here(ax, NO_MASKS)
        return fig
    rows = {name: swapped_images(test, kind, seed)[:n] for name, kind in SWAPPED.items()}
    image_rows(ax, rows)
    return fig


def backgrounds(found: StudyProbes, names: Sequence[str]) -> pd.DataFrame | str:
    """Accuracies with intervals, and their gap."""
    if found.backgrounds.empty:
        return NO_MASKS
    rows = found.backgrounds
    signed = (rows["images"] == GAP) | (rows["algorithm"] == 0)
    cells = zip(rows[["accuracy", "low", "high"]].to_numpy(), signed, strict=True)
    shown = pd.DataFrame(
        {
            "images": rows["images"],
            "algorithm": [algorithm_word(a, names) for a in rows["algorithm"]],
            "cell": [interval(*x, signed=with_sign) for x, with_sign in cells],
        }
    )
    return wide(shown, ["images"], names)


def background_bars(ax: Axes, table: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """Accuracies of both algorithms on each kind of images, and their gap, with intervals."""
    if table.empty:
        return nothing_here(ax, NO_MASKS)
    names = label_texts(names)
    for algorithm, shift in ((1, -0.19), (2, 0.19)):
        rows = table[table["algorithm"] == algorithm]
        error = np.abs(rows[["low", "high"]].to_numpy().T - rows["accuracy"].to_numpy())
        style = {"color": ALGORITHM_COLORS[algorithm], "label": names[algorithm - 1]}
        ax.bar(np.arange(len(rows)) + shift, rows["accuracy"], 0.36, yerr=error, **style)
    ax.set_xticks(np.arange(len(rows)), rows["images"])
    ax.set(ylabel="accuracy (%)")
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def factor_word(name: str) -> str:
    """What readers see of a column of factors."""
    return {"class_name": "class"}.get(name, name.removeprefix("feature_").replace("_", " "))


def pair_word(row) -> str:
    return f"{factor_word(row.factor_1)} × {factor_word(row.factor_2)}"


def algorithm_word(algorithm: int, names: Sequence[str]) -> str:
    return names[algorithm - 1] if algorithm else f"{names[0]} − {names[1]}"


def interval(middle: float, low: float, high: float, *, signed: bool = True) -> str:
    sign = "+" if signed else ""
    return f"{middle:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]"


def wide(shown: pd.DataFrame, keys: list[str], names: Sequence[str]) -> pd.DataFrame:
    """A column per algorithm and one of their difference, rows in their order."""
    table = shown.pivot_table(
        index=keys, columns="algorithm", values="cell", aggfunc="first", sort=False
    )
    table.columns.name = None
    return table[[algorithm_word(a, names) for a in (1, 2, 0)]]
