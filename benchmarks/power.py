"""In how many drawings of the data planted features are found, by the number of models.

Each data seed is a study of its own: other pictures, other models. A feature counts where its
treatment effect differs between the algorithms by at least ten points; it is found where a
direction that is called significant at 5% sorts its carriers from others of their class with an AUC
of 0.9.

    python benchmarks/power.py parameters/augmentation.yaml --models 256 512 --seeds 10 --out FILE

Rows that FILE has already are kept unless they are measured anew, so that larger budgets can be
added for fewer data seeds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mdhelpers.base.places import machine
from mdhelpers.command.files import complete, merge
from mdhelpers.method.comparison import compare
from mdhelpers.method.crossfit import cross_fitted_gaps, in_order
from mdhelpers.method.datamodels import Fitter, method_for
from mdhelpers.method.engines.moments import split_models
from mdhelpers.method.subpopulations import grade
from mdhelpers.runs.run import Run
from mdhelpers.stages import data
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.effects import verify_hypotheses
from mdhelpers.stages.study import Study

LEVEL, DIFFERENCE, FOUND, AIM = 0.05, 10.0, 0.9, 0.9
N_KEPT, N_SPLITS = 16, 4


def train(
    study: Study, seed: int, n_models: int, folder: Path, *, workers: int = 0
) -> tuple[Run, stages_models.StudyModels]:
    """A study of one drawing of the data; resumes where it was, and extends a smaller one."""
    run = Run(f"{study.study}-seed{seed}", runs_dir=folder)
    data.prepare_data(run, study.dataset.model_dump() | {"seed": seed})
    models = stages_models.train_models(
        run,
        study.algorithm_1.model_dump(),
        study.algorithm_2.model_dump(),
        n_models=n_models,
        n_heldout=N_KEPT,
        n_effect_models=N_KEPT,
        alpha=study.alpha,
        n_slots=study.n_slots,
        seed=seed,
        workers=workers,
    )
    return run, models


def differences(run: Run, study: Study) -> dict[str, float]:
    """Effect on 1 less that on 2 of each hypothesis, at its largest intensity, in points."""
    given = study.model_dump()
    found = verify_hypotheses(run, given["hypotheses"], placebo=given["placebo"]).table
    rows = found[(found["kind"] == "feature") & (found["algorithm"] == 0)]
    return rows.sort_values("intensity").groupby("hypothesis")["effect"].last().to_dict()


def directions(
    models: stages_models.StudyModels, budget: int, seed: int
) -> tuple[dict[str, pd.DataFrame], dict[str, dict[int, float]]]:
    """Grades of every direction from so many models; ratios of the significant, surest first."""
    fitting = [models.fitting(a) for a in (1, 2)]
    slots = fitting[0].slots
    rng = np.random.default_rng(seed)
    rows = np.arange(len(slots))
    if budget < len(slots):
        rows = split_models(len(slots), len(slots) // budget, rng, slots)[0]
    method = method_for(len(rows), models.plan.n_train)
    fits = [
        Fitter(f.masks[rows], models.outputs(f, True)[rows], slots=slots[rows], method=method)
        for f in fitting
    ]
    everyone = np.arange(len(rows))
    comparison = compare(*(fit(everyone) for fit in fits))
    options = {"n_splits": N_SPLITS, "slots": slots[rows], "seed": seed}
    table = cross_fitted_gaps(*fits, len(rows), comparison=comparison, **options).directions
    sure, test = in_order(table[table["q"] < LEVEL]), models.dataset.test
    sides = {c.name: sure[sure["comparison"] == c.name] for c in comparison}
    called = {side: dict(zip(t["direction"], t["ratio"], strict=True)) for side, t in sides.items()}
    return {c.name: grade(c, test.labels, test.truth) for c in comparison}, called


def measure(run: Run, models, study: Study, budgets: list[int], seed: int) -> list[dict]:
    effects, rows = differences(run, study), []
    for budget in budgets:
        grades, called = directions(models, budget, seed)
        for feature, difference in effects.items():
            row = {"seed": seed, "models": budget, "feature": feature, "difference": difference}
            name = "1_minus_2" if difference > 0 else "2_minus_1"
            row |= shown(grades[name], called[name], feature)
            rows.append(row | {"significant": sum(map(len, called.values()))})
    return rows


def shown(grades: pd.DataFrame, called: dict[int, float], feature: str) -> dict:
    """How well a feature is seen in significant directions, and the first that shows it."""
    auc = grades[grades["feature"] == feature].groupby("direction")["auc_within_class"].max()
    clear = [(rank, ratio) for rank, (d, ratio) in enumerate(called.items(), 1) if auc[d] >= FOUND]
    return {
        "auc": float(auc[list(called)].max()) if called else 0.0,
        "auc_any": float(auc.max()),
        "rank": clear[0][0] if clear else None,
        "ratio": max(ratio for _, ratio in clear) if clear else None,
    }


def summarise(rows: list[dict]) -> list[dict]:
    """For each budget and feature, in how many data seeds it differs, and is found there."""
    found = []
    for budget, feature in sorted({(r["models"], r["feature"]) for r in rows}):
        these = [r for r in rows if (r["models"], r["feature"]) == (budget, feature)]
        differ = [r for r in these if abs(r["difference"]) >= DIFFERENCE]
        alike = [r for r in these if abs(r["difference"]) < DIFFERENCE]
        row = {"models": budget, "feature": feature, "seeds": len(these), "differs": len(differ)}
        row["difference"] = float(np.median([r["difference"] for r in these]))
        row["significant"] = float(np.median([r["significant"] for r in these]))
        found.append(row | seen(differ, "found") | seen(alike, "found where alike"))
    return found


def seen(rows: list[dict], name: str) -> dict:
    """In how many of some data seeds a feature is found, how clearly, and how early."""
    if not rows:
        return {name: None}
    clear = [r for r in rows if r["rank"] is not None]
    summary = {name: len(clear)}
    if name == "found":
        for key in ("auc", "auc_any"):
            summary[key] = float(np.median([r[key] for r in rows]))
        for key in ("rank", "ratio"):
            summary[key] = float(np.median([r[key] for r in clear])) if clear else None
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file of scenes with hypotheses")
    parser.add_argument("--models", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("runs/power"))
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one a core")
    parser.add_argument("--quick", action="store_true", help="two data seeds, 128 models")
    parser.add_argument("--out", type=Path, help="write JSON here, after every data seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, _ = complete(merge(options.study), Study)
    budgets = [128] if options.quick else sorted(options.models)
    rows = kept_rows(options.out, study.study)
    for seed in range(2 if options.quick else options.seeds):
        start = time.perf_counter()
        run, models = train(study, seed, budgets[-1], options.folder, workers=options.workers)
        new = measure(run, models, study, budgets, seed)
        made = {(r["seed"], r["models"]) for r in new}
        rows = [r for r in rows if (r["seed"], r["models"]) not in made] + new
        print(f"data seed {seed}: {time.perf_counter() - start:.0f} s", flush=True)
        if options.out:
            options.out.write_text(json.dumps(report(study, rows), indent=2))
    for row in summarise(rows):
        print(row)


def kept_rows(path: Path | None, study: str) -> list[dict]:
    """What an earlier call measured."""
    if not path or not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["study"] != study:
        raise SystemExit(f"{path} is of the study {found['study']}; give another --out")
    return found["each"]


def report(study: Study, rows: list[dict]) -> dict:
    found = summarise(rows)
    about = {"machine": machine(), "study": study.study, "default": study.n_models}
    about |= {"names": [study.algorithm_1.name, study.algorithm_2.name]}
    return about | {"rows": found, "each": rows, "bars": bars_of(found)}


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
