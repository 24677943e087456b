"""Stage 07 of a run: counterfactual effects of each hypothesis, and Definition 2's verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from mdhelpers import effects
from mdhelpers.runs import Run
from mdhelpers.specs import validate
from mdhelpers.stages import MODELS, StudyModels, read_models
from mdhelpers.studies import Hypothesis, Placebo, check_hypotheses
from mdhelpers.tasks import load_checkpoints
from mdhelpers.training import stack_logits
from mdhelpers.transforms import transform_images

EFFECTS = "07_counterfactual_verification"


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
        See `mdhelpers.studies.Hypothesis` and `Placebo`.
    epsilon, delta
        Percentage points of Definition 2.
    seed
        Of the transformations and the bootstrap.

    """
    wanted = [validate(Hypothesis, h, f"hypotheses.{i}") for i, h in enumerate(hypotheses)]
    control = validate(Placebo, placebo or {}, "placebo")
    parameters = {
        "hypotheses": [h.model_dump() for h in wanted],
        "placebo": control.model_dump(),
        "epsilon": epsilon,
        "delta": delta,
        "seed": seed,
    }
    stage = run.stage(EFFECTS, parameters, after=[MODELS])
    models = read_models(run, device=device)
    check_hypotheses(wanted, control, models.dataset.class_names)
    stage.say()
    paths = [run.path / "effects.parquet", run.path / "verdicts.parquet"]
    if not stage.is_current:
        table = measure_effects(models, wanted, control, seed)
        verdicts = judge(table, wanted, models.names, epsilon=epsilon, delta=delta)
        table.to_parquet(paths[0])
        verdicts.to_parquet(paths[1])
        stage.finish(paths, figures=effect_figures(table, verdicts, models))
    return StudyEffects(*(pd.read_parquet(path) for path in paths))


def measure_effects(
    models: StudyModels, hypotheses: list[Hypothesis], placebo: Placebo, seed: int
) -> pd.DataFrame:
    """Effects of every transformation at every intensity on both algorithms' kept models."""
    stacks = [load_checkpoints(models.plan, a, models.plan.n_keep) for a in (1, 2)]
    test, names = models.dataset.test, models.dataset.class_names
    before = [confidences(models, stack, test.images) for stack in stacks]
    cases = [
        (h, kind, spec.transformation, intensity)
        for h in hypotheses
        for kind, spec in (("feature", h), ("placebo", placebo))
        for intensity in spec.intensities
    ]
    after: dict[tuple, list[np.ndarray]] = {}
    rows = []
    for hypothesis, kind, name, intensity in tqdm(cases, unit="transformation", mininterval=2.0):
        if (name, intensity) not in after:
            changed = transform_images(name, test.images, intensity, seed=seed)
            after[name, intensity] = [confidences(models, stack, changed) for stack in stacks]
        target = names.index(hypothesis.target_class)
        pairs = [
            (x[..., target], y[..., target])
            for x, y in zip(before, after[name, intensity], strict=True)
        ]
        found = [effects.treatment_effect(*pair, seed=seed) for pair in pairs]
        found.append(effects.difference(*pairs[0], *pairs[1], seed=seed))
        for algorithm, effect in zip((1, 2, 0), found, strict=True):
            rows.append(
                {
                    "hypothesis": hypothesis.name,
                    "kind": kind,
                    "transformation": name,
                    "intensity": float(intensity),
                    "class_name": hypothesis.target_class,
                    "algorithm": algorithm,
                    "effect": effect.mean,
                    "low": effect.low,
                    "high": effect.high,
                }
            )
    return pd.DataFrame(rows, columns=EFFECT_COLUMNS)


EFFECT_COLUMNS = [
    "hypothesis", "kind", "transformation", "intensity", "class_name",
    "algorithm", "effect", "low", "high",
]  # fmt: skip


def confidences(models: StudyModels, stacks: list, images: np.ndarray) -> np.ndarray:
    """Softmax confidences of all kept models, (n_models, n_images, n_classes) float32."""
    resident = torch.from_numpy(images).to(models.plan.device)
    parts = [stack_logits(stack, resident).softmax(-1) for stack in stacks]
    return torch.cat(parts)[: models.plan.n_keep].numpy()


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
