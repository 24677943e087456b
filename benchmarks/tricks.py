"""Which of the settings in which two algorithms differ makes the difference, one at a time.

Each key in which algorithm 2 of a study differs from algorithm 1 is changed alone, then all of
them: choices in code that are often thought to be of no account. For each: accuracy, what adding
each planted feature does, and how alike its datamodels are to those of algorithm 1 (appendix F.1),
for more than two algorithms at once.

    python benchmarks/tricks.py parameters/code_level_tricks.yaml --models 256
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from mdhelpers.analyses.similarity import Similarity, similarity
from mdhelpers.base.places import machine
from mdhelpers.command.files import complete, merge
from mdhelpers.method.datamodels import fit_datamodels, method_for
from mdhelpers.method.engines.moments import split_models
from mdhelpers.runs.run import Run
from mdhelpers.stages import data
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.effect_cases import measure_hypotheses
from mdhelpers.stages.effect_models import train_on_all
from mdhelpers.stages.study import Study

N_KEPT = 32
ALL = "all of them"


def variants(study: Study) -> dict[str, dict]:
    """Algorithm 1, it with each single key of algorithm 2, and algorithm 2, by name."""
    first, second = study.algorithm_1.model_dump(), study.algorithm_2.model_dump()
    keys = [key for key in first if key != "name" and first[key] != second[key]]
    found = {study.algorithm_1.name: first}
    found |= {key: first | {"name": key, key: second[key]} for key in keys}
    return found | {ALL: second | {"name": ALL}}


def train(study: Study, pair: list[dict], number: int, n_models: int, folder: Path, workers: int):
    """Two variants on the masks and initialisations of all the others; resumes."""
    run = Run(f"{study.study}-{number}", runs_dir=folder)
    data.prepare_data(run, study.dataset.model_dump())
    models = stages_models.train_models(
        run,
        *pair,
        n_models=n_models,
        n_heldout=0,
        n_kept=N_KEPT,
        alpha=study.alpha,
        n_slots=study.n_slots,
        seed=study.seed,
        workers=workers,
    )
    return run, models


def effects(run: Run, study: Study) -> pd.DataFrame:
    """Effect of each feature at its largest intensity, points, a column a variant of the pair."""
    models = train_on_all(run, n_effect_models=N_KEPT)
    about = {"epsilon": study.epsilon, "delta": study.delta}
    table, _ = measure_hypotheses(models, study.hypotheses, study.placebo, **about)
    targets = [(h.name, h.target_class) for h in study.hypotheses]
    table = table.merge(pd.DataFrame(targets, columns=["hypothesis", "class_name"]))
    rows = table[(table["kind"] == "feature") & (table["algorithm"] > 0)]
    rows = rows.sort_values("intensity").groupby(["hypothesis", "algorithm"])["effect"].last()
    return rows.unstack()


def halves(models: stages_models.StudyModels, algorithm: int) -> list[np.ndarray]:
    """Datamodels from two halves of a variant's models; the halves are the same for all."""
    fitting = models.fitting(algorithm)
    parts = split_models(len(fitting.masks), 2, np.random.default_rng(0), fitting.slots)
    outputs, method = models.outputs(fitting, True), method_for(len(parts[0]), models.plan.n_train)
    return [
        fit_datamodels(
            fitting.masks[rows], outputs[rows], slots=fitting.slots[rows], method=method
        ).weights
        for rows in parts
    ]


def measure(study: Study, n_models: int, folder: Path, workers: int) -> tuple[list, Similarity]:
    """A row a variant, and how alike all of them are."""
    given = list(variants(study).items())
    pairs = [given[i : i + 2] for i in range(0, len(given) - 1, 2)]
    if len(given) % 2:
        pairs.append(given[-2:])  # the one before is trained twice, to have a partner
    rows, fits = {}, {}
    for number, pair in enumerate(pairs):
        run, models = train(study, [s for _, s in pair], number, n_models, folder, workers)
        found = effects(run, study)
        for a, (name, _) in enumerate(pair, 1):
            rows[name] = {"changed": name, "accuracy": float(models.all(a).accuracy.mean())}
            rows[name] |= {feature: float(value) for feature, value in found[a].items()}
            fits[name] = halves(models, a)
    alike = similarity(fits)
    first = alike.corrected.iloc[0]
    for name, row in rows.items():
        row |= {"itself": float(alike.matrix.loc[name, name]), "alike": float(first[name])}
    return list(rows.values()), alike


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file of scenes with hypotheses")
    parser.add_argument("--models", type=int, default=256)
    parser.add_argument("--folder", type=Path, default=Path("runs/tricks"))
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
    parser.add_argument("--quick", action="store_true", help="128 models")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, _ = complete(merge(options.study), Study)
    n_models = 128 if options.quick else options.models
    rows, alike = measure(study, n_models, options.folder, options.workers)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    print(alike.corrected.round(2).to_string())
    if options.out:
        report = {"machine": machine(), "study": study.study, "models": n_models, "rows": rows}
        report |= {"corrected": alike.corrected.to_dict(), "distribution": spread(alike)}
        options.out.write_text(json.dumps(report, indent=2))


def spread(alike: Similarity) -> list[dict]:
    """Percentiles of the cosines of each pair over test images (the paper's Figure 18)."""
    return alike.summary.to_dict("records")


if __name__ == "__main__":
    main()
