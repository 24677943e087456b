"""Figures of several axes for the further analyses, empty where a run has none of them."""

from __future__ import annotations

import pandas as pd

from mdhelpers.analyses import Analyses
from mdhelpers.analysis_plots import (
    components_by_models,
    cosines_by_models,
    directions_by_models,
    similarity_heatmap,
    variance_curves,
)
from mdhelpers.panels import draw_if
from mdhelpers.style import COMPARISONS


def draw_similarity(axes, further: Analyses | None, names) -> None:
    """The matrix of mean cosines as measured, and with the noise taken out."""
    alike = further and further.named(names)
    titles = ("as measured", "corrected for noise")
    tables = (alike.matrix, alike.corrected) if alike else (None, None)
    for ax, table, title in zip(axes, tables, titles, strict=True):
        draw_if(table, similarity_heatmap, ax).set_title(title, pad=24)


def draw_curves(axes, further: Analyses | None, names) -> None:
    """A panel a comparison: curves on all models, and on models other than a half's own."""
    curves = further and further.curves_on("all")
    others = further and further.curves_on("others")
    for ax, comparison in zip(axes, COMPARISONS, strict=True):
        options = {"comparison": comparison, "names": names, "others": others}
        draw_if(curves, variance_curves, ax, **options)


def draw_counts(axes, further: Analyses | None, names) -> None:
    """Cosines of datamodels, and directions found again, against the number of models."""
    counts = further and further.counts
    draw_if(counts and counts.cosines, cosines_by_models, axes[0], names=names)
    draw_if(counts and counts.directions, directions_by_models, axes[1], names=names)


def draw_components(axes, further: Analyses | None, names) -> None:
    """A panel an algorithm: its own components found and measured with few and many models."""
    components: pd.DataFrame | None = further and further.counts and further.counts.components
    for algorithm, ax in enumerate(axes, 1):
        draw_if(components, components_by_models, ax, algorithm=algorithm, names=names)
