"""What is said of planted features in drawings of the data, by the number of models.

Each data seed is a study of its own: other pictures, other models. A feature *differs* where its
treatment effect differs between the algorithms by at least ten points. It is *seen* where the best
of eight directions sorts its carriers from others of their class better than the best of eight
random directions does in 95 of 100 cases, or nearly wholly (AUC above 0.99). Then who uses what
marks that direction's subpopulation is told in a word (`mdhelpers.method.uses`), which is right,
open or wrong.

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
from mdhelpers.method.comparison import COMPARISONS, compare
from mdhelpers.method.crossfit import cross_fitted_gaps, in_order
from mdhelpers.method.datamodels import Fitter, method_for
from mdhelpers.method.engines.moments import split_models
from mdhelpers.method.subpopulations import shows
from mdhelpers.runs.run import Run
from mdhelpers.stages import data
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.effect_cases import measure_hypotheses
from mdhelpers.stages.effect_models import train_on_all
from mdhelpers.stages.study import Study
from mdhelpers.stages.subpopulations import grade_figures, graded

LEVEL, DIFFERENCE, AIM = 0.05, 10.0, 0.9
N_KEPT, N_SPLITS = 16, 4
N_SLOTS = 32  # whatever the study has: budgets are parts of one drawing's models


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
        n_kept=N_KEPT,
        alpha=study.alpha,
        n_slots=N_SLOTS,
        seed=seed,
        workers=workers,
    )
    return run, models


def differences(run: Run, study: Study) -> dict[str, float]:
    """Effect on 1 less that on 2 of each hypothesis, at its largest intensity, in points."""
    models = train_on_all(run, n_effect_models=N_KEPT)
    about = {"epsilon": study.epsilon, "delta": study.delta}
    found, _ = measure_hypotheses(models, study.hypotheses, study.placebo, **about)
    targets = [(h.name, h.target_class) for h in study.hypotheses]
    found = found.merge(pd.DataFrame(targets, columns=["hypothesis", "class_name"]))
    rows = found[(found["kind"] == "feature") & (found["algorithm"] == 0)]
    return rows.sort_values("intensity").groupby("hypothesis")["effect"].last().to_dict()


def compared(
    models: stages_models.StudyModels, budget: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Evidence for every direction from so many models, and the best direction of each feature."""
    fitting, test = [models.fitting(a) for a in (1, 2)], models.dataset.test
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
    datamodels = tuple(fit(np.arange(len(rows))) for fit in fits)
    comparison = compare(*datamodels)
    options = {"n_splits": N_SPLITS, "slots": slots[rows], "seed": seed, "labels": test.labels}
    found = cross_fitted_gaps(*fits, len(rows), comparison=comparison, **options)
    grades = pd.concat([graded(part, datamodels, test) for part in comparison], ignore_index=True)
    best = grade_figures(grades, found.uses, test.labels, test.truth)["best"]
    return in_order(found.directions), pd.DataFrame(best)


def measure(run: Run, models, study: Study, budgets: list[int], seed: int) -> list[dict]:
    effects, rows = differences(run, study), []
    for budget in budgets:
        directions, best = compared(models, budget, seed)
        calls = {"significant": int((directions["q"] < LEVEL).sum())}
        calls["strong"] = int((directions["evidence"] == "strong").sum())
        for feature, difference in effects.items():
            row = {"seed": seed, "models": budget, "feature": feature, "difference": difference}
            rows.append(row | said(best[best["feature"] == feature], difference) | calls)
    return rows


def said(best: pd.DataFrame, difference: float) -> dict:
    """The word for a feature: of the side that its effects are on, or of the one that shows it.

    ``use`` is of the study's own algorithms: 1 is the first of them.
    """
    side = COMPARISONS[0] if difference > 0 else COMPARISONS[1]
    if abs(difference) >= DIFFERENCE:
        one = best[best["comparison"] == side].iloc[0]
    else:
        one = best.sort_values("auc_within_class").iloc[-1]
    seen = bool(shows(one["auc_within_class"], one["random"]))
    use = one["use"] if seen else "not_seen"
    if one["comparison"] == COMPARISONS[1] and use[-1] in "12":
        use = f"{use[:-1]}{3 - int(use[-1])}"
    row = {"auc": one["auc_within_class"], "random": one["random"], "use": use}
    return row | {"said": verdict(use, difference)}


def verdict(use: str, difference: float) -> str:
    """Whether a word is right: ``right``, ``open`` (nothing is said) or ``wrong``."""
    if use in ("not_seen", "too_few"):
        return "right" if use == "not_seen" and abs(difference) < DIFFERENCE else "open"
    if abs(difference) < DIFFERENCE:
        return "right" if use == "alike" else "wrong"
    user = 1 if difference > 0 else 2
    if use in (f"only_{user}", f"more_{user}"):
        return "right"
    return "reversed" if use[-1] in "12" else "wrong"


def summarise(rows: list[dict]) -> list[dict]:
    """For each budget and feature, in how many data seeds what is said of it."""
    found = []
    for budget, feature in sorted({(r["models"], r["feature"]) for r in rows}):
        these = [r for r in rows if (r["models"], r["feature"]) == (budget, feature)]
        for name, chosen in (
            ("differs", [r for r in these if abs(r["difference"]) >= DIFFERENCE]),
            ("alike", [r for r in these if abs(r["difference"]) < DIFFERENCE]),
        ):
            if not chosen:
                continue
            row = {"models": budget, "feature": feature, "truth": name, "drawings": len(chosen)}
            for key in ("difference", "auc", "random", "significant", "strong"):
                row[key] = float(np.median([r[key] for r in chosen]))
            words = pd.Series([r["said"] for r in chosen]).value_counts()
            row |= {
                word: int(words.get(word, 0)) for word in ("right", "open", "wrong", "reversed")
            }
            uses = pd.Series([r["use"] for r in chosen]).value_counts()
            found.append(row | {"words": {word: int(n) for word, n in uses.items()}})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file of scenes with hypotheses")
    parser.add_argument("--models", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path("runs/power"))
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
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
        what = f"share of drawings in which what is said of {row['feature']}, which "
        what += (
            f"{row['truth'].replace('alike', 'is used alike')}, is right, {row['models']} models"
        )
        share = row["right"] / row["drawings"]
        bars.append({"what": what, "value": share, "aim": AIM, "met": share >= AIM})
    turned = sum(row["reversed"] for row in rows)
    bars.append({"what": "words that are reversed", "value": turned, "aim": 0, "met": not turned})
    return bars


if __name__ == "__main__":
    main()
