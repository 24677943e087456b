"""Fits of datamodels on any choice of one algorithm's models: what splits of the models need."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from mdhelpers.datamodels import fit_datamodels
from mdhelpers.evidence import Outputs
from mdhelpers.machine import cores
from mdhelpers.threads import spread

__all__ = ["Fit", "Fitter", "fit_all", "fitter"]

AT_ONCE = 4  # fits: what each holds beside its weights stays within bounds
Fit = Callable[[np.ndarray], np.ndarray]
"""Takes indices of models, gives their datamodels' weights (n_test, n_train)."""


@dataclass(frozen=True, eq=False)
class Fitter:
    """Fits datamodels on any choice of one algorithm's models, and gives those models' outputs.

    Attributes
    ----------
    masks : ndarray, shape (n_models, n_train), bool
    margins : ndarray, shape (n_models, n_test)
    slots : ndarray, shape (n_models,), int, or None
    options : dict
        Further arguments of :func:`mdhelpers.datamodels.fit_datamodels`.
    after : callable, optional
        Called after each fit.
    """

    masks: np.ndarray
    margins: np.ndarray
    slots: np.ndarray | None = None
    options: dict = field(default_factory=dict)
    after: Callable[[], object] | None = None

    def __call__(self, models: np.ndarray) -> np.ndarray:
        """Weights (n_test, n_train) fitted on these models."""
        parts = self.masks[models], self.margins[models]
        weights = fit_datamodels(*parts, slots=self._slots(models), **self.options).weights
        if self.after:
            self.after()
        return weights

    def measured(self, models: np.ndarray, lengths: np.ndarray) -> Outputs:
        """Outputs of these models, for :func:`mdhelpers.evidence.gaps_along`."""
        parts = self.masks[models], self.margins[models]
        return Outputs.measured(*parts, lengths, slots=self._slots(models))

    def _slots(self, models: np.ndarray) -> np.ndarray | None:
        return None if self.slots is None else self.slots[models]


def fit_all(jobs: Iterable[tuple[Fit, np.ndarray]]) -> list[np.ndarray]:
    """Weights of fits on choices of models, several at once, in the order of ``jobs``.

    Each is computed on one thread, so that no bit depends on how many are.
    """
    return list(spread(lambda job: job[0](job[1]), jobs, at_once=min(AT_ONCE, cores())))


def fitter(
    masks: np.ndarray, margins: np.ndarray, *, slots: np.ndarray | None = None, **options
) -> Fitter:
    """What :func:`cross_fitted_gaps` asks for: fits datamodels on any choice of these models.

    Parameters are those of :func:`mdhelpers.datamodels.fit_datamodels`.
    """
    return Fitter(masks, margins, slots, options)
