r"""Gradients of trained models, image by image, from which datamodels can be had.

For a model with weights ``w`` and its training loss :math:`\ell`, the feature of training image
i is the gradient :math:`s_i = -\nabla_w \ell(i)`, the mean over augmented views where the recipe
augments; that of test image x is :math:`\phi_x = \nabla_w f(x)`, of the output that datamodels
predict. `mdhelpers.method.trak` makes scores of their inner products.

A task is the stack of models of a training task. They are trained again, to the same bits, and
looked at on the way: gradients half-way tell more of what a training image does than those at the
end, where images that were learnt have hardly a gradient left.

All that scores need of both is kept, in the coordinates of the training images' own gradients:
exactly, or, where these would not fit in memory, of gradients folded to fewer numbers with random
signs (a count sketch, which keeps inner products on average; Charikar, Chen and Farach-Colton,
2002). Networks are in evaluation mode and full precision.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from mdhelpers.base.arrays import write_tensors
from mdhelpers.method.margins import correct_class_margins, log_odds
from mdhelpers.method.trak import Look
from mdhelpers.training.algorithms import AlgorithmSpec, AugmentationSpec, NetworkSpec
from mdhelpers.training.augmentation import normalise
from mdhelpers.training.networks import MaxPool, StackedNetwork, make_model, seeded
from mdhelpers.training.recipe import TrainingData, train_stack
from mdhelpers.training.tasks import TrainingPlan, derived_seed, prepare_task, resident_data

MOST_BYTES = 2**30  # of all training images' gradients, which are held at once
CHUNK_BYTES = 2**23  # of gradients that are computed at once: a core's cache
PARTS = ("test", "train", "values")  # of what `reduced` gives
DIMENSION = 4096  # that they are folded to beyond
_VIEWS, _SIGNS = 7, 8  # keys of seeds, beside those of tasks


@dataclass(frozen=True, kw_only=True)
class GradientPlan(TrainingPlan):
    """A study's plan, and which of its models' gradients are wanted, and how.

    ``folder`` is where they go. ``rows`` are the models, ``at`` the shares of training after which
    they are looked at, ``views`` how many augmented views of each
    training image are, and ``dimension`` what gradients are folded to; 0 leaves it to their size.
    """

    rows: tuple[int, int]
    at: tuple[float, ...]
    views: int
    dimension: int

    @property
    def tasks(self) -> range:
        return range(self.rows[0] // self.stack, -(-self.rows[1] // self.stack))

    @property
    def digest(self) -> str:
        """Of what decides the gradients beside the models."""
        about = [self.identity(a) for a in self.numbers] + [self.at, self.views, self.dimension]
        return hashlib.sha256(json.dumps(about, default=str).encode()).hexdigest()[:12]

    def path(self, algorithm: int, task: int) -> Path:
        return self.folder / f"{algorithm}-{task:05d}-{self.digest}.safetensors"


def unfinished(plan: GradientPlan) -> list[tuple[int, int]]:
    """(algorithm, task) pairs still to do, the algorithms in turn."""
    return [(a, t) for t in plan.tasks for a in plan.numbers if not plan.path(a, t).exists()]


def run_gradients(plan: GradientPlan, algorithm: int, task_index: int) -> dict:
    """Train a task's models again and keep their gradients; returns its summary."""
    start = time.perf_counter()
    rows = slice(task_index * plan.stack, (task_index + 1) * plan.stack)
    task, _ = prepare_task(plan, algorithm, rows)
    data, test_images, test_labels = resident_data(plan)
    spec, keys = plan.algorithms[algorithm - 1], plan.keys(rows)
    recorder = Recorder(plan, algorithm, keys, data, test_images, test_labels.to(data.device))
    if isinstance(spec, NetworkSpec):
        stack, _ = train_stack(task, data, watch=recorder.watch)
        recorder.finish(stack)
    else:
        recorder.look(spec.train(task, data).models, recorder.left[-1])
    path = plan.path(algorithm, task_index)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(path, recorder.found)
    seconds = time.perf_counter() - start
    about = {"algorithm": algorithm, "task": task_index, "models": plan.stack}
    return about | {"seconds": seconds, "process": os.getpid(), "name": spec.name}


class Recorder:
    """Looks at a stack while it trains: ``found`` has each model's features at each share."""

    def __init__(
        self,
        plan: GradientPlan,
        algorithm: int,
        keys: list[int],
        data: TrainingData,
        test_images: Tensor,
        test_labels: Tensor,
    ):
        self.plan, self.spec = plan, plan.algorithms[algorithm - 1]
        self.data, self.test = data, (test_images, test_labels)
        self.seeds = [derived_seed(plan.seed, algorithm, _VIEWS, key) for key in keys]
        self.left = sorted(plan.at)
        self.found: dict[str, Tensor] = {}

    def watch(self, share: float, stack: StackedNetwork) -> None:
        """Called after every epoch, with the share of training that is done."""
        while self.left and self.left[0] <= share < 1:
            self.look_at(stack, self.left.pop(0))

    def finish(self, stack: StackedNetwork) -> None:
        """What was not reached is looked at in the models as they ended."""
        for share in self.left:
            self.look_at(stack, share)

    def look_at(self, stack: StackedNetwork, share: float) -> None:
        self.look((plain_network(stack, g) for g in range(stack.n_models)), share)

    def look(self, networks: Iterable[nn.Module], share: float) -> None:
        """Look at a task's networks, one by one, from images (b, 3, h, w) to logits."""
        parts = [
            self.features(net, derived_seed(seed, round(1e6 * share)))
            for net, seed in zip(networks, self.seeds, strict=True)
        ]
        for name, each in zip(PARTS, zip(*parts, strict=True), strict=True):
            self.found[f"{name}@{share:g}"] = torch.stack(each).float().cpu()

    def features(self, net: nn.Module, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        net = net.to(self.data.device)
        names = trained_names(net, self.spec)
        gradients = Gradients(net, names, self.folded_to(net, names), self.sign_seed)
        views = training_views(self.spec, self.data, self.plan.views, seed)
        train = gradients.of_training(views, len(self.data.labels), self.data.n_classes, self.spec)
        return reduced(train, gradients.of_outputs(*self.test, self.spec))

    @property
    def sign_seed(self) -> int:
        return derived_seed(self.plan.seed, _SIGNS)

    def folded_to(self, net: nn.Module, names: list[str]) -> int:
        """The dimension that gradients are folded to; 0: none."""
        n_weights = sum(p.numel() for name, p in net.named_parameters() if name in names)
        return folded_to(n_weights, len(self.data.labels), self.plan.dimension)


def folded_to(n_weights: int, n_train: int, dimension: int) -> int:
    """What gradients by so many weights are folded to, if ``dimension`` (0) does not say; 0: none.

    They stay whole where those of all training images fit in `MOST_BYTES`.
    """
    fits = 4 * n_train * n_weights <= MOST_BYTES
    return dimension or (0 if fits or n_weights <= DIMENSION else DIMENSION)


def kept_length(
    spec: AlgorithmSpec, size: int, n_classes: int, *, n_train: int, dimension: int
) -> int:
    """Numbers that are kept of the gradient of one image (height and width ``size``).

    Of a function's own networks the weights are not known: they are taken to be many.
    """
    n_weights = MOST_BYTES
    if isinstance(spec, NetworkSpec):
        with torch.device("meta"):
            net = make_model(spec, (size, size), n_classes)
        names = trained_names(net, spec)
        n_weights = sum(p.numel() for name, p in net.named_parameters() if name in names)
    return min(n_train, n_weights, folded_to(n_weights, n_train, dimension) or n_weights)


def scores_of(
    networks: Iterable[nn.Module],
    spec: AlgorithmSpec,
    data: TrainingData,
    images: Tensor,
    labels: Tensor,
    *,
    damping: float,
    views: int = 1,
    seed: int = 0,
) -> Tensor:
    """Mean scores of images that no stage knows, from the gradients of trained networks.

    Parameters
    ----------
    networks
        Trained, in evaluation mode, as `plain_network` gives them.
    images, labels
        (n, H, W, 3) uint8 and (n,) int64.
    damping
        Lambda of `mdhelpers.method.trak`.
    views, seed
        Augmented views of each training image, and what they are drawn from.

    Returns
    -------
    (n, n_train) float32, on the CPU
    """
    total, n = torch.zeros(len(images), len(data.labels)), 0
    for n, net in enumerate(networks, 1):
        net = net.to(data.device)
        gradients = Gradients(net, trained_names(net, spec))
        drawn = training_views(spec, data, views, derived_seed(seed, _VIEWS, n))
        train = gradients.of_training(drawn, len(data.labels), data.n_classes, spec)
        tested = gradients.of_outputs(images.to(data.device), labels.to(data.device), spec)
        parts = (part.float().cpu().numpy() for part in reduced(train, tested))
        total += torch.from_numpy(Look(*parts).scores(damping, device=str(data.device)))
    return total / max(n, 1)


def plain_network(stack: StackedNetwork, g: int) -> nn.Module:
    """Model ``g`` of a stack by itself, ready to be differentiated, on the CPU."""
    net = seeded(stack.make_one, 0)
    net.load_state_dict(stack.model_state(g))
    for module in net.modules():
        if type(module) is MaxPool:  # its own backward step is not known to torch.func
            module.__class__ = nn.MaxPool2d
    return net.eval()


def trained_names(net: nn.Module, spec: AlgorithmSpec) -> list[str]:
    """Names of the weights that are trained: all of them, or those of the last layer."""
    if getattr(spec, "trainable", "all") == "all":
        return [name for name, weight in net.named_parameters() if weight.requires_grad]
    last = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)][-1]
    return [name for name, _ in net.named_parameters() if name.rpartition(".")[0] == last]


def training_views(
    spec: AlgorithmSpec, data: TrainingData, views: int, seed: int
) -> Iterator[Iterator[tuple[Tensor, Tensor]]]:
    """Passes over all training images, augmented anew in each: images (b, 3, h, w) and labels.

    What a function of the user's own does to images is not known: there is one pass, of images as
    they are.
    """
    augmentation = getattr(spec, "augmentation", AugmentationSpec())
    source, augmenter = data.augmented_by(augmentation)
    rng, n = np.random.default_rng(seed), len(data.labels)

    def one(draws: dict[str, np.ndarray]) -> Iterator[tuple[Tensor, Tensor]]:
        for low in range(0, n, _BATCH):
            rows = torch.arange(low, min(low + _BATCH, n), device=data.device)
            part = {
                key: torch.from_numpy(value[low : low + _BATCH]).to(data.device)
                for key, value in draws.items()
            }
            yield augmenter.stacked(source.gather(rows), part), data.labels[rows]

    first = augmenter.draw(n, rng)
    for view in range(views if first else 1):
        yield one(augmenter.draw(n, rng) if view else first)


_BATCH = 512  # images that are augmented at once


class Gradients:
    """Gradients of a network's outputs and losses by its weights, one row per image.

    Parameters
    ----------
    net
        From images (b, 3, h, w) to logits, in evaluation mode.
    names
        Of the weights that are looked at.
    dimension
        What gradients are folded to, with random signs; 0 leaves them whole.
    seed
        Of the signs.
    """

    def __init__(self, net: nn.Module, names: list[str], dimension: int = 0, seed: int = 0):
        tensors = dict(net.named_parameters()) | dict(net.named_buffers())
        self.net, self.weights = net, {name: tensors[name].detach() for name in names}
        self.rest = {name: tensors[name].detach() for name in tensors if name not in names}
        self.n_weights = sum(weight.numel() for weight in self.weights.values())
        first = next(iter(self.weights.values()))
        self.chunk = max(1, CHUNK_BYTES // (first.element_size() * self.n_weights))
        self.dimension = min(dimension, self.n_weights)
        self.signs = None
        if self.dimension:
            draws = np.random.default_rng(seed).integers(0, 2, self.n_weights, dtype=np.int8)
            self.signs = torch.from_numpy(2 * draws - 1).to(first.device, first.dtype)

    def __call__(
        self, images: Tensor, targets: Tensor, measure: Callable[[Tensor, Tensor], Tensor]
    ) -> Iterator[Tensor]:
        """Gradients (b, dimension or n_weights) of ``measure(logits, target)``, chunk by chunk."""

        def value(weights: dict[str, Tensor], image: Tensor, target: Tensor) -> Tensor:
            logits = functional_call(self.net, (weights, self.rest), (image[None],))
            return measure(logits[0], target)

        each = vmap(grad(value), in_dims=(None, 0, 0))
        for part, target in zip(images.split(self.chunk), targets.split(self.chunk), strict=True):
            found = each(self.weights, part, target)
            yield self.folded(torch.cat([g.flatten(1) for g in found.values()], dim=1))

    def folded(self, gradients: Tensor) -> Tensor:
        if self.signs is None:
            return gradients
        short = -self.n_weights % self.dimension
        return F.pad(gradients * self.signs, (0, short)).unflatten(1, (-1, self.dimension)).sum(1)

    def of_training(
        self,
        views: Iterator[Iterator[tuple[Tensor, Tensor]]],
        n_train: int,
        n_classes: int,
        spec: AlgorithmSpec,
    ) -> Tensor:
        """Minus the gradient of each training image's loss, the mean over views, (n_train, ·)."""
        total, n_views = None, 0

        def measure(logits: Tensor, target: Tensor) -> Tensor:
            return (logits.log_softmax(-1) * target).sum()

        for view in views:
            low = 0
            for images, labels in view:
                for rows in self(images, soft_labels(labels, n_classes, spec), measure):
                    if total is None:
                        total = rows.new_zeros(n_train, rows.shape[1])
                    total[low : low + len(rows)] += rows
                    low += len(rows)
            n_views += 1
        return total / n_views

    def of_outputs(self, images: Tensor, labels: Tensor, spec: AlgorithmSpec) -> Iterator[Tensor]:
        """Gradients of the test images' outputs (n, height, width, 3 uint8), chunk by chunk."""
        outputs = log_odds if spec.gives_probabilities else correct_class_margins

        def measure(logits: Tensor, target: Tensor) -> Tensor:
            return outputs(logits, target)

        for part, label in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
            ready = normalise(part).permute(0, 3, 1, 2).to(next(iter(self.weights.values())).dtype)
            yield from self(ready, label, measure)


def soft_labels(labels: Tensor, n_classes: int, spec: AlgorithmSpec) -> Tensor:
    """What the recipe's cross-entropy holds probabilities against, (n, n_classes)."""
    smooth = getattr(spec, "label_smoothing", 0.0)
    return F.one_hot(labels, n_classes) * (1 - smooth) + smooth / n_classes


def reduced(train: Tensor, test: Iterator[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients in the coordinates in which the training images' second moment is diagonal.

    Parameters
    ----------
    train : Tensor, shape (n_train, n)
        ``S``, all of it.
    test : iterator of Tensors, shape (·, n)
        Rows of ``Phi``.

    Returns
    -------
    test : Tensor, shape (n_test, r)
    train : Tensor, shape (n_train, r)
    values : Tensor, shape (r,)
        Of :math:`S S^T` or :math:`S^T S`, whichever is smaller, so that for any ``c``
        :math:`\\Phi S^T (S S^T + c I)^{-1}` is ``test @ diag(1 / (values + c)) @ train.T``.
    """
    n_train, n = train.shape
    by_kernel = n_train <= n
    moment = (train @ train.T if by_kernel else train.T @ train).double()
    values, vectors = torch.linalg.eigh(moment)
    vectors = vectors.to(train.dtype)
    onto = train.T @ vectors if by_kernel else vectors
    rows = torch.cat([part @ onto for part in test])
    return rows, vectors if by_kernel else train @ vectors, values.clamp_min(0).to(train.dtype)
