"""Train models of a finished study anew, on subsets that are given and not drawn.

What datamodels foretell (the effect of leaving images out, of choosing a subset, of drawing images
with other probabilities) is verified by training on exactly those subsets. Models are trained by
the same tasks as the study's own, over the same processes or hosts, and a killed call resumes.
"""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from mdhelpers.mask_training import train_all
from mdhelpers.plans import TrainingPlan
from mdhelpers.records import written
from mdhelpers.store import ModelStore, Trained

__all__ = ["RetrainingPlan", "retrain"]

_WASTE = 1.25  # models trained over models asked for, at most, where sizes do not fill stacks


@dataclass(frozen=True)
class RetrainingPlan(TrainingPlan):
    """A plan whose masks and keys lie in a file; images and source models are the study's.

    ``run_folder`` is the study's folder, ``digest`` is of the masks and keys.
    """

    run_folder: Path = Path()
    digest: str = ""

    @property
    def data_folder(self) -> Path:
        return self.run_folder / "data"

    @property
    def source_folder(self) -> Path:
        return self.run_folder / "sources"

    @property
    def request(self) -> Path:
        """The file of masks and keys."""
        return self.folder / "request.npz"

    def keys(self, rows: slice) -> list[int]:
        """What each model's randomness is drawn from, as it was asked for."""
        return _read_request(self.request)[1][rows].tolist()

    def masks(self, rows: slice) -> np.ndarray:
        """The subsets of models ``rows``, as they were asked for."""
        return _read_request(self.request)[0][rows]

    def identity(self, algorithm: int) -> dict:
        """What decides the bits of a model, the request included."""
        return super().identity(algorithm) | {"request": self.digest}


def retrain(
    plan: TrainingPlan,
    algorithm: int,
    masks: np.ndarray,
    keys: np.ndarray,
    *,
    name: str,
    **who,
) -> Trained:
    """Train models on given masks, or read them where that is done.

    Two models with equal ``keys`` start from the same weights, and put the images that they share
    in the same order, augmented alike: what differs between them is what their masks did.

    Parameters
    ----------
    plan : TrainingPlan
        Of a finished study: `mdhelpers.stages.read_models(run).plan`.
    algorithm : int
        1 or 2.
    masks : ndarray, shape (n_models, n_train), bool
        Subsets of any sizes; all training images are one too. Sizes that occur in multiples of
        ``plan.stack`` train fastest.
    keys : ndarray, shape (n_models,), int
        What initialisation, order and augmentation are drawn from. The study's own models have
        their rows as keys; with common initialisations, a model's slot is its key modulo their
        number.
    name : str
        What the models are for; they are kept under ``retrained/<name>-<digest>`` in the run's
        folder, and those of the same name and algorithm that were trained on other masks go.
    **who
        ``workers``, ``scheduler``, ``cluster``, ``progress``: see
        `mdhelpers.mask_training.train_all`.

    Returns
    -------
    Trained
        The models in the order of ``masks``.

    Raises
    ------
    ValueError
        If shapes or kinds are not as said, a mask is empty, or a key is negative.
    """
    masks, keys = _checked(plan, algorithm, masks, keys)
    stack, order = _in_stacks(masks.sum(1), plan.stack)
    digest = hashlib.sha256(np.packbits(masks[order]).tobytes() + keys[order].tobytes())
    digest = digest.hexdigest()[:12]
    folder = plan.folder / "retrained" / f"{name}_{algorithm}-{digest}"
    own = {field.name: getattr(plan, field.name) for field in fields(TrainingPlan)}
    ours = RetrainingPlan(**own, run_folder=plan.folder, digest=digest)
    ours = replace(
        ours,
        folder=folder,
        n_models=len(order),
        n_keep=0,
        stack=stack,
        models_url=f"{plan.models_url.rstrip('/')}/{folder.name}" if plan.models_url else "",
        numbers=(algorithm,),
    )
    _write_request(ours.request, masks[order], keys[order])
    train_all(ours, **who)
    _remove_others(folder, f"{name}_{algorithm}-")
    place = np.empty(len(masks), int)
    place[order] = np.arange(len(order))  # a repeated model counts by its last place
    return ModelStore.open(ours.store_path(algorithm), read_only=True).read().rows(place)


def _in_stacks(sizes: np.ndarray, limit: int) -> tuple[int, np.ndarray]:
    """Models a stack, and the order in which models of equal size fill whole stacks.

    The last stack of a size is filled up with its last model, trained again; the stack is the
    largest with little of that.
    """
    by_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]

    def filled(stack: int) -> np.ndarray:
        ends = [np.repeat(rows[-1:], -len(rows) % stack) for rows in by_size]
        return np.concatenate([r for pair in zip(by_size, ends, strict=True) for r in pair])

    stacks = range(1, limit + 1)
    stack = max(s for s in stacks if len(filled(s)) <= max(_WASTE * len(sizes), len(sizes)))
    return stack, filled(stack)


def _checked(plan: TrainingPlan, algorithm: int, masks, keys) -> tuple[np.ndarray, np.ndarray]:
    masks, keys = np.asarray(masks), np.asarray(keys)
    if algorithm not in (1, 2):
        raise ValueError(f"algorithm is {algorithm!r}; give 1 or 2.")
    if masks.ndim != 2 or masks.shape[1] != plan.n_train or masks.dtype != bool or not len(masks):
        raise ValueError(
            f"masks have shape {masks.shape} and dtype {masks.dtype}; expected (n_models, "
            f"{plan.n_train}) of bool, a column for each training image."
        )
    if not masks.any(1).all():
        raise ValueError(
            f"mask {int(np.argmin(masks.any(1)))} is empty; a model needs at least one image."
        )
    if keys.shape != (len(masks),) or not np.issubdtype(keys.dtype, np.integer) or keys.min() < 0:
        raise ValueError(
            f"keys have shape {keys.shape} and dtype {keys.dtype}; expected one integer from 0 on "
            f"for each of the {len(masks)} models."
        )
    return masks, keys.astype(np.int64)


def _write_request(path: Path, masks: np.ndarray, keys: np.ndarray) -> None:
    _read_request.cache_clear()
    with suppress(FileNotFoundError, ValueError, KeyError, OSError, zipfile.BadZipFile):
        there = _read_request(path)
        if np.array_equal(there[0], masks) and np.array_equal(there[1], keys):
            return
    _read_request.cache_clear()  # it was damaged
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, masks=np.packbits(masks, axis=1), n_train=masks.shape[1], keys=keys)


@lru_cache(maxsize=2)
def _read_request(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Masks and keys; a path holds the same for ever, since their digest is part of it."""
    with np.load(path, allow_pickle=False) as file:
        masks = np.unpackbits(file["masks"], axis=1, count=int(file["n_train"])).view(bool)
        return masks, file["keys"]


def _remove_others(folder: Path, prefix: str) -> None:
    """Remove what was trained for the same end on other masks: folders that `retrain` made."""
    for other in folder.parent.glob(f"{prefix}*"):
        if other != folder and not other.is_symlink() and (other / "request.npz").is_file():
            shutil.rmtree(other, ignore_errors=True)
