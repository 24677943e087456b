"""Mosaics of images, each drawn on one `Axes`, pixel for pixel and without smoothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    EXAMPLE_COLORS,
    INK,
    label_text,
    nothing_here,
)

_TITLE_BAND = 0.27  # height of a line of title, in heights of an image
_FONT_SIZES = (5.0, 10.0)
_TITLE_WIDTH = 24  # characters a line under an image
_ROW_WIDTH = 16  # characters along the height of a row


def show_images(
    ax: Axes,
    images: np.ndarray,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    outlines: Sequence[str | None] | None = None,
    gap: int = 2,
) -> Axes:
    """A mosaic of images, row by row.

    Parameters
    ----------
    ax : Axes
    images : array, shape (n, height, width, 3), uint8
    titles : sequence of n str, optional
        Written under the images; may hold line breaks.
    columns : int
        Images a row.
    outlines : sequence of n colours or None, optional
        A frame around an image, such as `style.TRUTH_COLOR` where a planted feature is present.
    gap : int
        White pixels, of the images' own size, between neighbours.

    Raises
    ------
    ValueError
        If the images are not uint8 colour images, or titles or outlines are not one per image.
    """
    images = _checked(images)
    n = len(images)
    if columns < 1:
        raise ValueError(f"columns is {columns}; expected at least 1.")
    titles, outlines = _one_each(titles, n, "titles"), _one_each(outlines, n, "outlines")
    steps = _steps(images, titles, gap)
    columns = min(columns, n)
    places = [(i % columns * steps[0], i // columns * steps[1]) for i in range(n)]
    size = (columns * steps[0], -(-n // columns) * steps[1])
    return _draw(ax, images, places, size, titles=titles, outlines=outlines)


def image_rows(
    ax: Axes,
    rows: Mapping[str, np.ndarray],
    *,
    outlines: Mapping[str, Sequence[str | None]] | None = None,
    gap: int = 2,
) -> Axes:
    """Rows of images with a label each: a subpopulation above random images of its class, or a
    transformation at several intensities (paper, Figures 4 and 12).

    Parameters
    ----------
    ax : Axes
    rows : mapping of label to array of shape (n, height, width, 3), uint8
        All images of one size; rows may differ in length, and empty ones are left out.
    outlines : mapping of label to sequence, optional
        As in `show_images`, for any of the rows.
    gap : int
        White pixels between neighbours.

    Raises
    ------
    ValueError
        As `show_images`, and if the rows' images differ in size.
    """
    images = {label: _checked(row) for label, row in rows.items() if len(row)}
    if not images:
        return nothing_here(ax, "no images to show here")
    if len({row.shape[1:] for row in images.values()}) != 1:
        shapes = {label: row.shape for label, row in images.items()}
        raise ValueError(f"Got rows of shapes {shapes}; expected images of one size.")
    frames = []
    for label, row in images.items():
        frames += _one_each((outlines or {}).get(label), len(row), "outlines")
    stacked = np.concatenate(list(images.values()))
    untitled = [None] * len(stacked)
    step_x, step_y = _steps(stacked, untitled, gap)
    lengths = [len(row) for row in images.values()]
    places = [(i * step_x, r * step_y) for r, n in enumerate(lengths) for i in range(n)]
    size = (max(lengths) * step_x, len(lengths) * step_y)
    _draw(ax, stacked, places, size, titles=untitled, outlines=frames)
    _row_labels(ax, list(images), stacked.shape[1], step_y)
    return ax


def datamodel_neighbours(
    ax: Axes,
    image: np.ndarray,
    train_images: np.ndarray,
    weights: Mapping[str, np.ndarray],
    *,
    top_k: int = 6,
) -> Axes:
    """A test image and the training images that raise its margin most, a row per algorithm.

    Parameters
    ----------
    ax : Axes
    image : array, shape (height, width, 3), uint8
        The test image, drawn at the left.
    train_images : array, shape (n_train, height, width, 3), uint8
    weights : mapping of the algorithm's name to array of shape (n_train,)
        The test image's row of each datamodel, in raw 0/1 mask units; algorithm 1 first.
    top_k : int
        Training images a row.

    Raises
    ------
    ValueError
        If shapes disagree or `top_k` is not in 1..n_train.
    """
    train_images, image = _checked(train_images), _checked(np.asarray(image)[None])[0]
    n_train = len(train_images)
    if any(np.shape(w) != (n_train,) for w in weights.values()) or not 1 <= top_k <= n_train:
        shapes = {name: np.shape(w) for name, w in weights.items()}
        raise ValueError(
            f"Got weights {shapes} and top_k {top_k} for {n_train} training images; "
            f"expected weights of shape ({n_train},) and top_k in 1..{n_train}."
        )
    best = {name: np.argsort(-np.asarray(w), kind="stable")[:top_k] for name, w in weights.items()}
    titles = [f"{weights[name][i]:+.3g}" for name, indices in best.items() for i in indices]
    colors = [c for c, _ in zip(_algorithm_colors(), best, strict=False) for _ in range(top_k)]
    tiles = np.concatenate([image[None], *(train_images[i] for i in best.values())])
    step_x, step_y = _steps(tiles, ["", *titles], 3)
    left = 1.35 * step_x
    places = [(left + i * step_x, r * step_y) for r in range(len(best)) for i in range(top_k)]
    middle = (0.0, (len(best) - 1) * step_y / 2)
    size = (left + top_k * step_x, len(best) * step_y)
    _draw(
        ax,
        tiles,
        [middle, *places],
        size,
        titles=["test image", *titles],
        outlines=[None, *colors],
    )
    for row, (name, color) in enumerate(zip(best, _algorithm_colors(), strict=False)):
        y = row * step_y + tiles.shape[1] / 2
        ax.text(
            left - 4,
            y,
            label_text(name, _ROW_WIDTH),
            color=color,
            rotation=90,
            ha="right",
            va="center",
            fontweight="bold",
        )
    return ax


def _checked(images) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or not len(images):
        raise ValueError(
            f"Got images of shape {images.shape} and dtype {images.dtype}; "
            "expected a non-empty (n, height, width, 3) of uint8."
        )
    return images


def _one_each(values, n: int, what: str) -> list:
    if values is None:
        return [None] * n
    if len(values) != n:
        raise ValueError(f"Got {len(values)} {what} for {n} images; expected one each, or None.")
    return list(values)


def _steps(images, titles, gap: int) -> tuple[float, float]:
    """Distance from one image to its right and lower neighbour, in the images' pixels."""
    height, width = images.shape[1:3]
    lines = max((title.count("\n") + 1 for title in titles if title), default=0)
    band = lines * _TITLE_BAND * height + (0.12 * height if lines else 0)
    return width + gap, height + gap + band


def _draw(ax, images, places, size, *, titles, outlines) -> Axes:
    height, width = images.shape[1:3]
    ax.set(xlim=(-2, size[0]), ylim=(size[1], -2), aspect="equal")
    ax.axis("off")
    font_size = _font_size(ax, titles, width, size)
    for image, (x, y), title, outline in zip(images, places, titles, outlines, strict=True):
        ax.imshow(image, extent=(x, x + width, y + height, y), interpolation="nearest")
        if title:
            title = label_text(title, _TITLE_WIDTH)
            middle, below = x + width / 2, y + 1.06 * height
            ax.text(middle, below, title, size=font_size, ha="center", va="top", linespacing=1.05)
        if outline:
            box = Rectangle((x - 0.4, y - 0.4), width + 0.8, height + 0.8)
            box.set(fill=False, edgecolor=outline, linewidth=2, clip_on=False)
            ax.add_patch(box)
    ax.set(xlim=(-2, size[0]), ylim=(size[1], -2), aspect="equal")
    return ax


def _font_size(ax, titles, width, size) -> float:
    """As large as the longest title allows beside its neighbour and within its band."""
    lines = [line[:_TITLE_WIDTH] for title in titles if title for line in title.split("\n")]
    if not lines:
        return _FONT_SIZES[1]
    box = ax.get_window_extent()
    scale = min(box.width / size[0], box.height / size[1]) * 72 / ax.figure.dpi
    widest = max(len(line) for line in lines)
    fits = min(1.1 * width * scale / (0.58 * widest), _TITLE_BAND * width * scale / 1.15)
    return float(np.clip(fits, *_FONT_SIZES))


def _row_labels(ax, labels, height, step_y) -> None:
    for row, label in enumerate(labels):
        place = {"ha": "right", "va": "center", "color": INK}
        ax.text(-4, row * step_y + height / 2, label_text(label), **place)


def _algorithm_colors() -> tuple[str, ...]:
    return (*ALGORITHM_COLORS.values(), *EXAMPLE_COLORS)


Rows = dict[str, np.ndarray]
