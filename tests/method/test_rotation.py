"""Rotations: the plane stays, what few examples share becomes a direction of its own."""

import numpy as np
import pytest
from sklearn.decomposition import FactorAnalysis

from mdhelpers.formats.own import load_comparison, save_comparison
from mdhelpers.method.comparison import compare, explained_variance, normalise_rows
from mdhelpers.method.crossfit import cross_fitted_gaps, residual_directions, turned
from mdhelpers.method.rotation import rotation_of, varimax


def mixed(rng, n_test=300, n_train=40, k=6, share=0.08):
    """Residuals of `k` groups of test examples, each with a training direction of its own."""
    directions = np.linalg.qr(rng.normal(size=(n_train, k)))[0].T
    groups = rng.random((n_test, k)) < share
    strengths = groups * rng.uniform(0.8, 1.2, size=(n_test, k))
    return strengths @ directions + 0.05 * rng.normal(size=(n_test, n_train)), directions


def test_it_finds_the_groups_that_principal_components_mix():
    residuals, directions = mixed(np.random.default_rng(0))
    components = np.linalg.svd(residuals - residuals.mean(0), full_matrices=False)[2][:6]
    turn = rotation_of(residuals @ components.T, "varimax")
    alike = [np.abs(d @ directions.T).max(1) for d in (components, turn.T @ components)]
    assert alike[0].min() < 0.8
    assert alike[1].min() > 0.97


def test_it_is_a_rotation_and_orders_by_variance():
    projections = np.random.default_rng(1).normal(size=(200, 5)) ** 3
    turn = rotation_of(projections, "varimax")
    np.testing.assert_allclose(turn.T @ turn, np.eye(5), atol=1e-10)
    sizes = np.square(projections @ turn).sum(0)
    assert (np.diff(sizes) <= 0).all()
    assert sizes.sum() == pytest.approx(np.square(projections).sum())
    np.testing.assert_array_equal(rotation_of(projections, "none"), np.eye(5))
    with pytest.raises(ValueError, match="expected one of"):
        rotation_of(projections, "quartimax")


def criterion(loadings):
    squares = np.square(loadings)
    return (np.square(squares).mean(0) - squares.mean(0) ** 2).sum()


def test_no_small_turn_is_better_and_scikit_learn_agrees():
    rng = np.random.default_rng(2)
    projections = mixed(rng)[0][:, :4]
    best = criterion(projections @ varimax(projections))
    for _ in range(50):
        skew = 0.05 * rng.normal(size=(4, 4))
        turn = np.linalg.qr(np.eye(4) + skew - skew.T)[0]
        assert criterion(projections @ varimax(projections) @ turn) <= best + 1e-9
    analysis = FactorAnalysis(4, rotation="varimax").fit(rng.normal(size=(60, 30)))
    loadings = analysis.components_.T  # turned by scikit-learn
    assert criterion(loadings @ varimax(loadings)) == pytest.approx(criterion(loadings), rel=1e-5)


def worlds(seed=0, n_test=200, n_train=30):
    """Datamodels of two algorithms that differ in four groups of test examples."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(n_test, n_train))
    own, _ = mixed(rng, n_test, n_train, k=4, share=0.1)
    return common + 6 * own, common


def test_the_plane_and_the_sum_of_gaps_stay():
    one, two = worlds()
    plain, varied = compare(one, two), compare(one, two, rotation="varimax")
    assert (plain.rotation, varied.rotation) == ("none", "varimax")
    for a, b in zip(plain, varied, strict=True):
        np.testing.assert_allclose(
            a.directions.T @ a.directions, b.directions.T @ b.directions, atol=1e-5
        )
        assert a.naive_gap.sum() == pytest.approx(b.naive_gap.sum(), abs=1e-6)
        assert (np.diff(np.square(b.projections).sum(0)) < 1e-5).all()
        found = [explained_variance(normalise_rows(d), b.directions) for d in (one, two)]
        np.testing.assert_allclose(b.explained_variance, np.transpose(found), atol=1e-6)
    assert not np.allclose(plain.one_minus_two.directions, varied.one_minus_two.directions)


def test_halves_are_turned_alike_and_beyond_those_compared_nothing_is():
    rows = [normalise_rows(d) for d in worlds()]
    directions, patterns = residual_directions("1_minus_2", rows, 8)
    found, along = turned(directions, patterns, 4, "varimax")
    np.testing.assert_array_equal(found[4:], directions[4:])
    np.testing.assert_allclose(found @ directions.T @ patterns, along, atol=1e-9)
    own = compare(*worlds(), n_directions=4, rotation="varimax").one_minus_two
    alike = np.abs(own.directions @ found[:4].T)
    np.testing.assert_allclose(alike.max(1), 1, atol=1e-4)


def test_cross_fitted_gaps_take_the_comparisons_rotation():
    rng, (one, two) = np.random.default_rng(3), worlds()
    noise = rng.normal(size=(2, 64, *one.shape))

    def fit(which, truth):
        return lambda models: truth + noise[which, models].mean(0)

    fits, everyone = (fit(0, one), fit(1, two)), np.arange(64)
    found = {}
    for rotation in ("none", "varimax"):
        comparison = compare(*(f(everyone) for f in fits), n_directions=4, rotation=rotation)
        found[rotation] = cross_fitted_gaps(
            *fits, 64, comparison=comparison, n_directions=4, n_splits=2
        )
    plain, varied = found["none"], found["varimax"]
    np.testing.assert_allclose(plain.totals["gap"], varied.totals["gap"], rtol=1e-6)
    one_side = varied.directions[varied.directions["comparison"] == "1_minus_2"]
    assert one_side["replication"].min() > 0.95


def test_a_file_says_how_directions_were_turned(tmp_path):
    for rotation in ("none", "varimax"):
        save_comparison(compare(*worlds(), rotation=rotation), tmp_path / "c.safetensors")
        assert load_comparison(tmp_path / "c.safetensors").rotation == rotation
