"""Page 04: how alike the algorithms are, their directions, what these explain, gaps and nulls.

Explained variances and gaps come as fractions and are drawn in percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mdhelpers.method.comparison import COMPARISONS, Comparison
from mdhelpers.method.subpopulations import ENDS
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    MARKERS,
    NULL_COLOR,
    compared,
    comparison_label,
    histogram,
    label_text,
    label_texts,
    legend_below,
    need_columns,
    nothing_here,
    p_text,
    use_word,
)
from mdhelpers.stages.comparison import StudyComparison

EVIDENCE_ALPHA = {"strong": 1.0, "weak": 0.5, "none": 0.15, "too few": 0.15}
GAP_COLUMNS = {
    "naive_gap": "naive gap",
    "gap": "cross-fitted",
    "clean_gap": "noise-free (95%)",
    "ratio": "times (at least)",
    "q": "q",
    "replication": "found again",
    "evidence": "evidence",
    "confirmed": "by retraining",
    "use": "who uses it",
}
_WIDEST = 8.0  # times, at the ends of the axis of `use_intervals`
_LABEL_OFFSETS = [
    (r * np.cos(t), r * np.sin(t)) for r in (10, 14, 19) for t in np.arange(8) * np.pi / 4
]


def cosine_histogram(ax: Axes, cosines: np.ndarray | Mapping[str, np.ndarray]) -> Axes:
    """How alike the two datamodels of a test example are, (n_test,) (paper, Figure 18).

    Several pairs of datamodels may be given by name.
    """
    if isinstance(cosines, Mapping):
        histogram(ax, cosines, "{name}: median {median:.2f}", center=np.median)
    else:
        grey = {"colors": [NULL_COLOR], "center": np.median}
        histogram(ax, {"": cosines}, "median {median:.2f}", **grey)
    ax.set(
        xlabel="cosine between the two datamodels of a test image",
        ylabel="share of test images (%)",
    )
    return ax


def explained_variance_scatter(
    ax: Axes, comparison: Comparison, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How much each direction matters to either algorithm (paper, Figure 3, left).

    Directions are numbered by their component; ``names`` is what to call algorithms 1 and 2.
    """
    names, points = label_texts(names), {}
    for found in (comparison.one_minus_two, comparison.two_minus_one):
        points[found.name] = 100 * np.asarray(found.explained_variance, dtype=float)
    end = 1.12 * max(values.max(initial=0) for values in points.values()) or 1.0
    ax.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    ax.plot([0, end], [0, end], color=INK, linewidth=1, linestyle=":")
    for name, values in points.items():
        look = {"color": ALGORITHM_COLORS[compared(name)[0]], "marker": MARKERS[name]}
        label = f"directions of {comparison_label(name, names)}"
        ax.scatter(*values.T, s=42, edgecolor="white", label=label, **look)
    ax.set_xlabel(f"variance explained under {names[0]} (%)")
    ax.set_ylabel(f"variance explained under {names[1]} (%)")
    ax.grid(True)
    legend_below(ax, columns=1)
    numbers = [str(number) for name in points for number in comparison[name].component]
    colors = [ALGORITHM_COLORS[compared(name)[0]] for name in points for _ in points[name]]
    _place_labels(ax, np.concatenate(list(points.values())), numbers, colors)
    return ax


def gap_curves(
    ax: Axes, table: pd.DataFrame | None, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """The naive gap beside the cross-fitted one, for the real pair and for no difference at all.

    At the left, gaps of directions measured on the datamodels they were found in: an algorithm
    against itself has them too. At the right, the same gaps measured on datamodels of other
    models. Points are means over splits, bars their range.

    Parameters
    ----------
    ax : Axes
    table : DataFrame, or None where there were no models to split
        Columns pair ("1 against 2"; for the null "1 against 1" and "2 against 2"), comparison,
        direction (rank from 1), naive_gap, gap (fractions of variance), split.
    names : pair of str
        What to call algorithms 1 and 2.
    """
    if table is None:
        return nothing_here(ax)
    names = label_texts(names)
    need_columns(table, ("pair", "comparison", "direction", "naive_gap", "gap", "split"))
    n_directions, real = int(table["direction"].max()), table["pair"] == "1 against 2"
    series = [*_real_series(table[real], names), *_null_series(table[~real], names)]
    shift = n_directions + 1.5
    for number, (frame, style) in enumerate(series):
        for start, column in ((0, "naive_gap"), (shift, "gap")):
            x_offset = start + 0.12 * (number - (len(series) - 1) / 2)
            _mean_and_range(ax, frame, column, x_offset, {**style, "zorder": 10 - number})
            style = {**style, "label": None}
    ax.axhline(0, color=INK, linewidth=1)
    ax.axvline((shift + n_directions + 1) / 2, color="#CCCCCC", linewidth=1)
    ranks = np.arange(1, n_directions + 1)
    ax.set_xticks([*ranks, *(ranks + shift)], [*ranks, *ranks])
    for start, text in ((0, "naive: same models"), (shift, "cross-fitted: other models")):
        middle = start + (n_directions + 1) / 2
        place = {"transform": ax.get_xaxis_transform(), "ha": "center", "va": "bottom"}
        ax.text(middle, 1.02, text, weight="bold", **place)
    ax.set(xlabel="direction, by rank", ylabel="gap in variance explained (%)")
    legend_below(ax, columns=2)
    return ax


def gap_bars(ax: Axes, table: pd.DataFrame | None, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """The gap of every direction: as found (outline), and on other models (filled).

    Parameters
    ----------
    ax : Axes
    table : DataFrame, or None where there were no models to split
        Columns comparison, direction, naive_gap, gap, low, high (the drawn interval; fractions of
        variance). With clean_gap, clean_low and clean_high these are drawn, and ``evidence`` makes
        a bar the paler, the weaker it is. With replication (how well halves of the models find the
        direction again, in [0, 1]) it is written under the direction's number. Rows are drawn in
        their order.
    names : pair of str
        What to call algorithms 1 and 2.
    """
    if table is None:
        return nothing_here(ax)
    names = label_texts(names)
    need_columns(table, ("comparison", "direction", "naive_gap", "gap", "low", "high"))
    start, ticks, tick_labels = 0.0, [], []
    prefix, kind = ("clean_", "noise-free") if "clean_gap" in table else ("", "cross-fitted")
    for comparison, rows in table.groupby("comparison", sort=True):
        x = start + np.arange(1, len(rows) + 1)
        gap, low, high = (100 * rows[prefix + c].to_numpy() for c in ("gap", "low", "high"))
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        naive = "naive" if start == 0 else None
        outline = {"fill": False, "edgecolor": NULL_COLOR, "linewidth": 1.2}
        ax.bar(x, 100 * rows["naive_gap"], 0.84, label=naive, **outline)
        bars = np.clip([gap - low, high - gap], 0, None)
        label = f"{kind}, {comparison_label(comparison, names)}"
        drawn = ax.bar(x, gap, 0.56, color=color, label=label, yerr=bars, ecolor=INK, capsize=3)
        for bar, word in zip(drawn, rows.get("evidence", ()), strict=False):
            bar.set_alpha(EVIDENCE_ALPHA[word])
        ticks += list(x)
        tick_labels += _direction_labels(rows)
        start = x[-1] + 1
    ax.axhline(0, color=INK, linewidth=1)
    ax.set_xticks(ticks, tick_labels)
    replicated = "replication" in table
    below = " (below it: replication)" if replicated else ""
    ax.set(xlabel=f"direction{below}", ylabel="gap in variance explained (%)")
    legend_below(ax, columns=3, tick_lines=1 + replicated)
    for handle in ax.get_legend().legend_handles:
        handle.set_alpha(1)
    return ax


def _real_series(gaps, names):
    for comparison, frame in gaps.groupby("comparison"):
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        label = comparison_label(comparison, names)
        yield frame, {"color": color, "marker": MARKERS[comparison], "label": label}


def _null_series(null, names):
    for number, (pair, frame) in enumerate(null.groupby("pair")):
        color, marker = (NULL_COLOR, "^") if number == 0 else ("#B5B5B5", "v")
        label = f"null: {names[int(pair[0]) - 1]} ∖ itself"
        yield frame, {"color": color, "marker": marker, "label": label, "linestyle": "--"}


def _mean_and_range(ax, frame, column, x_offset, style) -> None:
    by_direction = 100 * frame.groupby("direction")[column].agg(["mean", "min", "max"])
    mean, low, high = by_direction.to_numpy().T
    bars = np.clip([mean - low, high - mean], 0, None)
    x = by_direction.index.to_numpy() + x_offset
    ax.errorbar(x, mean, yerr=bars, markersize=5, linewidth=1.6, elinewidth=1, **style)


def _direction_labels(rows) -> list[str]:
    numbers = rows["direction"].astype(str)
    if "replication" not in rows:
        return list(numbers)
    found_again = [f"{r:.2f}".removeprefix("0") for r in rows["replication"]]
    return [f"{n}\n{r}" for n, r in zip(numbers, found_again, strict=True)]


def _place_labels(ax, points, texts, colors) -> None:
    """Write each text beside its point where it hides fewest other points and texts."""
    ax.figure.draw_without_rendering()  # the layout decides where points lie
    per_point = 72 / ax.figure.dpi
    taken = [tuple(xy) for xy in ax.transData.transform(points) * per_point]
    own = list(taken)
    for (x, y), text, color, point in zip(own, texts, colors, points, strict=True):
        offset = min(_LABEL_OFFSETS, key=lambda o: _crowding(x + o[0], y + o[1], taken))
        taken.append((x + offset[0], y + offset[1]))
        style = {"color": color, "size": 10, "ha": "center", "va": "center", "weight": "bold"}
        ax.annotate(text, point, xytext=offset, textcoords="offset points", **style)


def _crowding(x: float, y: float, taken) -> float:
    """How near the taken places come, in points; those beyond 13 do not matter."""
    distances = np.hypot(*(np.array(taken) - (x, y)).T)
    return float(np.sum(np.clip(13 - distances, 0, None) ** 2))


def gaps(found: StudyComparison, *, names: Sequence[str]) -> pd.DataFrame:
    """Every direction's gaps, in percent of the datamodels' variance, in the order of evidence."""
    if found.gaps is None:
        rows = [
            (comparison_label(name, names), component, 100 * gap)
            for name in COMPARISONS
            for component, gap in zip(
                found.comparison[name].component, found.comparison[name].naive_gap, strict=True
            )
        ]
        return pd.DataFrame(rows, columns=["comparison", "direction", "naive gap, %"]).round(2)
    table = found.gaps.copy()
    if found.uses is not None and len(found.uses):
        words = main_uses(found.uses).set_index(["comparison", "direction"])["use"]
        keys = list(zip(table["comparison"], table["direction"], strict=True))
        table["use"] = [use_word(words[key], key[0], names) for key in keys]
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    table = table.set_index(["comparison", "rank", "direction"])
    for name in ("naive_gap", "gap"):
        table[name] = (100 * table[name]).round(2)
    table["replication"] = table["replication"].round(2)
    if "q" in table:
        table["q"] = table["q"].map(p_text)
        gaps = zip(*(100 * table[f"clean_{end}"] for end in ("gap", "low", "high")), strict=True)
        table["clean_gap"] = [
            "–" if np.isnan(gap) else f"{gap:.1f} ({low:.1f} to {high:.1f})"
            for gap, low, high in gaps
        ]
        ratios = zip(table["ratio"], table["ratio_low"], strict=True)
        table["ratio"] = [
            "–" if np.isnan(ratio) else f"{ratio:.1f} ({low:.1f})" for ratio, low in ratios
        ]
    shown = [name for name in GAP_COLUMNS if name in table]
    return table[shown].rename(columns=GAP_COLUMNS)


def main_uses(uses: pd.DataFrame) -> pd.DataFrame:
    """The row of each direction's top and of the class that holds most of it."""
    tops = uses[uses["end"] == ENDS[0]]
    return tops.drop_duplicates(["comparison", "direction"]).reset_index(drop=True)


def use_intervals(
    ax: Axes,
    uses: pd.DataFrame | None,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    alike_within: float = 1.5,
) -> Axes:
    """How many times more each algorithm uses what marks each direction's subpopulation.

    A row is a direction, in the order of evidence; the point says how many times longer the
    contrast datamodel of the first-named algorithm is, the bar is its 95% interval. ``uses`` is as
    :class:`mdhelpers.stages.comparison.StudyComparison` has it.
    """
    if uses is None or not len(uses):
        return nothing_here(ax, "too few models, or initialisations, to tell")
    need_columns(uses, ("comparison", "direction", "end", "times", "times_low", "times_high"))
    short, rows = [label_text(name, 12) for name in names], main_uses(uses)
    names = label_texts(names)
    ax.axvspan(1 / alike_within, alike_within, color=NULL_COLOR, alpha=0.15, linewidth=0)
    ax.axvline(1, color=INK, linewidth=1)
    left, right = 1 / _WIDEST, _WIDEST
    for place, row in enumerate(rows.itertuples()):
        # Both comparisons share the axis: to the right is the first algorithm of the study.
        turned = row.comparison == COMPARISONS[1]
        ends = np.array([row.times_low, row.times, row.times_high])
        with np.errstate(divide="ignore"):
            ends = np.clip(1 / ends[::-1] if turned else ends, left, right)
        color = ALGORITHM_COLORS[compared(row.comparison)[0]]
        faint = 0.35 if row.use == "too_few" else 1.0
        ax.plot(ends[[0, 2]], [place, place], color=color, linewidth=2, alpha=faint)
        marker = MARKERS[row.comparison]
        style = {"color": color, "markeredgecolor": "white", "alpha": faint, "linestyle": "none"}
        ax.plot(ends[1], place, marker, **style)
        word = use_word(row.use, row.comparison, short)
        ax.text(1.02, place, word, transform=ax.get_yaxis_transform(), va="center", size=9)
    ax.set_yticks(range(len(rows)), [f"#{direction}" for direction in rows["direction"]], size=9)
    ax.set_ylabel("direction")
    ticks = {0.25: f"{short[1]} × 4", 0.5: "× 2", 1: "alike", 2: "× 2", 4: f"{short[0]} × 4"}
    ax.set(xscale="log", xlim=(left, right), ylim=(len(rows) - 0.5, -0.5))
    ax.set_xticks(list(ticks), list(ticks.values()))
    ax.minorticks_off()
    for name in dict.fromkeys(rows["comparison"]):
        color = ALGORITHM_COLORS[compared(name)[0]]
        label = f"directions of {comparison_label(name, names)}"
        ax.plot([], [], MARKERS[name], color=color, label=label)
    legend_below(ax, columns=1)
    return ax


def null_gaps(run: Run) -> pd.DataFrame | str:
    """Gaps summed over directions, of the real pair and of each algorithm against itself.

    The real pair's is *well above* where it is twice the largest null, and its fifth percentile
    lies above that.
    """
    figures, names = run.results[COMPARISON], run.names
    if f"gap_{COMPARISONS[0]}" not in figures:
        return "Without models there is no null to compare with."
    pairs = {"1 against 2": f"{names[0]} against {names[1]}"}
    pairs |= {f"{a} against {a}": f"{names[a - 1]} against itself" for a in (1, 2)}
    summed = {
        (pair, name): figures[f"null_{pair.replace(' ', '_')}_{name}"]
        for pair in pairs
        for name in COMPARISONS
    }
    worst = max(row["gap"] for (pair, _), row in summed.items() if pair != "1 against 2")
    rows = []
    for (pair, name), row in summed.items():
        values = [round(row[key], 2) for key in ("naive_gap", "gap", "low", "high")]
        which, verdict = comparison_label(name, ("first", "second")), ""
        if pair == "1 against 2":
            clear = row["gap"] > 2 * max(worst, 0) and row["low"] > worst
            which = comparison_label(name, names)
            verdict = "well above the null" if clear else "not clearly above the null"
        rows.append([pairs[pair], which, *values, verdict])
    columns = ["pair", "comparison", "naive gap, %", "cross-fitted gap, %", "5th pct.", "95th pct."]
    table = pd.DataFrame(rows, columns=[*columns, "verdict"])
    return table.set_index(columns[:2])
