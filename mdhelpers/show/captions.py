"""Page 06: the captions that set subpopulations apart, and the images that they are of."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import CAPTIONS
from mdhelpers.show.explorer import Explorer, explorer
from mdhelpers.show.gallery import image_rows
from mdhelpers.show.style import (
    CAPTION_COLOR,
    INK,
    comparison_label,
    draw_if,
    label_text,
    need_columns,
)
from mdhelpers.show.subpopulations import members_at, truth_or_none
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.data import read_data
from mdhelpers.stages.subpopulations import read_subpopulations

REFERENCES = {"all": "against all images", "class": "against the same class"}
ARROWS = {"top": "▲", "bottom": "▼"}


def clip_report(run: Run) -> pd.DataFrame | str:
    """How well the small CLIP tells what is in fresh scenes, worst first."""
    report = run.results[CAPTIONS].get("clip")
    if not report:
        return "This run's captions come from another CLIP, or none: nothing to grade."
    table = pd.DataFrame(report["auc"]).sort_values("auc").set_index(["kind", "what"])
    return table.round(3)


def first_end(table: pd.DataFrame, comparison: str) -> pd.DataFrame:
    """Captions of a comparison's first direction, at the end where its class's are clearest."""
    first = table[table["comparison"] == comparison]
    first = first[first["direction"].isin(first["direction"].head(1))]
    within = first[first["reference"] == "class"].nlargest(1, "z")
    return first[first["end"].isin(within["end"])]


def captioned_images(run: Run, captions: pd.DataFrame) -> Figure:
    """The images that the captions of `first_end` are of, above random ones of their class."""
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
    """The captions of `first_end` against all test images, and against the same class."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for ax, (reference, title) in zip(axes, REFERENCES.items(), strict=True):
        chosen = captions[captions["reference"] == reference]
        draw_if(chosen if len(chosen) else None, caption_bars, ax).set_title(title)
    return fig


def caption_bars(ax: Axes, captions: pd.DataFrame, *, top_k: int = 10) -> Axes:
    """The ``top_k`` captions that set a subpopulation apart, by ``score``, best first."""
    need_columns(captions, ("caption", "score"))
    best = captions.nlargest(top_k, "score")
    ax.barh(np.arange(len(best)), best["score"], color=CAPTION_COLOR, height=0.7)
    ax.set_yticks(np.arange(len(best)), [label_text(c) for c in best["caption"]])
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=1)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("how much better it fits here than elsewhere")
    return ax


def best_captions(table: pd.DataFrame, names: Sequence[str], *, n: int = 3) -> pd.DataFrame | str:
    """The first ``n`` captions of both ends of every direction, against the same class.

    A star marks the clearest caption of each comparison, the one with the largest z.
    """
    if table.empty:
        return "Captions are switched off in this study."
    rows = table[table["reference"] == "class"].copy()
    clearest = rows.groupby("comparison")["z"].idxmax()
    stars = np.where(rows.index.isin(clearest), "★ ", "")
    rows["caption"] = stars + rows["caption"] + [f" (z {z:.1f})" for z in rows["z"]]
    rows["comparison"] = [comparison_label(name, names) for name in rows["comparison"]]
    keys = ["comparison", "direction", "end"]
    order = pd.MultiIndex.from_frame(rows[keys].drop_duplicates())
    return rows[rows["rank"] <= n].pivot(index=keys, columns="rank", values="caption").loc[order]


def explore_captions(run: Run, table: pd.DataFrame) -> Explorer:
    """The explorer of page 05, with the captions of each end against the same class."""
    found, data = read_comparison(run), read_data(run)
    return explorer(
        found.comparison,
        *found.datamodels,
        data.train,
        data.test,
        data.class_names,
        names=run.names,
        truth=truth_or_none(data.test),
        captions=table[table["reference"] == "class"],
    )
