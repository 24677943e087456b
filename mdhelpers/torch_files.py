"""Files of `torch.save` from elsewhere: opened for their tensors alone, in the file's own size."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch

__all__ = ["check_archive", "load_pickled"]


class Unsound(ValueError):
    """An archive is not as torch writes it."""


def load_pickled(path: Path) -> object:
    """What `torch.save` wrote, of which only tensors and plain values are opened, on the CPU.

    Raises
    ------
    ValueError
        If the file is damaged, or holds anything that could run code.
    OSError
        If the file cannot be read.

    """
    try:
        in_place = zipfile.is_zipfile(path)  # files older than torch 1.6 cannot be mapped
        if in_place:
            check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=in_place)
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error})") from error
    except Exception as error:  # torch raises eight kinds of them for damaged files
        why = f" ({error})" if isinstance(error, Unsound) else ""
        raise ValueError(
            f"{path} was refused: it is damaged{why} or holds more than tensors, and a pickle of "
            "other Python objects could run code when it is opened. If you trust its maker, load "
            "it yourself and save the tensors alone, as .safetensors or by torch.save."
        ) from error


def check_archive(path: Path) -> None:
    """Raise unless a zip file is as torch writes it: nothing compressed, no more than it holds.

    Raises
    ------
    Unsound
        If it would unpack to more than its own size, or a check sum is wrong.

    """
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Unsound("it is a compressed archive, which torch.save never writes")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise Unsound("it would unpack to more than its own size")
        if wrong := archive.testzip():
            raise Unsound(f"{wrong} in it fails its check sum: it was changed or cut short")
