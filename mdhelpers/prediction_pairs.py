"""Many pairs of models: which to set side by side, what each shows, and intervals over models.

Models ``i`` of both algorithms trained on the same subset; two models of one algorithm never did.
So pairs come with equal masks (across algorithms, or an algorithm's models trained again) and with
other masks (within and across), and only pairs of one of these groups are compared.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from mdhelpers.prediction_level import (
    OUTCOMES,
    Predictions,
    conversion_rate,
    ensemble_gain,
    ensemble_right,
    error_inconsistency,
    expected_inconsistency,
    outcomes,
    specialisation_angle,
    surer_is_right,
)

__all__ = [
    "KINDS",
    "MEASURES",
    "PAIRS",
    "choose_pairs",
    "class_angles",
    "histogram_of_angles",
    "measure_errors",
    "measure_pairs",
    "summarise",
]

PAIRS = ("1 against 1", "2 against 2", "1 against 2")
KINDS = tuple((pair, masks) for masks in ("equal", "other") for pair in PAIRS)
MEASURES = (
    "inconsistency",
    "of_expected",
    "conversion",
    "gain",
    "gain_over_better",
    "gain_of_logits",
    "surer_is_right",
)
_CHUNK = 64  # pairs at a time: bounds memory at 10,000 test examples


def choose_pairs(slots: np.ndarray, *, limit: int = 512, seed: int = 0) -> np.ndarray:
    """Pairs of models that differ in mask and in initialisation.

    Parameters
    ----------
    slots : ndarray, shape (n_models,), int
        The models' common initialisations; -1 where each had its own.
    limit : int
        Pairs at most; they are drawn at random where there are more.

    Returns
    -------
    ndarray, shape (n_pairs, 2), int
        Rows of models, the first below the second; none where all start from the same weights.
    """
    slots = np.asarray(slots)
    one, two = np.triu_indices(len(slots), 1)
    differ = (slots[one] != slots[two]) | (slots[one] < 0)
    pairs = np.stack([one, two], axis=1)[differ]
    if len(pairs) > limit:
        drawn = np.random.default_rng(seed).choice(len(pairs), limit, replace=False)
        pairs = pairs[np.sort(drawn)]
    return pairs


def measure_pairs(one: Predictions, two: Predictions, pairs: np.ndarray) -> pd.DataFrame:
    """All measures of the pairs (model i of ``one``, model j of ``two``).

    Parameters
    ----------
    one, two : Predictions
        On the same test examples.
    pairs : ndarray, shape (n_pairs, 2), int

    Returns
    -------
    DataFrame
        One row a pair: ``model_1, model_2, accuracy_1, accuracy_2, expected`` and `MEASURES`.
        ``of_expected`` is the inconsistency as a share of what independent errors would have;
        ``gain_of_logits`` is ``gain`` where the logits are averaged.
    """
    tables = []
    for part in _chunks(pairs):
        models = [p.right[rows] for p, rows in zip((one, two), part.T, strict=True)]
        table = measure_errors(*models, part)
        given = [p.probabilities[rows] for p, rows in zip((one, two), part.T, strict=True)]
        both, logits = (
            ensemble_right(*given, one.labels, average=a) for a in ("probabilities", "logits")
        )
        theta = specialisation_angle(one.confidence[part[:, 0]], two.confidence[part[:, 1]])
        table["conversion"] = conversion_rate(*models, both)
        table["gain"] = ensemble_gain(*models, both)
        table["gain_over_better"] = ensemble_gain(*models, both, over="better")
        table["gain_of_logits"] = ensemble_gain(*models, logits)
        table["surer_is_right"] = surer_is_right(theta, *models)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def measure_errors(right_1: np.ndarray, right_2: np.ndarray, pairs: np.ndarray) -> pd.DataFrame:
    """What needs no probabilities: the part of `measure_pairs` that models' margins can tell.

    Parameters
    ----------
    right_1, right_2 : ndarray, shape (n_pairs, n_test), bool
    pairs : ndarray, shape (n_pairs, 2), int
    """
    accuracies = right_1.mean(axis=-1), right_2.mean(axis=-1)
    table = pd.DataFrame(np.asarray(pairs), columns=["model_1", "model_2"])
    table["accuracy_1"], table["accuracy_2"] = accuracies
    table["expected"] = expected_inconsistency(*accuracies)
    table["inconsistency"] = error_inconsistency(right_1, right_2)
    table["of_expected"] = table["inconsistency"] / table["expected"].where(table["expected"] > 0)
    return table.reindex(columns=[*table.columns, *(m for m in MEASURES if m not in table)])


def summarise(
    table: pd.DataFrame, n_models: int, *, n_bootstrap: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """Means over the pairs of each kind, and how much more the algorithms differ than seeds do.

    Intervals (95%) are over models: masks are drawn anew with replacement, the models of both
    algorithms on a mask together, and a pair counts as often as both of its masks were drawn. The
    test examples are taken as they are.

    Parameters
    ----------
    table : DataFrame
        Columns ``pair`` and ``masks`` (see `KINDS`) beside those of `measure_pairs`.
    n_models : int
        Of each algorithm.

    Returns
    -------
    DataFrame
        ``pair, masks, measure, mean, low, high, n_pairs``. Rows whose ``pair`` is "difference"
        hold the mean across algorithms less the mean of the two within, at equal or other masks.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_models, np.full(n_models, 1 / n_models), size=n_bootstrap)
    counts = np.concatenate([np.ones((1, n_models), int), drawn])  # the first: as measured
    groups = [(masks, measure) for masks in ("equal", "other") for measure in MEASURES]
    parts = [_summary(table[table["masks"] == masks], masks, m, counts) for masks, m in groups]
    columns = ["pair", "masks", "measure", "mean", "low", "high", "n_pairs"]
    return pd.DataFrame([row for part in parts for row in part], columns=columns)


def _summary(table: pd.DataFrame, masks: str, measure: str, counts: np.ndarray) -> list[tuple]:
    """Rows of `summarise` for one measure: each kind, and the difference where all are there."""
    known = table[table[measure].notna()]
    parts = {pair: known[known["pair"] == pair] for pair in PAIRS}
    parts = {pair: part for pair, part in parts.items() if len(part)}
    means = {pair: _weighted_means(part, measure, counts) for pair, part in parts.items()}
    rows = [(pair, masks, measure, *_interval(m), len(parts[pair])) for pair, m in means.items()]
    if len(means) == len(PAIRS):
        one, two, across = means.values()
        difference = _interval(across - (one + two) / 2)
        rows.append(("difference", masks, measure, *difference, len(parts[PAIRS[2]])))
    return rows


def class_angles(one: Predictions, two: Predictions, pairs: np.ndarray) -> pd.DataFrame:
    """Mean specialisation angle of each class and pair (their Figure 4).

    The angle is that of the confidence in the label.

    Returns
    -------
    DataFrame
        ``label, theta_mean, theta_low, theta_high``: over pairs, the mean and the range of the
        middle 90%, radians; ``accuracy_1, accuracy_2``: the pairs' mean accuracies on the class.
    """
    rows, labels = [], one.labels
    for label in np.unique(labels):
        members = labels == label
        first, second = (
            p.label_confidence[rows_][:, members]
            for p, rows_ in zip((one, two), pairs.T, strict=True)
        )
        theta = specialisation_angle(first, second).mean(axis=1)
        accuracy = [
            p.right[rows_][:, members].mean() for p, rows_ in zip((one, two), pairs.T, strict=True)
        ]
        rows.append((int(label), theta.mean(), *np.percentile(theta, [5, 95]), *accuracy))
    columns = ["label", "theta_mean", "theta_low", "theta_high", "accuracy_1", "accuracy_2"]
    return pd.DataFrame(rows, columns=columns)


def histogram_of_angles(
    one: Predictions, two: Predictions, pairs: np.ndarray, *, n_bins: int = 30
) -> pd.DataFrame:
    """Share of all examples of all pairs by outcome and specialisation angle (their Figure 3).

    The angle is that of the confidence in each model's own first choice.

    Returns
    -------
    DataFrame
        ``outcome`` (see `OUTCOMES`), ``left, right`` (radians), ``share`` (adds up to 1).
    """
    edges = np.linspace(-np.pi / 4, np.pi / 4, n_bins + 1)
    counts = np.zeros((len(OUTCOMES), n_bins))
    for part in _chunks(pairs):
        theta = specialisation_angle(one.confidence[part[:, 0]], two.confidence[part[:, 1]])
        found = outcomes(one.right[part[:, 0]], two.right[part[:, 1]])
        bins = np.clip(np.searchsorted(edges, theta, side="right") - 1, 0, n_bins - 1)
        np.add.at(counts, (found, bins), 1)
    table = pd.DataFrame(counts / counts.sum(), index=list(OUTCOMES))
    long = table.stack().rename("share").rename_axis(["outcome", "bin"]).reset_index()
    long["left"], long["right"] = edges[long["bin"]], edges[long["bin"] + 1]
    return long[["outcome", "left", "right", "share"]]


def _chunks(pairs: np.ndarray) -> Iterable[np.ndarray]:
    return (pairs[start : start + _CHUNK] for start in range(0, len(pairs), _CHUNK))


def _weighted_means(part: pd.DataFrame, measure: str, counts: np.ndarray) -> np.ndarray:
    """Mean over pairs under each row of ``counts``, how often each mask was drawn."""
    one, two = part["model_1"].to_numpy(), part["model_2"].to_numpy()
    weights = counts[:, one] * np.where(one == two, 1, counts[:, two])
    total = weights.sum(axis=1)
    sums = weights @ part[measure].to_numpy(float)
    return np.divide(sums, total, out=np.full(len(sums), np.nan), where=total > 0)


def _interval(means: np.ndarray) -> tuple[float, float, float]:
    """As measured, and the middle 95% of the resamples."""
    low, high = np.nanpercentile(means[1:], [2.5, 97.5])
    return float(means[0]), float(low), float(high)
