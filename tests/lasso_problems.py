"""The lasso's moments from any design, the slow and obvious way; and its weights in raw units."""

from __future__ import annotations

import torch
from torch import Tensor

from mdhelpers.method.engines.problem import LassoProblem, intercepts, spread


def make_problem(
    x: Tensor, y: Tensor, *, dtype: torch.dtype | None = None, gram: bool = True
) -> LassoProblem:
    """Standardise a design and its targets, and form the moments that the lasso needs.

    For masks ``Moments`` does the same in less memory and time.

    Parameters
    ----------
    x : Tensor, shape (n_models, n_train)
    y : Tensor, shape (n_models, n_targets)
    dtype : torch.dtype, optional
        Of the result; default float32. Moments are always formed in float64.
    gram : bool
        Whether to form the Gram matrix; without it, products go through the design.
    """
    x, x_mean, x_scale = spread(x.to(torch.float64))
    y, y_mean, y_scale = spread(y.to(torch.float64))
    n_models = len(x)
    parts = {
        "gram": x.T @ x / n_models if gram else None,
        "design": None if gram else x,
        "cross": y.T @ x / n_models,
        "variance": y.square().mean(0).round(),
        "x_mean": x_mean[None],
        "x_scale": x_scale,
        "y_mean": y_mean[None],
        "y_scale": y_scale,
        "sizes": torch.tensor([float(n_models)], device=x.device),
    }
    dtype = dtype or torch.float32
    return LassoProblem(**{k: None if v is None else v.to(dtype) for k, v in parts.items()})


def raw_weights(problem: LassoProblem, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and intercepts in the units of the masks and margins.

    Returns
    -------
    weights : Tensor, shape (n_targets, n_train)
    bias : Tensor, shape (n_targets,)
        Mean of what the weights leave unexplained.
    """
    raw = weights * problem.y_scale[:, None] / problem.x_scale
    return raw, intercepts(problem, raw)[0]
