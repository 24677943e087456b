"""Files of arrays: ours whole or not at all, those of others without running anything in them.

Safetensors have the same bytes for the same content. Files of `torch.save` are opened for their
tensors alone, in the file's own size. NumPy's ``.npy`` are memory-mapped, and what is written may
be larger than memory: both go by blocks of rows.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from mdhelpers.base.records import written

BLOCK_BYTES = 2**26


def write_tensors(
    path: str | Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write named arrays, and texts about them, as a safetensors file.

    Parameters
    ----------
    path
        The file; it appears when it is complete, readable as the umask says.
    arrays
        By name; torch's tensors too. They are made contiguous, and copied to the CPU.
    metadata
        Texts by name.
    """
    path = Path(path)
    plain = {name: np.asarray(_on_cpu(array), order="C") for name, array in arrays.items()}
    with written(path) as unfinished:
        save_file(plain, unfinished, metadata=dict(metadata) if metadata else None)
        _sort_metadata(unfinished)
    return path


def open_npy(path: str | Path, shape: tuple[str, ...]) -> np.ndarray:
    """Open an array on disk, read-only and memory-mapped; nothing is unpickled.

    Parameters
    ----------
    path : str or Path
        A file that NumPy wrote, whatever its name ends in.
    shape : tuple of str
        What the dimensions mean, ``("n_models", "n_train")``: the array must have as many.

    Raises
    ------
    ValueError
        If the file is missing, damaged, empty, of another kind, or holds Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected a .npy array. Check the path.")
    expected = f"expected a .npy array of numbers, ({', '.join(shape)})"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error})") from error
    except Exception as error:  # of numpy's header, which is parsed as Python's literals: many
        raise ValueError(
            f"{path} was refused ({error}); {expected}. Python objects and pickles are never "
            "opened, since they can run code; if you trust its maker, save the numbers with "
            "np.save(path, np.asarray(array, np.float32))."
        ) from error
    if array.dtype.kind not in "biuf" or array.ndim != len(shape) or not array.size:
        raise ValueError(f"{path} holds {array.dtype} of shape {array.shape}; {expected}.")
    return array


def write_npy(path: str | Path, shape: tuple, dtype, blocks: Iterable[np.ndarray]) -> Path:
    """Write consecutive blocks of rows as one ``.npy`` file, which appears when it is complete."""
    path = Path(path)
    with written(path) as unfinished:
        array = np.lib.format.open_memmap(unfinished, mode="w+", dtype=dtype, shape=shape)
        start = 0
        for block in blocks:
            array[start : start + len(block)] = block
            start += len(block)
        array.flush()
    return path


def row_blocks(array: np.ndarray, *, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices of rows that take at most ``block_bytes`` as float32, and one row at least."""
    per_row = 4 * max(1, array[:1].size)
    rows = max(1, block_bytes // per_row)
    for start in range(0, len(array), rows):
        yield slice(start, min(start + rows, len(array)))


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
    """Raise unless a zip file is as torch writes it: nothing compressed, no more than it holds."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise Unsound("it is a compressed archive, which torch.save never writes")
        if sum(entry.file_size for entry in entries) > path.stat().st_size:
            raise Unsound("it would unpack to more than its own size")
        if wrong := archive.testzip():
            raise Unsound(f"{wrong} in it fails its check sum: it was changed or cut short")


def _on_cpu(array) -> np.ndarray:
    return array.detach().cpu().numpy() if hasattr(array, "detach") else array


def _sort_metadata(path: Path) -> None:
    """Put a file's metadata in the order of their names: the library's changes with each writing.

    The header is a length of 8 bytes and JSON, which may end in spaces.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" not in header:
            return
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: its header grew from {length} to {len(text)} bytes")
        file.seek(8)
        file.write(text.ljust(length))
