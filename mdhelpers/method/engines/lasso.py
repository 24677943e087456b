r"""The lasso for many targets that share one design, along a path of penalties.

Every test example's datamodel is a regression on the same masks, so what depends on the masks is
computed once. With columns of ``X`` (n_models, n_train) and targets ``y`` centred and divided by
their population standard deviation, each target solves, as glmnet and fast_l1 do,

.. math:: \min_w \; \frac{1}{2m} \lVert y - X w \rVert_2^2 + \lambda \lVert w \rVert_1
   \;=\; \min_w \; \tfrac12 w^\top G w - c^\top w + \tfrac12 + \lambda \lVert w \rVert_1,

where ``G = X^T X / m`` is shared by all targets and ``c = X^T y / m``. The paper's eq. (5) is this
objective with its lambda equal to twice ours. :class:`mdhelpers.method.engines.moments.Moments`
makes ``G`` and ``c`` from masks.

Two engines solve it and agree: coordinate descent on working sets
(:mod:`mdhelpers.method.engines.compiled`), on a CPU where numba is installed; and accelerated
proximal gradient batched over targets (`follow_together`), on any device and for designs too wide
for a Gram matrix: one step of all targets costs one product ``W G``, the rest is element by
element. Both stop a target when its duality gap, which bounds how far its objective lies above the
optimum, is at most ``tol`` times its variance. No gradient then violates optimality by more than
``sqrt(2 * tol)``: a step along one that did would gain half its square.

Weights and penalties in this module are in standardised units.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from mdhelpers.method.engines.problem import Grid, LassoProblem, Path, Validation


@cache
def can_compile() -> bool:
    """Whether numba, which compiles the CPU's engine, is installed."""
    return find_spec("numba") is not None


@dataclass(frozen=True)
class Engine:
    """How the lasso is solved.

    Attributes
    ----------
    kind : str
        "working_set", "proximal", or "auto": the first where it can be had.
    max_iter : int
        Sweeps or steps after which a solution is given back as it is.
    threads : int
        Threads that share the targets; of the working sets only, torch has its own.
    """

    kind: str = "auto"
    max_iter: int = 2000
    threads: int = 1

    def compiled(self, problem: LassoProblem) -> bool:
        """Whether this engine solves ``problem`` by working sets.

        Raises
        ------
        ValueError
            If ``kind`` is unknown or cannot be had.
        """
        on_cpu = problem.gram is not None and problem.gram.device.type == "cpu"
        if self.kind not in ("auto", "working_set", "proximal"):
            raise ValueError(
                f"engine {self.kind!r} is unknown; expected 'auto', 'working_set' or 'proximal'."
            )
        if self.kind == "working_set" and not (on_cpu and can_compile()):
            raise ValueError(
                "working sets need numba and a Gram matrix on the CPU; got "
                f"{'numba' if can_compile() else 'no numba'} and "
                f"{'no Gram matrix' if problem.gram is None else problem.gram.device}. "
                "Use engine 'auto' or 'proximal'."
            )
        return self.kind != "proximal" and on_cpu and can_compile()


def solve_lasso(
    problem: LassoProblem,
    lam: Tensor,
    *,
    start: Tensor | None = None,
    tol: float = 1e-5,
    engine: Engine | None = None,
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
    engine : Engine, optional

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
    engine = engine or Engine()
    start = torch.zeros_like(problem.cross) if start is None else start
    if not engine.compiled(problem):
        solver = Solver(problem, tol, engine.max_iter)
        return solver.solve(torch.arange(len(lam), device=lam.device), lam, start)
    masks = torch.zeros(0, len(problem.x_scale), dtype=torch.uint8)
    nothing = Validation(masks, lam.new_zeros(0, len(lam)))
    weights = (start * problem.variance[:, None]).contiguous()
    grid = Grid(n_lams=1, patience=1)
    path = follow_compiled(problem, nothing, lam[:, None], grid, tol, engine, weights)
    gaps = torch.where(problem.variance > 0, path.gaps[0].to(lam), torch.zeros_like(lam))
    return weights, gaps


def lasso_path(
    problem: LassoProblem,
    validation: Validation,
    *,
    grid: Grid | None = None,
    tol: float = 1e-5,
    engine: Engine | None = None,
) -> Path:
    """Follow each target's path of penalties and keep the best on validation models.

    Parameters
    ----------
    problem : LassoProblem
        Of the fitting models.
    validation : Validation
        Other models, in the units that ``problem`` was made from.
    grid : Grid, optional
        Penalties, and when a path is left.
    tol : float
        Duality gap at each penalty, relative to the target's variance.
    engine : Engine, optional
    """
    grid, engine = grid or Grid(), engine or Engine()
    lams = grid.lams(problem)
    if engine.compiled(problem):
        weights = torch.zeros_like(problem.cross)
        return follow_compiled(problem, validation, lams, grid, tol, engine, weights)
    return follow_together(problem, validation, lams, grid, Solver(problem, tol, engine.max_iter))


def follow_compiled(problem, validation, lams, grid, tol, engine, weights) -> Path:
    """Hand arrays to the compiled engine, in as many parts as there are threads."""
    from mdhelpers.method.engines import compiled  # numba takes half a second to import

    n_targets, n_lams = lams.shape
    found = compiled.Found(
        weights=weights.numpy(),
        errors=np.full((n_targets, n_lams), np.nan),
        gaps=np.full((n_targets, n_lams), np.nan),
        index=np.zeros(n_targets, np.int64),
    )
    scored = _scored(problem, validation)
    dtype = problem.cross.dtype
    arrays = [v.to(dtype).contiguous().numpy() for v in (problem.cross, problem.variance, lams)]
    reach = grid.reaches(problem).numpy()
    first = int(grid.top is None and n_lams > 1)

    def follow(part: slice) -> None:
        rules = compiled.Rules(
            first, grid.n_lams, grid.patience, reach[part], float(tol), engine.max_iter
        )
        own = scored._replace(targets=scored.targets[part])
        results = compiled.Found(*(v[part] for v in found))
        compiled.follow(problem.gram.numpy(), *(v[part] for v in arrays), own, rules, results)

    with ThreadPoolExecutor(engine.threads) as pool:
        list(pool.map(follow, _parts(n_targets, engine.threads)))
    index = torch.from_numpy(found.index)
    errors, gaps = (torch.from_numpy(v.T).to(lams.dtype) for v in (found.errors, found.gaps))
    return Path(lams[torch.arange(n_targets), index], weights, index, errors, gaps)


def _scored(problem: LassoProblem, validation: Validation):
    """Validation models for the compiled engine: columns as rows, masks as bytes."""
    from mdhelpers.method.engines import compiled

    x, dtype = validation.x, problem.cross.dtype
    if x.dtype is torch.bool:
        x = x.view(torch.uint8)
    elif x.dtype is not torch.uint8:
        x = x.to(dtype)
    return compiled.Scored(
        masks=x.T.contiguous().numpy(),
        means=problem.x_mean.T.contiguous().to(dtype).numpy(),
        scale=problem.x_scale.to(dtype).numpy(),
        slots=validation.rows().numpy(),
        targets=validation.standardised_y(problem).T.contiguous().numpy(),
    )


def _parts(n: int, threads: int) -> list[slice]:
    bounds = np.linspace(0, n, min(threads, n) + 1).astype(int)
    return [slice(a, b) for a, b in pairwise(bounds)]


_FIRST_CURVATURE = 1.3


def follow_together(
    problem: LassoProblem, validation: Validation, lams: Tensor, grid: Grid, solver
) -> Path:
    """Follow all paths together; ``lams`` (n_targets, n) ends at the floor.

    Each solution starts from the line through the previous two, the lasso's path being piecewise
    linear in lambda.
    """
    scored = validation.standardised_x(problem), validation.standardised_y(problem)
    walk = _Walk(problem, lams, solver, first=int(grid.top is None))
    reach = grid.reaches(problem)
    for k in range(lams.shape[1]):
        walk.step(k, *scored)
        walk.drop(k, grid, reach)
        if not len(walk.rows):
            break
    best = lams.gather(1, walk.index[:, None])[:, 0]
    return Path(best, walk.best, walk.index, walk.errors, walk.gaps)


class _Walk:
    """State of :func:`follow`: targets still on the path, their last two solutions, the best.

    Zero weights solve the penalties before ``first``.
    """

    def __init__(self, problem: LassoProblem, lams: Tensor, solver: Solver, first: int):
        cross = problem.cross
        self.problem, self.lams, self.solver, self.first = problem, lams, solver, first
        self.rows = torch.arange(len(cross), device=cross.device)
        self.current = self.previous = torch.zeros_like(cross)
        self.best = torch.zeros_like(cross)
        self.best_error = torch.full_like(cross[:, 0], torch.inf)
        self.index = torch.zeros(len(cross), dtype=torch.long, device=cross.device)
        self.errors = torch.full((lams.shape[1], len(cross)), torch.nan).to(cross)
        self.gaps = self.errors.clone()

    def step(self, k: int, x_valid: Tensor, y_valid: Tensor) -> None:
        """Solve at the k-th penalty and score on the validation models."""
        self.gaps[k, self.rows] = 0
        if k >= self.first:
            start = self._extrapolate(k) if k > self.first else self.current
            self.previous = self.current
            self.current, gaps = self.solver.solve(self.rows, self.lams[self.rows, k], start)
            self.gaps[k, self.rows] = gaps
        error = (y_valid[:, self.rows] - x_valid @ self.current.T).square().mean(0)
        self.errors[k, self.rows] = error
        better = error < self.best_error[self.rows]
        improved = self.rows[better]
        self.best[improved] = self.current[better]
        self.best_error[improved] = error[better]
        self.index[improved] = k

    def _extrapolate(self, k: int) -> Tensor:
        if k < 2:
            return self.current
        now, before, earlier = (self.lams[self.rows, k - i][:, None] for i in range(3))
        return self.current + (now - before) / (before - earlier) * (self.current - self.previous)

    def drop(self, k: int, grid: Grid, reach: Tensor) -> None:
        """Take targets off the path that are constant, or have no better error in prospect."""
        since = k - self.index[self.rows]
        ended = (since > 0) if k == grid.n_lams - 1 else torch.zeros_like(since, dtype=torch.bool)
        stop = ((since >= grid.patience) | ended) & (k >= reach[self.rows])
        keep = ~stop & (self.problem.variance[self.rows] > 0)
        if not bool(keep.all()):
            self.rows = self.rows[keep]
            self.current, self.previous = self.current[keep], self.previous[keep]


class Solver:
    """Batched accelerated proximal gradient; remembers each target's curvature between calls.

    Parameters
    ----------
    problem : LassoProblem
    tol : float
        Duality gap, relative to the target's variance, at which a target is done.
    max_iter : int
        Steps after which the rest are given back as they are.
    """

    check_every = 3

    def __init__(self, problem: LassoProblem, tol: float, max_iter: int):
        self.problem, self.tol, self.max_iter = problem, tol, max_iter
        self.ceiling = _top_eigenvalue(problem)
        first = min(_FIRST_CURVATURE, self.ceiling)
        self.curvature = torch.full_like(problem.cross[:, :1], first)

    def solve(self, rows: Tensor, lam: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Weights and duality gaps of targets ``rows`` at penalties ``lam``, from ``start``."""
        weights, gaps = start.clone(), torch.full_like(lam, torch.inf)
        live = torch.arange(len(rows), device=rows.device)
        batch = _Batch(self.problem, rows, lam, start, self.curvature[rows], self.ceiling)
        for i in range(self.max_iter):
            if i % self.check_every == 0:
                gap = batch.gap()
                done = gap <= self.tol * batch.variance
                if bool(done.any()):
                    weights[live[done]], gaps[live[done]] = batch.w[done], gap[done]
                    self.curvature[batch.rows[done]] = batch.curvature[done]
                    live = live[~done]
                    batch.keep(~done)
                if not len(live):
                    return weights, gaps
            batch.step()
        weights[live], gaps[live] = batch.w, batch.gap()
        self.curvature[batch.rows] = batch.curvature
        return weights, gaps


class _Batch:
    """Targets being solved: iterate ``w``, extrapolated point ``z``, and their products with G.

    ``z`` is linear in the iterates, so its product is the same combination of theirs.
    """

    names = ("rows", "lam", "cross", "variance", "curvature", "momentum", "w", "gw", "z", "gz")

    def __init__(self, problem, rows, lam, start, curvature, ceiling):
        self.problem, self.rows, self.lam = problem, rows, lam[:, None]
        self.ceiling = ceiling
        self.cross, self.variance = problem.cross[rows], problem.variance[rows]
        self.curvature, self.momentum = curvature, torch.ones_like(curvature)
        self.w, self.gw = start, problem.product(start)
        self.z, self.gz = self.w, self.gw

    def keep(self, chosen: Tensor) -> None:
        for name in self.names:
            setattr(self, name, getattr(self, name)[chosen])

    def step(self) -> None:
        target = self.z - (self.gz - self.cross) / self.curvature
        w = _shrink(target, self.lam / self.curvature)
        gw = self.problem.product(w)
        move = w - self.z
        length = (move * move).sum(1, keepdim=True)
        measured = (move * (gw - self.gz)).sum(1, keepdim=True)
        # At the ceiling a step cannot be too long: what looks so is rounding.
        too_long = (measured > self.curvature * length) & (self.curvature < self.ceiling)
        uphill = (move * (w - self.w)).sum(1, keepdim=True) < 0
        self._accept(w, gw, too_long, uphill)
        raised = torch.maximum(1.1 * measured / length.clamp_min(1e-30), 1.1 * self.curvature)
        self.curvature = torch.where(too_long, raised.clamp_max(self.ceiling), self.curvature)

    def _accept(self, w: Tensor, gw: Tensor, too_long: Tensor, uphill: Tensor) -> None:
        following = (1 + (1 + 4 * self.momentum.square()).sqrt()) / 2
        beta = torch.where(uphill, 0.0, (self.momentum - 1) / following)
        z, gz = w + beta * (w - self.w), gw + beta * (gw - self.gw)
        self.momentum = torch.where(too_long | uphill, 1.0, following)
        if bool(too_long.any()):
            w, gw = torch.where(too_long, self.w, w), torch.where(too_long, self.gw, gw)
            z, gz = torch.where(too_long, self.w, z), torch.where(too_long, self.gw, gz)
        self.w, self.gw, self.z, self.gz = w, gw, z, gz

    def gap(self) -> Tensor:
        """Duality gap: objective at ``w`` less that of its residuals scaled to be feasible."""
        lam = self.lam[:, 0]
        fitted = (self.cross * self.w).sum(1)
        squared = (self.variance - 2 * fitted + (self.w * self.gw).sum(1)).clamp_min(0)
        slope = (self.cross - self.gw).abs().amax(1)
        scale = (lam / slope.clamp_min(1e-30)).clamp_max(1)
        primal = squared / 2 + lam * self.w.abs().sum(1)
        return primal - scale * (self.variance - fitted) + scale.square() * squared / 2


def _top_eigenvalue(problem: LassoProblem, n_steps: int = 40) -> float:
    """Upper estimate of the largest eigenvalue of G, by power iteration and a margin of 10%."""
    vector = torch.cos(torch.arange(problem.cross.shape[1]).to(problem.cross))[None]
    length = vector.norm()
    for _ in range(n_steps):
        vector = problem.product(vector / length)
        length = vector.norm().clamp_min(1e-12)
    return max(1.1 * length.item(), 1e-6)


def _shrink(x: Tensor, threshold: Tensor) -> Tensor:
    return x - x.clamp(-threshold, threshold)
