"""Small folders in the layouts of published data sets, of pictures that can be told apart."""

import gzip

import numpy as np
import pandas as pd
from PIL import Image

from mdhelpers.data.published import LIVING17, subpopulations

LAND, WATER = (90, 140, 60), (60, 110, 180)


def save(path, rng, ground, bird, size=(40, 30)):
    """A square of one colour on noise of another."""
    pixels = rng.normal(ground, 25, (size[1], size[0], 3))
    top, left = rng.integers(4, 14, 2)
    pixels[top : top + 12, left : left + 12] = rng.normal(bird, 15, (12, 12, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


def make_waterbirds(root, n_train=40, n_validation=16, n_test=32, seed=0):
    """The release's layout: metadata.csv and folders by species; places as classes, mostly."""
    rng, rows = np.random.default_rng(seed), []
    sizes = (n_train, n_validation, n_test)
    for split, n in enumerate(sizes):
        for i in range(n):
            y = i % 2
            place = y if (i % 8 > 1 if split == 0 else i % 4 > 1) else 1 - y
            name = f"{i % 2:03d}.Species_{y}/Bird_{split}_{i:04d}.jpg"
            save(root / name, rng, (LAND, WATER)[place], ((200, 180, 40), (220, 220, 220))[y])
            rows.append((len(rows), name, y, split, place, f"/f/{place}.jpg"))
    columns = ["img_id", "img_filename", "y", "split", "place", "place_filename"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "metadata.csv", index=False)
    return root


def make_living17(root, n_train=4, n_test=2, names=tuple(LIVING17), seed=0):
    """ImageNet's layout: so many pictures in each of the folders of ``names``."""
    rng = np.random.default_rng(seed)
    for name in names:
        bird = rng.integers(0, 255, 3)
        for wnid in subpopulations(name, ""):
            ground = rng.integers(0, 255, 3)
            for place, n in (("train", n_train), ("val", n_test)):
                for i in range(n):
                    save(root / place / wnid / f"{wnid}_{i}.JPEG", rng, ground, bird)
    return root


def write_idx(path, values):
    head = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4) for n in values.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
        file.write(head + values.astype(np.uint8).tobytes())


def make_fashion_mnist(folder, suffix=".gz", n_train=60, n_test=30, seed=0):
    """Four IDX files; gives images and labels as they were written."""
    rng, made = np.random.default_rng(seed), {}
    for begins, n in (("train", n_train), ("t10k", n_test)):
        labels = rng.permutation(np.arange(n) % 10).astype(np.uint8)
        images = rng.integers(0, 256, (n, 28, 28), dtype=np.uint8)
        write_idx(folder / f"{begins}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{begins}-labels-idx1-ubyte{suffix}", labels)
        made[begins] = images, labels
    return made
