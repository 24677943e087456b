"""Figures about distinguishing directions: what they explain, their gaps and nulls, grades.

Every function draws on the `Axes` it is given and returns it. Explained variances and gaps come
as fractions and are drawn in percent.

Prose that quotes a run's figures: what was seen, in words that follow from the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import Markdown
from matplotlib.axes import Axes

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, DATAMODELS, SUBPOPULATIONS
from mdhelpers.show.models import algorithm_names
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    COMPARISONS,
    DEFAULT_NAMES,
    INK,
    MARKERS,
    NULL_COLOR,
    compared,
    comparison_label,
    escape_markdown,
    escaped,
    label_text,
    label_texts,
    legend_below,
    need_columns,
)
from mdhelpers.stages.comparison import PAIRS

EVIDENCE_ALPHA = {"strong": 1.0, "weak": 0.5, "none": 0.15}
_LABEL_OFFSETS = [
    (r * np.cos(t), r * np.sin(t)) for r in (10, 14, 19) for t in np.arange(8) * np.pi / 4
]


def explained_variance_scatter(
    ax: Axes,
    one_minus_two,
    two_minus_one,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    labels: bool | tuple[Sequence[int], Sequence[int]] = True,
) -> Axes:
    """How much each direction matters to either algorithm (paper, Figure 3, left).

    Parameters
    ----------
    ax : Axes
    one_minus_two, two_minus_one : array, shape (k, 2)
        `DirectionSet.explained_variance`: fraction of the datamodels' variance that a direction
        explains under algorithms 1 and 2.
    names : pair of str
        What to call algorithms 1 and 2.
    labels : bool, or pair of sequences of k int
        Whether to number the directions, from 1; or their numbers, such as
        `DirectionSet.component` of both sets where they were put in another order.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If an array has not the shape (k, 2).
    """
    names = label_texts(names)
    sets = dict(zip(COMPARISONS, (_percent(one_minus_two), _percent(two_minus_one)), strict=True))
    end = 1.12 * max(points.max(initial=0) for points in sets.values()) or 1.0
    ax.set(xlim=(0, end), ylim=(0, end), aspect="equal")
    ax.plot([0, end], [0, end], color=INK, linewidth=1, linestyle=":")
    for comparison, points in sets.items():
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        label = f"directions of {comparison_label(comparison, names)}"
        marker = MARKERS[comparison]
        ax.scatter(*points.T, s=42, color=color, marker=marker, edgecolor="white", label=label)
    ax.set_xlabel(f"variance explained under {names[0]} (%)")
    ax.set_ylabel(f"variance explained under {names[1]} (%)")
    ax.grid(True)
    legend_below(ax, columns=1)
    if labels:
        points = np.concatenate(list(sets.values()))
        ranks = [range(1, len(p) + 1) for p in sets.values()] if labels is True else labels
        numbers = [str(number) for pair in ranks for number in pair]
        colors = [ALGORITHM_COLORS[compared(c)[0]] for c, p in sets.items() for _ in p]
        _place_labels(ax, points, numbers, colors)
    return ax


def gap_curves(
    ax: Axes,
    gaps: pd.DataFrame,
    null: pd.DataFrame | None = None,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
) -> Axes:
    """The naive gap beside the cross-fitted one, for the real pair and for no difference at all.

    At the left, gaps of directions measured on the datamodels they were found in: an algorithm
    against itself has them too. At the right, the same gaps measured on datamodels of other
    models. Points are means over splits, bars their range.

    Parameters
    ----------
    ax : Axes
    gaps, null : DataFrame
        Columns pair ("1 against 2"; for the null "1 against 1" and "2 against 2"), comparison,
        direction (rank from 1), naive_gap, gap (fractions of variance), split. Without `null`,
        `gaps` holds all pairs.
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
    table = gaps if null is None else pd.concat([gaps, null])
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


def gap_bars(ax: Axes, table: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """The gap of every direction: as found (outline), and on other models (filled).

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        Columns comparison, direction, naive_gap, gap, low, high (the drawn interval; fractions of
        variance). With clean_gap, clean_low and clean_high these are drawn, and ``evidence`` makes
        a bar the paler, the weaker it is. With replication (how well halves of the models find the
        direction again, in [0, 1]) it is written under the direction's number. Rows are drawn in
        their order.
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


def auc_heatmap(ax: Axes, grades: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Axes:
    """How well each direction sorts images with a planted feature from others of their class.

    The better end of a direction counts: ▲ top, ▼ bottom. Chance is a little above 0.5, since
    the better of two ends is taken.

    Parameters
    ----------
    ax : Axes
    grades : DataFrame
        Columns comparison, direction, end ("top" or "bottom"), feature, auc_within_class.
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
    need_columns(grades, ("comparison", "direction", "end", "feature", "auc_within_class"))
    keys = ["comparison", "direction", "feature"]
    best = grades.sort_values("auc_within_class", kind="stable").groupby(keys).tail(1)
    features = list(dict.fromkeys(grades["feature"]))
    index, columns = ["comparison", "direction"], "feature"
    auc = best.pivot(index=index, columns=columns, values="auc_within_class")[features]
    end = best.pivot(index=index, columns=columns, values="end")[features]
    # The palest tenth of the map is nearly white, the darkest hides black text: cells choose.
    ax.imshow(auc.to_numpy(), cmap="BuGn", vmin=0.5, vmax=1.05, aspect="auto")
    for (row, column), value in np.ndenumerate(auc.to_numpy()):
        arrow = {"top": "▲", "bottom": "▼"}.get(end.iat[row, column], "")
        color = "white" if value > 0.87 else INK
        text = f"{value:.2f} {arrow}" if np.isfinite(value) else "–"
        ax.text(column, row, text, ha="center", va="center", color=color, size=9)
    ax.set_xticks(range(len(features)), [label_text(f.replace("_", " "), 24) for f in features])
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(auc)), [str(direction) for _, direction in auc.index])
    _group_rows(ax, [comparison for comparison, _ in auc.index], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("direction")
    return ax


def _percent(explained_variance) -> np.ndarray:
    values = np.asarray(explained_variance, dtype=float)
    if values.ndim != 2 or values.shape[1] != 2:
        raise ValueError(f"Got explained variances of shape {values.shape}; expected (k, 2).")
    return 100 * values


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


def _group_rows(ax, comparisons, names) -> None:
    """Name each comparison at the right of its rows and part it from the next."""
    for comparison in dict.fromkeys(comparisons):
        rows = [i for i, c in enumerate(comparisons) if c == comparison]
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        label = label_text(comparison_label(comparison, names))  # as short as the axis is high
        place = {"transform": ax.get_yaxis_transform(), "va": "center", "rotation": 270}
        ax.text(1.02, np.mean(rows), label, color=color, weight="bold", **place)
        if rows[0]:
            ax.axhline(rows[0] - 0.5, color="white", linewidth=6)


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


def datamodel_quality(run: Run) -> Markdown:
    """How far datamodels can be trusted here."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    parts = [
        f"**{figures[f'lds_{a}']:.2f}** for *{names[a - 1]}* "
        f"[{figures[f'lds_{a}_low']:.2f}, {figures[f'lds_{a}_high']:.2f}]"
        for a in (1, 2)
    ]
    seen = all(figures[f"lds_{a}_low"] > 0 for a in (1, 2))
    verdict = (
        "Both intervals lie above zero: the masks do foretell the margins of models that the "
        "datamodels have not seen."
        if seen
        else "An interval reaches zero: with this few models the datamodels foretell nothing that "
        "can be told from chance."
    )
    return Markdown(f"The LDS is {parts[0]} and {parts[1]}. {verdict}")


def null_comparison(run: Run) -> Markdown:
    """Whether the real pair's cross-fitted gaps stand out from an algorithm's against itself."""
    figures, names = run.results.get(COMPARISON, {}), escaped(algorithm_names(run))
    if f"gap_{PAIRS[0]}" not in figures:
        return Markdown("No models, so no cross-fitting: believe none of these gaps yet.")
    return Markdown(null_verdict(figures, names))


def null_verdict(figures: dict, names) -> str:
    null = [figures[f"null_{a}_against_{a}_{name}"] for a in (1, 2) for name in PAIRS]
    worst, naive = max(row["gap"] for row in null), max(row["naive_gap"] for row in null)
    words = []
    for name in PAIRS:
        real = figures[f"null_1_against_2_{name}"]
        clear = real["gap"] > 2 * max(worst, 0) and real["low"] > worst
        words.append(
            f"*{comparison_label(name, names)}* has {real['gap']:.2f}%, "
            + ("well above" if clear else "**not clearly above**")
            + f" the largest of any algorithm against itself ({worst:.2f}%)"
        )
    return (
        f"Summed over all directions, the naive gap reaches {naive:.1f}% for an algorithm against "
        f"itself, where there is nothing to find. Cross-fitted, {'; '.join(words)}."
    )


def evidence(run: Run) -> Markdown:
    """How many directions of either comparison have strong, weak and no evidence."""
    figures, names = run.results.get(COMPARISON, {}), escaped(algorithm_names(run))
    lines = []
    for name in PAIRS:
        counts = figures.get(f"evidence_{name}")
        if counts is None:
            return Markdown("Without models no evidence can be weighed.")
        n_all = sum(counts.values())
        lines.append(
            f"*{comparison_label(name, names)}*: of {n_all} directions **{counts.get('strong', 0)}"
            f"** have strong evidence, {counts.get('weak', 0)} weak, {counts.get('none', 0)} none."
        )
    return Markdown(" ".join(lines))


def grades(run: Run) -> Markdown:
    """Which planted features were found, by which direction."""
    best = run.results[SUBPOPULATIONS].get("best")
    if not best:
        return Markdown("No truth is known for this data: judge by eye, and by notebook 07.")
    names, lines = escaped(algorithm_names(run)), []
    for row in best:
        feature = escape_markdown(row["feature"])
        lines.append(
            f"- *{comparison_label(row['comparison'], names)}*: **{feature}** is found best "
            f"by direction {row['direction']} ({row['end']}), AUC {row['auc_within_class']:.2f} "
            f"within its class, {row['precision_at_k']:.0%} of the outermost {row['n']} images."
        )
    return Markdown("\n".join(lines))


def captions(run: Run, table: pd.DataFrame | None) -> Markdown:
    """The first caption of the first directions, and whether chance would do as well."""
    if table is None:
        return Markdown("This study has captions switched off.")
    names, lines = escaped(algorithm_names(run)), []
    for name in PAIRS:
        rows = table[(table["comparison"] == name) & (table["reference"] == "class")]
        best = rows.loc[rows["z"].idxmax()]
        caption = escape_markdown(best["caption"])
        lines.append(
            f"- *{comparison_label(name, names)}*: the clearest caption is **{caption}** "
            f"(direction {best['direction']}, {best['end']}, z = {best['z']:.1f})."
        )
    return Markdown("\n".join(lines))


def verdicts(found, *, epsilon: float, delta: float) -> Markdown:
    """Definition 2 for every hypothesis."""
    if not len(found.verdicts):
        return Markdown("The study tests no hypothesis.")
    lines = [f"With ε = {epsilon:g} and δ = {delta:g} points, at the largest intensity:", ""]
    lines += [
        f"- **{escape_markdown(row.hypothesis)}** ({row.outcome}). {escape_markdown(row.text)}"
        for row in found.verdicts.itertuples()
    ]
    return Markdown("\n".join(lines))


def placebo(found) -> Markdown:
    """Whether the placebo moved both algorithms alike."""
    rows = found.table[(found.table["kind"] == "placebo") & (found.table["algorithm"] == 0)]
    if not len(rows):
        return Markdown("")
    worst = rows.loc[rows["effect"].abs().idxmax()]
    alike = ((rows["low"] <= 0) & (rows["high"] >= 0)) | (rows["effect"].abs() < 2)
    word = "moves both algorithms alike" if alike.all() else "**does not move both alike**"
    return Markdown(
        f"The placebo {word}: the largest difference between the algorithms is "
        f"{worst['effect']:+.1f} points [{worst['low']:+.1f}, {worst['high']:+.1f}], in the "
        f"confidence in *{escape_markdown(worst['class_name'])}*."
    )


GAP_COLUMNS = {
    "naive_gap": "naive gap",
    "gap": "cross-fitted",
    "clean_gap": "noise-free (95%)",
    "ratio": "times (at least)",
    "q": "q",
    "replication": "found again",
    "evidence": "evidence",
}


def gaps(found, names) -> pd.DataFrame:
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
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    table = table.set_index(["comparison", "rank", "direction"])
    for name in ("naive_gap", "gap"):
        table[name] = (100 * table[name]).round(2)
    table["replication"] = table["replication"].round(2)
    if "q" in table:
        table["q"] = [f"{q:.2g}" if q >= 1e-4 else "<.0001" for q in table["q"]]
        gaps = zip(*(100 * table[f"clean_{end}"] for end in ("gap", "low", "high")), strict=True)
        table["clean_gap"] = [f"{gap:.1f} ({low:.1f} to {high:.1f})" for gap, low, high in gaps]
        ratios = zip(table["ratio"], table["ratio_low"], strict=True)
        table["ratio"] = [f"{ratio:.1f} ({low:.1f})" for ratio, low in ratios]
    shown = [name for name in GAP_COLUMNS if name in table]
    return table[shown].rename(columns=GAP_COLUMNS)


def null_gaps(run: Run, names) -> pd.DataFrame | str:
    """Gaps summed over directions, of the real pair and of each algorithm against itself."""
    figures = run.results["04_residual_pca"]
    if "gap_1_minus_2" not in figures:
        return "Without models there is no null to compare with."
    pairs = {"1 against 2": f"{names[0]} against {names[1]}"}
    pairs |= {f"{a} against {a}": f"{names[a - 1]} against itself" for a in (1, 2)}
    rows = []
    for pair, label in pairs.items():
        for name in COMPARISONS:
            row = figures[f"null_{pair.replace(' ', '_')}_{name}"]
            which = comparison_label(name, names if pair == "1 against 2" else ("first", "second"))
            values = [row["naive_gap"], row["gap"], row["low"], row["high"]]
            rows.append([label, which, *(round(value, 2) for value in values)])
    columns = ["pair", "comparison", "naive gap, %", "cross-fitted gap, %", "5th pct.", "95th pct."]
    return pd.DataFrame(rows, columns=columns).set_index(["pair", "comparison"])
