r"""Datamodels: how the margin of each test example depends on which examples were trained on.

A datamodel is a linear model of a margin given the mask of the training set,
``margin(mask) ~ bias + weights @ mask`` (paper, section 2.2 and appendix B.3; Ilyas et al., 2022).
Two estimators: the lasso, and the difference of means of Feldman and Zhang (2020).

Models that start from the same initialisation (the same *slot*) share a large part of their
margins that has nothing to do with their masks. Where ``slots`` are given, masks and margins are
compared within slots only: the mean of each slot is removed from both before fitting.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from mdhelpers import lasso
from mdhelpers.lds import LDS, lds
from mdhelpers.slots import check_slots, slot_means, split_validation, within_slots

__all__ = [
    "LDS",
    "METHODS",
    "Datamodels",
    "FitOptions",
    "fit_datamodels",
    "lds",
    "load_datamodels",
    "save_datamodels",
]

METHODS = ("lasso", "difference_of_means")
_ARRAYS = ("weights", "bias", "lam", "lam_at_edge", "slot_ids", "slot_effects")


@dataclass(frozen=True)
class FitOptions:
    """How the lasso's penalty is chosen (paper, appendix B.3).

    Attributes
    ----------
    n_lams : int
        Penalties on each test example's path.
    lam_min_ratio : float
        Smallest penalty as a fraction of the largest.
    validation_share : float
        Share of the models that scores the penalties, in (0, 0.5].
    patience : int
        A path stops after so many penalties without a better validation error.
    tol : float
        Duality gap at which a solution on the path counts as exact, relative to the margins'
        variance. The refit is ten times as exact, down to 1e-6, which float32 can reach.
    """

    n_lams: int = 50
    lam_min_ratio: float = 0.01
    validation_share: float = 0.1
    patience: int = 5
    tol: float = 1e-4

    def __post_init__(self) -> None:
        bounds = {"n_lams": (2, 10_000), "patience": (1, 10_000)}
        bounds |= {"lam_min_ratio": (1e-6, 0.99), "validation_share": (1e-6, 0.5), "tol": (0, 0.1)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected a number from {low:g} to {high:g}."
                )


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
    masks: np.ndarray,
    margins: np.ndarray,
    *,
    method: str = "lasso",
    slots: np.ndarray | None = None,
    options: FitOptions | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Datamodels:
    """Estimate a datamodel for each test example.

    ``"lasso"`` chooses each test example's penalty by the squared error on validation models (a
    tenth, drawn with ``seed``) and refits on all models at that penalty. ``"difference_of_means"``
    takes the mean margin of the models that saw a training example less the mean of those that did
    not; with slots, the same within slots.

    Parameters
    ----------
    masks : ndarray, shape (n_models, n_train), bool or 0/1
    margins : ndarray, shape (n_models, n_test)
        Correct-class margins of the same models.
    slots : ndarray, shape (n_models,), int, optional
        Models with the same number share an initialisation.
    device : str
        A torch device for the lasso.

    Raises
    ------
    ValueError
        If shapes disagree, a margin is not finite, masks are not 0/1, a slot has one model only, or
        the method is unknown.
    """
    if method not in METHODS:
        near = get_close_matches(method, METHODS, n=1, cutoff=0) or METHODS[:1]
        raise ValueError(
            f"method {method!r} is unknown; did you mean {near[0]!r}? Known: {METHODS}"
        )
    has_slots = slots is not None
    masks, margins, slots = _checked(masks, margins, slots)
    x = torch.from_numpy(masks).to(device, torch.float64)
    y = torch.from_numpy(margins).to(device, torch.float64)
    groups = torch.from_numpy(np.unique(slots, return_inverse=True)[1]).to(device)
    everyone = torch.arange(len(x), device=device)
    if method == "lasso":
        weights, lam, at_edge = _fit_lasso(x, y, groups, options or FitOptions(), seed)
    else:
        centred = within_slots(x, groups, everyone), within_slots(y, groups, everyone)
        weights = _slopes(*centred)
        lam, at_edge = torch.full_like(weights[:, 0], torch.nan), torch.zeros(len(weights))
    bias, effects = _intercepts(x, y, weights, groups)
    return Datamodels(
        weights=_to_numpy(weights),
        bias=_to_numpy(bias),
        lam=_to_numpy(lam),
        lam_at_edge=_to_numpy(at_edge).astype(bool),
        slot_ids=np.unique(slots) if has_slots else np.zeros(0, np.int64),
        slot_effects=_to_numpy(effects)[: len(effects) if has_slots else 0],
        method=method,
    )


def _fit_lasso(x, y, groups, options: FitOptions, seed: int):
    fitting, validating = split_validation(groups, options.validation_share, seed)
    x_centred, y_centred = (within_slots(v, groups, fitting) for v in (x, y))
    path = lasso.lasso_path(
        lasso.make_problem(x_centred[fitting], y_centred[fitting]),
        x_centred[validating],
        y_centred[validating],
        n_lams=options.n_lams,
        lam_min_ratio=options.lam_min_ratio,
        patience=options.patience,
        tol=options.tol,
    )
    everyone = torch.arange(len(x), device=x.device)
    problem = lasso.make_problem(*(within_slots(v, groups, everyone) for v in (x, y)))
    tol = max(options.tol / 10, 1e-6)
    weights, _ = lasso.solve_lasso(problem, path.lam, start=path.weights, tol=tol)
    raw, _ = lasso.raw_weights(problem, weights)
    lam = torch.where(problem.variance > 0, path.lam * problem.y_scale, torch.nan)
    return raw, lam, path.index == options.n_lams - 1


def _slopes(x, y):
    """Slope of each target on each column alone: for 0/1 columns the difference of means."""
    x, y = x - x.mean(0), y - y.mean(0)
    spread = x.square().sum(0)
    varies = spread > 1e-9
    return (y.T @ x) * varies / torch.where(varies, spread, torch.ones_like(spread))


def _intercepts(x, y, weights, groups):
    """Mean of what the masks do not explain, and how far each slot lies from it."""
    unexplained = y - x @ weights.to(y).T
    bias = unexplained.mean(0)
    return bias, slot_means(unexplained - bias, groups, int(groups.max()) + 1)


def _to_numpy(values: torch.Tensor) -> np.ndarray:
    return values.to("cpu", torch.float32).numpy()


def _checked(masks, margins, slots):
    masks, margins = np.asarray(masks), np.asarray(margins)
    if masks.ndim != 2 or margins.ndim != 2 or len(masks) != len(margins):
        raise ValueError(
            f"masks have shape {masks.shape} and margins {margins.shape}; expected "
            "(n_models, n_train) and (n_models, n_test) with the same models in the same order."
        )
    if masks.dtype != bool and not np.isin(masks, (0, 1)).all():
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
    return masks.astype(bool), margins.astype(np.float32), slots


def save_datamodels(datamodels: Datamodels, path: str | Path) -> None:
    """Write datamodels as safetensors: the arrays by their names, the rest as text metadata."""
    arrays = {name: np.ascontiguousarray(getattr(datamodels, name)) for name in _ARRAYS}
    notes = json.dumps(list(datamodels.notes))
    save_file(arrays, str(path), metadata={"method": datamodels.method, "notes": notes})


def load_datamodels(path: str | Path) -> Datamodels:
    """Read what :func:`save_datamodels` wrote.

    Raises
    ------
    ValueError
        If the file is not such a file; ``load_scores`` reads scores made elsewhere.
    """
    try:
        with safe_open(str(path), framework="np") as file:
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} does not hold datamodels ({error}); expected a safetensors file with "
            f"{', '.join(_ARRAYS)}. For scores made elsewhere use mdhelpers.scores.load_scores."
        ) from error
    notes = tuple(json.loads(metadata.get("notes", "[]")))
    return Datamodels(**arrays, method=metadata.get("method", ""), notes=notes)
