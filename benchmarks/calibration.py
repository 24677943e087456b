"""How often an algorithm compared with itself is said to differ, and how often a real pair is.

From a finished run with many models, pairs of disjoint sets are drawn: of one algorithm (nothing is
to be found there) and of both (something is). Each pair is compared as notebook 04 does it. Counted
is the share of comparisons in which any direction is called significant at 5% (false discoveries
controlled over all directions of both residuals), and beside it the share in which the naive rule
calls one: a direction that explains at least twice as much variance under one algorithm as under
the other, on the datamodels that it was found in.

    python benchmarks/calibration.py runs/augmentation --budgets 128 256 --comparisons 100
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
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
from mdhelpers.method.engines.moments import split_models  # noqa: E402
from mdhelpers.runs.run import run_at  # noqa: E402
from mdhelpers.stages import models as stages  # noqa: E402

LEVEL, AIM = 0.05, 0.08
PAIRS = ("1 against 1", "2 against 2", "1 against 2")
POOL = {}


def load(folder: Path) -> None:
    """Masks, outputs and slots of all models, once a process."""
    models = stages.read_models(run_at(folder))
    for algorithm in (1, 2):
        fitting = models.fitting(algorithm)
        POOL[algorithm] = fitting.masks, models.outputs(fitting, relative=True)
    POOL["slots"] = models.slots(models.fitting(1))


def compare_once(method: str, n_splits: int, job: tuple[str, int, int]) -> dict:
    """Compare two disjoint sets of ``budget`` models; the sets have equal slots, one by one."""
    pair, budget, seed = job
    slots, rng = POOL["slots"], np.random.default_rng([seed, budget, PAIRS.index(pair)])
    n_parts = len(POOL[1][0]) // budget
    parts = split_models(len(POOL[1][0]), n_parts, rng, slots)[:2]
    parts = [part[np.lexsort((rng.random(len(part)), slots[part]))][:budget] for part in parts]
    shared = parts[0] if pair == PAIRS[2] else parts[1]  # a real pair was trained on equal masks
    chosen = [(int(pair[0]), parts[0]), (int(pair[-1]), shared)]
    fits = []
    for algorithm, rows in chosen:
        masks, outputs = POOL[algorithm]
        fits.append(Fitter(masks[rows], outputs[rows], slots=slots[parts[0]], method=method))
    start = time.process_time()
    everyone = np.arange(len(parts[0]))
    comparison = compare(*(fit(everyone) for fit in fits))
    options = {"n_splits": n_splits, "slots": slots[parts[0]], "seed": seed}
    table = cross_fitted_gaps(*fits, len(everyone), comparison=comparison, **options).directions
    naive = []
    for found in comparison:
        one, other = found.explained_variance.T[:: 1 if found.name == "1_minus_2" else -1]
        naive.append((one >= 2 * other).any())
    return {
        "pair": pair,
        "budget": budget,
        "significant": int((table["q"] < LEVEL).sum()),
        "strong": int((table["evidence"] == "strong").sum()),
        "naive": bool(any(naive)),
        "p": table["p"].tolist(),
        "seconds": time.process_time() - start,
    }


def summarise(found: list[dict]) -> list[dict]:
    """Shares with any call, with exact (Clopper and Pearson's) 95% intervals."""
    rows = []
    for pair, budget in dict.fromkeys((f["pair"], f["budget"]) for f in found):
        these = [f for f in found if (f["pair"], f["budget"]) == (pair, budget)]
        n, row = len(these), {"pair": pair, "models": budget, "comparisons": len(these)}
        for rule in ("significant", "strong", "naive"):
            k = sum(bool(f[rule]) for f in these)
            row[rule] = k / n
            row[f"{rule} low"] = float(beta.ppf(0.025, k, n - k + 1)) if k else 0.0
            row[f"{rule} high"] = float(beta.ppf(0.975, k + 1, n - k)) if k < n else 1.0
        row["directions significant"] = float(np.mean([f["significant"] for f in these]))
        row["p below 0.05"] = float(np.mean([np.mean(np.less(f["p"], LEVEL)) for f in these]))
        row["seconds"] = float(np.mean([f["seconds"] for f in these]))
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--budgets", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--comparisons", type=int, default=100, help="for each pair and budget")
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--method", default="ridge", help="what `auto` takes at such budgets")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="5 comparisons of each kind")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    n = 5 if options.quick else options.comparisons
    jobs = [(pair, b, seed) for b in options.budgets for seed in range(n) for pair in PAIRS]
    work = partial(compare_once, options.method, options.splits)
    with multiprocessing.Pool(options.workers, load, (options.run,)) as pool:
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
        models = stages.read_models(run_at(options.run))
        pool = models.plan.n_models - models.n_heldout
        report = {"machine": machine(), "method": options.method, "pool": pool}
        report |= {"splits": options.splits, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
