"""Page 06: the captions that set subpopulations apart, and the images that they are of."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.io.formats.style import Styler

from mdhelpers.method.captions import FIRST, STABLE
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import CAPTIONS
from mdhelpers.show.explorer import Explorer
from mdhelpers.show.gallery import image_rows
from mdhelpers.show.style import (
    CAPTION_COLOR,
    INK,
    NULL_COLOR,
    comparison_label,
    draw_if,
    label_text,
    need_columns,
)
from mdhelpers.show.subpopulations import explore, members_at
from mdhelpers.stages.data import read_data
from mdhelpers.stages.subpopulations import read_subpopulations

REFERENCES = {
    "all": "against all images",
    "class": "against the same class",
    "end": "against the other end",
}
UNSTABLE_COLOR = "#C4C4C4"
NONE_STABLE = "no caption is stable here"
ARROWS = {"top": "▲", "bottom": "▼"}


def clip_report(run: Run) -> pd.DataFrame | str:
    """How well the small CLIP tells what is in fresh scenes, worst first."""
    report = run.results[CAPTIONS].get("clip")
    if not report:
        return "This run's captions come from another CLIP, or none: nothing to grade."
    table = pd.DataFrame(report["auc"]).sort_values("auc").set_index(["kind", "what"])
    return table.round(3)


def retrieval_report(run: Run) -> pd.DataFrame | str:
    """How often the small CLIP finds a fresh scene's description, beside chance."""
    report = run.results[CAPTIONS].get("clip") or {}
    if "retrieval" not in report:
        return "This run's captions come from another CLIP, or none: nothing to grade."
    table = pd.DataFrame(report["retrieval"])
    table.index = [f"recall@{k}" for k in table["k"]]
    return table[["recall", "chance", "choices", "batches"]]


def first_end(table: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Captions of a comparison's first direction, at the end where its class's are clearest."""
    first = table[table["comparison"] == comparison]
    first = first[first["direction"].isin(first["direction"].head(1))]
    within = first[first["reference"] == "class"].nlargest(1, "z")
    return first[first["end"].isin(within["end"])]


def captioned_images(run: Run, captions: pd.DataFrame) -> Figure:
    """The images of that end, above random ones of their class."""
    rows, fig = None, plt.figure(figsize=(9, 1.8))
    for row in captions.head(1).itertuples():
        test = read_data(run, mmap=True).test
        members = read_subpopulations(run)
        index = members_at(members, row.comparison, row.direction, row.end)[:12]
        others = random_same_class(test.labels, index, 12, seed=0)
        label = f"{row.direction} {ARROWS[row.end]}"
        rows = {label: test.images[index], "random": test.images[others]}
    draw_if(rows, image_rows, fig.subplots())
    return fig


def caption_panels(captions: pd.DataFrame) -> Figure:
    """Its captions against all test images, against the same class and against the other end."""
    fig, axes = plt.subplots(3, 1, figsize=(7, 7), sharex=True)
    for ax, (reference, title) in zip(axes, REFERENCES.items(), strict=True):
        chosen = captions[captions["reference"] == reference]
        none = len(chosen) and not is_stable(chosen).any()
        draw_if(chosen if len(chosen) else None, caption_bars, ax)
        ax.set_title(f"{title}: {NONE_STABLE}" if none else title)
        ax.label_outer()
    return fig


def caption_bars(ax: Axes, captions: pd.DataFrame, *, top_k: int = FIRST) -> Axes:
    """The AUCs, with intervals, of the ``top_k`` captions of largest ``z``, best first.

    Captions that are not found again in halves of the images are grey.
    """
    need_columns(captions, ("caption", "z", "auc", "auc_low", "auc_high", "stability"))
    best = captions.nlargest(top_k, "z")
    rows, stable = np.arange(len(best)), is_stable(best)
    colors = np.where(stable, CAPTION_COLOR, UNSTABLE_COLOR)
    whiskers = [best["auc"] - best["auc_low"], best["auc_high"] - best["auc"]]
    look = {"color": colors, "ecolor": NULL_COLOR, "height": 0.7}
    ax.barh(rows, best["auc"] - 0.5, left=0.5, xerr=whiskers, **look)
    ax.set_yticks(rows, [label_text(c) for c in best["caption"]])
    for label, firm in zip(ax.get_yticklabels(), stable, strict=True):
        label.set_color(INK if firm else NULL_COLOR)
    ax.invert_yaxis()
    ax.axvline(0.5, color=INK, linewidth=1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("AUC with which it tells these images from the others")
    return ax


def is_stable(captions: pd.DataFrame) -> np.ndarray:
    """Which captions random halves of the images agree on, half of the time or more often."""
    return captions["stability"].to_numpy() >= STABLE


def best_captions(table: pd.DataFrame, names: Sequence[str], *, n: int = 3) -> Styler | str:
    """The first ``n`` captions of both ends of every direction, against the same class.

    Behind each stand its AUC and its stability; italics mark those that are not stable. A star
    marks the clearest caption of each comparison, the one with the largest z.
    """
    if table.empty:
        return "Captions are switched off in this study."
    rows = table[table["reference"] == "class"].copy()
    clearest = rows.groupby("comparison")["z"].idxmax()
    stars = np.where(rows.index.isin(clearest), "★ ", "")
    worth = [f" ({a:.2f}, {s:.0%})" for a, s in zip(rows["auc"], rows["stability"], strict=True)]
    rows["caption"] = stars + rows["caption"] + worth
    rows["comparison"] = [comparison_label(name, names) for name in rows["comparison"]]
    rows["unsure"] = np.where(is_stable(rows), "", "font-style: italic")
    keys = ["comparison", "direction", "end"]
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    shown = rows[rows["rank"] <= n].pivot(index=keys, columns="rank", values=["caption", "unsure"])
    found = rows.groupby(keys)["unsure"].agg(lambda look: (look == "").sum())
    stable = [f"{count} stable" if count else NONE_STABLE for count in found.loc[order]]
    said, look = shown["caption"].loc[order], shown["unsure"].loc[order]
    return plain_table(said.assign(stable=stable), look.assign(stable=""))


def plain_table(table: pd.DataFrame, look: pd.DataFrame) -> Styler:
    """A table whose cells have a look (CSS); text of others stays text in it."""
    styled = table.style.apply(lambda _: look, axis=None).format(escape="html")
    styled = styled.format_index(escape="html").set_uuid("captions")
    return styled.set_table_attributes('class="dataframe tex2jax_ignore mathjax_ignore"')


def explore_captions(run: Run, table: pd.DataFrame) -> Explorer:
    """The explorer of page 05, with the first captions of each end against the same class."""
    first = table[(table["reference"] == "class") & (table["rank"] <= FIRST)]
    return explore(run, captions=first)
