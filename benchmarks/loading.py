"""Images a second, as augmented batches of random halves of the data: memory, FFCV, DataLoader.

Every way runs in a process of its own with one torch thread: what is asked of it is a batch of
(b, 3, height, width) float32, flipped and shifted at 32 px, flipped and cut out at 224 px. FFCV
reads in a thread beside it, the DataLoader in one process per core.

    python benchmarks/loading.py --quick --out loading.json
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import multiprocessing
import os
import pickle
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import transforms

from mdhelpers.base.places import cores, in_words, machine
from mdhelpers.data.datasets import Split
from mdhelpers.training.algorithms import AugmentationSpec
from mdhelpers.training.augmentation import Augmenter
from mdhelpers.training.loading import FFCVSource, MemorySource, ffcv_problem, write_beton

WIDTHS = (10, 14, 13, 10, 10)
QUALITY = 90  # ffcv's default


@dataclass(frozen=True)
class Setting:
    """One size of image: how many, in which batches, and what is done to them."""

    size: int
    n: int
    batch: int
    augmentation: AugmentationSpec

    def transform(self):
        """The same augmentation as most people would write it."""
        spec, steps = self.augmentation, [transforms.RandomHorizontalFlip()]
        if spec.shift:
            steps.append(transforms.RandomCrop(self.size, spec.shift, padding_mode="edge"))
        if spec.crop:
            steps.append(transforms.RandomResizedCrop(self.size, (spec.crop, 1)))
        return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])


def settings(quick: bool) -> list[Setting]:
    times = 1 if quick else 5
    return [
        Setting(32, 20_000 * times, 320, AugmentationSpec(shift=4, flip=True)),
        Setting(224, 800 * times, 64, AugmentationSpec(crop=0.35, flip=True)),
    ]


def write_files(setting: Setting, folder: Path) -> None:
    """Smooth noise, which JPEG compresses like photographs, in each way's own form."""
    rng = np.random.default_rng(0)
    images = np.empty((setting.n, setting.size, setting.size, 3), np.uint8)
    for rows in np.array_split(np.arange(setting.n), -(-setting.n // 100)):
        coarse = torch.from_numpy(rng.normal(128, 60, (len(rows), 3, 14, 14)).astype(np.float32))
        fine = F.interpolate(coarse, setting.size, mode="bicubic").permute(0, 2, 3, 1).numpy()
        images[rows] = (fine + rng.normal(0, 4, fine.shape)).clip(0, 255)
    np.save(folder / "images.npy", images)
    encoded = []
    for image in images:
        Image.fromarray(image).save(buffer := io.BytesIO(), "JPEG", quality=QUALITY)
        encoded.append(buffer.getvalue())
    (folder / "jpeg.pickle").write_bytes(pickle.dumps(encoded))
    if not ffcv_problem():
        split = Split(images, np.zeros(setting.n, np.int64), pd.DataFrame(index=range(setting.n)))
        for mode in ("raw", "jpg"):
            write_beton(split, folder / f"{mode}.beton", write_mode=mode)


class Pictures(Dataset):
    """Arrays or JPEG files, all in memory."""

    def __init__(self, stored, transform):
        self.stored, self.transform = stored, transform

    def __len__(self):
        return len(self.stored)

    def __getitem__(self, index):
        stored = self.stored[index]
        packed = isinstance(stored, bytes)
        image = Image.open(io.BytesIO(stored)) if packed else Image.fromarray(stored)
        return self.transform(image)


class OwnBatches:
    """A source of mdhelpers and its augmentation."""

    def __init__(self, setting: Setting, source):
        self.setting, self.source, self.rng = setting, source, np.random.default_rng(1)
        like = torch.empty(1, *source.size, 3, dtype=torch.uint8)
        self.augmenter = Augmenter(like, setting.augmentation)

    def epoch(self, index: np.ndarray):
        draws = self.augmenter.draw(len(index), self.rng)
        draws = {key: torch.from_numpy(value) for key, value in draws.items()}
        bounds = [*range(0, len(index), self.setting.batch), len(index)]
        batches = self.source.epoch(torch.from_numpy(index), bounds)
        for images, (a, b) in zip(batches, itertools.pairwise(bounds), strict=True):
            yield self.augmenter.stacked(images, {key: value[a:b] for key, value in draws.items()})


class UsualBatches:
    """A DataLoader as most people would write it."""

    def __init__(self, setting: Setting, stored):
        self.setting, self.pictures = setting, Pictures(stored, setting.transform())

    def epoch(self, index: np.ndarray):
        subset = Subset(self.pictures, index.tolist())
        return DataLoader(subset, self.setting.batch, shuffle=True, num_workers=cores())


WAYS = {
    "memory": lambda s, folder: OwnBatches(
        s, MemorySource(torch.from_numpy(np.load(folder / "images.npy")))
    ),
    "FFCV, raw": lambda s, folder: OwnBatches(s, FFCVSource(folder / "raw.beton")),
    "FFCV, JPEG": lambda s, folder: OwnBatches(s, FFCVSource(folder / "jpg.beton")),
    "DataLoader, raw": lambda s, folder: UsualBatches(s, np.load(folder / "images.npy")),
    "DataLoader, JPEG": lambda s, folder: UsualBatches(
        s, pickle.loads((folder / "jpeg.pickle").read_bytes())
    ),
}


def own_memory() -> int:
    """Bytes that this process and its children alone hold; 0 where the system does not tell."""
    total, own = 0, f"/proc/{multiprocessing.current_process().pid}"
    children = Path(f"{own}/task/{Path(own).name}/children")
    if not children.exists():
        return 0
    for process in [Path(own).name, *children.read_text().split()]:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += sum(1024 * int(x.split()[1]) for x in lines if x.startswith("Private_Dirty"))
    return total


def measure(setting: Setting, way: str, folder: Path, epochs: int, answer) -> None:
    """Time of each epoch, the first with all that comes before it, and the memory taken."""
    rng, seconds, busy, before = np.random.default_rng(0), [], [], own_memory()
    start, started = time.perf_counter(), sum(os.times()[:4])
    batches = WAYS[way](setting, folder)
    for _ in range(epochs):
        index = rng.permutation(setting.n)[: setting.n // 2]
        seen = 0
        for images in batches.epoch(index):
            seen += len(images)
            if seen == len(images):
                memory = own_memory() - before
        assert seen == len(index)
        seconds.append(time.perf_counter() - start)
        busy.append(sum(os.times()[:4]) - started)
        start, started = time.perf_counter(), sum(os.times()[:4])
    answer.send((seconds, busy, memory))


def row(setting: Setting, way: str, folder: Path, epochs: int) -> dict:
    # forked, because importing torch and ffcv anew would take most of the time
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(setting, way, folder, epochs, sender))
    process.start()
    sender.close()  # so that a process that dies ends the wait
    seconds, busy, memory = receiver.recv()
    process.join()
    return {
        "way": way,
        "size": setting.size,
        "images": setting.n // 2,
        "images a second": setting.n // 2 / float(np.median(seconds[1:])),
        "images a CPU-second": setting.n // 2 / float(np.mean(busy[1:])),
        "first epoch, seconds": seconds[0],
        "later epochs, seconds": float(np.median(seconds[1:])),
        "memory, bytes": memory,
    }


def line(r: dict) -> str:
    cells = (
        f"{r['images a second']:.0f}",
        f"{r['images a CPU-second']:.0f}",
        f"{r['first epoch, seconds']:.1f} s",
        f"{r['later epochs, seconds']:.2f} s",
        in_words(r["memory, bytes"]),
    )
    padded = (f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True))
    return f"{r['size']:3} {r['way']:17}" + "".join(padded)


def bars(rows: list[dict]) -> list[dict]:
    # by CPU time: other work on the machine then hardly changes the ratios
    rate = {(r["size"], r["way"]): r["images a CPU-second"] for r in rows}
    wanted = [
        (32, "memory", "DataLoader, raw", 5.0),
        (224, "memory", "DataLoader, raw", 1.5),
        (224, "FFCV, raw", "DataLoader, raw", 1.5),
        (224, "FFCV, JPEG", "DataLoader, JPEG", 1.5),
    ]
    found = []
    for size, fast, slow, aim in wanted:
        if (size, fast) in rate:
            value = rate[size, fast] / rate[size, slow]
            what = f"images a CPU-second at {size} px, {fast} over {slow}"
            found.append({"what": what, "value": value, "aim": aim, "met": value >= aim})
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer images, under five minutes")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ways = [way for way in WAYS if not (way.startswith("FFCV") and ffcv_problem())]
    print(f"{cores()} cores, torch {torch.__version__}; images of random halves of the data")
    titles = zip(
        ("a second", "a CPU-second", "first epoch", "later", "memory"), WIDTHS, strict=True
    )
    print(" " * 21 + "".join(f"{title:>{width}}" for title, width in titles))
    rows = []
    for setting in settings(options.quick):
        with tempfile.TemporaryDirectory() as folder:
            write_files(setting, Path(folder))
            for way in ways:
                rows.append(r := row(setting, way, Path(folder), 4 if options.quick else 6))
                print(line(r), flush=True)
    for bar in (found := bars(rows)):
        print(f"{bar['what']}: {bar['value']:.1f}× (aim {bar['aim']:g}×)")
    if options.out:
        result = {"machine": machine(), "rows": rows, "bars": found}
        options.out.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
