"""Where mdhelpers' training time goes: its own functions, run as they are, with clocks around them.

A worker that runs `timed_task` measures every task that it trains; nothing of the training is
repeated here, so that the table cannot describe other code than the one that runs.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, wraps

import torch

from mdhelpers.training.learners import TrainedNetworks
from mdhelpers.training.recipe import Batches, Stepper, train_stack
from mdhelpers.training.store import ModelStore
from mdhelpers.training.tasks import TrainingPlan, make_task, resident_data, run_task

WARM_UP = -1
SECONDS: dict[str, float] = defaultdict(float)
PARTS = ("data, augmentation", "forward, loss", "backward", "optimiser", "evaluation", "store")


def timed_task(plan: TrainingPlan, algorithm: int, task: int) -> dict:
    """`run_task` with its seconds of a core and, in ``parts``, where they went; or a warm-up."""
    put_clocks()
    if task <= WARM_UP:
        warm_up(plan, algorithm)
        return {"algorithm": algorithm, "task": task}
    SECONDS.clear()
    start = time.thread_time()
    report = run_task(plan, algorithm, task)
    total = time.thread_time() - start
    parts = dict(SECONDS)
    parts["forward, loss"] = parts.pop("step") - parts["backward"] - parts["optimiser"]
    parts["the rest"] = total - sum(parts.values())
    return report | {"core seconds": total, "parts": parts}


def warm_up(plan: TrainingPlan, algorithm: int) -> None:
    """Read the images and train for an epoch: torch imports much when it is first used."""
    task, _ = make_task(plan, algorithm, slice(0, plan.stack))
    short = task.algorithm.model_copy(update={"epochs": 1})
    train_stack(replace(task, algorithm=short), resident_data(plan)[0])


@lru_cache(maxsize=1)
def put_clocks() -> None:
    """Wrap the functions whose time is told, once a process."""
    Batches.epoch = clocked_items("data, augmentation", Batches.epoch)
    Stepper.step = clocked("step", Stepper.step)
    torch.Tensor.backward = clocked("backward", torch.Tensor.backward)
    torch.optim.SGD.step = clocked("optimiser", torch.optim.SGD.step)
    TrainedNetworks.logits = clocked("evaluation", TrainedNetworks.logits)
    TrainingPlan.create_store = clocked("store", TrainingPlan.create_store)
    ModelStore.write_task = clocked("store", ModelStore.write_task)


def clocked(name: str, function: Callable) -> Callable:
    @wraps(function)
    def measured(*args, **options):
        start = time.thread_time()
        try:
            return function(*args, **options)
        finally:
            SECONDS[name] += time.thread_time() - start

    return measured


def clocked_items(name: str, function: Callable) -> Callable:
    """The same for a generator: the time until each of its items."""

    @wraps(function)
    def measured(*args, **options):
        items = function(*args, **options)
        following = clocked(name, lambda: next(items, None))
        while (item := following()) is not None:
            yield item

    return measured
