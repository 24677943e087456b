"""The lasso's penalty for each test example, by how well it predicts models left out.

Appendix B.3 of the paper leaves out a share of the models once. Cross-validation leaves out every
model once, a fold at a time; the Gram matrix of the rest is that of all models less the fold's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mdhelpers.fits import Fit, FitOptions, blocks
from mdhelpers.lasso import Engine, Grid, Path, Validation, lasso_path
from mdhelpers.lasso_problem import LassoProblem
from mdhelpers.moments import Moments
from mdhelpers.slots import split_validation

__all__ = ["choose_by_folds", "choose_by_split", "split_folds"]


def choose_by_split(
    moments: Moments,
    margins: np.ndarray,
    options: FitOptions,
    fit: Fit,
    *,
    seed: int,
    engine: Engine | None = None,
) -> None:
    """Choose on a share of the models, drawn with ``seed``.

    Writes ``lam`` (standardised units) and ``lam_at_edge`` of ``fit``; ``weights`` become those of
    the path there, a start for the fit on all models.
    """
    parts = split_validation(moments.groups, options.validation_share, seed)
    follow = partial(lasso_path, tol=options.tol, engine=engine)
    fitting, validating = (part.numpy() for part in parts)

    def keep(block: slice, _: LassoProblem, path: Path) -> None:
        fit.weights[block] = path.weights.cpu().numpy()
        fit.lam[block] = path.lam.cpu().numpy()
        fit.lam_at_edge[block] = path.at_edge.cpu().numpy()

    _follow_paths(moments, margins, (fitting, validating), options.grid, follow, keep)


def choose_by_folds(
    moments: Moments,
    margins: np.ndarray,
    options: FitOptions,
    fit: Fit,
    *,
    seed: int,
    engine: Engine | None = None,
) -> None:
    """Choose on all models, each predicted by a fit that left it out; writes as above.

    A fold's path is left by its own errors. Where their sum had not turned by then, all folds go
    at least as far as half of them did in another round.
    """
    folds = split_folds(moments.groups.numpy(), options.folds, seed)
    follow = partial(lasso_path, tol=options.tol, engine=engine)
    grid, ratios = options.grid, options.grid.ratios().numpy()
    top = _largest_penalties(moments, margins)
    pending, reach = np.arange(margins.shape[1]), torch.zeros(margins.shape[1], dtype=torch.long)
    while len(pending):
        rule = replace(grid, top=top[pending], reach=reach.to(top.device))
        errors, depths = _errors_of_folds(moments, margins, folds, pending, rule, follow, fit)
        best = np.nanargmin(errors, 0)
        fit.lam[pending] = rule.top.cpu().numpy() * ratios[best]
        fit.lam_at_edge[pending] = best == len(ratios) - 1
        common = depths.min(0)
        turned = (common - best >= grid.patience) | (common == len(ratios) - 1)
        turned |= (common == grid.n_lams - 1) & (best < common)
        turned |= np.isnan(errors[1:]).all(0)  # constant margins
        middle = np.median(depths, 0).astype(np.int64)
        further = np.maximum(middle, best + grid.patience)[~turned]
        pending, reach = pending[~turned], torch.from_numpy(further)


def _largest_penalties(moments: Moments, margins: np.ndarray) -> Tensor:
    """``lam_max`` of each test example on all models."""
    moments.select(moments.everyone)
    parts = blocks(margins.shape[1], moments.device)
    return torch.cat([moments.problem(margins[:, part], form="none").lam_max for part in parts])


def _errors_of_folds(moments, margins, folds, pending, grid: Grid, follow, fit: Fit):
    """Squared errors summed over all models (n_lams, n), and each fold's last index (folds, n)."""
    errors, depths = 0.0, np.zeros((len(folds), len(pending)), np.int64)
    chosen = margins[:, pending]
    for number, fold in enumerate(folds):
        rest = np.setdiff1d(moments.everyone, fold)
        of_fold = np.zeros((len(grid.ratios()), len(pending)))
        keep = partial(_keep_errors, of_fold, len(fold), fit, pending)
        _follow_paths(moments, chosen, (rest, fold), grid, follow, keep)
        depths[number] = np.isfinite(of_fold).sum(0) - 1
        errors = errors + of_fold
    return errors, depths


def _keep_errors(errors, n_scoring: int, fit: Fit, pending, block, problem, path: Path) -> None:
    """Write a block's squared errors, in the margins' units, and its weights as a start."""
    scale = problem.y_scale.double().square() * n_scoring
    errors[:, block] = (path.errors.double() * scale).cpu().numpy()
    fit.weights[pending[block]] = path.weights.cpu().numpy()


def _follow_paths(
    moments: Moments,
    margins: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray],
    grid: Grid,
    follow: Callable[..., Path],
    keep: Callable[[slice, LassoProblem, Path], None],
) -> None:
    """Paths on the fitting models, scored by the others, a block of test examples at a time.

    ``keep`` takes what is wanted of a block; nothing of it is left when the next one begins.
    """
    fitting, validating = parts
    moments.select(fitting)
    masks, groups = moments.masks_of(validating), moments.groups[validating].to(moments.device)

    def one_block(block: slice) -> None:
        problem = moments.problem(margins[:, block])
        y = torch.from_numpy(np.ascontiguousarray(margins[validating, block])).to(moments.device)
        here = grid
        if grid.top is not None:
            here = replace(grid, top=grid.top[block], reach=grid.reach[block])
        keep(block, problem, follow(problem, Validation(masks, y, groups), grid=here))

    for block in blocks(margins.shape[1], moments.device):
        one_block(block)


def split_folds(groups: np.ndarray, n_folds: int, seed: int) -> list[np.ndarray]:
    """Random parts of the models, each slot shared out evenly among them.

    Raises
    ------
    ValueError
        If there are fewer than two models a fold.
    """
    if len(groups) < 2 * n_folds:
        raise ValueError(
            f"{n_folds} folds of {len(groups)} models leave fewer than two models in each; take at "
            f"most {len(groups) // 2} folds."
        )
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    by_slot = shuffled[np.argsort(groups[shuffled], kind="stable")]
    return [np.sort(by_slot[fold::n_folds]) for fold in range(n_folds)]
