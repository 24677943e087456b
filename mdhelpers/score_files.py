"""Matrices of attribution scores, out of the files of others and into datamodels."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mdhelpers.datamodels import Datamodels
from mdhelpers.npy_files import row_blocks
from mdhelpers.score_checks import check_finite

HELPS = "sign: a positive score raises the output"
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
    try:
        in_place = zipfile.is_zipfile(path)  # files older than torch 1.6 cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=in_place)
    except OSError:
        raise
    except Exception as error:  # torch raises eight kinds of them for damaged files
        raise ValueError(
            f"{path} was refused: it is damaged or holds Python objects beside tensors, and a "
            "pickle of those can run code when it is opened. Expected a dictionary of tensors; if "
            "you trust its maker, save torch.save({'weight': weight}, path) from it yourself."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {type(content).__name__}; expected a dictionary with the key 'weight', "
            "a tensor of shape (n_train, n_test)."
        )
    return content


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, or a ValueError if it is none."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}). Check the path.") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, or a ValueError if it is none."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} is no safetensors file ({error}). Check the path.") from error


def read_record(path: Path) -> dict:
    """A JSON file of another tool's; an empty mapping where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
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
    return value.detach().to(torch.float32).numpy()


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
            f"nobody can tell the sign of {path.name} from its numbers (positive_means is "
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
