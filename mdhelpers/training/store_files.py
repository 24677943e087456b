"""What a store of models is made of, and what it refuses to hold: arrays, files, checksums.

zarr can be told by a store's own files to decode its chunks by any codec that it knows, and one of
those, ``pickle``, runs code: a group of the present format may even carry, as "consolidated
metadata", arrays of the older one. So the files are read here first, as plain JSON, and zarr opens
them only when each says what this package would have written, and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

FORMAT = 2  # raise it when the arrays change; stores of another format are refused
ARRAYS = ("masks", "seeds", "slots", "accuracy", "losses", "seconds", "margins")
MARGINS_DTYPES = ("float32", "float16")


class DamagedChunk(ValueError):
    """A chunk of a finished task is missing, or not what was written."""


class DiskFull(OSError):
    """A task's rows could not be written for want of space."""


@dataclass(frozen=True, eq=False)
class Trained:
    """All models of one algorithm, read into memory.

    Attributes
    ----------
    masks
        (n_models, n_train) bool; (n_models, ceil(n_train / 8)) uint8 where read packed.
    margins
        (n_models, n_test) float32, correct-class margins (logit of the label minus the largest
        other).
    accuracy
        (n_models,) float32 on the test images.
    losses
        (n_models, n_epochs) float32, mean training loss of each epoch.
    slots
        (n_models,) int32, which common initialisation a model started from; -1: its own.
    seconds
        (n_models,) float32, wall time of the model's task divided by its models.

    """

    masks: np.ndarray
    margins: np.ndarray
    accuracy: np.ndarray
    losses: np.ndarray
    slots: np.ndarray
    seconds: np.ndarray

    def rows(self, rows) -> Trained:
        """The models ``rows`` (a slice or indices)."""
        return Trained(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def is_intact(content: bytes | None) -> bool:
    """Whether a stored chunk agrees with the crc32c in its last four bytes."""
    if content is None or len(content) <= 4:
        return False
    return google_crc32c.value(content[:-4]).to_bytes(4, "little") == content[-4:]


def empty_layout(identity: dict, shapes: dict[str, int], margins_dtype: str) -> dict[str, bytes]:
    """The files of a store without models; the one that makes it a store comes last."""
    contents = {}
    group = zarr.create_group(store=MemoryStore(contents))
    n_models, rows = shapes["n_models"], shapes["rows"]
    columns = {
        "masks": ((shapes["n_train"] + 7) // 8, np.uint8, 0),
        "margins": (shapes["n_test"], margins_dtype, np.nan),
        "losses": (shapes["n_epochs"], np.float32, np.nan),
        "seeds": (2, np.uint64, 0),
        "accuracy": (None, np.float32, np.nan),
        "seconds": (None, np.float32, np.nan),
        "slots": (None, np.int32, -1),
    }
    for name, (width, dtype, fill) in columns.items():
        tail = () if width is None else (width,)
        group.create_array(
            name,
            shape=(n_models, *tail),
            chunks=(rows, *tail),
            dtype=dtype,
            fill_value=fill,
            compressors=[ZstdCodec(level=3), Crc32cCodec()],
        )
    group["masks"].attrs["n_train"] = shapes["n_train"]
    group.attrs["identity"] = identity
    last_the_root = sorted(contents, key=lambda key: (key == "zarr.json", key))
    return {key: contents[key].to_bytes() for key in last_the_root}


def check_format(path: str | Path, found: int | None) -> None:
    if found != FORMAT:
        made = "is no store of models" if found is None else f"has format {found}"
        raise ValueError(
            f"{path} {made}; this version of mdhelpers reads format {FORMAT}. Train its models "
            f"again with `mdhelpers run … --force`, or read it with the version that made it."
        )


def refuse_differences(path: str | Path, differences: list[str]) -> None:
    if not differences:
        return
    images = all(difference.startswith("data was") for difference in differences)
    raise ValueError(
        f"{path} holds models {'trained on other images' if images else 'made by other parameters'}"
        f": {'; '.join(differences)}. Choose another study name, or discard its models with "
        f"`mdhelpers run … --force`."
    )


def differing_keys(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Readable differences between two nested mappings, old → new."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key} was {a!r}, now {b!r}")
    return found


LARGEST_FILE = 2**24  # bytes of a metadata file
LARGEST_COUNT = 10**9  # images
LARGEST_MODELS = 10**7
LARGEST_CHUNK = 2**31 - 1  # bytes, which is where zstd of numcodecs ends
DEEPEST = 50  # nested lists and mappings
WIDTHS = {"masks": None, "margins": None, "losses": None, "seeds": 2}  # the others have one column
DTYPES = {
    "masks": ("uint8",),
    "seeds": ("uint64",),
    "slots": ("int32",),
    "accuracy": ("float32",),
    "losses": ("float32",),
    "seconds": ("float32",),
    "margins": ("float32", "float16"),
}
FILLS = {"masks": 0, "seeds": 0, "slots": -1}  # the others' is NaN
NOTHING = {  # what versions of zarr write where there is nothing to say
    "consolidated_metadata": (None, {"kind": "inline", "must_understand": False, "metadata": {}}),
    "storage_transformers": (None, []),
    "dimension_names": (None,),
}

Read = Callable[[str], bytes | None]


def check_metadata(location: Any, read: Read, arrays: tuple[str, ...]) -> dict[str, bytes]:
    """The metadata files of a store by key, once each is found to be as this package writes it.

    Parameters
    ----------
    location
        The store's path or URL, for messages.
    read
        The content of a key, at most ``LARGEST_FILE + 1`` bytes of it, or None.
    arrays
        The arrays that there must be.

    Raises
    ------
    ValueError
        Names the file, what it says and what was expected.

    """
    # margins first: they are extended last, so that what is read later is no shorter
    names = sorted(arrays, key=lambda name: name != "margins")
    files = {key: read(key) for key in ("zarr.json", *(f"{name}/zarr.json" for name in names))}
    group = parse(f"{location}/zarr.json", files["zarr.json"])
    check_group(f"{location}/zarr.json", group)
    shapes = {}
    for name in arrays:
        where = f"{location}/{name}/zarr.json"
        shapes[name] = check_array(where, name, parse(where, files[f"{name}/zarr.json"]))
    _check_agreement(location, shapes)
    return files


def check_group(where: str, found: dict) -> None:
    """Raise unless this is a group of ours: it has attributes, and says no more."""
    expected = {"zarr_format": 3, "node_type": "group", "attributes": found.get("attributes")}
    _check_equal(where, _said(found), expected)
    attributes = expected["attributes"]
    if not isinstance(attributes, dict) or not isinstance(attributes.get("identity", {}), dict):
        raise ValueError(f"{where}: attributes are {_short(attributes)}; {_ways('a mapping')}")


def check_array(where: str, name: str, found: dict) -> tuple:
    """Shape and chunks of an array, or a ValueError unless it is the array ``name`` of ours."""
    shape, chunks = _shape_and_chunks(where, name, found)
    dtype = found.get("data_type")
    if dtype not in DTYPES[name] or not isinstance(dtype, str):
        raise ValueError(
            f"{where}: data_type is {_short(dtype)}; {_ways(' or '.join(DTYPES[name]))}"
        )
    if np.dtype(dtype).itemsize * int(np.prod(chunks, dtype=object)) > LARGEST_CHUNK:
        raise ValueError(f"{where}: chunks of {chunks} are too large; {_ways('less than 2 GB')}")
    attributes, wanted = found.get("attributes", {}), {}
    if name == "masks" and isinstance(attributes, dict):
        wanted = {"n_train": _n_train(where, attributes.get("n_train"), shape)}
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": FILLS.get(name, "NaN"),
        "codecs": _codecs(found.get("codecs"), dtype),
        "attributes": wanted,
    }
    _check_equal(where, _said(found) | {"attributes": attributes}, expected)
    return shape, chunks


def _shape_and_chunks(where: str, name: str, found: dict) -> tuple[tuple, tuple]:
    """An array's shape and that of its chunks, which are whole rows."""
    grid = found.get("chunk_grid")
    inner = grid.get("configuration") if isinstance(grid, dict) else None
    chunks = inner.get("chunk_shape") if isinstance(inner, dict) else None
    ndim = 2 if name in WIDTHS else 1
    for what, sizes in (("shape", found.get("shape")), ("chunk_shape", chunks)):
        if not (
            isinstance(sizes, list)
            and len(sizes) == ndim
            and all(map(_is_count, sizes))
            and sizes[0] <= LARGEST_MODELS
        ):
            raise ValueError(
                f"{where}: {what} is {_short(sizes)}; {_ways(f'{ndim} whole numbers above 0')}"
            )
    shape = found["shape"]
    if chunks[1:] != shape[1:] or WIDTHS.get(name) not in (None, shape[-1]):
        raise ValueError(
            f"{where}: shape {shape} is stored in chunks of {chunks}; "
            f"{_ways('chunks of whole rows')}"
        )
    return tuple(shape), tuple(chunks)


def _n_train(where: str, found: Any, shape: tuple) -> int:
    if not _is_count(found) or (found + 7) // 8 != shape[1]:
        raise ValueError(
            f"{where}: n_train is {_short(found)} and the shape {list(shape)}; "
            f"{_ways('a byte for 8 training examples')}"
        )
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value <= LARGEST_COUNT


def _codecs(found: Any, dtype: str) -> list[dict]:
    """The only codecs that there are, in the form in which this version of zarr wrote them."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    # a byte has no order, and versions of zarr differ in whether they tell one all the same
    short = dtype == "uint8" and isinstance(found, list) and found[:1] == [{"name": "bytes"}]
    zstd = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
    return [{"name": "bytes"} if short else little, zstd, {"name": "crc32c"}]


def _said(found: dict) -> dict:
    """All that a file says, less keys that say nothing."""
    return {
        key: value
        for key, value in found.items()
        if not any(_equal(value, nothing) for nothing in NOTHING.get(key, ()))
    }


def _check_equal(where: str, found: dict, expected: dict) -> None:
    for key in (*expected, *found):
        if key not in expected:
            raise ValueError(f"{where} says {key!r}: {_short(found[key])}; {_ways('no such key')}")
        if key not in found or not _equal(found[key], expected[key]):
            said = _short(found[key]) if key in found else "not said"
            raise ValueError(f"{where}: {key} is {said}; {_ways(json.dumps(expected[key]))}")


def _equal(a: Any, b: Any) -> bool:
    """Whether two JSON values are one, `true` and 1 being two."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and a == b


def _check_agreement(location: Any, shapes: dict[str, tuple]) -> None:
    """Every array has as many models, in tasks of as many rows."""
    rows = {name: chunks[0] for name, (_, chunks) in shapes.items()}
    for name, n in rows.items():
        if n != rows["margins"]:
            raise ValueError(
                f"{location}/{name}/zarr.json: chunks have {n} rows; "
                f"{_ways('as many as those of margins')}"
            )
    n_models = shapes["margins"][0][0]
    for name, (shape, _) in shapes.items():
        if shape[0] < n_models:  # the others may be ahead
            raise ValueError(
                f"{location}/{name}/zarr.json: shape is {list(shape)}; "
                f"{_ways('at least the rows of margins')}"
            )


def parse(where: str, content: bytes | None) -> dict:
    """A JSON object from a file's content, or a ValueError that names the file."""
    if content is None:
        raise ValueError(f"{where} is not there; {_ways('a JSON object')}")
    if len(content) > LARGEST_FILE:
        raise ValueError(f"{where} has over {LARGEST_FILE} bytes; {_ways('a few thousand')}")
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON ({error}); {_ways('a JSON object')}") from None
    if not isinstance(found, dict) or _is_deeper(found, DEEPEST):
        what = f"nested over {DEEPEST} deep" if isinstance(found, dict) else _short(found)
        raise ValueError(f"{where} holds {what}; {_ways('a JSON object')}")
    return found


def _is_deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return bool(inner) and (not depth or any(_is_deeper(item, depth - 1) for item in inner))


def _ways(expected: str) -> str:
    return f"expected {expected}. It was damaged, or is no store that mdhelpers made: not opened."


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:79] + "…"


@dataclass(frozen=True)
class BoundedZstd(ZstdCodec):
    """zstd that refuses a chunk which says that it unpacks to anything but its array's size."""

    async def _decode_single(self, chunk_bytes, chunk_spec):
        expected = chunk_spec.dtype.to_native_dtype().itemsize * int(np.prod(chunk_spec.shape))
        found = content_size(chunk_bytes[:18].to_bytes())
        if found != expected:
            raise ValueError(f"a chunk says that it unpacks to {found} bytes, not {expected}")
        return await super()._decode_single(chunk_bytes, chunk_spec)


def content_size(header: bytes) -> int | None:
    """The size to which a zstd frame says that it unpacks (RFC 8878, 3.1.1.1), if it says one."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = header[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    start = 5 + (not single) + (0, 1, 2, 4)[descriptor & 3]
    n_bytes = (single, 2, 4, 8)[flag]
    field = header[start : start + n_bytes]
    if not n_bytes or len(field) < n_bytes:
        return None
    return int.from_bytes(field, "little") + (256 if n_bytes == 2 else 0)


def bounded(array: zarr.Array) -> zarr.Array:
    """The same array, which unpacks no chunk to more than its size, and leaves none out.

    zarr leaves out chunks of fill values, and a missing chunk would pass for a damaged one.
    """
    codecs = [
        BoundedZstd(level=codec.level, checksum=codec.checksum)
        if isinstance(codec, ZstdCodec)
        else codec
        for codec in array.metadata.codecs
    ]
    metadata = replace(array.metadata, codecs=codecs)
    same = zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))
    return same.with_config({"write_empty_chunks": True})
