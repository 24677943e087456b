"""Figures of several axes, and figures that depend on what a run has."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from mdhelpers.base.records import written
from mdhelpers.data.transforms import TRANSFORMS, transform_images
from mdhelpers.method.subpopulations import (
    random_same_class,
)
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import SUBPOPULATIONS
from mdhelpers.show.datamodels import effect_curves
from mdhelpers.show.gallery import Rows, image_rows
from mdhelpers.show.style import (
    comparison_label,
    label_text,
    label_texts,
)
from mdhelpers.show.subpopulations import members_at
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.subpopulations import read_subpopulations


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


def effects(table: pd.DataFrame, names) -> pd.DataFrame | str:
    """Every effect in percentage points with its interval, one row an intensity."""
    if table.empty:
        return "The study tests no hypothesis."
    shown = table.copy()
    labels = {0: f"{names[0]} − {names[1]}", 1: names[0], 2: names[1]}
    shown["algorithm"] = shown["algorithm"].map(labels)
    shown["cell"] = [
        f"{row.effect:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in shown.itertuples()
    ]
    keys = ["hypothesis", "kind", "intensity"]
    wide = shown.pivot(index=keys, columns="algorithm", values="cell")
    return wide[[labels[1], labels[2], labels[0]]]


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
