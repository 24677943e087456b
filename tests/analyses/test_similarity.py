import numpy as np
import pytest

from mdhelpers.analyses.similarity import curves_of, similarity, variance_curves
from mdhelpers.method.comparison import compare, datamodel_cosines


def draw(seed=0, noise=1.0, n_test=80, n_train=400):
    """Two algorithms alike by half and one that is apart; two fits of each with their own noise."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(4, n_test, n_train))
    truths = {"a": parts[0] + parts[1], "b": parts[0] + parts[2], "c": np.sqrt(2) * parts[3]}
    shape = (n_test, n_train)
    return {
        name: [truth + noise * rng.normal(size=shape) for _ in range(2)]
        for name, truth in truths.items()
    }


def test_cosines_are_those_of_the_rows():
    first, second = draw()["a"]
    expected = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(first, second, strict=True)]
    np.testing.assert_allclose(datamodel_cosines(first, second), expected, atol=1e-12)


def test_the_matrix_tells_who_is_alike():
    one_each = {name: fits[0] for name, fits in draw(noise=0).items()}
    matrix = similarity(one_each).matrix
    assert matrix.loc["a", "b"] == pytest.approx(0.5, abs=0.02)
    assert matrix.loc["b", "c"] == pytest.approx(0, abs=0.02)
    assert np.isnan(np.diag(matrix)).all()
    np.testing.assert_array_equal(matrix, matrix.T)


def test_noise_lowers_cosines_and_is_corrected_for():
    """Noise of the truth's own variance halves the cosines, of an algorithm with itself too."""
    found = similarity(draw(noise=np.sqrt(2)))
    assert found.matrix.loc["a", "a"] == pytest.approx(0.5, abs=0.02)
    assert found.matrix.loc["a", "b"] == pytest.approx(0.25, abs=0.02)
    assert found.corrected.loc["a", "b"] == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(np.diag(found.corrected), 1)


def test_hardly_more_than_noise_is_not_corrected():
    corrected = similarity(draw(noise=10)).corrected
    assert corrected.isna().all(axis=None)


def test_fits_of_equal_place_are_not_compared():
    """They may share masks, so that their noise is the same: here it is, and must not show."""
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(60, 300)), rng.normal(size=(2, 60, 300))
    fits = {name: [truth + 2 * noise[0], truth + 2 * noise[1]] for name in ("a", "b")}
    matrix = similarity(fits).matrix
    assert matrix.loc["a", "b"] == pytest.approx(matrix.loc["a", "a"], abs=1e-12)
    assert matrix.loc["a", "b"] < 0.3


def test_refuses_a_single_fit():
    with pytest.raises(ValueError, match="expected two algorithms, or two fits"):
        similarity({"a": np.ones((3, 4))})


def sharing(seed=0, noise=0.5, n_test=120, n_train=60):
    """Truths that share a part and have a planted block each; fits with noise of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, 3)) @ rng.normal(size=(3, n_train))
    truths = [shared.copy(), shared.copy()]
    truths[0][:15, :6] += 4
    truths[1][20:35, 10:16] += 4
    return lambda: [t + noise * rng.normal(size=t.shape) for t in truths]


def test_curves_are_the_fractions_of_many_components():
    first, second = sharing()()
    table = variance_curves(first, second, n_components=40)
    assert table.groupby("comparison")["component"].max().tolist() == [40, 40]
    unit = [w / np.linalg.norm(w, axis=1, keepdims=True) for w in (first, second)]
    shared = (unit[0] * unit[1]).sum(1, keepdims=True)
    residuals = unit[1] - shared * unit[0]
    directions = np.linalg.svd(residuals - residuals.mean(0))[2][:40]
    rows = table[table["comparison"] == "2_minus_1"]
    for column, weights in (("variance_1", unit[0]), ("variance_2", unit[1])):
        expected = np.square(weights @ directions.T).sum(0) / len(weights)
        np.testing.assert_allclose(rows[column], expected, atol=1e-5)
    np.testing.assert_allclose(rows["gap"], rows["variance_2"] - rows["variance_1"], atol=1e-7)
    np.testing.assert_allclose(rows["cumulative_gap"], rows["gap"].cumsum(), atol=1e-7)


def test_all_components_are_taken_where_there_are_fewer():
    first, second = sharing()()
    table = variance_curves(first, second)
    assert len(table) == 2 * 60
    sums = table.groupby("comparison")[["variance_1", "variance_2"]].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-4)


def test_test_images_without_a_datamodel_have_no_components():
    first, second = (weights[:30].copy() for weights in sharing()())
    first[::2] = 0
    second[1] = 0
    assert len(variance_curves(first, second)) == 2 * (30 - 15 - 1 - 1)


def test_noise_has_gaps_on_its_own_fits_and_none_on_others():
    naive, honest = [], []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=(120, 5)) @ rng.normal(size=(5, 60))
        fits = [truth + rng.normal(size=truth.shape) for _ in range(4)]
        naive.append(variance_curves(*fits[:2], n_components=10)["gap"].sum())
        curves = variance_curves(*fits[:2], n_components=10, measured_on=fits[2:])
        honest.append(curves["gap"].sum())
    assert min(naive) > 0.05
    assert abs(np.mean(honest)) < 3 * np.std(honest) / np.sqrt(12)
    assert np.abs(honest).max() < 0.3 * np.mean(naive)


def test_a_planted_difference_keeps_its_gap_on_other_fits():
    fit = sharing()
    (first, second), others = fit(), fit()
    curves = variance_curves(first, second, n_components=3, measured_on=others)
    assert curves.groupby("comparison")["gap"].max().min() > 0.02


def test_directions_in_another_order_are_put_back():
    first, second = sharing()()
    comparison = compare(first, second)
    shuffled = comparison["1_minus_2"].reordered(np.array([3, 1, 0, 2, 7, 6, 5, 4]))
    mixed = type(comparison)(
        shuffled, comparison["2_minus_1"], comparison.cosines, comparison.n_zero
    )
    np.testing.assert_allclose(curves_of(mixed)["gap"], curves_of(comparison)["gap"])
