"""Data sets that everyone knows: CIFAR-10, Fashion-MNIST, Waterbirds and Living17.

Each is read where it lies, and says what it lacks and where that is had before anything is trained.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from mdhelpers.base.places import reachable, resolve
from mdhelpers.data.datasets import Dataset, DatasetSpec, Split
from mdhelpers.data.folders import (
    PARTS,
    Listing,
    chosen_classes,
    class_pictures,
    counted,
    listed_files,
    read_listed,
)


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
                f"CIFAR-10 is neither in {root} nor could be downloaded ({error}). {GET_CIFAR10}."
            ) from error
        names = chosen_classes(spec.classes, list(raw.classes))
        splits.append(chosen(raw.data, np.array(raw.targets), raw.class_to_idx, names, limit, spec))
    return Dataset.build("cifar10", *splits, names)


def names_of_cifar10(spec: DatasetSpec) -> list[str]:
    """Its classes.

    Raises
    ------
    FileNotFoundError
        Where it is not there and could not be downloaded.

    """
    from torchvision.datasets import CIFAR10

    root = resolve(spec.root or "data")
    if not (root / CIFAR10.base_folder).is_dir() and not reachable(CIFAR10.url):
        raise FileNotFoundError(
            f"CIFAR-10 is not in {root}, and {CIFAR10.url} cannot be reached. {GET_CIFAR10}"
        )
    return spec.classes or list(CIFAR_CLASSES)


CIFAR_CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
GET_CIFAR10 = "Put cifar-10-batches-py there, or use kind: image_folder with its JPEGs"


def count_cifar10(spec: DatasetSpec) -> tuple[int, int, int]:
    n = len(spec.classes) or 10
    return (spec.limit_train or 5000) * n, (spec.limit_test or 1000) * n, n


def chosen(
    images: np.ndarray,
    targets: np.ndarray,
    numbers: Mapping[str, int],
    names: Sequence[str],
    limit: int | None,
    spec: DatasetSpec,
) -> Split:
    """The first images of each class that was asked for, resized where they must be.

    ``numbers`` are those of all classes in ``targets`` (n,); ``images`` are (n, side, side, 3).
    """
    rows = [np.flatnonzero(targets == numbers[name])[:limit] for name in names]
    index = np.concatenate(rows)
    labels = np.repeat(np.arange(len(names)), [len(r) for r in rows]).astype(np.int64)
    images, size = images[index], spec.pixels
    if images.shape[1] != size:
        images = np.stack([np.asarray(Image.fromarray(i).resize((size, size))) for i in images])
    return Split(images, labels, pd.DataFrame({"label": labels, "file": index.astype(str)}))


FASHION = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
IDX = {"train": "train", "test": "t10k"}  # what the names of a part's files begin with
DEBIAN = "/usr/share/datasets/fashion-mnist"
GET_FASHION = (
    "Get the four files train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, "
    "t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz from "
    "https://github.com/zalandoresearch/fashion-mnist, by torchvision.datasets.FashionMNIST(root, "
    "download=True), or on Debian by apt-get install dataset-fashion-mnist"
)


def read_fashion_mnist(spec: DatasetSpec) -> Dataset:
    """Zalando's 70,000 pictures of clothes, grey as colours."""
    files, names = dict(fashion_mnist_files(spec)), chosen_classes(spec.classes, list(FASHION))
    numbers, splits = {name: i for i, name in enumerate(FASHION)}, []
    for part, limit in (("train", spec.limit_train), ("test", spec.limit_test)):
        grey, labels = (read_idx(files[f"{part} {what}"]) for what in ("images", "labels"))
        if grey.ndim != 3 or labels.shape != grey.shape[:1]:
            raise ValueError(
                f"{files[f'{part} images']} holds {grey.shape} and its labels {labels.shape}; "
                f"expected (n, 28, 28) and (n,). {GET_FASHION}"
            )
        images = np.repeat(grey[..., None], 3, axis=3)
        splits.append(chosen(images, labels, numbers, names, limit, spec))
    return Dataset.build("fashion_mnist", *splits, names)


def count_fashion_mnist(spec: DatasetSpec) -> tuple[int, int, int]:
    files, names = dict(fashion_mnist_files(spec)), chosen_classes(spec.classes, list(FASHION))
    sizes = []
    for part, limit in (("train", spec.limit_train), ("test", spec.limit_test)):
        of_class = np.bincount(read_idx(files[f"{part} labels"]), minlength=len(FASHION))
        there = of_class[[FASHION.index(name) for name in names]]
        sizes.append(int(np.minimum(there, limit or there).sum()))
    return *sizes, len(names)


def fashion_mnist_files(spec: DatasetSpec) -> list[tuple[str, Path]]:
    """The files of images and labels, which lie in one folder somewhere below the root.

    Raises
    ------
    FileNotFoundError
        Where there is no folder that holds all four.
    ValueError
        Where there are several, and no one of them has *fashion* in its name: MNIST's files are
        called the same.

    """
    roots = [resolve(spec.root)] if spec.root else [resolve("data"), Path(DEBIAN)]
    found = [files for root in roots for files in idx_folders(root)]
    named = [files for files in found if "fashion" in str(files[0][1].parent).lower()]
    if not found:
        places = " or ".join(map(str, roots))
        raise FileNotFoundError(f"Fashion-MNIST is not below {places}. {GET_FASHION}")
    if len(found) > 1 and not named:
        places = ", ".join(str(files[0][1].parent) for files in found)
        raise ValueError(
            f"dataset.root: which is Fashion-MNIST, and which MNIST, of {places}? Give the folder "
            "of the first"
        )
    return (named or found)[0]


def idx_folders(root: Path) -> Iterator[list[tuple[str, Path]]]:
    """Of each folder below the root that holds all four files, what they are and where."""
    for first in sorted({path.parent for path in root.rglob("train-images-idx3-ubyte*")}):
        files = []
        for part, begins in IDX.items():
            for what, dims in (("images", 3), ("labels", 1)):
                stem = first / f"{begins}-{what}-idx{dims}-ubyte"
                there = [p for p in (stem.with_name(f"{stem.name}.gz"), stem) if p.is_file()]
                files += [(f"{part} {what}", path) for path in there[:1]]
        if len(files) == 2 * len(IDX):
            yield files


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format, packed by gzip or not.

    Raises
    ------
    ValueError
        Where the file is cut short or something else.

    """
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            zeros, kind, n_dims = int.from_bytes(file.read(2)), *file.read(2)
            shape = [int.from_bytes(file.read(4)) for _ in range(n_dims)]
            values = np.frombuffer(file.read(), np.uint8)
        if zeros or kind != UNSIGNED_BYTES:
            raise ValueError("it does not begin as one")
        return values.reshape(shape)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is no whole IDX file of bytes ({error}). {GET_FASHION}"
        ) from error


UNSIGNED_BYTES = 8

LAND_AND_WATER = ("land", "water")
BIRDS = ("landbird", "waterbird")
SPLITS = {"train": 0, "validation": 1, "test": 2}
COLUMNS = {"img_filename": None, "y": (0, 1), "split": (0, 1, 2), "place": (0, 1)}
GET_WATERBIRDS = (
    "Get Waterbirds from https://nlp.stanford.edu/data/dro/"
    "waterbird_complete95_forest2water2.tar.gz, or by wilds.get_dataset('waterbirds', "
    "download=True) of the package wilds"
)


def waterbirds_need_root(spec: DatasetSpec) -> None:
    if not spec.root:
        raise ValueError(
            f"waterbirds needs root: the folder that holds metadata.csv. {GET_WATERBIRDS}"
        )


def read_waterbirds(spec: DatasetSpec) -> Dataset:
    """Birds on land or water, with their ``place`` and ``group`` (such as *waterbird on land*)."""
    root, table = waterbirds_table(spec)
    about = {
        root / row.img_filename: {"place": place, "group": f"{BIRDS[row.y]} on {place}"}
        for row, place in ((row, LAND_AND_WATER[row.place]) for row in table.itertuples())
    }
    return read_listed(list_waterbirds(spec), spec, about.__getitem__)


def waterbirds_files(spec: DatasetSpec) -> list[tuple[str, Path]]:
    """The pictures, their masks, and the table that says what they are."""
    root, _ = waterbirds_table(spec)
    return [("metadata.csv", root / "metadata.csv"), *listed_files(list_waterbirds(spec), spec)]


def list_waterbirds(spec: DatasetSpec) -> Listing:
    """The pictures of the official splits; ``spec.part`` says which one tests.

    A limit takes pictures of all species.

    Raises
    ------
    FileNotFoundError
        Counts the pictures that are not there, and names the first of them.

    """
    root, table = waterbirds_table(spec)
    limits = {"train": spec.limit_train, "test": spec.limit_test}
    parts = {"train": SPLITS["train"], "test": SPLITS[spec.part]}
    pictures = {
        part: {
            name: [
                root / file
                for file in evenly(table[(table.split == number) & (table.y == y)], limits[part])
            ]
            for y, name in enumerate(BIRDS)
        }
        for part, number in parts.items()
    }
    listing = Listing(root, list(BIRDS), pictures, {})
    refuse_lost(listing, "waterbirds", GET_WATERBIRDS)
    return listing


def evenly(table: pd.DataFrame, limit: int | None) -> list[str]:
    """Names of so many pictures, from the whole of a table that is sorted by species."""
    n = min(len(table), limit or len(table))
    return table.img_filename.iloc[np.arange(n) * len(table) // max(n, 1)].tolist()


def refuse_lost(listing: Listing, kind: str, where: str) -> None:
    lost = [str(path.relative_to(listing.root)) for path in listing.paths() if not path.is_file()]
    if lost:
        raise FileNotFoundError(f"{kind}: {listing.root} lacks {counted(lost)}. {where}")


def waterbirds_table(spec: DatasetSpec) -> tuple[Path, pd.DataFrame]:
    """The folder of metadata.csv, which may lie one below the root, and what it says.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    ValueError
        Names a column that it lacks, or a value that it should not have.

    """
    root = resolve(spec.root)
    places = (root / "metadata.csv", *sorted(root.glob("*/metadata.csv")))
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"waterbirds: no metadata.csv in {root}. {GET_WATERBIRDS}")
    table = pd.read_csv(path)
    for name, values in COLUMNS.items():
        if name not in table:
            raise ValueError(f"waterbirds: {path} has no column {name}. {GET_WATERBIRDS}")
        others = table[name][~table[name].isin(values)] if values else []
        if len(others):
            raise ValueError(f"waterbirds: {path}: {name} is {others.iloc[0]}, not of {values}")
    return path.parent, table


# Superclasses of BREEDS' Living17, each with its source and its target half: what
# make_living17(split="rand") gives, with the WordNet ids by which ImageNet's folders are named
# (Santurkar, Tsipras and Madry, 2021).
LIVING17 = {
    "salamander": (
        "n01631663 eft, n01632777 axolotl",
        "n01630670 common newt, n01632458 spotted salamander",
    ),
    "turtle": (
        "n01669191 box turtle, n01665541 leatherback turtle",
        "n01664065 loggerhead, n01667114 mud turtle",
    ),
    "lizard": (
        "n01685808 whiptail, n01689811 alligator lizard",
        "n01694178 African chameleon, n01675722 banded gecko",
    ),
    "snake": (
        "n01740131 night snake, n01735189 garter snake",
        "n01751748 sea snake, n01742172 boa constrictor",
    ),
    "spider": (
        "n01774750 tarantula, n01773157 black and gold garden spider",
        "n01773797 garden spider, n01775062 wolf spider",
    ),
    "grouse": (
        "n01796340 ptarmigan, n01798484 prairie chicken",
        "n01797886 ruffed grouse, n01795545 black grouse",
    ),
    "parrot": (
        "n01818515 macaw, n01820546 lorikeet",
        "n01817953 African grey, n01819313 sulphur-crested cockatoo",
    ),
    "crab": (
        "n01978287 Dungeness crab, n01980166 fiddler crab",
        "n01978455 rock crab, n01981276 king crab",
    ),
    "dog": (
        "n02088466 bloodhound, n02086079 Pekinese",
        "n02111500 Great Pyrenees, n02086910 papillon",
    ),
    "wolf": (
        "n02114855 coyote, n02114712 red wolf",
        "n02114548 white wolf, n02114367 timber wolf",
    ),
    "fox": (
        "n02120505 grey fox, n02120079 Arctic fox",
        "n02119022 red fox, n02119789 kit fox",
    ),
    "domestic cat": (
        "n02123159 tiger cat, n02124075 Egyptian cat",
        "n02123394 Persian cat, n02123597 Siamese cat",
    ),
    "bear": (
        "n02134418 sloth bear, n02133161 American black bear",
        "n02134084 ice bear, n02132136 brown bear",
    ),
    "beetle": (
        "n02172182 dung beetle, n02174001 rhinoceros beetle",
        "n02167151 ground beetle, n02168699 long-horned beetle",
    ),
    "butterfly": (
        "n02281406 sulphur butterfly, n02276258 admiral",
        "n02280649 cabbage butterfly, n02277742 ringlet",
    ),
    "ape": (
        "n02483362 gibbon, n02480495 orangutan",
        "n02480855 gorilla, n02481823 chimpanzee",
    ),
    "monkey": (
        "n02490219 marmoset, n02493509 titi",
        "n02493793 spider monkey, n02492660 howler monkey",
    ),
}
GET_LIVING17 = (
    "Living17 is 68 classes of ImageNet (ILSVRC 2012): get it from https://image-net.org, with "
    "train/ and val/ each in folders by WordNet id, as torchvision.datasets.ImageNet leaves them"
)


def living17_needs_root(spec: DatasetSpec) -> None:
    if not spec.root:
        raise ValueError(
            f"living17 needs root: the folder of ImageNet's train/ and val/. {GET_LIVING17}"
        )


def subpopulations(name: str, split: str) -> dict[str, str]:
    """Of a superclass, the WordNet ids and names of what it is made of, or of one half of it."""
    halves = {"source": LIVING17[name][:1], "target": LIVING17[name][1:]}.get(split, LIVING17[name])
    return dict(each.split(" ", 1) for half in halves for each in half.split(", "))


def read_living17(spec: DatasetSpec) -> Dataset:
    """Animals of 17 kinds, with the ``subpopulation`` that each is of (such as *axolotl*)."""
    listing = list_living17(spec)
    called = dict(chain.from_iterable(subpopulations(n, "").items() for n in listing.names))
    return read_listed(listing, spec, lambda path: {"subpopulation": called[path.parent.name]})


def list_living17(spec: DatasetSpec) -> Listing:
    """The pictures of ImageNet's folders; ImageNet's validation pictures test.

    A limit takes as many of each subpopulation.

    Raises
    ------
    FileNotFoundError
        Counts the folders that are not there, and names the first of them.

    """
    root, left_out = resolve(spec.root), defaultdict(list)
    names = chosen_classes(spec.classes, list(LIVING17))
    folders = {
        part: {
            name: [root / place / wnid for wnid in subpopulations(name, spec.split)]
            for name in names
        }
        for part, place in zip(PARTS, ("train", "val"), strict=True)
    }
    wanted = [f for part in PARTS for found in folders[part].values() for f in found]
    lost = [f.relative_to(root).as_posix() for f in wanted if not f.is_dir()]
    if lost:
        raise FileNotFoundError(
            f"living17: {root} lacks {counted(lost)} of {len(wanted)} folders. {GET_LIVING17}"
        )
    limits = {"train": spec.limit_train, "test": spec.limit_test}
    pictures = {
        part: {
            name: in_turn([class_pictures(root, f, left_out) for f in found], limits[part])
            for name, found in folders[part].items()
        }
        for part in PARTS
    }
    return Listing(root, names, pictures, dict(left_out))


def in_turn(lists: Sequence[list[Path]], limit: int | None) -> list[Path]:
    """The first of each list, then the second of each, up to the limit; sorted by list again."""
    rows = chain.from_iterable(zip_longest(*(enumerate(each) for each in lists)))
    taken = {path for _, path in list(filter(None, rows))[:limit]}
    return [path for each in lists for path in each if path in taken]
