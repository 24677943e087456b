"""A network's recipe: how a stack of models is trained, each on its own subset.

In the order of training: learning rates and the optimiser (`learning_rates`, `make_optimizer`);
steps on batches that walk through each model's own subset (`train_stack`, `Stepper`, `Batches`);
and which weights a model ends with, the last, an average, the best epoch's or those at a stop
(`Endings`). A stack trains its models together, and each ends as if it had been trained alone.

Everything random about model i of an algorithm follows from (study seed, algorithm, i), is drawn
on the CPU and does not depend on which process trains it, so that the same task gives the same
bits on one machine whoever runs it and however often it was interrupted.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from mdhelpers.training.algorithms import AlgorithmSpec, AugmentationSpec, NetworkSpec
from mdhelpers.training.augmentation import Augmenter, normalise
from mdhelpers.training.loading import FFCVSource, MemorySource
from mdhelpers.training.networks import StackedNetwork, make_model, make_stack
from mdhelpers.training.weights import fit_to


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


class Endings:
    """Watches a stack while it trains and gives each model its final weights.

    Parameters
    ----------
    spec
        The recipe: ``stop_at_loss``, ``validation_share`` and ``average_last`` decide.
    stack
        The models, which this changes in `finish` only.
    n_steps
        Steps of the whole training.

    """

    def __init__(self, spec: NetworkSpec, stack: StackedNetwork, n_steps: int):
        self.spec, self.stack = spec, stack
        self.first_averaged = round((1 - spec.average_last) * n_steps)
        self.kept: dict[int, dict[str, torch.Tensor]] = {}
        self.stopped = np.zeros(stack.n_models, bool)
        self.best = np.full(stack.n_models, -np.inf)
        self.sums: list[torch.Tensor] = []
        self.n_averaged = 0

    def after_step(self, step: int) -> None:
        """Add the weights to their average, over the last share of the steps."""
        if not self.spec.average_last or step < self.first_averaged:
            return
        weights = [p.detach() for p in self.stack.parameters()]
        if not self.sums:
            self.sums = [torch.zeros_like(w) for w in weights]
        torch._foreach_add_(self.sums, weights)
        self.n_averaged += 1

    def after_epoch(self, losses: np.ndarray, accuracy: np.ndarray | None) -> bool:
        """Keep the weights of models that are at their best, or done; True when all are done.

        Parameters
        ----------
        losses
            (G,) mean training loss of the epoch.
        accuracy
            (G,) on each model's own validation images, or None.

        """
        for g in np.flatnonzero(~self.stopped):
            done = losses[g] < self.spec.stop_at_loss
            better = accuracy is not None and accuracy[g] > self.best[g]
            if better or (done and accuracy is None):
                self.kept[g] = self.stack.model_state(g)
            if better:
                self.best[g] = accuracy[g]
            self.stopped[g] = done
        return bool(self.stopped.all())

    def finish(self, batches) -> None:
        """Put the final weights in place; ``batches`` of images renew averaged statistics."""
        if self.n_averaged:
            with torch.no_grad():
                for weight, total in zip(self.stack.parameters(), self.sums, strict=True):
                    weight.copy_(total / self.n_averaged)
            if any(isinstance(m, torch.nn.BatchNorm2d) for m in self.stack.modules()):
                update_bn((images for images, _ in batches), self.stack)
        for g, state in self.kept.items():
            self.stack.load_model(g, state)


EVALUATION_BATCH = 256
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class TrainingData:
    """Where training images come from, and their labels (n,) int64, on the device that trains.

    Images given as a tensor, (n, height, width, 3) uint8, are their own source. ``larger`` has the
    same images in a larger size, which random crops are cut from, or is None.
    """

    source: MemorySource | FFCVSource | torch.Tensor
    labels: torch.Tensor
    n_classes: int
    larger: MemorySource | FFCVSource | torch.Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("source", "larger"):
            if isinstance(getattr(self, name), torch.Tensor):
                object.__setattr__(self, name, MemorySource(getattr(self, name)))

    def augmented_by(self, spec: AugmentationSpec) -> tuple[MemorySource | FFCVSource, Augmenter]:
        """Where images to be augmented come from, and what augments them."""
        source = self.larger if self.larger is not None and spec.crop else self.source
        return source, Augmenter(spec, self.source.size, self.device, cut_from=source.size)

    @property
    def device(self) -> torch.device:
        return self.source.device

    def subset(self, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels where ``mask`` (n,) bool is True."""
        rows = torch.from_numpy(np.flatnonzero(mask)).to(self.device)
        return self.source.gather(rows), self.labels[rows]


@dataclass(frozen=True, eq=False)
class Task:
    """One stack of models to train: on which subsets, from which seeds.

    ``masks`` is (G, n_train) bool with equally many True in each row; ``data_seeds`` and
    ``init_seeds`` hold one seed a model. Models with equal data seeds put the images that they
    share in the same order, augmented alike. ``starts`` holds weights to start from, one state
    dict of a single network a model, or nothing.
    """

    algorithm: AlgorithmSpec
    masks: np.ndarray
    data_seeds: list[int]
    init_seeds: list[int]
    starts: tuple[dict[str, torch.Tensor], ...] = ()


def train_stack(
    task: Task,
    data: TrainingData,
    *,
    watch: Callable[[float, StackedNetwork], None] | None = None,
) -> tuple[StackedNetwork, np.ndarray]:
    """Train the networks of ``task`` together.

    ``watch`` is called after every epoch with the share of training that is done and the models as
    they are then, which it must leave as they are.

    Returns
    -------
    stack
        The trained models, ready to evaluate.
    losses
        (epochs, G) float32, mean training loss of each epoch; NaN after a model stopped.

    """
    stack, batches = first_stack(task, data), Batches(task, data)
    stepper = Stepper(task.algorithm, stack, batches.steps_per_epoch)
    endings = Endings(task.algorithm, stack, len(stepper.rates))
    losses = np.full((task.algorithm.epochs, len(task.masks)), np.nan, np.float32)
    for epoch in range(task.algorithm.epochs):
        total = torch.zeros(len(task.masks), device=data.device)
        for images, labels in batches.epoch():
            total += stepper.step(images, labels) * (len(images) / batches.n_subset)
            endings.after_step(stepper.n_steps)
        running = ~endings.stopped
        losses[epoch, running] = total.cpu().numpy()[running]
        if watch:
            watch((epoch + 1) / task.algorithm.epochs, stack)
        if endings.after_epoch(losses[epoch], batches.validation_accuracy(stack)):
            break
        set_training(stack, task.algorithm)
    endings.finish(batches.epoch())
    return stack.eval(), losses


def first_stack(task: Task, data: TrainingData) -> StackedNetwork:
    """The models before their first step."""
    spec, size = task.algorithm, data.source.size
    stack = make_stack(spec, len(task.masks), size, data.n_classes)
    stack.initialise(task.init_seeds)
    for g, start in enumerate(task.starts):
        fresh = make_model(spec, size, data.n_classes)
        fresh.load_state_dict(stack.model_state(g))
        stack.load_model(g, fit_to(fresh, start))
    stack.to(data.device, memory_format=torch.channels_last)
    if spec.trainable == "head":
        stack.requires_grad_(False)
        for parameter in stack.head_parameters():
            parameter.requires_grad_(True)
    return set_training(stack, spec)


def set_training(stack: StackedNetwork, spec: NetworkSpec) -> StackedNetwork:
    """Training mode; fixed features keep the statistics of their batch norms too."""
    return stack.train(spec.trainable == "all")


class Stepper:
    """Takes optimiser steps on a stack, in the recipe's precision.

    Where a GPU runs out of memory, the batch is halved from then on and its gradients are added
    up, with a warning; batch norms then see the halves.
    """

    def __init__(self, spec: NetworkSpec, stack: StackedNetwork, steps_per_epoch: int):
        self.spec, self.n_steps, self.n_parts = spec, 0, 1
        self.rates = learning_rates(spec, steps_per_epoch)
        self.forward = torch.compile(stack) if spec.compile else stack
        trained = [p for p in stack.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(spec, trained)
        self.device = trained[0].device
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=spec.precision == "fp16")

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """One step on images (b, 3 G, h, w) and labels (b, G); returns the losses (G,)."""
        self.optimizer.param_groups[0]["lr"] = self.rates[self.n_steps]
        losses = self.gradients(images, labels)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.n_steps += 1
        return losses

    def gradients(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        while True:
            try:
                return self.accumulate(images, labels)
            except torch.OutOfMemoryError:
                if 2 * self.n_parts > len(images):
                    raise
                self.n_parts *= 2
            torch.cuda.empty_cache()
            warnings.warn(
                f"{self.device} is out of memory: batches of {len(images)} go in {self.n_parts} "
                f"parts from now on. A smaller stack would be faster.",
                stacklevel=2,
            )

    def accumulate(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        losses = torch.zeros(labels.shape[1], device=self.device)
        for part, target in zip(
            images.chunk(self.n_parts), labels.chunk(self.n_parts), strict=True
        ):
            with precision(self.spec, self.device):
                logits = self.forward(part)
            loss = stack_loss(logits.float(), target, self.spec.label_smoothing)
            loss = loss * (len(part) / len(images))
            self.scaler.scale(loss.sum()).backward()
            losses += loss.detach()
        return losses


def precision(spec: NetworkSpec, device: torch.device):
    """The context in which products and convolutions take the recipe's precision."""
    name = spec.precision
    if name == "auto":
        name = "bf16" if device.type == "cuda" and has_bf16() else "fp32"
    if name == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[name])


def has_bf16() -> bool:
    """Whether the GPU computes in bf16 by itself; older ones imitate it, slowly."""
    return torch.cuda.is_bf16_supported(including_emulation=False)


def stack_loss(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Mean cross-entropy of each model (G,): their sum has the gradients of separate training."""
    each = F.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="none", label_smoothing=label_smoothing
    )
    return each.view(labels.shape).mean(0)


def split_validation(
    task: Task, rngs: list[np.random.Generator]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Masks of the images to train on, (G, n_train) bool, and validation indices (v, G)."""
    n_kept = round(task.algorithm.validation_share * int(task.masks[0].sum()))
    if not n_kept:
        return task.masks, None
    trained, kept = task.masks.copy(), []
    for row, rng in zip(trained, rngs, strict=True):
        chosen = rng.choice(np.flatnonzero(row), n_kept, replace=False)
        row[chosen] = False
        kept.append(chosen)
    return trained, np.stack(kept, axis=1)


class Batches:
    """The batches of a task: every model walks through its own subset in its own order.

    What the recipe keeps for validation is taken out of each subset first, by the model's seed.
    """

    def __init__(self, task: Task, data: TrainingData):
        self.data, self.spec = data, task.algorithm
        self.n_models, self.n_train = task.masks.shape
        self.rngs = [np.random.default_rng(seed) for seed in task.data_seeds]
        self.trained, kept = split_validation(task, self.rngs)
        self.validation = kept if kept is None else torch.from_numpy(kept).to(data.device)
        self.n_subset = int(self.trained[0].sum())
        self.source, self.augmenter = data.augmented_by(self.spec.augmentation)
        self.steps_per_epoch = max(1, round(self.n_subset / self.spec.batch_size))

    def epoch(self):
        """Yield images (b, 3 G, h, w) in channels-last memory and labels (b, G).

        The draws cover the whole training set and each model takes those of its subset, so that
        models with equal seeds treat a shared image alike.
        """
        draws = [self.augmenter.draw(self.n_train, rng) for rng in self.rngs]
        orders = [rng.permutation(self.n_train) for rng in self.rngs]
        own = [order[m[order]] for order, m in zip(orders, self.trained, strict=True)]
        device, n_models = self.data.device, self.n_models
        # (n_subset, G): the batch is the outer dimension, as the stacked network wants it
        index = torch.from_numpy(np.stack(own, axis=1)).to(device)
        drawn = {
            key: torch.from_numpy(
                np.stack([draw[key][o] for draw, o in zip(draws, own, strict=True)], axis=1)
            ).to(device)
            for key in draws[0]
        }
        bounds = np.linspace(0, self.n_subset, self.steps_per_epoch + 1).round().astype(int)
        batches = self.source.epoch(index.flatten(), n_models * bounds)
        for (start, stop), images in zip(itertools.pairwise(bounds), batches, strict=True):
            part = {key: value[start:stop].flatten(0, 1) for key, value in drawn.items()}
            stacked = self.augmenter.stacked(images, part, n_models)
            yield stacked, self.data.labels[index[start:stop]]

    @torch.no_grad()
    def validation_accuracy(self, stack: StackedNetwork) -> np.ndarray | None:
        """(G,) each model's accuracy on what it kept for validation; None where nothing is."""
        if self.validation is None:
            return None
        stack.eval()
        right = torch.zeros(self.n_models)
        for rows in self.validation.split(EVALUATION_BATCH):
            images = self.data.source.gather(rows.flatten())
            logits = stack(self.augmenter.stacked(images, {}, self.n_models))
            right += (logits.argmax(-1) == self.data.labels[rows]).sum(0).cpu()
        return (right / len(self.validation)).numpy()


@torch.no_grad()
def stack_logits(stack: StackedNetwork, images: torch.Tensor) -> torch.Tensor:
    """Logits of every model on every image: (G, n, n_classes) float32 on the CPU."""
    parts = []
    for batch in images.split(EVALUATION_BATCH):
        ready = normalise(batch).permute(0, 3, 1, 2)
        parts.append(stack(ready).float().cpu())
    return torch.cat(parts).transpose(0, 1).contiguous()
