"""Feature transformations: the same drawing code plants a feature and tests it.

A distinguishing transformation (Definition 2 of the paper) adds a feature to an image. Each one
here has an intensity, so that a counterfactual can be run at several strengths (App. B.4), and is
seeded, so that both algorithms see the same transformed images.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WHITE = (245, 245, 240)
BLACK = (20, 20, 25)
YELLOW = (250, 215, 40)
MAGENTA = (255, 60, 170)
CORNERS = ("top left", "top right", "bottom left", "bottom right")


@dataclass(frozen=True)
class Transform:
    """A feature and how to add it; ``apply(images, intensity, rng)`` paints on float images."""

    name: str
    description: str
    intensity_unit: str
    default: float
    apply: Callable[[np.ndarray, float, np.random.Generator], None]


def transform_images(
    name: str, images: np.ndarray, intensity: float, *, seed: int = 0
) -> np.ndarray:
    """Add the feature ``name`` to every image.

    Parameters
    ----------
    name
        A key of `TRANSFORMS`.
    images
        (n, H, W, 3) uint8.
    intensity
        Strength in the transformation's own unit (see `Transform.intensity_unit`); 0 changes
        nothing.
    seed
        Seeds the random places and colours; the draws do not depend on the intensity.

    Returns
    -------
    (n, H, W, 3) uint8

    Raises
    ------
    ValueError
        For an unknown name, a negative intensity or images of another shape or dtype.

    """
    transform = get_transform(name)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"images must be (n, height, width, 3) uint8, got {images.shape} {images.dtype}"
        )
    if intensity < 0:
        raise ValueError(f"the intensity of {name!r} is {intensity}; it must be 0 or more")
    if intensity == 0:
        return images.copy()
    canvas = images.astype(np.float32)
    transform.apply(canvas, intensity, np.random.default_rng(seed))
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def get_transform(name: str) -> Transform:
    """The transformation called ``name``; an unknown name is refused with the nearest known one."""
    if name not in TRANSFORMS:
        near = difflib.get_close_matches(name, TRANSFORMS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"unknown transformation {name!r}.{hint} Known: {', '.join(sorted(TRANSFORMS))}"
        )
    return TRANSFORMS[name]


def blend(canvas: np.ndarray, mask: np.ndarray, color) -> None:
    """Paint ``color`` over ``canvas`` (n, H, W, 3) in place, as opaque as ``mask`` (n, H, W)."""
    canvas += mask[..., None] * (np.asarray(color, np.float32).reshape(-1, 1, 1, 3) - canvas)


def pixel_grid(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel centre, (1, H, 1) and (1, 1, W)."""
    _, height, width, _ = canvas.shape
    return np.arange(height).reshape(1, -1, 1) + 0.5, np.arange(width).reshape(1, 1, -1) + 0.5


def square_mask(canvas: np.ndarray, top: np.ndarray, left: np.ndarray, side: float) -> np.ndarray:
    """Squares with their upper left corners at ``top``, ``left`` (n,), edges softened."""
    rows, columns = pixel_grid(canvas)
    top, left = top.reshape(-1, 1, 1), left.reshape(-1, 1, 1)

    def coverage(position, start):
        return np.clip(
            np.minimum(position + 0.5, start + side) - np.maximum(position - 0.5, start), 0, 1
        )

    return coverage(rows, top) * coverage(columns, left)


def corner_position(canvas: np.ndarray, corner: np.ndarray, side: float) -> tuple:
    """Upper left position of a square of ``side`` px in the corner (n,) of `CORNERS`."""
    _, height, width, _ = canvas.shape
    top = np.where(corner < 2, 1.0, height - 1.0 - side)
    left = np.where(corner % 2 == 0, 1.0, width - 1.0 - side)
    return top, left


def random_position(canvas: np.ndarray, side: float, rng: np.random.Generator) -> tuple:
    """Whole-pixel places at which a square of ``side`` px lies inside, one an image."""
    n, height, width, _ = canvas.shape
    room = np.maximum(np.array([height, width]) - side - 2, 0)
    places = np.floor(1 + rng.random((n, 2)) * (room + 1))
    return places[:, 0], places[:, 1]


def draw_tag(canvas, side, corner) -> None:
    """A white square label with a dark middle in the given corners (n,), ``side`` px wide."""
    top, left = corner_position(canvas, np.asarray(corner), side)
    blend(canvas, square_mask(canvas, top, left, side), WHITE)
    inset = side / 4
    blend(canvas, square_mask(canvas, top + inset, left + inset, side - 2 * inset), BLACK)


def add_tag(canvas, intensity, _rng) -> None:
    draw_tag(canvas, intensity, np.zeros(len(canvas), int))


def add_ring(canvas, intensity, rng) -> None:
    top, left = random_position(canvas, intensity, rng)
    rows, columns = pixel_grid(canvas)
    radius = intensity / 2
    distance = np.hypot(
        rows - (top + radius).reshape(-1, 1, 1), columns - (left + radius).reshape(-1, 1, 1)
    )
    blend(canvas, np.clip(1.6 - np.abs(distance - (radius - 1.0)), 0, 1), MAGENTA)


def add_cross(canvas, intensity, rng) -> None:
    top, left = random_position(canvas, intensity, rng)
    rows, columns = pixel_grid(canvas)
    half = intensity / 2
    dy = np.abs(rows - (top + half).reshape(-1, 1, 1))
    dx = np.abs(columns - (left + half).reshape(-1, 1, 1))
    arms = np.clip(1.3 - np.minimum(dy, dx), 0, 1) * (np.maximum(dy, dx) <= half)
    blend(canvas, arms, (40, 225, 225))


def add_yellow_square(canvas, intensity, rng) -> None:
    top, left = random_position(canvas, intensity, rng)
    blend(canvas, square_mask(canvas, top, left, intensity), YELLOW)


def add_scrambled_square(canvas, intensity, rng) -> None:
    """Shuffle the pixels within a square: as many change as for a patch, no colour is new."""
    side = max(1, round(intensity))
    places = np.stack(random_position(canvas, side, rng), axis=1).astype(int)
    for image, (top, left) in zip(canvas, places, strict=True):
        patch = image[top : top + side, left : left + side]
        patch[...] = rng.permutation(patch.reshape(-1, 3)).reshape(patch.shape)


def add_stripes(canvas, intensity, _rng) -> None:
    rows, columns = pixel_grid(canvas)
    wave = np.sin((rows + columns) * (2 * np.pi / 6)) * np.ones((len(canvas), 1, 1))
    blend(canvas, np.clip(wave * 1.5, 0, 1) * (intensity / 100), WHITE)
    blend(canvas, np.clip(-wave * 1.5, 0, 1) * (intensity / 100), BLACK)


def add_web(canvas, intensity, rng) -> None:
    n, height, width, _ = canvas.shape
    rows, columns = pixel_grid(canvas)
    centre = rng.random((n, 2)) * np.array([height, width]) * 0.5 + np.array([height, width]) * 0.25
    dy, dx = rows - centre[:, 0].reshape(-1, 1, 1), columns - centre[:, 1].reshape(-1, 1, 1)
    angle = np.arctan2(dy, dx) + rng.random((n, 1, 1)) * np.pi
    spoke = np.abs(((angle * 8 / (2 * np.pi)) % 1) - 0.5)
    distance = np.hypot(dy, dx)
    spokes = np.clip(1.1 - (0.5 - spoke) * distance * 2 * np.pi / 8, 0, 1)
    sagging = distance * (1 + 0.12 * np.cos(angle * 8))
    rings = np.clip(1.1 - np.abs((sagging / 4.5 + 0.5) % 1 - 0.5) * 4.5, 0, 1) * (distance > 2)
    blend(canvas, np.maximum(spokes, rings) * (intensity / 100), WHITE)


def add_dots(canvas, intensity, rng) -> None:
    rows, columns = pixel_grid(canvas)
    shift = rng.random((len(canvas), 2, 1, 1)) * 7
    dy = (rows + shift[:, 0]) % 7 - 3.5
    dx = (columns + shift[:, 1] + 3.5 * ((rows + shift[:, 0]) // 7 % 2)) % 7 - 3.5
    blend(canvas, np.clip(2.3 - np.hypot(dy, dx), 0, 1) * (intensity / 100), YELLOW)


def add_frame(canvas, intensity, _rng) -> None:
    _, height, width, _ = canvas.shape
    rows, columns = pixel_grid(canvas)
    edge = np.minimum(np.minimum(rows, height - rows), np.minimum(columns, width - columns))
    mask = np.broadcast_to(np.clip(intensity + 0.5 - edge, 0, 1), canvas.shape[:3])
    blend(canvas, mask, (60, 150, 70))


def add_black_white_patch(canvas, intensity, rng) -> None:
    top, left = random_position(canvas, intensity, rng)
    third = intensity / 3
    blend(canvas, square_mask(canvas, top, left, intensity), WHITE)
    blend(canvas, square_mask(canvas, top + third, left + third, intensity - third), BLACK)


def add_rectangles(canvas, intensity, rng) -> None:
    top, left = random_position(canvas, intensity, rng)
    pane = intensity / 2 - 1
    blend(canvas, square_mask(canvas, top, left, intensity), BLACK)
    blend(canvas, square_mask(canvas, top + 1, left + 0.5, pane), WHITE)
    blend(canvas, square_mask(canvas, top + 1, left + 0.5 + intensity / 2, pane), WHITE)


TRANSFORMS: dict[str, Transform] = {
    t.name: t
    for t in (
        Transform("tag", "a square tag in the top left corner", "px", 5, add_tag),
        Transform("ring", "a magenta ring at a random place", "px", 9, add_ring),
        Transform("cross", "a cyan cross at a random place", "px", 7, add_cross),
        Transform("stripes", "diagonal stripes over the image", "% opacity", 25, add_stripes),
        Transform("web", "a spider web over the image", "% opacity", 60, add_web),
        Transform("dots", "yellow polka dots over the image", "% opacity", 60, add_dots),
        Transform("frame", "a green frame around the image", "px", 2, add_frame),
        Transform("yellow_square", "a yellow square at a random place", "px", 5, add_yellow_square),
        Transform("black_white_patch", "a black and white patch", "px", 6, add_black_white_patch),
        Transform(
            "scrambled_square",
            "the pixels of a square shuffled, at a random place",
            "px",
            5,
            add_scrambled_square,
        ),
        Transform("rectangles", "two bright panes, like windows", "px", 8, add_rectangles),
    )
}
