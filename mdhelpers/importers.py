"""Masks and margins of models that were trained elsewhere, as stage 03 needs them.

Two layouts are read, and memory-mapped: the datamodels release's (``train_masks_50pct.npy`` with
``test_margins_50pct.npy`` or ``test_logits_50pct.npy``) and the folder that the datamodels package
trains into (``masks.npy``, ``margins.npy``, ``_completed.npy``). Rows are models in both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdhelpers.logit_margins import OUTPUTS, margins_from_logits
from mdhelpers.npy_files import open_npy, row_blocks
from mdhelpers.score_files import read_record
from mdhelpers.store_files import Trained

__all__ = ["MasksAndMargins", "read_masks_and_margins"]

ORIENTATIONS = ("models_first", "examples_first")
_PERCENT = re.compile(r"_(\d+)pct")


@dataclass(frozen=True, eq=False)
class MasksAndMargins:
    """What models trained elsewhere saw, and what they said.

    Attributes
    ----------
    masks : ndarray, shape (n_models, n_train), bool
        Memory-mapped where the file allows it.
    margins : ndarray, shape (n_models, n_test), float
        Memory-mapped where they were not computed from logits.
    output : str
        What ``margins`` hold: "margin", the label's logit less the largest other, or "log_odds",
        less the logsumexp of the others.
    accuracy : ndarray, shape (n_models,), float32
        Share of test examples with a positive margin, which are those that a model gets right;
        NaN for log-odds.
    alpha : float
        Mean share of the training set in a mask.
    notes : tuple of str
        What was read, and on whose word.
    """

    masks: np.ndarray
    margins: np.ndarray
    output: str
    accuracy: np.ndarray
    alpha: float
    notes: tuple[str, ...]

    def trained(self) -> Trained:
        """The same as stage 02's models: margins float32 in memory, each from its own start."""
        n_models = len(self.masks)
        return Trained(
            masks=self.masks,
            margins=np.asarray(self.margins, np.float32),
            accuracy=self.accuracy,
            losses=np.zeros((n_models, 0), np.float32),
            slots=np.full(n_models, -1, np.int32),
            seconds=np.full(n_models, np.nan, np.float32),
        )


def read_masks_and_margins(
    masks_path: str | Path,
    margins_path: str | Path = "",
    *,
    labels: np.ndarray | str | Path | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
    orientation: str | None = None,
    output: str = "margin",
    margins_out: str | Path | None = None,
) -> MasksAndMargins:
    """Open masks and margins of models trained elsewhere, and check what can be checked.

    Parameters
    ----------
    masks_path : str or Path
        A ``.npy`` of (n_models, n_train), bool or 0/1; or a folder of the datamodels package, of
        which only completed models are read.
    margins_path : str or Path
        A ``.npy`` of (n_models, n_test) margins or (n_models, n_test, n_classes) logits. With a
        folder: the name of the array in it, by default ``margins``.
    labels : ndarray, shape (n_test,), int, or the path of a ``.npy`` of it
        Needed for logits.
    n_train, n_test : int, optional
        Sizes of the data that the models were trained on.
    orientation : {"models_first", "examples_first"}, optional
        Needed where masks or margins are square; "examples_first" turns both.
    output : {"margin", "log_odds"}
        What the margins are, which no file says; or what to compute from logits.
    margins_out : str or Path, optional
        Where margins computed from logits are written, to be memory-mapped too.

    Raises
    ------
    ValueError
        If a file holds Python objects, sizes disagree with each other or the data, rows and columns
        are swapped or cannot be told, file names name different shares of the training set, masks
        are not 0/1 or are empty, or a margin is not finite.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output is {output!r}; expected one of {tuple(OUTPUTS)}.")
    masks, margins, note = open_arrays(Path(masks_path), margins_path)
    if orientation == "examples_first":
        masks, margins = masks.T, margins.swapaxes(0, 1)
    check_shapes(masks.shape, margins.shape, n_train, n_test, orientation)
    masks, alpha = _of(masks_path, _check_masks, masks)
    _check_percent(Path(masks_path).name, Path(margins_path).name, alpha)
    told = f"output: {output}, as the user says"
    if margins.ndim == 3:
        told = f"output: {output}, computed from logits"
        margins = margins_from_logits(margins, labels, output=output, out=margins_out)
    accuracy = _of(margins_path or masks_path, _accuracy, margins)
    if output != "margin":
        accuracy = np.full_like(accuracy, np.nan)
    return MasksAndMargins(masks, margins, output, accuracy, alpha, (*note, told))


def _of(path: str | Path, check: Callable, array: np.ndarray):
    """``check(array)``, whose errors name the file that it was read from."""
    try:
        return check(array)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def open_arrays(masks_path: Path, margins_path: str | Path) -> tuple:
    """Masks, and margins or logits, on disk, and what to say of them."""
    if masks_path.is_dir():
        return _open_store(masks_path, str(margins_path) or "margins")
    if not str(margins_path):
        raise ValueError(f"margins_path is empty; expected the .npy of margins of {masks_path}.")
    masks = open_npy(masks_path, ("n_models", "n_train"))
    margins = _open_outputs(Path(margins_path))
    return masks, margins, (f"read from {masks_path.name} and {Path(margins_path).name}",)


def _open_outputs(path: Path) -> np.ndarray:
    try:
        return open_npy(path, ("n_models", "n_test"))
    except ValueError as margins_error:
        try:
            return open_npy(path, ("n_models", "n_test", "n_classes"))
        except ValueError:
            raise margins_error from None


def _open_store(folder: Path, name: str) -> tuple:
    """The completed rows of a folder of the datamodels package; a row is a model."""
    masks = open_npy(folder / "masks.npy", ("n_models", "n_train"))
    margins = _open_outputs(folder / f"{name}.npy")
    completed = np.array(open_npy(folder / "_completed.npy", ("n_models",))).astype(bool)
    _check_spec(folder, {"masks": masks, name: margins})
    if not len(masks) == len(margins) == len(completed):
        raise ValueError(
            f"{folder} holds {len(masks)} masks, {len(margins)} rows of {name} and "
            f"{len(completed)} of _completed; expected as many of each. Copy it anew."
        )
    n_completed = int(completed.sum())
    if not n_completed:
        raise ValueError(f"no model in {folder} is completed, says _completed.npy. Train them.")
    rows = slice(0, n_completed) if completed[:n_completed].all() else np.flatnonzero(completed)
    note = f"read from {folder.name}, {n_completed} completed models of {len(completed)}"
    return masks[rows], margins[rows], (note,)


def _check_spec(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Hold arrays against spec.json, where the folder has one."""
    spec = read_record(folder / "spec.json")
    for name, array in arrays.items() if spec else ():
        try:
            said = spec["schema"][name]
            shape, dtype = (spec["num_models"], *said["shape"]), np.dtype(said["dtype"].rstrip("_"))
        except (KeyError, TypeError, AttributeError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"spec.json in {folder} says no shape and dtype of {name} ({error!r}). Restore it, "
                "or move it away."
            ) from error
        if array.shape != shape or array.dtype != dtype:
            raise ValueError(
                f"{name}.npy in {folder} is {array.dtype} of shape {array.shape}, but spec.json "
                f"says {dtype} of {shape}. Is the specification of other data?"
            )


def check_shapes(masks: tuple, margins: tuple, n_train, n_test, orientation) -> None:
    """Raise unless rows are models and columns the examples of the data."""
    if orientation not in (None, *ORIENTATIONS):
        raise ValueError(f"orientation is {orientation!r}; expected one of {ORIENTATIONS}.")
    found = f"masks have shape {masks} and margins {margins}"
    wanted = f"expected (n_models, n_train={n_train}) and (n_models, n_test={n_test})"
    fits = _fit(masks, margins, n_train, n_test)
    turned = (masks[1], masks[0]), (margins[1], margins[0], *margins[2:])
    if not fits and _fit(*turned, n_train, n_test):
        raise ValueError(
            f"{found}, {wanted}: rows and columns are swapped. Say orientation='examples_first' "
            "to have both turned."
        )
    if not fits:
        on_train = n_train not in (None, n_test) and margins[1] == n_train
        hint = "They are margins on training examples" if on_train else "Are they of other data"
        raise ValueError(f"{found}; {wanted}. {hint}{'.' if on_train else ', or swapped?'}")
    if orientation is None and (masks[0] == masks[1] or margins[0] == margins[1]):
        raise ValueError(
            f"{found}: no size can tell the rows of a square one from its columns. Say "
            "orientation='models_first' where a row is a model, or 'examples_first'."
        )


def _fit(masks: tuple, margins: tuple, n_train, n_test) -> bool:
    sizes = ((masks[1], n_train), (margins[1], n_test))
    return masks[0] == margins[0] and all(size in (None, found) for found, size in sizes)


def _check_masks(masks: np.ndarray) -> tuple[np.ndarray, float]:
    """Masks as bool, without a copy where the file has a byte for each, and their mean."""
    total = 0
    for rows in row_blocks(masks):
        block = masks[rows]
        if masks.dtype != bool and not np.isin(block, (0, 1)).all():
            raise ValueError(
                f"masks hold {block[~np.isin(block, (0, 1))][0]!r}; expected 0 and 1 (or bool), "
                "one for each training example. Were they packed? np.unpackbits opens them."
            )
        sizes = np.count_nonzero(block, axis=1)
        if not sizes.all():
            raise ValueError(
                f"the mask of model {rows.start + np.argmin(sizes)} is empty: its row was not "
                "written. Leave out the models that were not completed."
            )
        total += int(sizes.sum())
    as_bool = masks.view(bool) if masks.itemsize == 1 else masks.astype(bool)
    return as_bool, total / masks.size


def _check_percent(masks_name: str, margins_name: str, alpha: float) -> None:
    """The release names its files by the share of the training set in a mask."""
    for name in (masks_name, margins_name):
        said = _PERCENT.search(name)
        if said and abs(int(said[1]) - 100 * alpha) > 1:
            raise ValueError(
                f"{name} names {said[1]}% of the training set, but masks hold {100 * alpha:.1f}% "
                "of it. Do masks and margins belong together?"
            )


def _accuracy(margins: np.ndarray) -> np.ndarray:
    """Share of positive margins of each model; refuses margins that are not finite."""
    accuracy = np.empty(len(margins), np.float32)
    for rows in row_blocks(margins):
        block = margins[rows]
        if not np.isfinite(block).all():
            model, example = np.argwhere(~np.isfinite(block))[0]
            raise ValueError(
                f"the margin of model {rows.start + model} on test example {example} is "
                f"{block[model, example]}; margins must be finite. Leave that model out."
            )
        accuracy[rows] = (block > 0).mean(axis=1)
    return accuracy
