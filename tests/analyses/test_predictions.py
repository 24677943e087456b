"""Pairs of models: which, what each shows, and what intervals cover."""

import numpy as np
import pandas as pd
import pytest

from mdhelpers.analyses.predictions import (
    KINDS,
    MEASURES,
    OUTCOMES,
    Predictions,
    choose_pairs,
    class_angles,
    histogram_of_angles,
    measure_errors,
    measure_pairs,
    specialisation_angle,
    summarise,
)


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
    for pair, masks in KINDS:
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
