"""Figures of several axes, and figures that depend on what a run has."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mdhelpers.findings import SUBPOPULATIONS, read_comparison, read_subpopulations
from mdhelpers.gallery import image_rows
from mdhelpers.plots import effect_curves, predicted_against_true
from mdhelpers.records import written
from mdhelpers.runs import Run
from mdhelpers.selections import members_at
from mdhelpers.style import comparison_label, label_text, label_texts
from mdhelpers.subpopulations import random_same_class


def draw_if(data, draw, ax, **options):
    """``draw(ax, data)``, or an empty panel that says why there is nothing to draw."""
    if data is None:
        ax.axis("off")
        ax.text(0.5, 0.5, "this run has none of these", ha="center", transform=ax.transAxes)
        return ax
    return draw(ax, data, **options)


def draw_predictions(axes, fits, *, names) -> None:
    """Foretold against true outputs of held-out models, one panel an algorithm.

    The test images in colour are foretold better than 95, 70, 45 and 20% of all.
    """
    parts = (axes, names, fits.true, fits.predicted, fits.lds)
    for ax, name, true, predicted, score in zip(*parts, strict=True):
        order = np.argsort(score.per_example)
        examples = order[(np.array([0.95, 0.7, 0.45, 0.2]) * (len(order) - 1)).astype(int)]
        chosen = {"examples": examples, "scores": score.per_example}
        predicted_against_true(ax, true, predicted, **chosen).set_title(label_text(name))


def draw_deviations(axes, fits, *, names) -> None:
    """As `draw_predictions`, each test image's mean over the held-out models taken away."""
    for ax, name, true, predicted in zip(axes, names, fits.true, fits.predicted, strict=True):
        parts = (values - values.mean(0) for values in (true, predicted))
        predicted_against_true(ax, *parts).set_title(label_text(name))
        ax.set(xlabel="predicted margin, less its mean", ylabel="true margin, less its mean")


def draw_captions(axes, captions: pd.DataFrame | None, draw) -> None:
    """One end's captions against all test images, and against the same class."""
    titles = {"all": "against all images", "class": "against the same class"}
    for ax, (reference, title) in zip(axes, titles.items(), strict=True):
        chosen = None if captions is None else captions[captions["reference"] == reference]
        draw_if(chosen, draw, ax).set_title(title)


def draw_effects(axes, table: pd.DataFrame, draw, *, names) -> None:
    """One panel a hypothesis, the placebo in grey."""
    for ax, (hypothesis, rows) in zip(
        np.atleast_1d(axes), table.groupby("hypothesis", sort=False), strict=False
    ):
        single = rows[rows["algorithm"] > 0]
        feature, placebo = (single[single["kind"] == kind] for kind in ("feature", "placebo"))
        draw(ax, feature, names=names, placebo=placebo)
        target = rows["class_name"].iloc[0]
        ax.set_title(f"{label_text(hypothesis, 28)} → {label_text(target, 28)}")


def draw_landing(run: Run, models, effects) -> None:
    """The clearest finding in one picture: a subpopulation beside its class, and the effect.

    The subpopulation is that of the first direction of the comparison whose algorithm the
    hypothesis with the largest difference names. Saved as ``figures/landing.png``.
    """
    single = effects.table[(effects.table["algorithm"] == 0) & (effects.table["kind"] == "feature")]
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1.5, 1])
    if len(single):
        row = single.loc[single["effect"].abs().idxmax()]
        name = "1_minus_2" if row["effect"] > 0 else "2_minus_1"
        draw_subpopulation(left, run, models, name, row["hypothesis"])
        chosen = effects.table[effects.table["hypothesis"] == row["hypothesis"]]
        draw_effects([right], chosen, effect_curves, names=models.names)
    (run.path / "figures").mkdir(exist_ok=True)
    with written(run.path / "figures" / "landing.png") as unfinished:
        fig.savefig(unfinished, format="png", dpi=160)
    run.stage("07_counterfactual_verification", {}).add_output("figures/landing.png")


def draw_subpopulation(ax, run: Run, models, name: str, hypothesis: str) -> None:
    test = models.dataset.test
    direction, end = landing_direction(run, name, hypothesis)
    index = members_at(read_subpopulations(run), name, direction, end)[:14]
    others = random_same_class(test.labels, index, 14, seed=1)
    found, random = test.images[index], test.images[others]
    rows = {
        "found": found[:7],
        "": found[7:],
        "same class,\nat random": random[:7],
        " ": random[7:],
    }
    image_rows(ax, rows)
    label = comparison_label(name, label_texts(models.names))
    ax.set_title(f"{label}, direction {direction}")


def landing_direction(run: Run, name: str, hypothesis: str) -> tuple[int, str]:
    """The graded direction of the feature on scenes; elsewhere the first in order of evidence."""
    best = run.results[SUBPOPULATIONS].get("best", [])
    for row in best:
        if row["comparison"] == name and row["feature"] == hypothesis:
            return row["direction"], row["end"]
    return int(read_comparison(run).comparison[name].component[0]), "top"
