"""Notebook 08's figures of several axes."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mdhelpers.application_plots import flip_dumbbells, image_map, removal_scatter, selection_curves
from mdhelpers.application_stage import StudyApplications
from mdhelpers.application_tables import SETTINGS
from mdhelpers.panels import draw_if
from mdhelpers.removal_study import KINDS, Removals
from mdhelpers.stages import StudyModels
from mdhelpers.style import label_text


def draw_removals(axes, removals: Removals) -> None:
    """Foretold against found effects, one panel a setting."""
    for ax, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        rows = removals.table[removals.table["setting"] == setting]
        draw_if(rows if len(rows) else None, removal_scatter, ax, **behind(removals, setting))
        ax.set_title(f"left out of {title}")


def behind(removals: Removals, setting: str) -> dict[str, np.ndarray]:
    """The effects of one setting on all test images."""
    if f"{setting}_set_predicted" not in removals.effects:
        return {}
    return {
        what: np.concatenate([removals.effects[f"{setting}_{kind}_{what}"] for kind in KINDS])
        for what in ("predicted", "retrained")
    }


def draw_flips(axes, removals: Removals) -> None:
    """Margins before and after, one panel a setting."""
    for ax, (setting, title) in zip(axes, SETTINGS.items(), strict=True):
        rows = removals.table[removals.table["setting"] == setting]
        draw_if(rows if len(rows) else None, flip_dumbbells, ax)
        ax.set_title(f"left out of {title}")


def draw_maps(axes, found: StudyApplications, models: StudyModels) -> None:
    """Both algorithms' maps of the test images, framed by class, numbered by cluster."""
    test = models.dataset.test
    for algorithm, (ax, name) in enumerate(zip(axes, models.names, strict=True), 1):
        rows = found.clusters[found.clusters["algorithm"] == algorithm]
        places, numbers = rows[["x", "y"]].to_numpy(), rows["cluster"].to_numpy()
        options = {"names": models.dataset.class_names, "numbers": numbers}
        image_map(ax, places, test.images, test.labels, **options).set_title(label_text(name))


def draw_selections(selections: pd.DataFrame) -> plt.Figure:
    """A row a target: right answers on the target, and on all test images."""
    targets = list(dict.fromkeys(selections["target"])) or [""]
    fig, axes = plt.subplots(len(targets), 2, figsize=(9, 4 * len(targets)), squeeze=False)
    for row, target in zip(axes, targets, strict=True):
        rows = selections[selections["target"] == target] if target else None
        for ax, measure in zip(row, ("right", "right_all"), strict=True):
            draw_if(rows, selection_curves, ax, measure=measure).set_title(label_text(target))
    return fig
