"""Page 06: captions, and the images that they are of."""

from __future__ import annotations

import pandas as pd

from mdhelpers.data.datasets import Split
from mdhelpers.method.subpopulations import (
    random_same_class,
)
from mdhelpers.runs.run import Run
from mdhelpers.show.gallery import Rows
from mdhelpers.show.style import (
    comparison_label,
    draw_if,
)
from mdhelpers.show.subpopulations import members_at


def clip_report(run: Run) -> pd.DataFrame | str:
    """How well the small CLIP tells what is in fresh scenes, worst first."""
    report = run.results["06_clip_captioning"].get("clip")
    if not report:
        return "This run's captions come from another CLIP, or none: nothing to grade."
    table = pd.DataFrame(report["auc"]).sort_values("auc").set_index(["kind", "what"])
    return table.round(3)


def best_captions(table: pd.DataFrame | None, names, *, n: int = 3) -> pd.DataFrame | str:
    """The first ``n`` captions of both ends of every direction, against the same class."""
    if table is None:
        return "Captions are switched off in this study."
    rows = table[(table["reference"] == "class") & (table["rank"] <= n)].copy()
    rows["comparison"] = [comparison_label(name, names) for name in rows["comparison"]]
    rows["caption"] = [f"{c} (z {z:.1f})" for c, z in zip(rows["caption"], rows["z"], strict=True)]
    keys = ["comparison", "direction", "end"]
    order = rows[keys].drop_duplicates()
    wide = rows.pivot(index=keys, columns="rank", values="caption")
    return wide.loc[[tuple(row) for row in order.itertuples(index=False)]]


def draw_captions(axes, captions: pd.DataFrame | None, draw) -> None:
    """One end's captions against all test images, and against the same class."""
    titles = {"all": "against all images", "class": "against the same class"}
    for ax, (reference, title) in zip(axes, titles.items(), strict=True):
        chosen = None if captions is None else captions[captions["reference"] == reference]
        draw_if(chosen, draw, ax).set_title(title)


def captioned_end(table: pd.DataFrame | None, directions) -> pd.DataFrame | None:
    """Captions of the first direction, at the end whose class-specific captions are clearest."""
    if table is None:
        return None
    first = table[
        (table["comparison"] == directions.name) & (table["direction"] == directions.component[0])
    ]
    within = first[first["reference"] == "class"]
    return first[first["end"] == within.loc[within["z"].idxmax(), "end"]]


def within_class(table: pd.DataFrame | None) -> pd.DataFrame | None:
    """The captions that set a subpopulation apart from its own class."""
    return None if table is None else table[table["reference"] == "class"]


def captioned_rows(captions: pd.DataFrame | None, members, test: Split) -> Rows | None:
    """The images that `captioned_end`'s captions are about, above random ones of their class."""
    if captions is None:
        return None
    row = captions.iloc[0]
    index = members_at(members, row["comparison"], row["direction"], row["end"])[:12]
    others = random_same_class(test.labels, index, 12, seed=0)
    label = f"{row['direction']} {'▲' if row['end'] == 'top' else '▼'}"
    return {label: test.images[index], "random": test.images[others]}
