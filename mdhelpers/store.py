"""The zarr store of trained models: one chunk is one task's rows, margins written last.

Many processes write at once. No two tasks share a chunk, every chunk carries a checksum, and a
task whose margins chunk exists is done: its other arrays were written before. Nothing that
differs between two runs of the same seed (wall time, host) is kept here, so that equal runs give
equal files.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Trained:
    """All models of one algorithm, read into memory.

    Attributes
    ----------
    masks
        (n_models, n_train) bool.
    margins
        (n_models, n_test) float32, correct-class margins (logit of the label minus the largest
        other).
    accuracy
        (n_models,) float32 on the test images.
    losses
        (n_models, n_epochs) float32, mean training loss of each epoch.
    slots
        (n_models,) int32, which common initialisation a model started from; -1: its own.

    """

    masks: np.ndarray
    margins: np.ndarray
    accuracy: np.ndarray
    losses: np.ndarray
    slots: np.ndarray

    def rows(self, rows) -> Trained:
        """The models ``rows`` (a slice or indices)."""
        return Trained(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


class ModelStore:
    """Rows of models on disk; make one with `create` or `open`."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self.group = zarr.open_group(str(path), mode="r+")
        self.identity = dict(self.group.attrs["identity"])

    @classmethod
    def open(cls, path: Path) -> ModelStore:
        """Open an existing store."""
        if not (Path(path) / "zarr.json").exists():
            raise FileNotFoundError(f"no models in {path}; run notebook 02_mask_training first")
        return cls(path)

    @classmethod
    def create(cls, path: Path, identity: dict, shapes: dict[str, int]) -> ModelStore:
        """Open the store at ``path``, or make it; refuse one that holds other models.

        Parameters
        ----------
        path
            Folder, by habit ``models_1.zarr``.
        identity
            Everything that decides the bits of model i. A store made from another one is never
            overwritten: the error names what differs.
        shapes
            ``n_models``, ``n_train``, ``n_test``, ``n_epochs``, ``rows`` (models a task). A
            larger ``n_models`` than the store's extends it.

        """
        path = Path(path)
        identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        if not (path / "zarr.json").exists():
            write_empty_store(path, identity, shapes)
        store = cls(path)
        differences = differing_keys(store.identity, identity)
        if differences:
            raise ValueError(
                f"{path} holds models made by other parameters: {'; '.join(differences)}. Choose "
                f"another study name, or discard its models with `mdhelpers run … --force`."
            )
        store.extend(shapes["n_models"])
        return store

    @property
    def n_models(self) -> int:
        return self.group["margins"].shape[0]

    @property
    def rows_per_task(self) -> int:
        return self.group["margins"].chunks[0]

    def extend(self, n_models: int) -> None:
        """Make room for ``n_models`` rows; what is there stays."""
        if n_models > self.n_models:
            for array in self.group.array_values():
                array.resize((n_models, *array.shape[1:]))

    def task_rows(self, task: int) -> slice:
        """The rows of a task; the last task may be short."""
        start = task * self.rows_per_task
        return slice(start, min(start + self.rows_per_task, self.n_models))

    def is_done(self, task: int) -> bool:
        """Whether the task's margins chunk, the commit mark, is there."""
        return (self.path / "margins" / "c" / str(task) / "0").exists()

    def write_task(self, task: int, arrays: dict[str, np.ndarray]) -> None:
        """Write one task's rows, margins last."""
        rows = self.task_rows(task)
        packed = {**arrays, "masks": np.packbits(arrays["masks"], axis=1)}
        for name in ("masks", "seeds", "slots", "accuracy", "losses", "margins"):
            self.group[name][rows] = packed[name]

    def read(self, n_models: int | None = None) -> Trained:
        """The first ``n_models`` models (all of them by default)."""
        rows = slice(0, n_models)
        n_train = self.group["masks"].attrs["n_train"]
        masks = np.unpackbits(self.group["masks"][rows], axis=1, count=n_train).astype(bool)
        margins = self.group["margins"][rows]
        missing = np.flatnonzero(np.isnan(margins).all(axis=1))
        if len(missing):
            raise ValueError(
                f"{self.path}: {len(missing)} of {len(margins)} models are not trained yet (the "
                f"first is model {missing[0]}); run notebook 02_mask_training to finish"
            )
        rest = (self.group[name][rows] for name in ("accuracy", "losses", "slots"))
        return Trained(masks, margins, *rest)


def write_empty_store(path: Path, identity: dict, shapes: dict[str, int]) -> None:
    """Lay out the arrays beside ``path`` and move them there whole."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    group = zarr.create_group(store=str(temporary), overwrite=True)
    n_models, rows = shapes["n_models"], shapes["rows"]
    columns = {
        "masks": ((shapes["n_train"] + 7) // 8, np.uint8, 0),
        "margins": (shapes["n_test"], np.float32, np.nan),
        "losses": (shapes["n_epochs"], np.float32, np.nan),
        "seeds": (2, np.uint64, 0),
        "accuracy": (None, np.float32, np.nan),
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
    try:
        temporary.rename(path)
    except OSError:  # another process was first
        shutil.rmtree(temporary)


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
