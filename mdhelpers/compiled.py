"""numba's compiler, with a cache of what it made where there is a place for one.

A cache saves seconds at each start and decides nothing. An installation that is read-only, used by
someone without a home that can be written, has no place: then one is made among the temporary
files, and where that fails too, everything is compiled anew.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import numba

__all__ = ["compiled"]


def compiled(**options) -> Callable:
    """`numba.njit` with these options, cached where possible."""

    def decorate(function: Callable) -> Callable:
        for place in (numba.config.CACHE_DIR, private_folder):
            try:
                numba.config.CACHE_DIR = place() if callable(place) else place
                return numba.njit(cache=True, **options)(function)
            except (RuntimeError, OSError):  # cannot cache: no place can be written
                continue
        return numba.njit(**options)(function)

    return decorate


def private_folder() -> str:
    """A folder of this user's alone among the temporary files.

    numba unpickles what lies in its cache, so that a folder which others can write would let them
    run code.

    Raises
    ------
    OSError
        If there is none and none can be made.

    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"mdhelpers-numba-{user}"
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    others = about.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
    if not stat.S_ISDIR(about.st_mode) or (os.name == "posix" and (about.st_uid != user or others)):
        raise OSError(f"{folder} is not this user's own")
    return str(folder)
