"""Files that survive a crash: plain values, whole-or-nothing writes, a lock, digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np

try:
    import fcntl
except ImportError:  # Windows has no flock; there one process at a time is on the user
    fcntl = None


def plain(value: Any) -> Any:
    """Return `value` made of what JSON has; numpy becomes numbers and lists, NaN and ±inf None.

    Raises
    ------
    ValueError
        If `value` holds something that JSON cannot say, such as a model or a function.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return _plain_object(value)


def _plain_object(value: Any) -> Any:
    # pydantic, dates, pandas, torch
    for method in ("model_dump", "isoformat", "to_dict", "tolist"):
        if hasattr(value, method) and not isinstance(value, type):
            return plain(getattr(value, method)())
    raise ValueError(
        f"A {type(value).__name__} cannot be recorded. Give numbers, texts, lists, mappings, "
        "arrays or tables."
    )


def digest(value: Any) -> str:
    """Return the sha256, in hex, of `value` as canonical JSON."""
    text = json.dumps(plain(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256, in hex, of a file's contents: put it among the parameters of a stage."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    """Return what the JSON file holds; an empty mapping where there is none.

    Raises
    ------
    ValueError
        If the file is no JSON, or no mapping: it names the file.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}). It was edited or damaged: delete it and run again."
        ) from error
    if not isinstance(found, dict):
        raise ValueError(
            f"{path} holds {type(found).__name__}, not a mapping. It was edited or damaged: delete "
            "it and run again."
        )
    return found


def read_or_empty(path: Path) -> dict:
    """Return what the JSON file holds; an empty mapping where there is none, or it is damaged."""
    try:
        return read_json(path)
    except ValueError:
        return {}


def write_json(path: Path, value: Any) -> None:
    """Write `value` so that a reader, or a crash, finds the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(value), indent=2, ensure_ascii=False) + "\n"
    with written(path) as unfinished, unfinished.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


UNFINISHED = re.compile(r"\..+\.(?P<host>[^.-]+)-(?P<pid>\d+)-[0-9a-f]{8}\.unfinished")
ABANDONED_S = 24 * 3600.0  # of other hosts, whose processes cannot be asked for


def unfinished_name(path: Path) -> Path:
    """Return a name beside `path` for what is still being written; no two calls give the same.

    It tells whose it is, so that `remove_unfinished` knows what a killed process has left.
    """
    # whole names are at most 255 bytes long on most disks
    stem = path.name.encode()[:160].decode(errors="ignore")
    whose = f"{_host()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f".{stem}.{whose}.unfinished")


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """Yield a name beside `path` to write a file to; it takes the place of `path` at the end.

    The file is readable to whom the umask allows it, whoever made it. Where the block fails, `path`
    stays as it was.
    """
    unfinished = unfinished_name(path)
    try:
        yield unfinished
        with contextlib.suppress(OSError):  # not every disk knows modes
            os.chmod(unfinished, 0o666 & ~_umask())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed processes had begun to write in `folder` itself, and no other file."""
    for path in folder.glob(".*.unfinished"):
        if (found := UNFINISHED.fullmatch(path.name)) and _is_abandoned(path, found):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_abandoned(path: Path, whose: re.Match) -> bool:
    if whose["host"] == _host():
        return not _is_alive(int(whose["pid"]))
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED_S
    except OSError:  # gone meanwhile
        return False


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname())[:32] or "host"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True


@lru_cache(maxsize=1)
def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


class Busy(RuntimeError):
    """Another process holds the lock."""


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`; it falls open when the process ends, however it ends.

    On a disk that knows no locks, as some network and DOS file systems, nothing is held; nor on one
    that can only be read.

    Raises
    ------
    Busy
        If another process holds it and `wait` is false.
    """
    with _lock_file(path) as file:
        try:
            if fcntl is not None and file is not None:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise Busy(str(path)) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        yield


def _lock_file(path: Path) -> contextlib.AbstractContextManager[IO | None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a")
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        return contextlib.nullcontext()  # where nobody can write, nobody has to be kept from it


READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF}


def now() -> str:
    """Return the time as ISO text, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def moment(text: str) -> str:
    """Return an ISO time as people read it: `2026-11-21 23:04 UTC`."""
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M} UTC"


def differences(before: Any, after: Any, name: str = "") -> list[str]:
    """Return what differs between two plain values: `["algorithm_1.lr changed: 0.1 → 0.2"]`."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        found = []
        for key in keys:
            dotted = f"{name}.{key}" if name else key
            if key not in before:
                found.append(f"{dotted} is new: {_short(after[key])}")
            elif key not in after:
                found.append(f"{dotted} is gone, was {_short(before[key])}")
            else:
                found += differences(before[key], after[key], dotted)
        return found
    return [] if before == after else [f"{name} changed: {_short(before)} → {_short(after)}"]


def _short(value: Any, width: int = 40) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= width else text[: width - 1] + "…"


def few(items: list[str], most: int = 3) -> str:
    """Return the first items in one line, and how many more there are."""
    rest = len(items) - most
    return "; ".join(items[:most]) + (f"; and {rest} more" if rest > 0 else "")


def content_digest(path: Path) -> str:
    """Return a file's sha256; a file that was not written since is not read again."""
    about = path.stat()
    return _content_digest(path, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


@lru_cache(maxsize=2**18)  # files of the largest data sets
def _content_digest(path: Path, *_stamp: int) -> str:
    return file_digest(path)
