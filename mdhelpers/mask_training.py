"""Train every model of both algorithms on random subsets, with a progress bar; resumable.

A killed run loses only the tasks under way: see `mdhelpers.plans` for what a task is,
`mdhelpers.tasks` for how one is run and `mdhelpers.schedulers` for who runs it.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mdhelpers.machine import cores
from mdhelpers.plans import TrainingPlan
from mdhelpers.schedulers import run_tasks
from mdhelpers.tasks import unfinished_tasks


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
