"""Stage 07: what drawing a feature into images does to each algorithm, and Definition 2's verdict.

A hypothesis names a transformation, a class and the algorithm that is said to use the feature. Both
algorithms' kept models see the test images with and without it; a placebo stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mdhelpers.base.specs import validate
from mdhelpers.base.threads import spread
from mdhelpers.data.transforms import transform_images
from mdhelpers.method import effects
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import EFFECTS, MODELS
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.study import Hypothesis, Placebo, check_hypotheses
from mdhelpers.training.learners import TrainedModels


@dataclass(frozen=True, eq=False)
class StudyEffects:
    """What stage 07 made.

    Attributes
    ----------
    table
        One row an effect: hypothesis, kind ("feature" or "placebo"), transformation, intensity,
        class_name, algorithm (1, 2; 0: effect on 1 minus effect on 2), effect, low, high.
    verdicts
        One row a hypothesis: outcome and text of Definition 2 at its largest intensity.

    """

    table: pd.DataFrame
    verdicts: pd.DataFrame


def verify_hypotheses(
    run: Run,
    hypotheses: list[dict],
    *,
    placebo: dict | None = None,
    epsilon: float = 5.0,
    delta: float = 10.0,
    seed: int = 0,
    device: str = "auto",
) -> StudyEffects:
    """Stage 07: what each transformation does to both algorithms' kept models.

    Parameters
    ----------
    run
        The run's folder, with stage 02 finished.
    hypotheses, placebo
        See `mdhelpers.stages.study.Hypothesis` and `Placebo`.
    epsilon, delta
        Percentage points of Definition 2.
    seed
        Of the transformations.

    """
    wanted = [validate(Hypothesis, h, f"hypotheses.{i}") for i, h in enumerate(hypotheses)]
    control = validate(Placebo, placebo or {}, "placebo")
    parameters = {
        "hypotheses": [h.model_dump() for h in wanted],
        "placebo": control.model_dump(),
        "epsilon": float(epsilon),  # of a notebook's 8 and a study's 8.0 the key is one
        "delta": float(delta),
        "seed": seed,
        "intervals": "over initialisations",  # earlier ones, over models, are made anew
    }
    stage = run.stage(EFFECTS, parameters, after=[MODELS])
    models = read_models(run, device=device)
    check_hypotheses(wanted, control, models.dataset.class_names)
    with stage.working() as needed:
        if needed:
            table = measure_effects(models, wanted, control, seed)
            verdicts = judge(table, wanted, models.names, epsilon=epsilon, delta=delta)
            figures = effect_figures(table, verdicts, models)
            stage.keep(tables={"effects": table, "verdicts": verdicts}, figures=figures)
    tables = run.kept(EFFECTS)
    return StudyEffects(tables["effects"], tables["verdicts"])


def measure_effects(
    models: StudyModels, hypotheses: list[Hypothesis], placebo: Placebo, seed: int
) -> pd.DataFrame:
    """Effects of every transformation at every intensity on both algorithms' kept models."""
    cases = [
        (h, kind, spec.transformation, intensity)
        for h in hypotheses
        for kind, spec in (("feature", h), ("placebo", placebo))
        for intensity in spec.intensities
    ]
    changes = list(dict.fromkeys((name, intensity) for *_, name, intensity in cases))
    algorithms = (1, 2) if cases else ()
    found = [confidences(models, a, [UNCHANGED, *changes], seed=seed) for a in algorithms]
    slots, rows = models.kept_slots(), []
    for hypothesis, kind, *change in cases:
        target = models.dataset.class_names.index(hypothesis.target_class)
        pairs = [(x[UNCHANGED][..., target], x[tuple(change)][..., target]) for x in found]
        about = (hypothesis.name, kind, change[0], float(change[1]), hypothesis.target_class)
        rows += [(*about, *effect) for effect in effects_of(pairs, slots)]
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


def effects_of(pairs: list[tuple[np.ndarray, np.ndarray]], slots: np.ndarray | None) -> list[tuple]:
    """(algorithm, effect, low, high) on algorithms 1 and 2, and of their difference (0)."""
    found = [effects.treatment_effect(*pair, slots=slots) for pair in pairs]
    found.append(effects.difference(*pairs[0], *pairs[1], slots_1=slots, slots_2=slots))
    return [(a, e.mean, e.low, e.high) for a, e in zip((1, 2, 0), found, strict=True)]


UNCHANGED = ("", 0)
EFFECT_COLUMNS = [
    "hypothesis", "kind", "transformation", "intensity", "class_name",
    "algorithm", "effect", "low", "high",
]  # fmt: skip


def confidences(
    models: StudyModels, algorithm: int, changes: list[tuple[str, float]], *, seed: int
) -> dict[tuple[str, float], np.ndarray]:
    """Softmax confidences of an algorithm's kept models on changed test images.

    They are (n_models, n_images, n_classes) float32 for each transformation and intensity. Models
    that train anew with each call (`TrainedModels.retrains`) are given all changes at once, others
    one after the other, which takes less memory.
    """
    n_keep, images = models.plan.n_keep, models.dataset.test.images
    kept = models.kept(algorithm)
    together = any(stack.retrains for stack in kept)
    stateless = all(stack.stateless for stack in kept)
    at_once = 0 if stateless and models.plan.device == "cpu" else 1  # others may hold state
    found: dict[tuple[str, float], np.ndarray] = {}
    total = len(kept) * (1 if together else len(changes))
    with tqdm(total=total, unit="stack", mininterval=2.0) as bar:
        for group in [changes] if together else [[change] for change in changes]:
            changed = np.concatenate([changed_images(images, *c, seed=seed) for c in group])
            parts = []
            for logits in spread(partial(_logits, changed), kept, at_once=at_once):
                parts.append(logits.softmax(-1))
                bar.update()
            shown = torch.cat(parts)[:n_keep].numpy()
            found |= dict(zip(group, np.split(shown, len(group), axis=1), strict=True))
    return found


def _logits(images: np.ndarray, stack: TrainedModels) -> torch.Tensor:
    return stack.logits(images)


def changed_images(images: np.ndarray, name: str, intensity: float, *, seed: int) -> np.ndarray:
    return transform_images(name, images, intensity, seed=seed) if name else images


def judge(
    table: pd.DataFrame, hypotheses: list[Hypothesis], names, *, epsilon: float, delta: float
) -> pd.DataFrame:
    """Definition 2 for each hypothesis that names an algorithm, at its largest intensity."""
    rows = []
    for hypothesis in hypotheses:
        one, two = (as_effect(table, hypothesis, a) for a in (1, 2))
        if hypothesis.uses:
            found = effects.verdict(
                one, two, epsilon=epsilon, delta=delta, uses=hypothesis.uses, names=names
            )
            outcome, text = found.outcome, found.text
        else:
            outcome, text = "control", f"Control: {one} under {names[0]}, {two} under {names[1]}."
        rows.append(
            {"hypothesis": hypothesis.name, "uses": hypothesis.uses}
            | {"outcome": outcome, "text": text}
        )
    return pd.DataFrame(rows, columns=["hypothesis", "uses", "outcome", "text"])


def as_effect(table: pd.DataFrame, hypothesis: Hypothesis, algorithm: int) -> effects.Effect:
    row = largest(table, hypothesis.name, "feature").set_index("algorithm").loc[algorithm]
    return effects.Effect(row["effect"], row["low"], row["high"], 0, 0)


def largest(table: pd.DataFrame, hypothesis: str, kind: str) -> pd.DataFrame:
    """The rows of one hypothesis at its largest intensity."""
    rows = table[(table["hypothesis"] == hypothesis) & (table["kind"] == kind)]
    return rows[rows["intensity"] == rows["intensity"].max()]


def effect_figures(
    table: pd.DataFrame, verdicts: pd.DataFrame, models: StudyModels
) -> dict[str, Any]:
    figures: dict[str, Any] = {"n_models": models.plan.n_keep}
    for row in verdicts.itertuples():
        block = {"outcome": row.outcome, "text": row.text}
        for kind in ("feature", "placebo"):
            for effect in largest(table, row.hypothesis, kind).itertuples():
                name = {1: "effect_1", 2: "effect_2", 0: "difference"}[effect.algorithm]
                name = name if kind == "feature" else f"placebo_{name}"
                block |= {
                    "intensity" if kind == "feature" else "placebo_intensity": effect.intensity,
                    name: effect.effect,
                    f"{name}_low": effect.low,
                    f"{name}_high": effect.high,
                }
        figures[row.hypothesis] = block
    return figures
