"""What :mod:`mdhelpers.working_set` passes from function to function: arrays by name."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["Found", "Gradients", "Rules", "Set", "Target", "Validation"]


class Validation(NamedTuple):
    """Models that score the penalties; of length 0 where there is nothing to choose.

    ``masks`` (n_train, n_valid), ``means`` (n_train, n_slots), ``scale`` (n_train,), ``slots``
    (n_valid,) int64, and ``targets`` (n_targets, n_valid) standardised as the fitting models'.
    """

    masks: np.ndarray
    means: np.ndarray
    scale: np.ndarray
    slots: np.ndarray
    targets: np.ndarray


class Rules(NamedTuple):
    """Where paths begin and stop.

    ``first`` is 1 where zero weights solve the first penalty, else 0. A path is left after
    ``patience`` penalties without a better error, and at the ``n_lams``-th unless its error is the
    best, but not before the index in ``reach`` (n_targets,). ``tol`` is relative to the variance.
    """

    first: int
    n_lams: int
    patience: int
    reach: np.ndarray
    tol: float
    max_sweeps: int


class Found(NamedTuple):
    """What is found for each target.

    ``weights`` (n_targets, n_train) hold the start and then the best, ``errors`` and ``gaps``
    (n_targets, n_lams) and ``index`` (n_targets,) are those of :class:`mdhelpers.lasso.Path`.
    """

    weights: np.ndarray
    errors: np.ndarray
    gaps: np.ndarray
    index: np.ndarray


class Target(NamedTuple):
    cross: np.ndarray
    variance: float
    lams: np.ndarray
    margins: np.ndarray
    reach: int
    weights: np.ndarray
    errors: np.ndarray
    gaps: np.ndarray


class Set(NamedTuple):
    """A working set: its columns in order of arrival, and what is known of each.

    ``past`` (2, n_past, n_train) holds weights and slopes after the last sweeps.
    """

    columns: np.ndarray
    inside: np.ndarray
    block: np.ndarray
    weights: np.ndarray
    slopes: np.ndarray
    cross: np.ndarray
    past: np.ndarray


class Gradients(NamedTuple):
    """Full gradients of the last two solutions, and room for the sums that make one."""

    now: np.ndarray
    before: np.ndarray
    sums: np.ndarray
