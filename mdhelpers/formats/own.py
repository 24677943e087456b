"""Our own files: datamodels and comparisons as safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from scipy.sparse import csr_array

from mdhelpers.base.arrays import write_tensors
from mdhelpers.method.comparison import COMPARISONS, Comparison, DirectionSet
from mdhelpers.method.datamodels import Datamodels

_ARRAYS = ("weights", "bias", "lam", "lam_at_edge", "slot_ids", "slot_effects")


def save_datamodels(datamodels: Datamodels, path: str | Path) -> None:
    """Write datamodels as safetensors: the arrays by their names, the rest as text metadata.

    Weights that are mostly zero are written as ``weights_values``, ``weights_columns`` and
    ``weights_starts`` (compressed rows) where that is smaller.
    """
    arrays = {name: getattr(datamodels, name) for name in _ARRAYS}
    rows, columns = arrays["weights"].nonzero()
    if 8 * len(columns) < 4 * arrays["weights"].size:
        weights = arrays.pop("weights")
        arrays["weights_values"] = weights[rows, columns]
        arrays["weights_columns"] = columns.astype(np.int32)
        arrays["weights_starts"] = np.searchsorted(rows, np.arange(len(weights) + 1))
        arrays["weights_shape"] = np.array(weights.shape)
    notes = json.dumps(list(datamodels.notes))
    write_tensors(path, arrays, {"method": datamodels.method, "notes": notes})


def load_datamodels(path: str | Path) -> Datamodels:
    """Read what :func:`save_datamodels` wrote; weights are dense again.

    Raises
    ------
    ValueError
        If the file is not such a file; ``load_scores`` reads scores made elsewhere.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in _ARRAYS[1:]}
            arrays["weights"] = _read_weights(file)
    except SafetensorError as error:
        raise ValueError(
            f"{path} does not hold datamodels ({error}); expected a safetensors file with "
            f"{', '.join(_ARRAYS)}. For scores made elsewhere use "
            "mdhelpers.formats.scores.load_scores."
        ) from error
    notes = tuple(json.loads(metadata.get("notes", "[]")))
    return Datamodels(**arrays, method=metadata.get("method", ""), notes=notes)


def _read_weights(file) -> np.ndarray:
    if "weights" in file.keys():  # noqa: SIM118
        return file.get_tensor("weights")
    names = ("values", "columns", "starts", "shape")
    values, columns, starts, shape = (file.get_tensor(f"weights_{name}") for name in names)
    _check_rows(values, columns, starts, shape)
    return csr_array((values, columns, starts), shape=tuple(shape)).toarray()


def _check_rows(values: np.ndarray, columns: np.ndarray, starts: np.ndarray, shape) -> None:
    """Raise unless these are compressed rows: scipy would write where an index leads."""
    sound = (
        values.ndim == columns.ndim == starts.ndim == 1
        and shape.shape == (2,)
        and columns.dtype.kind == starts.dtype.kind == shape.dtype.kind == "i"
        and len(starts) == shape[0] + 1
        and len(values) == len(columns) == starts[-1]
        and starts[0] == 0
        and (np.diff(starts) >= 0).all()
        and (columns.size == 0 or (columns.min() >= 0 and columns.max() < shape[1]))
    )
    if not sound:
        raise ValueError("its sparse weights have rows or columns out of range")


def save_comparison(comparison: Comparison, path: str | Path) -> None:
    """Write a comparison as safetensors, keys such as ``1_minus_2/directions``."""
    arrays = {"cosines": comparison.cosines, "n_zero": comparison.n_zero}
    for direction_set in comparison:
        for field in ("directions", "projections", "explained_variance", "component"):
            arrays[f"{direction_set.name}/{field}"] = getattr(direction_set, field)
    turned = {"rotation": comparison.rotation} if comparison.rotation != "none" else None
    write_tensors(path, arrays, turned)


def load_comparison(path: str | Path) -> Comparison:
    """Read what :func:`save_comparison` wrote.

    Raises
    ------
    ValueError
        If the file is not such a file.
    """
    fields = ("directions", "projections", "explained_variance", "component")
    try:
        with safe_open(str(path), "numpy") as file:
            rotation = (file.metadata() or {}).get("rotation", "none")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sets = [DirectionSet(n, *(arrays[f"{n}/{f}"] for f in fields)) for n in COMPARISONS]
        about = {"n_zero": arrays["n_zero"], "rotation": rotation}
        return Comparison(*sets, cosines=arrays["cosines"], **about)
    except (SafetensorError, KeyError) as error:
        raise ValueError(
            f"{path} does not hold a comparison ({error}); expected a file that save_comparison "
            "wrote. Run the comparison again."
        ) from error
