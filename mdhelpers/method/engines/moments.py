r"""What a regression on masks needs of them, exactly and in little memory; and models by slots.

Masks are zeros and ones, so sums and co-occurrences are integers: ``N[i, j]`` counts the models
that saw both i and j. One matrix of counts serves every subset of the models: counts of a subset
are those of all less those of the rest, with no rounding (floats hold integers below 2**24
exactly). For a regression within slots the Gram matrix of standardised columns is

.. math:: G_{ij} = \Big( N_{ij} - \sum_s \frac{A_{si} A_{sj}}{n_s} \Big) / (m\, \sigma_i \sigma_j),

with ``A`` the sums within each slot and ``n_s`` its number of models. It is written over the
counts and turned back into them by rounding, so that fitting on nine tenths of the models, on
each fold and on all of them takes one matrix of memory. Masks are read a few models at a time and
never held as floats.

Models of one *slot* share an initialisation, which moves all of a model's margins together,
whatever its mask. With few initialisations, each used by many models, that part can be estimated
and taken away; so subsets of the models take evenly from the slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdhelpers.method.engines.lasso import can_compile
from mdhelpers.method.engines.problem import LassoProblem, spread

_MOST_MODELS = 2**24
_ELEMENTS = 2**19
_BLOCK_OF_BITS = 8192
_FEWEST_ROWS = 256
_SLICES = 64
_TARGETS = 32
_NARROW = 12_000
FEWEST_WHOLE = 16


@dataclass(frozen=True)
class PackedMasks:
    """Masks eight to a byte, as ``numpy.packbits(masks, axis=1)`` makes them.

    Attributes
    ----------
    bits : array, shape (n_models, ceil(n_train / 8)), uint8
        In memory or not: a ``numpy.memmap`` will do.
    n_train : int
    """

    bits: np.ndarray
    n_train: int

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.bits), self.n_train

    def __len__(self) -> int:
        return len(self.bits)

    def __getitem__(self, models) -> np.ndarray:
        """Masks of some models, shape (n, n_train), bool."""
        bits = np.asarray(self.bits[models])
        return np.unpackbits(bits, axis=-1, count=self.n_train).view(bool)


class Moments:
    """Sums and co-occurrences of masks, for regressions on any subset of the models.

    Parameters
    ----------
    masks : ndarray of bool or PackedMasks, shape (n_models, n_train)
    groups : ndarray, shape (n_models,), int64, optional
        Slot of each model, from 0; None compares all models with each other.
    device : str
        Where the Gram matrix lives.

    Raises
    ------
    ValueError
        If there are so many models that counts would be rounded.
    """

    def __init__(self, masks, groups: np.ndarray | None = None, *, device: str = "cpu"):
        n_models, self.n_train = masks.shape
        if n_models >= _MOST_MODELS:
            raise ValueError(
                f"got {n_models} models; counts of them are exact in float32 up to "
                f"{_MOST_MODELS - 1}. Fit on fewer."
            )
        self.masks, self.device = masks, torch.device(device)
        groups = np.zeros(n_models, np.int64) if groups is None else groups
        self.groups = torch.from_numpy(np.ascontiguousarray(groups, np.int64))
        self.n_groups = int(self.groups.max()) + 1
        self.everyone = np.arange(n_models)
        self._counts: Tensor | None = None
        self._held: tuple | None = None
        self.select(self.everyone)

    def select(self, models: np.ndarray) -> None:
        """Standardise on these models (sorted indices) from here on."""
        self.models = np.asarray(models)
        sums = torch.zeros(self.n_groups, self.n_train)
        for part, rows in self._rows(self.models):
            sums.index_add_(0, self.groups[part], torch.from_numpy(rows).float())
        self.sums = sums.to(self.device, torch.float64)
        sizes = torch.bincount(self.groups[self.models], minlength=self.n_groups)
        self.sizes = sizes.to(self.device, torch.float64)
        self.x_mean = self.sums / self.sizes.clamp_min(1)[:, None]
        variance = (self.sums.sum(0) - (self.sums * self.x_mean).sum(0)) / len(self.models)
        scale = variance.sqrt()
        self.x_scale = torch.where(variance > 1e-9, scale, torch.ones_like(scale))

    def gram(self) -> Tensor:
        """Gram matrix of the selected models, shape (n_train, n_train), float32.

        The next selection's is written over it.
        """
        if self._counts is None:
            self._counts = torch.zeros(self.n_train, self.n_train, device=self.device)
        wanted = (self.models, self.sums, self.x_mean, self.x_scale)
        if self._held is None or self._held[1] is not self.sums:
            counted = self._held[0] if self._held else self.models[:0]
            if self._held:
                self._rescale(*self._held, forward=False)
            self._add(np.setdiff1d(self.models, counted), 1.0)
            self._add(np.setdiff1d(counted, self.models), -1.0)
            self._rescale(*wanted, forward=True)
            self._held = wanted
        return self._counts

    def standardised_rows(self) -> Iterator[Tensor]:
        """Standardised masks of the selected models, some at a time, (n, n_train), float32."""
        for part, rows in self._rows(self.models):
            means = self.x_mean[self.groups[part].to(self.device)].float()
            masks = torch.from_numpy(rows).to(self.device, torch.float32)
            yield (masks - means) / self.x_scale.float()

    def standardised(self, margins: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Margins of the selected models, standardised; their means and standard deviations.

        Shapes (n, n_targets) float32, (n_slots, n_targets) float64 and (n_targets,) float32.
        """
        groups = self.groups[self.models].to(self.device)
        n_targets = margins.shape[1]
        result = torch.empty(len(self.models), n_targets, device=self.device)
        means = torch.empty(self.n_groups, n_targets, dtype=torch.float64, device=self.device)
        scale = torch.empty(n_targets, device=self.device)
        for low in range(0, n_targets, _TARGETS):
            part = slice(low, low + _TARGETS)
            chosen = torch.from_numpy(np.asarray(margins[self.models, part], np.float64))
            chosen = chosen.to(self.device)
            means[:, part] = slot_means(chosen, groups, self.n_groups)
            result[:, part], _, scale[part] = spread(chosen - means[groups, part])
        return result, means, scale

    def cross(self, margins: Tensor) -> Tensor:
        """``X^T y / m`` of standardised margins (n, n_targets), shape (n_targets, n_train)."""
        total = torch.zeros(margins.shape[1], self.n_train, device=self.device)
        first = 0
        for part, rows in self._rows(self.models):
            block = torch.from_numpy(rows).to(self.device, torch.float32)
            total.addmm_(margins[first : first + len(part)].T, block)
            first += len(part)
        # Margins have no mean in any slot, so that the masks' need not be taken away.
        return total.div_(len(self.models) * self.x_scale.float())

    def problem(self, margins: np.ndarray, *, form: str = "auto") -> LassoProblem:
        """The lasso of margins (n_models, n_targets) of all models on the selected ones' masks.

        ``form`` is "gram", "design", "none" (neither), or "auto": the cheaper of the first two.
        """
        standardised, y_mean, y_scale = self.standardised(margins)
        if form == "auto":
            gram = prefers_gram(len(self.models), self.n_train, self.device.type)
            form = "gram" if gram else "design"
        return LassoProblem(
            gram=self.gram() if form == "gram" else None,
            design=torch.cat(list(self.standardised_rows())) if form == "design" else None,
            cross=self.cross(standardised),
            variance=standardised.square().mean(0).round(),
            x_mean=self.x_mean.float(),
            x_scale=self.x_scale.float(),
            y_mean=y_mean,
            y_scale=y_scale,
            sizes=self.sizes.float(),
        )

    def masks_of(self, models: np.ndarray) -> Tensor:
        """Masks of some models, shape (n, n_train), uint8; in memory column by column."""
        columns = torch.empty(self.n_train, len(models), dtype=torch.uint8)
        first = 0
        for part, rows in self._rows(models):
            columns[:, first : first + len(part)] = torch.from_numpy(rows.view(np.uint8)).T
            first += len(part)
        return columns.to(self.device).T

    def _rows(self, models: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Masks of some models, a few at a time; a multiple of 8 but for the last."""
        step = max(_FEWEST_ROWS, _ELEMENTS // self.n_train // 8 * 8)
        for first in range(0, len(models), step):
            part = models[first : first + step]
            yield part, np.asarray(self.masks[part], dtype=bool)

    def _add(self, models: np.ndarray, sign: float) -> None:
        """Add the pairs that some models saw to the counts, or take them away."""
        if self.device.type == "cpu" and can_compile():
            return self._add_bits(models, sign)
        for _, rows in self._rows(models):
            block = torch.from_numpy(rows).to(self.device, torch.float32)
            self._counts.addmm_(block.T, block, alpha=sign)
        return None

    def _add_bits(self, models: np.ndarray, sign: float) -> None:
        from mdhelpers.method.engines.compiled import add_pairs, pack_columns

        for low in range(0, len(models), _BLOCK_OF_BITS):
            block = models[low : low + _BLOCK_OF_BITS]
            words = np.zeros((self.n_train, -(-len(block) // 64)), np.uint64)
            first = 0
            for part, rows in self._rows(block):
                pack_columns(rows, words, first)
                first += len(part)
            add_pairs(words, sign, self._counts.numpy())

    def _rescale(self, models, sums, means, scale, *, forward: bool) -> None:
        """Counts to the Gram matrix of a selection, in place, or back again."""
        step = max(1, self.n_train // _SLICES)
        for low in range(0, self.n_train, step):
            rows = self._counts[low : low + step]
            between = sums[:, low : low + step].T @ means
            unit = len(models) * scale[low : low + step, None] * scale
            if forward:
                rows.copy_(between.neg_().add_(rows).div_(unit))
            else:
                rows.copy_(between.add_(unit.mul_(rows)).round_())


def prefers_gram(n_models: int, n_train: int, device: str) -> bool:
    """Whether the lasso goes by a Gram matrix on a kind of device, and not by the masks."""
    if device == "cpu" and can_compile() and n_train <= _NARROW:
        return True
    return n_models >= n_train / 2


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


def split_models(
    n_models: int,
    n_parts: int,
    rng: np.random.Generator,
    slots: np.ndarray | None = None,
    *,
    n_first: int = 0,
) -> list[np.ndarray]:
    """Random parts of the models, of equal size and with every slot shared out evenly.

    Parameters
    ----------
    n_models, n_parts : int
    rng : numpy.random.Generator
    slots : ndarray, shape (n_models,), int, optional
    n_first : int
        So many of the first models are shared out evenly for themselves, those that have scores.

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
        raise ValueError(f"slots have shape {slots.shape}; expected ({n_models},), one per model.")
    slots = np.unique(slots, return_inverse=True)[1]
    sizes = np.bincount(slots, minlength=1)
    if sizes.min() < 2 * n_parts:
        raise ValueError(
            f"the smallest of {len(sizes)} slots has {sizes.min()} models; {n_parts} parts with "
            f"two models of each slot need {2 * n_parts}. Train more models, or use fewer slots."
        )
    by_slot, place = _shuffled_by_slot(slots, rng, n_first)
    dealt = np.bincount(slots[:n_first], minlength=len(sizes)) if n_first else sizes
    before = np.cumsum(dealt) - dealt  # each slot is dealt on from where the one before ended
    parts = (before[slots[by_slot]] + place) % n_parts
    return [np.sort(by_slot[parts == part]) for part in range(n_parts)]


def split_groups(
    n_models: int,
    n_parts: int,
    rng: np.random.Generator,
    slots: np.ndarray | None,
    groups: np.ndarray,
    *,
    n_first: int = 0,
) -> list[np.ndarray]:
    """Random parts of the models that share no group, where there are 16 groups or more.

    Parameters are those of :func:`split_models`, which shares out the slots evenly where there are
    fewer groups, and ``groups`` (n_models,).
    """
    ids = np.unique(groups)
    if len(ids) < FEWEST_WHOLE:
        return split_models(n_models, n_parts, rng, slots, n_first=n_first)
    dealt = rng.permutation(ids)
    dealt = dealt[np.argsort(~np.isin(dealt, groups[:n_first]), kind="stable")]
    return [np.flatnonzero(np.isin(groups, dealt[part::n_parts])) for part in range(n_parts)]


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


def _shuffled_by_slot(slots: np.ndarray, rng: np.random.Generator, n_first: int = 0):
    """Models ordered by slot, the first ones before others, and each one's place in its slot."""
    shuffled = rng.permutation(len(slots))
    order = 2 * slots[shuffled] + (shuffled >= n_first)
    by_slot = shuffled[np.argsort(order, kind="stable")]
    place = np.concatenate([np.arange(size) for size in np.bincount(slots)])
    return by_slot, place
