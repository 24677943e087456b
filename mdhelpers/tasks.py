"""Run one task: train its models, write their rows to the store, keep some as checkpoints."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from mdhelpers.datasets import read_dataset
from mdhelpers.models import ARCHITECTURES
from mdhelpers.outputs import correct_class_margins
from mdhelpers.plans import TrainingPlan, make_task
from mdhelpers.store import ModelStore
from mdhelpers.training import TrainingData, stack_logits, train_stack


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
            plan.stack, dataset.size, len(dataset.class_names), width=spec.channels
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
