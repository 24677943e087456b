"""The plan of a study's models: which masks, seeds and tasks, whoever trains them.

A task is one stack of models of one algorithm. Tasks follow from the plan alone, so that any
number of processes on any number of hosts may run them in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdhelpers.algorithms import AlgorithmSpec
from mdhelpers.store import ModelStore
from mdhelpers.training import Task


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that fixes the models of a study; small and picklable, it travels to workers.

    ``n_models`` counts all models of an algorithm, held-out ones first; the first ``n_keep`` are
    kept as checkpoints.
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

    @property
    def n_tasks(self) -> int:
        return self.n_models // self.stack

    def store_path(self, algorithm: int) -> Path:
        return self.folder / f"models_{algorithm}.zarr"

    def checkpoint_path(self, algorithm: int, task: int) -> Path:
        return self.folder / f"checkpoints_{algorithm}" / f"{task:05d}.safetensors"

    def identity(self, algorithm: int) -> dict:
        """What decides the bits of a model; the store refuses to mix two of these."""
        return {
            "algorithm": self.algorithms[algorithm - 1].model_dump(),
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
            "n_epochs": self.algorithms[algorithm - 1].epochs,
            "rows": self.stack,
        }
        return ModelStore.create(self.store_path(algorithm), self.identity(algorithm), shapes)


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
    """The task that trains rows ``rows`` and the models' slots (-1: an initialisation each)."""
    index = range(rows.start, rows.stop)
    slots = [i % plan.n_slots if plan.n_slots else -1 for i in index]
    starts = [(3, slot) if plan.n_slots else (4, i) for slot, i in zip(slots, index, strict=True)]
    task = Task(
        plan.algorithms[algorithm - 1],
        np.stack([draw_mask(plan.seed, i, plan.n_train, plan.alpha) for i in index]),
        [derived_seed(plan.seed, algorithm, 2, i) for i in index],
        [derived_seed(plan.seed, algorithm, *start) for start in starts],
    )
    return task, np.array(slots, np.int32)
