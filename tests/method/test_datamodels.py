import numpy as np
import pytest
from sklearn.linear_model import Lasso

from mdhelpers.method.datamodels import Fitter, fit_datamodels
from mdhelpers.method.engines.estimators import FitOptions
from mdhelpers.method.lds import lds


def draw(n_models=300, n_train=30, n_test=8, n_slots=0, noise=0.3, seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, n_train)).argsort(1) < n_train // 2
    truth = rng.normal(size=(n_test, n_train)) * (rng.random((n_test, n_train)) < 0.2)
    margins = masks @ truth.T + 1.5 + noise * rng.normal(size=(n_models, n_test))
    slots = rng.permutation(np.arange(n_models) % n_slots) if n_slots else None
    if n_slots:
        margins += 3 * rng.normal(size=(n_slots, n_test))[slots]
    return masks, margins.astype(np.float32), truth, slots


@pytest.mark.parametrize("method", ["lasso", "difference_of_means"])
def test_recovers_planted_weights_in_mask_units(method):
    masks, margins, truth, _ = draw(n_models=2000)
    datamodels = fit_datamodels(masks, margins, method=method)
    assert datamodels.weights.shape == truth.shape
    assert datamodels.weights.dtype == np.float32
    error = np.abs(datamodels.weights - truth + truth.mean(1, keepdims=True) * (method != "lasso"))
    assert error.mean() < 0.05
    assert datamodels.predict(masks).mean(0) == pytest.approx(margins.mean(0), abs=1e-3)


def test_lasso_is_scikit_learns_at_the_chosen_penalty():
    masks, margins, _, _ = draw()
    datamodels = fit_datamodels(masks, margins, options=FitOptions(tol=1e-5))
    scaled = (masks - masks.mean(0)) / masks.std(0)
    for test in range(margins.shape[1]):
        peer = Lasso(alpha=float(datamodels.lam[test]), tol=1e-10, max_iter=100_000)
        peer.fit(scaled, margins[:, test])
        np.testing.assert_allclose(
            datamodels.weights[test], peer.coef_ / masks.std(0), atol=0.01 * margins.std()
        )
        raw = peer.intercept_ - peer.coef_ @ (masks.mean(0) / masks.std(0))
        assert datamodels.bias[test] == pytest.approx(raw, abs=0.05)


def test_difference_of_means_by_its_definition():
    masks, margins, _, _ = draw(n_models=50)
    masks[:, 3] = True
    datamodels = fit_datamodels(masks, margins, method="difference_of_means")
    for train in range(masks.shape[1]):
        seen = masks[:, train]
        expected = margins[seen].mean(0) - margins[~seen].mean(0) if train != 3 else 0
        np.testing.assert_allclose(datamodels.weights[:, train], expected, atol=1e-5)


@pytest.mark.parametrize("method", ["lasso", "difference_of_means"])
def test_adding_a_constant_to_a_slot_changes_no_weight(method):
    masks, margins, _, slots = draw(n_slots=5)
    shifted = margins + np.arange(5, dtype=np.float32)[slots][:, None]
    first = fit_datamodels(masks, margins, method=method, slots=slots)
    second = fit_datamodels(masks, shifted, method=method, slots=slots)
    np.testing.assert_allclose(first.weights, second.weights, atol=1e-3)
    moved = second.slot_effects - first.slot_effects
    np.testing.assert_allclose(moved, np.repeat(np.arange(5)[:, None] - 2, 8, 1), atol=0.02)


def test_slots_sharpen_weights_and_give_their_effect_back():
    masks, margins, truth, slots = draw(n_models=400, n_slots=8)
    with_slots = fit_datamodels(masks[:300], margins[:300], slots=slots[:300])
    without = fit_datamodels(masks[:300], margins[:300])
    error = [np.square(d.weights - truth).mean() for d in (with_slots, without)]
    assert error[0] < error[1] / 3
    held_out = masks[300:], slots[300:]
    plain = lds(margins[300:], with_slots.predict(held_out[0]))
    added = lds(margins[300:], with_slots.predict(*held_out))
    within = lds(
        with_slots.remove_slots(margins[300:], held_out[1]),
        with_slots.predict(held_out[0]),
    )
    assert added.spearman > plain.spearman
    assert within.spearman > plain.spearman
    assert np.abs(with_slots.predict(*held_out) - margins[300:]).mean() < 0.4


def test_slot_numbers_mean_nothing():
    masks, margins, _, slots = draw(n_slots=4)
    first = fit_datamodels(masks, margins, slots=slots)
    second = fit_datamodels(masks, margins, slots=10 * slots + 7)
    np.testing.assert_array_equal(first.weights, second.weights)
    assert second.slot_ids.tolist() == [7, 17, 27, 37]


def test_pairs_in_slots_do_not_leak_into_validation():
    # Centred within a slot of two, one model is the other's mirror image: with noise only, a
    # validation set that held one of a pair would choose the smallest penalty.
    masks, _, _, slots = draw(n_models=200, n_slots=100)
    noise = np.random.default_rng(1).normal(size=(200, 40))
    datamodels = fit_datamodels(masks, noise, slots=slots)
    assert not datamodels.lam_at_edge.any()
    assert (datamodels.weights == 0).mean() > 0.7


def test_flags_a_best_penalty_at_the_edge():
    masks, margins, _, _ = draw(noise=0.0)
    coarse = fit_datamodels(masks, margins, options=FitOptions(lam_min_ratio=0.5, n_lams=5))
    assert coarse.lam_at_edge.all()


def test_constant_margins_have_no_weights():
    masks, margins, _, _ = draw()
    margins[:, 2] = 4.0
    datamodels = fit_datamodels(masks, margins)
    assert not datamodels.weights[2].any()
    assert datamodels.bias[2] == pytest.approx(4.0)
    assert np.isnan(datamodels.lam[2])
    assert np.isfinite(np.delete(datamodels.lam, 2)).all()


def test_same_seed_same_bits():
    masks, margins, _, slots = draw(n_slots=4)
    first, second = (fit_datamodels(masks, margins, slots=slots, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.weights, second.weights)


def test_names_the_model_and_test_example_of_a_nan_margin():
    masks, margins, _, _ = draw()
    margins[17, 5] = np.nan
    with pytest.raises(ValueError, match="model 17 on test example 5 is nan"):
        fit_datamodels(masks, margins)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "laso"}, "did you mean 'lasso'"),
        ({"masks": np.full((300, 30), 2)}, "expected 0 and 1"),
        ({"masks": np.zeros((299, 30), bool)}, "same models in the same order"),
        ({"slots": np.arange(300) // 299}, "slot 1 has one model"),
        ({"slots": np.zeros(4, int)}, "one integer for each"),
        ({"slots": np.zeros(300)}, "dtype float64"),
    ],
)
def test_refuses(change, message):
    masks, margins, _, _ = draw()
    arguments = {"masks": masks, "margins": margins} | change
    with pytest.raises(ValueError, match=message):
        fit_datamodels(arguments.pop("masks"), arguments.pop("margins"), **arguments)


def test_refuses_masks_and_slots_it_was_not_fitted_with():
    masks, margins, _, slots = draw(n_slots=3)
    datamodels = fit_datamodels(masks, margins, slots=slots)
    with pytest.raises(ValueError, match=r"expected \(n_models, 30\)"):
        datamodels.predict(masks[:, :5])
    with pytest.raises(ValueError, match=r"slots \[9\] are not among"):
        datamodels.predict(masks[:2], np.array([0, 9]))


@pytest.mark.parametrize(
    ("name", "value"), [("validation_share", 0), ("n_lams", 1), ("lam_min_ratio", 1.0)]
)
def test_refuses_options_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        FitOptions(**{name: value})


@pytest.mark.parametrize(("n_models", "method"), [(119, "ridge"), (120, "lasso")])
def test_auto_takes_what_suits_the_budget(n_models, method):
    rng = np.random.default_rng(0)
    masks, margins = rng.random((n_models, 20)) < 0.5, rng.normal(size=(n_models, 3))
    chosen = fit_datamodels(masks, margins, method="auto")
    assert chosen.method == method
    assert np.array_equal(chosen.weights, fit_datamodels(masks, margins, method=method).weights)


def test_auto_takes_scores_where_there_are_some():
    rng = np.random.default_rng(0)
    masks, margins = rng.random((40, 20)) < 0.5, rng.normal(size=(40, 3))
    chosen = fit_datamodels(masks, margins, method="auto", scores=rng.normal(size=(3, 20)))
    assert chosen.method == "trak+ridge"


def test_fitter_passes_slots_on():
    rng = np.random.default_rng(0)
    masks = rng.random((80, 10)) < 0.5
    slots = np.arange(80) % 4
    margins = rng.normal(size=(80, 6)) + 10 * slots[:, None]
    fit = Fitter(masks, margins, slots=slots, method="difference_of_means")
    models = np.arange(0, 80, 3)
    moved = Fitter(masks, margins - 10 * slots[:, None], slots=slots, method="difference_of_means")
    np.testing.assert_allclose(fit(models), moved(models), atol=1e-4)
