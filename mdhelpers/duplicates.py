"""Train-test leakage with known truth: training images that are near-copies of test images."""

from __future__ import annotations

import numpy as np

from mdhelpers.datasets import Dataset, Split

__all__ = ["NO_COPY", "near_copies", "plant_duplicates"]

NO_COPY = -1
SHIFT, BRIGHTNESS, NOISE = 1, 0.1, 4.0  # pixels, part, standard deviation of 255 levels


def plant_duplicates(data: Dataset, n: int, *, seed: int = 0) -> Dataset:
    """Put near-copies of ``n`` test images in the place of training images of the same class.

    Parameters
    ----------
    data : Dataset
    n : int
        Test images that are copied, each once, drawn at random. No training image is replaced
        twice.
    seed : int

    Returns
    -------
    Dataset
        With a column ``duplicate_of`` in the training images' metadata: the test image that each
        copies, or -1. A copy has the metadata of what it copies.

    Raises
    ------
    ValueError
        If a class has too few training images to give way.
    """
    rng = np.random.default_rng([seed, 103])
    copied = np.sort(rng.permutation(len(data.test))[:n])
    places = _places(data, copied, n, rng)
    images, metadata = data.train.images.copy(), data.train.metadata.copy()
    images[places] = near_copies(data.test.images[copied], rng)
    shared = [name for name in metadata.columns if name in data.test.metadata.columns]
    for name in shared:
        metadata.loc[places, name] = data.test.metadata[name].to_numpy()[copied]
    metadata["duplicate_of"] = NO_COPY
    metadata.loc[places, "duplicate_of"] = copied
    foreground = data.train.foreground
    if foreground is not None:
        foreground = foreground.copy()
        foreground[places] = data.test.foreground[copied]
    train = Split(images, data.train.labels, metadata, foreground)
    return Dataset.build(data.name, train, data.test, data.class_names)


def _places(data: Dataset, copied: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """A training image of the same class for each test image that is copied."""
    if len(copied) < n:
        raise ValueError(f"duplicates is {n}; there are {len(data.test)} test images to copy")
    places = np.empty(n, int)
    for label in np.unique(data.test.labels[copied]):
        of_class = np.flatnonzero(data.test.labels[copied] == label)
        free = rng.permutation(np.flatnonzero(data.train.labels == label))
        if len(free) < len(of_class):
            raise ValueError(
                f"duplicates is {n}, of which {len(of_class)} fall into class "
                f"{data.class_names[label]!r} with {len(free)} training images; plant fewer"
            )
        places[of_class] = free[: len(of_class)]
    return places


def near_copies(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images moved by up to a pixel, a tenth brighter or darker, with faint noise.

    Parameters
    ----------
    images : ndarray, shape (n, height, width, 3), uint8
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of the same shape and dtype
    """
    height, width = images.shape[1:3]
    padded = np.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), mode="edge")
    copies = np.empty(images.shape, np.float32)
    for copy, image, (y, x) in zip(
        copies, padded, rng.integers(0, 2 * SHIFT + 1, (len(images), 2)), strict=True
    ):
        copy[:] = image[y : y + height, x : x + width]
    copies *= rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS, (len(images), 1, 1, 1))
    copies += rng.normal(0, NOISE, copies.shape)
    return np.clip(np.rint(copies), 0, 255).astype(np.uint8)
