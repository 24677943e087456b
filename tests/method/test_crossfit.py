import numpy as np
import pandas as pd
import pytest

from mdhelpers.method.comparison import COMPARISONS, compare, normalise_rows
from mdhelpers.method.crossfit import (
    cross_fitted_gaps,
    in_order,
    null_gaps,
    null_totals,
    order_by_gap,
    residual_directions,
)
from mdhelpers.method.datamodels import Fitter

N_MODELS, N_TRAIN, N_TEST = 400, 60, 90


def world(seed, *, same=False, planted=3.0, n_models=N_MODELS):
    """Margins of two algorithms: shared structure, noise, and one feature of each one's own."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, N_TRAIN)).argsort(1) < N_TRAIN // 2
    shared = 0.3 * rng.normal(size=(N_TEST, 4)) @ rng.normal(size=(4, N_TRAIN))
    fits = []
    for algorithm in (0, 1):
        truth = shared.copy()
        for block in (0, 1) if same else (algorithm,):
            truth[30 * block : 30 * block + 12, 20 * block : 20 * block + 5] += planted
        margins = masks @ truth.T + 2 * rng.normal(size=(n_models, N_TEST))
        fits.append(Fitter(masks, margins, method="difference_of_means"))
    return fits


def compared(fits):
    everyone = np.arange(N_MODELS)
    return compare(*(fit(everyone) for fit in fits), n_directions=6)


def test_planted_differences_have_gaps_and_identical_algorithms_have_none():
    sums, naive = {}, {}
    for same in (False, True):
        found = [
            cross_fitted_gaps(
                *world(seed, same=same),
                N_MODELS,
                comparison=compared(world(seed, same=same)),
                n_directions=6,
                n_splits=3,
            )
            for seed in range(12)
        ]
        sums[same] = np.array([f.totals["gap"] for f in found])
        naive[same] = np.array(
            [f.directions.groupby("comparison")["naive_gap"].sum() for f in found]
        )
    assert sums[False].min() > 0.005
    assert sums[False].mean() > 0.015
    assert abs(sums[True].mean()) < 0.002
    assert naive[True].min() > 0.03
    assert naive[True].mean() > 0.5 * naive[False].mean()


def test_matched_gaps_put_the_planted_direction_first():
    fits = world(0)
    comparison = compared(fits)
    gaps = cross_fitted_gaps(*fits, N_MODELS, comparison=comparison, n_directions=6, n_splits=4)
    ordered = order_by_gap(comparison, gaps)
    for name, block in (("1_minus_2", 0), ("2_minus_1", 1)):
        top = np.argsort(-ordered[name].projections[:, 0])[:12]
        assert np.isin(top, np.arange(30 * block, 30 * block + 12)).mean() > 0.8
        table = gaps.directions.query("comparison == @name").set_index("direction")
        assert table["gap"].idxmax() == ordered[name].component[0]
        assert table["gap"].max() < table["naive_gap"].max()
        assert (table["low"] <= table["gap"]).all()
        assert (table["gap"] <= table["high"]).all()
        assert table["replication"].between(0, 1.0001).all()


def test_order_by_gap_keeps_component_and_moves_everything_with_it():
    comparison = compared(world(0))
    gaps = pd.DataFrame(
        [
            {"comparison": name, "direction": k, "gap": {2: 5.0, 5: 3.0}.get(k, -k)}
            for name in COMPARISONS
            for k in range(1, 7)
        ]
    )
    ordered = order_by_gap(comparison, gaps)["2_minus_1"]
    plain = comparison["2_minus_1"]
    assert ordered.component.tolist() == [2, 5, 1, 3, 4, 6]
    order = ordered.component - 1
    np.testing.assert_array_equal(ordered.directions, plain.directions[order])
    np.testing.assert_array_equal(ordered.projections, plain.projections[:, order])
    np.testing.assert_array_equal(ordered.naive_gap, plain.naive_gap[order])
    with pytest.raises(ValueError, match=r"no gap for directions \[6\]"):
        order_by_gap(comparison, gaps[gaps["direction"] < 6])


def test_rows_are_ordered_by_word_and_then_by_gap():
    rows = [("none", 0.9), ("weak", 0.1), ("strong", 0.2), ("weak", 0.3), ("strong", 0.5)]
    gaps = pd.DataFrame(rows, columns=["evidence", "clean_gap"])
    gaps["comparison"], gaps["direction"] = "1_minus_2", range(1, 6)
    other = gaps.assign(comparison="2_minus_1", clean_gap=-gaps["clean_gap"])
    found = in_order(pd.concat([other, gaps], ignore_index=True))
    assert found["direction"].tolist() == [5, 3, 4, 2, 1, 3, 5, 2, 4, 1]
    assert found["comparison"].is_monotonic_increasing


def test_without_a_comparison_only_totals_are_given():
    found = cross_fitted_gaps(*world(0), N_MODELS, n_directions=4, n_splits=2)
    assert found.directions.empty
    assert found.totals["n_directions"].tolist() == [4, 4]


@pytest.mark.parametrize("n_splits", [1, 4])
def test_p_values_are_not_too_small_where_algorithms_are_alike(n_splits):
    """What one half finds is what the other measures, so that halves and splits hang together."""
    rng = np.random.default_rng(n_splits)
    weights, z = rng.normal(size=(15, 16)), []
    for seed in range(80):
        fits = []
        for _ in range(2):
            masks = rng.random((48, 16)).argsort(1) < 8
            noise = 3 * rng.normal(size=(48, 15))
            fits.append(Fitter(masks, masks @ weights.T + noise, method="difference_of_means"))
        comparison = compare(*(fit(np.arange(48)) for fit in fits), n_directions=3)
        options = {"n_directions": 3, "n_splits": n_splits, "seed": seed}
        found = cross_fitted_gaps(*fits, 48, comparison=comparison, **options)
        z.append(found.directions["z"])
    z = np.array(z)
    assert abs(z.mean()) < 0.4  # all of a comparison go up and down together
    assert 0.5 < z.std() < 1.1  # halves and splits are less alike than they could be
    assert (z > 1.645).mean() < 0.08


def test_evidence_asks_for_enough_models_or_initialisations():
    """Whatever the models, 8 common initialisations are too few to tell chance by; 16 are not."""
    for n_slots, known in ((8, False), (16, True)):
        slots = np.arange(N_MODELS) % n_slots
        fits = [Fitter(fit.masks, fit.margins, slots=slots, method="ridge") for fit in world(0)]
        options = {"slots": slots, "labels": np.arange(N_TEST) % 2, "n_splits": 1}
        found = cross_fitted_gaps(*fits, N_MODELS, comparison=compared(fits), **options)
        assert found.directions["q"].notna().all() == known
        assert ("too few" in set(found.directions["evidence"])) != known
        assert (len(found.uses) > 0) == known
        ordered = order_by_gap(compared(fits), found)
        assert len(ordered.one_minus_two) == 6


def test_a_direction_that_one_algorithm_uses_says_so():
    fits = world(0)
    labels = np.arange(N_TEST) // 30
    found = cross_fitted_gaps(
        *fits, N_MODELS, comparison=compared(fits), labels=labels, top_k=12, n_splits=4
    )
    uses = found.uses.set_index(["comparison", "end", "label"])["use"]
    assert uses.loc[("1_minus_2", "top", 0)].isin(["only_1", "more_1"]).any()
    assert uses.loc[("2_minus_1", "top", 1)].isin(["only_1", "more_1"]).any()
    told = uses.loc[:, "top"]
    assert not told.isin(["only_2", "more_2"]).any()


def test_test_images_without_a_datamodel_are_left_out_and_counted():
    """Their residual would be the other algorithm's datamodel: ten of them made a component."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, N_TEST, N_TRAIN))
    plain = compare(one[10:], two[10:], n_directions=3)
    one[:4], two[2:10] = 0, 0
    found = compare(one, two, n_directions=3)
    assert found.n_zero.tolist() == [4, 8]
    assert found.left_out.tolist() == [True] * 10 + [False] * (N_TEST - 10)
    for name in COMPARISONS:
        cosines = np.abs((found[name].directions * plain[name].directions).sum(1))
        np.testing.assert_allclose(cosines, 1, atol=1e-5)
        assert (found[name].projections[:10] == 0).all()
    rows = [normalise_rows(part) for part in (one, two)]
    directions, patterns = residual_directions("1_minus_2", rows, 3)
    cosines = np.abs((directions * plain.one_minus_two.directions).sum(1))
    np.testing.assert_allclose(cosines, 1, atol=1e-5)
    assert (patterns[:, :10] == 0).all()


def test_null_compares_at_one_budget_and_fits_each_quarter_once():
    fits, calls = world(0), []

    def counting(algorithm):
        def fit(models):
            calls.append((algorithm, tuple(models)))
            return fits[algorithm - 1](models)

        return fit

    table = null_gaps(counting(1), counting(2), N_MODELS, n_directions=5, n_splits=3)
    assert len(calls) == len(set(calls)) == 3 * 4 * 2
    assert {len(models) for _, models in calls} == {N_MODELS // 4}
    assert len(table) == 3 * 6 * 3 * 2 * 5
    assert set(table["split"]) == set(range(18))


def test_null_totals_tell_the_real_pair_from_the_others():
    table = null_totals(null_gaps(*world(1, n_models=1600), 1600, n_splits=6))
    table = table.set_index(["pair", "comparison"])
    real = table.loc["1 against 2"]
    null = table[table.index.get_level_values("pair") != "1 against 2"]
    assert len(null) == 4
    assert real["gap"].min() > 2 * null["gap"].abs().max()
    assert null["naive_gap"].min() > 5 * null["gap"].abs().max()
    assert (table["naive_first"] < table["naive_gap"]).all()


def test_same_seed_same_gaps():
    first, second = (cross_fitted_gaps(*world(0), N_MODELS, n_splits=1, seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(first.totals, second.totals)


def test_refuses():
    fit_1, fit_2 = world(0)
    with pytest.raises(ValueError, match="Train more models"):
        null_gaps(fit_1, fit_2, 6)
    with pytest.raises(ValueError, match="smallest of 2 slots has 3 models"):
        cross_fitted_gaps(fit_1, fit_2, 43, slots=np.repeat([0, 1], [3, 40]))
    with pytest.raises(ValueError, match="fit_1 gave shape"):
        cross_fitted_gaps(fit_1, lambda models: fit_2(models)[:5], N_MODELS)
