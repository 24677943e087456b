"""Random augmentation of image batches as tensors, each model with its own seeded draws."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from mdhelpers.algorithms import AugmentationSpec


class Augmenter:
    """Draws and applies one algorithm's augmentation to batches gathered from resident images.

    Parameters
    ----------
    images
        (n, height, width, 3) uint8 on the device that trains.
    spec
        What to draw. Nothing is drawn for what is switched off.

    """

    def __init__(self, images: torch.Tensor, spec: AugmentationSpec):
        self.spec, self.size, self.device = spec, images.shape[1:3], images.device
        self.images = pad_edges(images, spec.shift)
        height, width = self.size
        self.rows = torch.arange(height, device=self.device)
        self.columns = torch.arange(width, device=self.device)

    def draw(self, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The random numbers of ``n`` augmented images, drawn on the CPU for every device."""
        draws = {}
        if self.spec.shift:
            draws["shift"] = rng.integers(0, 2 * self.spec.shift + 1, size=(n, 2), dtype=np.int16)
        if self.spec.flip:
            draws["flip"] = rng.random(n) < 0.5
        if self.spec.crop:
            draws["box"] = crop_boxes(n, self.spec.crop, rng)
        return draws

    def batch(self, index: torch.Tensor, draws: dict[str, torch.Tensor]) -> torch.Tensor:
        """Images ``index`` (m,) augmented by the draws: (m, height, width, 3) float in [-1, 1]."""
        rows, columns = self.rows[None], self.columns[None]
        if "flip" in draws:
            columns = torch.where(draws["flip"][:, None], columns.flip(1), columns)
        if "shift" in draws:
            rows = rows + draws["shift"][:, :1].long()
            columns = columns + draws["shift"][:, 1:].long()
        picked = self.images[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        batch = normalise(picked)
        return resample(batch, draws["box"]) if "box" in draws else batch


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)


def pad_edges(images: torch.Tensor, by: int) -> torch.Tensor:
    """Repeat the border pixels ``by`` times on every side of (n, height, width, 3) images."""
    if not by:
        return images
    rows = torch.arange(-by, images.shape[1] + by).clamp(0, images.shape[1] - 1)
    columns = torch.arange(-by, images.shape[2] + by).clamp(0, images.shape[2] - 1)
    return images[:, rows][:, :, columns].contiguous()


def crop_boxes(n: int, smallest: float, rng: np.random.Generator) -> np.ndarray:
    """Random resized crops as torchvision draws them: area in [smallest, 1], aspect 3/4 to 4/3.

    Returns
    -------
    (n, 4) float32: centre x, centre y, half width, half height in the units of `affine_grid`,
    in which the whole image spans [-1, 1].

    """
    area = rng.uniform(smallest, 1, n)
    aspect = np.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3), n))
    half_width = np.minimum(np.sqrt(area * aspect), 1)
    half_height = np.minimum(np.sqrt(area / aspect), 1)
    x = rng.uniform(-1, 1, n) * (1 - half_width)
    y = rng.uniform(-1, 1, n) * (1 - half_height)
    return np.stack([x, y, half_width, half_height], axis=1).astype(np.float32)


def resample(batch: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Cut each box out of its image and resize it to full size, bilinear."""
    theta = torch.zeros(len(batch), 2, 3, device=batch.device)
    theta[:, 0, 0], theta[:, 1, 1] = boxes[:, 2], boxes[:, 3]
    theta[:, 0, 2], theta[:, 1, 2] = boxes[:, 0], boxes[:, 1]
    channels_first = batch.permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, channels_first.shape, align_corners=False)
    cut = F.grid_sample(channels_first, grid, padding_mode="border", align_corners=False)
    return cut.permute(0, 2, 3, 1)
