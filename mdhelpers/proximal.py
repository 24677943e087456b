"""Accelerated proximal gradient for many lassos that share one Gram matrix.

The engine under :mod:`mdhelpers.lasso`, which says what is solved. One step of all targets costs
one product ``W G``; the rest is element by element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from mdhelpers.lasso import LassoProblem

__all__ = ["Solver"]

_FIRST_CURVATURE = 1.3


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
