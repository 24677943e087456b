"""What a store of models is made of: arrays, files, checksums; and what it refuses to hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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
