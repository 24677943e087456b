"""The plan of a study's models: which masks, seeds and tasks, whoever trains them.

A task is one stack of models of one algorithm. Tasks follow from the plan alone, so that any
number of processes on any number of hosts may run them in any order.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mdhelpers.algorithms import AlgorithmSpec, NetworkSpec
from mdhelpers.learners import made_with
from mdhelpers.paths import resolve
from mdhelpers.store import ModelStore
from mdhelpers.training import Task

# Models a task, by architecture. On a CPU core a stack of 8 small networks trains 1.2 to 1.7 times
# as fast as one alone, and a ResNet gains nothing (benchmarks/training.py). A small network cannot
# fill a GPU: there a stack goes as far as its activations are sure to fit in 16 GB; on an H100, 128
# of the small networks take nine tenths of the best rate (benchmarks/training_gpu.py).
STACKS = {
    "cpu": {"cnn": 8, "resnet9": 1, "resnet18": 1, "resnet50": 1},
    "cuda": {"cnn": 128, "resnet9": 8, "resnet18": 4, "resnet50": 1},
}
ROWS_OF_OTHERS = 8  # models a task, where they are not networks


def resolve_device(device: str, scheduler: str = "local") -> str:
    """``auto`` takes a GPU where there is one; a device that is not there is refused.

    A cluster's GPUs need not be seen from here: its workers are asked (`mdhelpers.clusters`).
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:0 …")
    if kind == "cuda" and scheduler == "local" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but torch sees no GPU; use auto or cpu")
    return device


def choose_stack(algorithms: tuple[AlgorithmSpec, ...], n_models: int, device: str) -> int:
    """Models a task for ``stack: 0``: the largest divisor of ``n_models`` within the rule."""
    rule = STACKS[device.split(":")[0]]
    limit = min(
        rule[a.architecture] if isinstance(a, NetworkSpec) else ROWS_OF_OTHERS for a in algorithms
    )
    return max(d for d in range(1, limit + 1) if n_models % d == 0)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that fixes the models of a study; small and picklable, it travels to workers.

    ``n_models`` counts all models of an algorithm, held-out ones first; the first ``n_keep`` are
    kept as checkpoints. ``numbers`` are those of the algorithms that are trained.
    ``origins`` says of models made elsewhere what files they were read from, by algorithm.
    """

    folder: Path
    algorithms: tuple[AlgorithmSpec, AlgorithmSpec]
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
                f"{self.n_keep} models are to be kept for counterfactuals, but only "
                f"{self.n_models} are trained; lower n_effect_models"
            )
        if self.share_order and not self.n_slots:
            raise ValueError("share_order needs slots to share within; give n_slots above 0")

    @property
    def n_tasks(self) -> int:
        return self.n_models // self.stack

    @property
    def data_folder(self) -> Path:
        """Where the images are."""
        return self.folder / "data"

    @property
    def source_folder(self) -> Path:
        """Where models that others start from are kept."""
        return self.folder / "sources"

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
        path = spec.initialisation.path if isinstance(spec, NetworkSpec) else ""
        weights = hashlib.sha256(resolve(path).read_bytes()).hexdigest()[:16] if path else ""
        origin = {"origin": self.origins[algorithm - 1]} if self.origins else {}
        return origin | {
            "algorithm": spec.model_dump(),
            "weights": weights,
            "made_with": made_with(spec),
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
            "n_epochs": getattr(self.algorithms[algorithm - 1], "epochs", 1),
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
