import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from mdhelpers import lasso

TOL = 1e-9


def draw(n_models, n_train, n_targets, seed=0):
    """Masks of exactly half the examples, and targets that depend on a few of them."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, n_train)).argsort(1) < n_train // 2
    weights = rng.normal(size=(n_train, n_targets)) * (rng.random((n_train, n_targets)) < 0.1)
    return masks.astype(float), masks @ weights + rng.normal(size=(n_models, n_targets))


def problem_of(x, y, dtype=torch.float64):
    return lasso.make_problem(torch.from_numpy(x), torch.from_numpy(y), dtype=dtype)


def standardised(columns):
    return (columns - columns.mean(0)) / columns.std(0)


def objective(x, y, weights, lam):
    return np.square(y - x @ weights).sum() / (2 * len(x)) + lam * np.abs(weights).sum()


@pytest.mark.parametrize(("n_models", "n_train"), [(120, 40), (60, 80), (40, 120)])
def test_agrees_with_scikit_learn(n_models, n_train):
    x, y = draw(n_models, n_train, 6)
    problem = problem_of(x, y)
    x, y = standardised(x), standardised(y)
    for fraction in (0.5, 0.1, 0.03):
        lam = problem.lam_max * fraction
        weights, gaps = lasso.solve_lasso(problem, lam, tol=TOL, max_iter=50_000)
        assert gaps.max() <= TOL
        for target, penalty in enumerate(lam.tolist()):
            peer = Lasso(alpha=penalty, fit_intercept=False, tol=1e-12, max_iter=100_000)
            peer.fit(x, y[:, target])
            ours, theirs = weights[target].numpy(), peer.coef_
            expected = objective(x, y[:, target], theirs, penalty)
            assert objective(x, y[:, target], ours, penalty) == pytest.approx(expected, rel=1e-6)
            np.testing.assert_allclose(x @ ours, x @ theirs, atol=5e-4)


def test_gap_bounds_the_distance_to_the_optimum():
    x, y = draw(100, 60, 5)
    problem = problem_of(x, y)
    lam = problem.lam_max * 0.05
    exact, _ = lasso.solve_lasso(problem, lam, tol=1e-12, max_iter=50_000)
    rough, gaps = lasso.solve_lasso(problem, lam, tol=1e-3)
    x, y = standardised(x), standardised(y)
    for target in range(5):
        values = [
            objective(x, y[:, target], w[target].numpy(), lam[target]) for w in (rough, exact)
        ]
        assert -1e-9 <= values[0] - values[1] <= gaps[target] <= 1e-3


def test_products_through_the_design_are_those_of_the_gram():
    x, y = draw(30, 80, 4)
    problem = problem_of(x, y)
    assert problem.gram is None
    weights = torch.randn(4, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gram = standardised(x).T @ standardised(x) / len(x)
    np.testing.assert_allclose(problem.product(weights), weights.numpy() @ gram, atol=1e-10)


def test_at_lam_max_every_weight_is_zero_and_just_below_one_is_not():
    problem = problem_of(*draw(100, 40, 8))
    at, _ = lasso.solve_lasso(problem, problem.lam_max, tol=TOL)
    below, _ = lasso.solve_lasso(problem, problem.lam_max * 0.99, tol=TOL)
    assert not at.any()
    assert below.any(1).all()


def test_constant_columns_and_constant_targets_get_no_weight():
    x, y = draw(80, 30, 3)
    x[:, 4], y[:, 1] = 1.0, 2.5
    problem = problem_of(x, y)
    weights, gaps = lasso.solve_lasso(problem, problem.lam_max * 0.1, tol=TOL)
    raw, bias = lasso.raw_weights(problem, weights)
    assert not weights[:, 4].any()
    assert not weights[1].any()
    assert bias[1] == pytest.approx(2.5)
    assert torch.isfinite(raw).all()
    assert gaps.max() <= TOL


def test_duplicate_columns_share_what_one_would_have():
    x, y = draw(100, 20, 3)
    twice = np.concatenate([x, x[:, :1]], axis=1)
    fits = []
    for design in (x, twice):
        problem = problem_of(design, y)
        lam = problem.lam_max * 0.05
        fits.append(lasso.solve_lasso(problem, lam, tol=1e-11, max_iter=50_000)[0])
    np.testing.assert_allclose(fits[1][:, 0] + fits[1][:, 20], fits[0][:, 0], atol=1e-4)
    np.testing.assert_allclose(fits[1][:, 1:20], fits[0][:, 1:], atol=1e-4)


def test_orthogonal_design_has_the_closed_form():
    # A Hadamard design: each standardised column is uncorrelated with the others.
    signs = np.array([[1.0]])
    for _ in range(4):
        signs = np.block([[signs, signs], [signs, -signs]])
    x = (signs[:, 1:6] + 1) / 2
    y = x @ np.array([[3.0], [-2.0], [0.4], [0.0], [1.0]]) + 7.0
    problem = problem_of(x, y)
    lam = problem.lam_max * 0.3
    raw, bias = lasso.raw_weights(problem, lasso.solve_lasso(problem, lam, tol=1e-12)[0])
    # In margin units a coefficient of half-standardised columns shrinks by lam, twice in raw ones.
    shrink = 2 * lam[0].item() * y.std()
    expected = np.array([3 - shrink, -(2 - shrink), 0.0, 0.0, max(1 - shrink, 0)])
    np.testing.assert_allclose(raw[0], expected, atol=1e-5)
    assert bias[0] == pytest.approx(y.mean() - 0.5 * expected.sum(), abs=1e-5)


def test_path_takes_the_penalty_with_the_best_validation_error():
    x, y = draw(200, 50, 10)
    problem = problem_of(x[:150], y[:150])
    valid = torch.from_numpy(x[150:]), torch.from_numpy(y[150:])
    path = lasso.lasso_path(problem, *valid, n_lams=20, patience=20, tol=1e-8)
    assert torch.isfinite(path.errors).all()
    assert torch.equal(path.errors.argmin(0), path.index)
    grid = problem.lam_max * 0.01 ** (path.index / 19)
    np.testing.assert_allclose(path.lam, grid, rtol=1e-6)
    direct, _ = lasso.solve_lasso(problem, path.lam, tol=1e-8)
    np.testing.assert_allclose(path.weights, direct, atol=1e-3)


def test_path_stops_a_target_without_progress_at_the_same_best():
    x, y = draw(100, 60, 12)
    problem = problem_of(x[:80], y[:80])
    valid = torch.from_numpy(x[80:]), torch.from_numpy(y[80:])
    full = lasso.lasso_path(problem, *valid, patience=50)
    stopped = lasso.lasso_path(problem, *valid, patience=8)
    assert torch.isnan(stopped.errors).any()
    assert (stopped.index == full.index).float().mean() > 0.8


def test_single_precision_reaches_its_tolerance():
    x, y = draw(150, 60, 20)
    single, double = problem_of(x, y, torch.float32), problem_of(x, y)
    weights, gaps = lasso.solve_lasso(single, single.lam_max * 0.05, tol=1e-5)
    exact, _ = lasso.solve_lasso(double, double.lam_max * 0.05, tol=1e-10)
    assert gaps.max() <= 1e-5
    np.testing.assert_allclose(weights, exact, atol=0.01)


def test_refuses_a_penalty_of_zero():
    problem = problem_of(*draw(40, 10, 2))
    with pytest.raises(ValueError, match="lam must be positive"):
        lasso.solve_lasso(problem, torch.tensor([0.1, 0.0], dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu():
    x, y = draw(200, 100, 30)
    here = problem_of(x, y)
    there = lasso.make_problem(torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda())
    expected, _ = lasso.solve_lasso(here, here.lam_max * 0.1)
    weights, _ = lasso.solve_lasso(there, there.lam_max * 0.1)
    np.testing.assert_allclose(weights.cpu(), expected, atol=0.01)
