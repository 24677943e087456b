"""What the number of models does to datamodels and to directions (appendix F.3).

The paper fits datamodels on samples of 5,000 to 50,000 models and finds their cosines above 0.9
(Figure 20) and what their principal components explain much the same (Figure 21). A smaller sample
that is part of the larger one shares its noise, which raises that cosine; so here every budget also
has a second sample that shares no model with the first. The cosine between the two is what another
reader would find who trained as many models anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch

from mdhelpers.method.comparison import COMPARISONS, Comparison, compare, datamodel_cosines
from mdhelpers.method.datamodels import FitOn, fit_all, n_scored
from mdhelpers.method.engines.moments import split_models
from mdhelpers.method.engines.principal import ResidualPair, Rows, as_weights, principal_components

_FEWEST = 8


@dataclass(frozen=True)
class Samples:
    """Datamodels of both algorithms on samples of one run's models.

    Attributes
    ----------
    n_models : int
        Models in all.
    everyone : tuple of two ndarray, shape (n_test, n_train)
        Fits of algorithms 1 and 2 on all of them.
    halves : dict of int to list of two such tuples
        For each smaller size two samples of so many models that share none.
    """

    n_models: int
    everyone: tuple[np.ndarray, np.ndarray]
    halves: dict[int, list[tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class ModelCounts:
    """Results of :func:`effect_of_model_count`; algorithms are 1 and 2.

    Attributes
    ----------
    cosines : DataFrame
        ``algorithm, n_models, against, mean, low, median, high``: cosines of a test example's
        datamodel from so many models with that from all models, of which they are a part
        (``"all"``), and from as many others (``"others"``); percentiles 5, 50 and 95 over test
        examples.
    components : DataFrame
        ``algorithm, found_with, measured_with, component, variance``: fraction of the variance of
        datamodels from ``measured_with`` models along the principal components of those from
        ``found_with`` models, which are other models but for the largest number.
    directions : DataFrame
        ``comparison, n_models, against, direction, cosine``: the largest absolute cosine of each
        distinguishing direction found with so many models with one found with all of them or with
        as many others; and direction 0, the share of the subspace of all directions that is found
        again (mean squared cosine of the principal angles).
    """

    cosines: pd.DataFrame
    components: pd.DataFrame
    directions: pd.DataFrame


def default_sizes(n_models: int, slots: np.ndarray | None = None, *, n: int = 3) -> list[int]:
    """Halves, quarters and so on, as far as two models of each slot remain, smallest first."""
    smallest = n_models if slots is None else np.unique(slots, return_counts=True)[1].min()
    sizes = []
    for halvings in range(1, n + 1):
        parts = 2**halvings
        if n_models // parts < _FEWEST or smallest < 2 * parts:
            break
        sizes.append(n_models // parts)
    return sizes[::-1]


def fit_samples(
    fit_1: FitOn,
    fit_2: FitOn,
    n_models: int,
    *,
    sizes: Sequence[int] | None = None,
    everyone: tuple[np.ndarray, np.ndarray] | None = None,
    slots: np.ndarray | None = None,
    seed: int = 0,
) -> Samples:
    """Fit datamodels of both algorithms on two disjoint samples of each size.

    Parameters
    ----------
    fit_1, fit_2 : callable
        Takes indices of models (a sorted int array), gives weights of shape (n_test, n_train); see
        :func:`mdhelpers.method.datamodels.Fitter`.
    n_models : int
    sizes : sequence of int, optional
        At most half of the models each; :func:`default_sizes` where not given. Each costs two fits
        an algorithm.
    everyone : pair of ndarray, optional
        The fits on all models, where they are at hand.
    slots : ndarray, shape (n_models,), int, optional
        Each sample takes evenly from every slot.
    seed : int
        Of the samples.

    Raises
    ------
    ValueError
        If a size is above half of the models, or leaves a slot with fewer than two.
    """
    sizes = default_sizes(n_models, slots) if sizes is None else sorted(sizes)
    wrong = [size for size in sizes if not 1 <= size <= n_models // 2]
    if wrong:
        raise ValueError(
            f"sizes {wrong} are not from 1 to {n_models // 2}, half of the {n_models} models: two "
            "samples that share none must fit."
        )
    fits, rng = (fit_1, fit_2), np.random.default_rng(seed)
    halves = {}
    for size in sizes:
        first = n_scored(*fits)
        parts = split_models(n_models, n_models // size, rng, slots, n_first=first)[:2]
        one, two, three, four = fit_all((fit, part) for part in parts for fit in fits)
        halves[size] = [(one, two), (three, four)]
    if everyone is None:
        everyone = tuple(fit_all((fit, np.arange(n_models)) for fit in fits))
    return Samples(n_models, everyone, halves)


def effect_of_model_count(
    samples: Samples, *, n_directions: int = 8, n_components: int = 10, device: str = "cpu"
) -> ModelCounts:
    """Datamodels, components and directions against the number of models (F.3).

    Parameters
    ----------
    samples : Samples
        From :func:`fit_samples`.
    n_directions : int
        Distinguishing directions of each comparison.
    device : str
        Where arrays are worked on.
    n_components : int
        Principal components of each algorithm's own datamodels, as in Figure 21; not centred.
    """
    shape = np.shape(samples.everyone[0])
    n_directions, n_components = (min(n, *shape) for n in (n_directions, n_components))
    return ModelCounts(
        cosines=_cosine_table(samples, device),
        components=_component_table(samples, n_components, device),
        directions=_direction_table(samples, n_directions, device),
    )


def _cosine_table(samples: Samples, device: str) -> pd.DataFrame:
    rows, cosine = [], partial(datamodel_cosines, device=device)
    for algorithm in (1, 2):
        everyone = samples.everyone[algorithm - 1]
        for size, (one, other) in samples.halves.items():
            pair = one[algorithm - 1], other[algorithm - 1]
            cosines = {
                "all": np.mean([cosine(half, everyone) for half in pair], axis=0),
                "others": cosine(*pair),
            }
            for against, values in cosines.items():
                low, median, high = np.percentile(values, [5, 50, 95])
                rows.append((algorithm, size, against, values.mean(), low, median, high))
    columns = ["algorithm", "n_models", "against", "mean", "low", "median", "high"]
    return pd.DataFrame(rows, columns=columns)


def _component_table(samples: Samples, n_components: int, device: str) -> pd.DataFrame:
    """Found in the first sample of a size, measured in the second of every size."""
    tables = []
    for algorithm in (1, 2):
        first, second = (
            {size: halves[place][algorithm - 1] for size, halves in samples.halves.items()}
            | {samples.n_models: samples.everyone[algorithm - 1]}
            for place in (0, 1)
        )
        for found_with, weights in first.items():
            directions = _own_components(weights, n_components, device)
            for measured_with, others in second.items():
                columns = {"algorithm": algorithm, "found_with": found_with}
                columns |= {"measured_with": measured_with}
                columns["component"] = np.arange(1, len(directions) + 1)
                variance = _variance_along(others, directions)
                tables.append(pd.DataFrame(columns | {"variance": variance}))
    return pd.concat(tables, ignore_index=True)


def _own_components(weights: np.ndarray, n_components: int, device: str) -> torch.Tensor:
    rows = torch.nn.functional.normalize(as_weights(weights, device), dim=1, eps=1e-30)
    return principal_components(Rows(rows), n_components, center=False)[0].directions


def _variance_along(weights: np.ndarray, directions: torch.Tensor) -> np.ndarray:
    given = as_weights(weights, str(directions.device))
    pair = ResidualPair(given, given)
    along = pair.datamodels_times(directions.T.float())[0].double()
    n_rows = max(pair.shape[0] - pair.n_zero[0], 1)
    return (along.square().sum(0) / n_rows).cpu().numpy()


def _direction_table(samples: Samples, n_directions: int, device: str) -> pd.DataFrame:
    compared = partial(compare, n_directions=n_directions, device=device)
    everyone, tables = compared(*samples.everyone), []
    for size, halves in samples.halves.items():
        one, other = (compared(*half) for half in halves)
        for against, pairs in (
            ("all", [(one, everyone), (other, everyone)]),
            ("others", [(one, other), (other, one)]),
        ):
            for name in COMPARISONS:
                found = np.mean([_found_again(*pair, name) for pair in pairs], axis=0)
                columns = {"comparison": name, "n_models": size, "against": against}
                columns |= {"direction": np.arange(len(found)), "cosine": found}
                tables.append(pd.DataFrame(columns))
    columns = ["comparison", "n_models", "against", "direction", "cosine"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _found_again(one: Comparison, other: Comparison, name: str) -> np.ndarray:
    """Share of the other's subspace in one's, then how well each of the other's is found in it."""
    cosines = np.abs(other[name].directions @ one[name].directions.T)
    return np.concatenate([[np.square(cosines).sum() / len(cosines)], cosines.max(axis=1)])
