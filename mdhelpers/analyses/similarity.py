"""How alike algorithms use their training data: a number a pair, a curve, and by predictions.

*Cosines* (appendix F.1). The cosine of two datamodels of a test example says how far two algorithms
depend on the same training examples for it. Noise of the estimates lowers it, so that even an
algorithm does not reach 1 with itself. Where each algorithm has several fits on models that no two
of them share, its cosine with itself is measured too, and a pair's mean can be divided by the
geometric mean of its two selves', as is usual for correlations of noisy measurements.

*Variance curves* (appendix F.2). The paper's Figure 19 shows the first 100 components of the
residuals 1∖2 to explain more of the variance of algorithm 1's datamodels than of 2's, and those of
2∖1 less. A direction that was found in a set of datamodels explains more of that set than it
should: measured on fits to other models, the curves are lower, and nearer to each other.

*Disagreement* (appendix F.4). A difference in how algorithms use their training data need not show
in what they predict. The paper takes away the test examples on which the most common predictions of
the two algorithms differ, compares again and finds nearly the same directions. Here, beside it, as
many examples are taken away at random: how far a direction turns by that alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np
import pandas as pd
import torch
from scipy.stats import mode

from mdhelpers.method.comparison import (
    Comparison,
    DirectionSet,
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


def similarity(algorithms: Mapping[str, Fits], *, device: str = "cpu") -> Similarity:
    """Compare any number of algorithms by the cosines of their datamodels (F.1, Figure 18).

    Parameters
    ----------
    algorithms : mapping of name to datamodels
        Each a ``Datamodels``, an array or tensor of shape (n_test, n_train), or a list of several:
        fits on disjoint models, in the same order for all algorithms. Fits of equal place may
        share masks, so only fits of unequal place are compared where there are several.
    device : str
        Where arrays are worked on.

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
            found = [
                datamodel_cosines(fits[first][i], fits[second][j], device=device) for i, j in pairs
            ]
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
    device: str = "cpu",
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
    seed, device
        As in :func:`mdhelpers.method.comparison.compare`.

    Returns
    -------
    DataFrame
        ``comparison, component, variance_1, variance_2, gap, cumulative_gap``: fractions of the
        variance; gaps are positive where the first-named algorithm relies on the component more.
    """
    pair = as_weights(datamodels_1, device), as_weights(datamodels_2, device)
    n_components = components_of(*pair, at_most=n_components)
    found = compare(*pair, n_directions=n_components, seed=seed)
    return curves_of(found, measured_on, device=device)


def components_of(first: Weights, second: Weights, *, at_most: int = N_COMPONENTS) -> int:
    """How many components residuals have: test images of which either knows nothing have none."""
    if first.ndim != 2 or first.shape != second.shape:
        return at_most  # compare says what is wrong
    known = (first != 0).any(1) & (second != 0).any(1)
    return max(1, min(at_most, most_directions((int(known.sum()), first.shape[1]))))


def curves_of(
    comparison: Comparison,
    measured_on: tuple[Weights, Weights] | None = None,
    *,
    device: str = "cpu",
) -> pd.DataFrame:
    """The table of :func:`variance_curves` for the directions of a comparison, by component."""
    tables = []
    for directions in comparison:
        fractions = directions.explained_variance.astype(np.float64)
        if measured_on is not None:
            fractions = _fractions(measured_on, directions.directions, device)
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


def _fractions(
    datamodels: tuple[Weights, Weights], directions: np.ndarray, device: str
) -> np.ndarray:
    pair = ResidualPair(*(as_weights(weights, device) for weights in datamodels))
    columns = torch.from_numpy(np.ascontiguousarray(directions.T)).to(pair.device)
    along = [part.double().square().sum(0).cpu().numpy() for part in pair.datamodels_times(columns)]
    n_rows = [max(pair.shape[0] - zero, 1) for zero in pair.n_zero]
    return np.stack([a / n for a, n in zip(along, n_rows, strict=True)], axis=1)


def most_common_predictions(predictions: np.ndarray) -> np.ndarray:
    """The class that most models predict, (n_test,) int64: the "mode" of appendix F.4.

    Predictions are logits or probabilities, (n_models, n_test, n_classes) float; or the classes
    that the models chose, (n_models, n_test) int. Ties go to the smaller class: those of a model's
    scores, and those of the models' votes.
    """
    return mode(_chosen_classes(np.asarray(predictions)), axis=0).mode


def _chosen_classes(predictions: np.ndarray) -> np.ndarray:
    """Each model's first choice, (n_models, n_test) int64."""
    kind, shape = predictions.dtype.kind, predictions.shape
    if (kind, len(shape)) not in (("f", 3), ("i", 2), ("u", 2)) or not shape[0] or not shape[-1]:
        raise ValueError(
            f"predictions have shape {shape} and dtype {predictions.dtype}; expected scores "
            "(n_models, n_test, n_classes) of a float dtype, or classes (n_models, n_test) of an "
            "integer one."
        )
    if np.isnan(predictions).any() if kind == "f" else (predictions < 0).any():
        raise ValueError("predictions hold NaN or negative classes; leave such models out.")
    chosen = predictions.argmax(axis=-1) if kind == "f" else predictions
    return chosen.astype(np.int64)


def usually_right(margins: np.ndarray) -> np.ndarray:
    """Whether most models have a positive margin on a test example, (n_test,) bool.

    Margins (n_models, n_test) are of the correct class, not relative to anything. It stands in for
    :func:`most_common_predictions` where margins are all that is known. With two classes it says
    the same. With more, two algorithms that are usually wrong may usually predict different
    classes, which margins do not tell: keep the examples that both usually get right to be sure
    that none of these remains.
    """
    margins = np.asarray(margins)
    if margins.ndim != 2 or not len(margins):
        raise ValueError(f"margins have shape {margins.shape}; expected (n_models, n_test).")
    return (margins > 0).mean(axis=0) > 0.5


def directions_without(
    datamodels_1: Weights,
    datamodels_2: Weights,
    kept: np.ndarray,
    comparison: Comparison,
    *,
    n_random: int = 4,
    seed: int = 0,
    device: str = "cpu",
) -> pd.DataFrame:
    """How far directions turn when some test examples are left out (paper, Table 2).

    Parameters
    ----------
    datamodels_1, datamodels_2 : Datamodels, or ndarray of shape (n_test, n_train)
    kept : ndarray, shape (n_test,), bool
        Test examples that stay, such as those on which the most common predictions agree.
    comparison : Comparison
        Of all test examples.
    n_random : int
        Random choices of as many test examples, for the control.
    seed, device
        As in :func:`mdhelpers.method.comparison.compare`; the seed is of the random choices too.

    Returns
    -------
    DataFrame
        ``comparison, direction, cosine, found_as, random, naive_gap, gap_kept``: for each direction
        (rank of its component) the largest absolute cosine with a direction found without these
        test examples, and that one's rank; the mean of the former over random choices; the naive
        gap of the direction, and of the one it is found as, on the test examples that stay.

    Raises
    ------
    ValueError
        If ``kept`` is not one bool a test example, or too few test examples stay.
    """
    weights = [np.asarray(getattr(d, "weights", d)) for d in (datamodels_1, datamodels_2)]
    n_directions = max(len(directions) for directions in comparison)
    kept = _enough(kept, len(weights[0]), n_directions)

    def compared(rows: np.ndarray) -> Comparison:
        pair = (w[rows] for w in weights)
        about = {"rotation": comparison.rotation, "seed": seed, "device": device}
        return compare(*pair, n_directions=n_directions, **about)

    without, rng = compared(kept), np.random.default_rng(seed)
    controls = [
        compared(np.sort(rng.permutation(len(kept))[: kept.sum()])) for _ in range(n_random)
    ]
    tables = [
        _table(directions, without[directions.name], [c[directions.name] for c in controls])
        for directions in comparison
    ]
    return pd.concat(tables, ignore_index=True)


def _table(before: DirectionSet, after: DirectionSet, controls: list[DirectionSet]) -> pd.DataFrame:
    cosines = np.abs(before.directions @ after.directions.T)
    best = cosines.argmax(axis=1)
    by_chance = [np.abs(before.directions @ c.directions.T).max(axis=1) for c in controls]
    return pd.DataFrame(
        {
            "comparison": before.name,
            "direction": before.component,
            "cosine": cosines.max(axis=1),
            "found_as": after.component[best],
            "random": np.mean(by_chance, axis=0) if by_chance else np.nan,
            "naive_gap": before.naive_gap,
            "gap_kept": after.naive_gap[best],
        }
    )


def _enough(kept: np.ndarray, n_test: int, n_directions: int) -> np.ndarray:
    kept = np.asarray(kept)
    if kept.shape != (n_test,) or kept.dtype != bool:
        raise ValueError(
            f"kept has shape {kept.shape} and dtype {kept.dtype}; expected {n_test} bools, one for "
            "each test example."
        )
    if kept.sum() < max(n_directions, 2):
        raise ValueError(
            f"{kept.sum()} test examples stay; {n_directions} directions need at least as many. "
            "Ask for fewer directions, or use more test examples."
        )
    return kept
