"""Trained models behind one interface: whatever they are, they have logits and losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch.nn import functional as F

from mdhelpers.stacking import StackedNetwork
from mdhelpers.training import Task, TrainingData, stack_logits


class TrainedModels(ABC):
    """The G models of one task, in the order of its masks."""

    retrains = False
    """Whether every call of `logits` trains anew, so that all images should come in one call."""

    losses: np.ndarray
    """(G, n_epochs) float32, mean training loss of each epoch; one epoch if no network. Where
    `retrains`, ask for the logits first: one training then serves both."""

    @abstractmethod
    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Logits (G, n, n_classes) float32 on the CPU of images (n, height, width, 3) uint8."""


class TrainedNetworks(TrainedModels):
    """A stack of networks, trained or read from a checkpoint (then without ``losses``)."""

    def __init__(self, stack: StackedNetwork, losses: np.ndarray | None = None):
        self.stack = stack.eval()
        self.losses = np.empty((stack.n_models, 0), np.float32) if losses is None else losses

    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """See `TrainedModels.logits`; ``images`` may lie on any device."""
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        return stack_logits(self.stack, images.to(next(self.stack.parameters()).device))


class TrainedOnSubsets(TrainedModels):
    """Models that are trained one by one, in memory, and have one training loss each."""

    def __init__(self, task: Task, data: TrainingData):
        self.spec, self.masks, self.seeds = task.algorithm, task.masks, task.data_seeds
        self.data, self.n_classes = data, data.n_classes

    @property
    def rows(self) -> range:
        return range(len(self.masks))

    def subset(self, model: int) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that a model is trained on, copied."""
        rows = torch.from_numpy(np.flatnonzero(self.masks[model]))
        return as_array(self.data.source.gather(rows)), as_array(self.data.labels)[rows]

    def loss(self, model: int, logits: torch.Tensor) -> float:
        """Log loss of the logits (n_subset, n_classes) of a model's own subset."""
        labels = as_array(self.data.labels)[self.masks[model]]
        return F.cross_entropy(logits, torch.from_numpy(labels)).item()

    def failure(self, what: str, model: int, error: Exception) -> RuntimeError:
        """An error that says which model could not be trained."""
        return RuntimeError(
            f"{self.spec.name}: {what} failed for model {model} of {len(self.masks)} of its task "
            f"(seed {self.seeds[model]}): {type(error).__name__}: {error}"
        )


def as_array(images: torch.Tensor | np.ndarray) -> np.ndarray:
    return images.cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
