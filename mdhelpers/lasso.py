r"""The lasso for many targets that share one design, along a path of penalties.

Every test example's datamodel is a regression on the same masks, so what depends on the masks is
computed once. With columns of ``X`` (n_models, n_train) and targets ``y`` centred and divided by
their population standard deviation, each target solves, as glmnet and fast_l1 do,

.. math:: \min_w \; \frac{1}{2m} \lVert y - X w \rVert_2^2 + \lambda \lVert w \rVert_1
   \;=\; \min_w \; \tfrac12 w^\top G w - c^\top w + \tfrac12 + \lambda \lVert w \rVert_1,

where ``G = X^T X / m`` is shared by all targets and ``c = X^T y / m``. The paper's eq. (5) is this
objective with its lambda equal to twice ours. The solver is accelerated proximal gradient, batched
over targets (:mod:`mdhelpers.proximal`): one product ``W G`` a step. Each target has its own step
(raised when the measured curvature asks for it), its own momentum (restarted when it points uphill)
and is dropped when its duality gap, which bounds how far its objective lies above the optimum, is
below ``tol`` times its variance.

Weights and penalties in this module are in standardised units; :func:`raw_weights` converts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mdhelpers.proximal import Solver

__all__ = ["LassoProblem", "Path", "lasso_path", "make_problem", "raw_weights", "solve_lasso"]

_CONSTANT = 1e-7


@dataclass(frozen=True)
class LassoProblem:
    """What the lasso needs to know of a design and its targets.

    Attributes
    ----------
    gram : Tensor, shape (n_train, n_train), or None
        ``X^T X / m``; None where products through ``design`` are cheaper (m < n_train / 2).
    design : Tensor, shape (n_models, n_train), or None
        Standardised columns, kept only where ``gram`` is None.
    cross : Tensor, shape (n_targets, n_train)
        ``X^T y / m`` for each target.
    variance : Tensor, shape (n_targets,)
        1, or 0 for a target that does not vary.
    x_mean, x_scale : Tensor, shape (n_train,)
        Means and population standard deviations (1 where a column does not vary).
    y_mean, y_scale : Tensor, shape (n_targets,)
        The same of the targets.
    """

    gram: Tensor | None
    design: Tensor | None
    cross: Tensor
    variance: Tensor
    x_mean: Tensor
    x_scale: Tensor
    y_mean: Tensor
    y_scale: Tensor

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
class Path:
    """Best penalty of each target along a path, by the error on validation models.

    Attributes
    ----------
    lam : Tensor, shape (n_targets,)
        Best penalty, standardised units.
    weights : Tensor, shape (n_targets, n_train)
        Weights there, standardised units.
    index : Tensor, shape (n_targets,), int64
        Position of ``lam`` on the grid, 0 being ``lam_max``.
    errors : Tensor, shape (n_lams, n_targets)
        Validation mean squared error, NaN where the path had been stopped.
    """

    lam: Tensor
    weights: Tensor
    index: Tensor
    errors: Tensor


def make_problem(x: Tensor, y: Tensor, *, dtype: torch.dtype | None = None) -> LassoProblem:
    """Standardise a design and its targets, and form the moments that the lasso needs.

    Parameters
    ----------
    x : Tensor, shape (n_models, n_train)
        Masks, centred or not.
    y : Tensor, shape (n_models, n_targets)
        Margins.
    dtype : torch.dtype, optional
        Of the result; default float32. Moments are always formed in float64.
    """
    x, x_mean, x_scale, _ = _standardise(x)
    y, y_mean, y_scale, varies = _standardise(y)
    n_models, n_train = x.shape
    through_design = n_models < n_train / 2
    parts = {
        "gram": None if through_design else x.T @ x / n_models,
        "design": x if through_design else None,
        "cross": y.T @ x / n_models,
        "variance": varies,
        "x_mean": x_mean,
        "x_scale": x_scale,
        "y_mean": y_mean,
        "y_scale": y_scale,
    }
    dtype = dtype or torch.float32
    return LassoProblem(**{k: None if v is None else v.to(dtype) for k, v in parts.items()})


def raw_weights(problem: LassoProblem, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and intercepts in the units of the masks and margins.

    Returns
    -------
    weights : Tensor, shape (n_targets, n_train)
    bias : Tensor, shape (n_targets,)
    """
    raw = weights * problem.y_scale[:, None] / problem.x_scale
    return raw, problem.y_mean - raw @ problem.x_mean


def solve_lasso(
    problem: LassoProblem,
    lam: Tensor,
    *,
    start: Tensor | None = None,
    tol: float = 1e-5,
    max_iter: int = 2000,
) -> tuple[Tensor, Tensor]:
    """Solve the lasso at one penalty a target.

    Parameters
    ----------
    problem : LassoProblem
    lam : Tensor, shape (n_targets,)
        Penalties, positive, standardised units.
    start : Tensor, shape (n_targets, n_train), optional
        Where to begin; default zero.
    tol : float
        A target is solved when its duality gap is at most ``tol`` times its variance.
    max_iter : int
        Steps after which the remaining targets are given back as they are.

    Returns
    -------
    weights : Tensor, shape (n_targets, n_train)
    gaps : Tensor, shape (n_targets,)
        Duality gaps in units of the target's variance.

    Raises
    ------
    ValueError
        If a penalty is not positive: at zero the problem is singular for masks of fixed size.
    """
    if not bool((lam > 0).all()):
        raise ValueError(
            f"lam must be positive for every target, got a smallest value of {lam.min().item():g}. "
            "Take a fraction of problem.lam_max instead of 0."
        )
    start = torch.zeros_like(problem.cross) if start is None else start
    solver = Solver(problem, tol, max_iter)
    return solver.solve(torch.arange(len(lam), device=lam.device), lam, start)


def lasso_path(
    problem: LassoProblem,
    x_valid: Tensor,
    y_valid: Tensor,
    *,
    n_lams: int = 50,
    lam_min_ratio: float = 0.01,
    patience: int = 5,
    tol: float = 1e-5,
    max_iter: int = 2000,
) -> Path:
    """Follow each target's path of penalties and keep the best on validation models.

    The grid is geometric from the target's own ``lam_max`` down to ``lam_min_ratio * lam_max``;
    each solution starts from the line through the previous two (the lasso's path is piecewise
    linear in lambda). A target stops after ``patience`` penalties without a better error.

    Parameters
    ----------
    problem : LassoProblem
        Of the fitting models.
    x_valid : Tensor, shape (n_valid, n_train)
    y_valid : Tensor, shape (n_valid, n_targets)
        Validation models, in the units that ``problem`` was made from.
    """
    x_valid = ((x_valid - problem.x_mean) / problem.x_scale).to(problem.cross.dtype)
    y_valid = ((y_valid - problem.y_mean) / problem.y_scale).to(problem.cross.dtype)
    grid = torch.logspace(0, 1, n_lams, base=lam_min_ratio, dtype=torch.float64)
    walk = _Walk(problem, grid.tolist(), Solver(problem, tol, max_iter))
    for k in range(n_lams):
        walk.step(k, x_valid, y_valid)
        walk.drop_stale(patience)
        if not len(walk.rows):
            break
    best_lam = problem.lam_max * grid.to(problem.lam_max)[walk.index]
    return Path(best_lam, walk.best, walk.index, walk.errors)


class _Walk:
    """State of :func:`lasso_path`: targets still on the path, their last two solutions, the best.

    A first step at ``lam_max`` costs nothing, its solution being zero.
    """

    def __init__(self, problem: LassoProblem, grid: list[float], solver: Solver):
        cross = problem.cross
        self.problem, self.grid, self.solver = problem, grid, solver
        self.rows = torch.arange(len(cross), device=cross.device)
        self.current = self.previous = torch.zeros_like(cross)
        self.best = torch.zeros_like(cross)
        self.best_error = torch.full_like(cross[:, 0], torch.inf)
        self.index = torch.zeros(len(cross), dtype=torch.long, device=cross.device)
        self.errors = torch.full((len(grid), len(cross)), torch.nan).to(cross)

    def step(self, k: int, x_valid: Tensor, y_valid: Tensor) -> None:
        """Solve at the k-th penalty and score on the validation models."""
        if k > 0:
            start = self._extrapolate(k) if k > 1 else self.current
            lam = self.problem.lam_max[self.rows] * self.grid[k]
            self.previous = self.current
            self.current, _ = self.solver.solve(self.rows, lam, start)
        error = (y_valid[:, self.rows] - x_valid @ self.current.T).square().mean(0)
        self.errors[k, self.rows] = error
        better = error < self.best_error[self.rows]
        improved = self.rows[better]
        self.best[improved] = self.current[better]
        self.best_error[improved] = error[better]
        self.index[improved] = k

    def _extrapolate(self, k: int) -> Tensor:
        ratio = (self.grid[k] - self.grid[k - 1]) / (self.grid[k - 1] - self.grid[k - 2])
        return self.current + ratio * (self.current - self.previous)

    def drop_stale(self, patience: int) -> None:
        """Take targets off the path whose error has not improved for ``patience`` penalties."""
        last = self.errors[:, self.rows].isfinite().sum(0) - 1
        keep = (last - self.index[self.rows] < patience) & (self.problem.variance[self.rows] > 0)
        if not bool(keep.all()):
            self.rows = self.rows[keep]
            self.current, self.previous = self.current[keep], self.previous[keep]


def _standardise(columns: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    columns = columns.to(torch.float64)
    mean = columns.mean(0)
    centred = columns - mean
    scale = centred.square().mean(0).sqrt()
    varies = scale > _CONSTANT * mean.abs().clamp_min(1)
    scale = torch.where(varies, scale, torch.ones_like(scale))
    return centred * varies / scale, mean, scale, varies.to(torch.float64)
