"""Figures of several axes for notebook 09."""

from __future__ import annotations

from mdhelpers.panels import draw_if
from mdhelpers.prediction_grade_plots import feature_grades, member_grades
from mdhelpers.prediction_plots import (
    angle_histograms,
    class_angles,
    confidence_confidence,
    ensemble_scatter,
    pair_label,
)
from mdhelpers.prediction_stage import StudyPredictions
from mdhelpers.style import label_texts

EXAMPLES = {"1 against 1": (0, 0), "2 against 2": (1, 1), "1 against 2": (0, 1)}


def draw_confidences(axes, found: StudyPredictions, *, names) -> None:
    """The first pair of models of each kind, on different masks, a panel each."""
    if len(found.right[0]) < 2:
        draw_nothing(axes)
        return
    for ax, (pair, sides) in zip(axes, EXAMPLES.items(), strict=True):
        rows = list(zip(sides, (0, 1), strict=True))
        confidence = [found.confidence[side][row] for side, row in rows]
        right = [found.right[side][row] for side, row in rows]
        called = [names[side] for side in sides]
        confidence_confidence(ax, *confidence, *right, names=called)
        ax.set_title(pair_label(pair, label_texts(names)))


def draw_angles(axes, found: StudyPredictions, outcomes, *, names) -> None:
    """Histograms of the specialisation angle, a panel an outcome."""
    if not len(found.tables.angles):
        draw_nothing(axes)
        return
    for ax, outcome in zip(axes, outcomes, strict=True):
        angle_histograms(ax, found.tables.angles, outcome=outcome, names=names)


def draw_ensembles(axes, found: StudyPredictions, *, names) -> None:
    """Gain and conversion rate of ensembles against the inconsistency of their errors."""
    if found.tables.pairs["gain"].isna().all():
        draw_nothing(axes)
        return
    for ax, measure in zip(axes, ("gain", "conversion"), strict=True):
        ensemble_scatter(ax, found.tables.pairs, measure=measure, names=names)


def draw_classes(ax, found: StudyPredictions, class_names, *, names) -> None:
    """Specialisation angles by class."""
    if not len(found.tables.classes):
        draw_nothing([ax])
        return
    class_angles(ax, found.tables.classes, class_names, names=names)


def draw_nothing(axes) -> None:
    """Say that a run without checkpoints has none of these."""
    for ax in axes:
        draw_if(None, None, ax)


def draw_features(ax, found: StudyPredictions) -> None:
    """Who finds the planted features, or an empty panel where none is known."""
    grades = found.tables.grades
    draw_if(grades if len(grades) else None, feature_grades, ax)


def draw_members(ax, found: StudyPredictions, *, names) -> None:
    """How well the difference in margins finds each subpopulation."""
    member_grades(ax, found.tables.members, names=names)
