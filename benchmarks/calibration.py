"""How often an algorithm compared with itself is said to differ, and how often a real pair is.

From finished runs with many models, pairs of sets are drawn: of one algorithm, from other common
initialisations and other masks (nothing is to be found there), and of both (something is). Each
pair is compared as notebook 04 does it. Counted is the share of comparisons in which any direction
is called significant at 5% (false discoveries controlled over all directions of both residuals),
the words that say who uses a subpopulation, and the share in which the naive rule calls a
direction: one that explains at least twice as much variance under one algorithm as under the other,
on the datamodels that it was found in.

    python benchmarks/calibration.py runs/augmentation --budgets 128 256 --comparisons 100

With ``--gradients`` datamodels and evidence come from the gradients of few models, so many of a
run, which are taken where they are not there yet:

    python benchmarks/calibration.py runs/power/augmentation-seed? --gradients 128 \\
        --method trak+ridge --budgets 16 32 64 --comparisons 100
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
from scipy.stats import beta  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method.comparison import compare  # noqa: E402
from mdhelpers.method.crossfit import cross_fitted_gaps  # noqa: E402
from mdhelpers.method.datamodels import Fitter  # noqa: E402
from mdhelpers.runs.run import run_at  # noqa: E402
from mdhelpers.stages import models as stages  # noqa: E402
from mdhelpers.stages.gradients import (  # noqa: E402
    ModelGradients,
    gradient_plan,
    take_gradients,
)
from mdhelpers.stages.study import GradientSpec  # noqa: E402

LEVEL, AIM = 0.05, 0.08
PAIRS = ("1 against 1", "2 against 2", "1 against 2")
MORE = ("only_1", "more_1", "only_2", "more_2")
POOLS = []


def load(folders: list[Path], n_scored: int) -> None:
    """Masks, outputs, scores, slots and labels of models of each run, once a process."""
    for folder in folders:
        models, pool = stages.read_models(run_at(folder)), {}
        for algorithm in (1, 2):
            fitting = models.fitting(algorithm)
            if n_scored:
                fitting = fitting.rows(slice(n_scored))
            scores = scores_of(models, n_scored, algorithm) if n_scored else None
            pool[algorithm] = fitting.masks, models.outputs(fitting, relative=True), scores
            pool["slots"] = models.slots(fitting)
        pool["labels"] = models.dataset.test.labels
        POOLS.append(pool)


def scores_of(models: stages.StudyModels, n_scored: int, algorithm: int) -> np.ndarray:
    """Scores of the first models, (n_scored, n_test, n_train), from a folder beside the run's."""
    run = models.plan.folder
    folder = run.with_name(f"{run.name}-gradients")
    plan = replace(gradient_plan(models, GradientSpec(models=n_scored)), folder=folder)
    path = folder / f"scores_{algorithm}-{n_scored}-{plan.digest}.npy"
    if not path.exists():
        take_gradients(plan, workers=1)
        ModelGradients.chosen(models, plan, algorithm, True).write(path)
    return np.load(path, mmap_mode="r")


def draw(slots: np.ndarray, chosen: np.ndarray, budget: int, rng) -> np.ndarray:
    """As many models of each of some slots, slot by slot."""
    each = budget // len(chosen)
    return np.concatenate([rng.permutation(np.flatnonzero(slots == s))[:each] for s in chosen])


def compare_once(method: str, n_splits: int, job: tuple[str, int, int]) -> dict:
    """Compare two sets of ``budget`` models, of one run, from a half of its initialisations each.

    Sets of one algorithm share neither models nor initialisations; a real pair has equal masks.
    """
    pair, budget, seed = job
    pool, rng = POOLS[seed % len(POOLS)], np.random.default_rng([seed, budget, PAIRS.index(pair)])
    slots = pool["slots"]
    ids = rng.permutation(np.unique(slots))
    halves = ids[: len(ids) // 2], ids[len(ids) // 2 : len(ids) // 2 * 2]
    parts = [draw(slots, half, budget, rng) for half in halves]
    shared = parts[0] if pair == PAIRS[2] else parts[1]
    chosen = [(int(pair[0]), parts[0]), (int(pair[-1]), shared)]
    each = budget // len(halves[0])
    own = np.repeat(np.arange(len(halves[0])), each) if each > 1 else None
    fits = []
    for algorithm, rows in chosen:
        masks, outputs, scores = pool[algorithm]
        given = {"scores": None if scores is None else scores[rows], "slots": own}
        fits.append(Fitter(masks[rows], outputs[rows], method=method, **given))
    start = time.process_time()
    everyone = np.arange(budget)
    comparison = compare(*(fit(everyone) for fit in fits))
    options = {"n_splits": n_splits, "slots": own, "seed": seed, "labels": pool["labels"]}
    found = cross_fitted_gaps(*fits, len(everyone), comparison=comparison, **options)
    table, uses = found.directions, found.uses["use"]
    naive = []
    for side in comparison:
        one, other = side.explained_variance.T[:: 1 if side.name == "1_minus_2" else -1]
        naive.append((one >= 2 * other).any())
    return {
        "pair": pair,
        "budget": budget,
        "significant": int((table["q"] < LEVEL).sum()),
        "strong": int((table["evidence"] == "strong").sum()),
        "words": len(uses),
        "more": int(uses.isin(MORE).sum()),
        "alike": int((uses == "alike").sum()),
        "naive": bool(any(naive)),
        "confirmed": int((table["confirmed"] == "confirmed").sum()) if "confirmed" in table else 0,
        "p": table["p"].tolist(),
        "seconds": time.process_time() - start,
    }


def summarise(found: list[dict]) -> list[dict]:
    """Shares with any call, with exact (Clopper and Pearson's) 95% intervals."""
    rows = []
    for pair, budget in dict.fromkeys((f["pair"], f["budget"]) for f in found):
        these = [f for f in found if (f["pair"], f["budget"]) == (pair, budget)]
        n, row = len(these), {"pair": pair, "models": budget, "comparisons": len(these)}
        for rule in ("significant", "strong", "more", "naive"):
            k = sum(bool(f[rule]) for f in these)
            row[rule] = k / n
            row[f"{rule} low"] = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
            row[f"{rule} high"] = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
        row["directions confirmed"] = float(np.mean([f["confirmed"] for f in these]))
        row["directions significant"] = float(np.mean([f["significant"] for f in these]))
        words = sum(f["words"] for f in these)
        row |= {f"words {key}": sum(f[key] for f in these) / words for key in ("more", "alike")}
        row["p below 0.05"] = float(np.mean([np.mean(np.less(f["p"], LEVEL)) for f in these]))
        row["seconds"] = float(np.mean([f["seconds"] for f in these]))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--comparisons", type=int, default=100, help="for each pair and budget")
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--method", default="ridge", help="or trak, trak+ridge with --gradients")
    parser.add_argument("--gradients", type=int, default=0, help="models of a run with scores")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="5 comparisons of each kind")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    n = 5 if options.quick else options.comparisons
    jobs = [(pair, b, seed) for b in options.budgets for seed in range(n) for pair in PAIRS]
    work = partial(compare_once, options.method, options.splits)
    given = options.runs, options.gradients
    load(*given)  # takes gradients once, before the processes ask for them
    POOLS.clear()
    with multiprocessing.Pool(options.workers, load, given) as pool:
        found = list(tqdm(pool.imap(work, jobs), total=len(jobs), mininterval=5))
    rows = summarise(found)
    for row in rows:
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    bars = [
        {
            "what": f"share with any direction significant, {r['pair']}, {r['models']} models",
            "value": r["significant"],
            "aim": AIM,
            "met": r["significant"] < AIM,
        }
        for r in rows
        if r["pair"] != PAIRS[2]
    ]
    if options.out:
        models = stages.read_models(run_at(options.runs[0]))
        pool = models.plan.n_models - models.n_heldout
        report = {"machine": machine(), "method": options.method, "pool": pool}
        words = round(float(np.mean([f["words"] for f in found])))
        report |= {"runs": len(options.runs), "words": words, "scored": options.gradients}
        report |= {"splits": options.splits, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
