from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from mdhelpers.formats.score_checks import (
    check_against_models,
    check_planted,
    resolve_orientation,
    standardise,
    un_standardise,
)
from mdhelpers.method.datamodels import fit_datamodels

HERE = Path("scores.pt")


def made(n_models=400, n_train=12, n_test=8, alpha=0.5, seed=0):
    """Masks, and margins of a linear truth with noise; training example i helps test example i."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, n_train)) < alpha
    truth = rng.normal(size=(n_test, n_train)) * 0.3 + 0.3
    truth[np.arange(n_test), np.arange(n_test)] += 2
    margins = masks @ truth.T + rng.normal(size=(n_models, n_test)) - 1
    return masks, margins, truth


@pytest.fixture(scope="module")
def fitted():
    masks, margins, _ = made()
    return fit_datamodels(masks, margins, method="difference_of_means"), masks, margins


def possible(shape, n_train, n_test):
    """Orientations that a shape allows, by brute force."""
    sizes = {"train_test": (n_train, n_test), "test_train": (n_test, n_train)}
    return {
        name
        for name, wanted in sizes.items()
        if all(w in (None, found) for w, found in zip(wanted, shape, strict=True))
    }


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (3, 3)])
def test_orientation_is_what_is_told_and_possible(shape):
    words = (None, "train_test", "test_train")
    sizes = (None, 3, 4, 5)
    for n_train, n_test, maker, said in product(sizes, sizes, words, words):
        allowed = possible(shape, n_train, n_test)
        only = next(iter(allowed)) if len(allowed) == 1 else None
        wanted = said or (None if shape[0] == shape[1] else maker or only)
        how = {"maker": maker, "said": said, "n_train": n_train, "n_test": n_test}
        if wanted in allowed:
            assert resolve_orientation(HERE, shape, **how) == wanted
        else:
            with pytest.raises(ValueError, match="scores"):
                resolve_orientation(HERE, shape, **how)


def test_says_what_is_wrong_with_an_orientation():
    sizes = {"n_train": 3, "n_test": 4}
    with pytest.raises(ValueError, match=r"swapped\. If .* say orientation='test_train'"):
        resolve_orientation(HERE, (4, 3), maker="train_test", **sizes)
    with pytest.raises(ValueError, match="you said test_train"):
        resolve_orientation(HERE, (3, 4), said="test_train", **sizes)
    with pytest.raises(ValueError, match="orientation is 'rows'; expected one of"):
        resolve_orientation(HERE, (3, 4), said="rows")


@pytest.mark.parametrize("per_example", [False, True])
def test_un_standardised_weights_are_those_fitted_on_raw_masks(per_example):
    masks, margins, _ = made(alpha=0.3)
    seen = masks.mean(0)
    alpha = seen if per_example else 0.3
    scaled = (masks - alpha) / np.sqrt(alpha * (1 - np.asarray(alpha)))
    theirs, raw = (LinearRegression().fit(x, margins) for x in (scaled, masks))
    weights, bias = un_standardise(theirs.coef_, theirs.intercept_, alpha)
    assert weights.dtype == bias.dtype == np.float32
    np.testing.assert_allclose(weights, raw.coef_, atol=1e-5)
    np.testing.assert_allclose(bias, raw.intercept_, atol=1e-5)
    back = standardise(weights, bias, alpha)
    np.testing.assert_allclose(back[0], theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(back[1], theirs.intercept_, atol=1e-4)


@pytest.mark.parametrize("alpha", [0, 1, -0.5, 50, np.nan, np.array([0.5, 1.0])])
def test_refuses_shares_that_are_none(alpha):
    with pytest.raises(ValueError, match="between 0 and 1"):
        un_standardise(np.ones((1, 2)), np.zeros(1), alpha)


def test_planted_examples_tell_the_sign(fitted):
    datamodels, _, _ = fitted
    pairs = np.stack([np.arange(8)] * 2, axis=1)
    checked = check_planted(datamodels, pairs)
    assert "sign checked: 8 examples that help stand at 0.9" in checked.notes[-1]
    np.testing.assert_array_equal(checked.weights, datamodels.weights)
    with pytest.raises(ValueError, match="opposite sign"):
        check_planted(replace(datamodels, weights=-datamodels.weights), pairs)


def test_planted_examples_that_do_not_stand_out_tell_nothing(fitted):
    none = np.zeros_like(fitted[0].weights)
    pairs = np.stack([np.arange(8)] * 2, axis=1)
    notes = check_planted(replace(fitted[0], weights=none), pairs).notes
    assert "the sign could not be told" in notes[-1]
    assert "at 0.50" in notes[-1]


def test_models_tell_the_sign(fitted):
    datamodels, _, _ = fitted
    masks, margins, _ = made(n_models=60, seed=0)
    notes = check_against_models(datamodels, masks, margins).notes
    assert "sign checked" in notes[-1]
    assert "units checked" in notes[-2]
    no_bias = replace(datamodels, bias=np.full_like(datamodels.bias, np.nan))
    notes = check_against_models(no_bias, masks, margins).notes
    assert "sign checked" in notes[-1]
    assert "there is no bias" in notes[-2]
    reversed_ = replace(no_bias, weights=-datamodels.weights)
    with pytest.raises(ValueError, match="opposite sign: mean correlation -0"):
        check_against_models(reversed_, masks, margins)


def test_models_of_other_scores_tell_nothing(fitted):
    rng = np.random.default_rng(1)
    noise = replace(fitted[0], weights=rng.normal(size=(8, 12)).astype(np.float32))
    noise = replace(noise, bias=np.zeros(8, np.float32))
    masks = rng.random((50, 12)) < 0.5
    margins = np.repeat(rng.normal(size=(50, 1)), 8, axis=1)  # one wave moves all of them
    assert "could not be told" in check_against_models(noise, masks, margins).notes[-1]


def test_models_tell_the_units(fitted):
    datamodels, masks, margins = fitted
    weights, bias = standardise(datamodels.weights, datamodels.bias, 0.5)
    taken_as_raw = replace(datamodels, weights=weights, bias=bias)
    with pytest.raises(ValueError, match="fitted with standardised masks"):
        check_against_models(taken_as_raw, masks, margins)
    weights, bias = un_standardise(datamodels.weights, datamodels.bias, 0.5)
    taken_as_standardised = replace(datamodels, weights=weights, bias=bias)
    with pytest.raises(ValueError, match="not of these margins"):
        check_against_models(taken_as_standardised, masks, margins)


def test_weights_that_sum_to_nothing_do_not_tell_the_units():
    rng = np.random.default_rng(0)
    masks = np.argsort(rng.random((400, 12)), axis=1) < 6  # all of one size
    margins = masks @ rng.normal(size=(8, 12)).T + 3 + rng.normal(size=(400, 8))
    fitted = fit_datamodels(masks, margins, method="difference_of_means")
    weights, bias = standardise(fitted.weights, fitted.bias, 0.5)
    for datamodels in (fitted, replace(fitted, weights=weights, bias=bias)):
        notes = check_against_models(datamodels, masks, margins).notes
        assert "units could not be told (weights sum to 0)" in notes[-2]


def test_models_must_be_of_the_same_data(fitted):
    datamodels, masks, margins = fitted
    with pytest.raises(ValueError, match=r"margins have shape \(400, 7\)"):
        check_against_models(datamodels, masks, margins[:, 1:])
    with pytest.raises(ValueError, match="masks have shape"):
        check_against_models(datamodels, masks[:, 1:], margins)
