r"""The patch that moves one algorithm's models most, and the other's least.

Salman et al. (2021) make objects that are easier to recognise by optimising what is seen of them
through a model: adversarial examples with the sign turned. Here a square of pixels is optimised
through several networks of two algorithms. With :math:`x \oplus v` an image with the patch
:math:`v` at a random place, and :math:`p` the softmax confidence in one class, it is

.. math::

    \max_v \; \mathbb{E}_{x, M_1} \big[ p_{M_1}(x \oplus v) - p_{M_1}(x) \big]
         - \mathbb{E}_{x, M_2} \big[ p_{M_2}(x \oplus v) - p_{M_2}(x) \big] ,

by Adam on :math:`w` with :math:`v = 255 / (1 + e^{-w})`, from the best of some plain colours, with
other images and places in every step. Or the patch has one place in all images, the best of five.
No feature that a person would name need look like it. What it does to *other* networks and *other*
images says how far the algorithms can be driven apart by so many pixels: a bound, as far as the
optimisation finds it, on what a feature of that size can show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import torch

Network = Callable[[torch.Tensor], torch.Tensor]
"""From images (b, height, width, 3), float32 in 0 to 255, to logits (b, n_classes)."""

Place = tuple[int, int]
"""Row and column of a patch's upper left pixel."""

_RATE = 0.3  # of Adam
_PLAIN = 2.0  # w of a full colour: its pixels begin at 30 or 225 of 255
_SPREAD = 0.3  # standard deviation of w between the pixels of a plain patch
_MARGIN = 1  # pixels from the edge, of places along it
_POINTS = 100.0


@dataclass(frozen=True)
class StrongestPatch:
    """What the optimisation found.

    Attributes
    ----------
    patch : ndarray, shape (size, size, 3), uint8
    place : (row, column) or None
        Where it lies in every image; None where that is anywhere.
    objective : ndarray, shape (n_steps,), float
        In percentage points, on each step's images, before the step.
    """

    patch: np.ndarray
    place: Place | None
    objective: np.ndarray


def strongest_patch(
    networks: tuple[Sequence[Network], Sequence[Network]],
    images: np.ndarray,
    *,
    label: int,
    size: int,
    n_steps: int,
    one_place: bool = False,
    batch: int = 32,
    seed: int = 0,
    device: str = "cpu",
) -> StrongestPatch:
    """Optimise a patch that raises the confidence in a class under one algorithm, not the other.

    Parameters
    ----------
    networks
        Of the algorithm that is to be moved, and of the other.
    images
        (n, H, W, 3) uint8.
    label
        The class.
    size
        Height and width of the patch in pixels.
    n_steps, batch
        Steps of Adam, and images in each; an image comes again when all have come.
    one_place
        Whether the patch lies at one place in all images, or at a random one in each.
    seed
        Of what the first patch is drawn from, the order of images, and places. On one thread of a
        CPU the bits are the same every time.
    device
        Where the networks are.

    Raises
    ------
    ValueError
        If an algorithm has no network, or the patch does not fit.
    """
    if not all(networks):
        raise ValueError("a patch is optimised through networks of both algorithms; one has none")
    shape, rng = images.shape[1:3], np.random.default_rng([seed, 16])
    check_size(size, shape)
    images = torch.from_numpy(np.array(images)).to(device)
    before = [confidence(nets, images, label) for nets in networks]
    gain = partial(objective_of, networks, before, images, label)
    w, place = best_start(gain, shape, size, one_place, min(2 * batch, len(images)), rng)
    adam, objective = torch.optim.Adam([w], lr=_RATE), []
    for rows in batches(len(images), batch, n_steps, rng):
        there = places(len(rows), shape, size, rng, place)
        value = gain(rows, as_pixels(w), there)
        (w.grad,) = torch.autograd.grad(-value, [w])
        objective.append(_POINTS * value.item())
        adam.step()
    patch = as_pixels(w.detach()).round().to(torch.uint8).cpu().numpy()
    return StrongestPatch(patch, place, np.array(objective))


def check_size(size: int, shape: tuple[int, int]) -> None:
    """Raise ValueError unless a square of so many pixels lies within images (height, width)."""
    if not 1 <= size <= min(shape):
        raise ValueError(
            f"a patch of {size} px does not fit into images of {shape[0]} × {shape[1]} px; give "
            f"patch_size: 1 to {min(shape)}"
        )


def objective_of(
    networks: tuple[Sequence[Network], Sequence[Network]],
    before: Sequence[torch.Tensor],
    images: torch.Tensor,
    label: int,
    rows: np.ndarray,
    patch: torch.Tensor,
    there: tuple[np.ndarray, np.ndarray],
) -> torch.Tensor:
    """Mean change of confidence in some images under one algorithm less that under the other."""
    given = pasted(images[rows].float(), patch, *there)
    one, two = (
        torch.stack([net(given).softmax(-1)[:, label] for net in nets]).mean() - was[rows].mean()
        for nets, was in zip(networks, before, strict=True)
    )
    return one - two


@torch.no_grad()
def best_start(
    gain: Callable[..., torch.Tensor],
    shape: tuple[int, int],
    size: int,
    one_place: bool,
    n_images: int,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, Place | None]:
    """A patch to begin with, as w (size, size, 3), and its place: the best of plain colours.

    Without it, ascent may end at a colour that is the best nearby and not the best.
    """
    rows = np.arange(n_images)
    grain = torch.from_numpy(rng.normal(0, _SPREAD, (size, size, 3)).astype(np.float32))
    colors = [torch.tensor(color) for color in product((-_PLAIN, _PLAIN), repeat=3)]
    starts, found = [grain + color for color in [torch.zeros(3), *colors]], []
    anywhere = places(n_images, shape, size, rng)
    for place in five_places(shape, size) if one_place else [None]:
        there = places(n_images, shape, size, rng, place) if place else anywhere
        found += [(float(gain(rows, as_pixels(w), there)), w, place) for w in starts]
    _, w, place = max(found, key=lambda each: each[0])
    return w.clone().requires_grad_(), place


def as_pixels(w: torch.Tensor) -> torch.Tensor:
    return 255 * torch.sigmoid(w)


def five_places(shape: tuple[int, int], size: int) -> list[Place]:
    """The corners, a pixel from the edge where there is room, and the centre."""
    room = [side - size for side in shape]
    corners = product(*([min(_MARGIN, most), max(most - _MARGIN, 0)] for most in room))
    return list(dict.fromkeys([*corners, (room[0] // 2, room[1] // 2)]))


def places(
    n: int,
    shape: tuple[int, int],
    size: int,
    rng: np.random.Generator,
    place: Place | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (n,), (n,) int of patches in images: one place for all, or a random one."""
    if place is not None:
        return np.full(n, place[0]), np.full(n, place[1])
    rows, columns = (rng.integers(side - size + 1, size=n) for side in shape)
    return rows, columns


def pasted(images, patch, top: np.ndarray, left: np.ndarray):
    """Images (n, H, W, 3) with a patch (k, k, 3) in each, arrays or tensors alike.

    ``top`` and ``left`` (n,) are the patches' upper left pixels. Of tensors, gradients go through
    to the patch.
    """
    inside = np.arange(len(patch))
    rows, columns = top[:, None, None] + inside[:, None], left[:, None, None] + inside
    found = images.copy() if isinstance(images, np.ndarray) else images.clone()
    found[np.arange(len(images))[:, None, None], rows, columns] = patch
    return found


def shuffled(patch: np.ndarray, seed: int) -> np.ndarray:
    """The same pixels in another order, (k, k, 3): its placebo."""
    rng = np.random.default_rng([seed, 17])
    return rng.permutation(patch.reshape(-1, 3)).reshape(patch.shape)


@torch.no_grad()
def confidence(
    networks: Sequence[Network], images: torch.Tensor, label: int, *, batch: int = 256
) -> torch.Tensor:
    """Mean softmax confidence of networks in a class, (n,)."""
    parts = [
        torch.stack([net(part.float()).softmax(-1)[:, label] for net in networks])
        for part in images.split(batch)
    ]
    return torch.cat(parts, 1).mean(0)


def batches(n: int, batch: int, n_steps: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows of each step: all in random order before any comes again."""
    size, waiting = min(batch, n), np.empty(0, int)
    for _ in range(n_steps):
        if len(waiting) < size:
            waiting = np.concatenate([waiting, rng.permutation(n)])
        yield waiting[:size]
        waiting = waiting[size:]
