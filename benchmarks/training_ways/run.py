"""The run behind ``training.py``: ways that take turns, and the table that comes of it."""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.datasets import Dataset, save_dataset
from mdhelpers.machine import cores, machine
from mdhelpers.models import make_model
from mdhelpers.plans import STACKS, TrainingPlan, draw_mask
from mdhelpers.processes import ProcessPool
from mdhelpers.scenes import make_scenes
from mdhelpers.store import ModelStore
from training_ways.clock import PARTS, WARM_UP, timed_task
from training_ways.tight import tight_model
from training_ways.usual import usual_model
from training_ways.worker import matmul_rate, operations, start_worker

SEED, ALPHA = 0, 0.5
SPECS = (
    NetworkSpec(name="plain", epochs=20, lr=0.03),
    NetworkSpec(
        name="augmented",
        epochs=40,
        lr=0.05,
        augmentation={"crop": 0.35, "flip": True, "shift": 2},
    ),
)
AIMS = {"usual script": 5.0, "tight loop": 1.2}
SHARE = 0.55
NOISE = 3.0  # standard errors by which accuracies may differ
STACK = STACKS["cpu"]["cnn"]


class Elsewhere:
    """``train(spec, rows, seed) -> accuracy``, run by processes of its own, a model a call."""

    def __init__(self, way: str, train: Callable, data: Dataset, *, threads: int, models: int):
        self.way, self.specs, self.models = way, SPECS, models
        self.train, self.n_train = train, len(data.train)
        self.done: dict[str, list[float]] = defaultdict(list)
        processes = cores() // threads
        start, spawn = time.perf_counter(), multiprocessing.get_context("spawn")
        arrays = [(split.images, split.labels) for split in (data.train, data.test)]
        self.pool = ProcessPoolExecutor(processes, spawn, start_worker, (threads, arrays))
        short = [SPECS[-1].model_copy(update={"epochs": 1})] * processes
        list(
            self.pool.map(
                self.train, short, [np.arange(self.n_train)] * processes, range(processes)
            )
        )
        self.start = time.perf_counter() - start

    def turn(self, spec: NetworkSpec) -> None:
        first = len(self.done[spec.name])
        index = range(first, first + self.models)
        rows = [np.flatnonzero(draw_mask(SEED, i, self.n_train, ALPHA)) for i in index]
        self.done[spec.name] += self.pool.map(self.train, [spec] * self.models, rows, index)

    def accuracy(self, spec: NetworkSpec) -> list[float]:
        return self.done[spec.name]

    def close(self) -> None:
        self.pool.shutdown()


class Mdhelpers:
    """What `train_all` does, in turns: its plan, its worker processes, its tasks, its stores."""

    def __init__(self, way: str, data: Dataset, folder: Path, precision: str, rounds: int):
        self.way, self.models, self.reports = way, STACK * cores(), []
        self.specs = tuple(spec.model_copy(update={"precision": precision}) for spec in SPECS)
        save_dataset(data, folder / "data")
        self.plan = TrainingPlan(
            folder=folder,
            algorithms=self.specs,
            fingerprint=data.fingerprint,
            n_train=len(data.train),
            n_test=len(data.test),
            seed=SEED,
            alpha=ALPHA,
            n_models=(rounds + 1) * self.models,
            n_keep=0,
            n_slots=0,
            stack=STACK,
            device="cpu",
        )
        for algorithm in (1, 2):
            self.plan.create_store(algorithm)
        start = time.perf_counter()
        self.pool = ProcessPool(self.plan, timed_task, cores())
        self.run([(1, WARM_UP - n) for n in range(cores())])
        self.start = time.perf_counter() - start

    def turn(self, spec: NetworkSpec) -> None:
        algorithm = self.specs.index(spec) + 1
        n = self.models // STACK
        first = n * (len(self.of(spec)) // n)
        self.reports += self.run([(algorithm, first + i) for i in range(n)])

    def run(self, tasks: list[tuple[int, int]]) -> list[dict]:
        reports = list(self.pool.results(tasks))
        for report in reports:
            if "failed" in report:
                raise RuntimeError(report["failed"])
        return reports

    def of(self, spec: NetworkSpec) -> list[dict]:
        return [r for r in self.reports if self.specs[r["algorithm"] - 1] is spec]

    def accuracy(self, spec: NetworkSpec) -> list[float]:
        store = ModelStore.open(self.plan.store_path(self.specs.index(spec) + 1))
        return store.read(STACK * len(self.of(spec))).accuracy.tolist()

    def parts(self, spec: NetworkSpec) -> dict[str, float]:
        """Shares of the workers' time."""
        reports = self.of(spec)
        sums = {p: sum(r["parts"][p] for r in reports) for p in (*PARTS, "the rest")}
        return {part: seconds / sum(sums.values()) for part, seconds in sums.items()}

    def close(self) -> None:
        self.pool.close()


def take_turns(ways: list, pool: ProcessPoolExecutor, rounds: int, limit: float):
    """Seconds of every turn by way and algorithm, and all cores' matrix products a second.

    No round begins after ``limit`` seconds, but there are two at least.
    """
    seconds, peaks, begin = defaultdict(list), [], time.perf_counter()
    for number in range(rounds):
        if number >= 2 and time.perf_counter() - begin > limit:
            break
        rates = [pool.submit(matmul_rate) for _ in range(cores())]
        peaks.append(sum(rate.result() for rate in rates))
        turns = [(way, spec) for way in ways for spec in way.specs]
        for way, spec in turns[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            way.turn(spec)
            seconds[way.way, spec.name].append(time.perf_counter() - start)
    return seconds, statistics.median(peaks)


def make_rows(ways: list, seconds: dict, data: Dataset, peak: float) -> list[dict]:
    rows = []
    for number, spec in enumerate(SPECS):
        step, evaluation = operations(make_model(spec, data.size, len(data.class_names)), data.size)
        seen = spec.epochs * round(ALPHA * len(data.train))
        flops = seen * step + len(data.test) * evaluation
        for way in ways:
            a_model = statistics.median(seconds[way.way, spec.name]) / way.models
            accuracy = way.accuracy(way.specs[number])
            rows.append(
                {
                    "way": way.way,
                    "algorithm": spec.name,
                    "models": len(accuracy),
                    "models a minute": 60 / a_model,
                    "share of fp32 matmul peak": flops / a_model / peak,
                    "accuracy": float(np.mean(accuracy)),
                    "accuracy, standard error": float(np.std(accuracy) / np.sqrt(len(accuracy))),
                    "start, seconds": way.start,
                    "operations a model": flops,
                }
            )
            if isinstance(way, Mdhelpers):
                rows[-1]["parts"] = way.parts(way.specs[number])
    return rows


def make_bars(rows: list[dict]) -> list[dict]:
    found = {(row["way"], row["algorithm"]): row for row in rows}
    bars = []
    for spec in SPECS:
        ours = found["mdhelpers", spec.name]
        for way, aim in AIMS.items():
            other = found[way, spec.name]
            ratio = ours["models a minute"] / other["models a minute"]
            # one model's deviation, from the many of ours: the usual script trains too few
            deviation = ours["accuracy, standard error"] * math.sqrt(ours["models"])
            error = deviation * math.sqrt(1 / ours["models"] + 1 / other["models"])
            apart = abs(ours["accuracy"] - other["accuracy"]) / error
            bars += [
                bar(f"{spec.name}: models a minute, over the {way}", ratio, aim, ratio >= aim),
                bar(
                    f"{spec.name}: accuracy apart from the {way}, standard errors (at most)",
                    apart,
                    NOISE,
                    apart <= NOISE,
                ),
            ]
        share = ours["share of fp32 matmul peak"]
        bars.append(bar(f"{spec.name}: share of the fp32 peak", share, SHARE, share >= SHARE))
    return bars


def bar(what: str, value: float, aim: float, met: bool) -> dict:
    return {"what": what, "value": value, "aim": aim, "met": bool(met)}


def show(rows: list[dict], bars: list[dict], peak: float) -> None:
    print(f"{cores()} cores, torch {torch.__version__}, fp32 matmul {peak / 1e9:.0f} GFLOP/s")
    for r in rows:
        print(
            f"{r['way']:16} {r['algorithm']:10} {r['models']:4d} models "
            f"{r['models a minute']:7.1f} a minute, {r['share of fp32 matmul peak']:4.0%} of peak, "
            f"accuracy {r['accuracy']:.3f} ± {r['accuracy, standard error']:.3f}, "
            f"start {r['start, seconds']:.1f} s"
        )
    for r in rows:
        if "parts" in r:
            shares = ", ".join(f"{part} {share:.1%}" for part, share in r["parts"].items())
            print(f"time of {r['way']}, {r['algorithm']}: {shares}")
    for b in bars:
        mark = "met" if b["met"] else "NOT met"
        print(f"{b['what']}: {b['value']:.2f} (aim {b['aim']:g}), {mark}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Models a minute on a CPU")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under five minutes")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    rounds, limit = (5, 150.0) if options.quick else (20, math.inf)
    data = make_scenes(n_train=240, n_test=600, seed=SEED)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        ways = [
            Elsewhere("usual script", usual_model, data, threads=cores(), models=1),
            Elsewhere("tight loop", tight_model, data, threads=1, models=4 * cores()),
            Mdhelpers("mdhelpers", data, Path(folder) / "fp32", "fp32", rounds),
        ]
        if not options.quick:
            ways.append(Mdhelpers("mdhelpers, bf16", data, Path(folder) / "bf16", "bf16", rounds))
        for way in ways:
            stack.enter_context(closing(way))
        seconds, peak = take_turns(ways, ways[1].pool, rounds, limit)
        rows = make_rows(ways, seconds, data, peak)
    bars = make_bars(rows)
    show(rows, bars, peak)
    if options.out:
        found = {"machine": machine(), "fp32 matmul": peak, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(found, indent=2))
