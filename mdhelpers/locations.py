"""Where a store lies: a folder of this machine, or a URL of any kind that fsspec knows.

Both kinds answer the same few questions. A ``file://`` URL is taken as the folder that it names,
because fsspec writes local files in place, and a process killed in mid-write would leave half a
file; here a file appears whole or not at all, as an object of a bucket does.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

PARTIAL = ".partial"  # zarr's name for a local file that is being written


def open_location(location: str | Path) -> LocalFolder | RemoteFolder:
    """The folder or bucket at a path or URL; it need not exist yet.

    Raises
    ------
    ValueError
        If the URL's protocol is unknown, or needs a package that is not installed.

    """
    text = os.fspath(location)
    if "://" not in text:
        return LocalFolder(Path(text))
    parts = urlsplit(text)
    return LocalFolder(Path(unquote(parts.path))) if parts.scheme == "file" else RemoteFolder(text)


def file_system(url: str):
    """fsspec's file system of a URL and the path within it."""
    try:
        from fsspec.core import url_to_fs
        from fsspec.registry import known_implementations
    except ImportError:
        raise ValueError(
            f"{url} needs the package fsspec: `pip install 'mdhelpers[cluster]'`, or give a path"
        ) from None
    try:
        return url_to_fs(url)
    except ValueError as error:
        raise ValueError(f"{url}: {error}; give a path, or s3://…, gs://…, abfs://…") from None
    except ImportError as error:
        protocol = urlsplit(url).scheme
        package = known_implementations.get(protocol, {"class": "unknown"})["class"].split(".")[0]
        raise ValueError(
            f"{url} needs the package {package}: `pip install {package}` ({error})"
        ) from None


class LocalFolder:
    """A folder; keys are its files' paths relative to it."""

    def __init__(self, path: Path):
        self.location = path

    def zarr_store(self, *, read_only: bool = False) -> Store:
        return LocalStore(self.location, read_only=read_only)

    def exists(self, key: str) -> bool:
        return (self.location / key).is_file()

    def read(self, key: str) -> bytes | None:
        """The content of a key, None where there is none."""
        try:
            return (self.location / key).read_bytes()
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """All keys under a prefix with their bytes; files still being written are left out."""
        found, folders = {}, [prefix]
        while folders:
            folder = folders.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(self.location / folder) as all_:
                for entry in all_:
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_dir():
                        folders.append(key)
                    elif not entry.name.endswith(PARTIAL):
                        with contextlib.suppress(FileNotFoundError):
                            found[key] = entry.stat().st_size
        return found

    def remove(self, keys: list[str]) -> None:
        """Remove keys in this order; those that are not there are passed over."""
        for key in keys:
            (self.location / key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all there is."""
        shutil.rmtree(self.location, ignore_errors=True)

    def create(self, contents: dict[str, bytes]) -> None:
        """Write all keys, or, where another process was first, none."""
        temporary = self.location.with_name(f"{self.location.name}.{uuid.uuid4().hex}.tmp")
        try:
            for key, content in contents.items():
                (temporary / key).parent.mkdir(parents=True, exist_ok=True)
                (temporary / key).write_bytes(content)
            with contextlib.suppress(OSError):  # another process was first
                temporary.rename(self.location)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class RemoteFolder:
    """What lies under a URL; keys are relative to it."""

    def __init__(self, url: str):
        self.location = url.rstrip("/")
        self.fs, path = file_system(self.location)
        self.root = path.rstrip("/")

    def zarr_store(self, *, read_only: bool = False) -> Store:
        return FsspecStore.from_url(self.location, read_only=read_only)

    def exists(self, key: str) -> bool:
        self.fs.invalidate_cache()
        return self.fs.exists(f"{self.root}/{key}")

    def read(self, key: str) -> bytes | None:
        """The content of a key, None where there is none."""
        try:
            return self.fs.cat_file(f"{self.root}/{key}")
        except FileNotFoundError:
            return None

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """All keys under a prefix with their bytes."""
        self.fs.invalidate_cache()
        found = self.fs.find(f"{self.root}/{prefix}".rstrip("/"), detail=True)
        return {name[len(self.root) + 1 :]: about["size"] for name, about in found.items()}

    def remove(self, keys: list[str]) -> None:
        """Remove keys in this order; those that are not there are passed over."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(f"{self.root}/{key}")

    def clear(self) -> None:
        """Remove all there is."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.root, recursive=True)

    def create(self, contents: dict[str, bytes]) -> None:
        """Write all keys in their order; the last one is the sign that all are there."""
        for key, content in contents.items():
            self.fs.pipe_file(f"{self.root}/{key}", content)
