"""What runs on a cluster's workers: tasks, and the check that a worker is fit for them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from mdhelpers.machine import versions
from mdhelpers.plans import TrainingPlan
from mdhelpers.processes import attempt
from mdhelpers.slurm import take_gpu
from mdhelpers.threads import one_thread

ONE_TASK = threading.Lock()  # a process holds one seeded generator, and one set of threads


@dataclass(frozen=True)
class Expectations:
    """What a worker must find; hashable, it travels with every task."""

    folder: Path
    data_folder: Path
    fingerprint: str
    token: str
    versions: tuple[tuple[str, str], ...]
    device: str


class UnfitWorker(RuntimeError):
    """A worker lacks what a task needs."""


def train_on_worker(
    expected: Expectations, run: Callable, plan: TrainingPlan, algorithm: int, task: int
) -> dict:
    """What a worker runs: a task on one thread, once it is sure that it is fit for it."""
    from distributed import get_worker

    faults = faults_of_process(expected)
    if faults:
        raise UnfitWorker(unfit(socket.gethostname(), faults))
    with ONE_TASK, one_thread():
        report = attempt(run, plan, algorithm, task)
    return {"host": socket.gethostname(), **report, "worker": get_worker().address}


def find_faults(expected: Expectations) -> list[str]:
    """What this process lacks to train a plan's models: empty where it is fit."""
    faults = []
    found = deciding_versions()
    for name, version in expected.versions:
        if found.get(name) != version:
            faults.append(f"has {name} {found.get(name)}, and {version} is needed")
    about = expected.data_folder / "dataset.json"
    if not about.exists():
        faults.append(f"does not see {about}; the run's folder must be on a shared file system")
    elif json.loads(about.read_text(encoding="utf-8"))["fingerprint"] != expected.fingerprint:
        faults.append(f"has other images in {about.parent}")
    elif expected.token and not (expected.folder / expected.token).exists():
        faults.append(
            f"sees another folder at {expected.folder}; it must be the same one, on a shared "
            "file system, or models_url must say where all hosts write"
        )
    if expected.device != "cpu" and not torch.cuda.is_available():
        faults.append("has no GPU that torch sees")
    return faults


@lru_cache(maxsize=1)
def faults_of_process(expected: Expectations) -> list[str]:
    """`find_faults`, once in a worker's life, after it has chosen its GPU."""
    from distributed import get_worker

    if expected.device == "cuda":
        take_gpu(str(get_worker().name))
    return find_faults(expected)


def unfit(host: str, faults: list[str]) -> str:
    return f"the worker on {host} {'; it '.join(faults)}. What is finished is kept."


def deciding_versions() -> dict[str, str]:
    """The versions that must be equal on all hosts, since bits hang on them."""
    found = versions()
    return {name: found[name] for name in ("mdhelpers", "torch", "numpy", "zarr")}
