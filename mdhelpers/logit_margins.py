"""Margins of logits that were stored on disk, and which output function stored margins hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mdhelpers.npy_files import BLOCK_BYTES, open_npy, row_blocks, write_npy
from mdhelpers.outputs import correct_class_margins, log_odds

__all__ = ["OUTPUTS", "margins_from_logits", "output_function"]

OUTPUTS = {"margin": correct_class_margins, "log_odds": log_odds}
_FLOAT16 = 4e-3  # four times the rounding of a float16, of the largest logit
_SOME = 100


def margins_from_logits(
    logits: np.ndarray,
    labels: np.ndarray | str | Path | None,
    *,
    output: str = "margin",
    out: str | Path | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> np.ndarray:
    """Margins of logits, a block of models at a time, so that logits may exceed memory.

    Parameters
    ----------
    logits : ndarray, shape (n_models, n_test, n_classes), float
        Perhaps memory-mapped.
    labels : ndarray, shape (n_test,), int, or the path of a ``.npy`` of it
    output : {"margin", "log_odds"}
        See `mdhelpers.outputs.correct_class_margins` and `log_odds`.
    out : str or Path, optional
        A ``.npy`` to write margins to; they are then memory-mapped from there.
    block_bytes : int
        Logits in memory at a time, as float32.

    Returns
    -------
    ndarray, shape (n_models, n_test), float32

    Raises
    ------
    ValueError
        If there are no labels, or they are not integers from 0 to n_classes - 1, one a test
        example.
    """
    labels = torch.from_numpy(_checked_labels(labels, logits.shape))
    shape = logits.shape[:2]
    blocks = _margin_blocks(logits, labels, OUTPUTS[output], block_bytes)
    if out is not None:
        return open_npy(write_npy(out, shape, np.float32, blocks), ("n_models", "n_test"))
    margins, start = np.empty(shape, np.float32), 0
    for block in blocks:
        margins[start : start + len(block)] = block
        start += len(block)
    return margins


def _margin_blocks(logits, labels, measure, block_bytes: int) -> Iterator[np.ndarray]:
    for rows in row_blocks(logits, block_bytes=block_bytes):
        block = torch.from_numpy(np.array(logits[rows], np.float32))
        yield measure(block, labels).numpy()


def _checked_labels(labels, shape: tuple[int, int, int]) -> np.ndarray:
    if labels is None:
        raise ValueError(f"logits of shape {shape} need labels; give them, or a path of a .npy.")
    if isinstance(labels, str | Path):
        labels = open_npy(labels, ("n_test",))
    labels = np.asarray(labels)
    whole = labels.dtype.kind in "iu"
    if labels.shape != shape[1:2] or not whole or labels.min() < 0 or labels.max() >= shape[2]:
        span = f" from {labels.min()} to {labels.max()}" if labels.size else ""
        raise ValueError(
            f"labels are {labels.dtype} of shape {labels.shape}{span}; expected ({shape[1]},) "
            f"integers from 0 to {shape[2] - 1}, one a test example of logits {shape}."
        )
    return labels.astype(np.int64)


def output_function(margins: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> str:
    """Which output function margins hold, told by the logits of the same models.

    Parameters
    ----------
    margins : ndarray, shape (n_models, n_test), float
        Of which at most 100 models, evenly spaced, are looked at.
    logits : ndarray, shape (n_models, n_test, n_classes), float
    labels : ndarray, shape (n_test,), int

    Returns
    -------
    str
        "margin" or "log_odds"; with two classes both are the same, and it is "margin".

    Raises
    ------
    ValueError
        If they hold neither, within the precision of float16.
    """
    some = np.linspace(0, len(logits) - 1, min(len(logits), _SOME)).astype(int)
    margins, logits = np.asarray(margins[some], np.float32), np.asarray(logits[some], np.float32)
    errors = {}
    for name in OUTPUTS:
        differences = margins_from_logits(logits, labels, output=name) - margins
        errors[name] = float((np.abs(differences) / (1 + np.abs(logits).max(-1))).max())
    best = min(errors, key=errors.get)
    if not errors[best] <= _FLOAT16:
        raise ValueError(
            f"margins are not those of the logits: they differ by {errors} of the largest logit. "
            "Are models and test examples in the same order, and the labels right?"
        )
    return best
