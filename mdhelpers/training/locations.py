"""Where a store lies: a folder of this machine, or a URL of any kind that fsspec knows.

Both kinds answer the same few questions. A ``file://`` URL is taken as the folder that it names,
because fsspec writes local files in place, and a process killed in mid-write would leave half a
file; here a file appears whole or not at all, as an object of a bucket does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from mdhelpers.base.records import unfinished_name

PARTIAL = ".partial"  # zarr's name for a local file that is being written
OLDER = (".zgroup", ".zarray", ".zattrs", ".zmetadata")  # files of zarr's older format
ABANDONED_S = 600.0  # a chunk is written in one go: what is older was left by a killed process
BUCKETS = ("s3", "s3a", "gs", "gcs", "oss", "oci")  # their first part is a bucket, and no host
PROTOCOLS = ("file", "memory", *BUCKETS, "abfs", "abfss", "az", "hdfs", "sftp", "smb")


def check_url(url: str | Path) -> None:
    """Refuse what models are never stored under; a plain path passes.

    No message shows more of a URL than its protocol, since the rest may hold a key.

    Raises
    ------
    ValueError
        For chained protocols (``simplecache::s3://…``), for those that are not in ``PROTOCOLS``,
        and for a URL with a password, a key or a query.

    """
    text = os.fspath(url)
    if not text.isprintable():
        raise ValueError("the URL or path of models holds control characters; take them out")
    if re.match(r"[\w+.-]+::", text):
        raise ValueError(
            f"{text.partition('::')[0]}::… chains protocols, which could run what a URL names. "
            f"Models are stored under one alone: {_shown_protocols()}, or give a path"
        )
    if "://" in text:
        _check_parts(text)
    elif (given := text.partition(":")[0]) in PROTOCOLS and ":" in text:
        raise ValueError(f"{given}:… is neither a path nor a URL; write {given}://…")


def _check_parts(text: str) -> None:
    protocol = text.partition("://")[0]
    if protocol not in PROTOCOLS:
        shown = protocol if re.fullmatch(r"[\w+.-]+", protocol) else "this one"
        raise ValueError(
            f"protocol not known for models: {shown}; give a path, or one of {_shown_protocols()}"
        )
    host, _, path = text.partition("://")[2].partition("/")
    user, at, _ = host.rpartition("@")
    bucket = protocol in BUCKETS
    # what has no port's form may be a key that holds a slash
    odd_port = ":" in host and not re.fullmatch(
        r"[^:]*:\d{1,5}|.*\[[\da-fA-F:.]+\](:\d{1,5})?", host
    )
    if ":" in user or odd_port or (bucket and (at or ":" in host)) or re.search("[?#]", text):
        raise ValueError(
            f"{protocol}://… holds a user, key or query. URLs are recorded in plans and shown on "
            "pages: give keys where its client looks for them, in the environment or its own file"
        )
    if protocol == "file" and host not in ("", "localhost"):
        raise ValueError("file://… names a host; write file:/// and an absolute path, or a path")
    if not (host or path.strip("/")):
        raise ValueError(f"{protocol}:// names no bucket or folder; write {protocol}://NAME/…")


def _shown_protocols() -> str:
    return ", ".join(f"{protocol}://" for protocol in PROTOCOLS)


def open_location(location: str | Path) -> LocalFolder | RemoteFolder:
    """The folder or bucket at a path or URL; it need not exist yet.

    Raises
    ------
    ValueError
        If the URL is refused (`check_url`), or needs a package that is not installed.

    """
    text = os.fspath(location)
    check_url(text)
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
    """A folder; keys are its files' paths relative to it.

    The folder itself may be a link. Links within it are refused: they are neither read nor written
    through, nor does what is removed reach beyond them.
    """

    def __init__(self, path: Path):
        self.location = path

    def zarr_store(self, *, read_only: bool = False) -> Store:
        return LocalStore(self.location, read_only=read_only)

    def place(self, key: str) -> Path:
        """The path of a key.

        Raises
        ------
        ValueError
            If it, or a folder on the way to it, is a link.

        """
        path = str(self.location)
        for part in key.split("/"):
            path = os.path.join(path, part)
            if os.path.islink(path):
                raise _is_link(path)
        return Path(path)

    def exists(self, key: str) -> bool:
        return self.place(key).is_file()

    def read(self, key: str, most: int = -1) -> bytes | None:
        """The content of a key, or its first bytes; None where there is none, or no plain file."""
        path = self.place(key)
        if not path.is_file():
            return None
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            return file.read(most)

    def write(self, key: str, content: bytes) -> None:
        """Write a key."""
        self.place(key).write_bytes(content)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """All keys under a prefix with their bytes; files still being written are left out.

        So are hidden links, and what is no plain file.
        """
        found, folders = {}, [prefix]
        while folders:
            folder = folders.pop()
            with contextlib.suppress(FileNotFoundError), os.scandir(self.place(folder)) as entries:
                for entry in entries:
                    key = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.is_symlink():
                        if not entry.name.startswith("."):
                            raise _is_link(entry.path)
                    elif entry.is_dir():
                        folders.append(key)
                    elif not entry.name.endswith(PARTIAL):
                        with contextlib.suppress(FileNotFoundError):
                            about = entry.stat()
                            if stat.S_ISREG(about.st_mode):
                                found[key] = about.st_size
        return found

    def tail(self, key: str) -> bytes:
        """The last four bytes of a key, which are a chunk's checksum; none where it is gone."""
        try:
            with open(self.location / key, "rb", buffering=0) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4))
                return file.read(4)
        except FileNotFoundError:
            return b""

    def older_files(self) -> list[str]:
        """Names of zarr's older format at the root and one folder below it."""
        names = ("", *(entry.name for entry in os.scandir(self.location) if entry.is_dir()))
        there = (os.path.join(name, old) for name in names for old in OLDER)
        return [key for key in there if os.path.lexists(self.location / key)]

    def remove(self, keys: list[str]) -> None:
        """Remove keys in this order; those that are not there are passed over."""
        for key in keys:
            self.place(key).unlink(missing_ok=True)

    def remove_abandoned(self, folder: str) -> None:
        """Remove what killed processes had begun to write in one folder of the store."""
        with contextlib.suppress(OSError), os.scandir(self.place(folder)) as entries:
            for entry in entries:
                old = entry.name.endswith(PARTIAL) and time.time() - entry.stat().st_mtime
                if old > ABANDONED_S:
                    os.unlink(entry.path)

    def clear(self) -> None:
        """Remove all there is."""
        shutil.rmtree(self.location, ignore_errors=True)

    def create(self, contents: dict[str, bytes]) -> None:
        """Write all keys, or, where another process was first, none."""
        temporary = unfinished_name(self.location)
        try:
            for key, content in contents.items():
                (temporary / key).parent.mkdir(parents=True, exist_ok=True)
                (temporary / key).write_bytes(content)
            with contextlib.suppress(OSError):  # another process was first
                temporary.rename(self.location)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _is_link(path: str) -> ValueError:
    return ValueError(
        f"{path} is a link, and a store of models has none: it could lead out of it. Put what it "
        "leads to in its place, or make the whole store's folder the link"
    )


class RemoteFolder:
    """What lies under a URL; keys are relative to it."""

    def __init__(self, url: str):
        self.location = url.rstrip("/")
        self.fs, path = file_system(self.location)
        self.root = path.rstrip("/")

    def zarr_store(self, *, read_only: bool = False) -> Store:
        return FsspecStore.from_url(self.location, read_only=read_only)

    def place(self, key: str) -> str:
        """The path of a key in its file system, which is taken to have no links."""
        return f"{self.root}/{key}"

    def exists(self, key: str) -> bool:
        self.fs.invalidate_cache()
        return self.fs.exists(self.place(key))

    def read(self, key: str, most: int | None = None) -> bytes | None:
        """The content of a key, or its first bytes; None where there is none."""
        try:
            return self.fs.cat_file(self.place(key), end=most)
        except FileNotFoundError:
            return None

    def write(self, key: str, content: bytes) -> None:
        """Write a key."""
        self.fs.pipe_file(self.place(key), content)

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """All keys under a prefix with their bytes."""
        self.fs.invalidate_cache()
        found = self.fs.find(f"{self.root}/{prefix}".rstrip("/"), detail=True)
        return {name[len(self.root) + 1 :]: about["size"] for name, about in found.items()}

    def tail(self, key: str) -> bytes:  # noqa: ARG002
        """Nothing: a request for each chunk would take too long."""
        return b""

    def older_files(self) -> list[str]:
        """Names of zarr's older format at the root; below it nothing reads them."""
        names = (Path(name).name for name in self.fs.ls(self.root, detail=False))
        return [name for name in names if name in OLDER]

    def remove(self, keys: list[str]) -> None:
        """Remove keys in this order; those that are not there are passed over."""
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(self.place(key))

    def remove_abandoned(self, folder: str) -> None:
        """Nothing: objects appear when they are whole."""

    def clear(self) -> None:
        """Remove all there is."""
        with contextlib.suppress(FileNotFoundError):
            self.fs.rm(self.root, recursive=True)

    def create(self, contents: dict[str, bytes]) -> None:
        """Write all keys in their order; the last one is the sign that all are there."""
        for key, content in contents.items():
            self.fs.pipe_file(f"{self.root}/{key}", content)
