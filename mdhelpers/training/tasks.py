"""Tasks: which masks, seeds and starting weights the models of a study have, and how one is run.

A task is one stack of models of one algorithm. Tasks follow from the plan alone, so that any
number of processes on any number of hosts may run them in any order: each trains its models,
writes their rows to the store and keeps some as checkpoints.

Weights that an algorithm starts from are a file's, torchvision's, or those of source models that
are trained here, on the whole of another data set, before any task starts. They are kept under
``sources/``, named after what decides them, so that two algorithms that start from the same source
share its very weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from mdhelpers.base.arrays import write_tensors
from mdhelpers.base.places import resolve
from mdhelpers.data.datasets import DatasetSpec, read_dataset
from mdhelpers.data.sources import data_digest, load_dataset
from mdhelpers.method.margins import is_right
from mdhelpers.training.algorithms import AlgorithmSpec, PretrainingSpec
from mdhelpers.training.learners import TrainedModels, learn, margins_of
from mdhelpers.training.loading import open_source
from mdhelpers.training.recipe import Task, TrainingData, stack_logits, train_stack
from mdhelpers.training.store import ModelStore
from mdhelpers.training.weights import read_weights, torchvision_weights


def resolve_device(device: str, scheduler: str = "local") -> str:
    """``auto`` takes a GPU where there is one; a device that is not there is refused.

    A cluster's GPUs need not be seen from here: its workers are asked
    (`mdhelpers.training.workers.hosts`).
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:0 …")
    if kind == "cuda" and scheduler == "local" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU; use auto or cpu")
    return device


def device_here(device: str) -> str:
    """A device as this process has it: the CPU in place of a GPU that only others have."""
    where = resolve_device(device, "elsewhere")
    return where if where == "cpu" or torch.cuda.is_available() else "cpu"


def choose_stack(algorithms: tuple[AlgorithmSpec, ...], n_models: int, device: str) -> int:
    """Models a task for ``stack: 0``: the largest divisor of ``n_models`` within the rule."""
    limit = min(spec.most_in_a_stack(device.split(":")[0]) for spec in algorithms)
    return max(d for d in range(1, limit + 1) if n_models % d == 0)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that fixes the models of a study; small and picklable, it travels to workers.

    ``n_models`` counts all models of an algorithm, held-out ones first; the first ``n_keep`` are
    kept as checkpoints. ``algorithms`` are two, or as many as a study of several has;
    ``numbers``, from 1 on, are those of the ones that are trained.
    ``origins`` says of models made elsewhere what files they were read from, by algorithm.
    ``run_folder`` is the study's, where ``folder`` is one within it.
    """

    folder: Path
    algorithms: tuple[AlgorithmSpec, ...]
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
    share_order: bool = False
    loader: str = "memory"
    models_url: str = ""
    margins_dtype: str = "float32"
    numbers: tuple[int, ...] = (1, 2)
    origins: tuple[str, ...] = ()
    run_folder: Path | None = None

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
                f"{self.n_keep} models are to be kept whole, but only {self.n_models} are trained; "
                "lower n_kept"
            )
        if self.share_order and not self.n_slots:
            raise ValueError("share_order needs slots to share within; give n_slots above 0")

    @property
    def n_tasks(self) -> int:
        return self.n_models // self.stack

    @property
    def here(self) -> str:
        """Where this process computes: the device, or the CPU where only a cluster has a GPU."""
        return device_here(self.device)

    @property
    def data_folder(self) -> Path:
        """Where the images are."""
        return (self.run_folder or self.folder) / "data"

    @property
    def source_folder(self) -> Path:
        """Where models that others start from are kept."""
        return (self.run_folder or self.folder) / "sources"

    def keys(self, rows: slice) -> list[int]:
        """What each model's randomness is drawn from: its row."""
        return list(range(rows.start, rows.stop))

    def masks(self, rows: slice) -> np.ndarray:
        """The subsets of models ``rows``, (n_rows, n_train) bool."""
        keys = self.keys(rows)
        return np.stack([draw_mask(self.seed, key, self.n_train, self.alpha) for key in keys])

    def slots(self, rows: slice) -> list[int]:
        """The common initialisation of each model, -1 where each has its own."""
        return [key % self.n_slots if self.n_slots else -1 for key in self.keys(rows)]

    def store_path(self, algorithm: int) -> Path | str:
        """Where an algorithm's models are stored: in the run's folder, or under ``models_url``."""
        name = f"models_{algorithm}.zarr"
        if "://" in self.models_url:
            return f"{self.models_url.rstrip('/')}/{name}"
        return (resolve(self.models_url) if self.models_url else self.folder) / name

    def checkpoint_path(self, algorithm: int, task: int) -> Path:
        return self.folder / f"checkpoints_{algorithm}" / f"{task:05d}.safetensors"

    def identity(self, algorithm: int) -> dict:
        """What decides the bits of a model; the store refuses to mix two of these."""
        spec = self.algorithms[algorithm - 1]
        path = spec.start.path
        weights = hashlib.sha256(resolve(path).read_bytes()).hexdigest()[:16] if path else ""
        origin = {"origin": self.origins[algorithm - 1]} if self.origins else {}
        return origin | {
            "algorithm": spec.model_dump(),
            "weights": weights,
            "made_with": spec.made_with(),
            "algorithm_number": algorithm,
            "data": self.fingerprint,
            "seed": self.seed,
            "alpha": self.alpha,
            "n_slots": self.n_slots,
            "share_order": self.share_order,
            "stack": self.stack,
            "margins_dtype": self.margins_dtype,
            "device": self.device.split(":")[0],
        }

    def create_store(self, algorithm: int) -> ModelStore:
        shapes = {
            "n_models": self.n_models,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "n_epochs": self.algorithms[algorithm - 1].n_epochs,
            "rows": self.stack,
        }
        return ModelStore.create(
            self.store_path(algorithm),
            self.identity(algorithm),
            shapes,
            margins_dtype=self.margins_dtype,
        )


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
    """The task that trains rows ``rows`` and the models' slots (-1: an initialisation each).

    A model's own key is its row, a shared one its slot: that of the initialisation where there
    are slots, that of order and augmentation where ``share_order`` asks for it.
    """
    keys, slots = plan.keys(rows), plan.slots(rows)
    shared = [(3, slot) if plan.n_slots else (4, i) for slot, i in zip(slots, keys, strict=True)]
    orders = [(5, slot) for slot in slots] if plan.share_order else [(2, i) for i in keys]
    task = Task(
        plan.algorithms[algorithm - 1],
        plan.masks(rows),
        [derived_seed(plan.seed, algorithm, *order) for order in orders],
        [derived_seed(plan.seed, algorithm, *start) for start in shared],
    )
    return task, np.array(slots, np.int32)


SOURCE_SEEDS = 6  # apart from the keys of masks, orders and initialisations


def source_path(plan: TrainingPlan, source: PretrainingSpec, number: int) -> Path:
    """Where source model ``number`` is kept."""
    decides = [source.model_dump(exclude={"n_models"}), plan.seed]
    # Of scenes and of our own architectures the specification says it all.
    decides += filter(None, (data_digest(source.dataset), source.algorithm.made_with()))
    decides = json.dumps(decides, sort_keys=True)
    name = hashlib.sha256(decides.encode()).hexdigest()[:12]
    return plan.source_folder / f"{name}_{number:05d}.safetensors"


def sources(plan: TrainingPlan) -> dict[Path, tuple[int, int]]:
    """Where each source model is kept, and its (algorithm, number); a shared one is there once."""
    wanted = {}
    for algorithm in plan.numbers:
        source = plan.algorithms[algorithm - 1].start.source
        for number in range(source.n_models if source else 0):
            wanted.setdefault(source_path(plan, source, number), (algorithm, number))
    return wanted


def unfinished_sources(plan: TrainingPlan) -> list[tuple[int, int]]:
    """(algorithm, number) of source models still to train."""
    return [key for path, key in sources(plan).items() if not path.exists()]


def run_source(plan: TrainingPlan, algorithm: int, number: int) -> dict:
    """Train one source model on all of its data and keep it; returns its summary."""
    start = time.perf_counter()
    source = plan.algorithms[algorithm - 1].start.source
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
            None if split.stored is None else torch.tensor(split.stored, device=device),
        )
        for split in (dataset.train, dataset.test)
    )


def starting_weights(plan: TrainingPlan, algorithm: int, rows: slice) -> tuple[dict, ...]:
    """The weights that models ``rows`` start from, one state dict each; none for random starts."""
    spec = plan.algorithms[algorithm - 1]
    start, source = spec.start, spec.start.source
    if start.kind == "random":
        return ()
    if source is None:
        return (file_weights(start.path, spec.architecture),) * (rows.stop - rows.start)
    shared = plan.slots(rows) if plan.n_slots else plan.keys(rows)
    numbers = [i % source.n_models for i in shared]
    return tuple(load_file(source_path(plan, source, number)) for number in numbers)


@lru_cache(maxsize=2)
def file_weights(path: str, architecture: str) -> dict[str, torch.Tensor]:
    return read_weights(resolve(path)) if path else torchvision_weights(architecture)


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
    if rows.start < plan.n_keep and task.algorithm.keeps_models:
        path = plan.checkpoint_path(algorithm, task_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, models.state())
    accuracy = is_right(logits, test_labels).float().mean(1).numpy()
    seconds = time.perf_counter() - start
    arrays = {
        "masks": task.algorithm.trained_on(task),
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
    raise FloatingPointError(f"{what} {task.algorithm.not_finite}")


def resident_data(plan: TrainingPlan) -> tuple[TrainingData, torch.Tensor, torch.Tensor]:
    """The run's training data, test images (on the device) and test labels (on the CPU)."""
    augmented = (getattr(spec, "augmentation", None) for spec in plan.algorithms)
    crops = any(augmentation and augmentation.crop for augmentation in augmented)
    return _resident_data(plan.data_folder, plan.loader, plan.here, plan.fingerprint, crops)


@lru_cache(maxsize=1)
def _resident_data(folder: Path, loader: str, device: str, fingerprint: str, crops: bool):
    dataset = read_dataset(folder, mmap=True)
    if dataset.fingerprint != fingerprint:
        raise ValueError(f"the images in {folder} changed; run 01_data_prep again")
    train_labels = torch.from_numpy(dataset.train.labels).to(device)
    source, larger = open_source(folder, loader, device), None
    if crops and dataset.train.stored is not None:
        larger = open_source(folder, loader, device, stored=True)
    test_images = torch.from_numpy(np.array(dataset.test.images)).to(device)
    data = TrainingData(source, train_labels, len(dataset.class_names), larger)
    return data, test_images, torch.from_numpy(dataset.test.labels)


def load_kept(
    plan: TrainingPlan,
    algorithm: int,
    n_models: int,
    *,
    check: Callable[[Path], Path] = lambda path: path,
) -> list[TrainedModels]:
    """Trained models that together hold the first ``n_models`` kept ones of an algorithm.

    ``check`` is given each checkpoint's path before it is read: it may refuse it.

    Networks are read from their checkpoints. Others are trained again from their masks and seeds,
    which gives the same bits: nothing is ever pickled.
    """
    dataset = read_dataset(plan.data_folder, mmap=True)
    spec, kept = plan.algorithms[algorithm - 1], []
    for task in range(-(-n_models // plan.stack)):
        if spec.keeps_models:
            state = load_file(check(plan.checkpoint_path(algorithm, task)), device=plan.device)
            kept.append(spec.restore(state, plan.stack, dataset.size, len(dataset.class_names)))
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
    if not plan.algorithms[algorithm - 1].keeps_models:
        return done
    lacking = {
        task
        for task in range(-(-plan.n_keep // plan.stack))
        if not plan.checkpoint_path(algorithm, task).exists()
    }
    return done - lacking


def repeat_keys(n_masks: int, repeat: int, *, n_models: int, n_slots: int) -> np.ndarray:
    """Keys of another training of the held-out masks.

    None is a key of the run's own models or of another repeat, and no mask keeps its
    initialisation, unless there is one only.

    Parameters
    ----------
    n_masks : int
        Held-out masks; their own keys are 0 to ``n_masks - 1``.
    repeat : int
        From 1.
    n_models : int
        All models of the run, held-out ones included.
    n_slots : int
        Common initialisations, 0 for none.

    Returns
    -------
    ndarray, shape (n_masks,), int64
    """
    slots = max(n_slots, 1)
    block = -(-n_models // slots) * slots  # so that a key's slot is that of its remainder
    return repeat * block + np.arange(n_masks) + (repeat - 1) % max(slots - 1, 1) + 1
