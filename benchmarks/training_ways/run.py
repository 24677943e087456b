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
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mdhelpers.base.places import cores, machine
from mdhelpers.data.datasets import Dataset, save_dataset
from mdhelpers.data.scenes import make_scenes
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.networks import ARCHITECTURES, make_model
from mdhelpers.training.store import ModelStore
from mdhelpers.training.tasks import TrainingPlan, draw_mask
from mdhelpers.training.workers.processes import ProcessPool
from training_ways.clock import PARTS, WARM_UP, timed_task
from training_ways.tight import tight_model
from training_ways.usual import usual_model
from training_ways.worker import matmul_rate, operations, start_worker, train_one

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
USUAL, TIGHT, OURS = "usual script", "tight loop", "mdhelpers"
STACK = ARCHITECTURES["cnn"].stack_cpu


class Elsewhere:
    """``train(spec, rows, seed) -> accuracy``, run by processes of its own, a model a call."""

    def __init__(self, way: str, train: Callable, data: Dataset, *, threads: int, models: int):
        self.way, self.specs, self.models = way, SPECS, models
        self.train, self.n_train = partial(train_one, train), len(data.train)
        self.done: dict[str, list[tuple[float, float]]] = defaultdict(list)
        n_processes = cores() // threads
        start, spawn = time.perf_counter(), multiprocessing.get_context("spawn")
        arrays = [(split.images, split.labels) for split in (data.train, data.test)]
        self.pool = ProcessPoolExecutor(n_processes, spawn, start_worker, (threads, arrays))
        short, every = SPECS[-1].model_copy(update={"epochs": 1}), np.arange(self.n_train)
        for done in [self.pool.submit(self.train, short, every, 0) for _ in range(n_processes)]:
            done.result()
        self.start = time.perf_counter() - start

    def turn(self, spec: NetworkSpec) -> None:
        first = len(self.done[spec.name])
        index = range(first, first + self.models)
        rows = [np.flatnonzero(draw_mask(SEED, i, self.n_train, ALPHA)) for i in index]
        self.done[spec.name] += self.pool.map(self.train, [spec] * self.models, rows, index)

    def accuracy(self, spec: NetworkSpec) -> list[float]:
        return [accuracy for accuracy, _ in self.done[spec.name]]

    def core_seconds(self, spec: NetworkSpec) -> list[float]:
        return [seconds for _, seconds in self.done[spec.name]]

    def close(self) -> None:
        self.pool.shutdown()


class Mdhelpers:
    """What `train_all` does, in turns: its plan, its worker processes, its tasks, its stores."""

    def __init__(self, way: str, data: Dataset, folder: Path, *, precision: str, rounds: int):
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
            n_models=rounds * self.models,
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
        first = len(self.of(spec))
        tasks = range(first, first + self.models // STACK)
        self.reports += self.run([(self.specs.index(spec) + 1, task) for task in tasks])

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

    def core_seconds(self, spec: NetworkSpec) -> list[float]:
        return [report["core seconds"] / STACK for report in self.of(spec)]

    def parts(self, spec: NetworkSpec) -> dict[str, float]:
        """Shares of the workers' time."""
        sums = {p: sum(r["parts"][p] for r in self.of(spec)) for p in (*PARTS, "the rest")}
        return {part: seconds / sum(sums.values()) for part, seconds in sums.items()}

    def close(self) -> None:
        self.pool.close()


class Turns:
    """Rounds in which every way trains each algorithm once, after a look at the cores' speed."""

    def __init__(self, ways: list, pool: ProcessPoolExecutor):
        self.ways, self.pool = ways, pool
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.rates: list[float] = []

    def take(self, rounds: int, *, limit: float) -> None:
        """``rounds`` rounds; none but the second begins after ``limit`` seconds."""
        begin = time.perf_counter()
        for number in range(rounds):
            if number >= 2 and time.perf_counter() - begin > limit:
                return
            turns = [(way, spec) for way in self.ways for spec in way.specs]
            for way, spec in turns[:: -1 if number % 2 else 1]:
                rates = [self.pool.submit(matmul_rate) for _ in range(cores())]
                self.rates += [rate.result() for rate in rates]
                start = time.perf_counter()
                way.turn(spec)
                self.seconds[way.way, spec.name].append(time.perf_counter() - start)

    @property
    def peak(self) -> float:
        """Matrix products of one core, operations a second."""
        return statistics.median(self.rates)

    def row(self, way, number: int, flops: float) -> dict:
        """What was measured of a way and an algorithm whose models take ``flops``."""
        spec = way.specs[number]
        seconds = statistics.median(self.seconds[way.way, spec.name]) / way.models
        core, accuracy = statistics.median(way.core_seconds(spec)), way.accuracy(spec)
        row = {
            "way": way.way,
            "algorithm": spec.name,
            "models": len(accuracy),
            "models a minute": 60 / seconds,
            "core seconds a model": core,
            "share of fp32 matmul peak": flops / core / self.peak,
            "accuracy": statistics.mean(accuracy),
            "accuracy, deviation of a model": statistics.stdev(accuracy),
            "start, seconds": way.start,
        }
        return row | ({"parts": way.parts(spec)} if isinstance(way, Mdhelpers) else {})


def operations_a_model(spec: NetworkSpec, data: Dataset) -> float:
    """Floating-point operations of a model's training and its evaluation on the test images."""
    step, forward = operations(make_model(spec, data.size, len(data.class_names)), data.size)
    return spec.epochs * round(ALPHA * len(data.train)) * step + len(data.test) * forward


def make_bars(rows: list[dict]) -> list[dict]:
    found, bars = {(row["way"], row["algorithm"]): row for row in rows}, []
    for name in (spec.name for spec in SPECS):
        usual, tight, ours = (found[way, name] for way in (USUAL, TIGHT, OURS))
        faster = ours["models a minute"] / usual["models a minute"]
        cheaper = tight["core seconds a model"] / ours["core seconds a model"]
        share = ours["share of fp32 matmul peak"]
        bars += [
            at_least(f"{name}: models a minute over the usual script's", faster, 5.0),
            at_least(f"{name}: models a core-minute over the tight loop's", cheaper, 1.2),
            at_least(f"{name}: share of a core's fp32 matmul peak", share, 0.55),
            equal(f"{name}: accuracy, mdhelpers and the usual script", ours, usual),
            equal(f"{name}: accuracy, mdhelpers and the tight loop", ours, tight),
        ]
    return bars


def at_least(what: str, value: float, aim: float) -> dict:
    return {"what": what, "value": value, "aim": aim, "met": value >= aim}


def equal(what: str, ours: dict, other: dict, aim: float = 3.0) -> dict:
    """Standard errors between two means; a model's deviation is that of our many models."""
    error = ours["accuracy, deviation of a model"] * math.hypot(
        ours["models"] ** -0.5, other["models"] ** -0.5
    )
    apart = abs(ours["accuracy"] - other["accuracy"]) / error
    return {"what": f"{what}, standard errors apart", "value": apart, "aim": aim} | {
        "met": apart <= aim
    }


def show(rows: list[dict], bars: list[dict], peak: float) -> None:
    print(f"{cores()} cores, torch {torch.__version__}, {peak / 1e9:.0f} GFLOP/s in fp32 a core")
    for r in rows:
        print(
            f"{r['way']:15} {r['algorithm']:9} {r['models']:4d} models "
            f"{r['models a minute']:6.1f} a minute, {r['core seconds a model']:7.3f} core s each, "
            f"{r['share of fp32 matmul peak']:4.0%} of peak, accuracy {r['accuracy']:.3f}, "
            f"start {r['start, seconds']:.1f} s"
        )
    for r in rows:
        if "parts" in r:
            shares = ", ".join(f"{part} {share:.1%}" for part, share in r["parts"].items())
            print(f"time of {r['way']}, {r['algorithm']}: {shares}")
    for b in bars:
        print(f"{b['what']}: {b['value']:.2f} (aim {b['aim']:g}){'' if b['met'] else ', NOT met'}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Models a minute on a CPU, three ways")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, under five minutes")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    rounds, limit = (5, 120.0) if options.quick else (20, math.inf)
    precisions = {OURS: "fp32"} if options.quick else {OURS: "fp32", f"{OURS}, bf16": "bf16"}
    data = make_scenes(n_train=240, n_test=600, seed=SEED)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        tight = Elsewhere(TIGHT, tight_model, data, threads=1, models=4 * cores())
        ways = [Elsewhere(USUAL, usual_model, data, threads=cores(), models=1), tight]
        for way, precision in precisions.items():
            place = Path(folder) / precision
            ways.append(Mdhelpers(way, data, place, precision=precision, rounds=rounds))
        for way in ways:
            stack.enter_context(closing(way))
        turns = Turns(ways, tight.pool)
        turns.take(rounds, limit=limit)
        flops = [operations_a_model(spec, data) for spec in SPECS]
        rows = [turns.row(way, number, flops[number]) for number in (0, 1) for way in ways]
    bars = make_bars(rows)
    show(rows, bars, turns.peak)
    if options.out:
        found = {"machine": machine(), "fp32 matmul of a core": turns.peak, "rows": rows}
        options.out.write_text(json.dumps(found | {"bars": bars}, indent=2))
