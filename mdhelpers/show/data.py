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


def planted(data: Dataset) -> pd.DataFrame:
    """Images of each class that carry a planted feature; no rows where none is known."""
    splits = [getattr(data, part) for part in SPLITS]
    features = list(dict.fromkeys([*data.test.truth, *data.train.truth]))
    tables = [split.truth.reindex(columns=features, fill_value=False) for split in splits]
    rows = []
    for feature in features:
        for label, name in enumerate(data.class_names):
            carry = [t[feature][s.labels == label] for t, s in zip(tables, splits, strict=True)]
            rows.append((feature, name, *(c.sum() for c in carry), carry[-1].mean()))
    columns = ["feature", "class", *(f"{part} images" for part in SPLITS), "share of test images"]
    table = pd.DataFrame(rows, columns=columns).set_index(columns[:2])
    return table[table[columns[2:4]].any(axis=1)]


def class_samples(split: Split, class_names, *, n: int = 12) -> Rows:
    """Images of each class that carry no planted feature."""
    plain = ~split.truth.any(axis=1).to_numpy()
    return {
        name: split.images[np.flatnonzero((split.labels == label) & plain)[:n]]
        for label, name in enumerate(class_names)
    }


def feature_samples(split: Split, class_names, *, n: int = 12) -> Rows:
    """Carriers of each planted feature above others of the same class; none where none is known."""
    rows = {}
    for feature in split.truth.columns:
        carries = split.truth[feature].to_numpy()
        label = np.bincount(split.labels[carries]).argmax()
        name, others = class_names[label], (split.labels == label) & ~carries
        rows[f"{name}, {feature}"] = split.images[np.flatnonzero(carries)[:n]]
        rows[f"{name}, none"] = split.images[np.flatnonzero(others)[:n]]
    return rows
