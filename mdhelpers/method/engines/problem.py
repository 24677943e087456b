"""What a lasso is given and what comes of it: moments, penalties, validation models, paths.

See :mod:`mdhelpers.method.engines.lasso` for the objective and the units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_CONSTANT = 1e-7
_TARGETS = 32  # at a time in double precision


@dataclass(frozen=True)
class LassoProblem:
    """What the lasso needs to know of a design and its targets.

    Attributes
    ----------
    gram : Tensor, shape (n_train, n_train), or None
        ``X^T X / m``; None where products go through ``design``.
    design : Tensor, shape (n_models, n_train), or None
        Standardised columns, kept only where ``gram`` is None.
    cross : Tensor, shape (n_targets, n_train)
        ``X^T y / m`` for each target.
    variance : Tensor, shape (n_targets,)
        1, or 0 for a target that does not vary.
    x_mean : Tensor, shape (n_slots, n_train)
        Means within each slot; one slot where models are not compared within slots.
    x_scale : Tensor, shape (n_train,)
        Population standard deviations (1 where a column does not vary).
    y_mean, y_scale : Tensor, shape (n_slots, n_targets) and (n_targets,)
        The same of the targets.
    sizes : Tensor, shape (n_slots,)
        Models in each slot.
    """

    gram: Tensor | None
    design: Tensor | None
    cross: Tensor
    variance: Tensor
    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor
    sizes: Tensor

    def product(self, weights: Tensor) -> Tensor:
        """``weights @ G``, shape (n_targets, n_train)."""
        if self.gram is not None:
            return weights @ self.gram
        return (weights @ self.design.T) @ self.design / len(self.design)

    @property
    def lam_max(self) -> Tensor:
        """Smallest penalty with no weight at all, shape (n_targets,); 1 for constant targets."""
        largest = self.cross.abs().amax(1)
        return torch.where(largest > 0, largest, torch.ones_like(largest))


@dataclass(frozen=True)
class Validation:
    """Models that score the penalties, in the units of masks and margins.

    Attributes
    ----------
    x : Tensor, shape (n_valid, n_train)
    y : Tensor, shape (n_valid, n_targets)
    groups : Tensor, shape (n_valid,), int64, or None
        Row of the problem's ``x_mean`` and ``y_mean`` that belongs to each model; None for 0.
    """

    x: Tensor
    y: Tensor
    groups: Tensor | None = None

    def rows(self) -> Tensor:
        if self.groups is not None:
            return self.groups
        return torch.zeros(len(self.x), dtype=torch.long, device=self.x.device)

    def standardised_x(self, problem: LassoProblem) -> Tensor:
        means = problem.x_mean[self.rows()]
        return ((self.x.to(means) - means) / problem.x_scale).to(problem.cross.dtype)

    def standardised_y(self, problem: LassoProblem) -> Tensor:
        means = problem.y_mean[self.rows()]
        return ((self.y.to(means) - means) / problem.y_scale).to(problem.cross.dtype)


@dataclass(frozen=True)
class Grid:
    """Penalties to try, and when to leave a path.

    Geometric from each target's ``lam_max`` to ``lam_min_ratio`` times it in ``n_lams`` steps. A
    path whose best penalty is the last of these goes on in steps of the same ratio, down to
    ``floor`` times ``lam_max``.

    Attributes
    ----------
    n_lams : int
    lam_min_ratio : float
    floor : float or None
        None: the grid is not extended.
    patience : int
        A path is left after so many penalties without a better validation error.
    top : Tensor, shape (n_targets,), or None
        First penalty of each target, if not its ``lam_max``.
    reach : Tensor, shape (n_targets,), int64, or None
        Index that each target's path must reach, whatever its errors.
    """

    n_lams: int = 50
    lam_min_ratio: float = 0.01
    floor: float | None = None
    patience: int = 5
    top: Tensor | None = None
    reach: Tensor | None = None

    def ratios(self) -> Tensor:
        """Fractions of ``lam_max``, extension included, float64."""
        steps = max(self.n_lams - 1, 1)
        step = math.log(self.lam_min_ratio) / steps
        floor = min(self.floor or self.lam_min_ratio, self.lam_min_ratio)
        n_total = self.n_lams + int((math.log(floor) - step * steps) / step + 1e-9)
        return torch.exp(step * torch.arange(n_total, dtype=torch.float64))

    def lams(self, problem: LassoProblem) -> Tensor:
        """Penalties of each target, shape (n_targets, n)."""
        top = problem.lam_max if self.top is None else self.top
        return top[:, None] * self.ratios().to(top)

    def reaches(self, problem: LassoProblem) -> Tensor:
        if self.reach is not None:
            return self.reach
        return torch.zeros(len(problem.cross), dtype=torch.long, device=problem.cross.device)


@dataclass(frozen=True)
class Path:
    """Best penalty of each target along a path, by the error on validation models.

    Attributes
    ----------
    lam : Tensor, shape (n_targets,)
        Best penalty, standardised units.
    weights : Tensor, shape (n_targets, n_train)
        Weights there, standardised units.
    index : Tensor, shape (n_targets,), int64
        Position of ``lam`` on the grid, 0 being the largest.
    errors : Tensor, shape (n_lams, n_targets)
        Validation mean squared error, NaN where the path had been left.
    gaps : Tensor, shape (n_lams, n_targets)
        Duality gaps, NaN as the errors; both in units of the fitting models' variance.
    """

    lam: Tensor
    weights: Tensor
    index: Tensor
    errors: Tensor
    gaps: Tensor

    @property
    def at_edge(self) -> Tensor:
        """Whether the best penalty is the smallest that could be tried, shape (n_targets,)."""
        return self.index == len(self.errors) - 1


def spread(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Standardised columns, their means, and standard deviations; constant columns become 0."""
    mean = columns.mean(0)
    centred = columns - mean
    scale = centred.square().mean(0).sqrt()
    varies = scale > _CONSTANT * mean.abs().clamp_min(1)
    scale = torch.where(varies, scale, torch.ones_like(scale))
    return centred * varies / scale, mean, scale


def intercepts(problem: LassoProblem, raw: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of what raw weights leave unexplained, and how far each slot lies from it.

    Returns
    -------
    bias : Tensor, shape (n_targets,)
    effects : Tensor, shape (n_slots, n_targets)
    """
    x_mean = problem.x_mean.double()
    explained = [x_mean @ part.double().T for part in raw.split(_TARGETS)]
    unexplained = problem.y_mean.double() - torch.cat(explained, dim=1)
    shares = problem.sizes.double() / problem.sizes.sum()
    bias = shares @ unexplained
    return bias.to(raw.dtype), (unexplained - bias).to(raw.dtype)
