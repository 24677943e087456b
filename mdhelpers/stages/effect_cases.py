"""What stage 07 tests, how it is measured, and the verdicts.

A case is a transformation at some intensities, the class that it is tested on, and the test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from tqdm import tqdm

from mdhelpers.data.datasets import Split
from mdhelpers.data.transforms import (
    Around,
    Transformation,
    placebo_images,
    transform_images,
)
from mdhelpers.method import effects
from mdhelpers.method.effects import Effect, Verdict
from mdhelpers.stages import proposals
from mdhelpers.stages.effect_models import EffectModels
from mdhelpers.stages.models import softmax
from mdhelpers.stages.study import Hypothesis, Placebo
from mdhelpers.training.learners import TrainedModels

MATCHED = "matched"

SURE_MATCH, FEWEST_MOVED = 0.05, 0.05


@dataclass(frozen=True)
class Case:
    """A transformation and the class it is tested on, at some intensities.

    ``rows`` are the test images that it is tested on; ``uses`` is what is expected, NaN if nothing.
    """

    name: str
    source: str
    transformation: Transformation
    intensities: tuple[float, ...]
    target: str
    rows: np.ndarray
    uses: float = 0


Candidates = dict[str, tuple[Transformation, float]]


def candidates_of(test: Split, wanted: list[Hypothesis]) -> Candidates:
    """What is tried on the ends of directions, and how strongly: the library, the hypotheses'."""
    known = {name: (each, each.default) for name, each in proposals.library(test).items()}
    own = {h.transformation.name: (h.transformation, max(h.intensities)) for h in wanted}
    return known | own


def best_of(found: pd.DataFrame, n: int) -> pd.DataFrame:
    """The proposals that are sure: by match, at most ``n`` of an end."""
    sure = (found["q"] < SURE_MATCH) & ~(found["moved"] < FEWEST_MOVED)
    return found[sure].groupby(["comparison", "direction", "end"], sort=False).head(n)


def cases_of(
    wanted: list[Hypothesis],
    chosen: pd.DataFrame,
    candidates: Candidates,
    n_test: int,
    seed: int,
) -> list[Case]:
    """The study's hypotheses, on all test images; then what is proposed beside them, on a half."""
    rows, given, cases = np.arange(n_test), set(), []
    for h in wanted:
        about = h.name, "study", h.transformation, tuple(h.intensities), h.target_class
        cases.append(Case(*about, rows, np.nan if h.uses is None else h.uses))
        given.add((h.transformation.name, h.target_class))
    _, rows = proposals.halves(n_test, seed)
    for name, target in chosen[["transformation", "class_name"]].itertuples(index=False):
        if (name, target) not in given:
            given.add((name, target))
            kind, most = candidates[name]
            doses = tuple(dose * most for dose in proposals.DOSES)
            cases.append(Case(f"{name} → {target}", "proposed", kind, doses, target, rows))
    return cases


@dataclass(frozen=True)
class Change:
    """A transformation at one intensity, or the placebo beside it, on some test images."""

    transformation: Transformation
    intensity: float
    kind: str  # "feature", "placebo" (as it is), or MATCHED
    rows: tuple[int, ...]

    def images(self, test: Split, seed: int) -> np.ndarray:
        rows = np.array(self.rows)
        parts = (x if x is None else x[rows] for x in (test.foreground, test.labels))
        before, about = test.images[rows], {"seed": seed, "around": Around(*parts)}
        after = transform_images(self.transformation, before, self.intensity, **about)
        if self.kind != MATCHED:
            return after
        return placebo_images(before, after, labels=about["around"].labels, seed=seed)


def changes_of(case: Case, placebo: Placebo) -> dict[str, list[Change]]:
    """What is to be looked at for a case, by kind: as many features as it has intensities.

    Beside what is proposed a placebo stands at the largest intensity alone.
    """
    rows = tuple(case.rows.tolist())
    found = {"feature": [Change(case.transformation, x, "feature", rows) for x in case.intensities]}
    if placebo.transformation is None:
        doses = case.intensities if case.source == "study" else [max(case.intensities)]
        found["placebo"] = [Change(case.transformation, x, MATCHED, rows) for x in doses]
    else:
        given = placebo.transformation
        found["placebo"] = [Change(given, x, "placebo", rows) for x in placebo.intensities]
    return found


def measure(
    models: EffectModels,
    cases: list[Case],
    placebo: Placebo,
    epsilon: float,
    delta: float,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects of every case at every intensity on every class, and the verdicts."""
    asked = [changes_of(case, placebo) for case in cases]
    every = list(dict.fromkeys(c for kinds in asked for cs in kinds.values() for c in cs))
    found = dict(effects_of(models, every, seed)) if every else {}
    classes, rows, doses = models.dataset.class_names, [], []
    for case, kinds in zip(cases, asked, strict=True):
        doses.append({})
        for kind, changes in kinds.items():
            target = classes.index(case.target)
            doses[-1][kind] = [found[change][target] for change in changes]
            for change in changes:
                about = case.name, kind, change.transformation.name, change.intensity
                rows += [
                    (*about, name, algorithm, e.mean, e.low, e.high, e.p)
                    for name, triple in zip(classes, found[change], strict=True)
                    for algorithm, e in zip((1, 2, 0), triple, strict=True)
                ]
    table = pd.DataFrame(rows, columns=list(EFFECT_COLUMNS)).astype(EFFECT_COLUMNS)
    return table, verdicts_of(cases, doses, epsilon, delta)


def measure_hypotheses(
    models: EffectModels,
    wanted: list[Hypothesis],
    placebo: Placebo,
    *,
    epsilon: float,
    delta: float,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Effects and verdicts of hypotheses alone, see `StudyEffects`, on any models."""
    none = pd.DataFrame(columns=["transformation", "class_name"])
    cases = cases_of(wanted, none, {}, len(models.dataset.test), seed)
    return measure(models, cases, placebo, epsilon, delta, seed)


EFFECT_COLUMNS = {"hypothesis": str, "kind": str, "transformation": str, "intensity": float}

EFFECT_COLUMNS |= {"class_name": str, "algorithm": int}

EFFECT_COLUMNS |= dict.fromkeys(("effect", "low", "high", "p"), float)


def effects_of(
    models: EffectModels, changes: list[Change], seed: int
) -> Iterator[tuple[Change, list[tuple[Effect, Effect, Effect]]]]:
    """Each change's effects on 1 and 2 and their difference, a triple a class."""
    test, slots = models.dataset.test, [models.slots(a) for a in (1, 2)]
    kept = [models.kept(a) for a in (1, 2)]
    before = [softmax(each, test.images, models.n_models) for each in kept]
    shown = {"total": len(changes), "unit": "transformation", "mininterval": 2.0}
    for change, both in tqdm(after_changes(models, kept, changes, seed), **shown):
        rows = np.array(change.rows)
        pairs = [(b[:, rows], after) for b, after in zip(before, both, strict=True)]
        yield (
            change,
            [
                triple([(b[..., c], a[..., c]) for b, a in pairs], slots)
                for c in range(len(models.dataset.class_names))
            ],
        )


def triple(pairs, slots) -> tuple[Effect, Effect, Effect]:
    """Effects on algorithms 1 and 2, and their difference."""
    one, two = (effects.treatment_effect(*p, slots=s) for p, s in zip(pairs, slots, strict=True))
    gap = effects.difference(*pairs[0], *pairs[1], slots_1=slots[0], slots_2=slots[1])
    return one, two, gap


def after_changes(
    models: EffectModels, kept: list[list[TrainedModels]], changes: list[Change], seed: int
) -> Iterator[tuple[Change, list[np.ndarray]]]:
    """Confidences (n_models, n_images, n_classes) of both algorithms after each change.

    Models that train anew with each call (`TrainedModels.retrains`) are given all changes at once,
    others one after the other, which takes less memory.
    """
    test, n = models.dataset.test, models.n_models
    together = [any(stack.retrains for stack in stacks) for stacks in kept]
    all_at_once: dict[int, Iterator[np.ndarray]] = {}
    for a, stacks in enumerate(kept):
        if together[a]:
            images = [change.images(test, seed) for change in changes]
            found = softmax(stacks, np.concatenate(images), n)
            ends = np.cumsum([len(part) for part in images])[:-1]
            all_at_once[a] = iter(np.split(found, ends, axis=1))
    for change in changes:
        images = None if all(together) else change.images(test, seed)
        yield (
            change,
            [
                next(all_at_once[a]) if together[a] else softmax(stacks, images, n)
                for a, stacks in enumerate(kept)
            ],
        )


VERDICT_COLUMNS = {"hypothesis": str, "source": str, "transformation": str, "class_name": str}

VERDICT_COLUMNS |= {"uses": float, "outcome": str, "intensity": float, "unit": str}

VERDICT_COLUMNS |= {
    f"{what}{end}": float
    for what in ("effect_1", "effect_2", "difference")
    for end in ("", "_low", "_high")
}


VERDICT_COLUMNS |= {"p": float, "p_corrected": float, "n_models": int, "placebo": str}


def verdicts_of(cases: list[Case], doses: list[dict], epsilon: float, delta: float) -> pd.DataFrame:
    """A row a case, see `StudyEffects.verdicts`; claims are corrected within each source."""
    rows = []
    for case, kinds in zip(cases, doses, strict=True):
        n = sum(other.source == case.source for other in cases)
        given = {"epsilon": epsilon, "delta": delta, "n_hypotheses": n}
        found = effects.verdict(kinds["feature"], **given)
        placebo = effects.verdict(kinds["placebo"], **given).outcome
        rows.append(verdict_row(case, kinds["feature"][found.dose], found, placebo))
    table = pd.DataFrame(rows, columns=list(VERDICT_COLUMNS)).astype(VERDICT_COLUMNS)
    for _, part in table.groupby("source"):
        table.loc[part.index, "p_corrected"] = effects.holm(part["p"])
    return table


def verdict_row(
    case: Case, at: tuple[Effect, Effect, Effect], found: Verdict, placebo: str
) -> dict:
    about = {
        "hypothesis": case.name,
        "source": case.source,
        "transformation": case.transformation.name,
        "class_name": case.target,
        "uses": case.uses,
        "outcome": found.outcome,
        "intensity": float(case.intensities[found.dose]),
        "unit": case.transformation.intensity_unit,
    }
    for what, effect in zip(("effect_1", "effect_2", "difference"), at, strict=True):
        about |= {what: effect.mean, f"{what}_low": effect.low, f"{what}_high": effect.high}
    more = {"p": found.p, "p_corrected": found.p, "n_models": found.n_models, "placebo": placebo}
    return about | more
