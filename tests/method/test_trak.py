"""Scores from gradients, against slow twins and planted datamodels."""

import numpy as np
import pytest
import torch

from mdhelpers.method import crossfit
from mdhelpers.method.comparison import compare
from mdhelpers.method.datamodels import Fitter, fit_datamodels
from mdhelpers.method.engines.estimators import fit_ridge
from mdhelpers.method.engines.moments import Moments
from mdhelpers.method.evidence import explained, residual_along
from mdhelpers.method.trak import (
    Look,
    Scores,
    correlation,
    model_scores,
    predicted_by_others,
    size_of,
)

N_TRAIN, N_TEST = 30, 40


def look(rng, n_weights=12):
    """A look in coordinates of its own, and the gradients that it stands for."""
    train, test = rng.normal(size=(N_TRAIN, n_weights)), rng.normal(size=(N_TEST, n_weights))
    values, vectors = np.linalg.eigh(train.T @ train)
    return Look(test @ vectors, train @ vectors, values), train, test


@pytest.mark.parametrize("damping", [0.1, 3.0])
def test_scores_are_those_of_the_formula(damping):
    found, train, test = look(np.random.default_rng(0))
    kernel = train @ train.T
    inverse = np.linalg.inv(kernel + damping * np.trace(kernel) / N_TRAIN * np.eye(N_TRAIN))
    np.testing.assert_allclose(found.scores(damping), test @ train.T @ inverse, atol=1e-6)
    np.testing.assert_allclose(model_scores([found] * 2, damping), 2 * found.scores(damping))


def test_each_model_is_predicted_by_the_others_alone():
    rng = np.random.default_rng(1)
    models = [[look(rng)[0]] for _ in range(5)]
    masks = rng.random((5, N_TRAIN)) < 0.5
    found = predicted_by_others(iter(models), masks, 0.3)
    for m in range(5):
        others = np.mean([model_scores(models[k], 0.3) for k in range(5) if k != m], axis=0)
        np.testing.assert_allclose(found[m], others @ masks[m], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="two or more"):
        predicted_by_others(iter(models[:1]), masks[:1], 0.3)


def test_correlation_and_size():
    rng = np.random.default_rng(2)
    true = rng.normal(size=(50, 7))
    predicted = 0.5 * (true - true.mean(0)) + 0.0
    assert correlation(predicted, true) == pytest.approx(1)
    assert correlation(np.zeros_like(true), true) == 0
    assert size_of(predicted, true - true.mean(0)) == pytest.approx(2)
    assert size_of(-predicted, true) == 0
    assert size_of(np.zeros_like(true), true) == 1


def planted(rng, n_models=60, *, n_slots=20, noise=0.3, bias=0.0, truth=None):
    """Masks, margins of linear models, per-model scores of the same truth, and slots."""
    truth = rng.normal(size=(N_TEST, N_TRAIN)) if truth is None else truth
    masks, slots = rng.random((n_models, N_TRAIN)) < 0.5, np.arange(n_models) % n_slots
    margins = (
        masks @ truth.T
        + rng.normal(size=(n_models, N_TEST))
        + rng.normal(size=n_slots)[slots][:, None]
    )
    seen = truth + bias * rng.normal(size=truth.shape)
    scores = 0.5 * (seen + noise * rng.normal(size=(n_models, *truth.shape)))
    return truth, masks, margins, scores.astype(np.float32), slots


def test_scores_get_the_size_of_margins_and_a_ridge_that_leaves_their_bias_behind():
    truth, masks, margins, scores, slots = planted(np.random.default_rng(3), 400, bias=1.0)
    mean = scores.mean(0)
    alone = fit_datamodels(masks, margins, method="trak", slots=slots, scores=mean)
    both = fit_datamodels(masks, margins, method="trak+ridge", slots=slots, scores=mean)
    ratio = alone.weights / mean
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
    error = [np.square(fit.weights - truth).mean() for fit in (alone, both)]
    assert error[1] < 0.2 * error[0]
    for fit in (alone, both):  # in units of margins, whatever those of scores
        again = fit_datamodels(masks, margins, method=fit.method, slots=slots, scores=10 * mean)
        np.testing.assert_allclose(again.weights, fit.weights, rtol=1e-3, atol=1e-4)
    left = alone.remove_slots(margins, slots) - alone.predict(masks)
    for slot in range(20):
        np.testing.assert_allclose(left[slots == slot].mean(0), 0, atol=1e-4)
    for scores, message in ((None, "needs scores"), (mean.T, "scores have shape")):
        with pytest.raises(ValueError, match=message):
            fit_datamodels(masks, margins, method="trak", scores=scores)


def test_one_penalty_is_the_one_with_the_smallest_mean_error():
    _, masks, margins, _, _ = planted(np.random.default_rng(4), 60)
    margins = margins.astype(np.float32)
    own = fit_ridge(Moments(masks), margins)
    shared = fit_ridge(Moments(masks), margins, one_penalty=True)
    assert len(np.unique(own.lam)) > 1
    assert len(np.unique(shared.lam)) == 1
    assert own.lam.min() <= shared.lam[0] <= own.lam.max()
    same = own.lam == shared.lam[0]
    np.testing.assert_allclose(own.weights[same], shared.weights[same])


def test_scores_are_measured_as_a_slow_sum_over_pairs_of_groups():
    rng = np.random.default_rng(5)
    scores = [rng.normal(size=(12, N_TEST, N_TRAIN)).astype(np.float32) for _ in range(2)]
    models, groups = np.arange(2, 12), np.arange(12) // 2
    lengths = rng.uniform(1, 2, N_TEST)
    one, two = (Scores(each, models, lengths, groups) for each in scores)
    u, p, g = (
        rng.normal(size=(2, N_TRAIN)),
        rng.normal(size=(2, N_TEST)),
        scores[0][0].astype(float),
    )
    rows = [
        np.array([each[groups == k].mean(0) for k in range(1, 6)]) / lengths[:, None]
        for each in scores
    ]
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    for d in range(2):
        slow = np.mean(
            [
                p[d] @ ((rows[1][j] * g).sum(1) * (rows[0][i] @ u[d]))
                - p[d] @ ((rows[0][j] * g).sum(1) * (rows[1][i] @ u[d]))
                for i, j in pairs
            ]
        )
        assert residual_along(one, two, u, p, g)[0, d] == pytest.approx(slow, rel=1e-3, abs=1e-4)
    lengths_2 = np.mean([(rows[0][i] * rows[0][j]).sum(1) for i, j in pairs], axis=0)
    np.testing.assert_allclose(one.squared_lengths[0], lengths_2, rtol=1e-3, atol=1e-3)
    assert one.contrasts(torch.ones(N_TEST, 1)).shape == (5, 1, N_TRAIN)
    assert (one.n_groups, one.n_test, one.n_train, list(one.ids)) == (
        5,
        N_TEST,
        N_TRAIN,
        [1, 2, 3, 4, 5],
    )
    assert explained(one, np.eye(N_TRAIN)).shape == (6, N_TRAIN)


def compared(seed, *, differ, bias=0.0, n_models=64, n_scored=None, n_slots=16):
    """Evidence for two algorithms whose datamodels differ, or only in how gradients see them."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(N_TEST, N_TRAIN))
    pattern = np.outer(np.arange(N_TEST) < 15, np.arange(N_TRAIN) < 8) * 2.0
    fits = []
    for a in (1, 2):
        own = truth + pattern * (differ and a == 1)
        _, masks, margins, scores, slots = planted(rng, n_models, n_slots=n_slots or 1, truth=own)
        scores = (scores + 0.5 * bias * pattern * (a == 1))[:n_scored]
        slots = slots if n_slots else None
        fits.append(Fitter(masks, margins, slots=slots, scores=scores, method="trak+ridge"))
    comparison = compare(*(fit(np.arange(n_models)) for fit in fits), n_directions=4)
    options = {"n_directions": 4, "n_splits": 3, "slots": slots}
    return crossfit.cross_fitted_gaps(*fits, n_models, comparison=comparison, **options).directions


def test_a_difference_is_called_and_confirmed_by_retraining():
    found = compared(6, differ=True).query("comparison == '1_minus_2'")
    assert (found["evidence"].iloc[0], found["confirmed"].iloc[0]) == ("strong", "confirmed")


@pytest.mark.parametrize("n_slots", [0, 16])
def test_outputs_of_models_without_scores_take_part_in_confirming(n_slots):
    found = compared(6, differ=True, n_scored=32, n_slots=n_slots)
    first = found.query("comparison == '1_minus_2'").iloc[0]
    assert (first["evidence"], first["confirmed"]) == ("strong", "confirmed")


def test_what_only_gradients_see_is_not_confirmed():
    """A bias of one algorithm's gradients looks like a difference, in scores alone."""
    found = compared(7, differ=False, bias=1.0).query("comparison == '1_minus_2'")
    assert found["q"].min() < 0.01
    assert not (found["confirmed"] == "confirmed").any()
    assert (found["confirmed"] == np.where(found["q"] < 0.05, "not confirmed", "not tested")).all()


def test_nothing_is_called_where_nothing_differs():
    calls = [(compared(seed, differ=False)["q"] < 0.05).any() for seed in range(8, 28)]
    assert np.mean(calls) <= 0.1


def test_too_few_models_with_scores_are_not_weighed():
    found = compared(30, differ=True, n_models=32)
    assert set(found["evidence"]) <= {"strong", "weak", "none"}
    rng = np.random.default_rng(31)
    _, masks, margins, scores, slots = planted(rng, 64, n_slots=16)
    fits = [Fitter(masks, margins, slots=slots, scores=scores[:8], method="trak") for _ in range(2)]
    comparison = compare(*(fit(np.arange(64)) for fit in fits), n_directions=2)
    options = {"n_directions": 2, "n_splits": 1, "slots": slots}
    found = crossfit.cross_fitted_gaps(*fits, 64, comparison=comparison, **options).directions
    assert (found["evidence"] == "too few").all()
