"""Who runs the tasks: processes of this machine, or a cluster of many."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool

import torch

from mdhelpers.plans import TrainingPlan
from mdhelpers.tasks import run_task, unfinished_tasks

RESTARTS = 3  # of the whole pool, after a worker died


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
