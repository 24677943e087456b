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
proximal gradient batched over targets (:mod:`mdhelpers.method.engines.proximal`), on any device and
for designs too wide for a Gram matrix. Both stop a target when its duality gap, which bounds how
far its objective lies above the optimum, is at most ``tol`` times its variance. No gradient then
violates optimality by more than ``sqrt(2 * tol)``: a step along one that did would gain half its
square.

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

from mdhelpers.method.engines import proximal
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
        solver = proximal.Solver(problem, tol, engine.max_iter)
        return solver.solve(torch.arange(len(lam), device=lam.device), lam, start)
    masks = torch.zeros(0, len(problem.x_scale), dtype=torch.uint8)
    nothing = Validation(masks, lam.new_zeros(0, len(lam)))
    weights = (start * problem.variance[:, None]).contiguous()
    grid = Grid(n_lams=1, patience=1)
    path = _follow(problem, nothing, lam[:, None], grid, tol, engine, weights)
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
        return _follow(problem, validation, lams, grid, tol, engine, weights)
    return proximal.follow(
        problem, validation, lams, grid, proximal.Solver(problem, tol, engine.max_iter)
    )


def _follow(problem, validation, lams, grid, tol, engine, weights) -> Path:
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
