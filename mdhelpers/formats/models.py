"""Models trained elsewhere: their masks and margins, and how they take the place of a run's own.

Two layouts are read, and memory-mapped: the datamodels release's (``train_masks_50pct.npy`` with
``test_margins_50pct.npy`` or ``test_logits_50pct.npy``) and the folder that the datamodels package
trains into (``masks.npy``, ``margins.npy``, ``_completed.npy``). Rows are models in both. Logits
become margins a block at a time, and tell which output function stored margins hold.

Given models are copied into the run's stores, so that everything after stage 02 reads them as it
reads any other. What needs the networks themselves (counterfactuals, training again) is not to be
had for them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from mdhelpers.base.arrays import BLOCK_BYTES, open_npy, row_blocks, write_npy
from mdhelpers.base.places import resolve
from mdhelpers.base.records import content_digest
from mdhelpers.base.specs import Spec, validate
from mdhelpers.formats.scores import read_record
from mdhelpers.method.margins import correct_class_margins, log_odds
from mdhelpers.training.store_files import Trained
from mdhelpers.training.tasks import TrainingPlan

OUTPUTS = {"margin": correct_class_margins, "log_odds": log_odds}
ORIENTATIONS = ("models_first", "examples_first")
_PERCENT = re.compile(r"_(\d+)pct")
_FLOAT16 = 4e-3  # four times the rounding of a float16, of the largest logit
_SOME = 100


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
        See `mdhelpers.method.margins.correct_class_margins` and `log_odds`.
    out : str or Path, optional
        A ``.npy`` to write margins to; they are then memory-mapped from there.
    block_bytes : int
        Logits in memory at a time, as float32.

    Returns
    -------
    ndarray, shape (n_models, n_test), float32
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


class GivenModels(Spec):
    """Where masks and margins of one algorithm's models lie; see `mdhelpers.formats.models`.

    ``masks`` and ``margins`` are ``.npy`` files, or ``masks`` is a folder of the datamodels
    package. ``labels`` are needed where ``margins`` holds logits.
    """

    masks: str
    margins: str = ""
    labels: str = ""
    orientation: Literal["models_first", "examples_first"] | None = None
    output: Literal["margin", "log_odds"] = "margin"

    @property
    def files(self) -> list[Path]:
        """The files, or the folder, named; absolute."""
        if resolve(self.masks).is_dir():
            return [resolve(self.masks)]
        return [resolve(name) for name in (self.masks, self.margins, self.labels) if name]


def given_models(parameters: dict) -> dict[int, GivenModels]:
    """What ``models_1_given`` and ``models_2_given`` say, by algorithm; empty where both are.

    Raises
    ------
    ValueError
        If only one of them is given, or one is not as it should be.
    """
    keys = {algorithm: f"models_{algorithm}_given" for algorithm in (1, 2)}
    given = {a: validate(GivenModels, parameters[k], k) for a, k in keys.items() if parameters[k]}
    if len(given) == 1:
        raise ValueError(
            f"models_{3 - min(given)}_given is empty; models of both algorithms are trained here, "
            "or of neither. A comparison with models that you train here takes scores: fit "
            "datamodels for each, and give notebook 04 datamodels_1_path and datamodels_2_path."
        )
    return given


def check_given(given: GivenModels, *, n_models: int, n_train: int, n_test: int) -> None:
    """Hold the shapes of given masks and margins against the study's sizes; nothing is read.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is not there, or is of other sizes.
    """
    for path in given.files:
        if not path.exists():
            raise FileNotFoundError(
                f"there is no {path}; it should hold masks or margins of models"
            )
    masks, margins, _ = open_arrays(resolve(given.masks), margins_path(given))
    if given.orientation == "examples_first":
        masks, margins = masks.T, margins.swapaxes(0, 1)
    check_shapes(masks.shape, margins.shape, n_train, n_test, given.orientation)
    refuse_too_few(given, len(masks), n_models)


def import_models(plan: TrainingPlan, given: dict[int, GivenModels]) -> dict:
    """Copy the first ``plan.n_models`` models of each algorithm into the run's stores.

    Returns
    -------
    dict
        As `mdhelpers.training.mask_training.train_all`: ``models``, ``seconds`` and ``workers``.

    Raises
    ------
    ValueError
        If what is read does not fit the run's data, or has too few models.
    """
    read = {algorithm: open_models(plan, spec) for algorithm, spec in given.items()}
    for algorithm, models in read.items():
        store = plan.create_store(algorithm)
        for task in tqdm(range(store.n_tasks), desc=f"reading models {algorithm}"):
            rows = rows_of(models, store.task_rows(task), store.layout["n_epochs"])
            store.write_task(task, rows)
    return {"models": 0, "seconds": 0.0, "workers": 0}


def origins(given: dict[int, GivenModels]) -> list[str]:
    """Names and digests of each algorithm's files, so that changed ones are read again.

    Raises
    ------
    FileNotFoundError
        If one of them is not there.
    """
    return [" ".join(map(stamp, given[algorithm].files)) for algorithm in sorted(given)]


def stamp(path: Path) -> str:
    """A file's name and digest; of a folder, those of its arrays."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; it should hold masks or margins of models")
    if path.is_dir():
        return " ".join(stamp(file) for file in sorted(path.glob("*.npy")))
    return f"{path.name} {content_digest(path)[:16]}"


def margins_path(given: GivenModels) -> str | Path:
    """Where margins lie; with a folder of masks, the name of the array in it."""
    folder = resolve(given.masks).is_dir()
    return given.margins if folder or not given.margins else resolve(given.margins)


def refuse_too_few(given: GivenModels, there: int, wanted: int) -> None:
    if there < wanted:
        raise ValueError(
            f"{resolve(given.masks)} holds {there} models, and n_heldout + n_models = {wanted}; "
            "lower one of the two."
        )


def open_models(plan: TrainingPlan, given: GivenModels) -> MasksAndMargins:
    """What the files hold, checked against the sizes of the run's data."""
    models = read_masks_and_margins(
        resolve(given.masks),
        margins_path(given),
        labels=resolve(given.labels) if given.labels else None,
        n_train=plan.n_train,
        n_test=plan.n_test,
        orientation=given.orientation,
        output=given.output,
    )
    refuse_too_few(given, len(models.masks), plan.n_models)
    return models


def rows_of(models: MasksAndMargins, rows: slice, n_epochs: int) -> dict[str, np.ndarray]:
    """What a store wants of some models: what nobody knows is NaN, and each has its own start."""
    margins = np.asarray(models.margins[rows], np.float32)
    n = len(margins)
    return {
        "masks": np.asarray(models.masks[rows]),
        "margins": margins,
        "accuracy": models.accuracy[rows],
        "losses": np.full((n, n_epochs), np.nan, np.float32),
        "seeds": np.zeros((n, 2), np.uint64),
        "slots": np.full(n, -1, np.int32),
        "seconds": np.full(n, np.nan, np.float32),
    }


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


def _of(path: str | Path, check: Callable, array: np.ndarray):
    """``check(array)``, whose errors name the file that it was read from."""
    try:
        return check(array)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


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
