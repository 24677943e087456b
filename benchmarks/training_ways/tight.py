"""The best plain loop that we know, for one single-threaded process a core.

Images stay in memory as one uint8 tensor, a batch and its augmentation are a few tensor
operations, memory is channels-last and the optimiser fused.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

from mdhelpers.training.algorithms import AugmentationSpec, NetworkSpec
from mdhelpers.training.networks import make_model
from mdhelpers.training.recipe import learning_rates
from training_ways.worker import DATA


def tight_model(spec: NetworkSpec, rows: np.ndarray, seed: int) -> float:
    """Train one model on images ``rows``; returns its test accuracy."""
    torch.manual_seed(seed)
    images, labels, test_images, test_labels = resident()
    rows = torch.from_numpy(rows)
    n_batches = round(len(rows) / spec.batch_size)
    model = make_model(spec, images.shape[2:], int(labels.max()) + 1)
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(), momentum=spec.momentum, weight_decay=spec.weight_decay, fused=True
    )
    rates = iter(learning_rates(spec, n_batches))
    for _ in range(spec.epochs):
        for batch in rows[torch.randperm(len(rows))].tensor_split(n_batches):
            optimizer.param_groups[0]["lr"] = next(rates)
            seen = augment(normalise(images.index_select(0, batch)), spec.augmentation)
            loss = F.cross_entropy(model(seen), labels.index_select(0, batch))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        logits = torch.cat([model(normalise(part)) for part in test_images.split(200)])
    return (logits.argmax(1) == test_labels).float().mean().item()


@lru_cache(maxsize=1)
def resident() -> list[torch.Tensor]:
    """Training images and labels, test images and labels; images (n, 3, h, w) channels-last."""
    tensors = [torch.tensor(array) for pair in DATA for array in pair]
    return [t.permute(0, 3, 1, 2) if t.ndim == 4 else t for t in tensors]


def normalise(images: torch.Tensor) -> torch.Tensor:
    return images.float().mul_(2 / 255).sub_(1)


def augment(batch: torch.Tensor, augmentation: AugmentationSpec) -> torch.Tensor:
    """Shift, flip and random resized crop of (b, 3, h, w) images, by one resampling."""
    if not (augmentation.shift or augmentation.flip or augmentation.crop):
        return batch
    b, _, height, width = batch.shape
    half_width, half_height = torch.ones(b), torch.ones(b)
    if augmentation.crop:
        area = torch.empty(b).uniform_(augmentation.crop, 1)
        aspect = torch.empty(b).uniform_(math.log(3 / 4), math.log(4 / 3)).exp_()
        half_width, half_height = ((area * a).sqrt().clamp_(max=1) for a in (aspect, 1 / aspect))
    x = torch.empty(b).uniform_(-1, 1) * (1 - half_width)
    y = torch.empty(b).uniform_(-1, 1) * (1 - half_height)
    by = torch.randint(-augmentation.shift, augmentation.shift + 1, (2, b))
    x, y = x + by[0] * (2 / width), y + by[1] * (2 / height)
    if augmentation.flip:
        half_width = torch.where(torch.rand(b) < 0.5, -half_width, half_width)
    columns = centres(width) * half_width[:, None] + x[:, None]
    rows = centres(height) * half_height[:, None] + y[:, None]
    grid = torch.stack(torch.broadcast_tensors(columns[:, None], rows[:, :, None]), -1)
    cut = F.grid_sample(batch, grid, padding_mode="border", align_corners=False)
    return cut.contiguous(memory_format=torch.channels_last)


@lru_cache(maxsize=2)
def centres(side: int) -> torch.Tensor:
    """The pixels' centres where the image spans [-1, 1]."""
    return torch.linspace(-1, 1, side) * (side - 1) / side
