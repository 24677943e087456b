"""Attribution scores made elsewhere, read as datamodels.

Reads the ``.pt`` dictionaries of the ModelDiff and datamodels releases (``weight`` of shape
(n_train, n_test), with ``bias`` and ``lam`` where they were kept) and our own safetensors. Other
tools store a training example a row; here a row is a test example, so what is read is transposed,
and ``notes`` says so.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch

from mdhelpers.datamodels import Datamodels, load_datamodels

__all__ = ["load_scores"]


def load_scores(
    path: str | Path, *, n_train: int | None = None, n_test: int | None = None
) -> Datamodels:
    """Read attribution scores and turn them to (n_test, n_train).

    Weights are taken as they are: scores that were fitted on standardised masks (as by fast_l1)
    stay so, which the comparison does not mind as long as all masks had the same alpha.

    Parameters
    ----------
    path : str or Path
        A ``.pt`` or ``.pth`` file holding a dictionary of tensors, or a ``.safetensors`` file of
        datamodels.
    n_train, n_test : int, optional
        Sizes that the scores should have. Needed where the matrix is square, and to read a matrix
        that is already (n_test, n_train).

    Returns
    -------
    Datamodels
        With zero ``bias`` and NaN ``lam`` where the file has none.

    Raises
    ------
    ValueError
        If the file holds code or no ``weight``, its orientation cannot be told, its shape is not
        of the sizes given, or a score is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected attribution scores. Check the path.")
    if path.suffix == ".safetensors":
        datamodels = load_datamodels(path)
        _check_size(path, datamodels.weights.shape, n_train, n_test)
        _check_finite(path, datamodels.weights)
        return datamodels
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(
            f"{path} ends in {path.suffix!r}; expected .pt or .pth (a dictionary with 'weight') or "
            ".safetensors (datamodels of this package)."
        )
    return _from_dictionary(path, _read_dictionary(path), n_train, n_test)


def _read_dictionary(path: Path) -> dict:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} was refused: it is damaged or holds Python objects beside tensors, and a "
            "pickle of those can run code when it is opened. Expected a dictionary of tensors; if "
            "you trust its maker, save torch.save({'weight': weight}, path) from it yourself."
        ) from error
    if not isinstance(content, dict) or "weight" not in content:
        held = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise ValueError(
            f"{path} holds {held}; expected a dictionary with the key 'weight', a tensor of shape "
            "(n_train, n_test)."
        )
    return content


def _from_dictionary(path: Path, content: dict, n_train: int | None, n_test: int | None):
    weight = _to_array(path, "weight", content["weight"])
    if weight.ndim != 2:
        raise ValueError(
            f"'weight' in {path} has shape {weight.shape}; expected two dimensions, "
            "(n_train, n_test)."
        )
    transpose = _is_train_by_test(path, weight.shape, n_train, n_test)
    weights = np.ascontiguousarray(weight.T if transpose else weight)
    _check_finite(path, weights)
    turned = "transposed from (n_train, n_test)" if transpose else "already (n_test, n_train)"
    return Datamodels(
        weights=weights,
        bias=_vector(path, content, "bias", len(weights), 0.0),
        lam=_vector(path, content, "lam", len(weights), np.nan),
        lam_at_edge=np.zeros(len(weights), dtype=bool),
        slot_ids=np.zeros(0, dtype=np.int64),
        slot_effects=np.zeros((0, len(weights)), dtype=np.float32),
        method="imported",
        notes=(f"read from {path.name}, {turned} to (n_test, n_train) = {weights.shape}",),
    )


def _to_array(path: Path, name: str, value: object) -> np.ndarray:
    if not isinstance(value, torch.Tensor):
        raise ValueError(
            f"{name!r} in {path} is a {type(value).__name__}; expected a tensor of numbers."
        )
    return value.detach().to(torch.float32).numpy()


def _vector(path: Path, content: dict, name: str, n_test: int, default: float) -> np.ndarray:
    if content.get(name) is None:
        return np.full(n_test, default, dtype=np.float32)
    values = _to_array(path, name, content[name]).reshape(-1)
    if len(values) != n_test:
        raise ValueError(
            f"{name!r} in {path} has {len(values)} values; expected one for each of the {n_test} "
            "test examples. Is n_train or n_test given the wrong way round?"
        )
    return values


def _is_train_by_test(path: Path, shape: tuple, n_train: int | None, n_test: int | None) -> bool:
    """Whether rows are training examples, as ModelDiff writes them."""
    sizes = f"n_train={n_train}, n_test={n_test}"
    as_released = n_train in (None, shape[0]) and n_test in (None, shape[1])
    turned = n_train in (None, shape[1]) and n_test in (None, shape[0])
    if not as_released and not turned:
        raise ValueError(
            f"'weight' in {path} has shape {shape}, which is not of {sizes}; expected "
            "(n_train, n_test). Are the scores of other data?"
        )
    if shape[0] == shape[1] and (n_train is None or n_test is None):
        raise ValueError(
            f"'weight' in {path} is square, {shape}, so its orientation cannot be seen and sizes "
            f"that are not given cannot be checked ({sizes}). Give both n_train and n_test to have "
            "it read as (n_train, n_test), as ModelDiff writes it."
        )
    return as_released


def _check_size(path: Path, shape: tuple, n_train: int | None, n_test: int | None) -> None:
    if n_test not in (None, shape[0]) or n_train not in (None, shape[1]):
        raise ValueError(
            f"{path} holds datamodels of shape {shape}; expected (n_test, n_train) = "
            f"({n_test}, {n_train}). Are they of other data?"
        )


def _check_finite(path: Path, weights: np.ndarray) -> None:
    if not np.isfinite(weights).all():
        test, train = np.argwhere(~np.isfinite(weights))[0]
        raise ValueError(
            f"{path} has a score of {weights[test, train]} for training example {train} on test "
            f"example {test}; scores must be finite. Leave that test example out."
        )
