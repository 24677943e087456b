"""Whether an output of a run is still what was written: digests of files and of stores."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mdhelpers.records import digest, file_digest

if TYPE_CHECKING:
    from mdhelpers.store import ModelStore

STORE = ".zarr"


def describe(place: Path | str) -> dict[str, Any]:
    """Return what a manifest keeps of an output: a file's size and sha256, a store's digest."""
    if str(place).endswith(STORE):
        from mdhelpers.store import ModelStore

        store = ModelStore.open(place, read_only=True)
        return {"store": store.digest(), "tasks": task_digests(store)}
    return {"size": Path(place).stat().st_size, "sha256": content_digest(Path(place))}


def problem(place: Path | str, told: Mapping[str, Any] | None, *, thorough: bool) -> str:
    """Return in words what is wrong with an output; empty where nothing is.

    Parameters
    ----------
    place
        Path of a file, or path or URL of a store.
    told
        What `describe` said of it when it was written; None where nobody did.
    thorough
        Read it whole. Otherwise a file's size is looked at, and a store's own checksums.
    """
    if str(place).endswith(STORE):
        return _store_problem(place, told, thorough=thorough)
    if not place.is_file():
        return "" if not told and place.is_dir() else "is missing"
    size = place.stat().st_size
    if not told:
        return ""
    if size != told.get("size"):
        return f"was changed: it has {size} bytes, and had {told.get('size')}"
    return "was changed" if thorough and content_digest(place) != told.get("sha256") else ""


def _store_problem(place: Path | str, told: Mapping[str, Any] | None, *, thorough: bool) -> str:
    from mdhelpers.store import ModelStore

    try:
        store = ModelStore.open(place, read_only=True)
    except FileNotFoundError:
        return "is missing"
    except ValueError as error:
        return f"cannot be read ({error})"
    if lost := store.missing_tasks():
        return f"lacks the models of {len(lost)} tasks, of task {lost[0]} first"
    if thorough and (bad := store.check()):
        array, task = bad[0]
        return f"has {len(bad)} damaged chunks, that of {array} of task {task} first"
    return "was changed" if told and store.digest() != told.get("store") else ""


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


def content_digest(path: Path) -> str:
    """Return a file's sha256; a file that was not written since is not read again."""
    about = path.stat()
    return _content_digest(path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=4096)
def _content_digest(path: Path, *_stamp: int) -> str:
    return file_digest(path)


def is_inside(name: str) -> bool:
    """Return whether a name in a manifest can only mean something in the run's own folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder itself, and not by a link that leads out of it."""
    return not path.is_symlink() and path.resolve().is_relative_to(folder.resolve())


_KINDS = {
    "stage": str, "block": str, "key": str, "parameters": dict, "inputs": dict,
    "outputs": dict | list, "figures": dict, "run": dict, "seconds": int | float, "finished": str,
}  # fmt: skip
_LATER = {"figures", "run"}  # which runs of older versions lack


def is_manifest(found: Mapping[str, Any]) -> bool:
    """Whether a record has what a manifest has: it may be damaged, or a stranger's."""
    missing = set(_KINDS) - set(found)
    if not missing <= _LATER or missing == {"run"}:
        return False
    if not all(isinstance(found[key], _KINDS[key]) for key in set(_KINDS) - missing):
        return False
    if not all(other < found["stage"] for other in found["inputs"]):  # stages read earlier ones
        return False
    return all(isinstance(name, str) for name in found["outputs"])
