"""Estimators of datamodels' weights from masks and margins: difference of means, and the lasso.

Each takes :class:`mdhelpers.moments.Moments` of the masks and the margins of the same models, goes
through the test examples a block at a time, and returns a :class:`mdhelpers.fits.Fit`. Ridge
regression is in :mod:`mdhelpers.ridge`, the adapter of fast_l1 in :mod:`mdhelpers.fast_l1`.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from mdhelpers import lasso
from mdhelpers.fits import Fit, FitOptions, blocks
from mdhelpers.moments import Moments
from mdhelpers.penalties import choose_by_folds, choose_by_split

__all__ = ["fit_difference_of_means", "fit_lasso"]

_LEAST_TOL = 1e-6


def fit_difference_of_means(moments: Moments, margins: np.ndarray) -> Fit:
    """Mean margin of the models that saw a training example less that of those that did not.

    Feldman and Zhang (2020), section 2. Within slots it is the slope on the mask within slots.
    """
    fit = Fit.empty(margins.shape[1], moments)
    for block in blocks(margins.shape[1], moments.device):
        problem = moments.problem(margins[:, block], form="none")
        fit.put(block, problem, problem.cross)
    return fit


def fit_lasso(
    moments: Moments,
    margins: np.ndarray,
    options: FitOptions,
    *,
    seed: int = 0,
    engine: lasso.Engine | None = None,
) -> Fit:
    """Choose each test example's penalty on models left out, then fit on all (App. B.3)."""
    fit = Fit.empty(margins.shape[1], moments)
    choose = choose_by_folds if options.folds > 1 else choose_by_split
    choose(moments, margins, options, fit, seed=seed, engine=engine)
    moments.select(moments.everyone)
    tol = max(options.tol / 10, _LEAST_TOL)
    for block in blocks(margins.shape[1], moments.device):
        _refit(
            moments,
            margins[:, block],
            fit,
            block,
            partial(lasso.solve_lasso, tol=tol, engine=engine),
        )
    return fit


def _refit(moments: Moments, margins: np.ndarray, fit: Fit, block: slice, solve) -> None:
    """Fit a block of test examples at the penalties chosen; a function, so that it frees all."""
    problem = moments.problem(margins)
    lam, start = (torch.from_numpy(v[block]).to(moments.device) for v in (fit.lam, fit.weights))
    weights, _ = solve(problem, lam, start=start)
    fit.put(block, problem, weights)
    lam = torch.where(problem.variance > 0, lam * problem.y_scale, torch.nan)
    fit.lam[block] = lam.cpu().numpy()
