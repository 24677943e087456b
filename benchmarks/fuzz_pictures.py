"""Damaged pictures: is each one read, or refused by name?

Sound pictures of every format and kind that Pillow writes here are damaged at random: bits
flipped, ends cut off, heads overwritten, pieces moved, doubled or spliced in from another picture,
and chunks of PNG changed with their check sums made right again. Each lies in a class of a folder
of pictures, which is then loaded. Either its pixels come, or a ValueError that names the file; no
other error, no waiting, no crash. Reading is done by other processes, which a time limit ends.

    python benchmarks/fuzz_pictures.py --quick --out fuzz_pictures.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import multiprocessing
import os
import random
import shutil
import tempfile
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from mdhelpers.base.places import machine
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.sources import load_dataset

MODES = {
    "png": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "several"),
    "jpg": ("L", "RGB", "CMYK", "turned"),
    "gif": ("L", "P", "RGB", "several"),
    "bmp": ("1", "L", "P", "RGB", "RGBA"),
    "webp": ("RGB", "RGBA", "lossless", "several"),
    "tiff": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F", "lzw", "jpeg",
             "several"),
}  # fmt: skip
PILLOW_NAMES = {"jpg": "jpeg"}
OUTCOMES = ("read", "named", "other error", "hung", "crashed")
LIMIT = 20.0  # seconds for one picture
MAGIC, HEAD = 8, 200  # bytes that tell the format, and bytes that are overwritten most


@cache
def sound(suffix: str, mode: str) -> bytes:
    """A sound picture of 40 × 30 pixels as the bytes of its file."""
    x, y = np.meshgrid(np.linspace(0, 1, 40), np.linspace(0, 1, 30))
    image = Image.fromarray(np.rint(255 * np.stack([x, y, x * y], -1)).astype(np.uint8))
    how: dict = {"format": PILLOW_NAMES.get(suffix, suffix)}
    if mode == "several":
        how |= {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    elif mode == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        how |= {"exif": exif, "icc_profile": b"no profile"}
    elif mode == "lossless":
        how |= {"lossless": True}
    elif mode in ("lzw", "jpeg"):
        how |= {"compression": f"tiff_{mode}"}
    elif mode in ("I;16", "I", "F"):
        kinds = {"I;16": np.uint16, "I": np.int32, "F": np.float32}
        image = Image.fromarray((60000 * x).astype(kinds[mode]))
    else:
        image = image.convert(mode)
        if "A" in mode:
            image.putalpha(Image.fromarray(np.rint(255 * y).astype(np.uint8)))
    file = io.BytesIO()
    image.save(file, **how)
    return file.getvalue()


def flip_bits(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 2, 8, 64))):
        first = MAGIC if len(data) > MAGIC else 0
        data[chance.randrange(first, len(data))] ^= 1 << chance.randrange(8)
    return data


def edit_head(data: bytearray, chance: random.Random) -> bytearray:
    for _ in range(chance.choice((1, 2, 4, 16))):
        first = MAGIC if chance.random() < 0.95 and len(data) > MAGIC else 0
        place = chance.randrange(first, min(HEAD, len(data)))
        data[place] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
    return data


def cut_off(data: bytearray, chance: random.Random) -> bytearray:
    return data[: chance.randrange(len(data))]


def splice(data: bytearray, chance: random.Random) -> bytearray:
    """A piece of this or of any other picture overwrites one of this, or is put between."""
    other = sound(*chance.choice(kinds())) if chance.random() < 0.5 else bytes(data)
    start, place = chance.randrange(len(other)), chance.randrange(len(data))
    piece = other[start : start + chance.choice((4, 16, 64, 256))]
    end = place if chance.random() < 0.5 else place + len(piece)
    return data[:place] + piece + data[end:]


def blank(data: bytearray, chance: random.Random) -> bytearray:
    place, length = chance.randrange(len(data)), chance.choice((4, 32, 256))
    return data[:place] + bytes([chance.choice((0, 255))] * length) + data[place + length :]


def edit_chunk(data: bytearray, chance: random.Random) -> bytearray:
    """One chunk of a PNG changed, renamed, doubled or dropped, its check sum right again."""
    chunks = list(chunks_of(bytes(data))) if data.startswith(b"\x89PNG") else []
    if not chunks:
        return edit_head(data, chance)
    number = chance.randrange(len(chunks))
    kind, body = chunks[number]
    way = chance.choice(("change", "rename", "double", "drop"))
    if way == "change" and body:
        body = bytes(flip_bits(bytearray(body), chance))
    if way == "rename":
        kind = chance.choice(
            (b"tEXt", b"zTXt", b"iCCP", b"tRNS", b"eXIf", b"fcTL", b"acTL", b"PLTE")
        )
    times = {"double": 2, "drop": 0}.get(way, 1)
    chunks[number : number + 1] = [(kind, body)] * times
    return bytearray(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


def chunks_of(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def chunk(kind: bytes, body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big")


DAMAGES: tuple[Callable[[bytearray, random.Random], bytearray], ...] = (
    flip_bits, flip_bits, edit_head, edit_head, cut_off, splice, blank, edit_chunk, edit_chunk,
)  # fmt: skip


def kinds() -> list[tuple[str, str]]:
    return [(suffix, mode) for suffix, modes in MODES.items() for mode in modes]


def damaged(number: int, seed: int) -> tuple[str, bytes]:
    """The suffix and the bytes of one damaged picture."""
    suffix, mode = kinds()[number % len(kinds())]
    chance = random.Random(f"{seed} {number}")
    data = bytearray(sound(suffix, mode))
    for _ in range(chance.choice((1, 1, 2, 3))):
        if data:
            data = chance.choice(DAMAGES)(data, chance)
    return suffix, bytes(data)


def make_folder(root: Path) -> Path:
    """Sound pictures of two classes, among which the damaged ones will lie."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            (root / part / name / "sound.png").write_bytes(sound("png", "RGB"))
    return root


def outcome(root: Path, number: int, seed: int) -> dict:
    """Load the folder with one damaged picture in it; what came of it."""
    suffix, data = damaged(number, seed)
    path = root / "train" / "cat" / f"damaged_{number}.{suffix}"
    path.write_bytes(data)
    spec = DatasetSpec(kind="image_folder", root=str(root), size=16)
    row = {"number": number, "format": suffix}
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error")
            n = len(load_dataset(spec).train)
        return row | {"outcome": "read" if n == 3 else "other error", "said": f"{n} pictures"}
    except ValueError as error:
        named = path.name in str(error)
        return row | {"outcome": "named" if named else "other error", "said": str(error)}
    except Exception as error:
        return row | {"outcome": "other error", "said": f"{type(error).__name__}: {error}"}
    finally:
        path.unlink()


def serve(pipe, folder: str, seed: int) -> None:
    """In a process of its own: read the pictures whose numbers come through the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes there by itself
    root = make_folder(Path(folder))
    while True:
        pipe.send(outcome(root, pipe.recv(), seed))


class Reader:
    """A process that reads; a new one after each that hung or crashed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.process = seed, None

    def start(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(
            target=serve, args=(theirs, self.folder, self.seed), daemon=True
        )
        self.process.start()
        theirs.close()

    def read(self, number: int) -> dict:
        if self.process is None:
            self.start()
        row = {"number": number, "format": kinds()[number % len(kinds())][0]}
        self.pipe.send(number)
        try:
            if self.pipe.poll(LIMIT):
                return self.pipe.recv()
            row |= {"outcome": "hung", "said": f"more than {LIMIT:g} s"}
        except EOFError:
            self.process.join()
            row |= {"outcome": "crashed", "said": f"exit {self.process.exitcode}"}
        self.stop()
        return row

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.process = None


def table(found: list[dict]) -> list[dict]:
    """A row for each format, and one for all."""
    rows = []
    for suffix in (*MODES, "all"):
        here = [one["outcome"] for one in found if suffix in (one["format"], "all")]
        counts = Counter(here)
        rows.append({"format": suffix, "pictures": len(here)} | {o: counts[o] for o in OUTCOMES})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=10_000, help="damaged pictures")
    parser.add_argument("--quick", action="store_true", help="400 pictures")
    parser.add_argument("--seed", type=int, default=0, help="of the damage")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    n = 400 if options.quick else options.pictures
    multiprocessing.set_start_method("fork")
    reader = Reader(options.seed)
    try:
        found = [reader.read(number) for number in range(n)]
    finally:
        reader.stop()
    rows = table(found)
    print("  ".join(f"{title:>11}" for title in rows[0]))
    for row in rows:
        print("  ".join(f"{value:>11}" for value in row.values()))
    for one in found:
        if one["outcome"] not in ("read", "named"):
            print(one)
    well = rows[-1]["read"] + rows[-1]["named"]
    what = "damaged pictures read, or refused by name"
    bar = {"what": what, "value": well, "aim": n, "met": well == n}
    print(f"{what}: {well} of {n}")
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows, "bars": [bar]}))


if __name__ == "__main__":
    main()
