"""A function of the user's own as a learning algorithm."""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mdhelpers.algorithms import PythonSpec
from mdhelpers.paths import project_root
from mdhelpers.specs import unknown_word
from mdhelpers.trained_models import TrainedOnSubsets, as_array
from mdhelpers.training import Task, TrainingData


class TrainedFunctions(TrainedOnSubsets):
    """Models of a user's function, trained whenever logits are asked for, once a model and call.

    The function is given the ``data_seeds`` of the task. A model's own subset is appended to its
    test images, for the training loss.
    """

    retrains = True

    def __init__(self, task: Task, data: TrainingData):
        super().__init__(task, data)
        self.function = load_function(self.spec)
        self._losses: np.ndarray | None = None

    @property
    def losses(self) -> np.ndarray:
        """(G, 1) float32, log loss of each model on its own subset, when last trained."""
        if self._losses is None:
            self.logits(np.empty((0, *self.data.source.size, 3), np.uint8))
        return self._losses

    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """See `TrainedModels.logits`."""
        images = as_array(images)
        found = [self.call(g, images) for g in self.rows]
        losses = [self.loss(g, logits[len(images) :]) for g, logits in enumerate(found)]
        self._losses = np.array(losses, np.float32)[:, None]
        return torch.stack([logits[: len(images)] for logits in found])

    def call(self, model: int, images: np.ndarray) -> torch.Tensor:
        """Logits of ``images`` and then of the model's subset, checked."""
        subset, labels = self.subset(model)
        test_images = np.concatenate([images, subset])
        known = {"n_classes": self.n_classes, "seed": int(self.seeds[model])}
        options = copy.deepcopy(self.spec.options)
        shape = (len(test_images), self.n_classes)
        try:
            with threadpool_limits(1):
                result = self.function(subset, labels, test_images, **known, **options)
            return checked_logits(result, shape)
        except Exception as error:
            raise self.failure(self.spec.function, model, error) from error


def checked_logits(result, shape: tuple[int, int]) -> torch.Tensor:
    """What a function returned as float32 logits; a ValueError unless finite and of ``shape``."""
    logits = result.detach().cpu() if isinstance(result, torch.Tensor) else np.asarray(result)
    logits = torch.as_tensor(logits) if logits.dtype != object else None
    if logits is None or logits.shape != shape or not logits.is_floating_point():
        got = type(result).__name__ if logits is None else f"{tuple(logits.shape)} {logits.dtype}"
        raise ValueError(f"it must return logits {shape} of a float dtype, got {got}")
    logits = logits.float()
    bad = ~logits.isfinite()
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {bad.numel()} logits are not finite (the first in row "
            f"{int(bad.any(1).nonzero()[0])}). If they are logarithms, clip what they are taken of"
        )
    return logits


def load_function(spec: PythonSpec) -> Callable:
    """The function that ``spec`` names, from the project's folder, the working one or a package.

    Raises
    ------
    ValueError
        If there is no such module or function, or it does not take what it would be given.

    """
    module_name, _, name = spec.function.partition(":")
    folders = [str(project_root()), str(Path.cwd())]
    # Appended, so that a file of the user's hides no installed package.
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"{spec.name}: cannot import {module_name!r}, from {' or '.join(folders)} or the "
            f"installed packages: {type(error).__name__}: {error}"
        ) from error
    found = {n: f for n, f in vars(module).items() if callable(f) and not n.startswith("__")}
    if name not in found:
        raise ValueError(
            f"{spec.name}: {unknown_word(name, found, f'function of {module_name}')}; the module "
            f"is {module.__file__}"
        )
    check_call(spec, found[name])
    return found[name]


def check_call(spec: PythonSpec, function: Callable) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(None, None, None, n_classes=2, seed=0, **spec.options)
    except TypeError as error:
        raise ValueError(
            f"{spec.name}: {spec.function}{signature} does not take what it would be given "
            f"(images, labels, test_images, n_classes=, seed= and the options "
            f"{list(spec.options)}): {error}"
        ) from None
