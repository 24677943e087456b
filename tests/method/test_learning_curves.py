from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mdhelpers.method.comparison import row_cosines
from mdhelpers.method.datamodels import Fitter, fit_datamodels
from mdhelpers.method.lds import lds
from mdhelpers.method.learning_curves import (
    POINTS,
    Law,
    LearningCurve,
    TooFewModels,
    fit_law,
    fit_laws,
    learning_curve,
    models_needed,
)

N_TRAIN, N_TEST, N_MODELS = 60, 80, 320


class World:
    """Linear margins with planted weights, dense or sparse, and noise that differs by example."""

    def __init__(self, weights: str, noise: float, seed: int = 0):
        self.rng = np.random.default_rng(seed)
        self.weights = self.rng.normal(size=(N_TEST, N_TRAIN))
        if weights == "sparse":
            sizes = 1 / np.arange(1, N_TRAIN + 1) * self.rng.choice((-1, 1), N_TRAIN)
            self.weights = np.stack([self.rng.permutation(sizes) for _ in range(N_TEST)])
        self.weights /= np.linalg.norm(self.weights, axis=1)[:, None] / 2
        self.noise = np.sqrt(noise * np.exp(0.5 * self.rng.normal(size=N_TEST)))
        self.heldout = self.draw(400)

    def draw(self, n_models: int) -> tuple[np.ndarray, np.ndarray]:
        masks = self.rng.permuted(np.tile(np.arange(N_TRAIN) % 2 == 0, (n_models, 1)), axis=1)
        margins = masks @ self.weights.T
        return masks, (margins + self.noise * self.rng.normal(size=margins.shape)).astype("f4")

    def curve(self, masks, margins, method: str) -> LearningCurve:
        fit = Fitter(masks, margins, method=method)
        full = fit(np.arange(len(masks)))
        return learning_curve(fit, full, self.heldout, n_models=len(masks), n_bootstrap=8)

    def truth(self, n_models: int, method: str) -> tuple[float, float]:
        """LDS and cosine of two new fits."""
        fits = [fit_datamodels(*self.draw(n_models), method=method).weights for _ in range(2)]
        masks, true = self.heldout
        scores = [lds(true, masks @ weights.T).spearman for weights in fits]
        return float(np.mean(scores)), float(row_cosines(*fits).mean())


@pytest.mark.parametrize(
    ("method", "weights", "noise"),
    [
        ("difference_of_means", "dense", 0.5),
        ("ridge", "dense", 0.5),
        ("ridge", "sparse", 2.0),
        ("lasso", "dense", 0.5),
        ("lasso", "sparse", 2.0),
    ],
)
def test_curves_carried_on_to_four_times_the_models_stay_in_the_stated_band(method, weights, noise):
    """Band: 0.03 in the LDS and 0.04 in the cosine, at twice and four times the models."""
    world = World(weights, noise)
    masks, margins = world.draw(N_MODELS)
    ridge = world.curve(masks, margins, "ridge") if method == "lasso" else None
    curve = world.curve(masks, margins, method)
    laws = fit_laws(curve, ridge=ridge, method=method, n_train=N_TRAIN)
    assert len(laws) == 9
    for times in (2, 4):
        score, cosine = world.truth(times * N_MODELS, method)
        assert laws[0].lds(times * N_MODELS) == pytest.approx(score, abs=0.03)
        assert laws[0].cosine(times * N_MODELS) == pytest.approx(cosine, abs=0.04)


def test_the_point_of_all_models_is_the_lds_with_its_interval():
    world = World("dense", 1.0)
    masks, margins = world.draw(64)
    curve = world.curve(masks, margins, "ridge")
    fit = fit_datamodels(masks, margins, method="ridge")
    score = lds(world.heldout[1], world.heldout[0] @ fit.weights.T)
    last = curve.table.iloc[-1]
    assert tuple(curve.table) == POINTS
    assert last["n_models"] == 64
    found = last[["lds", "lds_low", "lds_high", "pearson"]].to_list()
    np.testing.assert_allclose(found, [score.spearman, score.low, score.high, score.pearson])
    assert np.isnan(last["cosine"])


def test_subsets_are_nested_disjoint_and_even_over_slots():
    slots, asked = np.arange(128) % 8, []

    def fit(models):
        asked.append(models)
        return np.ones((3, 5))

    heldout = np.eye(5, dtype=bool), np.random.default_rng(0).normal(size=(5, 3))
    curve = learning_curve(
        fit, np.ones((3, 5)), heldout, n_models=128, slots=slots, n_splits=1, n_bootstrap=2
    )
    assert curve.table["n_models"].to_list() == [16, 32, 64, 128]
    assert curve.table["n_fits"].to_list() == [2, 2, 2, 1]
    pairs = list(zip(asked[::2], asked[1::2], strict=True))
    inside = np.arange(128)
    for one, two in pairs:
        assert not set(one) & set(two)
        assert set(one) | set(two) <= set(inside)
        assert np.ptp(np.bincount(slots[one], minlength=8)) == 0
        inside = one


@pytest.mark.parametrize(("n_models", "slots"), [(30, None), (96, np.arange(96) % 32)])
def test_too_few_models_are_told(n_models, slots):
    with pytest.raises(TooFewModels, match="cannot be halved"):
        learning_curve(None, np.ones((2, 2)), (None, None), n_models=n_models, slots=slots)


@pytest.mark.parametrize("law", [Law(90, 240, 0.8, 32), Law(300, 0, 0.7), Law(60, -40, 0.8)])
def test_a_law_solves_its_equation_and_is_inverted(law):
    for n in (100, 700, 5000):
        k, m = law.cosine(n), n - law.n_slots
        assert 1 / k - 1 == pytest.approx((law.noise + law.others * (1 - k)) / m)
        assert models_needed(law, cosine=float(k)) == pytest.approx(n, abs=1.01)
        assert models_needed(law, lds=float(law.lds(n))) == pytest.approx(n, abs=1.01)
        assert law.lds(n) == pytest.approx(law.plateau * np.sqrt(k))


def test_without_what_others_explain_the_law_is_spearman_and_browns():
    law = Law(noise=250, others=0, plateau=0.8)
    half = law.cosine(200)
    assert law.cosine(400) == pytest.approx(2 * half / (1 + half))


def test_ridge_regression_on_many_models_is_least_squares():
    """There the noise of a weight is that of trainings over models less weights."""
    law = Law(noise=50, others=100, plateau=1)
    assert 1 / law.cosine(10_000) - 1 == pytest.approx(50 / (10_000 - 100), rel=0.02)


def test_a_score_above_the_plateau_is_out_of_reach():
    law = Law(100, 0, 0.6)
    assert models_needed(law, lds=0.61) == np.inf
    assert np.isfinite(models_needed(law, lds=0.59))
    for targets in ({}, {"lds": 0.5, "cosine": 0.5}, {"lds": 1.2}, {"cosine": 0}):
        with pytest.raises(ValueError, match="expected one of them, between 0 and 1"):
            models_needed(law, **targets)


def points(law: Law, sizes=(50, 100, 200)) -> pd.DataFrame:
    n = np.array(sizes)
    return pd.DataFrame({"n_models": n, "lds": law.lds(n), "cosine": law.cosine(n)})


@pytest.mark.parametrize(("method", "others"), [("ridge", 80), ("difference_of_means", 0)])
def test_a_law_is_found_again_from_its_points(method, others):
    law = Law(140.0, others, 0.7, 16)
    found = fit_law(points(law), method=method, n_train=80, n_slots=16)
    np.testing.assert_allclose(
        [found.noise, found.others, found.plateau, found.n_slots], [140, others, 0.7, 16]
    )
    capped = fit_law(points(law), method=method, n_train=80, n_slots=16, ceiling=0.65)
    assert capped.plateau == 0.65


def test_the_lasso_takes_noise_and_plateau_from_ridge_regression():
    ridge, law = Law(140.0, 80, 0.7), Law(140.0, -30, 0.7)
    found = fit_law(points(law), method="lasso", n_train=80, ridge=ridge)
    assert found.others == pytest.approx(-30)
    assert (found.noise, found.plateau) == (140, 0.7)
    with pytest.raises(ValueError, match="give ridge"):
        fit_law(points(law), method="lasso", n_train=80)


def test_what_does_not_stand_out_from_noise_has_no_law():
    table = points(Law(140.0, 80, 0.7)).assign(cosine=[0.01, -0.02, 0.0])
    assert fit_law(table, method="ridge", n_train=80) is None
    curve = LearningCurve(table, np.zeros((3, 2, 3)), np.zeros(4))
    assert fit_laws(curve, method="ridge", n_train=80) == []
    good = replace(curve, table=points(Law(140.0, 80, 0.7)))
    assert len(fit_laws(good, method="ridge", n_train=80)) == 1
