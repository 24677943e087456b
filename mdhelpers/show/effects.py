"""Page 07: transformations, and what they do to the models of both algorithms."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.base.records import written
from mdhelpers.data.transforms import TRANSFORMS, transform_images
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import EFFECTS, SUBPOPULATIONS
from mdhelpers.show.gallery import Rows, image_rows
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    comparison_label,
    label_text,
    label_texts,
    legend_below,
    need_columns,
    use_word,
)
from mdhelpers.show.subpopulations import members_at
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.effects import StudyEffects
from mdhelpers.stages.models import StudyModels
from mdhelpers.stages.subpopulations import read_subpopulations

MARKERS = {1: "o", 2: "s"}
ALIKE = 2  # points by which a placebo may move one algorithm more than the other


def transformation_rows(hypotheses, placebo, images: np.ndarray, *, seed: int, n: int = 2) -> Rows:
    """A few images untouched and under each transformation, intensity by intensity."""
    rows = {}
    cases = [(h.get("name") or h["transformation"], h) for h in hypotheses]
    for label, case in [*cases, ("placebo", placebo)]:
        name = case["transformation"]
        changed = [transform_images(name, images, x, seed=seed)[:n] for x in case["intensities"]]
        for image, steps in enumerate(np.stack([images[:n], *changed], axis=1)):
            unit = f"\n({TRANSFORMS[name].intensity_unit})" if image == 0 else "\u200b" * image
            rows[label + unit] = steps
    return rows


def transformation_images(hypotheses, placebo, images: np.ndarray, *, seed: int) -> Figure:
    """The figure of `transformation_rows`."""
    fig, ax = plt.subplots(figsize=(9, 6.5))
    image_rows(ax, transformation_rows(hypotheses, placebo, images, seed=seed))
    return fig


def effect_panels(table: pd.DataFrame, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """The effects of stage 07, one panel a hypothesis; its placebo in grey."""
    n = max(1, table["hypothesis"].nunique())
    fig, axes = plt.subplots(n, 1, figsize=(5.6, 3.6 * n), squeeze=False)
    for ax, (hypothesis, rows) in zip(
        axes.flat, table.groupby("hypothesis", sort=False), strict=False
    ):
        _hypothesis_curves(ax, hypothesis, rows, names)
    return fig


def _hypothesis_curves(ax: Axes, hypothesis: str, rows: pd.DataFrame, names) -> None:
    single = rows[rows["algorithm"] > 0]
    feature, placebo = (single[single["kind"] == kind] for kind in ("feature", "placebo"))
    effect_curves(ax, feature, names=names, placebo=placebo)
    target = rows["class_name"].iloc[0]
    ax.set_title(f"{label_text(hypothesis, 28)} → {label_text(target, 28)}")


def effect_curves(
    ax: Axes,
    table: pd.DataFrame,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    placebo: pd.DataFrame | None = None,
) -> Axes:
    """Effect of a transformation on the confidence in a class (paper, Figure 4, right).

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        ``intensity, algorithm, effect, low, high`` (percentage points) of one transformation.
    names : pair of str
    placebo : DataFrame, optional
        The same for a feature that was never planted; drawn in grey.

    Raises
    ------
    ValueError
        If a column is missing or an algorithm has two effects at one intensity.
    """
    ax.axhline(0, color=INK, linewidth=1)
    for frame, line, prefix in ((table, "-", ""), (placebo, "--", "placebo, ")):
        if frame is None:
            continue
        need_columns(frame, ("intensity", "algorithm", "effect", "low", "high"))
        if frame.duplicated(["intensity", "algorithm"]).any():
            raise ValueError(
                "An algorithm has several effects at one intensity; "
                "choose the rows of one transformation and one class first."
            )
        for algorithm, rows in frame.sort_values("intensity").groupby("algorithm"):
            color = NULL_COLOR if prefix else ALGORITHM_COLORS[algorithm]
            label = prefix + label_texts(names)[algorithm - 1]
            band = rows["intensity"], rows["low"], rows["high"]
            ax.fill_between(*band, color=color, alpha=0.2, lw=0)
            style = {"color": color, "marker": MARKERS[algorithm], "zorder": 2 if prefix else 3}
            ax.plot(rows["intensity"], rows["effect"], line, label=label, **style)
    ax.set(xlabel="intensity", ylabel="change of confidence (points)")
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def effects(found: StudyEffects, names: Sequence[str]) -> pd.DataFrame | str:
    """Every effect in percentage points with its interval, one row an intensity.

    At a hypothesis' largest intensity stands Definition 2's verdict; beside the placebo, whether
    it moves both algorithms alike: with an interval of the difference about 0, or hardly at all.
    """
    if found.table.empty:
        return "The study tests no hypothesis."
    shown = found.table.copy()
    labels = {0: f"{names[0]} − {names[1]}", 1: names[0], 2: names[1]}
    shown["algorithm"] = shown["algorithm"].map(labels)
    shown["cell"] = [
        f"{row.effect:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in shown.itertuples()
    ]
    keys = ["hypothesis", "kind", "intensity"]
    wide = shown.pivot(index=keys, columns="algorithm", values="cell")
    wide = wide[[labels[1], labels[2], labels[0]]]
    outcomes = found.verdicts.set_index("hypothesis")["outcome"]
    verdicts = {}
    for row in found.table[found.table["algorithm"] == 0].itertuples():
        key, alike = (row.hypothesis, row.kind), row.low <= 0 <= row.high or abs(row.effect) < ALIKE
        if row.kind == "placebo":
            verdicts[(*key, row.intensity)] = "alike" if alike else "not alike"
        elif row.intensity == wide.loc[key].index.max():
            verdicts[(*key, row.intensity)] = outcomes[row.hypothesis]
    wide["verdict"] = pd.Series(verdicts).reindex(wide.index).fillna("")
    return wide


def landing(run: Run, models: StudyModels, found: StudyEffects) -> Figure:
    """The clearest finding in one picture: a subpopulation beside its class, and the effect.

    The subpopulation is that of the first direction of the comparison whose algorithm the
    hypothesis with the largest difference names. Saved as ``figures/landing.png``.
    """
    table = found.table
    single = table[(table["algorithm"] == 0) & (table["kind"] == "feature")]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1.5, 1])
    if len(single):
        row = single.loc[single["effect"].abs().idxmax()]
        name = "1_minus_2" if row["effect"] > 0 else "2_minus_1"
        _landing_images(left, run, models, name, row["hypothesis"])
        chosen = table[table["hypothesis"] == row["hypothesis"]]
        _hypothesis_curves(right, row["hypothesis"], chosen, models.names)
    (run.path / "figures").mkdir(exist_ok=True)
    with written(run.path / "figures" / "landing.png") as unfinished:
        fig.savefig(unfinished, format="png", dpi=160)
    run.stage(EFFECTS, {}).add_output("figures/landing.png")
    return fig


def _landing_images(ax: Axes, run: Run, models: StudyModels, name: str, hypothesis: str) -> None:
    test = models.dataset.test
    direction, end = landing_direction(run, name, hypothesis)
    index = members_at(read_subpopulations(run), name, direction, end)[:14]
    others = random_same_class(test.labels, index, 14, seed=1)
    found, random = test.images[index], test.images[others]
    rows = {"at its end": found[:7], "": found[7:]}
    rows |= {"same class,\nat random": random[:7], " ": random[7:]}
    image_rows(ax, rows)
    names = label_texts(models.names)
    said = [f"{comparison_label(name, names)} #{direction}"]
    uses = read_comparison(run).uses
    if uses is not None and len(uses):
        at = (uses["comparison"] == name) & (uses["direction"] == direction) & (uses["end"] == end)
        said += [use_word(word, name, names) for word in uses["use"][at].head(1)]
    ax.set_title(": ".join(said))


def landing_direction(run: Run, name: str, hypothesis: str) -> tuple[int, str]:
    """The graded direction of the feature on scenes; elsewhere the first in order of evidence."""
    for row in run.results[SUBPOPULATIONS].get("best", []):
        if row["comparison"] == name and row["feature"] == hypothesis:
            return row["direction"], row["end"]
    return int(read_comparison(run).comparison[name].component[0]), "top"
