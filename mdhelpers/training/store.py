"""The zarr store of trained models: one chunk is one task's rows, margins written last.

Many processes write at once, on a local path or under a URL (``s3://…``). No two tasks share a
chunk, every chunk carries a crc32c checksum, and a task whose margins chunk exists is done: its
other arrays were written before. All arrays but ``seconds`` are equal, bit by bit, between two
runs of the same seed.

Margins are float32, or float16 for half the disk. Rounding to float16 moved the LDS of the study
``augmentation`` (2 × 1152 models, margins of standard deviation 2.4) by at most 2e-5 with
differences of means on 600 test images and 7e-5 with the lasso on 100, where its 95% interval is
0.04 wide. In memory margins are always float32.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from mdhelpers.base.records import digest
from mdhelpers.training.locations import open_location
from mdhelpers.training.store_files import (
    ARRAYS,
    FORMAT,
    LARGEST_FILE,
    MARGINS_DTYPES,
    DamagedChunk,
    DiskFull,
    Trained,
    bounded,
    check_format,
    check_group,
    check_metadata,
    differing_keys,
    empty_layout,
    is_intact,
    parse,
    refuse_differences,
)

EVERY = slice(None)
CHUNK = re.compile(r"(\w+)/c/(0|[1-9]\d{0,9})(/0)?", re.ASCII)
READERS = 8  # threads that wait for disk or network


class ModelStore:
    """Rows of models at a path or URL; make one with `create` or `open`."""

    def __init__(self, location: str | Path, *, read_only: bool = False):
        self.folder = open_location(location)
        self.path = self.folder.location
        self.identity = self._checked_identity()
        store = self.folder.zarr_store(read_only=read_only)
        mode = "r" if read_only else "r+"
        # what is not said here zarr would take from whatever files it finds
        group = zarr.open_group(store, mode=mode, zarr_format=3, use_consolidated=False)
        self.arrays = {name: bounded(group[name]) for name in ARRAYS}

    def _checked_identity(self) -> dict:
        """The identity in the store's metadata, all of which is held against what is written."""
        where = f"{self.path}/zarr.json"
        content = self._read_metadata("zarr.json")
        if content is None:
            raise FileNotFoundError(f"no models in {self.path}")
        found = parse(where, content)
        check_group(where, found)
        identity = found["attributes"].get("identity", {})
        check_format(self.path, identity.get("format"))
        check_metadata(self.path, self._read_metadata, ARRAYS)
        if older := self.folder.older_files():
            raise ValueError(
                f"{self.path}/{older[0]} is of zarr's older format, which mdhelpers never writes; "
                "its arrays could run code, so that nothing here is opened. Take such files away"
            )
        return identity

    def _read_metadata(self, key: str) -> bytes | None:
        return self.folder.read(key, LARGEST_FILE + 1)

    @classmethod
    def open(
        cls, location: str | Path, expected: dict | None = None, *, read_only: bool = False
    ) -> ModelStore:
        """Open an existing store; refuse one whose identity is not as ``expected``.

        Parameters
        ----------
        location
            Path or URL.
        expected
            The part of the identity that the reader counts on, perhaps ``{"data": fingerprint}``.
        read_only
            Write nothing, not even by mistake.

        """
        if not open_location(location).exists("zarr.json"):
            raise FileNotFoundError(f"no models in {location}; run notebook 02_mask_training first")
        store = cls(location, read_only=read_only)
        expected = json.loads(json.dumps(expected or {}))
        known = {key: store.identity.get(key) for key in expected}
        refuse_differences(store.path, differing_keys(known, expected))
        return store

    @classmethod
    def create(
        cls,
        location: str | Path,
        identity: dict,
        shapes: dict[str, int],
        *,
        margins_dtype: str = "float32",
    ) -> ModelStore:
        """Open the store at ``location``, or make it; refuse one that holds other models.

        Parameters
        ----------
        location
            Folder or URL, by habit ending in ``models_1.zarr``.
        identity
            Everything that decides the bits of model i. A store made from another one is never
            overwritten: the error names what differs.
        shapes
            ``n_models``, ``n_train``, ``n_test``, ``n_epochs``, ``rows`` (models a task). A
            larger ``n_models`` than the store's extends it.
        margins_dtype
            How margins are stored, ``float32`` or ``float16``; see above for what that changes.

        """
        if margins_dtype not in MARGINS_DTYPES:
            raise ValueError(f"margins_dtype is {margins_dtype!r}; give one of {MARGINS_DTYPES}")
        identity = json.loads(json.dumps({"format": FORMAT, **identity}))
        folder = open_location(location)
        if not folder.exists("zarr.json"):
            folder.create(empty_layout(identity, shapes, margins_dtype))
        store = cls(location)
        for name in ARRAYS:
            folder.remove_abandoned(f"{name}/c")
        wanted = {key: n for key, n in shapes.items() if key != "n_models"}
        wanted["margins_dtype"] = margins_dtype
        differences = differing_keys(store.identity, identity)
        refuse_differences(store.path, differences or differing_keys(store.layout, wanted))
        store.extend(shapes["n_models"])
        return store

    @property
    def n_models(self) -> int:
        return self.arrays["margins"].shape[0]

    @property
    def n_train(self) -> int:
        return self.arrays["masks"].attrs["n_train"]

    @property
    def rows_per_task(self) -> int:
        return self.arrays["margins"].chunks[0]

    @property
    def n_tasks(self) -> int:
        return -(-self.n_models // self.rows_per_task)

    @property
    def layout(self) -> dict[str, int | str]:
        """What `create` was given beside the identity, less ``n_models``."""
        return {
            "n_train": self.n_train,
            "n_test": self.arrays["margins"].shape[1],
            "n_epochs": self.arrays["losses"].shape[1],
            "rows": self.rows_per_task,
            "margins_dtype": str(self.arrays["margins"].dtype),
        }

    def extend(self, n_models: int) -> None:
        """Make room for ``n_models`` rows; what is there stays."""
        if n_models <= self.n_models:
            return
        if self.n_models % self.rows_per_task:
            self.forget(self.n_tasks - 1)  # a short task that becomes longer lacks models
        for name in ARRAYS:  # margins last: theirs is the number that readers ask for
            self.arrays[name].resize((n_models, *self.arrays[name].shape[1:]))

    def task_rows(self, task: int) -> slice:
        """The rows of a task; the last task may be short."""
        start = task * self.rows_per_task
        return slice(start, min(start + self.rows_per_task, self.n_models))

    def chunk_key(self, name: str, task: int) -> str:
        """Where a task's chunk of an array lies in the store."""
        return f"{name}/c/{task}" + "/0" * (self.arrays[name].ndim - 1)

    def _prepare(self, task: int) -> None:
        """Refuse links in the way of a task's chunks; remove what killed processes left there."""
        for name in ARRAYS:
            self.folder.place(self.chunk_key(name, task))
            if self.arrays[name].ndim == 2:  # folders of one-dimensional chunks hold all tasks'
                self.folder.remove_abandoned(f"{name}/c/{task}")

    def is_done(self, task: int) -> bool:
        """Whether the task's margins chunk, the commit mark, is there."""
        return self.folder.exists(self.chunk_key("margins", task))

    def done_tasks(self, name: str = "margins") -> set[int]:
        """The tasks that are done, by one listing (or those with a chunk of another array)."""
        return self.tasks_of(self.folder.sizes(f"{name}/c"))

    def missing_tasks(self) -> list[int]:
        """The tasks without a chunk of margins: not trained yet, or lost."""
        done = self.done_tasks()
        return [task for task in range(self.n_tasks) if task not in done]

    def tasks_of(self, keys: Iterable[str]) -> set[int]:
        """The tasks whose chunks have these keys; what else lies among chunks is passed over."""
        tasks = {int(found[2]) for key in keys if (found := self._chunk(key))}
        return {task for task in tasks if task < self.n_tasks}  # others came after it was opened

    def _chunk(self, key: str) -> re.Match | None:
        """An array's name and a task, where a key is exactly a chunk's."""
        found = CHUNK.fullmatch(key)
        fits = found and found[1] in self.arrays
        return found if fits and bool(found[3]) == (self.arrays[found[1]].ndim == 2) else None

    def digest(self) -> str:
        """A fingerprint of all the store holds, without reading the chunks: sha256, in hex.

        It is made of the metadata files and of each chunk's key, size and checksum; under a URL of
        key and size alone. Two stores of equal models differ in it, since their ``seconds`` do.
        """
        whole = hashlib.sha256()
        for key in ("zarr.json", *(f"{name}/zarr.json" for name in ARRAYS)):
            content = self._read_metadata(key) or b""
            whole.update(f"{key} {len(content)} ".encode() + content)
        for name in ARRAYS:
            sizes = self.folder.sizes(f"{name}/c")
            for key in sorted(filter(self._chunk, sizes)):
                whole.update(f"{key} {sizes[key]} ".encode() + self.folder.tail(key))
        return whole.hexdigest()

    def write_task(self, task: int, arrays: dict[str, np.ndarray]) -> None:
        """Write one task's rows, margins last.

        Raises
        ------
        DiskFull
            If the disk is full. Nothing half written counts as done.
        ValueError
            If an array is missing or of another shape, or a margin does not fit float16.

        """
        rows = self.task_rows(task)
        packed = self._packed(rows, arrays)
        was_done = self.is_done(task)
        self._prepare(task)
        try:
            for name in ARRAYS:
                self.arrays[name][rows] = packed[name]
        except OSError as error:
            if not was_done:
                self._remove_half_a_mark(task)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DiskFull(
                f"the disk is full: models {rows.start} to {rows.stop - 1} could not be written to "
                f"{self.path}. All tasks finished before are kept ({len(self.done_tasks())} of "
                f"{self.n_tasks}). Free some space and run again: it goes on from there."
            ) from error

    def _packed(self, rows: slice, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays as they are stored, with their shapes and range checked."""
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise ValueError(f"a task's arrays are {', '.join(ARRAYS)}; missing: {missing}")
        for name in ARRAYS:
            tail = (self.n_train,) if name == "masks" else self.arrays[name].shape[1:]
            expected, shape = (rows.stop - rows.start, *tail), np.shape(arrays[name])
            if shape != expected:
                raise ValueError(f"{name} have shape {shape}; this task's are {expected}")
        limit = np.finfo(self.arrays["margins"].dtype).max
        if (large := np.abs(arrays["margins"]).max()) > limit:
            raise ValueError(
                f"a margin of size {large:g} does not fit float16; set margins_dtype: float32"
            )
        return {**arrays, "masks": np.packbits(arrays["masks"], axis=1)}

    def _remove_half_a_mark(self, task: int) -> None:
        """Not every place writes whole or not at all; a mark that fails its checksum is none."""
        with contextlib.suppress(OSError):
            if self.check([task], ["margins"]):
                self.folder.remove([self.chunk_key("margins", task)])

    def forget(self, task: int) -> None:
        """Remove a task, its commit mark first, so that it is trained anew."""
        self.folder.remove([self.chunk_key(name, task) for name in reversed(ARRAYS)])

    def check(
        self, tasks: Iterable[int] | None = None, names: Iterable[str] = ARRAYS
    ) -> list[tuple[str, int]]:
        """The damaged chunks of finished tasks, as (array, task) in the order of tasks.

        Every chunk is read whole and held against its checksum; one that is missing is damaged.
        ``tasks`` are all that are done, by default.
        """
        names = tuple(names)
        tasks = sorted(self.done_tasks() if tasks is None else tasks)
        pairs = [(name, task) for task in tasks for name in names]
        bad: list[tuple[str, int]] = []
        with ThreadPoolExecutor(READERS) as pool:
            for start in range(0, len(pairs), 1024):  # a bound on what waits in the pool
                some = pairs[start : start + 1024]
                good = pool.map(lambda p: is_intact(self.folder.read(self.chunk_key(*p))), some)
                bad += [pair for pair, fine in zip(some, good, strict=True) if not fine]
        return bad

    def read(self, n_models: int | None = None, *, packed: bool = False) -> Trained:
        """The first ``n_models`` models (all of them by default), masks as bits if ``packed``.

        Raises
        ------
        ValueError
            If a model is not trained yet.
        DamagedChunk
            If a chunk is missing or fails its checksum; the message says how to mend it.

        """
        rows = slice(0, n_models)
        masks = self.read_masks(rows, packed=packed)
        margins = self.read_margins(rows)
        names = ("accuracy", "losses", "slots", "seconds")
        return Trained(masks, margins, *(self.read_array(name, rows) for name in names))

    def read_masks(self, rows=EVERY, *, packed: bool = False) -> np.ndarray:
        """Masks of some rows (a slice or indices): bool, or uint8 with 8 in a byte if ``packed``.

        Packed as `numpy.packbits` does, the first training example in the highest bit.
        """
        masks = self.read_array("masks", rows)
        return masks if packed else np.unpackbits(masks, axis=1, count=self.n_train).view(bool)

    def read_margins(self, rows=EVERY, columns=EVERY) -> np.ndarray:
        """Margins of some rows and test examples (slices or indices), float32.

        Beside the result this needs the memory of a few tasks, however large the store is.
        """
        return self.read_array("margins", rows, columns).astype(np.float32, copy=False)

    def read_array(self, name: str, rows=EVERY, columns=EVERY) -> np.ndarray:
        """A block of any array, as it is stored; raises as `read` does."""
        index = np.arange(self.n_models)[rows]
        if isinstance(rows, slice):  # another process may have extended this array by now
            rows = slice(*rows.indices(self.n_models))
        tasks = set((index // self.rows_per_task).tolist())
        self._check_trained(index)
        if lost := tasks - self.done_tasks(name):
            raise DamagedChunk(self._damage(name, min(lost)))
        array = self.arrays[name]
        try:
            return array.oindex[(rows, columns)[: array.ndim]]
        except (ValueError, RuntimeError, MemoryError) as error:  # of zarr, zstd
            bad = self.check(tasks, [name])
            if bad:
                raise DamagedChunk(self._damage(*bad[0])) from None
            raise ValueError(
                f"{self.path}: {name} of tasks {min(tasks)} to {max(tasks)} cannot be read: {error}"
            ) from error

    def _check_trained(self, index: np.ndarray) -> None:
        done = np.zeros(self.n_tasks, bool)
        done[list(self.done_tasks())] = True
        missing = index[~done[index // self.rows_per_task]]
        if len(missing):
            raise ValueError(
                f"{self.path}: {len(missing)} of {len(index)} models are not trained yet (the "
                f"first is model {missing.min()}); run notebook 02_mask_training to finish"
            )

    def _damage(self, name: str, task: int) -> str:
        rows = self.task_rows(task)
        there = self.folder.exists(self.chunk_key(name, task))
        what = "fails its checksum: it was changed or cut short" if there else "is missing"
        run = self.path.parent if isinstance(self.path, Path) else "RUN"
        return (
            f"{self.path}: the chunk of {name} of task {task} (models {rows.start} to "
            f"{rows.stop - 1}) {what}. Mend it with `mdhelpers status {run} --check --mend`; "
            f"then the same `mdhelpers run` trains exactly the damaged models again."
        )


def task_digests(store: ModelStore) -> str:
    """Return eight hex digits for each task, of the sizes and checksums of its chunks.

    Times are left out: a task that was trained again has the same digits.
    """
    sizes, digits = store.folder.sizes(), []
    for task in range(store.n_tasks):
        keys = [store.chunk_key(name, task) for name in store.arrays if name != "seconds"]
        told = [(key, sizes.get(key), store.folder.tail(key).hex()) for key in sorted(keys)]
        digits.append(digest(told)[:8])
    return "".join(digits)


def changed_tasks(store: ModelStore, told: Mapping[str, Any]) -> list[int]:
    """Return the tasks of a store that are there, and are not what `describe` told of them."""
    before, now = told.get("tasks", ""), task_digests(store)
    there = store.done_tasks()
    n = min(len(before), len(now)) // 8
    same = [before[8 * task : 8 * task + 8] == now[8 * task : 8 * task + 8] for task in range(n)]
    return [task for task in range(n) if task in there and not same[task]]
