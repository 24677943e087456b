"""What a study takes of this machine where fits and gradients are large, and what it has room for.

``method: auto`` stands for the best estimator that can be had here. A method that was named, and
that this machine has no room for, is refused before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import torch

from mdhelpers.base.places import disk_bytes, in_words, memory_bytes
from mdhelpers.data.sources import expected_sizes
from mdhelpers.method.costs import fit_cost, why_not
from mdhelpers.method.datamodels import FROM_GRADIENTS, method_for
from mdhelpers.stages.study import GradientSpec, Study
from mdhelpers.training.algorithms import AlgorithmSpec
from mdhelpers.training.gradients import kept_length
from mdhelpers.training.tasks import device_here

MOST_DISK = 2e11  # of gradients, that "auto" takes
A_DAY = 86_400.0  # seconds of an eigendecomposition that one may ask for
OTHERS = ("trak", "lasso", "difference_of_means")


def fit_memory(device: str) -> float | None:
    """Bytes that a fit may take on a device; None where nobody knows."""
    if device.startswith("cuda"):
        return float(torch.cuda.get_device_properties(device).total_memory)
    return memory_bytes()


@dataclass(frozen=True)
class Sizes:
    """Of a study: models that datamodels are fitted on, images, their side and classes."""

    n_models: int
    n_train: int
    n_test: int
    side: int
    n_classes: int

    @property
    def of_fit(self) -> tuple[int, int, int]:
        """Models, training and test images."""
        return self.n_models, self.n_train, self.n_test


def sizes_of(study: Study) -> Sizes:
    """Of a study, without making its data."""
    n_train, n_test, n_classes = expected_sizes(study.dataset)
    return Sizes(study.n_models, n_train, n_test, study.dataset.pixels, n_classes)


def disk_of_gradients(spec: GradientSpec, algorithms: Sequence[AlgorithmSpec], of: Sizes) -> int:
    """Bytes of both algorithms' gradients and scores, which lie side by side for a while."""
    total = 0
    for algorithm in algorithms:
        about = {"n_train": of.n_train, "dimension": spec.dimension}
        length = kept_length(algorithm, of.side, of.n_classes, **about)
        total += len(spec.at) * (of.n_train + of.n_test) * length + of.n_test * of.n_train
    return 4 * min(spec.models, of.n_models) * total


def method_here(
    of: Sizes, spec: GradientSpec, algorithms: Sequence[AlgorithmSpec], *, gradients: bool, device
) -> str:
    """The estimator that ``auto`` stands for on a device.

    `mdhelpers.method.datamodels.method_for` with the memory of the device; where ``gradients`` can
    be had, they are for those whose files take :data:`MOST_DISK` at most.
    """
    gradients = gradients and disk_of_gradients(spec, algorithms, of) <= MOST_DISK
    n_models, n_train, n_test = of.of_fit
    about = {"n_test": n_test, "device": device, "memory": fit_memory(device)}
    return method_for(n_models, n_train, gradients=gradients, **about)


def check_gradients(method: str, specs: Sequence[AlgorithmSpec], elsewhere: bool) -> None:
    """Refuse a method that takes gradients where there are none to take."""
    if why := no_gradients(specs, elsewhere):
        raise ValueError(
            f"method: {method} takes gradients of networks that are trained here, and {why}. Give "
            "method: auto, ridge or lasso"
        )


def no_gradients(specs: Sequence[AlgorithmSpec], elsewhere: bool) -> str:
    """Why no gradients of these models can be taken; empty where they can."""
    without = [spec.name for spec in specs if not spec.has_gradients]
    if without:
        return f"{without[0]} is none"
    return "these models were trained elsewhere" if elsewhere else ""


def gradients_of(study: Study) -> bool:
    """Whether gradients of a study's models can be taken."""
    specs = [study.algorithm_1, study.algorithm_2]
    return not no_gradients(specs, bool(study.models_1_given))


def method_of(study: Study) -> str:
    """The estimator that a study's ``method`` stands for."""
    if study.method != "auto":
        return study.method
    specs, of = [study.algorithm_1, study.algorithm_2], sizes_of(study)
    about = {"gradients": gradients_of(study), "device": device_here(study.device)}
    return method_here(of, study.gradients, specs, **about)


def no_room(study: Study) -> list[str]:
    """What of a study this machine has no room for, a sentence each, with the key to change.

    Nothing where it cannot be told yet.
    """
    if study.datamodels_1_path:
        return []
    try:
        return list(_no_room(study, method_of(study), sizes_of(study), device_here(study.device)))
    except ValueError:
        return []  # a device that is not there, an algorithm that cannot be made: told elsewhere


def _no_room(study: Study, method: str, of: Sizes, device: str) -> Iterator[str]:
    memory, patience = fit_memory(device), A_DAY

    def why(method: str) -> str:
        cost = fit_cost(method, *of.of_fit, device=device)
        return why_not(cost, memory=memory, patience=patience)

    if reason := why(method):
        known = [name for name in OTHERS if gradients_of(study) or name not in FROM_GRADIENTS]
        others = " or ".join(name for name in known if not why(name))
        advice = f"Give method: {others}" if others else "Take fewer training images"
        yield (
            f"method: {method} cannot be fitted here on {of.n_models:,} models and {of.n_train:,} "
            f"training images: {reason}. {advice}, or a machine with more memory"
        )
    if method in FROM_GRADIENTS:
        yield from _too_many_gradients(study, of)
    images, there = 3 * of.side**2 * (of.n_train + of.n_test), memory_bytes()
    if there is not None and images > there:
        yield (
            f"dataset: images take {in_words(images)}, and {in_words(there)} of memory are here. "
            "Give a smaller dataset.size or fewer images, or a machine with more memory"
        )


def _too_many_gradients(study: Study, of: Sizes) -> Iterator[str]:
    algorithms, spec = (study.algorithm_1, study.algorithm_2), study.gradients
    disk, taken = disk_bytes(study.runs_dir), disk_of_gradients(spec, algorithms, of)
    if taken <= disk:
        return
    # fewer models cost least (benchmarks/estimators.py), then looks on the way, then numbers
    advice = "Give fewer test images, method: lasso, or another runs_dir"
    for dimension, at, models in product((4096, 1024, 256), (spec.at, [1.0]), (64, 32, 16, 8)):
        changed = {"models": min(models, spec.models), "at": at, "dimension": dimension}
        less = disk_of_gradients(spec.model_copy(update=changed), algorithms, of)
        if less <= disk:
            words = ", ".join(f"{key}: {value}" for key, value in changed.items())
            advice = f"Give gradients: {{{words}}}, which take {in_words(less)}"
            break
    yield (
        f"gradients: {min(spec.models, of.n_models)} models at {len(spec.at)} points of training "
        f"take {in_words(taken)}, and the disk of runs_dir has {in_words(disk)}. {advice}"
    )
