r"""Estimators of datamodels' weights from masks and margins: lasso, ridge, difference of means.

Each takes :class:`mdhelpers.method.engines.moments.Moments` of the masks and the margins of the
same models, goes through the test examples a block at a time, and returns a :class:`Fit`. The
adapter of fast_l1 is in :mod:`mdhelpers.method.engines.fast_l1`.

*Lasso* (:mod:`mdhelpers.method.engines.lasso` solves it). Each test example's penalty is chosen by
how well it predicts models left out. Appendix B.3 of the paper leaves out a share of the models
once. Cross-validation leaves out every model once, a fold at a time; the Gram matrix of the rest is
that of all models less the fold's.

*Ridge regression.* With masks and margins standardised in the same way, each target solves

.. math:: \min_w \; \frac{1}{2m} \lVert y - X w \rVert_2^2 + \frac{\lambda}{2} \lVert w \rVert_2^2,
   \qquad w = (G + \lambda I)^{-1} c .

One eigendecomposition serves all targets and penalties: of ``G`` (n_train × n_train), or of
``X X^T / m`` (n_models × n_models) where there are fewer models than training examples. The error
of predicting each model by a fit without it is the residual over one less the leverage,

.. math:: y_i - \hat y_{-i} = \frac{y_i - \hat y_i}{1 - h_i}, \qquad
   h_i = \frac{1}{n_{s(i)}} + \frac1m \sum_k \frac{p_{ik}^2}{e_k + \lambda},

``p`` being the masks on the eigenvectors, ``e`` the eigenvalues, ``n_s`` the models in a slot whose
mean is fitted too. It is exact at the scale that standardisation gave to all models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from mdhelpers.method.engines.lasso import Engine, lasso_path, solve_lasso
from mdhelpers.method.engines.moments import Moments, split_validation
from mdhelpers.method.engines.problem import Grid, LassoProblem, Path, Validation, intercepts

_BLOCK = {"cpu": 256, "cuda": 2048}
_LEAST_TOL = 1e-6
_N_LAMS = 33
_DECADES = (-3.0, 5.0)
_NEGLIGIBLE = 1e-6
_ROWS = 1024


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
    def grid(self) -> Grid:
        return Grid(self.n_lams, self.lam_min_ratio, self.lam_floor_ratio, self.patience)


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


def fit_lasso(
    moments: Moments,
    margins: np.ndarray,
    options: FitOptions,
    *,
    seed: int = 0,
    engine: Engine | None = None,
) -> Fit:
    """Choose each test example's penalty on models left out, then fit on all (App. B.3)."""
    fit = Fit.empty(margins.shape[1], moments)
    choose = choose_by_folds if options.folds > 1 else choose_by_split
    choose(moments, margins, options, fit, seed=seed, engine=engine)
    moments.select(moments.everyone)
    solve = partial(solve_lasso, tol=max(options.tol / 10, _LEAST_TOL), engine=engine)
    for block in blocks(margins.shape[1], moments.device):
        _refit(moments, margins[:, block], fit, block, solve)
    return fit


def fit_ridge(moments: Moments, margins: np.ndarray, *, one_penalty: bool = False) -> Fit:
    """Ridge regression on all models; ``lam`` has no unit, masks and margins being standardised.

    It does better than the lasso where many training examples matter a little. Beside the
    eigenvectors it holds a float for each model and eigenvector. With ``one_penalty`` all test
    examples share the penalty whose mean error is smallest: with little to be learnt, each one's
    own would be chosen by noise.
    """
    moments.select(moments.everyone)
    by_kernel = len(moments.models) < moments.n_train
    basis = _of_kernel(moments) if by_kernel else _of_gram(moments)
    # Noise in the gradient, and with it a sensible penalty, grows with n_train / n_models.
    decades = torch.logspace(*_DECADES, _N_LAMS, device=moments.device)
    lams = decades * (moments.n_train / len(moments.models))
    leverages = _leverages(moments, basis, lams)
    fit, parts = Fit.empty(margins.shape[1], moments), []
    for block in blocks(margins.shape[1], moments.device):
        targets = moments.standardised(margins[:, block])[0]
        on_basis = targets.T @ basis.masks / len(targets)
        errors = _left_out_errors(basis, lams, leverages, targets, on_basis)
        parts.append((block, on_basis, errors))
    shared = sum(errors.sum(1) for *_, errors in parts).argmin() if one_penalty else None
    for block, on_basis, errors in parts:
        problem = moments.problem(margins[:, block], form="none")
        best = errors.argmin(0) if shared is None else shared.expand(len(on_basis))
        shrunk = on_basis / (basis.values + lams[best][:, None])
        fit.put(block, problem, _weights(moments, basis, shrunk, by_kernel))
        varies = problem.variance > 0
        fit.lam[block] = torch.where(varies, lams[best], torch.nan).cpu().numpy()
        fit.lam_at_edge[block] = (varies & ((best == 0) | (best == _N_LAMS - 1))).cpu().numpy()
    return fit


def fit_nothing(moments: Moments, margins: np.ndarray) -> Fit:
    """Weights of zero, and the means of margins as ``bias`` and ``effects``."""
    fit = Fit.empty(margins.shape[1], moments)
    for block in blocks(margins.shape[1], moments.device):
        problem = moments.problem(margins[:, block], form="none")
        fit.put(block, problem, torch.zeros_like(problem.cross))
    return fit


def fit_difference_of_means(moments: Moments, margins: np.ndarray) -> Fit:
    """Mean margin of the models that saw a training example less that of those that did not.

    Feldman and Zhang (2020), section 2. Within slots it is the slope on the mask within slots.
    """
    fit = Fit.empty(margins.shape[1], moments)
    for block in blocks(margins.shape[1], moments.device):
        problem = moments.problem(margins[:, block], form="none")
        fit.put(block, problem, problem.cross)
    return fit


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
    """Random parts of the models, each slot shared out evenly among them."""
    if len(groups) < 2 * n_folds:
        raise ValueError(
            f"{n_folds} folds of {len(groups)} models leave fewer than two models in each; take at "
            f"most {len(groups) // 2} folds."
        )
    shuffled = np.random.default_rng(seed).permutation(len(groups))
    by_slot = shuffled[np.argsort(groups[shuffled], kind="stable")]
    return [np.sort(by_slot[fold::n_folds]) for fold in range(n_folds)]


def _refit(moments: Moments, margins: np.ndarray, fit: Fit, block: slice, solve) -> None:
    """Fit a block of test examples at the penalties chosen; a function, so that it frees all."""
    problem = moments.problem(margins)
    lam, start = (torch.from_numpy(v[block]).to(moments.device) for v in (fit.lam, fit.weights))
    weights, _ = solve(problem, lam, start=start)
    fit.put(block, problem, weights)
    lam = torch.where(problem.variance > 0, lam * problem.y_scale, torch.nan)
    fit.lam[block] = lam.cpu().numpy()


def block_size(kind: str) -> int:
    """Test examples at once on a kind of device."""
    return _BLOCK.get(kind, _BLOCK["cpu"])


def blocks(n_test: int, device: torch.device) -> Iterator[slice]:
    """Test examples in blocks that suit a device."""
    step = block_size(device.type)
    return (slice(low, min(low + step, n_test)) for low in range(0, n_test, step))


@dataclass(frozen=True)
class _Basis:
    """Eigenvalues (r,), eigenvectors, and masks on those of the Gram matrix (n_models, r)."""

    values: Tensor
    vectors: Tensor
    masks: Tensor


def _of_gram(moments: Moments) -> _Basis:
    values, vectors = _eigen(moments.gram())
    masks = torch.cat([rows @ vectors for rows in moments.standardised_rows()])
    return _Basis(values, vectors, masks)


def _of_kernel(moments: Moments) -> _Basis:
    design = torch.cat(list(moments.standardised_rows()))
    values, vectors = _eigen(design @ design.T / len(design))
    return _Basis(values, vectors, vectors * (len(design) * values).sqrt())


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues that matter and their vectors."""
    values, vectors = torch.linalg.eigh(matrix.double())
    kept = values > _NEGLIGIBLE * values[-1]
    return values[kept].float(), vectors[:, kept].float()


def _weights(moments: Moments, basis: _Basis, on_basis: Tensor, by_kernel: bool) -> Tensor:
    """Standardised weights (n_targets, n_train) from those on the basis."""
    if not by_kernel:
        return on_basis @ basis.vectors.T
    # An eigenvector of the Gram matrix is the masks' product with the kernel's, to unit length.
    n_models = len(basis.vectors)
    return moments.cross((on_basis * (n_models / basis.values).sqrt() @ basis.vectors.T).T)


def _leverages(moments: Moments, basis: _Basis, lams: Tensor) -> Tensor:
    """Weight of each model in its own prediction, shape (n_models, n_lams)."""
    inverse = 1 / (basis.values[:, None] + lams)
    own = torch.cat([rows.square() @ inverse for rows in basis.masks.split(_ROWS)])
    sizes = moments.sizes[moments.groups.to(moments.device)]
    return own / len(own) + (1 / sizes)[:, None].float()


def _left_out_errors(basis, lams, leverages, targets, on_basis) -> Tensor:
    """Mean squared error of predicting each model by a fit without it, (n_lams, n_targets)."""
    total = torch.zeros(len(lams), targets.shape[1], device=targets.device)
    for number, lam in enumerate(lams):
        shrunk = (on_basis / (basis.values + lam)).T
        for low in range(0, len(targets), _ROWS):
            rows = slice(low, low + _ROWS)
            residuals = targets[rows] - basis.masks[rows] @ shrunk
            left_out = residuals / (1 - leverages[rows, number, None]).clamp_min(1e-6)
            total[number] += left_out.square().sum(0)
    return total / len(targets)
