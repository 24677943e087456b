"""Run one task: train its models, write their rows to the store, keep some as checkpoints."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.datasets import read_dataset
from mdhelpers.learners import TrainedModels, TrainedNetworks, learn
from mdhelpers.loading import open_source
from mdhelpers.outputs import is_right, margins_of
from mdhelpers.plans import TrainingPlan, make_task
from mdhelpers.pretraining import starting_weights
from mdhelpers.runs import checked
from mdhelpers.stacking import make_stack
from mdhelpers.tensor_files import write_tensors
from mdhelpers.training import Task, TrainingData


def run_task(plan: TrainingPlan, algorithm: int, task_index: int) -> dict:
    """Train one task and write its rows; returns its summary. Safe to run twice."""
    start = time.perf_counter()
    store = plan.create_store(algorithm)
    rows = store.task_rows(task_index)
    task, slots = prepare_task(plan, algorithm, rows)
    data, test_images, test_labels = resident_data(plan)
    models = learn(task, data)
    logits = models.logits(test_images)
    margins = margins_of(task.algorithm, logits, test_labels).numpy()
    refuse_diverged(task, algorithm, margins, rows)
    if rows.start < plan.n_keep and isinstance(models, TrainedNetworks):
        save_checkpoint(models.stack, plan.checkpoint_path(algorithm, task_index))
    accuracy = is_right(logits, test_labels).float().mean(1).numpy()
    seconds = time.perf_counter() - start
    arrays = {
        "masks": task.masks,
        "margins": margins,
        "accuracy": accuracy,
        "losses": models.losses,
        "seeds": np.array([task.data_seeds, task.init_seeds], np.uint64).T,
        "slots": slots,
        "seconds": np.full(len(margins), seconds / len(margins), np.float32),
    }
    store.write_task(task_index, arrays)
    return {
        "algorithm": algorithm,
        "task": task_index,
        "models": len(margins),
        "accuracy": float(accuracy.mean()),
        "seconds": seconds,
        "process": os.getpid(),
        "host": socket.gethostname(),
    }


def prepare_task(plan: TrainingPlan, algorithm: int, rows: slice) -> tuple[Task, np.ndarray]:
    """The task of ``rows`` with the weights that its models start from, and their slots."""
    task, slots = make_task(plan, algorithm, rows)
    return replace(task, starts=starting_weights(plan, algorithm, rows)), slots


def refuse_diverged(task: Task, algorithm: int, margins: np.ndarray, rows: slice) -> None:
    broken = ~np.isfinite(margins).all(axis=1)
    if not broken.any():
        return
    what = f"algorithm {algorithm} ({task.algorithm.name}): model {rows.start + broken.argmax()}"
    if isinstance(task.algorithm, NetworkSpec):
        raise FloatingPointError(
            f"{what} diverged; its margins are not finite. Lower its lr (now {task.algorithm.lr})."
        )
    raise FloatingPointError(f"{what} gave margins that are not finite.")


def resident_data(plan: TrainingPlan) -> tuple[TrainingData, torch.Tensor, torch.Tensor]:
    """The run's training data, test images (on the device) and test labels (on the CPU)."""
    return _resident_data(plan.data_folder, plan.loader, plan.device, plan.fingerprint)


@lru_cache(maxsize=1)
def _resident_data(folder: Path, loader: str, device: str, fingerprint: str):
    dataset = read_dataset(folder, mmap=True)
    if dataset.fingerprint != fingerprint:
        raise ValueError(f"the images in {folder} changed; run 01_data_prep again")
    train_labels = torch.from_numpy(dataset.train.labels).to(device)
    source = open_source(folder, loader, device)
    test_images = torch.from_numpy(np.array(dataset.test.images)).to(device)
    data = TrainingData(source, train_labels, len(dataset.class_names))
    return data, test_images, torch.from_numpy(dataset.test.labels)


def save_checkpoint(model: torch.nn.Module, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, model.state_dict())


def load_kept(plan: TrainingPlan, algorithm: int, n_models: int) -> list[TrainedModels]:
    """Trained models that together hold the first ``n_models`` kept ones of an algorithm.

    Networks are read from their checkpoints. Others are trained again from their masks and seeds,
    which gives the same bits: nothing is ever pickled.
    """
    dataset = read_dataset(plan.data_folder, mmap=True)
    spec, kept = plan.algorithms[algorithm - 1], []
    for task in range(-(-n_models // plan.stack)):
        if isinstance(spec, NetworkSpec):
            stack = make_stack(spec, plan.stack, dataset.size, len(dataset.class_names))
            path = plan.checkpoint_path(algorithm, task)
            stack.load_state_dict(load_file(checked(plan.folder, "02_mask_training", path)))
            stack.to(plan.device, memory_format=torch.channels_last).eval()
            kept.append(TrainedNetworks(stack))
        else:
            rows = slice(task * plan.stack, (task + 1) * plan.stack)
            data, *_ = resident_data(plan)
            kept.append(learn(prepare_task(plan, algorithm, rows)[0], data))
    return kept


def unfinished_tasks(plan: TrainingPlan) -> list[tuple[int, int]]:
    """(algorithm, task) pairs still to do, the algorithms in turn."""
    done = {a: finished_tasks(plan, a) for a in plan.numbers}
    return [(a, t) for t in range(plan.n_tasks) for a in plan.numbers if t not in done[a]]


def finished_tasks(plan: TrainingPlan, algorithm: int) -> set[int]:
    """Tasks whose rows, and checkpoint where one is kept, are there."""
    done = plan.create_store(algorithm).done_tasks()
    if not isinstance(plan.algorithms[algorithm - 1], NetworkSpec):
        return done
    lacking = {
        task
        for task in range(-(-plan.n_keep // plan.stack))
        if not plan.checkpoint_path(algorithm, task).exists()
    }
    return done - lacking
