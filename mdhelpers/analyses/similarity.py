"""How alike algorithms use their training data: one number a pair, and a curve of components.

*Cosines* (appendix F.1). The cosine of two datamodels of a test example says how far two algorithms
depend on the same training examples for it. Noise of the estimates lowers it, so that even an
algorithm does not reach 1 with itself. Where each algorithm has several fits on models that no two
of them share, its cosine with itself is measured too, and a pair's mean can be divided by the
geometric mean of its two selves', as is usual for correlations of noisy measurements.

*Variance curves* (appendix F.2). The paper's Figure 19 shows the first 100 components of the
residuals 1∖2 to explain more of the variance of algorithm 1's datamodels than of 2's, and those of
2∖1 less. A direction that was found in a set of datamodels explains more of that set than it
should: measured on fits to other models, the curves are lower, and nearer to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
import torch

from mdhelpers.method.comparison import (
    Comparison,
    Weights,
    compare,
    datamodel_cosines,
    most_directions,
)
from mdhelpers.method.engines.principal import ResidualPair, as_weights

N_COMPONENTS = 100  # as in the paper's Figure 19
_LEAST = 0.1
Fits = Weights | Sequence


@dataclass(frozen=True)
class Similarity:
    """Cosines of the datamodels of every pair of algorithms.

    Attributes
    ----------
    names : tuple of str
    cosines : DataFrame
        ``first, second, test, cosine``: for each pair of algorithms (and each algorithm with itself
        where it has several fits) the cosine of every test example's datamodels, averaged over
        pairs of fits; 0 where a datamodel is zero.
    """

    names: tuple[str, ...]
    cosines: pd.DataFrame

    @property
    def matrix(self) -> pd.DataFrame:
        """Mean cosine of each pair, symmetric; NaN where an algorithm has a single fit."""
        means = self.cosines.groupby(["first", "second"])["cosine"].mean()
        table = pd.DataFrame(np.nan, index=list(self.names), columns=list(self.names))
        for (first, second), value in means.items():
            table.loc[first, second] = table.loc[second, first] = value
        return table

    @property
    def corrected(self) -> pd.DataFrame:
        """The matrix over the geometric mean of both selves: 1 for algorithms that are the same.

        Entries may exceed 1 by chance; NaN where an algorithm's cosine with itself is under 0.1,
        so that there is hardly more than noise to divide.
        """
        matrix = self.matrix
        own = np.diag(matrix.to_numpy())
        own = np.where(own >= _LEAST, own, np.nan)
        return matrix / np.sqrt(np.outer(own, own))


def similarity(algorithms: Mapping[str, Fits]) -> Similarity:
    """Compare any number of algorithms by the cosines of their datamodels (F.1, Figure 18).

    Parameters
    ----------
    algorithms : mapping of name to datamodels
        Each a ``Datamodels``, an array or tensor of shape (n_test, n_train), or a list of several:
        fits on disjoint models, in the same order for all algorithms. Fits of equal place may
        share masks, so only fits of unequal place are compared where there are several.

    Raises
    ------
    ValueError
        If there are fewer than two fits in all, or shapes disagree.
    """
    fits = {name: _listed(given) for name, given in algorithms.items()}
    if sum(len(several) for several in fits.values()) < 2:
        raise ValueError(
            f"got {len(fits)} algorithms with one fit at most; expected two algorithms, or two "
            "fits."
        )
    tables = []
    for first, second in combinations_with_replacement(fits, 2):
        pairs = _pairs(len(fits[first]), len(fits[second]), same=first == second)
        if pairs:
            found = [datamodel_cosines(fits[first][i], fits[second][j]) for i, j in pairs]
            cosines = np.mean(found, axis=0)
            columns = {"first": first, "second": second, "test": np.arange(len(cosines))}
            tables.append(pd.DataFrame(columns | {"cosine": cosines}))
    return Similarity(tuple(fits), pd.concat(tables, ignore_index=True))


def variance_curves(
    datamodels_1: Weights,
    datamodels_2: Weights,
    *,
    measured_on: tuple[Weights, Weights] | None = None,
    n_components: int = N_COMPONENTS,
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
    seed : int
        As in :func:`mdhelpers.method.comparison.compare`.

    Returns
    -------
    DataFrame
        ``comparison, component, variance_1, variance_2, gap, cumulative_gap``: fractions of the
        variance; gaps are positive where the first-named algorithm relies on the component more.
    """
    pair = as_weights(datamodels_1), as_weights(datamodels_2)
    if pair[0].ndim == 2:  # else compare says what is wrong
        n_components = min(n_components, most_directions(pair[0].shape))
    found = compare(*pair, n_directions=n_components, seed=seed)
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


def _listed(given: Fits) -> list:
    return list(given) if isinstance(given, list | tuple) else [given]


def _pairs(n_first: int, n_second: int, *, same: bool) -> list[tuple[int, int]]:
    if same:
        return [(i, j) for i, j in product(range(n_first), repeat=2) if i < j]
    pairs = list(product(range(n_first), range(n_second)))
    return [(i, j) for i, j in pairs if i != j] or pairs


def _fractions(datamodels: tuple[Weights, Weights], directions: np.ndarray) -> np.ndarray:
    pair = ResidualPair(*(as_weights(weights) for weights in datamodels))
    columns = torch.from_numpy(np.ascontiguousarray(directions.T)).to(pair.device)
    along = [part.double().square().sum(0).cpu().numpy() for part in pair.datamodels_times(columns)]
    n_rows = [max(pair.shape[0] - zero, 1) for zero in pair.n_zero]
    return np.stack([a / n for a, n in zip(along, n_rows, strict=True)], axis=1)
