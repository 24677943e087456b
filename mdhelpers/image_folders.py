"""Real images: anyone's ``{train,test}/{class}/*`` folder, and torchvision's CIFAR-10."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mdhelpers.datasets import Dataset, DatasetSpec, Split
from mdhelpers.duplicates import plant_duplicates
from mdhelpers.paths import resolve
from mdhelpers.scenes import make_scenes
from mdhelpers.specs import unknown_word

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
DEFAULT_SIZE = {"scenes": 24, "image_folder": 32, "cifar10": 32}


def load_dataset(spec: DatasetSpec) -> Dataset:
    """The images that a study's ``dataset`` asks for.

    Raises
    ------
    ValueError
        For what no stage could use: an unknown class, an empty class, images that cannot be read.
    FileNotFoundError
        When a folder is missing.

    """
    size = spec.size or DEFAULT_SIZE[spec.kind]
    if spec.kind == "scenes":
        data = make_scenes(
            n_train=spec.n_train,
            n_test=spec.n_test,
            size=size,
            share=spec.share,
            planted=spec.planted,
            distractors=spec.distractors,
            seed=spec.seed,
        )
    else:
        reader = read_image_folder if spec.kind == "image_folder" else read_cifar10
        data = reader(spec, size)
    return plant_duplicates(data, spec.duplicates, seed=spec.seed) if spec.duplicates else data


def read_image_folder(spec: DatasetSpec, size: int) -> Dataset:
    """Images of ``root/{train,test}/{class}/``, cut to a square in the middle and resized."""
    root = resolve(spec.root)
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise FileNotFoundError(
                f"no folder {root / part}; dataset.root must hold train/ and test/, each with one "
                f"folder a class"
            )
    found = [p.name for p in sorted((root / "train").iterdir()) if p.is_dir()]
    names = chosen_classes(spec.classes, found)
    limits = {"train": spec.limit_train, "test": spec.limit_test}
    splits = [read_split(root / part, names, limits[part], size) for part in ("train", "test")]
    return Dataset.build(root.name, *splits, names)


def chosen_classes(wanted: list[str], found: list[str]) -> list[str]:
    for name in wanted:
        if name not in found:
            raise ValueError(f"dataset.classes: {unknown_word(name, found, 'class')}")
    names = wanted or found
    if len(names) < 2:
        raise ValueError(f"dataset: {len(names)} class found; a classifier needs at least two")
    return names


def read_split(folder: Path, names: list[str], limit: int | None, size: int) -> Split:
    """Every class's files in order of name, at most ``limit`` a class; unreadable ones named."""
    images, labels, files, unreadable = [], [], [], []
    for label, name in enumerate(names):
        paths = sorted(p for p in (folder / name).glob("*") if p.suffix.lower() in SUFFIXES)
        for path in paths[:limit]:
            try:
                images.append(read_image(path, size))
            except (OSError, ValueError) as error:
                unreadable.append(f"{path}: {error}")
                continue
            labels.append(label)
            files.append(f"{name}/{path.name}")
    if unreadable:
        shown = "\n  ".join(unreadable[:10])
        raise ValueError(
            f"{len(unreadable)} images cannot be read; mend or remove them:\n  {shown}"
        )
    labels = np.array(labels, np.int64)
    for label, name in enumerate(names):
        if not (labels == label).any():
            raise ValueError(f"no image in {folder / name}; every class needs at least one")
    metadata = pd.DataFrame({"label": labels, "file": files})
    return Split(np.stack(images), labels, metadata)


def read_image(path: Path, size: int) -> np.ndarray:
    """One image as (size, size, 3) uint8."""
    with Image.open(path) as image:
        rgb = image.convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    square = rgb.crop((left, top, left + side, top + side))
    if side != size:
        square = square.resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(square)


def read_cifar10(spec: DatasetSpec, size: int) -> Dataset:
    """torchvision's CIFAR-10 under ``root`` (default ``data/``), downloaded where it is missing."""
    from torchvision.datasets import CIFAR10

    root = resolve(spec.root or "data")
    splits = []
    for part, limit in (("train", spec.limit_train), ("test", spec.limit_test)):
        try:
            raw = CIFAR10(str(root), train=part == "train", download=True)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"CIFAR-10 is neither in {root} nor could be downloaded ({error}). Put "
                f"cifar-10-batches-py there, or use kind: image_folder with its JPEGs."
            ) from error
        names = chosen_classes(spec.classes, list(raw.classes))
        splits.append(cifar_split(raw, names, limit, size))
    return Dataset.build("cifar10", *splits, names)


def cifar_split(raw, names: list[str], limit: int | None, size: int) -> Split:
    targets = np.array(raw.targets)
    rows = [np.flatnonzero(targets == raw.class_to_idx[name])[:limit] for name in names]
    index = np.concatenate(rows)
    labels = np.repeat(np.arange(len(names)), [len(r) for r in rows]).astype(np.int64)
    images = raw.data[index]
    if images.shape[1] != size:
        images = np.stack([np.asarray(Image.fromarray(i).resize((size, size))) for i in images])
    return Split(images, labels, pd.DataFrame({"label": labels, "file": index.astype(str)}))
