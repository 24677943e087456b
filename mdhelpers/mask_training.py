"""Train every model of both algorithms on random subsets: tasks, workers, resuming.

A task is one stack of models of one algorithm. Tasks are fixed by the plan, idempotent, and
write their own rows to the store, so that any number of processes may run them in any order. A
killed run loses only the tasks under way.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from mdhelpers.datasets import read_dataset
from mdhelpers.machine import cores
from mdhelpers.models import ARCHITECTURES
from mdhelpers.outputs import correct_class_margins
from mdhelpers.store import ModelStore
from mdhelpers.studies import AlgorithmSpec
from mdhelpers.training import (
    Task,
    TrainingData,
    stack_logits,
    train_stack,
)

RESTARTS = 3  # of the whole pool, after a worker died


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that fixes the models of a study; small and picklable, it travels to workers.

    ``n_models`` counts all models of an algorithm, held-out ones first; the first ``n_keep`` are
    kept as checkpoints.
    """

    folder: Path
    algorithms: tuple[AlgorithmSpec, AlgorithmSpec]
    fingerprint: str
    n_train: int
    n_test: int
    seed: int
    alpha: float
    n_models: int
    n_keep: int
    n_slots: int
    stack: int
    device: str

    def __post_init__(self) -> None:
        n_subset = round(self.alpha * self.n_train)
        if not 0 < n_subset < self.n_train:
            raise ValueError(
                f"alpha = {self.alpha} of {self.n_train} training images is a subset of "
                f"{n_subset}; it needs at least one image and at least one left out"
            )
        if self.n_models % self.stack:
            raise ValueError(
                f"{self.n_models} models (held-out ones included) do not make whole stacks of "
                f"{self.stack}; change n_models, n_heldout or stack"
            )
        if self.n_keep > self.n_models:
            raise ValueError(
                f"{self.n_keep} models are to be kept for counterfactuals, but only "
                f"{self.n_models} are trained; lower n_effect_models"
            )

    @property
    def n_tasks(self) -> int:
        return self.n_models // self.stack

    def store_path(self, algorithm: int) -> Path:
        return self.folder / f"models_{algorithm}.zarr"

    def checkpoint_path(self, algorithm: int, task: int) -> Path:
        return self.folder / f"checkpoints_{algorithm}" / f"{task:05d}.safetensors"

    def identity(self, algorithm: int) -> dict:
        """What decides the bits of a model; the store refuses to mix two of these."""
        return {
            "algorithm": self.algorithms[algorithm - 1].model_dump(),
            "algorithm_number": algorithm,
            "data": self.fingerprint,
            "seed": self.seed,
            "alpha": self.alpha,
            "n_slots": self.n_slots,
            "stack": self.stack,
            "device": self.device.split(":")[0],
        }

    def create_store(self, algorithm: int) -> ModelStore:
        shapes = {
            "n_models": self.n_models,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "n_epochs": self.algorithms[algorithm - 1].epochs,
            "rows": self.stack,
        }
        return ModelStore.create(self.store_path(algorithm), self.identity(algorithm), shapes)


def draw_mask(seed: int, index: int, n_train: int, alpha: float) -> np.ndarray:
    """The subset of model ``index``: (n_train,) bool, the same under both algorithms."""
    rng = np.random.default_rng([seed, 1, index])
    mask = np.zeros(n_train, bool)
    mask[rng.permutation(n_train)[: round(alpha * n_train)]] = True
    return mask


def derived_seed(*key: int) -> int:
    """One 32-bit seed from a key of integers."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


def make_task(plan: TrainingPlan, algorithm: int, rows: slice) -> tuple[Task, np.ndarray]:
    """The task that trains rows ``rows`` and the models' slots (-1: an initialisation each)."""
    index = range(rows.start, rows.stop)
    slots = [i % plan.n_slots if plan.n_slots else -1 for i in index]
    starts = [(3, slot) if plan.n_slots else (4, i) for slot, i in zip(slots, index, strict=True)]
    task = Task(
        plan.algorithms[algorithm - 1],
        np.stack([draw_mask(plan.seed, i, plan.n_train, plan.alpha) for i in index]),
        [derived_seed(plan.seed, algorithm, 2, i) for i in index],
        [derived_seed(plan.seed, algorithm, *start) for start in starts],
    )
    return task, np.array(slots, np.int32)


def run_task(plan: TrainingPlan, algorithm: int, task_index: int) -> dict:
    """Train one task and write its rows; returns its summary. Safe to run twice."""
    start = time.perf_counter()
    store = plan.create_store(algorithm)
    task, slots = make_task(plan, algorithm, store.task_rows(task_index))
    data, test_images, test_labels = resident_data(plan.folder, plan.device, plan.fingerprint)
    model, losses = train_stack(task, data)
    margins = correct_class_margins(stack_logits(model, test_images), test_labels).numpy()
    if not np.isfinite(margins).all():
        row = store.task_rows(task_index).start + int((~np.isfinite(margins).all(1)).argmax())
        raise FloatingPointError(
            f"algorithm {algorithm} ({task.algorithm.name}): model {row} diverged; its margins "
            f"are not finite. Lower its lr (now {task.algorithm.lr})."
        )
    if store.task_rows(task_index).start < plan.n_keep:
        save_checkpoint(model, plan.checkpoint_path(algorithm, task_index))
    accuracy = (margins > 0).mean(axis=1, dtype=np.float32)
    arrays = {
        "masks": task.masks,
        "margins": margins,
        "accuracy": accuracy,
        "losses": losses.T,
        "seeds": np.array([task.data_seeds, task.init_seeds], np.uint64).T,
        "slots": slots,
    }
    store.write_task(task_index, arrays)
    return {
        "algorithm": algorithm,
        "task": task_index,
        "models": len(margins),
        "accuracy": float(accuracy.mean()),
        "seconds": time.perf_counter() - start,
        "process": os.getpid(),
    }


@lru_cache(maxsize=1)
def resident_data(folder: Path, device: str, fingerprint: str):
    """The run's images on ``device``, read once a process."""
    dataset = read_dataset(folder / "data")
    if dataset.fingerprint != fingerprint:
        raise ValueError(f"the images in {folder / 'data'} changed; run 01_data_prep again")
    train, test = (
        [torch.from_numpy(array).to(device) for array in (split.images, split.labels)]
        for split in (dataset.train, dataset.test)
    )
    return TrainingData(*train, len(dataset.class_names)), test[0], test[1].cpu()


def save_checkpoint(model: torch.nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    save_file({k: v.cpu().contiguous() for k, v in model.state_dict().items()}, temporary)
    temporary.rename(path)


def load_checkpoints(plan: TrainingPlan, algorithm: int, n_models: int) -> list[torch.nn.Module]:
    """Stacks that together hold the first ``n_models`` kept models of an algorithm."""
    dataset = read_dataset(plan.folder / "data", mmap=True)
    spec, stacks = plan.algorithms[algorithm - 1], []
    for task in range(-(-n_models // plan.stack)):
        model = ARCHITECTURES[spec.architecture](
            plan.stack, dataset.size, len(dataset.class_names), width=spec.width
        )
        model.load_state_dict(load_file(plan.checkpoint_path(algorithm, task)))
        stacks.append(model.to(plan.device, memory_format=torch.channels_last).eval())
    return stacks


def unfinished_tasks(plan: TrainingPlan) -> list[tuple[int, int]]:
    """(algorithm, task) pairs still to do, the two algorithms in turn."""
    stores = {a: plan.create_store(a) for a in (1, 2)}
    return [
        (algorithm, task)
        for task in range(plan.n_tasks)
        for algorithm in (1, 2)
        if not is_finished(plan, stores[algorithm], algorithm, task)
    ]


def is_finished(plan: TrainingPlan, store: ModelStore, algorithm: int, task: int) -> bool:
    kept = task * plan.stack < plan.n_keep
    return store.is_done(task) and (not kept or plan.checkpoint_path(algorithm, task).exists())


def train_all(plan: TrainingPlan, *, workers: int = 0, progress: bool = True) -> dict:
    """Train what is not trained yet.

    Parameters
    ----------
    plan
        What to train.
    workers
        Processes, each single-threaded; 0: one a core (one in all on a GPU). The result does
        not depend on it.
    progress
        Show a bar with models a minute and the accuracy so far.

    Returns
    -------
    dict
        ``models`` trained now, ``seconds``, ``workers``.

    Raises
    ------
    RuntimeError
        When workers keep dying (out of memory, say). What is done is kept: run again.

    """
    tasks = unfinished_tasks(plan)
    check_disk(plan, len(tasks))
    if workers == 0:
        workers = 1 if plan.device != "cpu" else max(1, min(cores(), len(tasks)))
    start, done = time.perf_counter(), 0
    with tqdm(
        total=2 * plan.n_models,
        initial=2 * plan.n_models - len(tasks) * plan.stack,
        unit="model",
        disable=not progress,
        mininterval=2.0,
        smoothing=0.05,
    ) as bar:
        accuracy: dict[int, list[float]] = {1: [], 2: []}
        for summary in run_tasks(plan, tasks, workers):
            log_task(plan.folder / "training.jsonl", summary)
            done += summary["models"]
            accuracy[summary["algorithm"]].append(summary["accuracy"])
            shown = " / ".join(f"{np.mean(a):.3f}" if a else "…" for a in accuracy.values())
            rate = 60 * done / (time.perf_counter() - start)
            bar.set_postfix_str(f"{rate:.0f} models/min, accuracy {shown}", refresh=False)
            bar.update(summary["models"])
    return {"models": done, "seconds": time.perf_counter() - start, "workers": workers}


def log_task(path: Path, summary: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(summary) + "\n")


def check_disk(plan: TrainingPlan, n_tasks: int) -> None:
    """Refuse to start where the margins and checkpoints would not fit."""
    need = int(1.2 * n_tasks * plan.stack * (4 * plan.n_test + plan.n_train / 8 + 4096))
    free = shutil.disk_usage(plan.folder).free
    if free < need:
        raise OSError(
            f"no disk space: {plan.folder} has {free / 1e6:.0f} MB free and the models need "
            f"about {need / 1e6:.0f} MB"
        )


def run_tasks(plan: TrainingPlan, tasks: list[tuple[int, int]], workers: int) -> Iterable[dict]:
    """Summaries of the tasks as they finish."""
    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for algorithm, task in tasks:
                yield run_task(plan, algorithm, task)
        finally:
            torch.set_num_threads(threads)
        return
    left = list(tasks)
    for _ in range(RESTARTS):
        try:
            for summary in run_in_pool(plan, list(left), workers):
                left.remove((summary["algorithm"], summary["task"]))
                yield summary
            return
        except BrokenProcessPool:
            left = [task for task in left if task in unfinished_tasks(plan)]
    raise RuntimeError(
        f"training workers died {RESTARTS} times (out of memory?). {len(left)} tasks are left, "
        f"what is done is kept: run again, perhaps with fewer workers (now {workers})"
    )


def run_in_pool(plan: TrainingPlan, tasks: list[tuple[int, int]], workers: int) -> Iterable[dict]:
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=start_worker, initargs=(os.getpid(),))
    try:
        waiting = iter(tasks)
        running: set[Future] = set()
        for algorithm, task in waiting:
            running.add(pool.submit(run_task, plan, algorithm, task))
            if len(running) >= 2 * workers:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in finished)
        while running:
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in finished)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def start_worker(parent: int) -> None:
    """Compute on one thread, and end when the parent is gone, even if it was killed."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
