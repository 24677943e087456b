"""Measures of pairs of models against closed forms and cases counted by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score

from mdhelpers.analyses.predictions import (
    OUTCOMES,
    Predictions,
    conversion_rate,
    ensemble_gain,
    ensemble_right,
    error_inconsistency,
    expected_inconsistency,
    first_choice_is,
    outcomes,
    specialisation_angle,
    surer_is_right,
)
from mdhelpers.method.margins import is_right

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
