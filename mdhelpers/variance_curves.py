r"""Explained variance of many components of the residuals, under both algorithms (appendix F.2).

The paper's Figure 19 shows the first 100 components of the residuals 1∖2 to explain more of the
variance of algorithm 1's datamodels than of 2's, and those of 2∖1 less. A direction that was found
in a set of datamodels explains more of that set than it should: measured on fits to other models,
the curves are lower, and nearer to each other.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mdhelpers.comparison import Comparison, compare, most_directions
from mdhelpers.datamodels import Datamodels
from mdhelpers.residuals import ResidualPair, as_weights

__all__ = ["N_COMPONENTS", "curves_of", "variance_curves"]

N_COMPONENTS = 100  # as in the paper's Figure 19

Weights = Datamodels | np.ndarray | Tensor


def variance_curves(
    datamodels_1: Weights,
    datamodels_2: Weights,
    *,
    measured_on: tuple[Weights, Weights] | None = None,
    n_components: int = N_COMPONENTS,
    center: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """What the components of both residuals explain under either algorithm.

    Parameters
    ----------
    datamodels_1, datamodels_2 : Datamodels, or array of shape (n_test, n_train)
        Where the components are found.
    measured_on : pair of the same, optional
        Datamodels of the same examples fitted to other models, on which they are measured instead.
    n_components : int
        Of each residual; as many as there are, if fewer.
    center, seed
        As in :func:`mdhelpers.comparison.compare`.

    Returns
    -------
    DataFrame
        ``comparison, component, variance_1, variance_2, gap, cumulative_gap``: fractions of the
        variance; gaps are positive where the first-named algorithm relies on the component more.
    """
    pair = as_weights(datamodels_1), as_weights(datamodels_2)
    if pair[0].ndim == 2:  # else compare says what is wrong
        n_components = min(n_components, most_directions(pair[0].shape, centred=center))
    found = compare(*pair, n_directions=n_components, center=center, seed=seed)
    return curves_of(found, measured_on)


def curves_of(
    comparison: Comparison, measured_on: tuple[Weights, Weights] | None = None
) -> pd.DataFrame:
    """The table of :func:`variance_curves` for the directions of a comparison, by component."""
    tables = []
    for directions in comparison:
        fractions = directions.explained_variance.astype(np.float64)
        if measured_on is not None:
            fractions = _fractions(measured_on, directions.directions)
        sign = 1 if directions.name == "1_minus_2" else -1
        columns = {"comparison": directions.name, "component": directions.component}
        columns |= {"variance_1": fractions[:, 0], "variance_2": fractions[:, 1]}
        table = pd.DataFrame(columns | {"gap": sign * (fractions[:, 0] - fractions[:, 1])})
        table = table.sort_values("component", ignore_index=True)
        tables.append(table.assign(cumulative_gap=table["gap"].cumsum()))
    return pd.concat(tables, ignore_index=True)


def _fractions(datamodels: tuple[Weights, Weights], directions: np.ndarray) -> np.ndarray:
    pair = ResidualPair(*(as_weights(weights) for weights in datamodels))
    columns = torch.from_numpy(np.ascontiguousarray(directions.T)).to(pair.device)
    along = [part.double().square().sum(0).cpu().numpy() for part in pair.datamodels_times(columns)]
    n_rows = [max(pair.shape[0] - zero, 1) for zero in pair.n_zero]
    return np.stack([a / n for a, n in zip(along, n_rows, strict=True)], axis=1)
