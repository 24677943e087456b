"""Directions without the test examples on which the algorithms' predictions differ (appendix F.4).

A difference in how algorithms use their training data need not show in what they predict. The
paper takes away the test examples on which the most common predictions of the two algorithms
differ, compares again and finds nearly the same directions. Here, beside it, as many examples are
taken away at random: how far a direction turns by that alone.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import mode

from mdhelpers.method.comparison import Comparison, DirectionSet, Weights, compare


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
    seed : int
        As in :func:`mdhelpers.method.comparison.compare`, and of the random choices.

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
        return compare(*pair, n_directions=n_directions, seed=seed)

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
