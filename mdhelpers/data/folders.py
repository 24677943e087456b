"""Pictures in folders, one per class: what lies there, what is read of it, and what is left out."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.base.places import resolve
from mdhelpers.base.specs import unknown_word
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

PARTS = ("train", "test")
NOT_OURS = {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin",
    "lost+found", "system volume information",
}  # fmt: skip
HIDDEN, INSIDE = "hidden files", "folders inside classes"
BESIDE = "beside the folders of the classes"
N_SHOWN = 10  # names of a kind in one message


@dataclass(frozen=True)
class Listing:
    """What a folder of pictures holds, before any of them is opened.

    Attributes
    ----------
    root
        The folder that names of files are relative to.
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

    def of(self, part: str) -> list[Path]:
        """The files of one part, in the order of its images."""
        return [path for found in self.pictures[part].values() for path in found]

    def paths(self) -> list[Path]:
        """All files that are read."""
        return [path for part in PARTS for path in self.of(part)]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Training images, test images and classes."""
        return self.count("train"), self.count("test"), len(self.names)


def needs_root(spec: DatasetSpec) -> None:
    if not spec.root:
        raise ValueError("an image_folder needs root: the folder that holds train/ and test/")


def listed_files(listing: Listing, spec: DatasetSpec) -> list[tuple[str, Path]]:
    """The files that are read, as (name relative to the root, path), sorted."""
    root = listing.root
    found = [(path.relative_to(root).as_posix(), path) for path in listing.paths()]
    masks = mask_files(listing, spec.masks)
    return sorted(found + [(f"masks of {path.relative_to(root)}", mask) for path, mask in masks])


def about_listing(listing: Listing) -> list[str]:
    """What a folder holds, and what of it is left out."""
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
    folders_in = [path for path, is_folder in entries(root) if is_folder and not is_hidden(path)]
    beside = [path for path in folders_in if path.name not in PARTS]
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
    for path, is_folder in entries(root / part):
        if is_hidden(path):
            left_out[HIDDEN].append(relative(path, root))
        elif not is_folder:
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
    for path, is_folder in entries(folder):
        if is_hidden(path):
            others[HIDDEN].append(path)
        elif is_folder:
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


def entries(folder: Path) -> list[tuple[Path, bool]]:
    """What lies in a folder, in order of name, and whether each is a folder itself."""
    with os.scandir(folder) as found:  # which knows it of 50,000 pictures without a look at each
        return sorted(((Path(e.path), e.is_dir()) for e in found), key=lambda each: each[0].name)


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


def read_listed(
    listing: Listing, spec: DatasetSpec, about: Callable[[Path], dict[str, Any]] | None = None
) -> Dataset:
    """The pictures of a listing as `pictures.read_picture` reads them, with their masks.

    ``about`` gives what is known of a picture beside its class, for its row of the metadata.
    """
    read = read_all(listing.paths(), spec.read_at)
    tell(listing, read)
    splits = [split_of(listing.pictures[part], read) for part in PARTS]
    if about:
        known = [pd.DataFrame([about(path) for path in listing.of(part)]) for part in PARTS]
        splits = [
            replace(split, metadata=pd.concat([split.metadata, each], axis=1))
            for split, each in zip(splits, known, strict=True)
        ]
    if spec.masks:
        found = dict(mask_files(listing, spec.masks))
        masks = read_all(found.values(), spec.read_at)
        inside = {path: masks[mask].pixels.mean(2) > 127 for path, mask in found.items()}
        splits = [
            replace(split, foreground=np.stack([inside[path] for path in listing.of(part)]))
            for part, split in zip(PARTS, splits, strict=True)
        ]
    return Dataset.build(listing.root.name, *splits, listing.names)


def mask_files(listing: Listing, masks: str) -> list[tuple[Path, Path]]:
    """Each picture and the one that shows, in white on black, where its object is.

    They lie under ``masks`` as the pictures do under the listing's root, by the same names;
    suffixes may differ. Where ``masks`` is empty there are none.

    Raises
    ------
    FileNotFoundError
        Counts the pictures without a mask, and names the first of them.
    """
    if not masks:
        return []
    folder, found, lost = resolve(masks), [], []
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
