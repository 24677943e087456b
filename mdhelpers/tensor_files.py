"""Safetensors files, whole or not at all, with the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mdhelpers.records import written


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
