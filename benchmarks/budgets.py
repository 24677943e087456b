"""Which estimator of datamodels is best at which number of models.

Takes a finished run. Each method is fitted to its first 100, 200, … models, and graded on the
held-out ones: LDS with its interval, the share of the noise ceiling where held-out masks were
trained more than once (notebook 03), and how well the comparison of both algorithms finds planted
features. Beside it stands the LDS that the learning curve of a quarter of the models foretold. All
numbers of models are graded on the same margins: the effects of common initialisations are taken
away as ridge regression on all models estimates them.

    python benchmarks/budgets.py runs/augmentation --out budgets.json
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402

from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method.comparison import COMPARISONS, compare  # noqa: E402
from mdhelpers.method.datamodels import Datamodels, Fitter, fit_datamodels  # noqa: E402
from mdhelpers.method.engines.estimators import FitOptions  # noqa: E402
from mdhelpers.method.lds import lds  # noqa: E402
from mdhelpers.method.learning_curves import (  # noqa: E402
    SPARSE,
    Law,
    fit_law,
    learning_curve,
)
from mdhelpers.method.subpopulations import grade  # noqa: E402
from mdhelpers.runs.run import Run, run_at  # noqa: E402
from mdhelpers.stages.datamodels import read_quality  # noqa: E402
from mdhelpers.stages.models import StudyModels, read_models  # noqa: E402

BUDGETS = (100, 200, 400, 800, 1024, 1600, 3200, 4000)
QUICK_BUDGETS = (100, 200, 400)
METHODS = {
    "lasso": {"method": "lasso"},
    "lasso, 5 folds": {"method": "lasso", "options": FitOptions(folds=5)},
    "ridge": {"method": "ridge"},
    "difference of means": {"method": "difference_of_means"},
}
N_DIRECTIONS = 8
BASELINE = "lasso"  # the paper's, against which bars are told


@dataclass
class Bench:
    """A run's models, and the held-out margins that every fit is graded on."""

    models: StudyModels
    ceilings: dict[int, float]

    @classmethod
    def of(cls, run: Run) -> Bench:
        bench = cls(read_models(run), {})
        try:
            figures = read_quality(run).figures
        except FileNotFoundError:
            figures = {}
        bench.ceilings = {a: figures[f"ceiling_{a}"] for a in (1, 2) if f"ceiling_{a}" in figures}
        for a in (1, 2):
            fit = bench.fit(a, bench.n_models, "ridge")
            heldout = bench.models.heldout(a)
            true, slots = bench.models.outputs(heldout, True), bench.models.slots(heldout)
            bench.heldout[a] = (
                heldout.masks,
                (true if slots is None else fit.remove_slots(true, slots)),
            )
        return bench

    def __post_init__(self) -> None:
        self.heldout: dict = {}
        self.fitting = {a: self.models.fitting(a) for a in (1, 2)}
        self.margins = {a: self.models.outputs(self.fitting[a], True) for a in (1, 2)}

    @property
    def n_models(self) -> int:
        return len(self.fitting[1].masks)

    def fit(self, algorithm: int, n_models: int, method: str) -> Datamodels:
        """Fit the first models; a slot with one model among them is left out."""
        slots = self.models.slots(self.fitting[algorithm])
        chosen = np.arange(n_models)
        if slots is not None:
            sizes = np.bincount(slots[chosen])
            chosen = chosen[sizes[slots[chosen]] > 1]
            slots = slots[chosen]
        masks, margins = self.fitting[algorithm].masks[chosen], self.margins[algorithm][chosen]
        return fit_datamodels(masks, margins, slots=slots, **METHODS[method])

    def laws(self, n_models: int) -> dict[str, dict[int, Law]]:
        """What learning curves of the first models predict, by method and algorithm."""
        found: dict[str, dict[int, Law]] = {}
        for method in sorted(METHODS, key=lambda name: name != "ridge"):  # the lasso needs ridge's
            found[method] = {}
            for a in (1, 2):
                table = self.curve(a, n_models, method)
                known = {"method": METHODS[method]["method"], "n_train": self.models.plan.n_train}
                known["ridge"] = found["ridge"].get(a) if known["method"] in SPARSE else None
                if known["method"] in SPARSE and known["ridge"] is None:
                    continue
                law = fit_law(table, n_slots=self.models.plan.n_slots, **known)
                found[method] |= {a: law} if law else {}
        return found

    def curve(self, algorithm: int, n_models: int, method: str):
        slots = self.models.slots(self.fitting[algorithm])
        slots = None if slots is None else slots[:n_models]
        masks = self.fitting[algorithm].masks[:n_models]
        fit = Fitter(masks, self.margins[algorithm][:n_models], slots=slots, **METHODS[method])
        full, heldout = fit(np.arange(n_models)), self.heldout[algorithm]
        options = {"n_models": n_models, "slots": slots, "n_bootstrap": 1}
        return learning_curve(fit, full, heldout, **options).table

    def judge(self, method: str, n_models: int, laws: dict[int, Law]) -> dict:
        """One row: both algorithms' scores, and the recovery of planted features."""
        row, fits = {"method": method, "models": n_models}, {}
        row["models an image"] = n_models / self.models.plan.n_train
        for a in (1, 2):
            start = time.process_time()
            fits[a] = self.fit(a, n_models, method)
            row[f"seconds_{a}"] = time.process_time() - start
            masks, true = self.heldout[a]
            score = lds(true, fits[a].predict(masks))
            row |= {f"lds_{a}": score.spearman, f"lds_{a}_low": score.low}
            row |= {f"lds_{a}_high": score.high, f"pearson_{a}": score.pearson}
            if a in laws:
                row[f"foretold_{a}"] = float(laws[a].lds(n_models))
            if a in self.ceilings:
                row[f"share_{a}"] = score.spearman / self.ceilings[a]
        return row | self.recovery(fits)

    def recovery(self, fits: dict[int, Datamodels]) -> dict[str, float]:
        """Best AUC within its class of each planted feature, over directions and ends."""
        test = self.models.dataset.test
        if not len(test.truth.columns):
            return {}
        comparison, found = compare(fits[1], fits[2], n_directions=N_DIRECTIONS), {}
        for name in COMPARISONS:
            grades = grade(comparison[name], test.labels, test.truth)
            best = grades.groupby("feature")["auc_within_class"].max()
            found |= {f"auc_{name}_{feature}": value for feature, value in best.items()}
        return found


def bars(rows: list[dict]) -> list[dict]:
    """How each method's LDS compares with the paper's at the smallest and largest numbers."""
    found = []
    for n in (rows[0]["models"], rows[-1]["models"]):
        at = {row["method"]: row for row in rows if row["models"] == n}
        for method in METHODS:
            if method == BASELINE:
                continue
            gain = np.mean([at[method][f"lds_{a}"] - at[BASELINE][f"lds_{a}"] for a in (1, 2)])
            what = f"LDS of {method} less that of {BASELINE}, {n} models"
            found.append({"what": what, "value": gain, "aim": 0.0, "met": bool(gain >= 0)})
    misses = [abs(r[k] - r[k.replace("foretold", "lds")]) for r in rows for k in r if "fore" in k]
    if misses:
        what = "largest miss of an LDS foretold from a quarter of the models"
        found.append({"what": what, "value": max(misses), "aim": 0.03, "met": max(misses) <= 0.03})
    return found


def report(row: dict) -> None:
    words = [f"{row['method']:<20} {row['models']:5d} models"]
    words += [f"{k} {v:.3f}" for k, v in row.items() if k.startswith(("lds", "fore", "auc", "sec"))]
    print("  ".join(words), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run's folder")
    parser.add_argument("--quick", action="store_true", help="few models only")
    parser.add_argument("--out", type=Path, help="write machine, rows and bars as JSON")
    options = parser.parse_args()
    run = run_at(options.run)
    bench = Bench.of(run)
    budgets = QUICK_BUDGETS if options.quick else BUDGETS
    budgets = [n for n in budgets if n <= bench.n_models]
    base = max(budgets[-1] // 4, min(budgets))
    laws, rows = bench.laws(base), []
    for n in budgets:
        for method in METHODS:
            rows.append(bench.judge(method, n, laws[method] if n > base else {}))
            report(rows[-1])
    plan = bench.models.plan
    settings = {
        "study": run.study,
        "names": list(bench.models.names),
        "n_train": plan.n_train,
        "n_test": plan.n_test,
        "n_slots": plan.n_slots,
        "n_heldout": bench.models.n_heldout,
        "n_directions": N_DIRECTIONS,
        "foretold_from": base,
        "ceilings": {f"ceiling_{a}": value for a, value in bench.ceilings.items()},
    }
    about = {"machine": machine(), "settings": settings, "rows": rows, "bars": bars(rows)}
    if options.out:
        options.out.write_text(json.dumps(about, indent=2, default=float) + "\n")


if __name__ == "__main__":
    main()
