"""What a study would find: a feature of known strength, at several strengths and budgets.

That nothing was found means something only where it is known what would have been. A study whose
data have a feature spiked in (`mdhelpers.data.spikes`) is carried out with it at several strengths,
for several numbers of models, on several drawings of carriers and seeds. The models of a smaller
budget are the first of a larger one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.method.engines.moments import FEWEST_WHOLE
from mdhelpers.method.subpopulations import best_at_random, shows
from mdhelpers.runs.run import Run
from mdhelpers.stages import (
    captions,
    comparison,
    data,
    datamodels,
    effect_models,
    effects,
    models,
    subpopulations,
)
from mdhelpers.stages.checks import HALVES, OF_A_SLOT, check_study
from mdhelpers.stages.study import Study
from mdhelpers.training.tasks import choose_stack, resolve_device

LEVEL = 0.05
N_HELDOUT, N_EFFECT_MODELS = 16, 16  # nothing is graded here but what is found
OUTCOMES = ("found", "not found", "no difference", "undecided")


def studies_of(
    study: Study, strengths: Sequence[float], budgets: Sequence[int], drawings: int
) -> list[tuple[Study, dict[str, Any]]]:
    """The studies to carry out, checked, in an order in which models are extended.

    Each comes with its ``strength``, ``drawing`` and ``models``.

    Raises
    ------
    ValueError
        If the study has not one feature spiked in, and for what a study is refused for.
    """
    spikes = study.dataset.spike_in
    if len(spikes) != 1:
        raise ValueError(
            f"the study {study.study} has {len(spikes) or 'no'} features spiked in, and power is "
            "measured with one. Give dataset.spike_in, such as {transformation: tag, class: "
            "NAME, share: 0.1}"
        )
    found = []
    for drawing in range(drawings):
        for strength in sorted(strengths or [spikes[0].strength]):
            spike = spikes[0].model_dump() | {"intensity": strength}
            for budget in sorted(budgets or [study.n_models]):
                about = {"strength": strength, "drawing": drawing, "models": budget}
                each = with_spike(study, spike, drawing, budget, sorted(budgets or [budget]))
                if not drawing:  # others differ from the first by their seeds alone
                    check_study(each)
                found.append((each, about))
    return found


def with_spike(
    study: Study, spike: dict, drawing: int, budget: int, budgets: Sequence[int]
) -> Study:
    """One of the studies: another feature's strength, other seeds, another number of models."""
    given = study.model_dump() | {"seed": study.seed + drawing, "hypotheses": []}
    given["dataset"] |= {"spike_in": [spike], "seed": study.dataset.seed + drawing}
    enough = budget >= study.n_slots * HALVES * OF_A_SLOT and study.n_slots >= FEWEST_WHOLE
    given |= {"n_slots": study.n_slots if enough else 0, "n_models": budget}
    given |= {"n_heldout": N_HELDOUT, "n_kept": 0, "n_effect_models": N_EFFECT_MODELS}
    given |= {"n_null_splits": 1, "n_proposed": 0, "captions": {"model": "none"}}
    given["selection_sizes"] = [1]  # of a page that is not carried out
    together = [b for b in budgets if (b >= study.n_slots * HALVES * OF_A_SLOT) == enough]
    specs, device = (study.algorithm_1, study.algorithm_2), resolve_device(study.device)
    n = math.gcd(*(b + N_HELDOUT for b in together or [budget]))
    given["stack"] = choose_stack(specs, n, device)
    return Study.model_validate(given)


def measure_power(
    study: Study,
    *,
    strengths: Sequence[float] = (),
    budgets: Sequence[int] = (),
    drawings: int = 3,
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Carry the studies out, one row each; what is finished is read.

    Parameters
    ----------
    study
        With one feature in ``dataset.spike_in``.
    strengths
        Intensities of the feature; the spike's own where none are given.
    budgets
        Models of each algorithm; the study's where none are given.
    drawings
        How often carriers and all seeds are drawn.
    folder
        Where the runs go.

    Yields
    ------
    dict
        ``strength, drawing, models`` and what `row_of` says.
    """
    for each, about in studies_of(study, strengths, budgets, drawings):
        slots = "" if each.n_slots else "-own"
        name = f"{study.study}-{about['strength']:g}-{about['drawing']}{slots}"
        print(f"{name}: {about['models']} models of each algorithm", flush=True)
        yield about | row_of(carry_out(Run(name, runs_dir=folder), each), each)


def carry_out(run: Run, study: Study) -> Run:
    """Stages 01 to 07 of a study, without pages: what it finds, and of what is spiked in."""
    given, seed = study.model_dump(), {"seed": study.seed}

    def some(*names: str) -> dict[str, Any]:
        return {name: given[name] for name in names}

    who = some("device", "workers", "scheduler", "cluster")
    data.prepare_data(run, given["dataset"])
    about = some("n_models", "n_heldout", "n_kept", "n_slots", "alpha", "share_order", "stack")
    algorithms = given["algorithm_1"], given["algorithm_2"]
    models.train_models(run, *algorithms, **about, **seed, **who)
    about = some("method", "relative_to_class", "n_lams", "lam_min_ratio", "folds", "gradients")
    datamodels.fit_datamodels(run, **about, keep_gradients=True, **seed, **who)
    about = some("n_directions", "rotation", "n_splits", "n_null_splits")
    about |= some("top_k", "only_below", "alike_within")
    comparison.compare_algorithms(run, **about, device=study.device, **seed)
    subpopulations.inspect_subpopulations(run, top_k=study.top_k)
    captions.caption_directions(run, given["captions"], steps=study.caption_steps)
    effect_models.train_on_all(run, n_effect_models=study.n_effect_models, **who)
    about = some("placebo", "epsilon", "delta", "n_proposed", "captions", "device")
    effects.verify_hypotheses(run, given["hypotheses"], **about, **seed)
    return run


def row_of(run: Run, study: Study) -> dict[str, Any]:
    """What one study says of the feature that was spiked in.

    Returns
    -------
    dict
        ``effect_1, effect_2, difference`` in points, ``verdict`` of stage 07; of the end of a
        significant direction that shows the feature best, of the algorithm that responds more (of
        either, where none surely does): ``share``, of carriers among as many outermost images as
        carry it, and ``auc`` within class, NaN where none is significant; ``random``, the share
        that the best of as many random directions reaches; ``evidence``, the best there is; and
        ``outcome``: "found" where one algorithm surely responds more, and ``share`` is above
        ``random``; "not found" where it is not; "no difference" or "undecided" where the verdict is
        so, and there is nothing to find, or it is not known.
    """
    feature = study.dataset.spike_in[0].name
    verdict = effects.read_effects(run).verdicts.iloc[0]
    compared = comparison.read_comparison(run)
    grades = run.kept(effects.SUBPOPULATIONS)["grades"]
    grades = grades[grades["feature"] == feature]
    grades = grades.merge(compared.gaps, on=["comparison", "direction"])
    side = effects.more_side(verdict["outcome"])
    names = [COMPARISONS[side - 1]] if side else list(COMPARISONS)
    own = grades[grades["comparison"].isin(names)]
    sure = own[own["q"] < LEVEL].sort_values(["precision_at_k", "auc_within_class"])
    row = verdict[["effect_1", "effect_2", "difference"]].to_dict()
    row |= {"verdict": verdict["outcome"], "share": float("nan"), "auc": float("nan")}
    row["random"] = max(random_share(run, compared, name, feature) for name in names)
    row["evidence"] = next((w for w in ("strong", "weak") if w in set(own["evidence"])), "none")
    if len(sure):
        best = sure.iloc[-1]
        row |= {"share": best["precision_at_k"], "auc": best["auc_within_class"]}
    seen = bool(shows(row["share"], row["random"]))
    undecided = verdict["outcome"] == "undecided"
    none = "undecided" if undecided else "no difference"
    return row | {"outcome": ("found" if seen else "not found") if side else none}


def random_share(run: Run, compared: comparison.StudyComparison, name: str, feature: str) -> float:
    """Of carriers at the best end of as many random directions as there are."""
    test = data.read_data(run, mmap=True).test
    about = {"n_directions": len(compared.comparison[name]), "measure": "precision_at_k"}
    given = test.labels, test.truth[[feature]]
    return best_at_random(name, *compared.datamodels, *given, **about)[feature]


def summary(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """In how many drawings what became of it, by strength and number of models.

    Columns
    -------
    strength, models, drawings
    difference
        Median, in points: effect under algorithm 1 less that under 2.
    share, random, auc
        Medians over drawings, of those with a significant direction.
    found, not found, no difference, undecided
        Drawings.
    """
    found = []
    for key, part in pd.DataFrame(rows).groupby(["strength", "models"]):
        row = dict(zip(("strength", "models"), key, strict=True)) | {"drawings": len(part)}
        row |= part[["difference", "share", "random", "auc"]].median().to_dict()
        counts = part["outcome"].value_counts()
        found.append(row | {word: int(counts.get(word, 0)) for word in OUTCOMES})
    return pd.DataFrame(found)
