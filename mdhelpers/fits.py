"""A fit of datamodels: what it is asked for and what it gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdhelpers import lasso
from mdhelpers.lasso_problem import LassoProblem, intercepts
from mdhelpers.moments import Moments

__all__ = ["Fit", "FitOptions", "blocks"]

_BLOCK = {"cpu": 256, "cuda": 2048}


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
        A path is left after so many penalties without a better validation error.
    tol : float
        Duality gap at which a solution on the path counts as exact, relative to the margins'
        variance. The refit is ten times as exact, down to 1e-6, which float32 can reach.
    folds : int
        1 to score on ``validation_share`` of the models; from 2, cross-validation, in which every
        model scores once. That is better where there are no more models than training examples,
        and costs a path a fold.
    lam_floor_ratio : float
        A path whose best penalty is the smallest goes on, down to this fraction of the largest.
    """

    n_lams: int = 50
    lam_min_ratio: float = 0.01
    validation_share: float = 0.1
    patience: int = 5
    tol: float = 1e-4
    folds: int = 1
    lam_floor_ratio: float = 1e-4

    def __post_init__(self) -> None:
        bounds = {"n_lams": (2, 10_000), "patience": (1, 10_000), "folds": (1, 1000)}
        bounds |= {"lam_min_ratio": (1e-6, 0.99), "validation_share": (1e-6, 0.5), "tol": (0, 0.1)}
        bounds |= {"lam_floor_ratio": (1e-6, 0.99)}
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected a number from {low:g} to {high:g}."
                )

    @property
    def grid(self) -> lasso.Grid:
        return lasso.Grid(self.n_lams, self.lam_min_ratio, self.lam_floor_ratio, self.patience)


@dataclass(frozen=True)
class Fit:
    """Weights and what belongs to them, in the units of masks and margins.

    Attributes
    ----------
    weights : ndarray, shape (n_test, n_train), float32
    bias, lam : ndarray, shape (n_test,), float32
    lam_at_edge : ndarray, shape (n_test,), bool
    effects : ndarray, shape (n_slots, n_test), float32
        How far the margins of each slot lie above what weights and bias predict.
    """

    weights: np.ndarray
    bias: np.ndarray
    lam: np.ndarray
    lam_at_edge: np.ndarray
    effects: np.ndarray

    @classmethod
    def empty(cls, n_test: int, moments: Moments) -> Fit:
        return cls(
            weights=np.zeros((n_test, moments.n_train), np.float32),
            bias=np.zeros(n_test, np.float32),
            lam=np.full(n_test, np.nan, np.float32),
            lam_at_edge=np.zeros(n_test, bool),
            effects=np.zeros((moments.n_groups, n_test), np.float32),
        )

    def put(self, block: slice, problem: LassoProblem, weights: Tensor) -> None:
        """Write standardised weights of a block of test examples in raw units."""
        raw = weights * problem.y_scale[:, None] / problem.x_scale
        bias, effects = intercepts(problem, raw)
        self.weights[block] = raw.cpu().numpy()
        self.bias[block] = bias.cpu().numpy()
        self.effects[:, block] = effects.cpu().numpy()


def blocks(n_test: int, device: torch.device) -> Iterator[slice]:
    """Test examples in blocks that suit a device."""
    step = _BLOCK.get(device.type, _BLOCK["cpu"])
    return (slice(low, min(low + step, n_test)) for low in range(0, n_test, step))
