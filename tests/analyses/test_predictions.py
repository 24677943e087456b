"""Pairs of models: which, what each shows, and what intervals cover."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score

from mdhelpers.analyses.predictions import (
    MEASURES,
    OUTCOMES,
    PAIRS,
    Predictions,
    choose_pairs,
    class_angles,
    conversion_rate,
    ensemble_gain,
    ensemble_right,
    error_inconsistency,
    expected_inconsistency,
    first_choice_is,
    histogram_of_angles,
    measure_errors,
    measure_pairs,
    outcomes,
    specialisation_angle,
    summarise,
    surer_is_right,
)
from mdhelpers.method.margins import is_right


def predictions(n_models=6, n_test=80, seed=0, lean=0.0):
    """Models that share which examples are hard; class 0 is easier by ``lean`` logits."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_test) % 3
    logits = rng.normal(0, 1, (n_models, n_test, 3))
    logits[:, np.arange(n_test), labels] += 1 + lean * (labels == 0)
    e = np.exp(logits)
    return Predictions(e / e.sum(-1, keepdims=True), labels)


EQUAL = np.repeat(np.arange(6)[:, None], 2, axis=1)


def test_pairs_differ_in_mask_and_initialisation():
    slots = np.arange(12) % 4
    pairs = choose_pairs(slots)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert (slots[pairs[:, 0]] != slots[pairs[:, 1]]).all()
    assert len(pairs) == 12 * 11 / 2 - 4 * 3  # less the pairs within each of four slots
    assert len(choose_pairs(np.full(12, -1))) == 66
    assert choose_pairs(np.zeros(12, int)).shape == (0, 2)


def test_pairs_are_drawn_without_repeats_where_there_are_many():
    pairs = choose_pairs(np.full(60, -1), limit=100, seed=3)
    assert len(np.unique(pairs, axis=0)) == 100
    assert (pairs == choose_pairs(np.full(60, -1), limit=100, seed=3)).all()


def test_each_pair_is_measured_as_if_alone():
    one, two = predictions(seed=1), predictions(seed=2)
    pairs = np.array([[0, 1], [2, 5], [3, 3]])
    table = measure_pairs(one, two, pairs)
    for row in table.itertuples():
        choices = [
            p.probabilities[m].argmax(-1) for p, m in ((one, row.model_1), (two, row.model_2))
        ]
        right = [choice == one.labels for choice in choices]
        assert row.accuracy_1 == pytest.approx(right[0].mean())
        assert row.accuracy_2 == pytest.approx(right[1].mean())
        assert row.inconsistency == pytest.approx((right[0] != right[1]).mean())
        both = one.probabilities[row.model_1] + two.probabilities[row.model_2]
        ensemble = both.argmax(-1) == one.labels
        assert row.conversion == pytest.approx(ensemble[right[0] != right[1]].mean())
        assert row.gain == pytest.approx(ensemble.mean() - (right[0].mean() + right[1].mean()) / 2)


def test_more_pairs_than_fit_at_once_give_the_same():
    one, two = predictions(30, seed=1), predictions(30, seed=2)
    pairs = choose_pairs(np.full(30, -1))
    whole = measure_pairs(one, two, pairs)
    assert len(whole) == len(pairs) == 435
    single = measure_pairs(one, two, pairs[200:201])
    pd.testing.assert_frame_equal(whole.iloc[[200]].reset_index(drop=True), single)


def test_margins_tell_errors_and_nothing_else():
    one, two = predictions(seed=1), predictions(seed=2)
    whole = measure_pairs(one, two, EQUAL)
    errors = measure_errors(one.right, two.right, EQUAL)
    assert errors["conversion"].isna().all()
    known = ["model_1", "model_2", "accuracy_1", "expected", "inconsistency", "of_expected"]
    pd.testing.assert_frame_equal(errors[known], whole[known])


def made_table(effect: float, n=40, seed=0) -> pd.DataFrame:
    """Pairs whose inconsistency is the sum of two models' parts, ``effect`` more across."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(0.1, 0.02, n)
    pairs = choose_pairs(np.full(n, -1), limit=300)
    tables = []
    for masks, pair in product(("equal", "other"), PAIRS):
        rows = pairs if masks == "other" else np.repeat(np.arange(n)[:, None], 2, axis=1)
        table = pd.DataFrame(rows, columns=["model_1", "model_2"])
        noise = rng.normal(0, 0.005, len(rows))
        table["inconsistency"] = parts[rows].sum(1) + noise + effect * (pair == "1 against 2")
        tables.append(table.reindex(columns=[*table.columns, *MEASURES[1:]]).assign(
            pair=pair, masks=masks))  # fmt: skip
    return pd.concat(tables)


def test_differences_are_found_with_intervals_that_hold_the_truth():
    held = {"equal": 0, "other": 0}
    for seed in range(20):
        found = summarise(made_table(0.03, seed=seed), 40, n_bootstrap=200, seed=seed)
        rows = found[found["pair"] == "difference"].set_index("masks")
        assert (rows["low"] > 0).all()
        for masks in held:
            held[masks] += rows.loc[masks, "low"] <= 0.03 <= rows.loc[masks, "high"]
    assert min(held.values()) >= 16  # 19 of 20 are expected


def test_initialisations_that_models_share_are_drawn_whole():
    """A part of each slot's own: models taken for independent would be too sure of the mean."""
    slots, held, naive = np.arange(40) % 5, 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        own = rng.normal(0, 0.05, 5)[slots]
        table = made_table(0.0, seed=seed)
        table["inconsistency"] += own[table[["model_1", "model_2"]].to_numpy()].mean(1)
        for shared in (slots, None):
            found = summarise(table, 40, slots=shared, n_bootstrap=200, seed=seed)
            row = found[(found["pair"] == "1 against 1") & (found["masks"] == "equal")].iloc[0]
            inside = row["low"] <= 0.2 <= row["high"]
            held, naive = held + inside * (shared is not None), naive + inside * (shared is None)
    assert held > naive + 5
    assert held >= 28  # five are few for a bootstrap


def test_means_are_plain_means_and_missing_measures_are_left_out():
    table = made_table(0.0)
    found = summarise(table, 40, n_bootstrap=50).set_index(["pair", "masks", "measure"])
    assert set(found.index.get_level_values("measure")) == {"inconsistency"}
    for (pair, masks), part in table.groupby(["pair", "masks"]):
        row = found.loc[(pair, masks, "inconsistency")]
        assert row["mean"] == pytest.approx(part["inconsistency"].mean())
        assert row["low"] < row["mean"] < row["high"]
        assert row["n_pairs"] == len(part)


def test_models_not_pairs_are_what_intervals_count():
    """The mean over pairs of ``a_i + a_j`` varies as twice a mean over models does."""
    table, n = made_table(0.0, n=40), 40
    found = summarise(table, n, n_bootstrap=2000).set_index(["pair", "masks", "measure"])
    row = found.loc[("1 against 1", "other", "inconsistency")]
    half_width = (row["high"] - row["low"]) / 2
    assert half_width == pytest.approx(1.96 * 2 * 0.02 / np.sqrt(n), rel=0.35)


def test_histograms_add_up_and_agree_with_numpy():
    one, two = predictions(seed=1), predictions(seed=2)
    table = histogram_of_angles(one, two, EQUAL, n_bins=12)
    assert table["share"].sum() == pytest.approx(1)
    assert set(table["outcome"]) == set(OUTCOMES)
    theta = specialisation_angle(one.confidence, two.confidence)
    alone = one.right & ~two.right
    counts, edges = np.histogram(theta[alone], bins=12, range=(-np.pi / 4, np.pi / 4))
    part = table[table["outcome"] == "only 1 right"].sort_values("left")
    np.testing.assert_allclose(part["share"], counts / theta.size)
    np.testing.assert_allclose(part["left"], edges[:-1])


def test_a_class_that_one_algorithm_masters_leans_to_it():
    one, two = predictions(seed=1, lean=2.0, n_test=300), predictions(seed=2, n_test=300)
    table = class_angles(one, two, EQUAL).set_index("label")
    assert table.loc[0, "theta_low"] > 0
    assert (table["theta_low"] <= table["theta_mean"]).all()
    assert table["theta_mean"].abs().idxmax() == 0
    assert (table.loc[[1, 2], "theta_low"] < 0).all()
    assert (table.loc[[1, 2], "theta_high"] > 0).all()
    swapped = class_angles(two, one, EQUAL).set_index("label")
    np.testing.assert_allclose(swapped["theta_mean"], -table["theta_mean"], atol=1e-12)
    np.testing.assert_allclose(swapped["accuracy_1"], table["accuracy_2"])


# Ten test examples: 4 both right, 3 only 1, 2 only 2, 1 neither.
RIGHT_1 = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0], bool)


RIGHT_2 = np.array([1, 1, 1, 1, 0, 0, 0, 1, 1, 0], bool)


ENSEMBLE = np.array([1, 1, 1, 1, 1, 1, 0, 1, 0, 0], bool)


def softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def random_probabilities(*shape, seed=0, scale=2.0):
    return softmax(np.random.default_rng(seed).normal(0, scale, shape))


def test_ten_examples_counted_by_hand():
    assert error_inconsistency(RIGHT_1, RIGHT_2) == pytest.approx(5 / 10)
    assert conversion_rate(RIGHT_1, RIGHT_2, ENSEMBLE) == pytest.approx(3 / 5)
    assert ensemble_gain(RIGHT_1, RIGHT_2, ENSEMBLE) == pytest.approx(0.7 - 0.65)
    assert ensemble_gain(RIGHT_1, RIGHT_2, ENSEMBLE, over="better") == pytest.approx(0.7 - 0.7)
    counted = np.bincount(outcomes(RIGHT_1, RIGHT_2), minlength=4)
    assert dict(zip(OUTCOMES, counted.tolist(), strict=True)) == {
        "both right": 4, "only 1 right": 3, "only 2 right": 2, "both wrong": 1,
    }  # fmt: skip


def test_gain_is_inconsistency_times_conversion_less_a_half():
    """Where the ensemble keeps what both get right and wrong, Figures 1 and 2 are one identity."""
    converted = conversion_rate(RIGHT_1, RIGHT_2, ENSEMBLE)
    inconsistent = error_inconsistency(RIGHT_1, RIGHT_2)
    gain = ensemble_gain(RIGHT_1, RIGHT_2, ENSEMBLE)
    assert gain == pytest.approx(inconsistent * (converted - 0.5))


def test_independent_errors_have_the_expected_inconsistency():
    rng = np.random.default_rng(0)
    one, two = rng.random(400_000) < 0.8, rng.random(400_000) < 0.65
    expected = expected_inconsistency(one.mean(), two.mean())
    assert error_inconsistency(one, two) == pytest.approx(expected, abs=0.003)
    assert expected == pytest.approx(0.8 * 0.35 + 0.65 * 0.2, abs=0.003)


def test_a_model_against_itself_shows_nothing():
    assert error_inconsistency(RIGHT_1, RIGHT_1) == 0
    assert np.isnan(conversion_rate(RIGHT_1, RIGHT_1, RIGHT_1))
    assert ensemble_gain(RIGHT_1, RIGHT_1, RIGHT_1) == 0
    assert np.isnan(surer_is_right(np.ones(10), RIGHT_1, RIGHT_1))


def test_many_pairs_at_once_are_the_pairs_one_by_one():
    rng = np.random.default_rng(1)
    one, two, both = (rng.random((5, 40)) < 0.7 for _ in range(3))
    theta = rng.normal(size=(5, 40))
    for measure in (
        lambda *a: error_inconsistency(*a[:2]),
        conversion_rate,
        ensemble_gain,
    ):
        at_once = measure(one, two, both)
        singly = [measure(a, b, c) for a, b, c in zip(one, two, both, strict=True)]
        np.testing.assert_allclose(at_once, singly)
    singly = [surer_is_right(t, a, b) for t, a, b in zip(theta, one, two, strict=True)]
    np.testing.assert_allclose(surer_is_right(theta, one, two), singly)


def test_exchanging_the_models_changes_signs_only():
    one, two = (random_probabilities(3, 50, 4, seed=s) for s in (1, 2))
    labels = np.random.default_rng(3).integers(4, size=50)
    assert (ensemble_right(one, two, labels) == ensemble_right(two, one, labels)).all()
    confidence = one.max(-1), two.max(-1)
    theta = specialisation_angle(*confidence)
    np.testing.assert_allclose(theta, -specialisation_angle(*confidence[::-1]), atol=1e-12)
    right = first_choice_is(one, labels), first_choice_is(two, labels)
    np.testing.assert_allclose(surer_is_right(theta, *right), surer_is_right(-theta, *right[::-1]))


@pytest.mark.parametrize(
    ("confidence_1", "confidence_2", "degrees"),
    [(0.5, 0.5, 0), (0.9, 0.9, 0), (1, 0, 45), (0, 1, -45), (np.sqrt(3) / 2, 0.5, 15)],
)
def test_angles_from_the_diagonal(confidence_1, confidence_2, degrees):
    theta = specialisation_angle(np.array(confidence_1), np.array(confidence_2))
    assert np.degrees(theta) == pytest.approx(degrees, abs=1e-9)


def test_the_surer_is_right_in_three_of_four():
    theta = np.array([0.1, 0.2, -0.1, -0.3, 0.0, 0.4])
    one = np.array([1, 1, 1, 0, 1, 1], bool)  # examples 0 to 3 are inconsistent
    two = np.array([0, 0, 0, 1, 1, 1], bool)
    assert surer_is_right(theta, one, two) == pytest.approx(3 / 4)
    assert surer_is_right(np.zeros(6), one, two) == pytest.approx(1 / 2)


def test_the_ensemble_averages_what_it_says():
    """Model 1 is very sure of class 0; the mean of logits heeds that more than of probabilities."""
    one = np.array([[0.999998, 1e-6, 1e-6]])
    two = np.array([[0.0005, 0.9990, 0.0005]])
    three = np.array([[0.00001, 0.6, 0.39999]])
    labels = np.array([0])
    assert ensemble_right(one, two, labels)[0]
    assert not ensemble_right(two, three, labels)[0]
    even = np.array([[0.6, 0.4, 0.0]]), np.array([[0.45, 0.55, 0.0]])
    assert ensemble_right(*even, labels, average="probabilities")[0]
    flipped = np.array([[0.55, 0.45, 0.0]]), np.array([[1e-9, 0.5, 0.5 - 1e-9]])
    assert not ensemble_right(*flipped, labels, average="logits")[0]
    with pytest.raises(ValueError, match="'probabilities' or 'logits'"):
        ensemble_right(one, two, labels, average="votes")


def test_averaged_logits_are_those_of_the_models_not_only_of_their_logarithms():
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 3, (2, 200, 5)) + rng.normal(0, 9, (2, 200, 1))
    labels = rng.integers(5, size=200)
    found = ensemble_right(*softmax(logits), labels, average="logits")
    assert (found == (logits.mean(0).argmax(-1) == labels)).all()


def test_predictions_agree_with_scikit_learn_and_with_the_trainer():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4, 60, 3))
    labels = rng.integers(3, size=60)
    found = Predictions(softmax(logits), labels)
    accuracies = [accuracy_score(labels, each.argmax(-1)) for each in logits]
    np.testing.assert_allclose(found.right.mean(1), accuracies)
    trainer = is_right(torch.from_numpy(logits), torch.from_numpy(labels)).numpy()
    assert (found.right == trainer).all()
    assert (found.confidence >= found.label_confidence).all()
    assert (found.confidence == found.label_confidence)[found.right].all()


def test_a_tie_is_an_error():
    assert not first_choice_is(np.array([[0.4, 0.4, 0.2]]), np.array([0]))[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: error_inconsistency(RIGHT_1.astype(int), RIGHT_2), "dtype int"),
        (lambda: expected_inconsistency(80, 0.5), "Divide percentages"),
        (lambda: specialisation_angle(np.array([np.nan]), np.array([0.5])), "outside"),
        (lambda: specialisation_angle(np.array([0.5]), np.array([50.0])), "confidence_2"),
        (lambda: ensemble_gain(RIGHT_1, RIGHT_2, ENSEMBLE, over="best"), "'mean' or 'better'"),
        (lambda: Predictions(np.ones((2, 5, 3)), np.zeros(5, int)), "Apply the softmax"),
        (lambda: Predictions(np.ones((2, 4, 3)) / 3, np.zeros(5, int)), "for 5 labels"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
