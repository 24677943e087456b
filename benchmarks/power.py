"""In how many drawings of the data planted features are found, by the number of models.

Each data seed is a study of its own: other pictures, other models. A feature counts where its
treatment effect differs between the algorithms by at least ten points; it is found where a
direction that is called significant at 5% sorts its carriers from others of their class with an AUC
of 0.9.

    python benchmarks/power.py parameters/augmentation.yaml --models 128 256 --seeds 10
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from mdhelpers import stages
from mdhelpers.comparison import compare
from mdhelpers.crossfit import cross_fitted_gaps, fitter
from mdhelpers.datamodels import method_for
from mdhelpers.machine import machine
from mdhelpers.runs import Run
from mdhelpers.slots import split_models
from mdhelpers.studies import Study
from mdhelpers.studyfiles import complete, merge
from mdhelpers.subpopulations import grade
from mdhelpers.verification import verify_hypotheses

LEVEL, DIFFERENCE, FOUND, AIM = 0.05, 10.0, 0.9, 0.9
N_KEPT, N_SPLITS = 16, 4
MODEL_KEYS = ("algorithm_1", "algorithm_2", "alpha", "n_slots")


def train(study: Study, seed: int, n_models: int, folder: Path) -> tuple[Run, stages.StudyModels]:
    """A study of one drawing of the data; resumes where it was."""
    run = Run(f"{study.study}-seed{seed}", runs_dir=folder)
    stages.prepare_data(run, study.dataset.model_dump() | {"seed": seed})
    given = study.model_dump()
    parameters = {key: given[key] for key in MODEL_KEYS}
    parameters |= {"n_models": n_models, "n_heldout": N_KEPT, "n_effect_models": N_KEPT}
    return run, stages.train_models(run, parameters | {"seed": seed})


def differences(run: Run, study: Study) -> dict[str, float]:
    """Effect on 1 less that on 2 of each hypothesis, at its largest intensity, in points."""
    given = study.model_dump()
    found = verify_hypotheses(run, given["hypotheses"], placebo=given["placebo"]).table
    rows = found[(found["kind"] == "feature") & (found["algorithm"] == 0)]
    return rows.sort_values("intensity").groupby("hypothesis")["effect"].last().to_dict()


def directions(models: stages.StudyModels, budget: int, seed: int):
    """Grades of every direction from so many models, and which are significant."""
    fitting = [models.fitting(a) for a in (1, 2)]
    slots = fitting[0].slots
    rng = np.random.default_rng(seed)
    rows = np.arange(len(slots))
    if budget < len(slots):
        rows = split_models(len(slots), len(slots) // budget, rng, slots)[0]
    method = method_for(len(rows), models.plan.n_train)
    fits = [
        fitter(f.masks[rows], models.outputs(f, True)[rows], slots=slots[rows], method=method)
        for f in fitting
    ]
    everyone = np.arange(len(rows))
    comparison = compare(*(fit(everyone) for fit in fits))
    options = {"n_splits": N_SPLITS, "slots": slots[rows], "seed": seed}
    table = cross_fitted_gaps(*fits, len(rows), comparison=comparison, **options).directions
    test, called = models.dataset.test, set()
    for row in table[table["q"] < LEVEL].itertuples():
        called.add((row.comparison, row.direction))
    return {c.name: grade(c, test.labels, test.truth) for c in comparison}, called


def measure(run: Run, models, study: Study, budgets: list[int], seed: int) -> list[dict]:
    effects, rows = differences(run, study), []
    for budget in budgets:
        grades, called = directions(models, budget, seed)
        for feature, difference in effects.items():
            name = "1_minus_2" if difference > 0 else "2_minus_1"
            table = grades[name][grades[name]["feature"] == feature]
            sure = [(name, d) in called for d in table["direction"]]
            best = table.loc[sure, "auc_within_class"].max() if any(sure) else 0.0
            row = {"seed": seed, "models": budget, "feature": feature, "difference": difference}
            row |= {"auc": float(best), "auc_any": float(table["auc_within_class"].max())}
            rows.append(row | {"significant": len(called)})
    return rows


def summarise(rows: list[dict]) -> list[dict]:
    """For each budget and feature, in how many data seeds it differs, and is found there."""
    found = []
    for budget, feature in sorted({(r["models"], r["feature"]) for r in rows}):
        these = [r for r in rows if (r["models"], r["feature"]) == (budget, feature)]
        differ = [r for r in these if abs(r["difference"]) >= DIFFERENCE]
        row = {"models": budget, "feature": feature, "seeds": len(these), "differs": len(differ)}
        row["found"] = sum(r["auc"] >= FOUND for r in differ)
        row["auc"] = float(np.median([r["auc"] for r in differ])) if differ else None
        row["difference"] = float(np.median([r["difference"] for r in these]))
        row["found where it does not differ"] = sum(
            r["auc"] >= FOUND for r in these if abs(r["difference"]) < DIFFERENCE
        )
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file of scenes with hypotheses")
    parser.add_argument("--models", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("runs/power"))
    parser.add_argument("--quick", action="store_true", help="two data seeds, 64 models")
    parser.add_argument("--out", type=Path, help="write JSON here, after every data seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, _ = complete(merge(options.study), Study)
    budgets = [64] if options.quick else sorted(options.models)
    rows = []
    for seed in range(2 if options.quick else options.seeds):
        start = time.perf_counter()
        run, models = train(study, seed, budgets[-1], options.folder)
        rows += measure(run, models, study, budgets, seed)
        print(f"data seed {seed}: {time.perf_counter() - start:.0f} s", rows[-3:], flush=True)
        report = {"machine": machine(), "study": study.study, "rows": summarise(rows)}
        report |= {"each": rows, "bars": bars_of(summarise(rows))}
        if options.out:
            options.out.write_text(json.dumps(report, indent=2))
    for row in summarise(rows):
        print(row)


def bars_of(rows: list[dict]) -> list[dict]:
    bars = []
    for row in rows:
        if row["differs"]:
            what = f"share of data seeds that show {row['feature']}, {row['models']} models"
            share = row["found"] / row["differs"]
            bars.append({"what": what, "value": share, "aim": AIM, "met": share >= AIM})
    return bars


if __name__ == "__main__":
    main()
