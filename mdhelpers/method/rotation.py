r"""Directions turned within their plane, so that each is about few test examples.

Principal components are uncorrelated and hold the most variance; they need not mean one thing each.
Where residuals differ in many ways, as of photographs, a component mixes several, and what a few
test examples have in common is spread over many. Varimax (Kaiser, 1958) turns the components
together. It is the rotation :math:`Q` that makes the projections as uneven as it can,

.. math:: \max_{Q^\top Q = I} \sum_k \Big( \tfrac1n \sum_x P_{xk}^4
   - \big(\tfrac1n \sum_x P_{xk}^2\big)^2 \Big), \qquad P = \Theta^{(1 \setminus 2)} V^\top Q ,

so that each test example lies far out along few directions, and each end of a direction holds a
subpopulation by itself. The plane, and the sum of the gaps in it, stay what they are. Where factors
are of this kind, varimax finds them (Rohe and Zeng, 2023).
"""

from __future__ import annotations

import numpy as np

ROTATIONS = ("none", "varimax")
_TOLERANCE, _MOST = 1e-7, 1000  # of the criterion's growth in a step, and of steps


def varimax(projections: np.ndarray) -> np.ndarray:
    """The rotation (k, k) that makes the columns of ``projections`` (n, k) as uneven as it can.

    Each step takes the orthogonal matrix nearest to the criterion's gradient, from none on.
    """
    turn, before = np.eye(projections.shape[1]), 0.0
    for _ in range(_MOST):
        turned = projections @ turn
        uneven = turned**3 - turned * np.square(turned).mean(0)
        left, sizes, right = np.linalg.svd(projections.T @ uneven)
        turn = left @ right
        if sizes.sum() <= before * (1 + _TOLERANCE):
            break
        before = sizes.sum()
    return turn


def rotation_of(projections: np.ndarray, rotation: str) -> np.ndarray:
    """The matrix (k, k) whose columns give turned directions, those of most variance first.

    Parameters
    ----------
    projections : ndarray, shape (n_test, k), float64
        Residual datamodels on orthonormal directions.
    rotation : str
        One of `ROTATIONS`.

    Raises
    ------
    ValueError
        For an unknown rotation.
    """
    if rotation not in ROTATIONS:
        raise ValueError(f"rotation is {rotation!r}; expected one of {ROTATIONS}")
    if rotation == "none":
        return np.eye(projections.shape[1])
    turn = varimax(projections)
    return turn[:, np.argsort(-np.square(projections @ turn).sum(0), kind="stable")]
