r"""Datamodels: how the margin of each test example depends on which examples were trained on.

A datamodel is a linear model of a margin given the mask of the training set (paper, section 2.2
and appendix B.3; Ilyas et al., 2022),

.. math:: \mathrm{margin}_x(\text{mask}) \approx b_x + \theta_x \cdot \text{mask}.

Estimators: the lasso, ridge regression, the difference of means of Feldman and Zhang (2020), the
lasso by the package fast_l1, and scores from gradients (:mod:`mdhelpers.method.trak`), alone or
with ridge regression on what they leave.

Models that start from the same initialisation (the same *slot*) share a large part of their
margins that has nothing to do with their masks. Where ``slots`` are given, masks and margins are
compared within slots only: the mean of each slot is removed from both before fitting.

What splits of the models need, fits on any choice of one algorithm's models, is a :class:`Fitter`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from difflib import get_close_matches
from functools import partial

import numpy as np
import torch

from mdhelpers.base.threads import spread
from mdhelpers.method.costs import fit_cost, fits_at_once, why_not
from mdhelpers.method.engines.estimators import (
    FitOptions,
    fit_difference_of_means,
    fit_lasso,
    fit_nothing,
    fit_ridge,
)
from mdhelpers.method.engines.fast_l1 import fit_fast_l1
from mdhelpers.method.engines.lasso import Engine
from mdhelpers.method.engines.moments import Moments, PackedMasks, check_slots, within_slots
from mdhelpers.method.trak import METHODS as FROM_GRADIENTS
from mdhelpers.method.trak import product, size_of

METHODS = ("lasso", "ridge", "difference_of_means", "fast_l1", *FROM_GRADIENTS)
_ROWS = 4096  # models at once
_FEW_MODELS = 6  # a training example: three in each half, below which the lasso was not best


@dataclass(frozen=True)
class Datamodels:
    """One linear model of the margin for each test example, in raw 0/1 mask units.

    Attributes
    ----------
    weights : ndarray, shape (n_test, n_train), float32
        Change of a test example's margin when a training example joins the mask.
    bias : ndarray, shape (n_test,), float32
        Margin predicted for an empty mask.
    lam : ndarray, shape (n_test,), float32
        Penalty chosen, in margin units for masks scaled to unit variance; NaN where none was.
    lam_at_edge : ndarray, shape (n_test,), bool
        Whether the best penalty was the smallest tried, so that a smaller one might be better.
    slot_ids : ndarray, shape (n_slots,), int64
        Slots of the models that were fitted on; empty where slots were not used.
    slot_effects : ndarray, shape (n_slots, n_test), float32
        How far the margins of each slot lie above what ``weights`` and ``bias`` predict.
    method : str
        How the weights were estimated.
    notes : tuple of str
        What a reader of the weights should know, such as that they were transposed on import.
    """

    weights: np.ndarray
    bias: np.ndarray
    lam: np.ndarray
    lam_at_edge: np.ndarray
    slot_ids: np.ndarray
    slot_effects: np.ndarray
    method: str = ""
    notes: tuple[str, ...] = ()

    def predict(self, masks: np.ndarray, slots: np.ndarray | None = None) -> np.ndarray:
        """Margins predicted for masks, shape (n_models, n_test), float32.

        With ``slots`` (n_models,), the effect of each model's slot is added.
        """
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.shape[1] != self.weights.shape[1]:
            raise ValueError(
                f"masks have shape {masks.shape}; expected (n_models, {self.weights.shape[1]}), "
                "one column for each training example of the datamodels."
            )
        margins = masks.astype(np.float32) @ self.weights.T + self.bias
        return margins if slots is None else margins + self._effects(slots)

    def remove_slots(self, margins: np.ndarray, slots: np.ndarray) -> np.ndarray:
        """Margins less the effect of each model's slot, for a score within slots."""
        return np.asarray(margins, np.float32) - self._effects(slots)

    def _effects(self, slots: np.ndarray) -> np.ndarray:
        unknown = np.setdiff1d(slots, self.slot_ids)
        if len(unknown):
            raise ValueError(
                f"slots {unknown[:5].tolist()} are not among the {len(self.slot_ids)} slots that "
                "the datamodels were fitted with. Predict without slots, or fit with their models."
            )
        return self.slot_effects[np.searchsorted(self.slot_ids, slots)]


def fit_datamodels(
    masks: np.ndarray | PackedMasks,
    margins: np.ndarray,
    *,
    method: str = "lasso",
    slots: np.ndarray | None = None,
    scores: np.ndarray | None = None,
    options: FitOptions | None = None,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
) -> Datamodels:
    """Estimate a datamodel for each test example.

    ``"lasso"`` chooses each test example's penalty by the squared error on models left out and
    refits on all models at that penalty. ``"ridge"`` chooses by exact leave-one-out.
    ``"difference_of_means"`` takes the mean margin of the models that saw a training example less
    the mean of those that did not; with slots, the same within slots. ``"fast_l1"`` is the lasso
    by that package, where it is installed. ``"trak"`` takes ``scores``, in the size that predicts
    margins best; ``"trak+ridge"`` adds ridge regression on what they leave, with one penalty for
    all test examples. ``"auto"`` is what :func:`method_for` says.

    Parameters
    ----------
    masks : ndarray, shape (n_models, n_train), bool or 0/1, or PackedMasks
    margins : ndarray, shape (n_models, n_test)
        Correct-class margins of the same models.
    slots : ndarray, shape (n_models,), int, optional
        Models with the same number share an initialisation.
    scores : ndarray, shape (n_test, n_train), optional
        Mean scores from gradients of models, in any units.
    options : FitOptions, optional
        Of the lasso: its path, and which models score the penalties.
    seed : int
        Of the choice of these models.
    device : str
        A torch device.
    threads : int
        Threads of the lasso on a CPU; the result does not depend on them.

    Raises
    ------
    ValueError
        If shapes disagree, a margin is not finite, masks are not 0/1, a slot has one model only, or
        the method is unknown or cannot be had.
    """
    if method == "auto":
        gradients, n_test = scores is not None, np.shape(margins)[-1]
        method = method_for(*masks.shape, gradients=gradients, n_test=n_test, device=device)
    if method not in METHODS:
        near = get_close_matches(method, METHODS, n=1, cutoff=0) or METHODS[:1]
        raise ValueError(
            f"method {method!r} is unknown; did you mean {near[0]!r}? Known: {METHODS}"
        )
    if method in FROM_GRADIENTS and scores is None:
        raise ValueError(f"method {method!r} needs scores from gradients; give scores.")
    has_slots, options = slots is not None, options or FitOptions()
    masks, margins, slots = _masks_and_margins(masks, margins, slots)
    slot_ids, groups = np.unique(slots, return_inverse=True)
    moments = Moments(masks, groups, device=device)
    if method == "lasso":
        fit = fit_lasso(moments, margins, options, seed=seed, engine=Engine(threads=threads))
    elif method == "fast_l1":
        fit = fit_fast_l1(moments, margins, options, seed=seed)
    elif method == "ridge":
        fit = fit_ridge(moments, margins)
    elif method in FROM_GRADIENTS:
        scores, left = _beside_scores(masks, margins, groups, scores, device)
        estimate = fit_nothing if method == "trak" else partial(fit_ridge, one_penalty=True)
        fit = estimate(moments, left)
        np.add(fit.weights, scores, out=fit.weights)
    else:
        fit = fit_difference_of_means(moments, margins)
    slot_ids = slot_ids if has_slots else slot_ids[:0]
    return Datamodels(
        weights=fit.weights,
        bias=fit.bias,
        lam=fit.lam,
        lam_at_edge=fit.lam_at_edge,
        slot_ids=slot_ids,
        slot_effects=fit.effects[: len(slot_ids)],
        method=method,
    )


def method_for(
    n_models: int,
    n_train: int,
    *,
    gradients: bool = False,
    n_test: int = 1,
    device: str = "cpu",
    memory: float | None = None,
) -> str:
    """What ``"auto"`` stands for: the best estimator at such a budget that can be had.

    With ``gradients`` to be had, scores from them and ridge regression on what they leave predict
    best, from four models to two a training example (``benchmarks/estimators.py``). Without, below
    three models a training example ridge regression predicts held-out margins best and finds
    planted features with the fewest models; above, the lasso with the paper's single split is as
    good (``benchmarks/budgets.py``, on scenes and on photographs). The comparison fits on halves of
    the models, so that the lasso is taken from six on.

    Ridge regression decomposes a matrix with as many rows as there are models, or training
    examples if they are fewer. Where that takes more than ``memory`` (bytes, on ``device``), or
    longer than `mdhelpers.method.costs.PATIENCE`, it is left out: scores stand alone, or, with no
    gradients, the lasso is taken.
    """
    if n_models >= _FEW_MODELS * n_train:
        return "lasso"
    method = "trak+ridge" if gradients else "ridge"
    if not why_not(fit_cost(method, n_models, n_train, n_test, device=device), memory=memory):
        return method
    return "trak" if gradients else "lasso"


AT_ONCE = 4  # fits, at most: what each holds beside its weights stays within bounds
FitOn = Callable[[np.ndarray], np.ndarray]
"""Takes indices of models, gives their datamodels' weights (n_test, n_train)."""


@dataclass(frozen=True, eq=False)
class Fitter:
    """Fits datamodels on any choice of one algorithm's models, and gives those models' outputs.

    Attributes
    ----------
    masks : ndarray, shape (n_models, n_train), bool
    margins : ndarray, shape (n_models, n_test)
    slots : ndarray, shape (n_models,), int, or None
    scores : ndarray, shape (n_scored, n_test, n_train), or None
        From gradients of the first models; it may lie on disk.
    method, options, seed, device, threads
        As in :func:`fit_datamodels`.
    memory : float, optional
        Bytes that fits side by side may take.
    after : callable, optional
        Called after each fit.
    """

    masks: np.ndarray
    margins: np.ndarray
    _: KW_ONLY
    slots: np.ndarray | None = None
    scores: np.ndarray | None = None
    method: str = "lasso"
    options: FitOptions | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    memory: float | None = None
    after: Callable[[], object] | None = None

    def __call__(self, models: np.ndarray) -> np.ndarray:
        """Weights (n_test, n_train) fitted on these models."""
        found = fit_datamodels(
            self.masks[models],
            self.margins[models],
            slots=self.slots_of(models),
            scores=self.mean_scores(models),
            method=self.method,
            options=self.options,
            seed=self.seed,
            device=self.device,
            threads=self.threads,
        )
        if self.after:
            self.after()
        return found.weights

    def at_once(self, n_models: int) -> int:
        """How many fits on so many models run side by side."""
        shape = self.masks.shape[1], self.margins.shape[1]
        cost = fit_cost(self.method, n_models, *shape, device=self.device)
        return fits_at_once(cost, self.memory, device=self.device, at_most=AT_ONCE)

    def slots_of(self, models: np.ndarray) -> np.ndarray | None:
        return None if self.slots is None else self.slots[models]

    @property
    def n_scored(self) -> int:
        """The first models, which have scores."""
        return 0 if self.scores is None else len(self.scores)

    def scored(self, models: np.ndarray) -> np.ndarray:
        """Those of these models that have scores."""
        return models[models < self.n_scored]

    def mean_scores(self, models: np.ndarray) -> np.ndarray | None:
        """Of those of these models that have scores, (n_test, n_train); None without."""
        scored = self.scored(models)
        return sum(self.scores[m] for m in scored) / len(scored) if len(scored) else None


def device_of(fit: FitOn) -> str:
    """Where a fit computes; what is computed of its weights goes there too."""
    return getattr(fit, "device", "cpu")


def n_scored(*fits: FitOn) -> int:
    """The first models, which have scores in all of these fits; 0 where one is no `Fitter`."""
    return min(getattr(fit, "n_scored", 0) for fit in fits)


def fit_all(jobs: Iterable[tuple[FitOn, np.ndarray]]) -> list[np.ndarray]:
    """Weights of fits on choices of models, several at once, in the order of ``jobs``.

    Each is computed on one thread, so that no bit depends on how many are.
    """
    jobs = list(jobs)
    rooms = (fit.at_once(len(models)) for fit, models in jobs if isinstance(fit, Fitter))
    return list(spread(lambda job: job[0](job[1]), jobs, at_most=min([AT_ONCE, *rooms])))


def _beside_scores(masks, margins, groups, scores, device) -> tuple[np.ndarray, np.ndarray]:
    """Scores in the size that predicts margins best within slots, and what they leave of them."""
    shape = margins.shape[1], masks.shape[1]
    if np.shape(scores) != shape:
        raise ValueError(
            f"scores have shape {np.shape(scores)}; expected {shape}, (n_test, n_train)."
        )
    blocks = (slice(low, low + _ROWS) for low in range(0, len(masks), _ROWS))
    parts = [product(masks[rows].astype(np.float32), scores.T, device) for rows in blocks]
    predicted = np.concatenate(parts)
    everyone = torch.arange(len(margins))
    both = (torch.from_numpy(each) for each in (predicted, margins))
    own, true = (within_slots(each, torch.from_numpy(groups), everyone).numpy() for each in both)
    size = size_of(own, true)
    return size * scores, margins - size * predicted


def _masks_and_margins(masks, margins, slots):
    margins = np.asarray(margins)
    if not isinstance(masks, PackedMasks):
        masks = np.asanyarray(masks)
    if len(masks.shape) != 2 or margins.ndim != 2 or len(masks) != len(margins):
        raise ValueError(
            f"masks have shape {masks.shape} and margins {margins.shape}; expected "
            "(n_models, n_train) and (n_models, n_test) with the same models in the same order."
        )
    is_bool = isinstance(masks, PackedMasks) or masks.dtype == bool
    if not is_bool and not np.isin(masks, (0, 1)).all():
        raise ValueError(
            f"masks hold {masks[~np.isin(masks, (0, 1))][0]!r}; expected 0 and 1 (or bool): "
            "whether each training example was in the model's training set."
        )
    if not np.isfinite(margins).all():
        model, example = np.argwhere(~np.isfinite(margins))[0]
        raise ValueError(
            f"the margin of model {model} on test example {example} is {margins[model, example]} "
            f"({(~np.isfinite(margins)).sum()} such in all); margins must be finite. Leave out the "
            "models whose training diverged, or train them again."
        )
    slots = np.zeros(len(masks), np.int64) if slots is None else np.asarray(slots)
    check_slots(slots, len(masks))
    masks = masks if is_bool else masks.astype(bool)
    return masks, margins.astype(np.float32, copy=False), slots
