"""Slots: models that share an initialisation, and what a study does with them.

The initialisation moves all of a model's margins together, whatever its mask. With few
initialisations, each used by many models, that part can be estimated and taken away.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["check_slots", "slot_means", "split_models", "split_validation", "within_slots"]


def check_slots(slots: np.ndarray, n_models: int) -> None:
    """Raise a ValueError unless there is one integer a model and each slot has two models."""
    if slots.shape != (n_models,) or not np.issubdtype(slots.dtype, np.integer):
        raise ValueError(
            f"slots have shape {slots.shape} and dtype {slots.dtype}; expected one integer for "
            f"each of the {n_models} models."
        )
    ids, sizes = np.unique(slots, return_counts=True)
    if n_models < 4:
        raise ValueError(f"got {n_models} models; a datamodel needs at least 4. Train more models.")
    if sizes.min() < 2:
        raise ValueError(
            f"slot {ids[sizes.argmin()]} has one model; expected at least 2 in each slot, since "
            "models are compared within slots. Train more models, or use fewer slots."
        )


def slot_means(values: Tensor, groups: Tensor, n_groups: int) -> Tensor:
    """Mean row of each group, shape (n_groups, n_columns); zero for a group without rows."""
    sums = values.new_zeros(n_groups, values.shape[1]).index_add_(0, groups, values)
    sizes = torch.bincount(groups, minlength=n_groups).clamp_min(1)
    return sums / sizes[:, None].to(sums)


def within_slots(values: Tensor, groups: Tensor, fitting: Tensor) -> Tensor:
    """Values less the mean of their slot over the ``fitting`` models, which may be fewer."""
    return values - slot_means(values[fitting], groups[fitting], int(groups.max()) + 1)[groups]


def split_validation(groups: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Fitting and validation models, drawn evenly from the slots; each slot keeps a fitting one."""
    slots = groups.cpu().numpy()
    rng = np.random.default_rng(seed)
    by_slot, place = _shuffled_by_slot(slots, rng)
    sizes = np.bincount(slots)
    last_first = (place + rng.random(len(slots))) / sizes[slots[by_slot]]
    last_first[place == 0] = -1
    n_validation = min(max(1, round(share * len(slots))), len(slots) - len(sizes))
    chosen = by_slot[np.argsort(-last_first)]
    fitting, validating = np.sort(chosen[n_validation:]), np.sort(chosen[:n_validation])
    return torch.from_numpy(fitting).to(groups), torch.from_numpy(validating).to(groups)


def split_models(
    n_models: int, n_parts: int, rng: np.random.Generator, slots: np.ndarray | None = None
) -> list[np.ndarray]:
    """Random parts of the models, of equal size and with every slot shared out evenly.

    Parameters
    ----------
    n_models, n_parts : int
    rng : numpy.random.Generator
    slots : ndarray, shape (n_models,), int, optional

    Returns
    -------
    list of n_parts sorted index arrays

    Raises
    ------
    ValueError
        If a part would have fewer than two models of a slot.
    """
    slots = np.zeros(n_models, dtype=np.int64) if slots is None else np.asarray(slots)
    if slots.shape != (n_models,):
        raise ValueError(f"slots have shape {slots.shape}; expected ({n_models},), one a model.")
    slots = np.unique(slots, return_inverse=True)[1]
    sizes = np.bincount(slots, minlength=1)
    if sizes.min() < 2 * n_parts:
        raise ValueError(
            f"the smallest of {len(sizes)} slots has {sizes.min()} models; {n_parts} parts with "
            f"two models of each slot need {2 * n_parts}. Train more models, or use fewer slots."
        )
    by_slot, _ = _shuffled_by_slot(slots, rng)
    return [np.sort(by_slot[part::n_parts]) for part in range(n_parts)]


def _shuffled_by_slot(slots: np.ndarray, rng: np.random.Generator):
    """Models ordered by slot, at random within it, and the place of each within its slot."""
    shuffled = rng.permutation(len(slots))
    by_slot = shuffled[np.argsort(slots[shuffled], kind="stable")]
    place = np.concatenate([np.arange(size) for size in np.bincount(slots)])
    return by_slot, place
