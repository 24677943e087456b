import numpy as np
import pytest
import torch
from lasso_problems import make_problem, raw_weights
from sklearn.linear_model import Lasso, lasso_path

from mdhelpers.method.engines import lasso
from mdhelpers.method.engines import problem as problem_module

TOL = 1e-9
ENGINES = [
    lasso.Engine("working_set", max_iter=50_000),
    lasso.Engine("proximal", max_iter=50_000),
]
each_engine = pytest.mark.parametrize("engine", ENGINES, ids=lambda engine: engine.kind)


def draw(n_models, n_train, n_targets, seed=0):
    """Masks of exactly half the examples, and targets that depend on a few of them."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, n_train)).argsort(1) < n_train // 2
    weights = rng.normal(size=(n_train, n_targets)) * (rng.random((n_train, n_targets)) < 0.1)
    return masks, masks @ weights + rng.normal(size=(n_models, n_targets))


def problem_of(x, y, dtype=torch.float64, **options):
    return make_problem(torch.from_numpy(x), torch.from_numpy(y), dtype=dtype, **options)


def validation_of(x, y):
    return problem_module.Validation(torch.from_numpy(x), torch.from_numpy(y))


def standardised(columns):
    return (columns - columns.mean(0)) / columns.std(0)


def objective(x, y, weights, lam):
    return np.square(y - x @ weights).sum() / (2 * len(x)) + lam * np.abs(weights).sum()


def violation(x, y, weights, lam):
    """Largest distance of the gradient from the subdifferential of the penalty."""
    gradient = x.T @ (y - x @ weights) / len(x)
    at_zero = np.maximum(np.abs(gradient) - lam, 0)
    elsewhere = np.abs(gradient - lam * np.sign(weights))
    return np.where(weights == 0, at_zero, elsewhere).max()


@each_engine
@pytest.mark.parametrize(("n_models", "n_train"), [(120, 40), (60, 80), (40, 120), (700, 300)])
def test_agrees_with_scikit_learn(n_models, n_train, engine):
    x, y = draw(n_models, n_train, 6)
    problem = problem_of(x, y)
    x, y = standardised(x), standardised(y)
    for fraction in (0.5, 0.1, 0.03):
        lam = problem.lam_max * fraction
        weights, gaps = lasso.solve_lasso(problem, lam, tol=TOL, engine=engine)
        assert gaps.max() <= TOL
        for target, penalty in enumerate(lam.tolist()):
            peer = Lasso(alpha=penalty, fit_intercept=False, tol=1e-12, max_iter=100_000)
            peer.fit(x, y[:, target])
            ours, theirs = weights[target].numpy(), peer.coef_
            expected = objective(x, y[:, target], theirs, penalty)
            assert objective(x, y[:, target], ours, penalty) == pytest.approx(expected, rel=1e-6)
            assert violation(x, y[:, target], ours, penalty) <= np.sqrt(2 * TOL)
            np.testing.assert_allclose(x @ ours, x @ theirs, atol=5e-4)


@each_engine
def test_gap_bounds_the_distance_to_the_optimum(engine):
    x, y = draw(100, 60, 5)
    problem = problem_of(x, y)
    lam = problem.lam_max * 0.05
    exact, _ = lasso.solve_lasso(problem, lam, tol=1e-12, engine=engine)
    rough, gaps = lasso.solve_lasso(problem, lam, tol=1e-3, engine=engine)
    x, y = standardised(x), standardised(y)
    for target in range(5):
        values = [
            objective(x, y[:, target], w[target].numpy(), lam[target].item())
            for w in (rough, exact)
        ]
        assert -1e-9 <= values[0] - values[1] <= gaps[target] <= 1e-3


@each_engine
def test_any_start_leads_to_the_same_solution(engine):
    x, y = draw(100, 60, 5)
    problem = problem_of(x, y)
    lam = problem.lam_max * 0.1
    expected, _ = lasso.solve_lasso(problem, lam, tol=1e-11, engine=engine)
    far = torch.randn(5, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for start in (expected, far * (far > 1), far):
        found, _ = lasso.solve_lasso(problem, lam, start=start, tol=1e-11, engine=engine)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_products_through_the_design_are_those_of_the_gram():
    x, y = draw(30, 80, 4)
    problem, with_gram = problem_of(x, y, gram=False), problem_of(x, y)
    assert problem.gram is None
    weights = torch.randn(4, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(problem.product(weights), with_gram.product(weights), atol=1e-10)
    lam = problem.lam_max * 0.1
    found = [lasso.solve_lasso(p, lam, tol=1e-10)[0] for p in (problem, with_gram)]
    np.testing.assert_allclose(*found, atol=1e-3)


@each_engine
def test_at_lam_max_every_weight_is_zero_and_just_below_one_is_not(engine):
    problem = problem_of(*draw(100, 40, 8))
    at, _ = lasso.solve_lasso(problem, problem.lam_max, tol=TOL, engine=engine)
    below, _ = lasso.solve_lasso(problem, problem.lam_max * 0.99, tol=TOL, engine=engine)
    assert not at.any()
    assert below.any(1).all()


@each_engine
def test_constant_columns_and_constant_targets_get_no_weight(engine):
    x, y = draw(80, 30, 3)
    x[:, 4], y[:, 1] = 1.0, 2.5
    problem = problem_of(x, y)
    start = torch.ones_like(problem.cross)
    weights, gaps = lasso.solve_lasso(problem, problem.lam_max * 0.1, start=start, engine=engine)
    raw, bias = raw_weights(problem, weights)
    assert not weights[:, 4].any()
    assert not weights[1].any()
    assert bias[1] == pytest.approx(2.5)
    assert torch.isfinite(raw).all()
    assert gaps.max() <= 1e-5


@each_engine
def test_duplicate_columns_share_what_one_would_have(engine):
    x, y = draw(100, 20, 3)
    twice = np.concatenate([x, x[:, :1]], axis=1)
    fits = []
    for design in (x, twice):
        problem = problem_of(design, y)
        lam = problem.lam_max * 0.05
        fits.append(lasso.solve_lasso(problem, lam, tol=1e-11, engine=engine)[0])
    np.testing.assert_allclose(fits[1][:, 0] + fits[1][:, 20], fits[0][:, 0], atol=1e-4)
    np.testing.assert_allclose(fits[1][:, 1:20], fits[0][:, 1:], atol=1e-4)


@each_engine
def test_order_of_models_columns_and_targets_does_not_matter(engine):
    x, y = draw(150, 40, 7)
    rng = np.random.default_rng(1)
    rows, columns, targets = (rng.permutation(n) for n in (150, 40, 7))
    fits = []
    for design, margins in ((x, y), (x[rows][:, columns], y[rows][:, targets])):
        problem = problem_of(design, margins)
        lam = problem.lam_max * 0.05
        fits.append(lasso.solve_lasso(problem, lam, tol=1e-11, engine=engine)[0].numpy())
    np.testing.assert_allclose(fits[1], fits[0][targets][:, columns], atol=1e-5)


@each_engine
def test_orthogonal_design_has_the_closed_form(engine):
    # A Hadamard design: each standardised column is uncorrelated with the others.
    signs = np.array([[1.0]])
    for _ in range(4):
        signs = np.block([[signs, signs], [signs, -signs]])
    x = (signs[:, 1:6] + 1) / 2
    y = x @ np.array([[3.0], [-2.0], [0.4], [0.0], [1.0]]) + 7.0
    problem = problem_of(x, y)
    lam = problem.lam_max * 0.3
    weights, _ = lasso.solve_lasso(problem, lam, tol=1e-12, engine=engine)
    raw, bias = raw_weights(problem, weights)
    # In margin units a coefficient of half-standardised columns shrinks by lam, twice in raw ones.
    shrink = 2 * lam[0].item() * y.std()
    expected = np.array([3 - shrink, -(2 - shrink), 0.0, 0.0, max(1 - shrink, 0)])
    np.testing.assert_allclose(raw[0], expected, atol=1e-5)
    assert bias[0] == pytest.approx(y.mean() - 0.5 * expected.sum(), abs=1e-5)


@each_engine
def test_path_takes_the_penalty_with_the_best_validation_error(engine):
    x, y = draw(200, 50, 10)
    problem, grid = problem_of(x[:150], y[:150]), problem_module.Grid(n_lams=20, patience=20)
    valid = validation_of(x[150:], y[150:])
    path = lasso.lasso_path(problem, valid, grid=grid, tol=1e-8, engine=engine)
    assert torch.isfinite(path.errors).all()
    assert path.gaps.max() <= 1e-8
    assert torch.equal(path.errors.argmin(0), path.index)
    expected = problem.lam_max * 0.01 ** (path.index / 19)
    np.testing.assert_allclose(path.lam, expected, rtol=1e-6)
    direct, _ = lasso.solve_lasso(problem, path.lam, tol=1e-8)
    np.testing.assert_allclose(path.weights, direct, atol=1e-3)
    raw, bias = raw_weights(problem, path.weights)
    error = np.square(y[150:] - x[150:] @ raw.numpy().T - bias.numpy()).mean(0)
    np.testing.assert_allclose(path.errors.amin(0) * problem.y_scale**2, error, rtol=1e-6)


@pytest.mark.parametrize(("n_models", "n_train"), [(300, 60), (120, 200)])
def test_chooses_the_penalties_that_scikit_learn_chooses(n_models, n_train):
    x, y = draw(n_models, n_train, 100, seed=2)
    n_fit = int(0.9 * n_models)
    problem, grid = problem_of(x[:n_fit], y[:n_fit]), problem_module.Grid(patience=50)
    valid = validation_of(x[n_fit:], y[n_fit:])
    path = lasso.lasso_path(problem, valid, grid=grid, tol=1e-8)
    design, targets = standardised(x[:n_fit]), standardised(y[:n_fit])
    x_valid = (x[n_fit:] - x[:n_fit].mean(0)) / x[:n_fit].std(0)
    y_valid = (y[n_fit:] - y[:n_fit].mean(0)) / y[:n_fit].std(0)
    gram, same = design.T @ design, []
    for target, lams in enumerate(grid.lams(problem).numpy()):
        _, weights, _ = lasso_path(
            design, targets[:, target], alphas=lams, precompute=gram, tol=1e-9, max_iter=100_000
        )
        errors = np.square(y_valid[:, target, None] - x_valid @ weights).mean(0)
        same.append(errors.argmin() == path.index[target])
    assert np.mean(same) >= 0.99


@each_engine
def test_path_stops_a_target_without_progress_at_the_same_best(engine):
    x, y = draw(100, 60, 12)
    problem, valid = problem_of(x[:80], y[:80]), validation_of(x[80:], y[80:])
    full = lasso.lasso_path(problem, valid, grid=problem_module.Grid(patience=50), engine=engine)
    stopped = lasso.lasso_path(problem, valid, grid=problem_module.Grid(patience=8), engine=engine)
    steps = torch.isfinite(stopped.errors).sum(0)
    assert (steps < 50).any()
    left = steps < 50
    assert torch.equal((steps - 1 - stopped.index)[left], torch.full_like(steps, 8)[left])
    assert (stopped.index == full.index).float().mean() > 0.8


@each_engine
def test_path_goes_below_its_grid_only_where_the_best_is_at_its_end(engine):
    x, y = draw(200, 30, 8)
    y[:, :4] = x @ np.random.default_rng(3).normal(size=(30, 4))  # no noise: the less the better
    problem, valid = problem_of(x[:150], y[:150]), validation_of(x[150:], y[150:])
    grid = problem_module.Grid(n_lams=10, lam_min_ratio=0.1, floor=0.02, patience=10)
    path = lasso.lasso_path(problem, valid, grid=grid, engine=engine)
    ratios = grid.ratios()
    assert len(ratios) == len(path.errors) == 16
    np.testing.assert_allclose(ratios[9], 0.1)
    assert 0.02 <= ratios[-1] < 0.02 / 0.77
    assert path.at_edge[:4].all()
    assert not path.at_edge.all()
    best_at_end = path.errors[:10].argmin(0) == 9
    assert torch.equal(torch.isfinite(path.errors[10]), best_at_end)


@each_engine
def test_path_reaches_as_far_as_it_is_told(engine):
    x, y = draw(100, 60, 6)
    problem, valid = problem_of(x[:80], y[:80]), validation_of(x[80:], y[80:])
    reach = torch.tensor([0, 10, 20, 30, 40, 49])
    top = 1.2 * problem.lam_max
    grid = problem_module.Grid(patience=1, top=top, reach=reach)
    path = lasso.lasso_path(problem, valid, grid=grid, engine=engine)
    last = torch.isfinite(path.errors).sum(0) - 1
    assert (last >= reach).all()
    assert last[0] < 49
    np.testing.assert_allclose(path.lam, top * grid.ratios()[path.index])
    lam = top * grid.ratios()[1]
    direct, _ = lasso.solve_lasso(problem, lam, tol=1e-8, engine=engine)
    raw, bias = raw_weights(problem, direct)
    expected = np.square(y[80:] - x[80:] @ raw.numpy().T - bias.numpy()).mean(0)
    np.testing.assert_allclose(path.errors[1] * problem.y_scale**2, expected, rtol=1e-2)


@each_engine
def test_single_precision_reaches_its_tolerance(engine):
    x, y = draw(150, 60, 20)
    single, double = problem_of(x, y, torch.float32), problem_of(x, y)
    weights, gaps = lasso.solve_lasso(single, single.lam_max * 0.05, tol=1e-6, engine=engine)
    exact, _ = lasso.solve_lasso(double, double.lam_max * 0.05, tol=1e-10, engine=engine)
    assert gaps.max() <= 1e-6
    np.testing.assert_allclose(weights, exact, atol=0.005)


def test_refuses_a_penalty_of_zero():
    problem = problem_of(*draw(40, 10, 2))
    with pytest.raises(ValueError, match="lam must be positive"):
        lasso.solve_lasso(problem, torch.tensor([0.1, 0.0], dtype=torch.float64))


def test_refuses_an_engine_that_cannot_be_had(monkeypatch):
    problem = problem_of(*draw(40, 10, 2))
    with pytest.raises(ValueError, match="engine 'quick' is unknown"):
        lasso.solve_lasso(problem, problem.lam_max, engine=lasso.Engine("quick"))
    without = problem_of(*draw(40, 10, 2), gram=False)
    with pytest.raises(ValueError, match="got numba and no Gram matrix"):
        lasso.solve_lasso(without, problem.lam_max, engine=lasso.Engine("working_set"))
    monkeypatch.setattr(lasso, "can_compile", lambda: False)
    with pytest.raises(ValueError, match="got no numba"):
        lasso.solve_lasso(problem, problem.lam_max, engine=lasso.Engine("working_set"))
    assert not lasso.Engine().compiled(problem)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_agrees_with_cpu():
    x, y = draw(200, 100, 30)
    here = problem_of(x, y)
    there = make_problem(torch.from_numpy(x).cuda(), torch.from_numpy(y).cuda())
    expected, _ = lasso.solve_lasso(here, here.lam_max * 0.1)
    weights, _ = lasso.solve_lasso(there, there.lam_max * 0.1)
    np.testing.assert_allclose(weights.cpu(), expected, atol=0.01)
