"""Where things are, and what made a result: the machine, the versions, the commit.

Jupyter starts a notebook in `notebooks/`, papermill starts it where the caller stands. Relative
paths in parameters therefore count from the project's folder, wherever the process was started.
Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import mdhelpers

# glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; it takes no larger value of the second
MALLOC_OPTIONS = {-1: 1 << 30, -3: 1 << 25}
# safetensors, zarr, NumPy ("requested and … written") and notebooks that failed have texts alone
_FULL = re.compile(
    r"No space left|StorageFull|Disk quota exceeded|disk is full|\d+ requested and \d+ written"
)
PACKAGES = ("mdhelpers", "torch", "numpy", "scikit-learn", "zarr", "open_clip_torch", "papermill")


def project_root() -> Path:
    """Return the folder that relative paths count from.

    The nearest ancestor of the working directory that holds `notebooks/` and a `pyproject.toml`
    that is, or depends on, `mdhelpers`; else the checkout that the package lies in; else the
    working directory.
    """
    return checkout() or Path.cwd()


def checkout() -> Path | None:
    """Return the checkout around the working directory, else the one the package lies in."""
    here = Path.cwd()
    places = [here, *here.parents, Path(__file__).resolve().parents[2]]
    return next((folder for folder in places if _is_checkout(folder)), None)


def _is_checkout(folder: Path) -> bool:
    """Whether `folder` holds this project: its `pyproject.toml` and its `notebooks/`."""
    file = folder / "pyproject.toml"
    if not (file.is_file() and (folder / "notebooks").is_dir()):
        return False
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False
    wanted = [project.get("name", ""), *project.get("dependencies", [])]
    return any(str(text).startswith("mdhelpers") for text in wanted)


def resolve(path: str | Path) -> Path:
    """Return `path` as absolute: `~` is the home folder, relative counts from `project_root()`.

    ``package://NAME/FILE`` is a file that an installed package brings; nothing of it is imported.

    Raises
    ------
    ValueError
        If there is no package of that name.
    """
    found = IN_A_PACKAGE.fullmatch(str(path))
    if found:
        return _in_package(*found.groups())
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


IN_A_PACKAGE = re.compile(r"package:/{1,2}([A-Za-z_]\w*)/(.+)")  # pathlib leaves one of two slashes


def _in_package(name: str, file: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"package://{name}/{file}: no package {name} is installed. Install it, for example by "
            f"pip install {name.replace('_', '-')}"
        )
    return Path(next(iter(spec.submodule_search_locations))) / file


def shown(path: str | Path) -> str:
    """Return `path` as a person wants to read it: relative to the project where it lies in it."""
    path = Path(path)
    root = project_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def package_version(name: str) -> str | None:
    """Return the version of a package, or None where it is not installed."""
    if name == "mdhelpers":
        return mdhelpers.__version__
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {name: package_version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {k: v for k, v in found.items() if v}


def git_commit() -> str:
    """Return the checkout's short commit, with `+changes` when files differ, or `unknown`."""
    root = checkout()
    commit = _git(root, "rev-parse", "--short", "HEAD") if root else None
    if not commit:
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    return f"{commit}+changes" if changed else commit


def public_address() -> str:
    """Where the checkout's code lies for all, `https://host/owner/name`; "" where it is unknown."""
    root = checkout()
    found = (_git(root, "config", "remote.origin.url") or "") if root else ""
    found = re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", found).removesuffix(".git")
    found = re.sub(r"^https://[^/@]*@", "https://", found)  # a token is nobody's business
    return found if found.startswith("https://") else ""


def _git(root: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(root), *words]
    try:
        done = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Return the memory this process may use: the machine's, or its container's if that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total


def cpu_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.processor() or platform.machine()])[0]


def gpu_name() -> str | None:
    """Return the first CUDA device's name if torch is imported and sees one."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(0)


def machine() -> dict[str, str | int | float | None]:
    """Return a summary of this machine for `results.json`; memory in GB."""
    memory = memory_bytes()
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "gpu": gpu_name(),
        "memory": round(memory / 1e9, 1) if memory else None,
    }


def keep_freed_memory() -> None:
    """Have this process keep the memory that it frees, so that large tensors find it mapped.

    glibc gives blocks over 128 kB back to the system and has every page of the next one mapped
    anew, an eighth of the time of a training step on a CPU. Elsewhere than on Linux with glibc
    nothing happens. No result depends on it.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    for option, value in MALLOC_OPTIONS.items():
        libc.mallopt(option, value)


def existing_parent(path: Path) -> Path:
    """Return `path` if it exists, else its nearest ancestor that does."""
    return next(folder for folder in [path, *path.parents] if folder.exists())


def is_disk_full(error: BaseException | str) -> bool:
    """Return whether an error, or its message, says that a disk or a quota is full."""
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    cause = getattr(error, "__cause__", None)
    return bool(_FULL.search(str(error))) or (cause is not None and is_disk_full(cause))


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk that `path` is, or would be, on."""
    return shutil.disk_usage(existing_parent(path)).free


def disk_bytes(path: Path | str) -> int:
    """Return the size of the disk that `path` is, or would be, on, free or not."""
    return shutil.disk_usage(existing_parent(resolve(path))).total


def folder_bytes(path: Path) -> int:
    """Return the bytes that the files under `path` take; 0 where there is no such folder."""
    total = 0
    for file in path.rglob("*"):
        try:
            total += file.stat().st_size if file.is_file() else 0
        except OSError:  # a file that another process just removed
            continue
    return total


def typeset(number: str) -> str:
    """A number's text with a true minus sign, and with none where only zeros are left of it."""
    if not number.strip("+-0.%"):
        return number.lstrip("+-")
    return number.replace("-", "\N{MINUS SIGN}")


def in_words(size: float) -> str:
    """Return a number of bytes in the largest unit that suits it: `in_words(2.5e9) == "2.5 GB"`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size:.0f} bytes"


def duration(seconds: float) -> str:
    """Return a time in words: `41 s`, `3 min 20 s`, `2 h 5 min`, `12 days`, `4 years`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    minutes, rest = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 100:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days = round(hours / 24)
    return f"{days} days" if days < 730 else f"{round(days / 365):,} years"


def reachable(address: str, *, timeout: float = 2.0) -> bool:
    """Whether the host of a web address, or the proxy set for it, accepts a connection."""
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    parts = urlsplit(proxy or address)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        with socket.create_connection((parts.hostname, port), timeout=timeout):
            return True
    except OSError:
        return False
