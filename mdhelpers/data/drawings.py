"""How features are drawn: shapes at a place, and patterns over the whole image.

The same code plants a feature in generated scenes and adds it in a counterfactual
(`mdhelpers.data.transforms`). Shapes are drawn by a `canvas`, float images (n, H, W, 3) that are
painted in place, at any size; patterns scale with the image, as it is drawn at `DRAWN_AT` pixels.
"""

from __future__ import annotations

import numpy as np

WHITE = (245, 245, 240)
BLACK = (20, 20, 25)
YELLOW = (250, 215, 40)
MAGENTA = (255, 60, 170)
CYAN = (40, 225, 225)
GREEN = (60, 150, 70)
CORNERS = ("top left", "top right", "bottom left", "bottom right")
DRAWN_AT = 24  # side in pixels at which patterns have the periods that stand here

Layer = tuple[np.ndarray, tuple[int, int, int]]
"""How much of each pixel is painted, (n, H, W) in [0, 1], and in which colour."""


def blend(canvas: np.ndarray, mask: np.ndarray, color) -> None:
    """Paint ``color`` over ``canvas`` (n, H, W, 3) in place, as opaque as ``mask`` (n, H, W)."""
    canvas += mask[..., None] * (np.asarray(color, np.float32).reshape(-1, 1, 1, 3) - canvas)


def pixel_grid(canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel centre, (1, H, 1) and (1, 1, W)."""
    _, height, width, _ = canvas.shape
    return np.arange(height).reshape(1, -1, 1) + 0.5, np.arange(width).reshape(1, 1, -1) + 0.5


def scale_of(canvas: np.ndarray) -> float:
    """How much larger than `DRAWN_AT` an image's shorter side is."""
    return min(canvas.shape[1:3]) / DRAWN_AT


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
    """Whole-pixel places at which a square of ``side`` px lies inside, one per image."""
    n, height, width, _ = canvas.shape
    room = np.maximum(np.array([height, width]) - side - 2, 0)
    places = np.floor(1 + rng.random((n, 2)) * (room + 1))
    return places[:, 0], places[:, 1]


def clear_position(
    canvas: np.ndarray, side: float, blocked: np.ndarray, rng: np.random.Generator
) -> tuple:
    """Random whole-pixel places of squares that cover as few ``blocked`` (n, H, W) as may be."""
    n, height, width, _ = canvas.shape
    k = int(min(np.ceil(side), height, width))
    sums = np.pad(blocked.astype(np.int32), ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    inside = sums[:, k:, k:] - sums[:, :-k, k:] - sums[:, k:, :-k] + sums[:, :-k, :-k]
    rank = inside.reshape(n, -1) + rng.random((n, inside[0].size))
    return tuple(x.astype(float) for x in np.divmod(rank.argmin(1), inside.shape[2]))


def draw_tag(canvas, top, left, side) -> None:
    """A white square label with a dark middle, ``side`` px wide."""
    blend(canvas, square_mask(canvas, top, left, side), WHITE)
    inset = side / 4
    blend(canvas, square_mask(canvas, top + inset, left + inset, side - 2 * inset), BLACK)


def draw_ring(canvas, top, left, side) -> None:
    """A magenta ring, ``side`` px across."""
    rows, columns = pixel_grid(canvas)
    radius = side / 2
    width = max(1.0, scale_of(canvas))
    distance = np.hypot(
        rows - (top + radius).reshape(-1, 1, 1), columns - (left + radius).reshape(-1, 1, 1)
    )
    line = np.clip(0.6 + width - np.abs(distance - (radius - width)), 0, 1)
    blend(canvas, line, MAGENTA)


def draw_cross(canvas, top, left, side) -> None:
    """A cyan cross, ``side`` px across."""
    rows, columns = pixel_grid(canvas)
    half, width = side / 2, max(1.0, scale_of(canvas))
    dy = np.abs(rows - (top + half).reshape(-1, 1, 1))
    dx = np.abs(columns - (left + half).reshape(-1, 1, 1))
    arms = np.clip(0.3 + width - np.minimum(dy, dx), 0, 1) * (np.maximum(dy, dx) <= half)
    blend(canvas, arms, CYAN)


def draw_black_white_patch(canvas, top, left, side) -> None:
    """A white square with a black one in its lower right: like the nose of a black-white dog."""
    third = side / 3
    blend(canvas, square_mask(canvas, top, left, side), WHITE)
    blend(canvas, square_mask(canvas, top + third, left + third, side - third), BLACK)


def draw_rectangles(canvas, top, left, side) -> None:
    """Two bright panes in a dark square: like windows."""
    edge = scale_of(canvas) if side > 8 * scale_of(canvas) else 1.0
    pane = side / 2 - edge
    blend(canvas, square_mask(canvas, top, left, side), BLACK)
    blend(canvas, square_mask(canvas, top + edge, left + edge / 2, pane), WHITE)
    blend(canvas, square_mask(canvas, top + edge, left + edge / 2 + side / 2, pane), WHITE)


def stripes(canvas: np.ndarray, _rng) -> list[Layer]:
    """White and black diagonal stripes."""
    rows, columns = pixel_grid(canvas)
    period = 6 * scale_of(canvas)
    wave = np.sin((rows + columns) * (2 * np.pi / period)) * np.ones((len(canvas), 1, 1))
    return [(np.clip(wave * 1.5, 0, 1), WHITE), (np.clip(-wave * 1.5, 0, 1), BLACK)]


def web(canvas: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """The threads of a spider's web around a random middle."""
    n, height, width, _ = canvas.shape
    scale = scale_of(canvas)
    rows, columns = pixel_grid(canvas)
    centre = rng.random((n, 2)) * np.array([height, width]) * 0.5 + np.array([height, width]) * 0.25
    dy, dx = rows - centre[:, 0].reshape(-1, 1, 1), columns - centre[:, 1].reshape(-1, 1, 1)
    dy, dx = dy / scale, dx / scale
    angle = np.arctan2(dy, dx) + rng.random((n, 1, 1)) * np.pi
    spoke = np.abs(((angle * 8 / (2 * np.pi)) % 1) - 0.5)
    distance = np.hypot(dy, dx)
    spokes = np.clip(1.1 - (0.5 - spoke) * distance * 2 * np.pi / 8, 0, 1)
    sagging = distance * (1 + 0.12 * np.cos(angle * 8))
    rings = np.clip(1.1 - np.abs((sagging / 4.5 + 0.5) % 1 - 0.5) * 4.5, 0, 1) * (distance > 2)
    return [(np.maximum(spokes, rings), WHITE)]


def dots(canvas: np.ndarray, rng: np.random.Generator) -> list[Layer]:
    """Yellow dots in staggered rows."""
    scale = scale_of(canvas)
    rows, columns = (x / scale for x in pixel_grid(canvas))
    shift = rng.random((len(canvas), 2, 1, 1)) * 7
    dy = (rows + shift[:, 0]) % 7 - 3.5
    dx = (columns + shift[:, 1] + 3.5 * ((rows + shift[:, 0]) // 7 % 2)) % 7 - 3.5
    return [(np.clip(2.3 - np.hypot(dy, dx), 0, 1), YELLOW)]


def draw_frame(canvas: np.ndarray, width: float) -> None:
    """A green frame of ``width`` px."""
    rows, columns = pixel_grid(canvas)
    _, height, across, _ = canvas.shape
    edge = np.minimum(np.minimum(rows, height - rows), np.minimum(columns, across - columns))
    mask = np.broadcast_to(np.clip(width + 0.5 - edge, 0, 1), canvas.shape[:3])
    blend(canvas, mask, GREEN)
