"""The figures of notebook 08 that go to ``results.json``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score

from mdhelpers.neighbours import distinctive_weights, duplicate_ranks, pixel_distances
from mdhelpers.removal_study import KINDS, Removals
from mdhelpers.stages import StudyModels


def copies_of(models: StudyModels) -> np.ndarray | None:
    """The test image that each training image is known to copy (-1: none), where that is known."""
    metadata = models.dataset.train.metadata
    return metadata["duplicate_of"].to_numpy() if "duplicate_of" in metadata else None


def application_figures(models: StudyModels, fits, removals: Removals, tables: dict) -> dict:
    """The figures that the book quotes."""
    figures: dict[str, Any] = {"removal": removal_figures(removals)}
    figures["clusters"] = {
        f"rand_of_classes_{a}": adjusted_rand_score(models.dataset.test.labels, part["cluster"])
        for a, part in tables["clusters"].groupby("algorithm")
    }
    figures["cluster_grades"] = tables["cluster_grades"].to_dict("records")
    figures["selections"] = tables["selections"].to_dict("records")
    if (copies := copies_of(models)) is not None:
        figures["duplicates"] = duplicate_figures(models, fits, copies)
    return figures


def removal_figures(removals: Removals) -> dict[str, Any]:
    """Correlations of foretold and retrained effects, and flips, of each setting."""
    figures = {}
    for setting, rows in removals.table.groupby("setting", sort=False):
        of_sets = rows[rows["kind"] == "set"]
        block = {"n_tests": len(of_sets), **correlation(of_sets, "correlation")}
        block |= correlation(rows, "correlation_with_controls")
        squares = float((of_sets["predicted"] ** 2).sum())
        products = float((of_sets["predicted"] * of_sets["retrained"]).sum())
        block["slope"] = products / squares if squares else None
        predicted, retrained = (
            np.concatenate([removals.effects[f"{setting}_{k}_{what}"] for k in KINDS]).ravel()
            for what in ("predicted", "retrained")
        )
        block["correlation_on_all_tests"] = float(np.corrcoef(predicted, retrained)[0, 1])
        for name, kind in (("flips_found", "set"), ("flips_of_controls", "control")):
            tried = rows[(rows["kind"] == kind) & (rows["foretold"] < 0)]
            block |= {"flips_foretold": len(tried), name: int((tried["found"] < 0).sum())}
        block["median_size"] = float(of_sets["size"].median())
        figures[setting] = block
    return figures


def correlation(rows: pd.DataFrame, name: str, *, n_bootstrap: int = 1000) -> dict[str, float]:
    """Pearson's, of the effects on the test examples that the sets were made for.

    With the ends of a 95% interval from resampling test examples; nothing of fewer than three.
    """
    tests = rows["test"].unique()
    if len(tests) < 3:
        return {}
    rng, values = np.random.default_rng(0), rows[["predicted", "retrained"]].to_numpy()
    of_test = [np.flatnonzero(rows["test"] == test) for test in tests]
    drawn = [
        values[np.concatenate([of_test[i] for i in rng.integers(len(tests), size=len(tests))])]
        for _ in range(n_bootstrap)
    ]
    spread = [np.corrcoef(d.T)[0, 1] for d in drawn if np.ptp(d, axis=0).all()]
    low, high = np.percentile(spread, [2.5, 97.5])
    return {name: np.corrcoef(values.T)[0, 1], f"{name}_low": low, f"{name}_high": high}


def duplicate_figures(models: StudyModels, fits, copies: np.ndarray) -> dict[str, Any]:
    """In which share of cases a known copy is the nearest training image, or among three."""
    data = models.dataset
    values = {f"distinctive_{a}": distinctive_weights(f.weights) for a, f in enumerate(fits, 1)}
    values |= {f"weights_{a}": fit.weights for a, fit in enumerate(fits, 1)}
    values["pixels"] = -pixel_distances(data.test.images, data.train.images)
    figures: dict[str, Any] = {"n": int((copies >= 0).sum())}
    for name, value in values.items():
        ranks = duplicate_ranks(value, copies)
        figures[name] = {"first": float((ranks == 1).mean()), "among_3": float((ranks <= 3).mean())}
    return figures
