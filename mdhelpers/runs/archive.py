"""A finished run as one file, to be sent: packed, fetched, unpacked.

What only further fits need is left out; `mdhelpers run` makes it anew where it is wanted. What
comes from elsewhere is unpacked only where it is a run and nothing else, and never over what is
there.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import zipfile
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from urllib.error import URLError
from urllib.request import urlopen

from mdhelpers.base.places import in_words, resolve, shown
from mdhelpers.base.records import file_digest, read_json, unfinished_name, written
from mdhelpers.runs.notebooks import read_entries
from mdhelpers.runs.run import LEFT_OUT, MARK, NAME, Run, StudyError, is_run

SPARED = ("scores_*.npy",)  # of gradients: the largest files of a run, read by step 03 alone
OURS = {MARK, "results.json", "plan.json", "stages"}  # beside what stages say that they wrote
LARGEST = 4 << 30  # bytes, unpacked
PIECE = 1 << 20


def pack(run: Run, path: Path) -> Path:
    """Write a zip file of what a run has made, without ``SPARED``; the same bytes each time.

    It may be published: what somebody else has put into the folder, notes and logs stay behind.
    """
    outputs = {name for manifest in run.manifests() for name in manifest["outputs"]}
    ours = {name.split("/")[0] for name in outputs} | OURS
    pages = {f"notebooks/{name}.ipynb" for name in read_entries(run)} | {"notebooks/keys.json"}
    found = (file for file in run.folder.rglob("*") if file.is_file() and not file.is_symlink())
    named = {file.relative_to(run.folder).as_posix(): file for file in found}
    named = {
        name: file
        for name, file in named.items()
        if (name.split("/")[0] in ours or name in pages)
        and not re.search(r"(^|/)(\.|training\.jsonl$)", name)
    }
    spared = [name for name in named if any(fnmatchcase(name, kind) for kind in SPARED)]
    mark = read_json(run.path / MARK) | {LEFT_OUT: sorted(spared)}
    with written(path) as unfinished, zipfile.ZipFile(unfinished, "w") as archive:
        for name in sorted(set(named) - set(spared)):
            member = zipfile.ZipInfo(f"{run.folder.name}/{name}")  # of 1980, and so always the same
            member.external_attr = 0o644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            content = json.dumps(mark).encode() if name == MARK else named[name].read_bytes()
            archive.writestr(member, content)
    return path


def unpack(archive: Path, runs_dir: str | Path = "runs") -> Path:
    """Put a packed run among other runs and return its folder; one that is there stays as it is.

    Raises
    ------
    StudyError
        If the file is no packed run: other files, links, paths that lead out of its folder, more
        than 4 GB; or if something else has its place.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            target = resolve(runs_dir) / _folder_of(packed, archive)
            if is_run(target):
                return target
            if target.exists():
                raise StudyError(f"{shown(target)} is there already, and no run made it.")
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = unfinished_name(target)
            try:
                packed.extractall(unfinished)
                (unfinished / target.name).rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except (zipfile.BadZipFile, EOFError) as error:
        raise StudyError(f"{shown(archive)} is no zip file, or is not whole: {error}.") from None
    return target


def _folder_of(packed: zipfile.ZipFile, archive: Path) -> str:
    """The one folder that all members lie in, where nothing speaks against unpacking them."""
    members = packed.infolist()
    folders = {PurePosixPath(member.filename).parts[:1] for member in members}
    names = {member.filename for member in members}
    (folder,) = next(iter(folders)) if len(folders) == 1 else ("",)
    if not NAME.fullmatch(folder) or f"{folder}/{MARK}" not in names:
        raise StudyError(f"{shown(archive)} holds no run: a folder with {MARK} in it.")
    for member in members:
        parts = member.filename.split("/")
        kind = stat.S_IFMT(member.external_attr >> 16)
        if "\\" in member.filename or ".." in parts or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise StudyError(f"{shown(archive)} holds {member.filename!r}, which no run writes.")
    if (size := sum(member.file_size for member in members)) > LARGEST:
        raise StudyError(f"{shown(archive)} would take {in_words(size)}, more than a packed run.")
    return folder


def fetched(address: str, sha256: str, runs_dir: str | Path = "runs") -> str:
    """The folder of runs, with a packed run in it that was fetched where it was not there yet.

    Parameters
    ----------
    address : str
        Where the packed run lies; a file of that name in the working folder is taken first.
    sha256 : str
        Its digest: nothing else is unpacked.
    runs_dir : path
        Where the run goes.

    Raises
    ------
    StudyError
        If it cannot be fetched, is another file, or is no packed run.
    """
    path = Path(address.rpartition("/")[2])
    if not path.is_file():
        try:
            with urlopen(address, timeout=60) as source, written(path) as unfinished:
                _copy(source, unfinished)
        except (URLError, OSError) as error:
            raise StudyError(f"{address} cannot be fetched: {error}.") from None
    if file_digest(path) != sha256:
        raise StudyError(
            f"{path} is not the file that this notebook was made with. Remove it and run this cell "
            "again; if that does not help, open the notebook anew."
        )
    return str(unpack(path, runs_dir).parent)


def _copy(source, path: Path) -> None:
    with path.open("wb") as file:
        while piece := source.read(PIECE):
            file.write(piece)
