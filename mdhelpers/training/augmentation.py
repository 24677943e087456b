"""Random augmentation of image batches as tensors, each model with its own seeded draws."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from mdhelpers.training.algorithms import AugmentationSpec

MOVES = {"flip", "shift"}  # the draws that only bring pixels to other places
PIECE_BYTES = 3 << 20  # 64 crops of 224 px at once leave a core's cache and take 1.4 times as long
GREY = (0.2989, 0.587, 0.114)  # torchvision's weights of red, green and blue


class Augmenter:
    """Draws and applies one algorithm's augmentation to uint8 images on the training device.

    In this order: shift and flip move pixels, the crop resamples them, then jitter (brightness,
    contrast, saturation, always in this order, where torchvision draws one) and cutout.

    Parameters
    ----------
    spec
        What to draw. Nothing is drawn for what is switched off.
    size
        (height, width) of the images in pixels.
    device
        That of the batches.
    cut_from
        (height, width) of larger images that crops are cut from, where there are such. Then images
        come in that size, and ``shift`` counts their pixels.

    Raises
    ------
    ValueError
        When a shift or a cutout is as large as the images.

    """

    def __init__(
        self,
        spec: AugmentationSpec,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
        cut_from: tuple[int, int] | None = None,
    ):
        self.spec, self.size = spec, tuple(size)
        self.cut_from = tuple(cut_from or size)
        for name in ("shift", "cutout"):
            if getattr(spec, name) >= min(self.size):
                raise ValueError(
                    f"augmentation.{name} is {getattr(spec, name)} pixels, but the images are "
                    f"{self.size[0]} × {self.size[1]}; take less than the smaller side"
                )
        self.places = {
            sides: [torch.arange(side, device=device) for side in sides]
            for sides in (self.size, self.cut_from)
        }

    def draw(self, n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The random numbers of ``n`` augmented images, drawn on the CPU for every device.

        Returns
        -------
        Arrays of ``n`` rows: ``shift`` (n, 2) int16, ``flip`` (n,) bool, ``box`` (n, 4) float32
        (see `crop_boxes`), ``jitter`` (n, 3) float32, the factors of brightness, contrast and
        saturation, and ``cutout`` (n, 2) int16, the row and column of the square's centre.

        """
        spec, draws = self.spec, {}
        if spec.shift:
            draws["shift"] = rng.integers(0, 2 * spec.shift + 1, size=(n, 2), dtype=np.int16)
        if spec.flip:
            draws["flip"] = rng.random(n) < 0.5
        if spec.crop:
            draws["box"] = crop_boxes(n, spec.crop, self.cut_from, rng)
        if spec.jitter:
            factors = rng.uniform(1 - spec.jitter, 1 + spec.jitter, (n, 3))
            draws["jitter"] = factors.astype(np.float32)
        if spec.cutout:
            draws["cutout"] = rng.integers(0, self.size, size=(n, 2), dtype=np.int16)
        return draws

    def stacked(
        self, images: torch.Tensor, draws: dict[str, torch.Tensor], n_models: int = 1
    ) -> torch.Tensor:
        """A stack's batch: image i of model g is ``images[i * n_models + g]``, with its draws.

        Parameters
        ----------
        images
            (b ``n_models``, height, width, 3) uint8 on the training device.
        draws
            What `draw` gave for these images, as tensors on the device.
        n_models
            How many models the batch is for, G.

        Returns
        -------
        (b, 3 G, height, width) float32 in [-1, 1], channels-last in memory.

        """
        index = torch.arange(len(images), device=images.device)
        if draws.keys() <= MOVES and (n_models > 1 or draws):
            # the gather brings pixels to any place, so the models come together at no cost
            batch = normalise(self._move(images, index.view(-1, n_models), draws))
        else:
            moves = draws.keys() & MOVES
            moved = self._move(images, index[:, None], draws).squeeze(3) if moves else images
            batch = self._change(moved, draws).unflatten(0, (-1, n_models))
            batch = batch.permute(0, 2, 3, 1, 4)
        return batch.flatten(3).contiguous().permute(0, 3, 1, 2)

    def _change(self, images: torch.Tensor, draws: dict) -> torch.Tensor:
        """Normalise, crop, jitter and cut out (m, height, width, 3) uint8 images."""
        some = max(1, PIECE_BYTES // (12 * images.shape[1] * images.shape[2]))
        if images.device.type == "cpu" and len(images) > some and draws.keys() - MOVES:
            starts = range(0, len(images), some)
            parts = [{k: v[i : i + some] for k, v in draws.items()} for i in starts]
            cuts = zip(images.split(some), parts, strict=True)
            return torch.cat([self._change(cut, part) for cut, part in cuts])
        batch = normalise(images)
        if "box" in draws:
            batch = resample(batch, draws["box"], self.size)
        if "jitter" in draws:
            batch = jitter(batch, draws["jitter"])
        if "cutout" in draws:
            batch = cut_squares(batch, draws["cutout"], self.spec.cutout)
        return batch

    def _move(self, images: torch.Tensor, index: torch.Tensor, draws: dict) -> torch.Tensor:
        """Images ``index`` (b, G) shifted and flipped: (b, height, width, G, 3) uint8."""
        pixels = self._pixels(tuple(images.shape[1:3]), index, draws)
        picked = images.reshape(-1, 3).index_select(0, pixels.view(-1))
        return picked.view(*pixels.shape, 3)

    def _pixels(self, size: tuple[int, int], index: torch.Tensor, draws: dict) -> torch.Tensor:
        """Which pixel of all images of ``size`` comes to each place: (b, height, width, G) int64.

        Indices beyond the border are clamped to it, as if the images were padded by their edges.
        """
        (height, width), (b, n_models) = size, index.shape
        rows, columns = (places[None] for places in self.places[size])
        if "flip" in draws:
            columns = torch.where(draws["flip"][:, None], columns.flip(1), columns)
        if "shift" in draws:
            by = draws["shift"].long() - self.spec.shift
            rows = (rows + by[:, :1]).clamp_(0, height - 1)
            columns = (columns + by[:, 1:]).clamp_(0, width - 1)
        starts = (index.view(-1, 1) * height + rows) * width
        starts = starts.view(b, n_models, height).transpose(1, 2)
        columns = columns.expand(b * n_models, width).view(b, n_models, width).transpose(1, 2)
        return (starts[:, :, None] + columns[:, None]).contiguous()


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 in [0, 255] to float32 in [-1, 1]."""
    return images.float().mul_(2 / 255).sub_(1)


def crop_boxes(
    n: int, smallest: float, size: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """Random resized crops as torchvision's `RandomResizedCrop` draws them.

    Of whole pixels: an area uniform in [smallest, 1] of the image's and an aspect between 3/4 and
    4/3, uniform in its logarithm, drawn up to ten times until both sides fit. Where none does, the
    middle of the image, as much of it as has such an aspect.

    Returns
    -------
    (n, 4) float32: centre x, centre y, half width, half height in the units of `affine_grid`,
    in which the whole image of ``size`` (height, width) spans [-1, 1].

    """
    whole = np.array([size[1], size[0]])
    sides = np.tile(middle_crop(size), (n, 1))
    left = np.arange(n)
    for _ in range(TRIES):
        area = whole.prod() * rng.uniform(smallest, 1, len(left))
        aspect = np.exp(rng.uniform(math.log(NARROWEST), math.log(WIDEST), len(left)))
        tried = np.rint(np.sqrt([area * aspect, area / aspect])).T
        fits = ((tried > 0) & (tried <= whole)).all(1)
        sides[left[fits]] = tried[fits]
        left = left[~fits]
    starts = np.floor(rng.random((n, 2)) * (whole - sides + 1))
    starts[left] = (whole - sides[left]) // 2
    return np.hstack([(2 * starts + sides) / whole - 1, sides / whole]).astype(np.float32)


TRIES, NARROWEST, WIDEST = 10, 3 / 4, 4 / 3


def middle_crop(size: tuple[int, int]) -> tuple[float, float]:
    """Width and height of the largest crop with an aspect between 3/4 and 4/3."""
    height, width = size
    return min(width, round(height * WIDEST)), min(height, round(width / NARROWEST))


def resample(batch: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut each box out of its image (m, height, width, 3) and resize it, bilinear.

    What lies beyond a box has no part in it, as where one is cut out first and then resized; and
    where a box is made smaller, every pixel of it has.
    """
    _, height, width, _ = batch.shape
    if (height, width) != tuple(size):
        down = _shares(boxes[:, 1::2], height, size[0])
        across = _shares(boxes[:, 0::2], width, size[1])
        return _weighted(batch, down, across)
    x = _points(boxes[:, 0:1], boxes[:, 2:3], width)
    y = _points(boxes[:, 1:2], boxes[:, 3:4], height)
    # a box needs no rotation: `affine_grid` finds the same points by a matrix product, slowly
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1)
    cut = F.grid_sample(batch.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False)
    return cut.permute(0, 2, 3, 1)


def _points(centres: torch.Tensor, halves: torch.Tensor, side: int) -> torch.Tensor:
    """Where boxes (m, 1) are looked at, (m, side), within the centres of their outermost pixels."""
    points = _pixel_centres(side, centres.device) * halves + centres
    inner = halves - 1 / side
    return points.clamp_(centres - inner, centres + inner)


def _weighted(batch: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Images (m, height, width, 3) in the shares (m, new, old) of their rows and columns."""
    m, height, width, n = batch.shape
    rows = torch.bmm(down, batch.reshape(m, height, width * n)).view(m, -1, width, n)
    return torch.einsum("mxw,mowc->moxc", across, rows)


def _shares(boxes: torch.Tensor, old: int, new: int) -> torch.Tensor:
    """What part each of ``old`` pixels has in each of ``new``, (m, new, old): a triangle.

    It is as wide as a pixel of the coarser of the two, as torchvision's and Pillow's is with
    antialiasing. ``boxes`` (m, 2) are centres and half sides along one axis.
    """
    first, length = (boxes[:, :1] - boxes[:, 1:] + 1) * old / 2, boxes[:, 1:] * old
    step, at = length / new, torch.arange(old, device=boxes.device) + 0.5
    centres = first + (torch.arange(new, device=boxes.device) + 0.5) * step
    far = (at - centres[:, :, None]).abs() / step.clamp(min=1)[:, :, None]
    inside = (at > first) & (at < first + length)
    shares = (1 - far).clamp(min=0) * inside[:, None]
    return shares / shares.sum(2, keepdim=True)


def _pixel_centres(side: int, device: torch.device) -> torch.Tensor:
    return torch.linspace(-1, 1, side, device=device) * (side - 1) / side


def jitter(batch: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast and saturation, in this order, in place.

    Agrees with torchvision's ``adjust_brightness``, ``adjust_contrast`` and
    ``adjust_saturation`` of the same factors: each mixes the image with black, with its mean grey
    and with its greys, and cuts what leaves the range.

    Parameters
    ----------
    batch
        (m, height, width, 3) float in [-1, 1].
    factors
        (m, 3) of the three; 1 changes nothing.

    """
    brightness, contrast, saturation = factors[:, None, None].split(1, dim=-1)
    batch.mul_(brightness).add_(brightness - 1).clamp_(-1, 1)
    mean = greys(batch.mean((1, 2), keepdim=True))
    batch.mul_(contrast).add_(mean * (1 - contrast)).clamp_(-1, 1)
    grey = greys(batch) * (1 - saturation)
    return batch.mul_(saturation).add_(grey).clamp_(-1, 1)


def greys(batch: torch.Tensor) -> torch.Tensor:
    """The brightness of (…, 3) colours in [-1, 1]: (…, 1)."""
    red, green, blue = (batch[..., i : i + 1] for i in range(3))
    dark = 1 - sum(GREY)  # black is -1 here, and the weights do not quite sum to 1
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2]).sub_(dark)


def cut_squares(batch: torch.Tensor, centres: torch.Tensor, side: int) -> torch.Tensor:
    """Fill a square of ``side`` pixels around each image's centre (m, 2) with grey, which is 0.

    Changes ``batch`` (m, height, width, 3) in place. What reaches beyond the border is lost.
    """
    row, column = (
        torch.arange(batch.shape[axis], device=batch.device)
        - (centres[:, axis - 1 : axis].long() - side // 2)
        for axis in (1, 2)
    )
    row, column = ((at >= 0) & (at < side) for at in (row, column))
    return batch.masked_fill_((row[:, :, None] & column[:, None, :]).unsqueeze(-1), 0)
