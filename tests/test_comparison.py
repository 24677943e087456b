import numpy as np
import pytest
from scipy.stats import skew
from sklearn.decomposition import PCA

from mdhelpers import comparison as module
from mdhelpers.comparison import compare, load_comparison, save_comparison


def draw(n_test=60, n_train=40, seed=0):
    """Two algorithms that share a part and have two features each of their own."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, 4)) @ rng.normal(size=(4, n_train))
    both = [shared + 0.3 * rng.normal(size=shared.shape) for _ in range(2)]
    both[0][:12, :6] += 4
    both[1][20:28, 10:14] += 4
    return [d.astype(np.float32) for d in both]


def naive(first, second, k, center=True):
    """The method as one would write it from the paper: loops and scikit-learn."""
    first = np.array([row / np.linalg.norm(row) for row in first.astype(float)])
    second = np.array([row / np.linalg.norm(row) for row in second.astype(float)])
    residuals = np.array([x - (x @ y) / (y @ y) * y for x, y in zip(first, second, strict=True)])
    if center:
        directions = PCA(k, svd_solver="full").fit(residuals).components_
    else:
        directions = np.linalg.svd(residuals)[2][:k]
    fractions = [
        [np.sum((rows @ u) ** 2) / np.sum(rows**2) for rows in (first, second)] for u in directions
    ]
    return directions, residuals @ directions.T, np.array(fractions)


@pytest.mark.parametrize("shape", [(60, 40), (30, 90)])
@pytest.mark.parametrize("center", [True, False])
def test_agrees_with_an_independent_implementation(shape, center):
    first, second = draw(*shape)
    found = compare(first, second, n_directions=5, center=center)
    for direction_set, pair in ((found["1_minus_2"], (first, second)), (found["2_minus_1"], None)):
        pair = pair or (second, first)
        directions, projections, fractions = naive(*pair, 5, center)
        fractions = fractions if direction_set.name == "1_minus_2" else fractions[:, ::-1]
        cosines = (direction_set.directions * directions).sum(1)
        assert np.abs(cosines).min() > 0.9999
        signed = projections * np.sign(cosines)
        np.testing.assert_allclose(direction_set.projections, signed, atol=1e-4)
        np.testing.assert_allclose(direction_set.explained_variance, fractions, atol=1e-5)


def test_finds_the_planted_examples_of_each_side():
    found = compare(*draw(), n_directions=3)
    for name, planted in (("1_minus_2", range(12)), ("2_minus_1", range(20, 28))):
        best = found[name].naive_gap.argmax()
        assert found[name].naive_gap[best] > 0.02
        top = np.argsort(-found[name].projections[:, best])[: len(planted)]
        assert np.isin(top, planted).mean() > 0.7


def test_gap_is_that_of_proposition_1():
    first, second = draw()
    found = compare(first, second)
    rows = [d / np.linalg.norm(d, axis=1, keepdims=True) for d in (first, second)]
    for direction_set, sign in ((found["1_minus_2"], 1), (found["2_minus_1"], -1)):
        delta = [np.sum((r @ direction_set.directions.T) ** 2, axis=0) for r in rows]
        expected = sign * (delta[0] - delta[1]) / len(first)
        np.testing.assert_allclose(direction_set.naive_gap, expected, atol=1e-5)


def test_scale_of_rows_does_not_matter():
    first, second = draw()
    scale = np.random.default_rng(1).uniform(0.01, 100, size=(len(first), 1))
    plain, scaled = compare(first, second), compare(first * scale, second / scale)
    np.testing.assert_allclose(
        plain["1_minus_2"].directions, scaled["1_minus_2"].directions, atol=1e-4
    )
    np.testing.assert_allclose(plain.cosines, scaled.cosines, atol=1e-5)


def test_order_of_test_examples_does_not_matter():
    first, second = draw()
    order = np.random.default_rng(1).permutation(len(first))
    plain, shuffled = compare(first, second), compare(first[order], second[order])
    np.testing.assert_allclose(
        plain["2_minus_1"].directions, shuffled["2_minus_1"].directions, atol=1e-4
    )
    np.testing.assert_allclose(
        plain["2_minus_1"].projections[order], shuffled["2_minus_1"].projections, atol=1e-4
    )


def test_exchanging_the_algorithms_exchanges_the_comparisons():
    first, second = draw()
    one, other = compare(first, second), compare(second, first)
    np.testing.assert_array_equal(one["1_minus_2"].directions, other["2_minus_1"].directions)
    np.testing.assert_array_equal(
        one["1_minus_2"].explained_variance, other["2_minus_1"].explained_variance[:, ::-1]
    )


def test_directions_are_orthonormal_and_lean_to_the_positive_side():
    found = compare(*draw())["1_minus_2"]
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(8), atol=1e-5)
    assert (skew(found.projections, axis=0) > 0).all()
    assert found.component.tolist() == list(range(1, 9))


def test_residuals_are_orthogonal_to_the_other_algorithm():
    first, second = (module.normalise_rows(d) for d in draw())
    residuals = module.residual_datamodels(first, second)
    np.testing.assert_allclose((residuals * second).sum(1), 0, atol=1e-12)


def test_cosines():
    first, second = draw()
    expected = [
        x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(first, second, strict=True)
    ]
    np.testing.assert_allclose(compare(first, second).cosines, expected, atol=1e-5)


def test_zero_datamodels_stay_zero_and_are_counted():
    first, second = draw()
    first[3] = 0
    second[[4, 5]] = 0
    found = compare(first, second)
    assert found.n_zero.tolist() == [1, 2]
    assert not found["1_minus_2"].projections[3].any()
    assert not found.cosines[[3, 4, 5]].any()
    assert all(np.isfinite(s.explained_variance).all() for s in found)


def test_randomised_decomposition_agrees_with_the_exact(monkeypatch):
    first, second = draw(200, 150)
    exact = compare(first, second, n_directions=2)
    monkeypatch.setattr(module, "_EXACT_UP_TO", 100)
    randomised = compare(first, second, n_directions=2, seed=1)
    cosines = (exact["1_minus_2"].directions * randomised["1_minus_2"].directions).sum(1)
    assert cosines.min() > 0.999


def test_save_and_load(tmp_path):
    found = compare(*draw())
    save_comparison(found, tmp_path / "comparison.safetensors")
    loaded = load_comparison(tmp_path / "comparison.safetensors")
    for before, after in zip(found, loaded, strict=True):
        assert before.name == after.name
        for field in ("directions", "projections", "explained_variance", "component"):
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
    np.testing.assert_array_equal(found.cosines, loaded.cosines)
    np.testing.assert_array_equal(found.n_zero, loaded.n_zero)


def test_load_refuses_another_file(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="does not hold a comparison"):
        load_comparison(tmp_path / "x.safetensors")


def test_refuses():
    first, second = draw()
    with pytest.raises(ValueError, match="transposed"):
        compare(first, second.T)
    with pytest.raises(ValueError, match="from 1 to 40"):
        compare(first, second, n_directions=41)
    second[7, 2] = np.nan
    with pytest.raises(ValueError, match="test example 7 under algorithm 2"):
        compare(first, second)
    with pytest.raises(KeyError, match="not a comparison"):
        compare(first, first)["1 minus 2"]
