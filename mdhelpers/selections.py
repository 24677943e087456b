"""Which images the notebooks show: rows for `gallery.image_rows`, chosen, not drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.datasets import Split
from mdhelpers.influences import most_influenced, used_by
from mdhelpers.style import COMPARISONS, comparison_label
from mdhelpers.subpopulations import random_same_class, relative_influence
from mdhelpers.transforms import TRANSFORMS, transform_images

Rows = dict[str, np.ndarray]


def class_samples(split: Split, class_names, *, n: int = 12) -> Rows:
    """The first ``n`` images of each class that carry no planted feature."""
    plain = ~split.truth.any(axis=1).to_numpy()
    return {
        name: split.images[np.flatnonzero((split.labels == label) & plain)[:n]]
        for label, name in enumerate(class_names)
    }


def feature_samples(split: Split, class_names, *, n: int = 12) -> Rows:
    """Carriers of each planted feature above others of the same class; classes where none is."""
    if not len(split.truth.columns):
        return class_samples(split, class_names, n=n)
    rows = {}
    for feature in split.truth.columns:
        carries = split.truth[feature].to_numpy()
        label = np.bincount(split.labels[carries]).argmax()
        name, others = class_names[label], (split.labels == label) & ~carries
        rows[f"{name}, {feature}"] = split.images[np.flatnonzero(carries)[:n]]
        rows[f"{name}, none"] = split.images[np.flatnonzero(others)[:n]]
    return rows


def truth_or_none(split: Split) -> pd.DataFrame | None:
    """The planted features, or None where no truth is known."""
    return split.truth if len(split.truth.columns) else None


def example_of_disagreement(fits) -> int:
    """The test image whose two datamodels differ most, among the half that is best predicted."""
    score = np.minimum(*(np.nan_to_num(lds.per_example) for lds in fits.lds))
    one, two = (fit.weights for fit in fits.datamodels)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosine = (one * two).sum(axis=1) / np.where(norms > 0, norms, np.inf)
    cosine[(score < np.median(score)) | (norms == 0)] = np.inf
    return int(cosine.argmin())


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


def transformation_rows(hypotheses, placebo, images: np.ndarray, *, seed: int, n: int = 2) -> Rows:
    """A few images untouched and under each transformation, intensity by intensity."""
    rows = {}
    cases = [(h.get("name") or h["transformation"], h) for h in hypotheses]
    cases.append(("placebo", placebo))
    for label, case in cases:
        unit = TRANSFORMS[case["transformation"]].intensity_unit
        for image in range(n):
            steps = [images[image]] + [
                transform_images(case["transformation"], images, level, seed=seed)[image]
                for level in case["intensities"]
            ]
            key = f"{label}\n({unit})" if image == 0 else label + "\u200b" * image
            rows[key] = np.stack(steps)
    return rows
