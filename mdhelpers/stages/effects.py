"""Stage 07: what a transformation does to each algorithm, and the verdict on every finding.

Models that were trained on the whole training set (`mdhelpers.stages.effect_models`) see the test
images with and without each transformation: those of the study's hypotheses, and those that imitate
the ends of directions
(`mdhelpers.stages.proposals`). A placebo stands beside each. A direction is a *finding* where its
evidence, the models trained again and the verdict agree (`read_findings`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import Split
from mdhelpers.data.transforms import (
    Around,
    Transformation,
    placebo_images,
    transform_images,
)
from mdhelpers.method import effects
from mdhelpers.method.captions import STABLE
from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.method.effects import Effect, Verdict
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import ALL_DATA, CAPTIONS, COMPARISON, EFFECTS, SUBPOPULATIONS
from mdhelpers.stages import proposals
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.data import read_data
from mdhelpers.stages.effect_models import EffectModels, read_effect_models
from mdhelpers.stages.models import softmax
from mdhelpers.stages.study import (
    Hypothesis,
    Placebo,
    check_hypotheses,
    transformations_from_outside,
)
from mdhelpers.stages.subpopulations import read_subpopulations
from mdhelpers.training.learners import TrainedModels

MATCHED = "matched"
SURE_MATCH, FEWEST_MOVED = 0.05, 0.05


@dataclass(frozen=True, eq=False)
class StudyEffects:
    """What stage 07 made.

    Attributes
    ----------
    effects
        One row an effect: ``hypothesis, kind`` ("feature" or "placebo"), ``transformation,
        intensity, class_name, algorithm`` (1, 2; 0: effect on 1 less that on 2), and ``effect, low,
        high`` in percentage points with ``p`` of no effect.
    verdicts
        One row a hypothesis: ``hypothesis, source`` ("study" or "proposed"), ``transformation,
        class_name, uses`` (as expected), ``outcome`` of `mdhelpers.method.effects.verdict`,
        ``intensity`` where the difference is largest, ``effect_1, effect_2, difference`` there with
        intervals, ``p``, ``p_corrected`` (Holm), ``n_models`` (of an undecided one, how many would
        decide), ``placebo``, its outcome.
    proposals
        What imitates the ends of directions, see `mdhelpers.stages.proposals.propose`.

    """

    effects: pd.DataFrame
    verdicts: pd.DataFrame
    proposals: pd.DataFrame


@dataclass(frozen=True)
class Case:
    """A transformation and the class it is tested on, at some intensities.

    ``rows`` are the test images that it is tested on; ``uses`` is what is expected.
    """

    name: str
    source: str
    transformation: Transformation
    intensities: tuple[float, ...]
    target: str
    rows: np.ndarray
    uses: int = 0


def verify_hypotheses(
    run: Run,
    hypotheses: list[dict],
    *,
    placebo: dict | None = None,
    n_proposed: int = 1,
    captions: dict | None = None,
    epsilon: float = 5.0,
    delta: float = 10.0,
    seed: int = 0,
    device: str = "auto",
) -> StudyEffects:
    """Stage 07: what each transformation does to models of both algorithms.

    Parameters
    ----------
    run
        The run's folder, with `train_on_all` and stages 04 to 06 finished.
    hypotheses, placebo
        See `mdhelpers.stages.study.Hypothesis` and `Placebo`.
    n_proposed
        How many of the transformations that imitate an end of a direction are tested beside the
        hypotheses; 0 proposes none.
    captions
        The study's choice of a CLIP, whose embeddings proposals take.
    epsilon, delta
        Percentage points: what counts as no effect, and what as one.
    seed
        Of the transformations, and of what proposals draw.

    """
    wanted = [validate(Hypothesis, h, f"hypotheses.{i}") for i, h in enumerate(hypotheses)]
    control = validate(Placebo, placebo or {}, "placebo")
    parameters = {
        "hypotheses": [h.model_dump() for h in wanted],
        "placebo": control.model_dump(),
        "n_proposed": n_proposed,
        "captions": captions or {},
        "epsilon": epsilon,
        "delta": delta,
        "seed": seed,
    } | transformations_from_outside(wanted, control)
    after = [ALL_DATA, COMPARISON, SUBPOPULATIONS, CAPTIONS]
    stage = run.stage(EFFECTS, parameters, after=after)
    with stage.working() as needed:
        if needed:
            models = read_effect_models(run, device=device)
            check_hypotheses(wanted, models.dataset.class_names)
            test, given = models.dataset.test, (read_comparison(run), read_subpopulations(run))
            candidates = candidates_of(test, wanted) if models.n_models and n_proposed else {}
            found = proposals.propose(
                run, models.study, *given, candidates, captions or {}, seed=seed
            )
            cases = cases_of(wanted, best_of(found, n_proposed), candidates, len(test), seed)
            table, verdicts = measure(models, cases, control, epsilon, delta, seed)
            made = StudyEffects(table, verdicts, found)
            figures = effect_figures(made, models) | finding_figures(findings_of(run, made), models)
            stage.keep(tables=vars(made), figures=figures)
    return read_effects(run)


def read_effects(run: Run) -> StudyEffects:
    """What stage 07 wrote."""
    run.check(EFFECTS)
    tables = run.kept(EFFECTS)
    return StudyEffects(*(tables[field.name] for field in fields(StudyEffects)))


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
        cases.append(Case(*about, rows, h.uses))
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
VERDICT_COLUMNS |= {"uses": int, "outcome": str, "intensity": float, "unit": str}
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


def more_side(outcome: str) -> int:
    """The algorithm that an outcome says responds more; 0 where it says none does."""
    return int(outcome[-1]) if outcome.endswith(("1", "2")) else 0


def as_expected(uses: int, outcome: str) -> str:
    """What became of an expectation: "as expected", "not as expected", or "undecided"."""
    if outcome == "undecided":
        return outcome
    return "as expected" if more_side(outcome) == uses else "not as expected"


FINDING_KEYS = ["comparison", "direction", "end"]
EVIDENCE = {"evidence": "", "q": np.nan, "confirmed": "not tested"}


def read_findings(run: Run) -> pd.DataFrame:
    """What `findings_of` makes of what stage 07 wrote, and of what stage 10 has confirmed since."""
    return findings_of(run, read_effects(run))


def findings_of(run: Run, found: StudyEffects) -> pd.DataFrame:
    """Each end of a called direction with all that is known of it, findings first.

    Columns
    -------
    comparison, direction, end, class_name
    evidence, q
        Of stage 04.
    confirmed
        By models trained again: "confirmed", "not confirmed" or "not tested".
    caption
        The best one against the same class, "" without captions.
    transformation, match, moved
        What imitates the end best; "" where nothing surely does.
    hypothesis, outcome, intensity, unit, difference, difference_low, difference_high, …
        The verdict on it, as in `StudyEffects.verdicts`; "" and NaN where there is none.
    finding
        Whether all three agree: significant, not refuted by models trained again, and the
        algorithm that the direction names first surely responds more to the transformation.
    """
    compared, members = read_comparison(run), read_subpopulations(run)
    data = read_data(run, mmap=True)
    ends = proposals.called_ends(compared, members, data.test.labels)
    rows = [(*key, data.class_names[label]) for key, label, _ in ends]
    table = pd.DataFrame(rows, columns=[*FINDING_KEYS, "class_name"]).astype({"direction": int})
    known = [] if compared.gaps is None else [c for c in EVIDENCE if c in compared.gaps]
    if known:
        table = table.merge(compared.gaps[[*FINDING_KEYS[:2], *known]], how="left")
    table = table.assign(**{c: value for c, value in EVIDENCE.items() if c not in known})
    table = table.merge(best_captions(run), on=FINDING_KEYS, how="left")
    best = best_of(found.proposals, 1).drop(columns=["class_name", "n", "p", "q"])
    table = table.merge(best, on=FINDING_KEYS, how="left")
    verdicts = found.verdicts.drop_duplicates(["transformation", "class_name"])
    verdicts = verdicts.drop(columns=["p", "uses"])
    table = table.merge(verdicts, on=["transformation", "class_name"], how="left")
    words = ["caption", "transformation", "hypothesis", "source", "outcome", "unit", "placebo"]
    table[words] = table[words].fillna("")
    first = np.where(table["comparison"] == COMPARISONS[0], 1, 2)
    side = np.array([more_side(outcome) for outcome in table["outcome"]], int)
    table["finding"] = (side == first) & (table["confirmed"] != "not confirmed")
    order = ["finding", "match"]
    return table.sort_values(order, ascending=False, kind="stable", ignore_index=True)


def best_captions(run: Run) -> pd.DataFrame:
    """The first caption of each end against the same class, and whether it is stable."""
    table = run.kept(CAPTIONS).get("captions")
    if table is None or table.empty:
        return pd.DataFrame(columns=[*FINDING_KEYS, "caption"]).astype({"direction": int})
    first = table[(table["reference"] == "class") & (table["rank"] == 1)]
    unsure = np.where(first["stability"] < STABLE, " (not stable)", "")
    return first.assign(caption=first["caption"] + unsure)[[*FINDING_KEYS, "caption"]]


WORDS = {
    "only_1": "only {0} responds",
    "only_2": "only {1} responds",
    "more_1": "{0} responds more",
    "more_2": "{1} responds more",
    "alike": "both respond alike",
    "neither": "neither responds",
    "undecided": "undecided at this budget",
}


def word_of(outcome: str, names: tuple[str, str]) -> str:
    """What is said of an outcome of `mdhelpers.method.effects.verdict`."""
    return WORDS[outcome].format(*names)


def points(value: float, digits: int = 1) -> str:
    """A change in percentage points, with a sign; nothing is "0" and has none."""
    text = f"{value:+.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text[1:]


def sentence(row: dict[str, Any], names: tuple[str, str]) -> str:
    """A verdict, of `StudyEffects.verdicts`, as one would say it."""
    one, two = (f"{points(row[f'effect_{a}'])} points under {names[a - 1]}" for a in (1, 2))
    what = f"Applying {row['transformation'].replace('_', ' ')}"
    dose = f"{row['intensity']:g}{'' if row['unit'].startswith('%') else ' '}{row['unit']}"
    changes = f"{what} ({dose}) changes the confidence in {row['class_name']} by {one} and {two}"
    return f"{changes}: {word_of(row['outcome'], names)}."


def effect_figures(found: StudyEffects, models: EffectModels) -> dict[str, Any]:
    """Verdicts by hypothesis, and how many there are of each outcome."""
    figures: dict[str, Any] = {"n_models": models.n_models}
    for row in found.verdicts[found.verdicts["source"] == "study"].to_dict("records"):
        about = {key: value for key, value in row.items() if value == value}
        about["expected"] = as_expected(row["uses"], row["outcome"])
        about["text"] = sentence(row, models.names)
        about["word"] = word_of(row["outcome"], models.names)
        figures[row["hypothesis"]] = about | placebo_figures(found.effects, row)
    figures["n_proposed"] = int((found.verdicts["source"] == "proposed").sum())
    figures["outcomes"] = found.verdicts["outcome"].value_counts().to_dict()
    return figures


def placebo_figures(table: pd.DataFrame, row: dict) -> dict[str, float]:
    """The placebo's effects on the class at its largest intensity."""
    rows = table[(table["hypothesis"] == row["hypothesis"]) & (table["kind"] == "placebo")]
    rows = rows[(rows["class_name"] == row["class_name"])]
    rows = rows[rows["intensity"] == rows["intensity"].max()]
    names = {1: "placebo_effect_1", 2: "placebo_effect_2", 0: "placebo_difference"}
    return {names[r.algorithm]: r.effect for r in rows.itertuples()}


NO_FINDING = (
    "No finding: of no called direction did a transformation that imitates it move the algorithm "
    "that it names surely more"
)


FIRST_OF = "That is the first of {} findings, which nobody had to look for."


def finding_figures(table: pd.DataFrame, models: EffectModels) -> dict[str, Any]:
    """How many findings there are, each in a sentence, and the first as the headline."""
    rows = table[table["finding"]].drop_duplicates("hypothesis").to_dict("records")
    said = [sentence(row, models.names) for row in rows]
    return {
        "n_findings": len(rows),
        "n_ends": len(table),
        "findings": said,
        "headline": f"{said[0]} {FIRST_OF.format(len(said))}" if said else f"{NO_FINDING}.",
    }
