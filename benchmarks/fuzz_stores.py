"""Damaged and hostile stores and score files: is each one read rightly, or refused by name?

Sound stores, scores, masks and weights are changed at random: bits flipped, ends cut off, files
emptied, lost, swapped or put in one another's place, metadata edited, other formats slipped in,
links and pipes laid, pickles planted that leave a sign when they are opened. Each is then read by
another process, which a time limit ends. It must read what was written, or raise a ValueError or
OSError that names the file; no sign, no other error, no waiting, no crash, no gigabytes.

Two things cannot be told by reading alone. A store whose chunks were exchanged for one another, or
whose metadata names another size that it could have, is sound in itself: its digest differs from
the one that a run has recorded ("digest"). And score files whose format has no check sum read as
other numbers when a number's bits are flipped ("numbers"), as nobody could see.

    python benchmarks/fuzz_stores.py --quick --out fuzz_stores.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pickle
import random
import shutil
import struct
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import torch
from numcodecs import Zstd
from safetensors.numpy import save_file

from mdhelpers.base.places import machine
from mdhelpers.formats.models import read_masks_and_margins
from mdhelpers.formats.scores import load_scores
from mdhelpers.training.store import ModelStore
from mdhelpers.training.store_files import ARRAYS
from mdhelpers.training.weights import read_weights

OUTCOMES = ("equal", "named", "digest", "numbers", "not named", "other error", "executed", "memory",
            "hung", "crashed")  # fmt: skip
FINE = ("equal", "named", "digest", "numbers")
LIMIT_S = 30.0
LIMIT_BYTES = 2**30  # beyond what a reader takes for the sound file
SHAPES = {"n_models": 12, "n_train": 19, "n_test": 6, "n_epochs": 2, "rows": 4}
SIGN = "sprung"


class Trap:
    """Leaves a folder where it is unpickled."""

    def __init__(self, sign: Path):
        self.sign = str(sign)

    def __reduce__(self):
        return os.mkdir, (self.sign,)


# What is sound


def make_store(path: Path, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    store = ModelStore.create(path, {"data": f"x{seed}"}, SHAPES)
    for task in range(3):
        arrays = {
            "masks": rng.random((4, 19)) < 0.5,
            "margins": rng.normal(size=(4, 6)).astype(np.float32),
            "accuracy": rng.random(4).astype(np.float32),
            "losses": rng.random((4, 2)).astype(np.float32),
            "seeds": rng.integers(0, 99, (4, 2)).astype(np.uint64),
            "slots": np.arange(4, dtype=np.int32),
            "seconds": rng.random(4).astype(np.float32),
        }
        store.write_task(task, arrays)


def weight(seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(20, 6)).astype(np.float32))


def own(path: Path, *, sparse: bool) -> None:
    dense = weight().numpy().T.copy()
    arrays = {"bias": np.zeros(6, "f4"), "lam": np.ones(6, "f4"), "lam_at_edge": np.zeros(6, bool)}
    arrays |= {"slot_ids": np.zeros(0, "i8"), "slot_effects": np.zeros((0, 6), "f4")}
    if sparse:
        dense[:, 2:] = 0
        rows, columns = dense.nonzero()
        arrays["weights_values"] = dense[rows, columns]
        arrays["weights_columns"] = columns.astype(np.int32)
        arrays["weights_starts"] = np.searchsorted(rows, np.arange(7))
        arrays["weights_shape"] = np.array(dense.shape)
    else:
        arrays["weights"] = dense
    save_file(arrays, path, {"method": "lasso", "notes": '["a note"]'})


def make_trak(path: Path) -> None:
    (path / "scores").mkdir(parents=True)
    with (path / "scores" / "e.mmap").open("wb") as file:
        np.save(file, weight().numpy())
    noted = {"e": {"num_targets": 6, "scores_finalized": 1}}
    (path / "experiments.json").write_text(json.dumps(noted), "utf-8")
    (path / "metadata.json").write_text('{"train set size": 20}', "utf-8")


def make_models(path: Path) -> None:
    path.mkdir()
    rng = np.random.default_rng(0)
    np.save(path / "masks.npy", rng.random((12, 20)) < 0.5)
    np.save(path / "margins.npy", rng.normal(size=(12, 6)).astype(np.float32))
    np.save(path / "_completed.npy", np.ones(12, bool))
    fields = {"masks": ([20], "bool_"), "margins": ([6], "float32")}
    schema = {name: {"shape": shape, "dtype": dtype} for name, (shape, dtype) in fields.items()}
    (path / "spec.json").write_text(json.dumps({"num_models": 12, "schema": schema}), "utf-8")


MAKERS: dict[str, Callable[[Path], object]] = {
    "store.zarr": make_store,
    "scores.npy": lambda path: np.save(path, weight().numpy().T),
    "scores.pt": lambda path: torch.save({"weight": weight(), "bias": torch.zeros(6)}, path),
    "old.pt": lambda path: torch.save(
        {"weight": weight()}, path, _use_new_zipfile_serialization=False
    ),
    "own.safetensors": lambda path: own(path, sparse=False),
    "sparse.safetensors": lambda path: own(path, sparse=True),
    "pairwise.safetensors": lambda path: save_file(
        {"all_modules": weight().numpy().T.copy()}, path
    ),
    "trak": make_trak,
    "models": make_models,
    "weights.pth": lambda path: torch.save({"state_dict": {"a": weight()}}, path),
    "weights.safetensors": lambda path: save_file({"a": weight().numpy()}, path),
}


def read(path: Path) -> dict[str, np.ndarray]:
    """All numbers of a sound or changed file or folder, by the reader that a user would take."""
    name = path.name
    if name == "store.zarr":
        store = ModelStore.open(path, read_only=True)
        found = store.read()
        arrays = {n: getattr(found, n) for n in found.__dataclass_fields__}
        return arrays | {"seeds": store.read_array("seeds")}
    if name == "models":
        found = read_masks_and_margins(path, n_train=20, n_test=6)
        return {"masks": np.array(found.masks), "margins": np.array(found.margins)}
    if name.startswith("weights"):
        return {key: value.numpy() for key, value in read_weights(path).items()}
    said = {} if name.startswith(("own", "sparse", "trak")) else {"standardised": False}
    if name == "scores.npy":
        said["positive_means"] = "helps"
    if name.startswith("pairwise"):
        said = {"positive_means": "helps"}
    found = load_scores(path, n_train=20, n_test=6, **said)
    return {"weights": found.weights, "bias": found.bias, "lam": found.lam}


# What is done to it


def flip(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 4, 32)) if data else 0):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def flip_head(content: bytes, chance: random.Random) -> bytes:
    return flip(content[:160], chance) + content[160:]


def cut(content: bytes, chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def splice(content: bytes, chance: random.Random) -> bytes:
    start, place = chance.randrange(len(content) + 1), chance.randrange(len(content) + 1)
    piece = content[start : start + chance.choice((1, 8, 64))]
    return content[:place] + piece + content[place + chance.choice((0, len(piece))) :]


def digits(content: bytes, chance: random.Random) -> bytes:
    """Digits and signs of a header or JSON become others."""
    places = [i for i, byte in enumerate(content[:2000]) if byte in b'0123456789,:[]{}"<>|']
    data = bytearray(content)
    for _ in range(chance.choice((1, 2, 5)) if places else 0):
        data[chance.choice(places)] = chance.choice(b'0123456789,:[]{}"-eO|<')
    return bytes(data)


BYTES = (flip, flip, flip_head, cut, splice, digits)


def change_bytes(path: Path, chance: random.Random) -> None:
    file = chance.choice(files(path))
    file.write_bytes(chance.choice(BYTES)(file.read_bytes(), chance))


def empty(path: Path, chance: random.Random) -> None:
    chance.choice(files(path)).write_bytes(b"")


def lose(path: Path, chance: random.Random) -> None:
    chance.choice(files(path)).unlink()


def exchange(path: Path, chance: random.Random) -> None:
    """A file in the place of another: of this folder, or of another kind."""
    here, others = chance.choice(files(path)), files(path) + files(path.parent.parent / "sound")
    here.write_bytes(chance.choice(others).read_bytes())


def hostile_file(path: Path, chance: random.Random) -> None:
    """A pickle that leaves a sign, in each of the ways that files hold pickles."""
    file, trap = chance.choice(files(path)), Trap(path.parent / SIGN)
    way = chance.choice(("plain", "torch", "old torch", "numpy", "in archive", "stride", "loop"))
    if way == "plain":
        file.write_bytes(pickle.dumps(trap, protocol=chance.choice((0, 2, 4))))
    elif way == "numpy":
        with file.open("wb") as out:
            np.save(out, np.array([[trap]], dtype=object), allow_pickle=True)
    elif way == "in archive":
        with zipfile.ZipFile(file, "w", chance.choice((0, 8))) as archive:
            archive.writestr("archive/data.pkl", pickle.dumps({"weight": trap}, 2))
            archive.writestr("archive/version", "3\n")
    else:
        content = {"weight": weight(), "extra": trap}
        if way == "stride":
            content = {"weight": torch.zeros(1).expand(10**6, 10**6)}
        if way == "loop":
            content = {}
            content["model"] = content
        torch.save(content, file, _use_new_zipfile_serialization=way != "old torch")


def hostile_header(path: Path, chance: random.Random) -> None:
    """Headers that claim what the file does not hold."""
    file = chance.choice(files(path))
    size = chance.choice((0, 1, 10**6, 10**12, 2**62, 2**63))
    if chance.random() < 0.5:
        head = (
            f"{{'descr': '{chance.choice(('<f4', '|O', '<U9', '<f2'))}', 'fortran_order': False, "
        )
        head += f"'shape': ({size}, {chance.choice((1, 20, 10**9))}), }}"
        head = head.ljust(117) + "\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode())
        return
    about = {"dtype": chance.choice(("F32", "BOOL", "F8_E5M2", "Q")), "shape": [size, 20]}
    about |= {"data_offsets": [0, chance.choice((0, 480, size))]}
    names = chance.choice((("weights",), ("all_modules",), ("a",), ("weights_shape", "weights")))
    head = json.dumps(dict.fromkeys(names, about) | {"__metadata__": {"method": "x"}}).encode()
    file.write_bytes(struct.pack("<Q", chance.choice((len(head), size))) + head + bytes(480))


def wrong_columns(path: Path, chance: random.Random) -> None:
    """Compressed rows whose indices lie outside of the matrix."""
    if path.name != "sparse.safetensors":
        return hostile_header(path, chance)
    arrays = {"bias": np.zeros(6, "f4"), "lam": np.ones(6, "f4"), "lam_at_edge": np.zeros(6, bool)}
    arrays |= {"slot_ids": np.zeros(0, "i8"), "slot_effects": np.zeros((0, 6), "f4")}
    arrays |= {"weights_values": np.ones(12, "f4"), "weights_shape": np.array([6, 20])}
    wild = chance.choice((-1, 21, 10**6, 2**31 - 1))
    arrays["weights_columns"] = np.array([0, wild] * 6, np.int32)
    arrays["weights_starts"] = np.array([0, 2, 4, 6, 8, 10, chance.choice((12, 10**6, -3))])
    if chance.random() < 0.3:
        arrays["weights_shape"] = np.array([10**6, 10**7])
    save_file(arrays, path, {"method": "lasso", "notes": "[]"})
    return None


def edit_json(path: Path, chance: random.Random) -> None:
    """One value anywhere in a metadata file becomes another, is lost, or gets a neighbour."""
    file = chance.choice([f for f in files(path) if f.name == "zarr.json"])
    content = json.loads(file.read_text("utf-8"))
    for _ in range(chance.choice((1, 1, 2))):
        holder, key = chance.choice(places(content))
        way = chance.choice(("set", "set", "lose", "add"))
        if way == "lose":
            del holder[key]
        elif way == "set" or isinstance(holder, list):
            holder[key] = chance.choice(ODD_VALUES)
        else:
            holder[chance.choice(("extra", "codecs", "must_understand"))] = chance.choice(
                ODD_VALUES
            )
        if not places(content):
            break
    file.write_text(json.dumps(content), "utf-8")


PICKLED = {"id": "pickle", "protocol": 4}
ODD_VALUES = (
    None, True, 0, 1, -1, 2, 8, 10**9, 10**15, 10**30, 0.5, float("nan"), "", "x", "float64", "|O",
    "string", [], [0], [10**15, 10**6], {}, {"name": "pickle"}, [{"name": "numcodecs.pickle"}],
    [{"name": "bytes"}, {"name": "blosc"}], [PICKLED], "v2", [[[[]]]], {"a": {"b": 1}},
    [{"name": "sharding_indexed", "configuration": {}}], "r" * 500,
)  # fmt: skip


def places(value: object) -> list[tuple]:
    """Every holder and key within a JSON value."""
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value)) if isinstance(value, list) else []
    return [(value, key) for key, _ in items] + [p for _, item in items for p in places(item)]


def consolidate(path: Path, chance: random.Random) -> None:
    """Arrays of the older format, which decode by `pickle`, in one of four ways."""
    name = chance.choice(ARRAYS)
    said = json.loads((path / name / "zarr.json").read_text("utf-8"))
    old = {"zarr_format": 2, "shape": said["shape"], "dtype": chance.choice(("|O", "<f4", "|u1"))}
    old |= {"chunks": said["chunk_grid"]["configuration"]["chunk_shape"], "fill_value": None}
    old |= {"order": "C", "dimension_separator": "/", "filters": None, "compressor": PICKLED}
    if chance.random() < 0.5:
        old |= {"filters": [PICKLED], "compressor": None}
    way = chance.choice(("inline", "zmetadata", "zarray", "v3 codec"))
    file = path / "zarr.json"
    content = json.loads(file.read_text("utf-8"))
    for task in range(3):
        keys = (f"{task}/0", f"c/{task}/0") if len(said["shape"]) == 2 else (f"{task}", f"c/{task}")
        for chunk in (path / name / key for key in keys):
            if chunk.name == "0" or chance.random() < 0.9:
                chunk.parent.mkdir(parents=True, exist_ok=True)
                chunk.write_bytes(pickle.dumps(Trap(path.parent / SIGN)))
    if way == "inline":
        inner = old | {"attributes": {}, "node_type": "array"}
        content["consolidated_metadata"] = {"kind": "inline", "must_understand": False}
        others = {n: json.loads((path / n / "zarr.json").read_text("utf-8")) for n in ARRAYS}
        content["consolidated_metadata"]["metadata"] = others | {name: inner}
        file.write_text(json.dumps(content), "utf-8")
    elif way == "zmetadata":
        whole = {"metadata": {".zgroup": {"zarr_format": 2}, f"{name}/.zarray": old}}
        (path / ".zmetadata").write_text(
            json.dumps(whole | {"zarr_consolidated_format": 1}), "utf-8"
        )
        (path / ".zgroup").write_text('{"zarr_format": 2}', "utf-8")
    elif way == "zarray":
        (path / name / ".zarray").write_text(json.dumps(old), "utf-8")
        if chance.random() < 0.5:
            (path / name / "zarr.json").unlink()
    else:
        file = path / name / "zarr.json"
        content = json.loads(file.read_text("utf-8"))
        content["codecs"] = [{"name": "numcodecs.pickle"}, {"name": "crc32c"}]
        file.write_text(json.dumps(content), "utf-8")


def sealed_chunk(path: Path, chance: random.Random) -> None:
    """A chunk whose checksum is right, and whose content is not: a pickle, a bomb, another size."""
    name = chance.choice(ARRAYS)
    flat = chance.choice(sorted(f for f in (path / name / "c").rglob("*") if f.is_file()))
    bomb = Zstd(3).encode(bytes(chance.choice((0, 7, 200 * 2**20))))
    claim = b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 2**40) + flat.read_bytes()[6:-4]
    inner = chance.choice((pickle.dumps(Trap(path.parent / SIGN)), bomb, claim, b"", b"\0" * 9))
    flat.write_bytes(inner + google_crc32c.value(inner).to_bytes(4, "little"))


def exchange_tasks(path: Path, chance: random.Random) -> None:
    """Two tasks' chunks of one array in each other's place, both sound."""
    name = chance.choice(ARRAYS)
    a, b = chance.sample(sorted(f for f in (path / name / "c").rglob("*") if f.is_file()), 2)
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def stray(path: Path, chance: random.Random) -> None:
    folder = chance.choice(sorted({file.parent for file in files(path)}))
    names = (".DS_Store", "Thumbs.db", ".nfs0000000a00000001", "._0", "0 (conflicted copy)", "00",
             "desktop.ini", "0.abc.partial", "-1", "٣", "1e3", "9" * 30)  # fmt: skip
    (folder / chance.choice(names)).write_bytes(b"stray")


def no_file(path: Path, chance: random.Random) -> None:
    """A link that leads out, a pipe that nobody writes to, or a folder in the place of a file."""
    file = chance.choice([f for f in files(path) if f.exists()])
    outside = path.parent / "outside"
    outside.write_bytes(file.read_bytes())
    way = chance.choice(("link", "folder link", "pipe", "folder", "cycle"))
    if way in ("folder link", "cycle") and file.parent != path:
        moved = path.parent / "moved"
        shutil.move(file.parent, moved)
        file.parent.symlink_to(path if way == "cycle" else moved)
        return
    file.unlink()
    if way == "pipe":
        os.mkfifo(file)
    elif way == "folder":
        file.mkdir()
    else:
        file.symlink_to(outside)


ANY = (change_bytes, change_bytes, change_bytes, empty, lose, exchange)
OF_STORES = (*ANY, edit_json, edit_json, edit_json, consolidate, sealed_chunk, stray, no_file)
OF_STORES = (*OF_STORES, exchange_tasks)
OF_SCORES = (*ANY, change_bytes, hostile_file, hostile_file, hostile_header, wrong_columns)


def files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]


# Reading it elsewhere


def serve(channel) -> None:
    """Read one path after the other, and say what came of it."""
    import resource

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    channel.send("ready")
    while True:
        path, sound, digest = channel.recv()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcome, said = outcome_of(path, sound, digest)
        grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        channel.send(("memory" if grown > LIMIT_BYTES else outcome, said))


def outcome_of(path: Path, sound: dict[str, np.ndarray], digest: str) -> tuple[str, str]:
    try:
        found = read(path)
    except (ValueError, OSError) as error:
        return "named" if str(path) in str(error) else "not named", told(error)
    except BaseException as error:
        return "other error", told(error)
    if found.keys() == sound.keys() and all(same(found[n], sound[n]) for n in found):
        return "equal", ""
    if path.name == "store.zarr":
        differs = ModelStore.open(path, read_only=True).digest() != digest
        return ("digest" if differs else "other error"), "reads other numbers"
    return "numbers", ""


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def told(error: BaseException) -> str:
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:300]} [{Path(last.filename).name}:{last.lineno}]"


class Reader:
    """A process that reads; one that hangs or crashes is replaced."""

    def __init__(self):
        self.process = None

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.channel.recv()

    def read(self, *what) -> tuple[str, str]:
        if self.process is None:
            self.start()
        self.channel.send(what)
        try:
            if self.channel.poll(LIMIT_S):
                return self.channel.recv()
            how = "hung", f"over {LIMIT_S:g} s"
        except (EOFError, ConnectionError):
            self.process.join(5)
            how = "crashed", f"exit code {self.process.exitcode}"
        self.close()
        return how

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def fuzz(folder: Path, n: int, seed: int = 0) -> list[dict]:
    """``n`` changed stores and files: of each its kind, change and outcome."""
    sound_folder = folder / "sound"
    sound_folder.mkdir()
    for name, make in MAKERS.items():
        make(sound_folder / name)
    sound = {name: read(sound_folder / name) for name in MAKERS}
    digest = ModelStore.open(sound_folder / "store.zarr").digest()
    rows, reader = [], Reader()
    try:
        for number in range(n):
            rows.append(one(folder / "case", number, seed, sound, digest, reader))
    finally:
        reader.close()
    return rows


def one(folder: Path, number: int, seed: int, sound: dict, digest: str, reader: Reader) -> dict:
    chance = random.Random(f"{seed} {number}")
    others = [name for name in MAKERS if name != "store.zarr"]
    name = "store.zarr" if number % 2 else chance.choice(others)
    change = chance.choice(OF_STORES if number % 2 else OF_SCORES)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, source = folder / name, folder.parent / "sound" / name
    (shutil.copytree if source.is_dir() else shutil.copyfile)(source, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        change(path, chance)
    outcome, said = reader.read(path, sound[name], digest)
    if (folder / SIGN).exists():
        outcome = "executed"
    return {"number": number, "file": name, "change": change.__name__, "outcome": outcome,
            "said": said}  # fmt: skip


def print_table(rows: list[dict], by: str) -> None:
    counts = Counter((row[by], row["outcome"]) for row in rows)
    shown = [o for o in OUTCOMES if o in FINE or any(row["outcome"] == o for row in rows)]
    print(f"{by:22}" + "".join(f"{outcome:>13}" for outcome in shown))
    for kind in sorted({row[by] for row in rows}):
        print(f"{kind:22}" + "".join(f"{counts[kind, outcome]:13}" for outcome in shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the cases")
    parser.add_argument("--n", type=int, default=2000, help="cases, half of them stores")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = fuzz(Path(folder), options.n // (10 if options.quick else 1), options.seed)
    for by in ("file", "change"):
        print_table(rows, by)
        print()
    bad = [row for row in rows if row["outcome"] not in FINE]
    for row in bad:
        print(row)
    what = f"of {len(rows)} changed stores and files, neither read rightly nor refused by name"
    print(f"{what}: {len(bad)} (aim: 0), {time.perf_counter() - start:.0f} s")
    if options.out:
        bars = [{"what": what, "value": len(bad), "aim": 0, "met": not bad}]
        found = {"machine": machine(), "seed": options.seed, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
