"""Which images the notebooks show: rows for `gallery.image_rows`, chosen, not drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.data.datasets import Split
from mdhelpers.method.subpopulations import (
    ENDS,
    match_features,
    most_influenced,
    random_same_class,
    relative_influence,
    used_by,
)
from mdhelpers.show.gallery import Rows
from mdhelpers.show.style import COMPARISONS, comparison_label


def truth_or_none(split: Split) -> pd.DataFrame | None:
    """The planted features, or None where no truth is known."""
    return split.truth if len(split.truth.columns) else None


def members_at(members: pd.DataFrame, comparison: str, direction: int, end: str) -> np.ndarray:
    """Indices of the test images at one end of a direction, outermost first."""
    chosen = members[
        (members["comparison"] == comparison)
        & (members["direction"] == direction)
        & (members["end"] == end)
    ]
    return chosen.sort_values("rank")["index"].to_numpy()


def subpopulation_rows(
    members: pd.DataFrame, directions, test: Split, *, n_directions: int = 3, n: int = 12
) -> Rows:
    """Both ends of the first directions, each above random images of the same classes."""
    rows = {}
    for direction in directions.component[:n_directions]:
        for end, arrow in (("top", "▲"), ("bottom", "▼")):
            index = members_at(members, directions.name, direction, end)[:n]
            others = random_same_class(test.labels, index, n, seed=int(direction))
            rows[f"{direction} {arrow}"] = test.images[index]
            rows[f"random as {direction} {arrow}"] = test.images[others]
    return rows


def relative_influence_rows(compared, members, train: Split, names, *, n: int = 12) -> Rows:
    """Training images that pull on the first subpopulations under one algorithm only (App. D)."""
    rows = {}
    for name in COMPARISONS:
        direction = compared.comparison[name].component[0]
        index = members_at(members, name, direction, "top")
        order = np.argsort(relative_influence(*compared.datamodels, index))
        label = comparison_label(name, names)
        rows[f"{label} #{direction}\nmore under {names[0]}"] = train.images[order[::-1][:n]]
        rows[f"{label} #{direction}\nmore under {names[1]}"] = train.images[order[:n]]
    return rows


def influenced_rows(compared, members, test: Split, names, *, n: int = 12) -> Rows:
    """Test images that the first subpopulations' training images pull on most (App. D).

    The training images are those that matter more to the subpopulation under the algorithm that is
    named first; a row for each algorithm shows what they influence most there.
    """
    rows = {}
    for algorithm, name in enumerate(COMPARISONS, 1):
        direction = compared.comparison[name].component[0]
        index = members_at(members, name, direction, "top")
        train = used_by(algorithm, *compared.datamodels, index, n=n)
        label = f"{comparison_label(name, names)} #{direction}"
        for datamodels, own in zip(compared.datamodels, names, strict=True):
            images = test.images[most_influenced(datamodels, train, n=n)]
            rows[f"{label}\npulled under {own}"] = images
    return rows


def matches(found, names) -> pd.DataFrame | str:
    """The planted feature that each end of each direction picks out best.

    A cell has the feature, its AUC within class (★ from 0.9 on), over all images, and the share of
    carriers among as many outermost images as there are carriers.
    """
    if found.grades is None:
        return "No truth is known for this data: nothing to match."
    best = match_features(found.grades)
    best["comparison"] = [comparison_label(name, names) for name in best["comparison"]]
    best["cell"] = [
        f"{row.feature} {'★ ' if row.matched else ''}{row.auc_within_class:.2f}, {row.auc:.2f}, "
        f"{row.precision_at_k:.0%}"
        for row in best.itertuples()
    ]
    keys = ["comparison", "direction"]
    table = best.set_index([*keys, "end"])["cell"].unstack("end")
    order = pd.MultiIndex.from_frame(best[keys].drop_duplicates())
    return table.loc[order, list(ENDS)].rename_axis(columns=None)
