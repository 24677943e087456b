"""Train every model of both algorithms on random subsets, with a progress bar; resumable.

A killed run loses only the tasks under way: see `mdhelpers.plans` for what a task is,
`mdhelpers.tasks` for how one is run and `mdhelpers.schedulers` for who runs it.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mdhelpers.machine import cores
from mdhelpers.plans import TrainingPlan
from mdhelpers.pretraining import run_source, unfinished_sources
from mdhelpers.processes import visible_gpus
from mdhelpers.records import remove_unfinished, write_json
from mdhelpers.schedulers import check_scheduler, failure_message, run_tasks
from mdhelpers.status import read_log
from mdhelpers.store import ModelStore
from mdhelpers.tasks import unfinished_tasks


def train_all(
    plan: TrainingPlan,
    *,
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict | None = None,
    progress: bool = True,
) -> dict:
    """Train what is not trained yet.

    Parameters
    ----------
    plan
        What to train.
    workers
        Processes of the local scheduler, each single-threaded; 0: one a core, or one a GPU. The
        result does not depend on it.
    scheduler, cluster
        Who trains: see `mdhelpers.schedulers.run_tasks`.
    progress
        Show a bar with models a minute, the accuracy so far and the time left.

    Returns
    -------
    dict
        ``models`` trained now, ``seconds``, ``workers`` (processes that trained).

    Raises
    ------
    RuntimeError
        When tasks failed, after all others are finished; it names them. What is done is kept.
    OSError
        When the disk is full, or would be.

    """
    check_scheduler(scheduler)
    forget_damaged(plan)
    log, start = plan.folder / "training.jsonl", time.perf_counter()
    tasks = failed_last(unfinished_tasks(plan), log)
    check_disk(plan, len(tasks))
    describe_plan(plan)
    workers = workers or default_workers(plan, len(tasks))
    train_sources(plan, scheduler, workers, cluster)
    trained, failures = Trained(plan, len(tasks), progress), []
    with trained.bar, closing(run_tasks(plan, tasks, scheduler, workers, cluster)) as reports:
        for report in reports:
            log_report(log, report)
            if "failed" in report:
                failures.append(report)
            else:
                trained.add(report)
    if failures:
        n_untried = len(tasks) - trained.n_tasks - len(failures)
        raise RuntimeError(failure_message(plan, failures, n_untried, workers))
    remove_leftovers(plan)
    workers = workers if scheduler == "local" else len(trained.processes)
    return {"models": trained.models, "seconds": time.perf_counter() - start, "workers": workers}


def forget_damaged(plan: TrainingPlan) -> None:
    """Have what fails its checksum by now trained again."""
    for algorithm in plan.numbers:
        with suppress(FileNotFoundError):
            store = ModelStore.open(plan.store_path(algorithm))
            for task in sorted({task for _, task in store.check()}):
                store.forget(task)


def train_sources(plan: TrainingPlan, scheduler: str, workers: int, cluster: dict | None) -> None:
    """Train the source models that others start from, before any of those."""
    sources = unfinished_sources(plan)
    with closing(run_tasks(plan, sources, scheduler, workers, cluster, run=run_source)) as reports:
        for report in reports:
            number = report.pop("task", report.get("source"))
            log_report(plan.folder / "training.jsonl", {**report, "source": number})
            if "failed" in report:
                raise RuntimeError(
                    f"source model {number} of algorithm {report['algorithm']}, from which its "
                    f"models start: {report['failed']}. What is finished is kept: mend the cause "
                    "and run the same command again."
                )


class Trained:
    """What has been trained so far, and the bar that shows it."""

    def __init__(self, plan: TrainingPlan, n_tasks: int, progress: bool):
        self.n_tasks = self.models = 0
        self.accuracy: dict[int, list[float]] = {a: [] for a in plan.numbers}
        self.processes: set[tuple[str, int]] = set()
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=len(plan.numbers) * plan.n_models,
            initial=len(plan.numbers) * plan.n_models - n_tasks * plan.stack,
            unit="model",
            disable=not progress,
            mininterval=2.0,
            smoothing=0.05,
        )

    def add(self, report: dict) -> None:
        self.n_tasks += 1
        self.models += report["models"]
        self.processes.add((report.get("host", ""), report.get("process", 0)))
        self.accuracy[report["algorithm"]].append(report["accuracy"])
        shown = " / ".join(f"{np.mean(a):.3f}" if a else "…" for a in self.accuracy.values())
        rate = 60 * self.models / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"{rate:.0f} models/min, accuracy {shown}", refresh=False)
        self.bar.update(report["models"])


def default_workers(plan: TrainingPlan, n_tasks: int) -> int:
    """One process a core, or a GPU; no more than there are tasks."""
    if plan.device == "cpu":
        return max(1, min(cores(), n_tasks))
    return max(1, min(len(visible_gpus()), n_tasks)) if plan.device == "cuda" else 1


def failed_last(tasks: list[tuple[int, int]], log: Path) -> list[tuple[int, int]]:
    """``tasks`` with those that failed before put last, so that they keep none from running."""
    failed = set()
    for report in read_log(log):
        if "failed" in report:
            failed.add((report["algorithm"], report["task"]))
    return sorted(tasks, key=lambda task: task in failed)


def log_report(path: Path, report: dict) -> None:
    """Append a report to the run's log, with the time and the host where it names none."""
    shown = {key: value for key, value in report.items() if key not in ("stop", "again", "last")}
    line = {"host": socket.gethostname(), **shown, "at": time.time()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def describe_plan(plan: TrainingPlan) -> None:
    """Write ``plan.json``, from which `mdhelpers status` knows what is to be done."""
    about = {
        "n_models": plan.n_models,
        "stack": plan.stack,
        "names": [spec.name for spec in plan.algorithms],
        "models_url": plan.models_url,
        "device": plan.device,
    }
    write_json(plan.folder / "plan.json", about)


def remove_leftovers(plan: TrainingPlan) -> None:
    """Remove what killed processes had begun to write."""
    for folder in (".", "checkpoints_1", "checkpoints_2", "sources"):
        remove_unfinished(plan.folder / folder)


def check_disk(plan: TrainingPlan, n_tasks: int) -> None:
    """Refuse to start where the margins and checkpoints would not fit."""
    if plan.models_url:
        return
    width = np.dtype(plan.margins_dtype).itemsize
    need = int(1.2 * n_tasks * plan.stack * (width * plan.n_test + plan.n_train / 8 + 4096))
    free = shutil.disk_usage(plan.folder).free
    if free < need:
        raise OSError(
            f"no disk space: {plan.folder} has {free / 1e6:.0f} MB free and the models need "
            f"about {need / 1e6:.0f} MB"
        )
