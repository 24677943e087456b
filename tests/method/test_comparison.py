import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.decomposition import PCA

from mdhelpers.method import comparison as module
from mdhelpers.method.comparison import compare
from mdhelpers.method.engines import principal


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


def test_changing_the_sign_of_all_weights_changes_no_direction_but_in_sign():
    first, second = draw()
    plain, negated = compare(first, second), compare(-first, -second)
    for one, other in zip(plain, negated, strict=True):
        cosines = np.abs((one.directions * other.directions).sum(1))
        np.testing.assert_allclose(cosines, 1, atol=1e-5)
        np.testing.assert_allclose(one.explained_variance, other.explained_variance, atol=1e-6)


@pytest.mark.parametrize("shape", [(420, 300), (260, 500)])
@pytest.mark.parametrize("center", [True, False])
def test_found_by_iteration_it_agrees_with_an_independent_implementation(
    shape, center, monkeypatch
):
    """Large matrices' way on small ones, with factors of falling strength to tell apart."""
    monkeypatch.setattr(principal, "EXACT_UP_TO", 100)
    rng = np.random.default_rng(0)
    first, second = draw(*shape)
    for weights in (first, second):
        scores = rng.normal(size=(shape[0], 8)) * 2.0 * 0.8 ** np.arange(8)
        weights += (scores @ rng.normal(size=(8, shape[1]))).astype(np.float32)
    found = compare(first, second, n_directions=6, center=center, seed=1)
    directions, projections, fractions = naive(first, second, 7, center)
    variances = np.square(projections - center * projections.mean(0)).sum(0)
    ratios = variances[1:] / variances[:-1]
    separated = (np.r_[0, ratios[:-1]] < 0.97) & (ratios < 0.97)
    assert separated.sum() >= 4
    cosines = np.abs((found["1_minus_2"].directions * directions[:6]).sum(1))
    assert cosines[separated].min() > 0.9999
    np.testing.assert_allclose(
        found["1_minus_2"].explained_variance[separated], fractions[:6][separated], atol=1e-5
    )


def test_equal_datamodels_leave_nothing_and_that_is_no_failure(monkeypatch):
    """What remains is rounding; it must not be iterated on for ever, nor be given a gap."""
    monkeypatch.setattr(principal, "EXACT_UP_TO", 100)
    first, _ = draw(420, 300)
    found = compare(first, first.copy())
    np.testing.assert_allclose(found.cosines, 1, atol=1e-5)
    for direction_set in found:
        assert np.abs(direction_set.naive_gap).max() < 1e-5
        assert np.abs(direction_set.projections).max() < 1e-4
        np.testing.assert_allclose(
            direction_set.directions @ direction_set.directions.T, np.eye(8), atol=1e-4
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_are_compared_where_they_are():
    first, second = (torch.from_numpy(weights) for weights in draw())
    here, there = compare(first, second), compare(first.cuda(), second.cuda())
    for one, other in zip(here, there, strict=True):
        np.testing.assert_allclose(one.projections, other.projections, atol=1e-4)


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


def test_no_direction_is_asked_of_what_centring_took_away():
    first, second = draw()
    few = first[:5], second[:5]
    assert compare(*few, n_directions=4).one_minus_two.directions.shape[0] == 4
    with pytest.raises(ValueError, match="from 1 to 4: residuals of 5 test"):
        compare(*few, n_directions=5)
