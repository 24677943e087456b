"""Who runs the tasks: processes of this machine, or the workers of a cluster.

Whoever does, the rules are the same. A task that raises is reported and the others go on. A task
whose worker died runs again when all others are done, alone, so that neither a neighbour nor its
memory can be to blame; one that still dies is reported. Where nothing but failures comes back, the
rest is not tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from itertools import chain

from mdhelpers.base.specs import unknown_word
from mdhelpers.training.tasks import TrainingPlan, resolve_device, run_task
from mdhelpers.training.workers.processes import ProcessPool

HOPELESS = 3  # failures of an algorithm in a row, nothing of it done between
SHOWN = 10


def run_tasks(
    plan: TrainingPlan,
    tasks: list[tuple[int, int]],
    scheduler: str = "local",
    workers: int = 1,
    cluster: dict | None = None,
    *,
    run: Callable = run_task,
) -> Iterator[dict]:
    """Run tasks and yield their reports as they finish, in whatever order.

    Parameters
    ----------
    plan
        What to train.
    tasks
        Pairs of an algorithm, 1 or 2, and a task's index.
    scheduler
        ``local``, ``slurm``, or the address of a dask scheduler (``tcp://host:8786``).
    workers
        Processes of the local scheduler.
    cluster
        What to ask of SLURM, and how long to wait: see
        `mdhelpers.training.workers.hosts.ClusterSpec`.
    run
        ``run(plan, algorithm, task) -> dict``, a function of an importable module.

    Yields
    ------
    dict
        What ``run`` returned, or ``algorithm``, ``task`` and ``failed``, a message.

    Raises
    ------
    OSError
        When a task met a full disk or a file that cannot be read or written.
    RuntimeError
        When workers cannot start, or a cluster is lost.
    ValueError
        For an unknown scheduler, and a GPU that is not here where this machine is to train.

    """
    check_scheduler(scheduler)
    resolve_device(plan.device, scheduler)
    if not tasks:
        return
    resolve_device(plan.device, scheduler)
    died: list[tuple[int, int]] = []
    with open_pool(plan, scheduler, workers, cluster, run) as pool:
        again = (run_alone(pool, task) for task in died)  # reads `died` when the rest is done
        for report in chain(until_hopeless(pool.results(tasks), pool), again):
            if report.get("stop"):
                raise OSError(stopped(plan, report))
            if report.get("again"):
                died.append((report["algorithm"], report["task"]))
            else:
                yield report
            if report.get("last"):
                return


def check_scheduler(scheduler: str) -> None:
    """Refuse a word that names no scheduler."""
    if scheduler not in ("local", "slurm") and "://" not in scheduler:
        known = ("local", "slurm", "tcp://host:8786")
        raise ValueError(f"scheduler: {unknown_word(scheduler, known, 'word')}")


def open_pool(
    plan: TrainingPlan, scheduler: str, workers: int, cluster: dict | None, run: Callable
) -> AbstractContextManager:
    if scheduler == "local":
        return closing(ProcessPool(plan, run, workers))
    from mdhelpers.training.workers.hosts import (
        open_cluster,  # distributed is an extra, and slow to import
    )

    return open_cluster(plan, scheduler, cluster or {}, run)


def until_hopeless(reports: Iterator[dict], pool) -> Iterator[dict]:
    """Reports up to the one, marked ``last``, that shows that all others would fail too.

    ``again`` marks a task that deserves another attempt. A cause that takes one worker may take
    all of them at once, so deaths count by the pool's size.
    """
    in_a_row = {1: 0, 2: 0}
    for report in reports:
        algorithm, died = report["algorithm"], report.get("died", False)
        in_a_row[algorithm] = in_a_row[algorithm] + 1 if "failed" in report else 0
        hopeless = in_a_row[algorithm] >= HOPELESS * (pool.n_workers if died else 1)
        if hopeless:
            yield report | {"last": True}
            return
        yield report | {"again": True} if died else report


def run_alone(pool, task: tuple[int, int]) -> dict:
    """The report of a task at which a worker died, tried again with no other beside it."""
    for _ in range(pool.attempts_alone):
        pool.close()
        (report,) = pool.results([task])
        if not report.get("died"):
            break
    return report


def stopped(plan: TrainingPlan, report: dict) -> str:
    return (
        f"training stopped at {describe(plan, report)}. What is finished is kept. If the disk is "
        f"full, make room on the one that holds {plan.store_path(report['algorithm'])}; then run "
        "the same command again, and it goes on with what is left."
    )


def describe(plan: TrainingPlan, report: dict) -> str:
    """A failed task in words: its algorithm, index, models, and what happened."""
    algorithm, task = report["algorithm"], report["task"]
    first = task * plan.stack
    return (
        f"algorithm {algorithm} ({plan.algorithms[algorithm - 1].name}), task {task} (models "
        f"{first} to {first + plan.stack - 1}): {report['failed']}"
    )


def failure_message(plan: TrainingPlan, failures: list[dict], n_untried: int, workers: int) -> str:
    """What to tell after the last task: which failed, what is kept, how to go on."""
    lines = [f"{len(failures)} tasks failed:"]
    lines += [f"  {describe(plan, report)}" for report in failures[:SHOWN]]
    if len(failures) > SHOWN:
        lines.append(f"  … and {len(failures) - SHOWN} more, in {plan.folder / 'training.jsonl'}")
    if n_untried:
        lines.append(f"{n_untried} more were not tried, since nothing else came back.")
    lines.append(
        "All finished models are kept. Mend the cause and run the same command again: it goes on "
        "with what is left."
    )
    if any(report.get("died") for report in failures):
        lines.append(f"If memory ran out, use fewer workers (now {workers}) or a smaller stack.")
    return "\n".join(lines)
