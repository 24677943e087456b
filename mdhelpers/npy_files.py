"""NumPy's ``.npy`` files of others: opened without unpickling, written whole or not at all.

What is opened is memory-mapped, and what is written may be larger than memory: both go by blocks
of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from mdhelpers.records import written

__all__ = ["open_npy", "row_blocks", "write_npy"]

BLOCK_BYTES = 2**26


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


def row_blocks(array: np.ndarray, *, block_bytes: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices of rows that take at most ``block_bytes`` as float32, and one row at least."""
    per_row = 4 * max(1, array[:1].size)
    rows = max(1, block_bytes // per_row)
    for start in range(0, len(array), rows):
        yield slice(start, min(start + rows, len(array)))


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
