"""Trained models behind one interface: whatever they are, they have logits and losses.

`learn` trains a task, `margins_of` measures what its models say. Between them stand the three
kinds of `TrainedModels` that `mdhelpers.training.algorithms` makes: stacks of networks,
classifiers of scikit-learn, and models of a function of the user's own.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property, lru_cache

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn import functional as F

from mdhelpers.base.specs import load_named, unknown_word
from mdhelpers.method.margins import correct_class_margins, log_odds
from mdhelpers.training.algorithms import AlgorithmSpec, PythonSpec, SklearnSpec
from mdhelpers.training.augmentation import normalise
from mdhelpers.training.networks import StackedNetwork
from mdhelpers.training.recipe import Task, TrainingData, stack_logits


class TrainedModels(ABC):
    """The G models of one task, in the order of its masks."""

    retrains = False
    """Whether every call of `logits` trains anew, so that all images should come in one call."""
    stateless = False
    """Whether `logits` may be called by several threads at once."""

    losses: np.ndarray
    """(G, n_epochs) float32, mean training loss of each epoch; one epoch if no network. Where
    `retrains`, ask for the logits first: one training then serves both."""

    @abstractmethod
    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Logits (G, n, n_classes) float32 on the CPU of images (n, height, width, 3) uint8."""


class TrainedNetworks(TrainedModels):
    """A stack of networks, trained or read from a checkpoint (then without ``losses``)."""

    stateless = True

    def __init__(self, stack: StackedNetwork, losses: np.ndarray | None = None):
        self.stack = stack.eval()
        self.losses = np.empty((stack.n_models, 0), np.float32) if losses is None else losses

    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """See `TrainedModels.logits`; ``images`` may lie on any device."""
        if not isinstance(images, torch.Tensor):
            images = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        return stack_logits(self.stack, images.to(next(self.stack.parameters()).device))

    def state(self) -> dict[str, torch.Tensor]:
        """What is kept of them, which `NetworkSpec.restore` takes."""
        return self.stack.state_dict()


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

    def attempt(self, model: int, step: Callable, *given):
        """What a step of a model's training gives, on one thread.

        Raises
        ------
        RuntimeError
            Says which model it failed for.

        """
        try:
            with threadpool_limits(1):
                return step(*given)
        except Exception as error:
            raise RuntimeError(
                f"{self.spec.name}: {self.spec.called} failed for model {model} of "
                f"{len(self.masks)} of its task (seed {self.seeds[model]}): "
                f"{type(error).__name__}: {error}"
            ) from error


def as_array(images: torch.Tensor | np.ndarray) -> np.ndarray:
    return images.cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)


PREDICTION_VALUES = 2**26  # pixel values that a model is given at once: 256 MB


class FittedModels(TrainedOnSubsets):
    """Models that are fitted once and then asked: `fit` and `logits_of` say how."""

    def __init__(self, task: Task, data: TrainingData):
        super().__init__(task, data)
        self.models = [
            self.attempt(g, self.fit, *self.subset(g), int(self.seeds[g])) for g in self.rows
        ]

    @abstractmethod
    def fit(self, images: np.ndarray, labels: np.ndarray, seed: int):
        """A model of images (n_subset, height, width, 3) uint8 and labels (n_subset,) int64."""

    @abstractmethod
    def logits_of(self, model, images: np.ndarray) -> np.ndarray:
        """Logits (n, n_classes), of a float type and finite, of what `fit` gave."""

    @cached_property
    def losses(self) -> np.ndarray:
        """(G, 1) float32, log loss of each model on its own subset."""
        each = (self.loss(g, self.model_logits(g, self.subset(g)[0])) for g in self.rows)
        return np.array(list(each), np.float32)[:, None]

    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """See `TrainedModels.logits`."""
        return torch.stack([self.model_logits(g, as_array(images)) for g in self.rows])

    def model_logits(self, g: int, images: np.ndarray) -> torch.Tensor:
        """Logits (n, n_classes) of one model."""

        def predict() -> torch.Tensor:
            n_parts = max(1, math.ceil(images.size / PREDICTION_VALUES))
            parts = np.array_split(images, n_parts)
            logits = np.concatenate([self.logits_of(self.models[g], part) for part in parts])
            return checked_logits(logits, (len(images), self.n_classes))

        return self.attempt(g, predict)


SMALLEST_PROBABILITY = 1e-6
# Classifiers whose probabilities are shares of votes, and the option that says of how many.
VOTES = {
    "RandomForestClassifier": "n_estimators",
    "ExtraTreesClassifier": "n_estimators",
    "BaggingClassifier": "n_estimators",
    "KNeighborsClassifier": "n_neighbors",
}


class TrainedClassifiers(FittedModels):
    """Classifiers of scikit-learn on flattened pixels in [-1, 1], one thread each.

    The ``data_seeds`` of a task are their ``random_state``. Logits are logarithms of
    probabilities, so that softmax gives the probabilities back. A class that a subset lacks has
    probability 0; probabilities are clipped from below at 1 / (2 n n_classes) where they are the
    shares of n votes (trees of a forest, neighbours), which adds half a vote in all, and at 1e-6
    elsewhere.
    """

    def fit(self, images: np.ndarray, labels: np.ndarray, seed: int):
        """See `FittedModels.fit`."""
        return make_classifier(self.spec, seed).fit(pixels(images), labels)

    def logits_of(self, model, images: np.ndarray) -> np.ndarray:
        """See `FittedModels.logits_of`."""
        probabilities = np.zeros((len(images), self.n_classes))
        probabilities[:, model.classes_] = model.predict_proba(pixels(images))
        return np.log(np.maximum(probabilities, self.clip)).astype(np.float32)

    @property
    def clip(self) -> float:
        votes = VOTES.get(self.spec.classifier)
        if votes is None:
            return SMALLEST_PROBABILITY
        return 1 / (2 * getattr(self.models[0], votes) * self.n_classes)


def pixels(images: np.ndarray) -> np.ndarray:
    """Features (n, height × width × 3) float32 in [-1, 1] of uint8 images."""
    return images.reshape(len(images), -1).astype(np.float32) * np.float32(2 / 255) - 1


def make_classifier(spec: SklearnSpec, seed: int):
    """The classifier of ``spec``, not yet fitted, with ``seed`` as its ``random_state``.

    Raises
    ------
    ValueError
        For an unknown class or option, a value that the class refuses, or no ``predict_proba``.

    """
    name, known = spec.classifier, classifiers()
    if name not in known:
        raise ValueError(f"{spec.name}: {unknown_word(name, known, 'classifier')}")
    arguments = inspect.signature(known[name]).parameters
    for option in spec.options:
        if option in ("random_state", "n_jobs"):
            raise ValueError(
                f"{spec.name}: {option} is not yours to choose: each model has its own seed and "
                "one thread. Leave it out of options"
            )
        if option not in arguments:
            raise ValueError(f"{spec.name}: {unknown_word(option, arguments, f'option of {name}')}")
    own = {"random_state": seed} if "random_state" in arguments else {}
    given = copy.deepcopy(spec.options) | own
    return checked_classifier(spec, known[name], given)


@lru_cache(maxsize=1)
def classifiers() -> dict[str, type]:
    from sklearn.utils import all_estimators

    return dict(all_estimators(type_filter="classifier"))


def checked_classifier(spec: SklearnSpec, kind: type, given: dict):
    needed = inspect.signature(kind).parameters.values()
    missing = [p.name for p in needed if p.default is p.empty and p.name not in given]
    if missing:
        raise ValueError(
            f"{spec.name}: {spec.classifier} needs {', '.join(missing)}, which no parameters file "
            "can hold. Write a function for it (kind: python)"
        )
    model = kind(**given)
    try:
        getattr(model, "_validate_params", lambda: None)()
    except ValueError as error:
        raise ValueError(f"{spec.name}: {error}") from None
    if not hasattr(model, "predict_proba"):
        raise ValueError(
            f"{spec.name}: {spec.classifier} with options {spec.options} has no predict_proba, so "
            "no log-odds. Choose other options or another classifier, or write a function "
            "(kind: python)"
        )
    return model


class TrainedOwnNetworks(FittedModels):
    """Networks that a user's function trains and returns, asked in evaluation mode.

    ``models`` are they, `torch.nn.Module` from images (b, 3, height, width) in [-1, 1] to logits.
    """

    def fit(self, images: np.ndarray, labels: np.ndarray, seed: int) -> torch.nn.Module:
        """See `FittedModels.fit`."""
        given = images, labels, images[:0]
        options = copy.deepcopy(self.spec.options)
        found = load_function(self.spec)(*given, n_classes=self.n_classes, seed=seed, **options)
        if not isinstance(found, torch.nn.Module):
            raise ValueError(
                f"returns: network asks for a torch.nn.Module, got {type(found).__name__}"
            )
        return found.eval()

    def logits_of(self, model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
        """See `FittedModels.logits_of`."""
        where = next(model.parameters(), torch.empty(0))
        ready = normalise(torch.from_numpy(images.copy())).permute(0, 3, 1, 2)
        with torch.no_grad():
            return model(ready.to(where.device, where.dtype)).cpu()


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

        def train() -> torch.Tensor:
            subset, labels = self.subset(model)
            test_images = np.concatenate([images, subset])
            found = self.function(
                subset,
                labels,
                test_images,
                n_classes=self.n_classes,
                seed=int(self.seeds[model]),
                **copy.deepcopy(self.spec.options),
            )
            return checked_logits(found, (len(images) + len(labels), self.n_classes))

        return self.attempt(model, train)


def checked_logits(result, shape: tuple[int, int]) -> torch.Tensor:
    """What a function returned as float32 logits; a ValueError unless finite and of ``shape``."""
    if isinstance(result, torch.nn.Module):
        raise ValueError("it returned a network; give returns: network beside the function")
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
    """The function that ``spec`` names, see `mdhelpers.base.specs.load_named`.

    Raises
    ------
    ValueError
        If there is no such module or function, or it does not take what it would be given.

    """
    try:
        function = load_named(spec.function, "function", callable)
    except ValueError as error:
        raise ValueError(f"{spec.name}: {error}") from error
    check_call(spec, function)
    return function


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


def learn(task: Task, data: TrainingData) -> TrainedModels:
    """Train the models of a task, each on its own subset from its own seeds.

    The same task gives the same bits again, so this is also how models that are not kept are had
    a second time.
    """
    return task.algorithm.train(task, data)


def margins_of(spec: AlgorithmSpec, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What datamodels of an algorithm predict: its outputs on the test images.

    Logits are measured by `correct_class_margins`, as in the paper (App. B.3); where they are
    logarithms of probabilities, as of scikit-learn's classifiers, by `log_odds`. With two classes
    both are the same.

    Parameters
    ----------
    spec
        The algorithm.
    logits
        (n_models, n_test, n_classes) float.
    labels
        (n_test,) int64.

    Returns
    -------
    (n_models, n_test) of the logits' dtype.

    """
    measure = log_odds if spec.gives_probabilities else correct_class_margins
    return measure(logits, labels)
