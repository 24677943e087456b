"""Datamodels, masks and margins written for other tools, in the layouts that they read.

Files appear when they are complete, or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from mdhelpers.base.arrays import row_blocks, write_npy
from mdhelpers.base.records import written
from mdhelpers.base.specs import unknown_word
from mdhelpers.formats.score_checks import standardise
from mdhelpers.method.datamodels import Datamodels
from mdhelpers.runs.run import Run
from mdhelpers.stages.datamodels import read_datamodels
from mdhelpers.stages.models import read_models

SPLITS = ("test", "train")
KINDS = ("pt", "npy", "release")
MARK = ".mdhelpers-export"


def export_run(
    run: Run, folder: str | Path, *, kinds: Sequence[str] = KINDS, dtype: str = "float16"
) -> list[Path]:
    """Write what a run has made for other tools, a folder an algorithm.

    Parameters
    ----------
    run : Run
        With stage 03 finished, or stage 02 for ``release`` alone.
    folder : str or Path
        ``algorithm_1`` and ``algorithm_2`` are made in it.
    kinds : sequence of {"pt", "npy", "release"}
        Datamodels for ModelDiff (``datamodels.pt``), weights alone (``weights.npy``), masks and
        margins under the release's names.
    dtype : str
        Of the release's margins.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If a kind is unknown, or the folder holds files of others.
    FileNotFoundError
        If the run has not come that far.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(unknown_word(kind, KINDS, "kind"))
    paths, places = [], [Path(folder) / f"algorithm_{algorithm}" for algorithm in (1, 2)]
    for place in places:
        _refuse_others(place)
    for algorithm, place in enumerate(places, 1):
        place.mkdir(parents=True, exist_ok=True)
        (place / MARK).touch()
        if {"pt", "npy"} & set(kinds):
            datamodels = read_datamodels(run)[algorithm - 1]
        if "pt" in kinds:
            paths.append(export_pt(datamodels, place / "datamodels.pt"))
        if "npy" in kinds:
            paths.append(export_weights(datamodels, place / "weights.npy"))
        if "release" in kinds:
            models = read_models(run).all(algorithm)
            paths += export_release(place, models.masks, models.margins, dtype=dtype)
    return paths


def _refuse_others(place: Path) -> None:
    if place.exists() and any(place.iterdir()) and not (place / MARK).exists():
        raise ValueError(
            f"{place} holds files that no export made, and they could be written over. Give "
            "another folder, or move them."
        )


def export_pt(
    datamodels: Datamodels, path: str | Path, *, alpha: float | np.ndarray | None = None
) -> Path:
    """Write a ``.pt`` dictionary of plain tensors, as ModelDiff and the datamodels release do.

    ``weight`` (n_train, n_test), ``bias`` (n_test,) and ``lam`` (n_test,) are what other tools
    look for. ``standardised`` and ``train_test`` say what weights and rows are, so that
    :func:`mdhelpers.formats.scores.read_pt` needs not be told. Slots are not written.

    Parameters
    ----------
    datamodels : Datamodels
    path : str or Path
    alpha : float or ndarray, shape (n_train,), optional
        Write weights for masks standardised with this share of the training set, as fast_l1 does;
        by default they stay in raw 0/1 units.

    Returns
    -------
    Path
    """
    path = Path(path)
    weights, bias = datamodels.weights, datamodels.bias
    content = {}
    if alpha is not None:
        weights, bias = standardise(weights, bias, alpha)
        content["alpha"] = torch.as_tensor(np.asarray(alpha, np.float32))
    content |= {
        "weight": torch.from_numpy(np.array(weights.T, np.float32, order="C")),
        "bias": torch.from_numpy(np.array(bias, np.float32)),
        "lam": torch.from_numpy(np.array(datamodels.lam, np.float32)),
        "standardised": torch.tensor(alpha is not None),
        "train_test": torch.tensor(True),
    }
    with written(path) as unfinished:
        torch.save(content, unfinished)
    return path


def export_weights(datamodels: Datamodels, path: str | Path) -> Path:
    """Write weights alone as ``.npy``, (n_test, n_train) float32 in raw 0/1 mask units."""
    weights = datamodels.weights
    return write_npy(path, weights.shape, np.float32, _blocks(weights))


def export_release(
    folder: str | Path,
    masks: np.ndarray,
    margins: np.ndarray,
    *,
    split: str = "test",
    percent: int | None = None,
    dtype: str = "float16",
) -> tuple[Path, Path]:
    """Write masks and margins as the datamodels release does: ``train_masks_50pct.npy``, …

    Parameters
    ----------
    folder : str or Path
        Made where it is not there.
    masks : ndarray, shape (n_models, n_train), bool
    margins : ndarray, shape (n_models, n_test), float
    split : {"test", "train"}
        Which examples the margins are on.
    percent : int, optional
        Share of the training set in a mask, for the file names; by default that of ``masks``.
    dtype : str
        Of the margins. The release's float16 keeps three digits.

    Returns
    -------
    tuple of Path
        Of masks and of margins.

    Raises
    ------
    ValueError
        If the models are not as many, masks are not bool, or a margin does not fit ``dtype``.
    """
    masks, margins = np.asanyarray(masks), np.asanyarray(margins)
    if masks.ndim != 2 or margins.ndim != 2 or len(masks) != len(margins) or masks.dtype != bool:
        raise ValueError(
            f"masks are {masks.dtype} of shape {masks.shape} and margins of {margins.shape}; "
            "expected bool (n_models, n_train), unpacked, and (n_models, n_test)."
        )
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; expected one of {SPLITS}.")
    percent = round(100 * np.count_nonzero(masks) / masks.size) if percent is None else percent
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    margins_path = folder / f"{split}_margins_{percent}pct.npy"
    write_npy(margins_path, margins.shape, dtype, _rounded(margins, np.dtype(dtype)))
    masks_path = folder / f"train_masks_{percent}pct.npy"
    return write_npy(masks_path, masks.shape, bool, _blocks(masks)), margins_path


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[rows] for rows in row_blocks(array))


def _rounded(margins: np.ndarray, dtype: np.dtype) -> Iterator[np.ndarray]:
    limit = np.finfo(dtype).max
    for rows in row_blocks(margins):
        block = margins[rows]
        if not (np.abs(block) <= limit).all():
            model, example = np.argwhere(~(np.abs(block) <= limit))[0]
            raise ValueError(
                f"the margin of model {rows.start + model} on test example {example} is "
                f"{block[model, example]}, which {dtype} cannot hold. Leave that model out, or "
                "write dtype='float32'."
            )
        yield block.astype(dtype)
