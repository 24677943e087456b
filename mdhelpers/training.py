"""Train a stack of models, each on its own subset of one training set.

Everything random about model i of an algorithm follows from (study seed, algorithm, i), is drawn
on the CPU and does not depend on which process trains it, so that the same task gives the same
bits on one machine whoever runs it and however often it was interrupted.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.augmentation import Augmenter, normalise
from mdhelpers.models import ARCHITECTURES

EVALUATION_BATCH = 256


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Images resident on the device that trains: (n, height, width, 3) uint8, labels (n,) int64."""

    images: torch.Tensor
    labels: torch.Tensor
    n_classes: int


@dataclass(frozen=True, eq=False)
class Task:
    """One stack of models to train: which rows of the store, on which subsets, from which seeds.

    ``masks`` is (G, n_train) bool with equally many True in each row; ``data_seeds`` and
    ``init_seeds`` hold one seed a model.
    """

    algorithm: NetworkSpec
    masks: np.ndarray
    data_seeds: list[int]
    init_seeds: list[int]


def train_stack(task: Task, data: TrainingData):
    """Train the models of ``task`` together.

    Returns
    -------
    model
        The trained stack.
    losses
        (epochs, G) float32, mean training loss of each epoch.

    """
    spec, device = task.algorithm, data.images.device
    n_models = len(task.masks)
    size = data.images.shape[1:3]
    model = ARCHITECTURES[spec.architecture](n_models, size, data.n_classes, width=spec.channels)
    model.initialise(task.init_seeds)
    model.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=spec.lr,
        momentum=spec.momentum,
        weight_decay=spec.weight_decay,
        fused=True,
    )
    batches = Batches(task, data)
    rates = learning_rates(spec, batches.steps_per_epoch)
    losses = []
    for epoch in range(spec.epochs):
        total = torch.zeros(n_models, device=device)
        for step, (images, labels) in enumerate(batches.epoch()):
            optimizer.param_groups[0]["lr"] = rates[epoch * batches.steps_per_epoch + step]
            loss = stack_loss(model(images), labels, spec.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimizer.step()
            total += loss.detach() * (len(images) / batches.n_subset)
        losses.append(total)
    return model, torch.stack(losses).cpu().numpy()


def stack_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Mean cross-entropy of each model (G,): their sum has the gradients of separate training."""
    each = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return each.view(labels.shape).mean(0)


class Batches:
    """The batches of a task: every model walks through its own subset in its own order."""

    def __init__(self, task: Task, data: TrainingData):
        self.data, self.spec = data, task.algorithm
        self.subsets = np.stack([np.flatnonzero(mask) for mask in task.masks])
        self.n_models, self.n_subset = self.subsets.shape
        self.rngs = [np.random.default_rng(seed) for seed in task.data_seeds]
        self.augmenter = Augmenter(data.images, task.algorithm.augmentation)
        self.steps_per_epoch = max(1, round(self.n_subset / self.spec.batch_size))

    def epoch(self):
        """Yield images (b, 3 G, height, width) in channels-last memory and labels (b, G)."""
        draws = [self.augmenter.draw(self.n_subset, rng) for rng in self.rngs]
        order = np.stack([rng.permutation(self.n_subset) for rng in self.rngs])
        index = torch.from_numpy(np.take_along_axis(self.subsets, order, axis=1))
        index = index.to(self.data.images.device)
        stacked = {
            key: torch.from_numpy(np.stack([draw[key] for draw in draws])).to(index.device)
            for key in draws[0]
        }
        bounds = np.linspace(0, self.n_subset, self.steps_per_epoch + 1).round().astype(int)
        for start, stop in itertools.pairwise(bounds):
            # (b, G): the batch is the outer dimension, as the stacked network wants it
            rows = index[:, start:stop].T.reshape(-1)
            part = {
                key: value[:, start:stop].transpose(0, 1).flatten(0, 1)
                for key, value in stacked.items()
            }
            images = self.augmenter.batch(rows, part)
            yield self.stack(images), self.data.labels[rows].view(-1, self.n_models)

    def stack(self, images: torch.Tensor) -> torch.Tensor:
        """(b G, height, width, 3) to (b, 3 G, height, width), channels-last in memory."""
        b = len(images) // self.n_models
        _, height, width, _ = images.shape
        grouped = images.view(b, self.n_models, height, width, 3).permute(0, 2, 3, 1, 4)
        return grouped.reshape(b, height, width, 3 * self.n_models).permute(0, 3, 1, 2)


def learning_rates(spec: NetworkSpec, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of every step, (epochs × steps_per_epoch,).

    ``triangular`` rises to ``lr`` in the first fifth and falls to zero at the end; ``cosine``
    falls from ``lr`` to zero.
    """
    at = (np.arange(spec.epochs * steps_per_epoch) + 0.5) / (spec.epochs * steps_per_epoch)
    shape = {
        "constant": np.ones_like(at),
        "triangular": np.minimum(at / 0.2, (1 - at) / 0.8),
        "cosine": (1 + np.cos(math.pi * at)) / 2,
    }
    return spec.lr * shape[spec.schedule]


@torch.no_grad()
def stack_logits(model, images: torch.Tensor) -> torch.Tensor:
    """Logits of every model on every image: (G, n, n_classes) float32 on the CPU."""
    parts = []
    for batch in images.split(EVALUATION_BATCH):
        ready = normalise(batch).permute(0, 3, 1, 2)
        parts.append(model.forward_shared(ready).float().cpu())
    return torch.cat(parts).transpose(0, 1).contiguous()
