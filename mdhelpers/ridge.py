r"""Ridge regression of margins on masks, the penalty of each target by exact leave-one-out.

With masks and margins standardised as in :mod:`mdhelpers.lasso`, each target solves

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

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdhelpers.fits import Fit, blocks
from mdhelpers.moments import Moments

__all__ = ["fit_ridge"]

_N_LAMS = 33
_DECADES = (-3.0, 5.0)
_NEGLIGIBLE = 1e-6
_ROWS = 1024


@dataclass(frozen=True)
class _Basis:
    """Eigenvalues (r,), eigenvectors, and masks on those of the Gram matrix (n_models, r)."""

    values: Tensor
    vectors: Tensor
    masks: Tensor


def fit_ridge(moments: Moments, margins: np.ndarray) -> Fit:
    """Ridge regression on all models; ``lam`` has no unit, masks and margins being standardised.

    It does better than the lasso where many training examples matter a little. Beside the
    eigenvectors it holds a float for each model and eigenvector.
    """
    moments.select(moments.everyone)
    by_kernel = len(moments.models) < moments.n_train
    basis = _of_kernel(moments) if by_kernel else _of_gram(moments)
    # Noise in the gradient, and with it a sensible penalty, grows with n_train / n_models.
    decades = torch.logspace(*_DECADES, _N_LAMS, device=moments.device)
    lams = decades * (moments.n_train / len(moments.models))
    leverages = _leverages(moments, basis, lams)
    fit = Fit.empty(margins.shape[1], moments)
    for block in blocks(margins.shape[1], moments.device):
        problem = moments.problem(margins[:, block], form="none")
        targets = moments.standardised(margins[:, block])[0]
        on_basis = targets.T @ basis.masks / len(targets)
        best = _left_out_errors(basis, lams, leverages, targets, on_basis).argmin(0)
        shrunk = on_basis / (basis.values + lams[best][:, None])
        fit.put(block, problem, _weights(moments, basis, shrunk, by_kernel))
        varies = problem.variance > 0
        fit.lam[block] = torch.where(varies, lams[best], torch.nan).cpu().numpy()
        fit.lam_at_edge[block] = (varies & ((best == 0) | (best == _N_LAMS - 1))).cpu().numpy()
    return fit


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
