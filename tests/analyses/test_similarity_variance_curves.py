import numpy as np

from mdhelpers.analyses.similarity import curves_of, variance_curves
from mdhelpers.method.comparison import compare


def draw(seed=0, noise=0.5, n_test=120, n_train=60):
    """Truths that share a part and have a planted block each; fits with noise of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, 3)) @ rng.normal(size=(3, n_train))
    truths = [shared.copy(), shared.copy()]
    truths[0][:15, :6] += 4
    truths[1][20:35, 10:16] += 4
    return lambda: [t + noise * rng.normal(size=t.shape) for t in truths]


def test_curves_are_the_fractions_of_many_components():
    first, second = draw()()
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
    first, second = draw()()
    table = variance_curves(first, second)
    assert len(table) == 2 * 60
    sums = table.groupby("comparison")[["variance_1", "variance_2"]].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-4)


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
    fit = draw()
    (first, second), others = fit(), fit()
    curves = variance_curves(first, second, n_components=3, measured_on=others)
    assert curves.groupby("comparison")["gap"].max().min() > 0.02


def test_directions_in_another_order_are_put_back():
    first, second = draw()()
    comparison = compare(first, second)
    shuffled = comparison["1_minus_2"].reordered(np.array([3, 1, 0, 2, 7, 6, 5, 4]))
    mixed = type(comparison)(
        shuffled, comparison["2_minus_1"], comparison.cosines, comparison.n_zero
    )
    np.testing.assert_allclose(curves_of(mixed)["gap"], curves_of(comparison)["gap"])
