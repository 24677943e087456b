"""Matrices of attribution scores, out of the files of others and into datamodels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mdhelpers.datamodels import Datamodels
from mdhelpers.npy_files import row_blocks
from mdhelpers.score_checks import check_finite
from mdhelpers.torch_files import load_pickled

FEW = 2**20  # numbers that may be told by repeating one
HELPS = "sign: a positive score raises the output"
ODD = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, MemoryError)
_SIGNS = {"helps": 1, "hurts": -1}


def read_tensors(path: Path) -> dict:
    """The dictionary of a ``.pt`` file, of which only tensors are opened.

    Raises
    ------
    ValueError
        If the file is damaged, no dictionary, or holds anything that could run code.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected attribution scores. Check the path.")
    content = load_pickled(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {type(content).__name__}; expected a dictionary with the key 'weight', "
            "a tensor of shape (n_train, n_test)."
        )
    return content


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, or a ValueError if it is none."""

    def all_of(file: Any) -> tuple:
        return {name: file.get_tensor(name) for name in file.keys()}, _said(file)  # noqa: SIM118

    return _opened(path, all_of)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, or a ValueError if it is none."""
    return _opened(path, _said)


def read_shapes(path: Path, *names: str) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors of a safetensors file, as far as it has them; they are not read."""
    return _opened(
        path,
        lambda file: {n: tuple(file.get_slice(n).get_shape()) for n in names if n in file.keys()},  # noqa: SIM118
    )


def _said(file: Any) -> dict[str, str]:
    return file.metadata() or {}


def _opened(path: Path, read: Callable[[Any], Any]) -> Any:
    """What ``read`` finds in a safetensors file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return read(file)
    except (SafetensorError, FileNotFoundError, *ODD) as error:
        raise ValueError(f"{path} is no safetensors file ({error}). Check the path.") from error


def read_record(path: Path) -> dict:
    """A JSON file of another tool's; an empty mapping where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Restore it, or move it away.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds {type(record).__name__}; expected a JSON object.")
    return record


def to_matrix(path: Path, name: str, value: object) -> np.ndarray:
    """A tensor of a file as a float32 array of two dimensions."""
    array = to_array(path, name, value)
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"{name!r} in {path} has shape {array.shape}; expected two dimensions, one for "
            "training and one for test examples."
        )
    return array


def to_array(path: Path, name: str, value: object) -> np.ndarray:
    """A tensor of a file as a float32 array."""
    if not isinstance(value, torch.Tensor) or value.is_complex() or value.is_sparse:
        raise ValueError(
            f"{name!r} in {path} is a {type(value).__name__}; expected a dense tensor of numbers."
        )
    if value.numel() > FEW and value.numel() * value.itemsize > value.untyped_storage().nbytes():
        raise ValueError(
            f"{name!r} in {path} claims {value.numel()} numbers and stores fewer; expected a "
            "tensor of its own (save weight.contiguous().clone())."
        )
    try:
        return value.detach().to(torch.float32).numpy()
    except ODD as error:
        raise ValueError(
            f"{name!r} in {path} cannot be read as numbers ({error}); expected a dense tensor."
        ) from error


def turned(path: Path, matrix: np.ndarray, orientation: str) -> tuple[np.ndarray, str]:
    """Scores as a new float32 array of shape (n_test, n_train), checked, and a note of how."""
    transpose = orientation == "train_test"
    weights = np.empty(matrix.shape[::-1] if transpose else matrix.shape, np.float32)
    view = weights.T if transpose else weights
    for rows in row_blocks(matrix):
        view[rows] = matrix[rows]
    check_finite(path, weights)
    how = "transposed from (n_train, n_test) to" if transpose else "already"
    return weights, f"read from {path.name}, {how} (n_test, n_train) = {weights.shape}"


def sign_of(path: Path, positive_means: str | None) -> tuple[int, str]:
    """1 or -1 by the user's word, and a note of it."""
    if positive_means not in _SIGNS:
        raise ValueError(
            f"nobody can tell the sign of {path} from its numbers (positive_means is "
            f"{positive_means!r}). Say positive_means='helps' where a training example with a "
            "positive score raises the correct-class output (or lowers the loss), 'hurts' where "
            "it is the other way; check_planted or check_against_models then check it."
        )
    was = "" if positive_means == "helps" else ", reversed here since positive scores hurt"
    return _SIGNS[positive_means], f"{HELPS}{was}, as the user says"


def imported(
    weights: np.ndarray,
    *notes: str,
    bias: np.ndarray | None = None,
    lam: np.ndarray | None = None,
) -> Datamodels:
    """Datamodels of weights made elsewhere."""
    n_test = len(weights)
    return Datamodels(
        weights=weights,
        bias=np.zeros(n_test, np.float32) if bias is None else bias,
        lam=np.full(n_test, np.nan, np.float32) if lam is None else lam,
        lam_at_edge=np.zeros(n_test, dtype=bool),
        slot_ids=np.zeros(0, dtype=np.int64),
        slot_effects=np.zeros((0, n_test), dtype=np.float32),
        method="imported",
        notes=notes,
    )
