"""How two models differ by their predictions alone: errors, ensembles, specialisation.

The measures are those of Gontijo-Lopes, Dauphin and Cubuk, "No One Representation to Rule Them
All", who set pairs of models from one method that differ in their seed beside pairs from methods
that differ more and more. Where their summary leaves a choice open, the docstring says what was
chosen. Arrays end in an axis of test examples; axes before it are broadcast, so that one call
measures many pairs of models.

Models ``i`` of both algorithms trained on the same subset; two models of one algorithm never did.
So pairs come with equal masks (across algorithms, or an algorithm's models trained again) and with
other masks (within and across), and only pairs of one of these groups are compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

Average = Literal["probabilities", "logits"]
OUTCOMES = ("both right", "only 1 right", "only 2 right", "both wrong")
PAIRS = ("1 against 1", "2 against 2", "1 against 2")
MEASURES = (
    "inconsistency",
    "of_expected",
    "conversion",
    "gain",
    "gain_over_better",
    "gain_of_logits",
    "surer_is_right",
)
_SMALLEST = 1e-30  # of a probability before its logarithm is taken
_CHUNK = 64  # pairs at a time: bounds memory at 10,000 test examples


@dataclass(frozen=True, eq=False)
class Predictions:
    """What some models of one algorithm predict on the test examples.

    Attributes
    ----------
    probabilities : ndarray, shape (n_models, n_test, n_classes), float
        Softmax of the logits.
    labels : ndarray, shape (n_test,), int

    Raises
    ------
    ValueError
        If shapes disagree, a value is not in [0, 1] or a row does not add up to 1.
    """

    probabilities: np.ndarray
    labels: np.ndarray

    def __post_init__(self) -> None:
        shape, n_test = np.shape(self.probabilities), len(self.labels)
        if len(shape) != 3 or shape[1] != n_test:
            raise ValueError(
                f"probabilities have shape {shape} for {n_test} labels; expected (n_models, "
                f"{n_test}, n_classes)."
            )
        if not shape[0]:
            return
        sums = np.sum(self.probabilities, axis=-1)
        if not (np.min(self.probabilities) >= 0 and np.allclose(sums, 1, atol=1e-3)):
            raise ValueError(
                f"probabilities add up to {sums.min():.3g} to {sums.max():.3g}, the smallest is "
                f"{np.min(self.probabilities):.3g}; expected softmax outputs. Apply the softmax."
            )

    @cached_property
    def right(self) -> np.ndarray:
        """Whether a model's first choice is the label, (n_models, n_test) bool."""
        return first_choice_is(self.probabilities, self.labels)

    @cached_property
    def confidence(self) -> np.ndarray:
        """Confidence in the model's own first choice, right or wrong, (n_models, n_test)."""
        return self.probabilities.max(axis=-1)

    @cached_property
    def label_confidence(self) -> np.ndarray:
        """Confidence in the label, (n_models, n_test)."""
        return self.probabilities[:, np.arange(len(self.labels)), self.labels]


def choose_pairs(slots: np.ndarray, *, limit: int = 512, seed: int = 0) -> np.ndarray:
    """Pairs of models that differ in mask and in initialisation, (n_pairs, 2) int.

    ``slots`` (n_models,) are the models' common initialisations; -1 where each had its own. At most
    ``limit`` pairs, drawn at random where there are more; the first row is below the second.
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
    """All measures of the pairs (model i of ``one``, model j of ``two``), a row each.

    ``model_1, model_2, accuracy_1, accuracy_2, expected`` and `MEASURES`. ``of_expected`` is the
    inconsistency as a share of what independent errors would have; ``gain_of_logits`` is ``gain``
    where the logits are averaged.
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

    ``right_1`` and ``right_2`` are (n_pairs, n_test) bool.
    """
    accuracies = right_1.mean(axis=-1), right_2.mean(axis=-1)
    table = pd.DataFrame(np.asarray(pairs), columns=["model_1", "model_2"])
    table["accuracy_1"], table["accuracy_2"] = accuracies
    table["expected"] = expected_inconsistency(*accuracies)
    table["inconsistency"] = error_inconsistency(right_1, right_2)
    table["of_expected"] = table["inconsistency"] / table["expected"].where(table["expected"] > 0)
    return table.reindex(columns=[*table.columns, *(m for m in MEASURES if m not in table)])


def summarise(
    table: pd.DataFrame,
    n_models: int,
    *,
    slots: np.ndarray | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Means over the pairs of each kind, and how much more the algorithms differ than seeds do.

    Intervals (95%) are over models: masks are drawn anew with replacement, the models of both
    algorithms on a mask together, and a pair counts as often as both of its masks were drawn. Where
    models share initialisations, these are drawn, with all of their models; with a single one the
    intervals are for it. The test examples are taken as they are.

    Parameters
    ----------
    table : DataFrame
        Columns ``pair`` (see `PAIRS`) and ``masks`` ("equal" or "other") beside those of
        `measure_pairs`.
    n_models : int
        Of each algorithm.
    slots : ndarray, shape (n_models,), int, optional
        Initialisations that models share.

    Returns
    -------
    DataFrame
        ``pair, masks, measure, mean, low, high, n_pairs``. Rows whose ``pair`` is "difference"
        hold the mean across algorithms less the mean of the two within, at equal or other masks.
    """
    rng = np.random.default_rng(seed)
    units = np.arange(n_models)
    if slots is not None and len(np.unique(slots)) > 1:
        units = np.unique(slots, return_inverse=True)[1]
    n = int(units.max()) + 1
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap)[:, units]
    counts = np.concatenate([np.ones((1, n_models), int), drawn])  # the first: as measured
    groups = [(masks, measure) for masks in ("equal", "other") for measure in MEASURES]
    parts = [_summary(table[table["masks"] == masks], masks, m, counts) for masks, m in groups]
    columns = ["pair", "masks", "measure", "mean", "low", "high", "n_pairs"]
    return pd.DataFrame([row for part in parts for row in part], columns=columns)


def class_angles(one: Predictions, two: Predictions, pairs: np.ndarray) -> pd.DataFrame:
    """Mean specialisation angle of each class and pair (their Figure 4), of the label's confidence.

    ``label, theta_mean, theta_low, theta_high``: over pairs, the mean and the range of the middle
    90%, radians; ``accuracy_1, accuracy_2``: the pairs' mean accuracies on the class.
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

    The angle is that of the confidence in each model's own first choice. Columns ``outcome`` (see
    `OUTCOMES`), ``left, right`` (radians), ``share`` (adds up to 1).
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


def error_inconsistency(right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """Share of the test examples on which exactly one of two models is right (their Figure 1).

    ``right_1`` and ``right_2`` are (..., n_test) bool, here and below; the share is (...).
    """
    return (_bool(right_1) ^ _bool(right_2)).mean(axis=-1)


def expected_inconsistency(accuracy_1: np.ndarray, accuracy_2: np.ndarray) -> np.ndarray:
    """What the error inconsistency would be if the two models erred independently.

    ``a1 (1 - a2) + a2 (1 - a1)`` of accuracies in [0, 1], else a ValueError. Models that find the
    same examples hard stay below it.
    """
    one, two = np.asarray(accuracy_1, float), np.asarray(accuracy_2, float)
    for name, values in (("accuracy_1", one), ("accuracy_2", two)):
        if not ((values >= 0) & (values <= 1)).all():
            raise ValueError(
                f"{name} reaches from {values.min():.3g} to {values.max():.3g}; expected shares in "
                "[0, 1]. Divide percentages by 100."
            )
    return one * (1 - two) + two * (1 - one)


def ensemble_right(
    probabilities_1: np.ndarray,
    probabilities_2: np.ndarray,
    labels: np.ndarray,
    *,
    average: Average = "probabilities",
) -> np.ndarray:
    """Whether the ensemble of two models is right, (..., n_test) bool.

    The summary of the source does not say what it averages: here the probabilities (..., n_test,
    n_classes), or, with ``average="logits"``, the logits. The logarithms of the probabilities stand
    for these: they differ by a constant of each example, which moves no first choice.
    """
    if average not in ("probabilities", "logits"):
        raise ValueError(f"average is {average!r}; give 'probabilities' or 'logits'.")
    both = np.asarray(probabilities_1), np.asarray(probabilities_2)
    if average == "logits":
        both = tuple(np.log(np.maximum(p, _SMALLEST)) for p in both)
    return first_choice_is(both[0] + both[1], labels)


def conversion_rate(
    right_1: np.ndarray, right_2: np.ndarray, right_ensemble: np.ndarray
) -> np.ndarray:
    """Share of the inconsistent examples that the ensemble gets right (their Figure 2, right).

    NaN for a pair that errs on the same examples.
    """
    inconsistent = _bool(right_1) ^ _bool(right_2)
    return _share(_bool(right_ensemble) & inconsistent, inconsistent)


def ensemble_gain(
    right_1: np.ndarray,
    right_2: np.ndarray,
    right_ensemble: np.ndarray,
    *,
    over: Literal["mean", "better"] = "mean",
) -> np.ndarray:
    """Accuracy of the ensemble less that of its members (their Figure 2, left and centre).

    Less the members' mean accuracy, as in the source, or less that of the ``"better"`` one.
    """
    if over not in ("mean", "better"):
        raise ValueError(f"over is {over!r}; give 'mean' or 'better'.")
    members = _bool(right_1).mean(axis=-1), _bool(right_2).mean(axis=-1)
    base = np.maximum(*members) if over == "better" else (members[0] + members[1]) / 2
    return _bool(right_ensemble).mean(axis=-1) - base


def specialisation_angle(confidence_1: np.ndarray, confidence_2: np.ndarray) -> np.ndarray:
    """Angle from the diagonal in the confidence–confidence plot (their Figures 3 and 4), radians.

    ``theta = atan(c1 / c2) - pi / 4`` of confidences in [0, 1], not both 0: 0 where both models are
    equally confident, positive where model 1 is more so, ``pi / 4`` where model 2 has none at all.

    The summary of the source does not say confidence in what. Histograms of outcomes use that in
    the model's own first choice: with the label's, the model that alone is right would be the surer
    by construction. Which algorithm is better at a class is told by that in the label.
    """
    one, two = np.asarray(confidence_1), np.asarray(confidence_2)
    for name, values in (("confidence_1", one), ("confidence_2", two)):
        if not ((values >= 0) & (values <= 1 + 1e-5)).all():
            raise ValueError(f"{name} has values outside [0, 1], or NaN; expected confidences.")
    return np.arctan2(one, two) - np.pi / 4


def outcomes(right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """Position in `OUTCOMES` of each example, shape (..., n_test), int."""
    one, two = _bool(right_1), _bool(right_2)
    return np.select([one & two, one & ~two, two & ~one], [0, 1, 2], 3)


def surer_is_right(theta: np.ndarray, right_1: np.ndarray, right_2: np.ndarray) -> np.ndarray:
    """Share of the inconsistent examples on which the right model is the surer (their Figure 3).

    ``theta`` (..., n_test) is of the confidence in the models' own first choices. 0.5 where
    confidence says nothing; equal confidence counts half; NaN without inconsistency.
    """
    one, two = _bool(right_1), _bool(right_2)
    towards_right = np.sign(theta) * (one.astype(int) - two)
    return _share((towards_right + 1) / 2, one ^ two)


def first_choice_is(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the label's score is above all others, (..., n_test) bool; a tie is an error.

    Scores are (..., n_test, n_classes), labels (n_test,) int.
    """
    is_label = np.arange(scores.shape[-1]) == np.asarray(labels)[:, None]
    of_label = np.where(is_label, scores, -np.inf).max(axis=-1)
    return of_label > np.where(is_label, -np.inf, scores).max(axis=-1)


def _share(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Mean of ``values`` over the examples ``among``, NaN where there are none."""
    n = among.sum(axis=-1).astype(float)
    total = np.where(among, values, 0).sum(axis=-1)
    return np.divide(total, n, out=np.full(np.shape(n), np.nan), where=n > 0)


def _bool(right: np.ndarray) -> np.ndarray:
    right = np.asarray(right)
    if right.dtype != bool:
        raise ValueError(
            f"got correctness of dtype {right.dtype}; expected bool, True where right."
        )
    return right


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
