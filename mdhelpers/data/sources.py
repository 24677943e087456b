"""Where images come from: a registry of the kinds of data that a study may name (`SOURCES`).

Generated scenes are in `scenes`. Here are real images, anyone's ``{train,test}/{class}/*`` folder
and torchvision's CIFAR-10; and train-test leakage with known truth, which can be planted into any
of them: training images that are near-copies of test images.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mdhelpers.base.places import resolve
from mdhelpers.base.records import content_digest, digest
from mdhelpers.base.specs import code_digest, is_own, unknown_word
from mdhelpers.data.datasets import Dataset, DatasetSpec, Split
from mdhelpers.data.pictures import (
    METADATA,
    SEVERAL,
    SUFFIXES,
    Picture,
    Range,
    printable,
    read_picture,
)
from mdhelpers.data.scenes import CLASS_NAMES, check_features, make_scenes
from mdhelpers.data.spikes import spike_in
from mdhelpers.data.transforms import contents_of

PARTS = ("train", "test")
NOT_OURS = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin",
    "lost+found", "system volume information",
}  # fmt: skip
HIDDEN, INSIDE = "hidden files", "folders inside classes"
BESIDE = "beside the folders of the classes"
N_SHOWN = 10  # names of a kind in one message


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
    return plant_duplicates(data, spec.duplicates, seed=spec.seed) if spec.duplicates else data


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


@dataclass(frozen=True)
class Listing:
    """What a folder of pictures holds, before any of them is opened.

    Attributes
    ----------
    root
        The folder of ``train`` and ``test``.
    names
        The classes, in the order of their labels, in Unicode's composed form (NFC).
    pictures
        Of each part and class, the files that are read, in order of name.
    left_out
        Of each reason, the names of what is not read, relative to ``root``.

    """

    root: Path
    names: list[str]
    pictures: dict[str, dict[str, list[Path]]]
    left_out: dict[str, list[str]]

    def count(self, part: str) -> int:
        """Pictures that are read of one part."""
        return sum(map(len, self.pictures[part].values()))

    def paths(self) -> list[Path]:
        """All files that are read."""
        return [p for part in PARTS for found in self.pictures[part].values() for p in found]


def needs_root(spec: DatasetSpec) -> None:
    if not spec.root:
        raise ValueError("an image_folder needs root: the folder that holds train/ and test/")


def picture_files(spec: DatasetSpec) -> list[tuple[str, Path]]:
    """The files that are read, as (name relative to the root, path), sorted."""
    listing = list_pictures(spec)
    found = [(path.relative_to(listing.root).as_posix(), path) for path in listing.paths()]
    found += [(f"masks of {path.relative_to(listing.root)}", m) for path, m in mask_files(spec)]
    return sorted(found)


def count_pictures(spec: DatasetSpec) -> tuple[int, int, int]:
    listing = list_pictures(spec)
    return listing.count("train"), listing.count("test"), len(listing.names)


def about_pictures(spec: DatasetSpec) -> list[str]:
    """What a folder holds, and what of it is left out."""
    listing = list_pictures(spec)
    names = ", ".join(listing.names[:N_SHOWN]) + (", …" if len(listing.names) > N_SHOWN else "")
    return [
        f"{listing.root}: {listing.count('train')} training and {listing.count('test')} test "
        f"pictures of {len(listing.names)} classes ({names})",
        *(f"  {line}" for line in notes(listing, {})),
    ]


def list_pictures(spec: DatasetSpec) -> Listing:
    """List the pictures of ``root/{train,test}/{class}/`` and what lies beside them.

    Raises
    ------
    FileNotFoundError
        When a folder is missing.
    ValueError
        For classes that only one part has, an empty class, and names that cannot be kept.

    """
    root = resolve(spec.root)
    left_out = defaultdict(list)
    folders = {part: class_folders(root, part, left_out) for part in PARTS}
    beside = [p for p in entries(root) if p.is_dir() and p.name not in PARTS and not is_hidden(p)]
    if beside:
        left_out["folders beside train/ and test/"] = [relative(path, root) for path in beside]
    names = classes_of_both(spec, folders)
    limits = {"train": spec.limit_train, "test": spec.limit_test}
    pictures = {
        part: {
            name: class_pictures(root, folders[part][name], left_out)[: limits[part]]
            for name in names
        }
        for part in PARTS
    }
    return Listing(root, names, pictures, dict(left_out))


def class_folders(root: Path, part: str, left_out: dict[str, list[str]]) -> dict[str, Path]:
    """The folder of each class of one part, by the class's name in composed form."""
    if not (root / part).is_dir():
        raise FileNotFoundError(
            f"no folder {root / part}; check dataset.root: it must hold train/ and test/, each "
            f"with one folder a class"
        )
    found: dict[str, Path] = {}
    for path in entries(root / part):
        if is_hidden(path):
            left_out[HIDDEN].append(relative(path, root))
        elif not path.is_dir():
            left_out[BESIDE].append(relative(path, root))
        else:
            refuse_odd_name(path, root)
            name = composed(path.name)
            if name in found:
                raise ValueError(
                    f"two folders of {root / part} are both named {name!r}: they differ in their "
                    f"Unicode form alone, and names are compared in the composed form (NFC). "
                    f"Put their pictures into one"
                )
            found[name] = path
    return found


def classes_of_both(spec: DatasetSpec, folders: Mapping[str, Mapping[str, Path]]) -> list[str]:
    """The classes, where each is in train and in test; a value that works where one is not."""
    everywhere = [name for name in folders["train"] if name in folders["test"]]
    wanted = [composed(name) for name in spec.classes]
    faults = []
    for part, other in (PARTS, PARTS[::-1]):
        lone = [n for n in folders[part] if n not in folders[other] and n in (wanted or [n])]
        faults += [f"class {n!r} is in {part}/ but not in {other}/" for n in lone[:N_SHOWN]]
    if faults:
        works = [n for n in everywhere if n in (wanted or everywhere)]
        key = f", or leave it out: dataset.classes: {json.dumps(works, ensure_ascii=False)}"
        raise ValueError(
            f"{'; '.join(faults)}. Name both folders alike and fill both"
            f"{key if len(works) >= 2 else ''}"
        )
    return chosen_classes(wanted, everywhere)


def chosen_classes(wanted: list[str], found: list[str]) -> list[str]:
    """The classes that were asked for, else all that were found.

    Raises
    ------
    ValueError
        For an unknown class, a class named twice, and fewer than two classes.

    """
    for name in wanted:
        if name not in found:
            raise ValueError(f"dataset.classes: {unknown_word(name, found, 'class')}")
    names = wanted or found
    if len(names) < 2:
        raise ValueError(f"dataset: {len(names)} class found; a classifier needs at least two")
    return names


def class_pictures(root: Path, folder: Path, left_out: dict[str, list[str]]) -> list[Path]:
    """The pictures of one class in order of name; the rest goes to ``left_out`` with its reason."""
    pictures, others = [], defaultdict(list)
    for path in entries(folder):
        if is_hidden(path):
            others[HIDDEN].append(path)
        elif path.is_dir():
            others[INSIDE].append(path)
        elif path.suffix.lower() in SUFFIXES:
            refuse_odd_name(path, root)
            pictures.append(path)
        else:
            others[f"files with {path.suffix.lower() or 'no suffix'}"].append(path)
    if not pictures:
        what = ", ".join(f"{len(paths)} {reason}" for reason, paths in others.items())
        raise ValueError(
            f"no image in {printable(folder)} ({what or 'it is empty'}); every class needs at "
            f"least one, of {', '.join(sorted(SUFFIXES))}"
        )
    for reason, paths in others.items():
        left_out[reason] += [relative(path, root) for path in paths]
    return pictures


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir(), key=lambda path: path.name)


def is_hidden(path: Path) -> bool:
    """What systems and programs leave behind, and nobody means as data."""
    return path.name.startswith(".") or path.name.lower() in NOT_OURS


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def relative(path: Path, root: Path) -> str:
    return printable(path.relative_to(root).as_posix())


def refuse_odd_name(path: Path, root: Path) -> None:
    """Refuse names that are no text: nothing could record them."""
    try:
        path.name.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the name of {relative(path, root)} in {printable(root)} is not UTF-8; rename it "
            f"(convmv does so for a whole folder)"
        ) from None


def read_image_folder(spec: DatasetSpec) -> Dataset:
    """Images of ``root/{train,test}/{class}/`` as `pictures.read_picture` reads them."""
    listing = list_pictures(spec)
    read = read_all(listing.paths(), spec.pixels)
    tell(listing, read)
    splits = [split_of(listing.pictures[part], read) for part in PARTS]
    if spec.masks:
        masks = read_all((mask for _, mask in mask_files(spec)), spec.pixels)
        inside = {path: masks[mask].pixels.mean(2) > 127 for path, mask in mask_files(spec)}
        splits = [
            replace(split, foreground=np.stack([inside[p] for p in pictures_of(listing, part)]))
            for part, split in zip(PARTS, splits, strict=True)
        ]
    return Dataset.build(listing.root.name, *splits, listing.names)


def pictures_of(listing: Listing, part: str) -> list[Path]:
    """The files of one part, in the order of its images."""
    return [path for found in listing.pictures[part].values() for path in found]


def mask_files(spec: DatasetSpec) -> list[tuple[Path, Path]]:
    """Each picture and the one that shows, in white on black, where its object is.

    Masks lie under ``dataset.masks`` as the pictures do under ``dataset.root``, by the same names;
    suffixes may differ.

    Raises
    ------
    FileNotFoundError
        Counts the pictures without a mask, and names the first of them.
    """
    if not spec.masks:
        return []
    listing, folder = list_pictures(spec), resolve(spec.masks)
    found, lost = [], []
    for path in listing.paths():
        stem = folder / path.relative_to(listing.root)
        there = [stem.with_suffix(s) for s in sorted(SUFFIXES) if stem.with_suffix(s).is_file()]
        found += [(path, there[0])] if there else []
        lost += [] if there else [relative(path, listing.root)]
    if lost:
        raise FileNotFoundError(
            f"dataset.masks: {folder} has no mask for {counted(lost)}. It must hold one for each "
            "picture, by the same name, such as train/dog/0001.png for train/dog/0001.jpg"
        )
    return found


def read_all(paths: Iterable[Path], size: int) -> dict[Path, Picture]:
    """Every picture; deep ones by the range of all that are equally deep.

    Raises
    ------
    ValueError
        Counts the files that cannot be read, and names the first of them.

    """
    read, unreadable = {}, []
    for path in paths:
        try:
            read[path] = read_picture(path, size)
        except ValueError as error:
            unreadable.append(str(error))
    if unreadable:
        shown = "\n  ".join(unreadable[:N_SHOWN])
        raise ValueError(
            f"{len(unreadable)} images cannot be read; mend or remove them:\n  {shown}"
        )
    ranges = common_ranges(read.values())
    for path, picture in read.items():
        if picture.depth and picture.range != ranges[picture.depth]:
            read[path] = read_picture(path, size, ranges)
    return read


def common_ranges(pictures: Iterable[Picture]) -> dict[str, Range]:
    """Of each depth, the values that are black and white in all of its pictures."""
    found = defaultdict(list)
    for picture in pictures:
        if picture.depth:
            found[picture.depth].append(picture.range)
    return {
        depth: (min(low for low, _ in ranges), max(high for _, high in ranges))
        for depth, ranges in found.items()
    }


def split_of(pictures: Mapping[str, list[Path]], read: Mapping[Path, Picture]) -> Split:
    """One part, class by class; ``file`` is the class's name and the file's."""
    rows = [
        (label, f"{name}/{path.name}", read[path].pixels)
        for label, (name, paths) in enumerate(pictures.items())
        for path in paths
    ]
    labels, files, images = zip(*rows, strict=True)
    labels = np.array(labels, np.int64)
    return Split(np.stack(images), labels, pd.DataFrame({"label": labels, "file": list(files)}))


def tell(listing: Listing, read: Mapping[Path, Picture]) -> None:
    """Print once what was left out, and what was read in a way that one may want to know."""
    lines = notes(listing, read)
    if lines:
        text = "\n  ".join([f"{listing.root.name}: {len(read)} pictures read", *lines])
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))


def notes(listing: Listing, read: Mapping[Path, Picture]) -> list[str]:
    """The lines of the note; none where there is nothing to say."""
    lines = [
        f"left out, {reason}: {counted(names) if reason != HIDDEN else len(names)}"
        for reason, names in listing.left_out.items()
    ]
    told = {SEVERAL: "the first picture of a file of several", METADATA: "with faulty metadata"}
    for remark, words in told.items():
        names = [relative(p, listing.root) for p, one in read.items() if remark in one.remarks]
        lines += [f"read, {words}: {counted(names)}"] if names else []
    depths = Counter(one.depth for one in read.values() if one.depth)
    for depth, (low, high) in common_ranges(read.values()).items():
        lines.append(f"read, grey of {depth}: {depths[depth]}, {low:g} as black, {high:g} as white")
    return lines


def counted(names: list[str]) -> str:
    """How many, and the first names."""
    more = ", …" if len(names) > N_SHOWN else ""
    return f"{len(names)} ({', '.join(names[:N_SHOWN])}{more})"


def read_cifar10(spec: DatasetSpec) -> Dataset:
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
        splits.append(cifar_split(raw, names, limit, spec.pixels))
    return Dataset.build("cifar10", *splits, names)


def count_cifar10(spec: DatasetSpec) -> tuple[int, int, int]:
    n = len(spec.classes) or 10
    return (spec.limit_train or 5000) * n, (spec.limit_test or 1000) * n, n


def cifar_split(raw, names: list[str], limit: int | None, size: int) -> Split:
    targets = np.array(raw.targets)
    rows = [np.flatnonzero(targets == raw.class_to_idx[name])[:limit] for name in names]
    index = np.concatenate(rows)
    labels = np.repeat(np.arange(len(names)), [len(r) for r in rows]).astype(np.int64)
    images = raw.data[index]
    if images.shape[1] != size:
        images = np.stack([np.asarray(Image.fromarray(i).resize((size, size))) for i in images])
    return Split(images, labels, pd.DataFrame({"label": labels, "file": index.astype(str)}))


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


OF_PHOTOGRAPHS = ("root", "classes", "limit_train", "limit_test")
SOURCES = {
    "scenes": Source(
        read_scenes,
        lambda spec: (spec.n_train, spec.n_test, len(CLASS_NAMES)),
        keys=("n_train", "n_test", "share", "planted", "distractors"),
        size=24,
        check=lambda spec: check_features(spec.planted, spec.distractors),
    ),
    "image_folder": Source(
        read_image_folder,
        count_pictures,
        keys=(*OF_PHOTOGRAPHS, "masks"),
        files=picture_files,
        names=lambda spec: list_pictures(spec).names,
        check=needs_root,
        about=about_pictures,
    ),
    "cifar10": Source(read_cifar10, count_cifar10, keys=OF_PHOTOGRAPHS),
}
