"""Learning rates and optimisers of a network's recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import torch

from mdhelpers.algorithms import NetworkSpec


def learning_rates(spec: NetworkSpec, steps_per_epoch: int) -> np.ndarray:
    """The learning rate of every step, (epochs × steps_per_epoch,).

    Each schedule runs over the steps that follow the warm-up, in which the rate rises in a
    straight line from 0 to the schedule's first value.
    """
    n_steps = spec.epochs * steps_per_epoch
    n_warm = round(spec.warmup_epochs * steps_per_epoch)
    at = (np.arange(n_steps - n_warm) + 0.5) / (n_steps - n_warm)
    shape = shape_of(spec, at, np.arange(n_steps - n_warm) / steps_per_epoch)
    warm = shape[0] * (np.arange(n_warm) + 0.5) / max(n_warm, 1)
    return spec.lr * np.concatenate([warm, shape])


def shape_of(spec: NetworkSpec, at: np.ndarray, epochs: np.ndarray) -> np.ndarray:
    """The schedule's values in [0, 1] at shares ``at`` of training, ``epochs`` into it."""
    rising, falling = at / spec.peak, (1 - at) / (1 - spec.peak)
    shapes = {
        "constant": lambda: np.ones_like(at),
        "step": lambda: spec.step_factor ** (epochs // spec.step_epochs),
        "linear": lambda: 1 - at,
        "triangular": lambda: np.minimum(rising, falling),
        "one_cycle": lambda: (1 - np.cos(math.pi * np.minimum(rising, falling).clip(0, 1))) / 2,
        "cosine": lambda: (1 + np.cos(math.pi * at)) / 2,
    }
    return shapes[spec.schedule]()


def make_optimizer(spec: NetworkSpec, parameters: Iterable[torch.nn.Parameter]):
    """The recipe's optimiser over all models of a stack; its ``lr`` is set at every step."""
    options = {"lr": spec.lr, "weight_decay": spec.weight_decay, "fused": True}
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    return torch.optim.SGD(parameters, momentum=spec.momentum, nesterov=spec.nesterov, **options)
