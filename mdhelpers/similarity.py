r"""How alike learning algorithms use their training data, in one number a pair (appendix F.1).

The cosine of two datamodels of a test example says how far two algorithms depend on the same
training examples for it. Noise of the estimates lowers it, so that even an algorithm does not reach
1 with itself. Where each algorithm has several fits on models that no two of them share, its
cosine with itself is measured too, and a pair's mean can be divided by the geometric mean of its
two selves', as is usual for correlations of noisy measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
from torch import Tensor

from mdhelpers.datamodels import Datamodels
from mdhelpers.residuals import ResidualPair, as_weights

__all__ = ["Similarity", "datamodel_cosines", "similarity"]

_LEAST = 0.1

Fits = Datamodels | np.ndarray | Tensor | Sequence


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

    @property
    def summary(self) -> pd.DataFrame:
        """``first, second, mean, median, low, high``: percentiles 5 and 95 over test examples."""
        groups = self.cosines.groupby(["first", "second"], sort=False)["cosine"]
        table = groups.agg(["mean", "median"])
        table["low"], table["high"] = groups.quantile(0.05), groups.quantile(0.95)
        return table.reset_index()

    def distribution(self, first: str, second: str) -> np.ndarray:
        """Cosines of a pair, shape (n_test,), in the order of the test examples."""
        pairs = self.cosines[["first", "second"]].apply(frozenset, axis=1)
        rows = self.cosines[pairs == frozenset((first, second))]
        if not len(rows):
            known = sorted({" and ".join(sorted(pair)) for pair in pairs})
            raise ValueError(f"no cosines of {first!r} and {second!r}; there are: {known}.")
        return rows.sort_values("test")["cosine"].to_numpy()


def datamodel_cosines(
    first: Datamodels | np.ndarray | Tensor, second: Datamodels | np.ndarray | Tensor
) -> np.ndarray:
    """Cosine of the two datamodels of each test example, (n_test,) float64; 0 for a zero one."""
    return ResidualPair(as_weights(first), as_weights(second)).cosines.cpu().numpy()


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


def _listed(given: Fits) -> list:
    return list(given) if isinstance(given, list | tuple) else [given]


def _pairs(n_first: int, n_second: int, *, same: bool) -> list[tuple[int, int]]:
    if same:
        return [(i, j) for i, j in product(range(n_first), repeat=2) if i < j]
    pairs = list(product(range(n_first), range(n_second)))
    return [(i, j) for i, j in pairs if i != j] or pairs
