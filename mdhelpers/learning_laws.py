r"""Learning curves carried on to numbers of models that were not trained.

Weights fitted to ``m`` models are those of the truth and noise, the noise of two
disjoint sets independent, so a share ``k`` of their variance is common to both: their cosine is
``k``, and the LDS is ``sqrt(k)`` of that of the true weights, the *plateau*. How ``k`` grows with
``m`` follows from what a weight's noise is made of,

.. math:: \frac1k - 1 = \frac{f + h \, (1 - k)}{m},

``f`` the noise of trainings and ``h (1 - k)`` the effect of other training examples that the other
weights do not explain yet.

- Ridge regression: ``h = n_train``. This is the fixed point of the error of the best linear
  estimate in many dimensions (Dobriban and Wager, 2018); ``f`` is fitted to the cosines.
- Difference of means: the whole effect of other examples stays noise, so that ``h = 0`` and ``f``
  holds both. Then ``k`` for twice the models is by Spearman and Brown's formula.
- Lasso: ``f`` and the plateau, which are properties of the trainings and the truth, are those of
  ridge regression on the same subsets; ``h`` is fitted, and may be small or negative where weights
  are sparse. It changes with ``m``, so the largest numbers of models decide.

With slots, each slot's mean costs a model: ``m`` counts models less slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mdhelpers.learning_curves import LearningCurve

__all__ = ["SPARSE", "Law", "fit_law", "fit_laws", "models_needed"]

SPARSE = ("lasso", "fast_l1")  # methods whose law needs that of ridge regression
_LEAST, _MOST = 0.02, 0.999  # cosines and scores beyond tell of noise and rounding only


@dataclass(frozen=True)
class Law:
    """A fitted curve; see this module's head for the symbols.

    Attributes
    ----------
    noise, others : float
        ``f`` and ``h``, in models.
    plateau : float
        LDS of the true weights: what infinitely many models would reach.
    n_slots : int
    """

    noise: float
    others: float
    plateau: float
    n_slots: int = 0

    def cosine(self, n_models) -> np.ndarray:
        """Cosine of two fits on disjoint sets of ``n_models`` each."""
        m = np.maximum(np.asarray(n_models, float) - self.n_slots, 1e-9)
        total = m + self.noise + self.others
        return 2 * m / (total + np.sqrt(np.maximum(total**2 - 4 * self.others * m, 0)))

    def lds(self, n_models) -> np.ndarray:
        """LDS of a fit on ``n_models``."""
        return self.plateau * np.sqrt(self.cosine(n_models))


def models_needed(law: Law, *, lds: float | None = None, cosine: float | None = None) -> float:
    """Models that an LDS, or a cosine of disjoint fits, takes by the law: whole ones, or inf.

    Raises
    ------
    ValueError
        If not exactly one target is given, or it is not between 0 and 1.
    """
    targets = [target for target in (lds, cosine) if target is not None]
    if len(targets) != 1 or not 0 < targets[0] < 1:
        raise ValueError(
            f"got lds={lds} and cosine={cosine}; expected one of them, between 0 and 1."
        )
    k = cosine if lds is None else (lds / law.plateau) ** 2
    if k >= 1:
        return math.inf
    m = (law.noise + law.others * (1 - k)) * k / (1 - k)
    return float(math.ceil(max(m, 1) + law.n_slots - 1e-6))


def fit_law(
    table: pd.DataFrame,
    *,
    method: str,
    n_train: int,
    n_slots: int = 0,
    ceiling: float = 1.0,
    ridge: Law | None = None,
) -> Law | None:
    """Fit the curve to points, larger numbers of models counting for more.

    Parameters
    ----------
    table : DataFrame
        ``n_models, lds, cosine``; NaN where something was not measured.
    method : str
        How the weights were fitted, see `mdhelpers.datamodels.METHODS`.
    n_train : int
    n_slots : int
    ceiling : float
        The plateau is at most this: the noise ceiling, where it was measured.
    ridge : Law, optional
        That of ridge regression on the same subsets; the lasso needs it.

    Returns
    -------
    Law or None
        None where nothing stands out from noise, so that there is nothing to carry on.

    Raises
    ------
    ValueError
        If the lasso is given no law of ridge regression.
    """
    points, scored = (table[table[name] > _LEAST] for name in ("cosine", "lds"))
    if not len(points) or not len(scored):
        return None
    m = points["n_models"].to_numpy(float) - n_slots
    k = points["cosine"].clip(upper=_MOST).to_numpy()
    n = scored["n_models"].to_numpy(float)
    if method in SPARSE:
        if ridge is None:
            raise ValueError(f"the curve of {method} needs that of ridge regression; give ridge.")
        shares = ((scored["lds"] / ridge.plateau) ** 2).clip(upper=_MOST)
        others = _others(np.append(m, n - n_slots), np.append(k, shares), ridge.noise)
        return Law(ridge.noise, others, ridge.plateau, n_slots)
    others = float(n_train) if method == "ridge" else 0.0
    noise = np.average(m * (1 / k - 1) - others * (1 - k), weights=m)
    law = Law(max(float(noise), 1e-3), others, 1.0, n_slots)
    log_plateau = np.average(np.log(scored["lds"] / law.lds(n)), weights=n - n_slots)
    return replace(law, plateau=min(float(np.exp(log_plateau)), ceiling, 1.0))


def _others(m: np.ndarray, k: np.ndarray, noise: float) -> float:
    """Least squares for ``h``, dominated by the largest numbers of models."""
    excess, weights = m * (1 / k - 1) - noise, m**4
    return float((weights * excess * (1 - k)).sum() / (weights * (1 - k) ** 2).sum())


def fit_laws(curve: LearningCurve, *, ridge: LearningCurve | None = None, **known) -> list[Law]:
    """The curve's law, and that of each of the bootstrap's draws, for intervals.

    Parameters
    ----------
    curve : LearningCurve
    ridge : LearningCurve, optional
        Of ridge regression, from the same seed and number of draws; the lasso needs it.
    **known
        As in :func:`fit_law`.

    Returns
    -------
    list of Law
        The first is of the curve itself; empty where it has none.
    """
    laws = []
    for table, beside in zip(_tables(curve), _tables(ridge or curve), strict=True):
        law = None
        if ridge is not None:
            law = fit_law(beside, **known | {"method": "ridge"})
        if ridge is None or law is not None:
            law = fit_law(table, ridge=law, **known)
        if law is None and not laws:
            return []
        laws += [law] if law else []
    return laws


def _tables(curve: LearningCurve) -> list[pd.DataFrame]:
    again = [curve.table.assign(lds=lds, cosine=cosine) for lds, cosine in curve.draws]
    return [curve.table, *again]
