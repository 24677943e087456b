"""Page 01: what is in the data."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.data.datasets import Dataset, Split
from mdhelpers.show.gallery import Rows
from mdhelpers.stages.data import SPLITS


def classes(data: Dataset) -> pd.DataFrame:
    """Images of each class in both halves."""
    counts = {
        f"{part} images": np.bincount(getattr(data, part).labels, minlength=len(data.class_names))
        for part in SPLITS
    }
    table = pd.DataFrame(counts, index=pd.Index(data.class_names, name="class"))
    table.loc["all"] = table.sum()
    return table


def planted(data: Dataset) -> pd.DataFrame | str:
    """How many images of each class carry each planted feature, where that is known."""
    if not any(len(getattr(data, part).truth.columns) for part in SPLITS):
        return "No truth is known for this data: nothing was planted."
    rows = []
    for part in SPLITS:
        split = getattr(data, part)
        for feature in split.truth.columns:
            labels = split.labels[split.truth[feature].to_numpy()]
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                rows.append((feature, data.class_names[label], f"{part} images", count))
    table = pd.DataFrame(rows, columns=["feature", "class", "part", "count"])
    return table.pivot(index=["feature", "class"], columns="part", values="count")


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
