"""Classifiers of scikit-learn as a learning algorithm."""

from __future__ import annotations

import copy
import inspect
import math
from functools import cached_property, lru_cache

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mdhelpers.algorithms import SklearnSpec
from mdhelpers.specs import unknown_word
from mdhelpers.trained_models import TrainedOnSubsets, as_array
from mdhelpers.training import Task, TrainingData

SMALLEST_PROBABILITY = 1e-6
# Classifiers whose probabilities are shares of votes, and the option that says of how many.
VOTES = {
    "RandomForestClassifier": "n_estimators",
    "ExtraTreesClassifier": "n_estimators",
    "BaggingClassifier": "n_estimators",
    "KNeighborsClassifier": "n_neighbors",
}
PREDICTION_VALUES = 2**26  # pixel values given to predict_proba at once: 256 MB


class TrainedClassifiers(TrainedOnSubsets):
    """Classifiers of scikit-learn on flattened pixels in [-1, 1], one thread each.

    The ``data_seeds`` of a task are their ``random_state``. Logits are logarithms of
    probabilities, so that softmax gives the probabilities back. A class that a subset lacks has
    probability 0; probabilities are clipped from below at 1 / (2 n n_classes) where they are the
    shares of n votes (trees of a forest, neighbours), which adds half a vote in all, and at 1e-6
    elsewhere.
    """

    def __init__(self, task: Task, data: TrainingData):
        super().__init__(task, data)
        with threadpool_limits(1):
            self.models = [self.fit(g) for g in self.rows]

    def fit(self, model: int):
        images, labels = self.subset(model)
        classifier = make_classifier(self.spec, self.seeds[model])
        try:
            return classifier.fit(pixels(images), labels)
        except Exception as error:
            raise self.failure(self.spec.classifier, model, error) from error

    @cached_property
    def losses(self) -> np.ndarray:
        """(G, 1) float32, log loss of each model on its own subset."""
        each = (self.loss(g, self.model_logits(g, self.subset(g)[0])) for g in self.rows)
        return np.array(list(each), np.float32)[:, None]

    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """See `TrainedModels.logits`."""
        return torch.stack([self.model_logits(g, as_array(images)) for g in self.rows])

    def model_logits(self, model: int, images: np.ndarray) -> torch.Tensor:
        """Logits (n, n_classes) of one model."""
        n_parts = max(1, math.ceil(images.size / PREDICTION_VALUES))
        with threadpool_limits(1):
            parts = [
                self.models[model].predict_proba(pixels(part))
                for part in np.array_split(images, n_parts)
            ]
        probabilities = np.zeros((len(images), self.n_classes))
        probabilities[:, self.models[model].classes_] = np.concatenate(parts)
        return torch.from_numpy(np.log(np.maximum(probabilities, self.clip)).astype(np.float32))

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
