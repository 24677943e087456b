"""Data behind one small interface: uint8 images, labels, class names, metadata, fingerprint."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from PIL import Image
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from mdhelpers.base.records import read_json, write_json, written
from mdhelpers.base.specs import Count, Seed, Share, Spec, find_named
from mdhelpers.data.spikes import Spike

if TYPE_CHECKING:
    from mdhelpers.data.sources import Source

OF_EVERY_KIND = ("kind", "size", "seed", "duplicates", "spike_in")
LIMITS = ". For fewer pictures give limit_train and limit_test, the most of a class"


class DatasetSpec(Spec):
    """What notebook 01 prepares. ``n_train``, ``n_test``, ``share``, ``planted`` (which class each
    feature marks) and ``distractors`` (features of every class) belong to scenes; ``root``,
    ``masks`` (a folder with a picture of where the object is, for each image), ``classes``,
    ``limit_train`` and ``limit_test`` (images a class) to folders and published data sets; ``part``
    to Waterbirds (``validation`` in place of its test images) and ``split`` to Living17 (its
    ``source`` or ``target`` half; both where it is left out). Of folders, Waterbirds and Living17
    ``stored`` is a larger size in which training images are kept beside, for random crops to be cut
    from; all else sees them in ``size``. ``options``, and what else it says
    that it reads, belong to a kind of the user's own (``module:name``, see
    `mdhelpers.data.sources.Source`). So many training images as ``duplicates`` says become
    near-copies of test images. ``spike_in``, a mapping or a list of them, plants features into any
    images (`mdhelpers.data.spikes.Spike`)."""

    kind: str = "scenes"
    size: Annotated[int, Field(ge=16, le=256)] | None = None
    seed: Seed = 0
    n_train: Count = 240
    n_test: Count = 600
    share: Share = 0.25
    planted: dict[str, str] = Field({})
    distractors: list[str] = Field([])
    root: str = ""
    masks: str = ""
    classes: list[str] = Field([])
    limit_train: Count | None = None
    limit_test: Count | None = None
    part: Literal["test", "validation"] = "test"
    split: Literal["", "source", "target"] = ""
    stored: Annotated[int, Field(ge=17, le=512)] | None = None
    duplicates: Annotated[int, Field(ge=0)] = 0
    spike_in: list[Spike] = Field([])
    options: dict[str, Any] = Field({})

    @property
    def source(self) -> Source:
        """What ``kind`` names."""
        return source_of(self.kind)

    @property
    def pixels(self) -> int:
        """Height and width of its images."""
        return self.size or self.source.size

    @property
    def read_at(self) -> int:
        """Height and width in which picture files are read."""
        return self.stored or self.pixels

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        source_of(kind)
        return kind

    @model_validator(mode="after")
    def _complete(self) -> DatasetSpec:
        self.source.check(self)
        if self.stored and self.stored <= self.pixels:
            raise ValueError(
                f"stored: {self.stored} px are not more than the {self.pixels} of size; leave it "
                "out, or give a larger one to cut crops from"
            )
        if self.stored and self.spike_in:
            raise ValueError(
                "spike_in and stored do not go together: its size in pixels would differ between "
                "crops and whole images; leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _refuse_what_it_would_not_read(self) -> DatasetSpec:
        from mdhelpers.data.sources import SOURCES

        read = {*OF_EVERY_KIND, *self.source.keys}
        others = [key for key in type(self).model_fields if key not in read and self._differs(key)]
        if others:
            theirs = [kind for kind, it in SOURCES.items() if set(others) <= set(it.keys)]
            how_many = {"n_train", "n_test"} & set(others) and "limit_train" in read
            raise ValueError(
                f"{', '.join(others)} would not be read: this is kind: {self.kind}, and they are "
                f"for kind: {', or '.join(theirs) or 'others'}{LIMITS if how_many else ''}"
            )
        return self

    def _differs(self, key: str) -> bool:
        """Whether a key has another value than its default, as in no record of a finished run."""
        default = type(self).model_fields[key].get_default(call_default_factory=True)
        return getattr(self, key) != default

    @field_validator("spike_in", mode="before")
    @classmethod
    def _one_or_several(cls, given: Any) -> Any:
        return [given] if isinstance(given, dict) else given

    @field_validator("classes")
    @classmethod
    def _each_class_once(cls, names: list[str]) -> list[str]:
        refuse_twice(names)
        return names

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict:
        """Leave out what was added later and is not used: runs made before stay current."""
        shown = handler(self)
        added = ("duplicates", "spike_in", "planted", "distractors", "options", "masks")
        for key in (*added, "part", "split", "stored"):
            if not self._differs(key):
                shown.pop(key, None)
        return shown


def source_of(kind: str) -> Source:
    """The kind of data of that name, ours or the user's own (``module:name``)."""
    from mdhelpers.data.sources import SOURCES, Source

    return find_named(kind, SOURCES, "kind", lambda it: isinstance(it, Source))


@dataclass(frozen=True, eq=False)
class Split:
    """One half of a data set.

    Attributes
    ----------
    images
        (n, height, width, 3) uint8.
    labels
        (n,) int64, indices of the class names.
    metadata
        n rows; on generated scenes every drawing factor and the truth (``feature_…``).
    foreground
        (n, height, width) bool, True on the object, or None where it is not known.
    stored
        The same images in a larger size, which crops are cut from, or None; of training images.

    """

    images: np.ndarray
    labels: np.ndarray
    metadata: pd.DataFrame
    foreground: np.ndarray | None = None
    stored: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, n: int) -> Split:
        """Up to ``n`` of the images, evenly from first to last: folders are read class by class."""
        index = np.unique(np.linspace(0, len(self) - 1, min(n, len(self))).round().astype(int))
        foreground = None if self.foreground is None else self.foreground[index]
        return Split(self.images[index], self.labels[index], self.metadata.iloc[index], foreground)

    @property
    def truth(self) -> pd.DataFrame:
        """The planted features that occur, (n, n_features) bool; no columns where none is known."""
        columns = [c for c in self.metadata.columns if c.startswith("feature_")]
        truth = self.metadata[columns].rename(columns=lambda c: c.removeprefix("feature_"))
        return truth.loc[:, truth.any(axis=0)].astype(bool)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images of one task; `build` makes one, checks it and fingerprints it."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    fingerprint: str

    @classmethod
    def build(cls, name: str, train: Split, test: Split, class_names) -> Dataset:
        """Check the two halves against each other and take their fingerprint."""
        dataset = cls(name, train, test, tuple(class_names), "")
        check_dataset(dataset)
        return replace(dataset, fingerprint=fingerprint(dataset))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.train.images.shape[1:3]


def refuse_twice(names: Iterable[str]) -> None:
    """Refuse a class that is named twice; Unicode forms of one name are one name."""
    seen = Counter(unicodedata.normalize("NFC", name) for name in names)
    twice = [name for name, n in seen.items() if n > 1]
    if twice:
        raise ValueError(f"class {', '.join(map(repr, twice))} is named twice; name each once")


def shrunk(dataset: Dataset, size: int) -> Dataset:
    """The same images in a smaller size; training images are kept in the larger one beside."""
    return Dataset.build(
        dataset.name,
        replace(_resized(dataset.train, size), stored=dataset.train.images),
        _resized(dataset.test, size),
        dataset.class_names,
    )


def _resized(split: Split, size: int) -> Split:
    square, how = (size, size), Image.Resampling.LANCZOS
    images = np.stack([np.asarray(Image.fromarray(i).resize(square, how)) for i in split.images])
    masks = split.foreground
    if masks is not None:
        parts = [Image.fromarray(mask).convert("L").resize(square, how) for mask in masks]
        masks = np.stack([np.asarray(part) > 127 for part in parts])
    return replace(split, images=images, foreground=masks)


def check_dataset(dataset: Dataset) -> None:
    """Refuse what no stage could use: wrong shapes, a class twice or empty, sizes that differ."""
    refuse_twice(dataset.class_names)
    n_classes = len(dataset.class_names)
    for part in ("train", "test"):
        split = getattr(dataset, part)
        if split.images.dtype != np.uint8 or split.images.ndim != 4 or split.images.shape[-1] != 3:
            raise ValueError(
                f"{part} images must be (n, height, width, 3) uint8, got "
                f"{split.images.shape} {split.images.dtype}"
            )
        if not len(split.images) == len(split.labels) == len(split.metadata):
            raise ValueError(
                f"{part}: {len(split.images)} images, {len(split.labels)} labels and "
                f"{len(split.metadata)} rows of metadata; the three must be equal"
            )
        missing = sorted(set(range(n_classes)) - set(split.labels.tolist()))
        if missing:
            names = ", ".join(dataset.class_names[i] for i in missing)
            raise ValueError(f"no {part} image of class {names}; every class needs at least one")
    if dataset.train.images.shape[1:] != dataset.test.images.shape[1:]:
        raise ValueError(
            f"training images are {dataset.train.images.shape[1:3]} px and test images "
            f"{dataset.test.images.shape[1:3]} px; resize them to one size"
        )


def fingerprint(dataset: Dataset) -> str:
    """A hash of every image and label in order, so that a store knows what it was trained on."""
    digest = hashlib.sha256("\0".join(dataset.class_names).encode())
    for split in (dataset.train, dataset.test):
        digest.update(repr(split.images.shape).encode())
        digest.update(np.ascontiguousarray(split.images).tobytes())
        digest.update(np.ascontiguousarray(split.labels, np.int64).tobytes())
        if split.stored is not None:
            digest.update(np.ascontiguousarray(split.stored).tobytes())
    return digest.hexdigest()[:16]


def save_dataset(dataset: Dataset, folder: Path) -> list[Path]:
    """Write images, labels, metadata and the fingerprint; `dataset.json` last, as commit mark."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in ("train", "test"):
        split = getattr(dataset, part)
        arrays = {"images": split.images, "labels": split.labels, "foreground": split.foreground}
        arrays["stored"] = split.stored
        for name, array in arrays.items():
            if array is not None:
                paths.append(folder / f"{part}_{name}.npy")
                with written(paths[-1]) as unfinished, unfinished.open("wb") as file:
                    np.save(file, array)
        paths.append(folder / f"{part}_metadata.parquet")
        with written(paths[-1]) as unfinished:
            split.metadata.to_parquet(unfinished)
    about = {
        "name": dataset.name,
        "class_names": list(dataset.class_names),
        "fingerprint": dataset.fingerprint,
    }
    if dataset.train.stored is not None:
        about["stored"] = True
    write_json(folder / "dataset.json", about)
    return [*paths, folder / "dataset.json"]


def read_dataset(folder: Path, *, mmap: bool = False, foreground: bool = True) -> Dataset:
    """Read what `save_dataset` wrote; images are memory-mapped with ``mmap``.

    ``foreground`` says whether there is one to read: a run's folder may hold that of other images.
    """
    about_path = folder / "dataset.json"
    if not about_path.exists():
        raise FileNotFoundError(f"no data in {folder}; run notebook 01_data_prep first")
    about = read_json(about_path)
    splits = []
    for part in ("train", "test"):
        masks = folder / f"{part}_foreground.npy"
        larger = folder / f"{part}_stored.npy" if about.get("stored") and part == "train" else None
        splits.append(
            Split(
                np.load(folder / f"{part}_images.npy", mmap_mode="r" if mmap else None),
                np.load(folder / f"{part}_labels.npy"),
                pd.read_parquet(folder / f"{part}_metadata.parquet"),
                np.load(masks) if foreground and masks.exists() else None,
                np.load(larger, mmap_mode="r") if larger else None,
            )
        )
    return Dataset(about["name"], *splits, tuple(about["class_names"]), about["fingerprint"])
