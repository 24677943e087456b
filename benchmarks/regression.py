"""Time a test example of the lasso path with validation and refit, against its peers, in one run.

Every solver gets the same masks, standardised alike, the same penalties (50 from lambda_max down
to a hundredth of it) and the same tolerance: a duality gap of 1e-5 of the variance on the path and
1e-6 in the refit. Two ways of going down the path: the penalties at which mdhelpers stopped (five
without a better validation error), which the peers are given for nothing; and the full grid.
scikit-learn gets the Gram matrix and X'y, as mdhelpers does, and runs in both precisions; celer
and skglm take part where they are installed. skglm bounds another quantity: it gets the loosest
bound whose gaps are as asked on the first test example. One thread each, solvers in turn; peers on
a sample of the test examples. Times are of the processor; what all test examples share is timed
apart.

    python benchmarks/regression.py --quick --out regression.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method.datamodels import fit_datamodels  # noqa: E402
from mdhelpers.method.engines import lasso  # noqa: E402
from mdhelpers.method.engines import problem as problem_module  # noqa: E402
from mdhelpers.method.engines.estimators import FitOptions  # noqa: E402
from mdhelpers.method.engines.moments import Moments, PackedMasks  # noqa: E402

SIZES = ((1000, 1000, 200), (4000, 2000, 500), (10_000, 5000, 500))
TOL, REFIT_TOL, N_LAMS, PATIENCE = 1e-5, 1e-6, 50, 5
BLOCK = 256
QUICK = {"same penalties": (2, 8, 1), "full grid": (1, 4, 1)}
FULL = {"same penalties": (4, 8, 1), "full grid": (2, 4, 1)}
AIMS = {
    ((4000, 2000), "same penalties"): 30,
    ((4000, 2000), "full grid"): 8,
    ((10_000, 5000), "same penalties"): 25,
}


def draw(n_models: int, n_train: int, n_test: int, seed: int = 0):
    """Masks of exactly half, weights of a power law, margins of which a mask explains 30%."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n_models, n_train), bool)
    for mask in masks:
        mask[rng.permutation(n_train)[: n_train // 2]] = True
    sizes = 1 / np.arange(1.0, n_train + 1)
    weights = np.stack(
        [rng.permutation(sizes * rng.choice((-1, 1), n_train)) for _ in range(n_test)]
    )
    signal = np.concatenate([part @ weights.T for part in np.array_split(masks, 10)])
    signal = (signal - signal.mean(0)) / signal.std(0)
    margins = np.sqrt(0.3) * signal + np.sqrt(0.7) * rng.normal(size=signal.shape)
    return masks, margins.astype(np.float32)


@dataclass
class Design:
    """Masks of the fitting or of all models, standardised for the peers, and their moments."""

    x: np.ndarray
    gram: np.ndarray
    x_mean: np.ndarray
    x_scale: np.ndarray

    @classmethod
    def of(cls, masks: np.ndarray, gram: np.ndarray) -> Design:
        mean, scale = masks.mean(0), masks.std(0)
        x = np.asfortranarray((masks - mean) / scale)
        return cls(x, gram.astype(np.float64) * len(x), mean, scale)

    def to(self, dtype) -> Design:
        parts = (np.asfortranarray(self.x, dtype), self.gram.astype(dtype, copy=False))
        return Design(*parts, self.x_mean, self.x_scale)


def sklearn_path(design, y, cross, lams, tol, start=None):
    from sklearn.linear_model import lasso_path

    options = {"precompute": design.gram, "Xy": cross, "check_input": False, "coef_init": start}
    return lasso_path(design.x, y, alphas=lams, tol=tol, max_iter=100_000, **options)[1]


def celer_path(design, y, cross, lams, tol, start=None):  # noqa: ARG001
    from celer import celer_path

    return celer_path(design.x, y, pb="lasso", alphas=lams, tol=tol, coef_init=start)[1]


def skglm_path(design, y, cross, lams, tol, start=None):  # noqa: ARG001
    from skglm import Lasso

    tol = SKGLM.get(tol, tol)
    model = Lasso(alpha=1.0, fit_intercept=False, tol=tol, warm_start=True)
    return model.path(design.x, y, alphas=lams, coef_init=start)[1]


SKGLM: dict[float, float] = {}
PEERS = {
    "scikit-learn, float64": (sklearn_path, np.float64),
    "scikit-learn, float32": (sklearn_path, np.float32),
    "celer": (celer_path, np.float64),
    "skglm": (skglm_path, np.float64),
}


def installed() -> dict:
    found = {}
    for name, peer in PEERS.items():
        package = name.split(",")[0].replace("scikit-learn", "sklearn")
        try:
            __import__(package)
            found[name] = peer
        except ImportError:
            print(f"{package} is not installed and does not take part")
    return found


def gaps(design: Design, y: np.ndarray, weights: np.ndarray, lams: np.ndarray) -> np.ndarray:
    """Duality gaps in units of the variance, in double precision; weights (n_train, n_lams)."""
    residuals = y[:, None] - design.x @ weights
    slopes = np.abs(design.x.T @ residuals).max(0) / len(y)
    squared, fitted = np.square(residuals).mean(0), y @ residuals / len(y)
    scale = np.minimum(1, lams / slopes)
    return squared / 2 + lams * np.abs(weights).sum(0) - scale * fitted + scale**2 * squared / 2


class Case:
    """One size: data, shared statistics, and what each solver took."""

    def __init__(self, size: tuple[int, int, int], n_test: int):
        self.size = size
        self.masks, self.margins = draw(size[0], size[1], n_test)
        self.n_fit = int(0.9 * size[0])
        self.fitting, self.everyone = np.arange(self.n_fit), np.arange(size[0])
        self.shared = {}
        self.moments = self.timed("counts of all models", lambda: Moments(self.masks))
        self.timed("counts of all models", self.moments.gram)
        self.everything = Design.of(self.masks, self.moments.gram().numpy())
        self.select(self.fitting)
        gram = self.moments.gram().numpy()
        self.design = Design.of(self.masks[: self.n_fit], gram)
        x = (self.masks[self.n_fit :] - self.design.x_mean) / self.design.x_scale
        self.x_valid = np.asfortranarray(x)

    def timed(self, what: str, work):
        start = time.process_time()
        result = work()
        self.shared[what] = self.shared.get(what, 0) + time.process_time() - start
        return result

    def select(self, models: np.ndarray) -> None:
        def work():
            self.moments.select(models)
            self.moments.gram()

        self.timed("change of models", work)

    def standardised(self, test: int, n_models: int):
        margins = self.margins[:, test].astype(np.float64)
        mean, scale = margins[:n_models].mean(), margins[:n_models].std()
        return (margins[:n_models] - mean) / scale, (margins[n_models:] - mean) / scale


def run_ours(
    case: Case, tests: slice, patience: int
) -> tuple[float, problem_module.Path, torch.Tensor]:
    """Processor seconds of paths and refits of some test examples, shared statistics apart."""
    margins, held = case.margins[:, tests], case.everyone[case.n_fit :]
    grid = problem_module.Grid(n_lams=N_LAMS, patience=patience)
    case.select(case.fitting)
    masks = case.timed("change of models", lambda: case.moments.masks_of(held))
    problem = case.timed("products with margins", lambda: case.moments.problem(margins))
    start = time.process_time()
    validation = problem_module.Validation(masks, torch.from_numpy(margins[held]))
    path = lasso.lasso_path(problem, validation, grid=grid, tol=TOL)
    seconds = time.process_time() - start
    case.select(case.everyone)
    problem = case.timed("products with margins", lambda: case.moments.problem(margins))
    start = time.process_time()
    refit, _ = lasso.solve_lasso(problem, path.lam, start=path.weights, tol=REFIT_TOL)
    problem_module.intercepts(problem, refit * problem.y_scale[:, None] / problem.x_scale)
    return seconds + time.process_time() - start, path, refit


def run_peer(case: Case, solve, designs, test: int, lams: np.ndarray) -> dict:
    """One test example by a peer: path, validation, refit from the path's weights."""
    design, everything = designs
    dtype = design.x.dtype
    fitted, held = (v.astype(dtype) for v in case.standardised(test, case.n_fit))
    full = case.standardised(test, len(case.everyone))[0].astype(dtype)
    x_valid = case.x_valid.astype(dtype, copy=False)
    cross = design.x.T @ fitted, everything.x.T @ full
    start = time.process_time()
    weights = solve(design, fitted, cross[0], lams[1:].astype(dtype), TOL)
    errors = np.square(held[:, None] - x_valid @ weights).mean(0)
    best = errors.argmin()
    warm = np.ascontiguousarray(weights[:, best])
    lam = lams[1:][best : best + 1].astype(dtype)
    refit = solve(everything, full, cross[1], lam, REFIT_TOL, warm)
    seconds = time.process_time() - start
    found = gaps(case.design, fitted.astype(np.float64), weights.astype(np.float64), lams[1:])
    final = gaps(case.everything, full.astype(np.float64), refit, lams[1:][best : best + 1])
    return {"seconds": seconds, "gap": found.max(), "refit gap": final.max(), "best": best + 1}


def loosen_skglm(case: Case) -> None:
    """Choose skglm's bounds on the first test example, for a path down to a fifth."""
    y = case.standardised(0, case.n_fit)[0]
    largest = np.abs(case.design.x.T @ y).max() / len(y)
    lams = largest * problem_module.Grid().ratios().numpy()[1:18]
    for tol in (TOL, REFIT_TOL):
        for bound in 10.0 ** -np.arange(2, 8.5, 0.5):
            weights = skglm_path(case.design, y, None, lams, bound)
            if gaps(case.design, y, weights, lams).max() <= tol:
                break
        SKGLM[tol] = float(bound)
    print(f"skglm's bounds: {SKGLM}")


def compare(case: Case, peers: dict, way: str, tests: np.ndarray, samples: tuple) -> list[dict]:
    """Solvers in turn: a round of test examples by mdhelpers, then some of them by each peer.

    ``samples`` says how many rounds, and how many test examples of each go to scikit-learn and to
    the others.
    """
    n_rounds, *n_samples = samples
    patience = PATIENCE if way == "same penalties" else N_LAMS
    designs = {
        name: tuple(
            d if dtype is np.float64 else d.to(dtype) for d in (case.design, case.everything)
        )
        for name, (_, dtype) in peers.items()
    }
    seconds, ours, found = 0.0, [], {name: [] for name in peers}
    for part in np.array_split(tests, n_rounds):
        spent, path, refit = run_ours(case, slice(int(part[0]), int(part[-1]) + 1), patience)
        seconds += spent
        for place in range(max(n_samples)):
            lams, steps = penalties_of(path, place)
            ours.append(our_gaps(case, int(part[place]), path, refit, place))
            for name, (solve, _) in peers.items():
                if place < n_samples[solve is not sklearn_path]:
                    result = run_peer(case, solve, designs[name], int(part[place]), lams[:steps])
                    same = result["best"] == int(path.index[place])
                    found[name].append(result | {"same": same})
    milliseconds = 1000 * seconds / len(tests)
    head = {"models": case.size[0], "training examples": case.size[1], "penalties": way}
    rows = [head | {"solver": "mdhelpers", "tests": len(tests), "ms": milliseconds} | worst(ours)]
    for name, results in found.items():
        spent = 1000 * float(np.mean([r["seconds"] for r in results]))
        row = {"solver": name, "tests": len(results), "ms": spent, "ratio": spent / milliseconds}
        same = float(np.mean([r["same"] for r in results]))
        rows.append(head | row | worst(results) | {"same penalty": same})
    return rows


def penalties_of(path: problem_module.Path, place: int) -> tuple[np.ndarray, int]:
    """All penalties of a test example's grid, and how many of them its path came to."""
    ratios = problem_module.Grid(n_lams=N_LAMS).ratios()
    top = path.lam[place] / ratios[path.index[place]]
    return (top * ratios).numpy(), int(torch.isfinite(path.errors[:, place]).sum())


def our_gaps(
    case: Case, test: int, path: problem_module.Path, refit: torch.Tensor, place: int
) -> dict:
    """The largest gap on a path as the solver had it, and the refit's in double precision."""
    full = case.standardised(test, len(case.everyone))[0]
    weights, lam = refit[place].double().numpy()[:, None], path.lam[place].double().numpy()
    final = gaps(case.everything, full, weights, lam)
    return {"gap": np.nanmax(path.gaps[:, place].numpy()), "refit gap": final.max()}


def worst(results: list[dict]) -> dict:
    return {key: float(max(r[key] for r in results)) for key in ("gap", "refit gap")}


def whole_fit(size: tuple[int, int, int], masks: np.ndarray, margins: np.ndarray) -> dict:
    """The whole of ``fit_datamodels`` in a process of its own: seconds and peak memory."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "bits.npy", np.packbits(masks, axis=1))
        np.save(Path(folder) / "margins.npy", margins)
        command = [sys.executable, __file__, "--whole", folder, str(size[1])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    gram, block = 4 * size[1] ** 2, 4 * BLOCK * (2 * size[1] + size[0])
    found |= {"Gram MB": gram / 1e6, "block MB": block / 1e6, "models": size[0]}
    return found | {"training examples": size[1], "tests": margins.shape[1]}


def measure_whole(folder: Path, n_train: int) -> None:
    """What the child of :func:`whole_fit` does; Linux keeps the peak since it was last cleared."""
    bits = np.load(folder / "bits.npy", mmap_mode="r")
    margins = np.load(folder / "margins.npy")
    options = FitOptions(tol=TOL, lam_floor_ratio=0.01, patience=PATIENCE)
    rng = np.random.default_rng(0)
    fit_datamodels(rng.random((64, 16)) < 0.5, rng.normal(size=(64, 2)))  # compile first
    Path("/proc/self/clear_refs").write_text("5")
    before, start = memory("VmRSS"), time.process_time()
    fit = fit_datamodels(PackedMasks(bits, n_train), margins, options=options)
    seconds, peak = time.process_time() - start, memory("VmHWM")
    kept = fit.weights.nbytes / 1e6
    print(json.dumps({"seconds": seconds, "peak MB": peak - before, "weights MB": kept}))


def memory(what: str) -> float:
    """MB of this process, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(what)).split()[1]) / 1000


def bars_of(rows: list[dict], wholes: list[dict]) -> list[dict]:
    bars = []
    for (size, way), aim in AIMS.items():
        for row in rows:
            here = (row["models"], row["training examples"]) == size and row["penalties"] == way
            if here and row["solver"].startswith("scikit-learn"):
                what = f"{row['solver']} over mdhelpers, {way}, {size[0]} x {size[1]}"
                value = row["ratio"]
                bars.append({"what": what, "value": value, "aim": aim, "met": value >= aim})
    for whole in wholes:
        allowed = 1.5 * whole["Gram MB"] + whole["block MB"]
        value = (whole["peak MB"] - whole["weights MB"]) / allowed
        what = f"peak memory over 1.5 Gram matrices and a block of tests, {whole['models']} models"
        bars.append({"what": what, "value": value, "aim": 1.0, "met": value <= 1})
    return bars


def show(row: dict) -> None:
    ratio = f"{row['ratio']:6.1f}x" if "ratio" in row else " " * 7
    same = f"  same penalty {row['same penalty']:.2f}" if "same penalty" in row else ""
    print(
        f"{row['models']:6d} x {row['training examples']:<5d} {row['penalties']:15} "
        f"{row['solver']:22} {row['ms']:9.2f} ms {ratio}  of {row['tests']:3d} tests"
        f"  gaps {row['gap']:.0e} {row['refit gap']:.0e}{same}",
        flush=True,
    )


def run(sizes, samples: dict, peers: dict) -> tuple[list[dict], list[dict], list[dict]]:
    rows, wholes, shared = [], [], []
    for size in sizes:
        case = Case(size, size[2])
        run_ours(case, slice(0, 1), PATIENCE)  # compile first
        for solve, dtype in peers.values():  # compile these too
            tiny = Design.of(case.masks[:50, :20], np.eye(20)).to(dtype)
            y = 1 - tiny.x[:, 0]
            solve(tiny, y, tiny.x.T @ y, np.array([0.5, 0.1], dtype), TOL)
        if "skglm" in peers and not SKGLM:
            loosen_skglm(case)
        few = np.arange(size[2] // 4)
        for way, tests in (("same penalties", np.arange(size[2])), ("full grid", few)):
            found = compare(case, peers, way, tests, samples[way])
            rows += found
            for row in found:
                show(row)
        wholes.append(whole_fit(size, case.masks, case.margins))
        shared.append({"models": size[0], "training examples": size[1]} | case.shared)
        print(f"shared: {shared[-1]}\nwhole fit: {wholes[-1]}", flush=True)
    return rows, wholes, shared


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, under five minutes")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    parser.add_argument("--whole", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.whole:
        return measure_whole(Path(options.whole[0]), int(options.whole[1]))
    sizes = ((1000, 1000, 120), (4000, 2000, 120)) if options.quick else SIZES
    samples = QUICK if options.quick else FULL
    rows, wholes, shared = run(sizes, samples, installed())
    bars = bars_of(rows, wholes)
    for bar in bars:
        print(f"{bar['what']}: {bar['value']:.2f} (aim {bar['aim']:g}), met: {bar['met']}")
    if options.out:
        found = {
            "machine": machine(),
            "rows": rows,
            "whole": wholes,
            "shared": shared,
            "bars": bars,
        }
        options.out.write_text(json.dumps({"machine": machine()} | found, indent=2))
    return None


if __name__ == "__main__":
    main()
