"""Verdicts on planted features over drawings of the data, with hypotheses and without.

Each data seed is a study of its own: other pictures, other models. The truth is measured on further
models, which the verdicts do not see: a feature *differs* where their effects differ by at least
ten points at the intensity where they differ most. A verdict is right, missed (it says too little)
or wrong (it says a difference that is none, or the other way). Without hypotheses it is asked which
features the first findings of either side have, and what random subpopulations would propose.

    python benchmarks/verdicts.py parameters/augmentation.yaml --seeds 10 --folder runs/verdicts \\
        --out FILE

Rows that FILE has already are kept unless they are measured anew. ``--quick`` takes one drawing and
few models.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from mdhelpers.base.places import machine
from mdhelpers.command.files import complete, merge
from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.runs.run import Run
from mdhelpers.stages import (
    captions,
    comparison,
    data,
    datamodels,
    effect_cases,
    effect_models,
    effects,
    models,
    proposals,
)
from mdhelpers.stages.study import Study
from mdhelpers.stages.subpopulations import inspect_subpopulations, read_subpopulations
from mdhelpers.training.mask_training import retrain, retraining
from mdhelpers.training.tasks import load_kept

DIFFERENCE = 10.0
TRUTH_KEY = 3_000_000  # of models that only the truth is measured on


def prepare(study: Study, seed: int, folder: Path, workers: int) -> Run:
    """All stages of one drawing up to models on all data; resumes where it was."""
    run = Run(f"{study.study}-seed{seed}", runs_dir=folder)
    given = study.model_dump()
    data.prepare_data(run, given["dataset"] | {"seed": seed})
    names = ("n_models", "n_heldout", "n_kept", "n_slots", "alpha")
    sizes = {name: given[name] for name in names}
    algorithms = given["algorithm_1"], given["algorithm_2"]
    models.train_models(run, *algorithms, **sizes, seed=seed, workers=workers)
    datamodels.fit_datamodels(
        run, method="auto", gradients=given["gradients"], seed=seed, workers=workers
    )
    comparison.compare_algorithms(run, n_splits=4, n_null_splits=1, seed=seed)
    inspect_subpopulations(run)
    captions.caption_directions(run, given["captions"], steps=study.caption_steps)
    effect_models.train_on_all(run, n_effect_models=study.n_effect_models, workers=workers)
    return run


def truth(run: Run, study: Study, workers: int) -> dict[str, float]:
    """Effect on 1 less that on 2 of each hypothesis, where largest, on models of its own."""
    found = effect_models.read_effect_models(run)
    plan, *which = effect_models.on_all(found.study, found.n_models, TRUTH_KEY)
    about = {"name": "truth", "keep": True}
    for a in (1, 2):
        retrain(plan, a, *which, **about, workers=workers)
    plans = tuple(retraining(plan, a, *which, **about)[0] for a in (1, 2))
    about = {"epsilon": study.epsilon, "delta": study.delta}
    given = Others(found.study, plans), study.hypotheses, study.placebo
    table, _ = effect_cases.measure_hypotheses(*given, **about)
    rows = table[(table["kind"] == "feature") & (table["algorithm"] == 0)]
    rows = rows.merge(targets(study))
    most = rows.loc[rows.groupby("hypothesis")["effect"].apply(lambda e: e.abs().idxmax())]
    return dict(zip(most["hypothesis"], most["effect"], strict=True))


class Others(effect_models.EffectModels):
    """Models that no stage knows, whose checkpoints no manifest has digests of."""

    def kept(self, algorithm: int):
        return load_kept(self.plans[algorithm - 1], algorithm, self.n_models)


def targets(study: Study) -> pd.DataFrame:
    rows = [(h.name, h.target_class) for h in study.hypotheses]
    return pd.DataFrame(rows, columns=["hypothesis", "class_name"])


def grade(outcome: str, difference: float, epsilon: float) -> str:
    """Right, missed or wrong; "near" where the truth is neither a difference nor none."""
    side = effects.more_side(outcome)
    if abs(difference) >= DIFFERENCE:
        if not side:
            return "missed"
        return "right" if side == (1 if difference > 0 else 2) else "wrong"
    if abs(difference) > epsilon:
        return "near" if side in (0, 1 if difference > 0 else 2) else "wrong"
    return "wrong" if side else ("right" if outcome in ("alike", "neither") else "missed")


def verdict_rows(run: Run, study: Study, differences: dict[str, float], seed: int) -> list[dict]:
    given = study.model_dump()
    about = {"epsilon": study.epsilon, "delta": study.delta, "n_proposed": 0}
    hypotheses = given["hypotheses"]
    found = effects.verify_hypotheses(run, hypotheses, placebo=given["placebo"], **about)
    return [
        {
            "study": study.study,
            "seed": seed,
            "feature": row.hypothesis,
            "truth": differences[row.hypothesis],
            "difference": row.difference,
            "verdict": row.outcome,
            "grade": grade(row.outcome, differences[row.hypothesis], study.epsilon),
            "placebo": row.placebo,
        }
        for row in found.verdicts.itertuples()
    ]


def finding_rows(run: Run, study: Study, seed: int) -> list[dict]:
    """The findings of one drawing without hypotheses, in their order, by side."""
    about = {"epsilon": study.epsilon, "delta": study.delta, "captions": {"model": "auto"}}
    effects.verify_hypotheses(run, [], **about)
    table = effects.read_findings(run)
    rows = []
    for name in COMPARISONS:
        found = table[table["finding"] & (table["comparison"] == name)]
        first = found.head(1).to_dict("records")
        rows.append(
            {
                "study": study.study,
                "seed": seed,
                "comparison": name,
                "n_called": int((table["comparison"] == name).sum()),
                "n_findings": len(found),
                "first": first[0]["hypothesis"] if first else "",
                "transformations": sorted(set(found["hypothesis"])),
            }
        )
    return rows


def random_row(run: Run, study: Study, seed: int) -> dict:
    """How many of as many random subpopulations anything is proposed for."""
    found, models_ = comparison.read_comparison(run), effect_models.read_effect_models(run)
    test, rng = models_.dataset.test, np.random.default_rng([seed, 15])
    members = read_subpopulations(run)
    parts = []
    for _, rows in members.groupby(["comparison", "direction", "end"], sort=False):
        label = np.bincount(test.labels[rows["index"]]).argmax()
        drawn = rng.choice(np.flatnonzero(test.labels == label), len(rows), replace=False)
        parts.append(rows.assign(index=drawn))
    every = replace(found, gaps=None)
    candidates = effect_cases.candidates_of(test, [])
    given = pd.concat(parts), candidates, {"model": "auto"}
    table = proposals.propose(run, models_.study, every, *given, seed=seed)
    proposed = effect_cases.best_of(table, 1)
    return {
        "study": study.study,
        "seed": seed,
        "n_random": len(parts),
        "n_proposed": len(proposed),
        "transformations": proposed["transformation"].tolist(),
    }


GRADES = ("right", "missed", "near", "wrong")


def summaries(found: dict) -> dict[str, list[dict]]:
    """Rows for a page: grades by feature, first findings by side, and random subpopulations."""
    verdicts, rows = pd.DataFrame(found["verdicts"]), []
    for (study, feature), part in verdicts.groupby(["study", "feature"], sort=False):
        counts = part["grade"].value_counts()
        row = {"study": study, "feature": feature, "drawings": len(part)}
        row |= {"truth": part["truth"].median(), "least": part["truth"].abs().min()}
        row |= {grade: int(counts.get(grade, 0)) for grade in GRADES}
        neither = int((part["placebo"] == "neither").sum())
        rows.append(row | {"most": part["truth"].abs().max(), "placebo neither": neither})
    findings, sides = pd.DataFrame(found["findings"]), []
    for (study, name), part in findings.groupby(["study", "comparison"], sort=False):
        firsts = part["first"].replace("", "none").value_counts().to_dict()
        said = ", ".join(f"{what} {n}" for what, n in firsts.items())
        about = {"study": study, "comparison": name, "drawings": len(part), "first": said}
        sides.append(about | {"findings": part["n_findings"].mean()})
    random = pd.DataFrame(found["random"]).groupby("study", sort=False)
    drawn = random[["n_random", "n_proposed"]].sum().reset_index().to_dict("records")
    return {"by_feature": rows, "by_side": sides, "by_chance": drawn}


def bars(found: dict) -> list[dict]:
    verdicts = pd.DataFrame(found["verdicts"])
    differs = verdicts[verdicts["truth"].abs() >= DIFFERENCE]
    none = verdicts[verdicts["truth"].abs() < DIFFERENCE]
    rows = [
        ("planted features that differ: right", (differs["grade"] == "right").mean(), 1.0),
        ("features alike: not called a difference", (none["grade"] != "wrong").mean(), 1.0),
        ("placebos: neither", (verdicts["placebo"] == "neither").mean(), 0.95),
    ]
    rows = [(*row, bool(row[1] >= row[2])) for row in rows if row[1] == row[1]]
    return [dict(zip(("what", "value", "aim", "met"), row, strict=True)) for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("studies", nargs="*", default=["parameters/augmentation.yaml"], type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/verdicts"))
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    kinds = ("verdicts", "findings", "random")
    found = {kind: [] for kind in kinds}
    if given.out and given.out.exists():
        found |= {k: v for k, v in json.loads(given.out.read_text()).items() if k in kinds}
    overlays = [Path("parameters/smoke.yaml")] if given.quick else []
    for file in given.studies:
        study, _ = complete(merge(file, overlays), Study)
        for seed in range(given.first, 1 if given.quick else given.seeds):
            start = time.perf_counter()
            run = prepare(study, seed, given.folder, given.workers)
            rows = {
                "verdicts": verdict_rows(run, study, truth(run, study, given.workers), seed),
                "findings": finding_rows(run, study, seed),
                "random": [random_row(run, study, seed)],
            }
            for kind in kinds:
                old = [r for r in found[kind] if (r["study"], r["seed"]) != (study.study, seed)]
                found[kind] = old + rows[kind]
            print(pd.DataFrame(rows["verdicts"]).round(1).to_string(index=False))
            print(pd.DataFrame(rows["findings"]).to_string(index=False))
            print(rows["random"], f"{time.perf_counter() - start:.0f} s", flush=True)
            if given.out:
                about = {"machine": machine(), **found, **summaries(found), "bars": bars(found)}
                given.out.write_text(json.dumps(about, indent=1) + "\n")
    print(pd.DataFrame(bars(found)).to_string(index=False))


if __name__ == "__main__":
    main()
