"""Time the comparison of two algorithms against a full PCA of their residuals, in one run.

The peer does what the authors' package does, for both comparisons: rows divided by their length,
residuals formed, scikit-learn's PCA, explained variance of the directions under both algorithms. It
keeps the precision of its input, float32, as that package does. Two of its solvers take part: the
full decomposition, and what scikit-learn chooses by itself for such sizes, a randomised one whose
error it does not check. mdhelpers gets the same arrays. Each measurement is a process of its own,
one thread; ways in turn, several rounds; times are of the processor, the median over rounds; memory
is the peak above what the process held with both datamodels read.

A full decomposition of the largest size takes most of an hour: unless --all is given, its time is
scaled from the size before by n_test^2 n_train, what it costs, and marked as such.

    python benchmarks/comparison.py --quick --out comparison.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method.comparison import COMPARISONS, compare  # noqa: E402

SMALL, MIDDLE, LARGE = (2000, 5000), (4000, 10_000), (10_000, 50_000)
N_DIRECTIONS = 8
WAYS = ("mdhelpers", "full", "auto")
PEERS = {"full": "scikit-learn, full", "auto": "scikit-learn, its own choice"}
AIM = 20
SEPARATED = 0.01  # components nearer than this share of their variance are not compared


def draw(n_test: int, n_train: int, seed: int = 0) -> list[np.ndarray]:
    """Datamodels that share factors and have factors of their own, of falling strength, and noise.

    Their median cosine is near the .57 to .59 of real pairs.
    """
    rng = np.random.default_rng(seed)

    def factors(n: int = 60) -> np.ndarray:
        strengths = 1 / np.sqrt(np.arange(1, n + 1, dtype=np.float32))
        scores = rng.standard_normal((n_test, n), dtype=np.float32) * strengths
        return scores @ rng.standard_normal((n, n_train), dtype=np.float32)

    shared, both = factors(), []
    for _ in range(2):
        weights = factors()
        weights *= 0.6
        weights += shared
        weights /= weights.std()
        for row in weights:
            row += 0.5 * rng.standard_normal(n_train, dtype=np.float32)
        both.append(weights)
    return both


def by_mdhelpers(first: np.ndarray, second: np.ndarray) -> dict[str, np.ndarray]:
    found = compare(first, second, n_directions=N_DIRECTIONS)
    return {
        f"{part} {name}": getattr(found[name], part)
        for name in COMPARISONS
        for part in ("directions", "explained_variance")
    }


def by_peer(first: np.ndarray, second: np.ndarray, solver: str) -> dict[str, np.ndarray]:
    """The steps of the authors' package, for both comparisons; its own choice is seeded here."""
    from sklearn.decomposition import PCA

    result = {}
    unit = [rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (first, second)]
    for name, (one, two) in zip(COMPARISONS, (unit, unit[::-1]), strict=True):
        shared = (one * two).sum(1) / (two * two).sum(1)
        residuals = one - shared[:, None] * two
        pca = PCA(N_DIRECTIONS, svd_solver=solver, random_state=0)
        pca.fit_transform(residuals)
        fractions = [np.square(rows @ pca.components_.T).sum(0) / len(rows) for rows in unit]
        result[f"directions {name}"] = pca.components_
        result[f"explained_variance {name}"] = np.stack(fractions, 1)
        result[f"variances {name}"] = pca.explained_variance_
    return result


def measure(folder: Path, way: str) -> None:
    """What a child does; Linux keeps the peak since it was last cleared."""
    if way != "mdhelpers":
        import sklearn.decomposition  # noqa: F401
    both = [np.load(folder / f"{number}.npy") for number in (1, 2)]
    assert all(np.isfinite(weights).all() for weights in both)  # and all of it is in memory
    torch.set_num_threads(1)
    Path("/proc/self/clear_refs").write_text("5")
    before, start, wall = memory("VmRSS"), time.process_time(), time.perf_counter()
    found = by_mdhelpers(*both) if way == "mdhelpers" else by_peer(*both, solver=way)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    peak = memory("VmHWM") - before
    np.savez(folder / f"{way}.npz", **found)
    print(json.dumps({"seconds": seconds, "wall": wall, "peak MB": peak}))


def memory(what: str) -> float:
    """MB of this process, from Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(what)).split()[1]) / 1000


def child(folder: Path, way: str) -> dict:
    command = [sys.executable, __file__, "--child", str(folder), way]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def differences(folder: Path, way: str) -> dict[str, float]:
    """How far one way's directions and explained variances are from the full decomposition's."""
    ours, full = np.load(folder / f"{way}.npz"), np.load(folder / "full.npz")
    cosines, worst = [], 0.0
    for name in COMPARISONS:
        variances = full[f"variances {name}"]
        apart = np.abs(np.diff(variances)) > SEPARATED * variances[1:]
        separated = np.r_[True, apart] & np.r_[apart, False]
        found = np.abs((ours[f"directions {name}"] * full[f"directions {name}"]).sum(1))
        cosines += list(found[separated])
        fractions = [r[f"explained_variance {name}"][separated] for r in (ours, full)]
        worst = max(worst, float(np.abs(fractions[0] - fractions[1]).max(initial=0)))
    least = float(min(cosines, default=np.nan))
    return {"least |cos|": least, "explained variance off by": worst, "separated": len(cosines)}


def run_size(size: tuple[int, int], rounds: int, *, full: bool) -> list[dict]:
    """All ways in turn on one size."""
    ways = [way for way in WAYS if full or way != "full"]
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {way: [] for way in ways}
        for number, weights in enumerate(draw(*size), 1):
            np.save(folder / f"{number}.npy", weights)
        for _ in range(rounds):
            for way in ways:
                found[way].append(child(folder, way))
        head = {"n_test": size[0], "n_train": size[1], "one matrix MB": 4e-6 * size[0] * size[1]}
        rows = []
        for way, results in found.items():
            medians = {k: float(np.median([r[k] for r in results])) for k in results[0]}
            row = head | {"way": PEERS.get(way, way), "rounds": rounds} | medians
            rows.append(row | (differences(folder, way) if full and way != "full" else {}))
    return rows


def add_scaled(rows: list[dict], size: tuple[int, int]) -> None:
    """The full decomposition's time at a size where it was not run, from the largest where it was.

    Its cost is ``n_test^2 n_train``; the memory is not guessed.
    """
    known = [row for row in rows if row["way"] == PEERS["full"]]
    last = max(known, key=lambda row: row["n_test"])
    factor = (size[0] / last["n_test"]) ** 2 * size[1] / last["n_train"]
    from_size = f"{last['n_test']} x {last['n_train']}"
    row = {"n_test": size[0], "n_train": size[1], "way": PEERS["full"], "scaled from": from_size}
    rows.append(row | {"seconds": last["seconds"] * factor})


def add_ratios(rows: list[dict]) -> None:
    ours = {(r["n_test"], r["n_train"]): r for r in rows if r["way"] == "mdhelpers"}
    for row in rows:
        row["ratio"] = row["seconds"] / ours[row["n_test"], row["n_train"]]["seconds"]


def bars_of(rows: list[dict]) -> list[dict]:
    bars = []
    for row in rows:
        size = f"{row['n_test']} x {row['n_train']}"
        if row["way"] == PEERS["full"]:
            scaled = f" (scaled from {row['scaled from']})" if "scaled from" in row else ""
            what = f"time of {row['way']} over mdhelpers, {size}{scaled}"
            bars.append(bar(what, row["ratio"], AIM, row["ratio"] >= AIM))
        elif row["way"] == "mdhelpers":
            value = row["peak MB"] / row["one matrix MB"]
            bars.append(bar(f"peak memory over one matrix, {size}", value, 1.0, value <= 1))
        if row["way"] == "mdhelpers" and "least |cos|" in row:
            value, off = row["least |cos|"], row["explained variance off by"]
            bars.append(bar(f"least |cos| to the full PCA, {size}", value, 0.9999, value > 0.9999))
            bars.append(bar(f"explained variance off by, {size}", off, 1e-5, off <= 1e-5))
    return bars


def bar(what: str, value: float, aim: float, met: bool) -> dict:
    return {"what": what, "value": value, "aim": aim, "met": bool(met)}


def show(rows: list[dict]) -> None:
    for row in rows:
        size = f"{row['n_test']} x {row['n_train']}"
        text = f"{size:>15}  {row['way']:29} {row['seconds']:9.2f} s {row['ratio']:7.1f}x"
        if "peak MB" in row:
            text += f"  peak {row['peak MB']:7.0f} MB of {row['one matrix MB']:.0f} a matrix"
        if "least |cos|" in row:
            text += f"  |cos| {row['least |cos|']:.6f}"
        print(text + (f"  scaled from {row['scaled from']}" if "scaled from" in row else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the smallest size, two rounds")
    parser.add_argument("--all", action="store_true", help="the full PCA at the largest size too")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return measure(Path(options.child[0]), options.child[1])
    rows = run_size(SMALL, 2 if options.quick else 3, full=True)
    if not options.quick:
        rows += run_size(MIDDLE, 1, full=True)
        rows += run_size(LARGE, 1, full=options.all)
        if not options.all:
            add_scaled(rows, LARGE)
    add_ratios(rows)
    show(rows)
    bars = bars_of(rows)
    for one in bars:
        print(f"{one['what']}: {one['value']:.3g} (aim {one['aim']:g}), met: {one['met']}")
    if options.out:
        found = {"machine": machine(), "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(found, indent=2))
    return None


if __name__ == "__main__":
    main()
