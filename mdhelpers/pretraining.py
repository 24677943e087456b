"""Weights that an algorithm starts from: a file, torchvision's, or source models trained here.

Source models are trained on the whole of another data set before any task starts, each once. They
are kept under ``sources/``, named after what decides them, so that two algorithms that start from
the same source share its very weights.
"""

from __future__ import annotations

import hashlib
import json
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from mdhelpers.algorithms import NetworkSpec, PretrainingSpec
from mdhelpers.checkpoint_files import read_weights, torchvision_weights
from mdhelpers.datasets import DatasetSpec
from mdhelpers.image_folders import load_dataset
from mdhelpers.inputs import data_digest
from mdhelpers.paths import resolve
from mdhelpers.plans import TrainingPlan, derived_seed
from mdhelpers.tensor_files import write_tensors
from mdhelpers.training import Task, TrainingData, stack_logits, train_stack

SOURCE_SEEDS = 6  # apart from the keys of masks, orders and initialisations


def source_path(plan: TrainingPlan, source: PretrainingSpec, number: int) -> Path:
    """Where source model ``number`` is kept."""
    decides = [source.model_dump(exclude={"n_models"}), plan.seed]
    if pictures := data_digest(source.dataset):  # of scenes, the specification says it all
        decides.append(pictures)
    decides = json.dumps(decides, sort_keys=True)
    name = hashlib.sha256(decides.encode()).hexdigest()[:12]
    return plan.source_folder / f"{name}_{number:05d}.safetensors"


def source_of(plan: TrainingPlan, algorithm: int) -> PretrainingSpec | None:
    """The source that an algorithm starts from, if it starts from one."""
    spec = plan.algorithms[algorithm - 1]
    return spec.initialisation.source if isinstance(spec, NetworkSpec) else None


def sources(plan: TrainingPlan) -> dict[Path, tuple[int, int]]:
    """Where each source model is kept, and its (algorithm, number); a shared one is there once."""
    wanted = {}
    for algorithm in plan.numbers:
        source = source_of(plan, algorithm)
        for number in range(source.n_models if source else 0):
            wanted.setdefault(source_path(plan, source, number), (algorithm, number))
    return wanted


def unfinished_sources(plan: TrainingPlan) -> list[tuple[int, int]]:
    """(algorithm, number) of source models still to train."""
    return [key for path, key in sources(plan).items() if not path.exists()]


def run_source(plan: TrainingPlan, algorithm: int, number: int) -> dict:
    """Train one source model on all of its data and keep it; returns its summary."""
    start = time.perf_counter()
    source = source_of(plan, algorithm)
    data, test = source_data(source.dataset.model_dump_json(), plan.device)
    seeds = [derived_seed(plan.seed, SOURCE_SEEDS, number, k) for k in (0, 1)]
    everything = np.ones((1, len(data.source)), bool)
    stack, _ = train_stack(Task(source.algorithm, everything, [seeds[0]], [seeds[1]]), data)
    right = stack_logits(stack, test.source.images)[0].argmax(-1) == test.labels.cpu()
    path = source_path(plan, source, number)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, stack.model_state(0))
    return {
        "algorithm": algorithm,
        "source": number,
        "accuracy": float(right.float().mean()),
        "seconds": time.perf_counter() - start,
    }


@lru_cache(maxsize=1)
def source_data(spec_json: str, device: str) -> tuple[TrainingData, TrainingData]:
    """A source's training and test images on ``device``, read once a process."""
    dataset = load_dataset(DatasetSpec.model_validate_json(spec_json))
    return tuple(
        TrainingData(
            torch.tensor(split.images, device=device),
            torch.tensor(split.labels, device=device),
            len(dataset.class_names),
        )
        for split in (dataset.train, dataset.test)
    )


def starting_weights(plan: TrainingPlan, algorithm: int, rows: slice) -> tuple[dict, ...]:
    """The weights that models ``rows`` start from, one state dict each; none for random starts."""
    spec = plan.algorithms[algorithm - 1]
    if not isinstance(spec, NetworkSpec) or spec.initialisation.kind == "random":
        return ()
    if spec.initialisation.kind != "pretraining":
        return (file_weights(spec.initialisation.path, spec.architecture),) * (
            rows.stop - rows.start
        )
    source = spec.initialisation.source
    shared = plan.slots(rows) if plan.n_slots else plan.keys(rows)
    numbers = [i % source.n_models for i in shared]
    return tuple(load_file(source_path(plan, source, number)) for number in numbers)


@lru_cache(maxsize=2)
def file_weights(path: str, architecture: str) -> dict[str, torch.Tensor]:
    return read_weights(resolve(path)) if path else torchvision_weights(architecture)
