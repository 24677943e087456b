"""Which way of finding directions recovers planted features best, from as many models.

Of each of several finished runs on scenes a set of models is drawn. Every way gets the same
datamodels of a set: fitted on all of its models, and on two halves. Graded are the first eight
directions of either comparison: the best AUC within class for each planted feature, beside what the
best of eight random directions reaches, at which rank it comes, and the summed noise-free gap
measured on as many models from other common initialisations.

    python benchmarks/directions.py runs/power/augmentation-seed? --out directions.json
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
from calibration import draw  # noqa: E402
from scipy.linalg import eigh  # noqa: E402
from tqdm import tqdm  # noqa: E402

from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method.comparison import (  # noqa: E402
    normalise_rows,
    principal_directions,
    residual_datamodels,
)
from mdhelpers.method.crossfit import measured  # noqa: E402
from mdhelpers.method.datamodels import Fitter  # noqa: E402
from mdhelpers.method.evidence import explained  # noqa: E402
from mdhelpers.method.subpopulations import best_at_random, grade_scores, shows  # noqa: E402
from mdhelpers.runs.run import run_at  # noqa: E402
from mdhelpers.stages import models as stages  # noqa: E402

N_DIRECTIONS = 8
# The comparison in which a feature of the default study is planted to appear.
EXPECTED = {"tag": "1_minus_2", "ring": "2_minus_1"}


@dataclass(frozen=True)
class Rows:
    """Normalised datamodels (n_test, n_train) of the first-named algorithm and the other.

    ``first`` and ``other`` are fitted on all models, the halves on halves.
    """

    first: np.ndarray
    other: np.ndarray
    first_halves: tuple[np.ndarray, np.ndarray]
    other_halves: tuple[np.ndarray, np.ndarray]
    labels: np.ndarray

    @property
    def residuals(self) -> np.ndarray:
        return residual_datamodels(self.first, self.other)

    @property
    def residual_halves(self) -> list[np.ndarray]:
        pairs = zip(self.first_halves, self.other_halves, strict=True)
        return [residual_datamodels(*pair) for pair in pairs]


def top(matrix: np.ndarray) -> np.ndarray:
    """Eigenvectors of the largest eigenvalues, as rows."""
    n = len(matrix)
    return eigh(matrix, subset_by_index=(n - N_DIRECTIONS, n - 1))[1][:, ::-1].T


def across(halves) -> np.ndarray:
    """Covariance of two halves' rows, in which their noise has no part, (n_train, n_train)."""
    one, two = (rows - rows.mean(0) for rows in halves)
    return (one.T @ two + two.T @ one) / 2


def covariance(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.mean(0)
    return rows.T @ rows


def generalised(rows: Rows) -> np.ndarray:
    """Most variance under the first for its variance under the other, the latter shrunk."""
    own, other = covariance(rows.first), covariance(rows.other)
    shrunk = other + np.trace(other) / len(other) * np.eye(len(other))
    n = len(own)
    vectors = eigh(own, shrunk, subset_by_index=(n - N_DIRECTIONS, n - 1))[1][:, ::-1].T
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_class(rows: Rows) -> np.ndarray:
    """The first components of each class's residuals, classes in turn."""
    residuals, classes = rows.residuals, np.unique(rows.labels)
    each = -(-N_DIRECTIONS // len(classes))
    found = [principal_directions(residuals[rows.labels == c], each) for c in classes]
    return np.stack(found, axis=1).reshape(-1, residuals.shape[1])[:N_DIRECTIONS]


WAYS: dict[str, Callable[[Rows], np.ndarray]] = {
    "residual PCA (paper)": lambda r: principal_directions(r.residuals, N_DIRECTIONS),
    "residual PCA, not centred": lambda r: principal_directions(
        r.residuals, N_DIRECTIONS, center=False
    ),
    "residual PCA by class": by_class,
    "residuals, covariance of halves": lambda r: top(across(r.residual_halves)),
    "contrast of covariances": lambda r: top(covariance(r.first) - covariance(r.other)),
    "contrast, covariances of halves": lambda r: top(
        across(r.first_halves) - across(r.other_halves)
    ),
    "generalised eigenvectors": generalised,
}


def compare_ways(pool: dict, budget: int, number: int, method: str) -> list[dict]:
    """One set of ``budget`` models, graded; as many of other initialisations measure the gaps."""
    slots, rng = pool["slots"], np.random.default_rng([number, budget])
    ids = rng.permutation(np.unique(slots))
    finding, measuring = (
        np.sort(draw(slots, half, budget, rng))
        for half in (ids[: len(ids) // 2], ids[len(ids) // 2 :])
    )
    fits = {a: Fitter(*pool[a], slots=slots, method=method) for a in (1, 2)}
    own = np.unique(slots[finding])
    halves = [finding[np.isin(slots[finding], own[part::2])] for part in (0, 1)]
    weights = {a: fit(finding) for a, fit in fits.items()}
    split = {a: [normalise_rows(fit(half)) for half in halves] for a, fit in fits.items()}
    full = {a: normalise_rows(w) for a, w in weights.items()}
    lengths = {a: np.linalg.norm(w, axis=1) for a, w in weights.items()}
    outputs = {a: measured(fit, measuring, lengths[a]) for a, fit in fits.items()}
    rows, truth = [], (pool["labels"], pool["truth"])
    for name, (a, b) in {"1_minus_2": (1, 2), "2_minus_1": (2, 1)}.items():
        given = Rows(full[a], full[b], tuple(split[a]), tuple(split[b]), pool["labels"])
        random = best_at_random(name, full[1], full[2], *truth, n_directions=N_DIRECTIONS)
        for way, find in WAYS.items():
            directions = find(given)
            grades = grade_scores(given.residuals @ directions.T, *truth)
            one, other = (explained(outputs[algorithm], directions)[0] for algorithm in (a, b))
            head = {"way": way, "models": budget, "comparison": name, "gap": (one - other).sum()}
            for feature, part in grades.groupby("feature"):
                best = part.loc[part["auc_within_class"].idxmax()]
                found = {"auc": best["auc_within_class"], "rank": int(best["score"]) + 1}
                rows.append(head | {"feature": feature, "random": random[feature]} | found)
    return rows


def summarise(table: pd.DataFrame) -> list[dict]:
    rows = []
    for (way, budget), part in table.groupby(["way", "models"], sort=False):
        row = {"way": way, "models": int(budget)}
        for feature, comparison in EXPECTED.items():
            these = part[(part["feature"] == feature) & (part["comparison"] == comparison)]
            row |= {f"auc_{feature}": these["auc"].mean(), f"rank_{feature}": these["rank"].mean()}
            row[f"seen_{feature}"] = int(shows(these["auc"], these["random"]).sum())
            row[f"random_{feature}"] = these["random"].mean()
            row[f"gap_{comparison}"] = 100 * these["gap"].mean()
        rows.append(row)
    return sorted(rows, key=lambda row: row["models"])


def read_pool(folder: Path) -> dict:
    """Masks and outputs of both algorithms' models, their slots, and the test set's truth."""
    models = stages.read_models(run_at(folder))
    fitting = [models.fitting(a) for a in (1, 2)]
    test = models.dataset.test
    pool = {a: (f.masks, models.outputs(f, relative=True)) for a, f in enumerate(fitting, 1)}
    slots = models.slots(fitting[0])
    return pool | {"slots": slots, "labels": test.labels, "truth": test.truth}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs on scenes")
    parser.add_argument("--budgets", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--method", default="lasso")
    parser.add_argument("--quick", action="store_true", help="the smallest budget, two runs")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    budgets, runs = options.budgets, options.runs
    if options.quick:
        budgets, runs = budgets[:1], runs[:2]
    rows = []
    for number, folder in enumerate(tqdm(runs, mininterval=5)):
        pool = read_pool(folder)
        for budget in budgets:
            rows += compare_ways(pool, budget, number, options.method)
    found = summarise(pd.DataFrame(rows))
    for row in found:
        print({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    if options.out:
        report = {"machine": machine(), "method": options.method, "sets": len(runs)}
        options.out.write_text(json.dumps(report | {"rows": found, "bars": []}, indent=2))


if __name__ == "__main__":
    main()
