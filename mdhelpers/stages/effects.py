"""Stage 07: what a transformation does to each algorithm, and the verdict on every finding.

Models that were trained on the whole training set (`mdhelpers.stages.effect_models`) see the test
images with and without each transformation: those of the study's hypotheses, and those that imitate
the ends of directions (`mdhelpers.stages.proposals`); `mdhelpers.stages.effect_cases` measures. A
placebo stands beside each. A direction is a *finding* where its evidence, the models trained again
and the verdict agree (`read_findings`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.base.places import typeset
from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import Dataset
from mdhelpers.data.transform_kinds import color_word
from mdhelpers.method.captions import STABLE
from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import ALL_DATA, CAPTIONS, COMPARISON, EFFECTS, SUBPOPULATIONS
from mdhelpers.stages import proposals
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.data import read_data
from mdhelpers.stages.effect_cases import (
    best_of,
    candidates_of,
    cases_of,
    measure,
)
from mdhelpers.stages.effect_models import EffectModels, read_effect_models
from mdhelpers.stages.outside import transformations_from_outside
from mdhelpers.stages.study import Hypothesis, Placebo, check_hypotheses
from mdhelpers.stages.subpopulations import read_subpopulations


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
        One row per hypothesis: ``hypothesis, source`` ("study" or "proposed"), ``transformation,
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
    if compared_directions(run) > proposals.N_DIRECTIONS:
        parameters["proposed_from"] = proposals.N_DIRECTIONS
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
            table = findings_of(run, made)
            figures = effect_figures(made, models) | finding_figures(table, models)
            recovery = recovery_of(table, made.verdicts, models.dataset)
            figures["recovery"] = recovery.to_dict("records")
            stage.keep(tables=vars(made), figures=figures)
    return read_effects(run)


def compared_directions(run: Run) -> int:
    """How many directions of either side stage 04 was asked for."""
    return run.manifest(COMPARISON).get("parameters", {}).get("n_directions", 0)


def read_effects(run: Run) -> StudyEffects:
    """What stage 07 wrote."""
    run.check(EFFECTS)
    tables = run.kept(EFFECTS)
    return StudyEffects(*(tables[field.name] for field in fields(StudyEffects)))


def more_side(outcome: str) -> int:
    """The algorithm that an outcome says responds more; 0 where it says none does."""
    return int(outcome[-1]) if outcome.endswith(("1", "2")) else 0


def as_expected(uses: float, outcome: str) -> str:
    """What became of an expectation: "as expected", "not as expected", or "undecided".

    It is "" where nothing was expected, ``uses`` being NaN.
    """
    if uses != uses:
        return ""
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
    return typeset(f"{value:+.{digits}f}")


ADDED = {
    "black_white_patch": "a black and white patch",
    "cross": "a cross",
    "dots": "dots",
    "frame": "a frame",
    "noise": "noise",
    "patch": "a patch",
    "pattern": "a pattern",
    "rectangles": "rectangles",
    "ring": "a ring",
    "scrambled_square": "a scrambled square",
    "square": "a square",
    "stripes": "stripes",
    "tag": "a tag",
    "tint": "a tint",
    "web": "a web",
    "yellow_square": "a yellow square",
}  # what a person would call these transformations


COLORED = re.compile(r"(\w+) \((\d+), (\d+), (\d+)\)")  # as a transformation is named


def applied(name: str) -> str:
    """A transformation as something that one does."""
    if name in ADDED:
        return f"Adding {ADDED[name]}"
    if (colored := COLORED.fullmatch(name)) and ADDED.get(colored[1], "").startswith("a "):
        shade = color_word(tuple(map(int, colored.groups()[1:])))
        return f"Adding a{'n' if shade[0] in 'aeiou' else ''} {shade} {colored[1]}"
    return f"Applying {name.replace('_', ' ')}"


def sentence(row: dict[str, Any], names: tuple[str, str]) -> str:
    """A verdict, of `StudyEffects.verdicts`, as one would say it."""
    one, two = (f"{names[a - 1]} models {certain(row[f'effect_{a}'])}" for a in (1, 2))
    dose = f"{row['intensity']:g}{'' if row['unit'].startswith('%') else ' '}{row['unit']}"
    changes = f"{applied(row['transformation'])} ({dose}) makes {one} of {row['class_name']}"
    return f"{changes}, and {two}: {word_of(row['outcome'], names)}."


def certain(effect: float) -> str:
    """A change of confidence in words, of percentage points."""
    return f"{abs(effect):.1f} points {'less' if round(effect, 1) < 0 else 'more'} certain"


def headline(row: dict[str, Any], names: tuple[str, str]) -> str:
    """A finding as one would tell it to a friend."""
    first = more_side(row["outcome"])
    strong, weak = (row[f"effect_{a}"] for a in (first, 3 - first))
    changes = f"makes {names[first - 1]} models {abs(strong):.0f} points "
    changes += f"{'less' if strong < 0 else 'more'} certain that it is “{row['class_name']}”"
    little = f"{'less' if weak < 0 else 'more'} certain by {abs(weak):.0f}"
    other = f"{names[2 - first]} models "
    other += "hardly change" if abs(weak) < HARDLY else f"become {little}"
    return f"{applied(row['transformation'])} to a picture {changes}; {other}."


HARDLY = 2.0  # percentage points


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
    "No finding: nothing that imitates a direction moves the models of the algorithm that it names "
    "surely more than the other's"
)


RECOVERY = ["feature", "class_name", "outcome", "found_by", "grade"]


def recovery_of(table: pd.DataFrame, verdicts: pd.DataFrame, data: Dataset) -> pd.DataFrame:
    """Planted features against what is called a finding; no rows where no truth is known.

    Parameters
    ----------
    table
        Of `findings_of`.
    verdicts
        Of `StudyEffects`.
    data
        Whose test images' metadata say which features are planted.

    Returns
    -------
    DataFrame
        ``feature, class_name`` (that it marks), ``outcome`` of its hypothesis, ``found_by`` (the
        first direction that is a finding of it, "" for none) and ``grade``: "right" where one
        algorithm responds more and a finding says so, or neither is the case; "missed" where no
        finding says it; "wrong" where one says what the verdict does not; "undecided".
    """
    truth, labels, rows = data.test.truth, data.test.labels, []
    for feature in truth:
        label = int(np.bincount(labels[truth[feature].to_numpy()]).argmax())
        told = verdicts[(verdicts["transformation"] == feature) & (verdicts["source"] == "study")]
        told = told[told["class_name"] == data.class_names[label]]
        if told.empty:
            continue
        outcome = told["outcome"].iloc[0]
        named = table["finding"] & (table["transformation"] == feature)
        found = table[named & (table["class_name"] == data.class_names[label])]
        by = [f"{r.comparison} {r.direction} {r.end}" for r in found.head(1).itertuples()]
        side, grade = more_side(outcome), "undecided"
        if outcome != "undecided":
            grade = "right" if bool(side) == bool(by) else ("missed" if side else "wrong")
        rows.append((feature, data.class_names[label], outcome, "".join(by), grade))
    return pd.DataFrame(rows, columns=RECOVERY)


def finding_figures(table: pd.DataFrame, models: EffectModels) -> dict[str, Any]:
    """How many findings there are, each in a sentence, and the largest as the headline."""
    rows = table[table["finding"]].drop_duplicates("hypothesis").to_dict("records")
    said = [sentence(row, models.names) for row in rows]
    largest = max(rows, key=lambda row: abs(row["difference"]), default=None)
    return {
        "n_findings": len(rows),
        "n_ends": len(table),
        "findings": said,
        "headline": headline(largest, models.names) if largest else f"{NO_FINDING}.",
    }
