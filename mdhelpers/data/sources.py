"""Where images come from: a registry of the kinds of data that a study may name (`SOURCES`).

Generated scenes are in `scenes`, anyone's ``{train,test}/{class}/*`` folder in `folders`, and data
sets that everyone knows in `published`. Here is what can be planted into any of them: train-test
leakage with known truth, training images that are near-copies of test images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdhelpers.base.records import content_digest, digest
from mdhelpers.base.specs import code_digest, is_own
from mdhelpers.data import published
from mdhelpers.data.datasets import Dataset, DatasetSpec, Split, shrunk
from mdhelpers.data.folders import (
    Listing,
    about_listing,
    list_pictures,
    listed_files,
    needs_root,
    read_listed,
)
from mdhelpers.data.scenes import CLASS_NAMES, check_features, make_scenes
from mdhelpers.data.spikes import spike_in
from mdhelpers.data.transforms import contents_of


@dataclass(frozen=True)
class Source:
    """A kind of data. Each function is given the `DatasetSpec`.

    Attributes
    ----------
    read
        Gives the `Dataset`: images of ``spec.pixels``, in every process the same. It names what it
        cannot read, and skips nothing silently.
    count
        Training images, test images and classes that `read` will give, without reading images.
    keys
        The keys that it reads, beside those of every kind.
    size
        Height and width where a study gives none.
    files
        The files that it reads, as (name, path), so that a changed one is noticed.
    names
        The classes, where a study leaves them open and they can be known without reading images.
    check
        Raises ValueError for keys that do not fit together.
    about
        Lines that ``--dry-run`` prints about the data.

    """

    read: Callable[[DatasetSpec], Dataset]
    count: Callable[[DatasetSpec], tuple[int, int, int]]
    keys: tuple[str, ...] = ("options",)
    size: int = 32
    files: Callable[[DatasetSpec], list[tuple[str, Path]]] = lambda _: []
    names: Callable[[DatasetSpec], list[str]] = lambda _: []
    check: Callable[[DatasetSpec], None] = lambda _: None
    about: Callable[[DatasetSpec], Iterable[str]] = lambda _: ()


def load_dataset(spec: DatasetSpec) -> Dataset:
    """The images that a study's ``dataset`` asks for.

    What a folder holds and is not read, and pictures that are read in a way that one may want to
    know, are counted and listed in one printed note.

    Raises
    ------
    ValueError
        For what no stage could use: an unknown class, an empty class, images that cannot be read.
    FileNotFoundError
        When a folder is missing.

    """
    data = spec.source.read(spec)
    if spec.spike_in:
        data = spike_in(data, spec.spike_in, seed=spec.seed)
    if spec.duplicates:
        data = plant_duplicates(data, spec.duplicates, seed=spec.seed)
    return shrunk(data, spec.pixels) if spec.stored else data  # last: crops show what was planted


def expected_sizes(spec: DatasetSpec) -> tuple[int, int, int]:
    """Training images, test images and classes that a spec will give, without reading images."""
    return spec.source.count(spec)


def data_digest(spec: DatasetSpec) -> str:
    """A digest of all that a data set reads: pictures of a folder, code of the user's own.

    It is "" where there is nothing to read, as for scenes.
    """
    read = [(name, content_digest(path)) for name, path in spec.source.files(spec)]
    if is_own(spec.kind):
        read.append((spec.kind, code_digest(spec.kind)))
    pasted = contents_of([spike.transformation for spike in spec.spike_in])
    read += [(f"spike_in: {name}", found) for name, found in pasted.items()]
    return digest(read)[:16] if read else ""


def has_masks(spec: DatasetSpec) -> bool:
    """Whether it will be known where the object is; of a kind of the user's own it may be."""
    return spec.kind == "scenes" or bool(spec.masks) or is_own(spec.kind)


def read_scenes(spec: DatasetSpec) -> Dataset:
    return make_scenes(
        n_train=spec.n_train,
        n_test=spec.n_test,
        size=spec.pixels,
        share=spec.share,
        planted=spec.planted,
        distractors=spec.distractors,
        seed=spec.seed,
    )


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


def of_pictures(
    listed: Callable[[DatasetSpec], Listing],
    read: Callable[[DatasetSpec], Dataset],
    keys: tuple[str, ...],
    **others,
) -> Source:
    """The kind of data whose picture files ``listed`` names before any of them is opened."""
    own = {
        "keys": (*LIMITED, "stored", *keys),
        "files": lambda spec: listed_files(listed(spec), spec),
        "names": lambda spec: listed(spec).names,
        "about": lambda spec: about_listing(listed(spec)),
    }
    return Source(read, lambda spec: listed(spec).sizes, **own | others)


LIMITED = ("root", "limit_train", "limit_test")
SOURCES = {
    "scenes": Source(
        read_scenes,
        lambda spec: (spec.n_train, spec.n_test, len(CLASS_NAMES)),
        keys=("n_train", "n_test", "share", "planted", "distractors"),
        size=24,
        check=lambda spec: check_features(spec.planted, spec.distractors),
    ),
    "image_folder": of_pictures(
        list_pictures,
        lambda spec: read_listed(list_pictures(spec), spec),
        keys=("classes", "masks"),
        check=needs_root,
    ),
    "cifar10": Source(
        published.read_cifar10,
        published.count_cifar10,
        keys=(*LIMITED, "classes"),
        names=published.names_of_cifar10,
    ),
    "fashion_mnist": Source(
        published.read_fashion_mnist,
        published.count_fashion_mnist,
        keys=(*LIMITED, "classes"),
        size=28,
        files=published.fashion_mnist_files,
        names=lambda spec: spec.classes or list(published.FASHION),
    ),
    "waterbirds": of_pictures(
        published.list_waterbirds,
        published.read_waterbirds,
        keys=("masks", "part"),
        size=224,
        files=published.waterbirds_files,
        check=published.waterbirds_need_root,
    ),
    "living17": of_pictures(
        published.list_living17,
        published.read_living17,
        keys=("classes", "split"),
        size=224,
        check=published.living17_needs_root,
    ),
}
