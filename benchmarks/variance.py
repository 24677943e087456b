"""Evidence a CPU-minute: which way of training gives the best datamodels for the same time.

Every way trains models on the same masks. Its datamodels are judged by what they predict for
held-out masks: the *expected* margin, a mean over many trainings of each mask with seeds of their
own. Where features were planted, the comparison of both algorithms is graded by them as well.

    python benchmarks/variance.py --quick --out variance.json
    python benchmarks/variance.py --study parameters/cifar10_laptop.yaml --models 384
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from mdhelpers.base.places import cores, machine
from mdhelpers.command.files import complete, merge
from mdhelpers.data.datasets import Dataset
from mdhelpers.data.sources import load_dataset
from mdhelpers.method.comparison import compare
from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.lds import lds
from mdhelpers.method.margins import correct_class_margins, relative_to_class
from mdhelpers.method.subpopulations import grade
from mdhelpers.stages.study import Study
from mdhelpers.training.learners import learn
from mdhelpers.training.recipe import TrainingData
from mdhelpers.training.tasks import TrainingPlan, make_task

STACK = 8
TRUTH_SEED = 1000  # of the studies whose models are the truth: other seeds than any way's


@dataclass(frozen=True)
class Way:
    """One way of training: what is shared between models, and what is averaged."""

    name: str
    n_slots: int = 0
    share_order: bool = False
    average_last: float = 0.0


WAYS = (
    Way("own initialisation and order"),
    Way("32 initialisations in slots", 32),
    Way("32 slots, order shared too", 32, share_order=True),
    Way("8 initialisations in slots", 8),
    Way("8 slots, order shared too", 8, share_order=True),
    Way("32 slots, weights averaged over the last quarter", 32, average_last=0.25),
)


def trained(job) -> tuple[np.ndarray, float]:
    """Margins (STACK, n_test) of one stack, and its CPU-seconds."""
    dataset, plan, mask_plan, algorithm, rows = job
    torch.set_num_threads(1)
    train = dataset.train
    data = TrainingData(
        torch.tensor(train.images), torch.tensor(train.labels), len(dataset.class_names)
    )
    task, _ = make_task(plan, algorithm, rows)
    first = rows.start % mask_plan.n_models
    masks = make_task(mask_plan, algorithm, slice(first, first + STACK))[0].masks
    start = time.process_time()
    models = learn(replace(task, masks=masks), data)
    logits = models.logits(torch.tensor(dataset.test.images))
    seconds = time.process_time() - start
    return correct_class_margins(logits, torch.tensor(dataset.test.labels)).numpy(), seconds


class Bench:
    """Trains what is asked for once, in parallel, and keeps it under ``cache``."""

    def __init__(self, study: Study, dataset: Dataset, pool, cache: Path | None):
        self.study, self.dataset, self.pool, self.cache = study, dataset, pool, cache

    def plan(self, way: Way, n_models: int, seed: int) -> TrainingPlan:
        specs = [self.study.algorithm_1, self.study.algorithm_2]
        if way.average_last:
            specs = [s.model_copy(update={"average_last": way.average_last}) for s in specs]
        return TrainingPlan(
            folder=Path(),
            algorithms=tuple(specs),
            fingerprint=self.dataset.fingerprint,
            n_train=len(self.dataset.train),
            n_test=len(self.dataset.test),
            seed=seed,
            alpha=self.study.alpha,
            n_models=n_models,
            n_keep=0,
            n_slots=way.n_slots,
            share_order=way.share_order,
            stack=STACK,
            device="cpu",
        )

    def margins(self, plan: TrainingPlan, mask_plan: TrainingPlan, algorithm: int):
        """Margins (n_models, n_test) and CPU-seconds of all models of a plan."""
        key = json.dumps([plan.identity(algorithm), mask_plan.seed, plan.n_models])
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        file = self.cache / f"{name}.npz" if self.cache else None
        if file and file.exists():
            kept = np.load(file)
            return kept["margins"], float(kept["seconds"])
        starts = range(0, plan.n_models, STACK)
        jobs = [(self.dataset, plan, mask_plan, algorithm, slice(s, s + STACK)) for s in starts]
        found = list(
            tqdm(self.pool.imap(trained, jobs), total=len(jobs), unit="stack", mininterval=10)
        )
        margins, seconds = np.concatenate([m for m, _ in found]), sum(s for _, s in found)
        if file:
            np.savez(file, margins=margins, seconds=seconds)
        return margins, seconds

    def truth(self, n_masks: int, n_seeds: int, algorithm: int) -> tuple[np.ndarray, np.ndarray]:
        """Held-out masks and the mean margins of ``n_seeds`` trainings of each."""
        alone = WAYS[0]
        mask_plan = self.plan(alone, n_masks, TRUTH_SEED)
        repeated = self.plan(alone, n_masks * n_seeds, TRUTH_SEED)
        margins, _ = self.margins(repeated, mask_plan, algorithm)
        masks = make_task(mask_plan, algorithm, slice(0, n_masks))[0].masks
        return masks, margins.reshape(n_seeds, n_masks, -1).mean(0)


def judge(bench: Bench, way: Way, budgets: list[int], truths: dict) -> list[dict]:
    """LDS and recovery of one way at every budget."""
    plan = bench.plan(way, budgets[-1], bench.study.seed)
    labels, truth = bench.dataset.test.labels, bench.dataset.test.truth
    trained = {a: bench.margins(plan, plan, a) for a in truths}
    masks = make_task(plan, 1, slice(0, budgets[-1]))[0].masks
    rows = []
    for n in budgets:
        fits = {a: fitted(masks[:n], trained[a][0][:n], labels, way) for a in truths}
        row = {"way": way.name, "models": n}
        for a, (held, expected) in truths.items():
            score = lds(relative_to_class(expected, labels), fits[a].predict(held))
            row[f"seconds_{a}"] = n * trained[a][1] / budgets[-1]
            row[f"lds_{a}"], row[f"lds_{a}_low"], row[f"lds_{a}_high"] = (
                score.spearman, score.low, score.high,
            )  # fmt: skip
        if truth.shape[1] and len(fits) == 2:
            row |= recovery(compare(fits[1], fits[2]), labels, truth)
        rows.append(row)
    return rows


def fitted(masks: np.ndarray, margins: np.ndarray, labels: np.ndarray, way: Way):
    slots = np.arange(len(masks)) % way.n_slots if way.n_slots else None
    return fit_datamodels(masks, relative_to_class(margins, labels), slots=slots)


def recovery(comparison, labels: np.ndarray, truth) -> dict:
    """Best within-class AUC of each planted feature in the first four directions."""
    found = {}
    for name in ("1_minus_2", "2_minus_1"):
        graded = grade(comparison[name], labels, truth)
        early = graded[graded["direction"] < 4].groupby("feature")["auc_within_class"].max()
        found |= {f"auc_{name}_{feature}": value for feature, value in early.items()}
    return found


def models_for(target: float, rows: list[dict], algorithm: int) -> float:
    """Models that a way needs to reach an LDS, between its budgets on a logarithmic scale."""
    n = np.log([row["models"] for row in rows])
    scores = np.maximum.accumulate([row[f"lds_{algorithm}"] for row in rows])
    if target > scores[-1]:
        return float("inf")
    return float(np.exp(np.interp(target, scores, n)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", default="augmentation", help="a study, for data and recipes")
    parser.add_argument("--quick", action="store_true", help="two ways, few models")
    parser.add_argument("--models", type=int, default=1024, help="largest budget, a multiple of 32")
    parser.add_argument("--masks", type=int, default=48, help="held-out masks")
    parser.add_argument("--seeds", type=int, default=16, help="trainings of each held-out mask")
    parser.add_argument("--algorithms", type=int, nargs="+", default=[1, 2], choices=[1, 2])
    parser.add_argument(
        "--ways", type=int, nargs="+", default=range(len(WAYS)), help="numbers, from 0 on; 0 always"
    )
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--cache", type=Path, help="keep margins here, and read them again")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    if options.quick:
        options.models, options.masks, options.seeds = 128, 16, 4
    ways = WAYS[:2] if options.quick else [WAYS[i] for i in sorted({0, *options.ways})]
    if options.cache:
        options.cache.mkdir(parents=True, exist_ok=True)
    study = complete(merge(options.study), Study)[0]
    dataset = load_dataset(study.dataset)
    budgets = [n for n in (64, 128, 256, 512, 1024, 2048) if n < options.models] + [options.models]
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        bench = Bench(study, dataset, pool, options.cache)
        truths = {a: bench.truth(options.masks, options.seeds, a) for a in options.algorithms}
        found = [judge(bench, way, budgets, truths) for way in ways]
    report([row for rows in found for row in rows])
    bars = [bar(found, a) for a in options.algorithms]
    for b in bars:
        print(f"{b['what']}: {b['value']:.1f} (aim {b['aim']:g})")
    if options.out:
        rows = [row for part in found for row in part]
        places = ("cache", "out")
        settings = {k: str(v) for k, v in vars(options).items() if k not in places} | {
            "ways": [asdict(w) for w in ways]
        }
        about = {"machine": machine(), "settings": settings, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(about, indent=2))


def report(rows: list[dict]) -> None:
    for row in rows:
        words = [f"{row['way']:50} {row['models']:5d} models"]
        for key, value in row.items():
            if key.startswith(("lds", "auc", "seconds")) and not key.endswith(("low", "high")):
                words.append(f"{key} {value:.3f}" if key[0] != "s" else f"{key} {value:.0f}")
        print("  ".join(words))


def bar(found: list[list[dict]], algorithm: int) -> dict:
    """How many more models training without anything shared needs for the best way's evidence."""
    best = max(found[1:], key=lambda rows: rows[-1][f"lds_{algorithm}"])
    full = found[0][-1]
    needed = models_for(full[f"lds_{algorithm}"], best, algorithm)
    what = f"models for the same LDS, algorithm {algorithm}: nothing shared over {best[0]['way']}"
    value = full["models"] / needed
    return {"what": what, "value": value, "aim": 4.0, "met": value >= 4.0}


if __name__ == "__main__":
    main()
