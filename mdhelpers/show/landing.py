"""The pictures of the book's first page: what was found, and the method in one strip."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.base.records import written
from mdhelpers.method.comparison import normalise_rows
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import EFFECTS
from mdhelpers.show.effects import hypothesis_curves
from mdhelpers.show.gallery import image_rows
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    INK,
    NULL_COLOR,
    compared,
    comparison_label,
    label_texts,
    nothing_here,
)
from mdhelpers.show.subpopulations import members_at
from mdhelpers.stages.comparison import StudyComparison, read_comparison
from mdhelpers.stages.effect_models import EffectModels
from mdhelpers.stages.effects import StudyEffects, read_findings, word_of
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.subpopulations import read_subpopulations

TITLES = ["masks", "models", "datamodels", "what remains", "a direction", "its end", "the test"]


def finding(run: Run, models: EffectModels, found: StudyEffects) -> Figure:
    """The largest finding in one picture: a subpopulation beside its class, and the effect.

    Without any finding, the first end that is listed and the verdict with the largest difference.
    Saved as ``figures/landing.png``.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), width_ratios=[1.5, 1])
    row, name = first_finding(run, found)
    if row is None:
        nothing_here(left)
    else:
        _end(left, run, models, row)
    if name is None:
        nothing_here(right)
    else:
        _effect(right, found, name, models.names)
    return kept(run, fig, "landing")


def method(run: Run, found: StudyEffects) -> Figure:
    """The method in seven pictures of this run, from masks to the test (paper, Figures 1 and 2).

    Saved as ``figures/method.png``.
    """
    fig, axes = plt.subplots(2, 4, figsize=(9, 4.8))
    axes = axes.ravel()
    row, name = first_finding(run, found)
    comparison, names = read_comparison(run), label_texts(run.names, 12)
    with_models = row is not None and run.manifest("02_mask_training")
    if not with_models:
        for ax in axes:
            nothing_here(ax)
        return kept(run, fig, "method")
    models, members = read_models(run), read_subpopulations(run)
    index = members_at(members, row.comparison, row.direction, row.end)
    example = int(index[0])
    _masks(axes[0], models)
    _margins(axes[1], models, example)
    _weights(axes[2], comparison, example, names)
    _remains(axes[3], comparison, row.comparison, example, names)
    _along(axes[4], comparison, row)
    rows = np.split(models.dataset.test.images[index[:9]], [3, 6])
    image_rows(axes[5], {" " * i: images for i, images in enumerate(rows)})  # without labels
    _effect(axes[6], found, name, run.names)
    axes[6].get_legend().remove()
    axes[6].set(ylabel="more certain (points)")
    titles = [
        "1 masks",
        "2 models",
        "3 datamodels",
        "4 what remains",
        "5 a direction",
        "6 its end",
        "7 the test",
    ]
    for ax, title in zip(axes, titles, strict=False):
        ax.set_title(title)
    axes[7].axis("off")
    for place, algorithm in ((0.8, 1), (0.65, 2)):
        color = {"color": ALGORITHM_COLORS[algorithm], "weight": "bold"}
        axes[7].text(0, place, names[algorithm - 1], transform=axes[7].transAxes, **color)
    axes[7].text(0, 0.5, "All panels are\nof this run.", va="top", transform=axes[7].transAxes)
    return kept(run, fig, "method")


def first_finding(run: Run, found: StudyEffects) -> tuple:
    """The end of the largest finding and its hypothesis; of the first end without, or None."""
    table, verdicts = read_findings(run), found.verdicts
    starred = table[table["finding"]]
    by_size = starred["difference"].abs().sort_values(ascending=False, kind="stable").index
    ordered = pd.concat([starred.loc[by_size], table[~table["finding"]]])
    row = next(ordered.itertuples(), None)
    names = [row.hypothesis] if row is not None and row.finding else []
    names += verdicts.loc[verdicts["difference"].abs().nlargest(1).index, "hypothesis"].tolist()
    return row, next(iter(names), None)


def kept(run: Run, fig: Figure, name: str) -> Figure:
    """Save a figure among the outputs of stage 07, for the first page."""
    (run.path / "figures").mkdir(exist_ok=True)
    with written(run.path / "figures" / f"{name}.png") as unfinished:
        fig.savefig(unfinished, format="png")
    run.stage(EFFECTS, {}).add_output(f"figures/{name}.png")
    return fig


def _end(ax: Axes, run: Run, models: EffectModels, row) -> None:
    test, names = models.dataset.test, label_texts(models.names)
    index = members_at(read_subpopulations(run), row.comparison, row.direction, row.end)[:14]
    others = random_same_class(test.labels, index, 14, seed=1)
    shown, random = test.images[index], test.images[others]
    rows = {"at its end": shown[:7], "": shown[7:]}
    rows |= {"same class,\nat random": random[:7], " ": random[7:]}
    image_rows(ax, rows)
    label = f"{comparison_label(row.comparison, names)} #{row.direction}"
    said = word_of(row.outcome, names) if row.finding else "no finding"
    ax.set_title(f"{label}:\n{said}")


def _effect(ax: Axes, found: StudyEffects, name: str, names: Sequence[str]) -> None:
    rows = found.effects.merge(found.verdicts[["hypothesis", "class_name", "unit"]])
    hypothesis_curves(ax, name, rows[rows["hypothesis"] == name], names)


def _masks(ax: Axes, models: StudyModels) -> None:
    masks = models.all(1).masks[:16, :40]
    ax.imshow(~masks, cmap="gray", vmin=-0.4, vmax=1, aspect="auto")
    ax.set(xlabel="training images", ylabel="models", xticks=[], yticks=[])


def _margins(ax: Axes, models: StudyModels, example: int) -> None:
    for a in (1, 2):
        ax.hist(models.all(a).margins[:, example], 12, color=ALGORITHM_COLORS[a], alpha=0.5)
    ax.set(xlabel="margin of a test image\n(logits)", yticks=[], ylabel="models")


def _weights(ax: Axes, comparison: StudyComparison, example: int, names) -> None:
    one, two = (d.weights[example] for d in comparison.datamodels)
    ax.axhline(0, color=NULL_COLOR, lw=0.8)
    ax.axvline(0, color=NULL_COLOR, lw=0.8)
    ax.scatter(one, two, s=5, color=INK, alpha=0.6, lw=0)
    ax.set(xlabel=f"weight, {names[0]} (logits)", xticks=[], yticks=[])
    ax.set_ylabel(f"weight, {names[1]}\n(logits)")


def _remains(ax: Axes, comparison: StudyComparison, name: str, example: int, names) -> None:
    first, second = compared(name)
    rows = [normalise_rows(d.weights[[example]])[0] for d in comparison.datamodels]
    cosine = float(rows[0] @ rows[1])
    up = np.sqrt(max(0, 1 - cosine**2))
    style = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.018}
    ax.quiver(0, 0, 1, 0, color=ALGORITHM_COLORS[second], **style)
    ax.quiver(0, 0, cosine, up, color=ALGORITHM_COLORS[first], **style)
    ax.plot([cosine, cosine], [0, up], "--", color=INK)
    ax.set(xlim=(-0.15, 1.1), ylim=(-0.15, 1.1), aspect="equal", xticks=[], yticks=[])
    ax.set_xlabel(f"not in {names[second - 1]}")
    ax.spines[:].set_visible(False)


def _along(ax: Axes, comparison: StudyComparison, row) -> None:
    found = comparison.comparison[row.comparison]
    projection = np.sort(found.projections[:, list(found.component).index(row.direction)])
    color = ALGORITHM_COLORS[compared(row.comparison)[0]]
    ax.fill_between(np.arange(len(projection)), projection, color=color, alpha=0.6, lw=0)
    ax.set(xlabel="test images, sorted", ylabel="projection", xticks=[], yticks=[])
