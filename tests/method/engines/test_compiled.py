import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from lasso_problems import make_problem, raw_weights

from mdhelpers.method.engines import lasso
from mdhelpers.method.engines import problem as problem_module

pytest.importorskip("numba")
COMPILED, SLOW = lasso.Engine("working_set"), lasso.Engine("proximal")


def draw(n_models, n_train, n_targets, share=0.1, noise=1.0, seed=0):
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, n_train)).argsort(1) < n_train // 2
    chosen = rng.random((n_train, n_targets)) < share
    signal = masks @ (rng.normal(size=(n_train, n_targets)) * chosen)
    margins = signal / signal.std(0) + noise * rng.normal(size=(n_models, n_targets))
    return torch.from_numpy(masks), torch.from_numpy(margins)


def split(masks, margins, n_fit):
    problem = make_problem(masks[:n_fit], margins[:n_fit])
    return problem, problem_module.Validation(masks[n_fit:], margins[n_fit:])


@pytest.mark.parametrize("n_train", [1100, 300])
def test_dense_solutions_outgrow_the_working_set(n_train):
    # Wide designs switch to the Gram matrix itself when half the columns are in the set.
    masks, margins = draw(1500, n_train, 3, share=1.0, noise=0.1)
    problem = make_problem(masks, margins)
    lam = problem.lam_max * 0.01
    ours, gaps = lasso.solve_lasso(problem, lam, tol=1e-6, engine=COMPILED)
    slow, _ = lasso.solve_lasso(problem, lam, tol=1e-6, engine=SLOW)
    assert gaps.max() <= 1e-6
    assert ((ours != 0).sum(1) > n_train / 2).all()
    np.testing.assert_allclose(ours, slow, atol=1e-3)


def test_targets_after_a_dense_one_are_not_disturbed():
    masks, margins = draw(1500, 1100, 2, share=1.0, noise=0.1)
    sparse = draw(1500, 1100, 2, share=0.01)[1]
    problem = make_problem(masks, torch.cat([margins, sparse], 1))
    alone = make_problem(masks, sparse)
    lam = problem.lam_max * torch.tensor([0.01, 0.01, 0.3, 0.3])
    together, _ = lasso.solve_lasso(problem, lam, engine=COMPILED)
    apart, _ = lasso.solve_lasso(alone, lam[2:], engine=COMPILED)
    assert ((together[:2] != 0).sum(1) > 550).all()
    np.testing.assert_array_equal(together[2:], apart)


def test_path_is_that_of_the_proximal_engine():
    problem, validation = split(*draw(400, 150, 40), 300)
    ours, slow = (
        lasso.lasso_path(
            problem, validation, grid=problem_module.Grid(n_lams=30), tol=1e-6, engine=engine
        )
        for engine in (COMPILED, SLOW)
    )
    assert (ours.index == slow.index).float().mean() > 0.9
    both = torch.isfinite(ours.errors) & torch.isfinite(slow.errors)
    assert both.float().mean() > 0.3
    np.testing.assert_allclose(ours.errors[both], slow.errors[both], atol=2e-3)
    assert torch.nan_to_num(ours.gaps).max() <= 1e-6


def test_every_solution_on_the_path_is_verified():
    # Strides look ahead; a column they miss must be caught by the full gradient.
    problem, validation = split(*draw(250, 400, 10, share=0.3, noise=0.3), 200)
    path = lasso.lasso_path(
        problem,
        validation,
        grid=problem_module.Grid(n_lams=12, patience=12),
        tol=1e-6,
        engine=COMPILED,
    )
    for k in range(12):
        lam = problem_module.Grid(n_lams=12).lams(problem)[:, k]
        exact, _ = lasso.solve_lasso(problem, lam, tol=1e-7, engine=SLOW)
        raw, bias = raw_weights(problem, exact)
        margins = validation.x.float() @ raw.T + bias
        error = (validation.y - margins).square().mean(0) / problem.y_scale**2
        np.testing.assert_allclose(path.errors[k], error, rtol=5e-3)


def test_masks_in_bytes_and_floats_within_slots_give_the_same_errors():
    masks, margins = draw(300, 60, 5)
    slots = torch.arange(300) % 3
    fitting = torch.arange(300) < 240
    means = [
        torch.stack([v[fitting & (slots == s)].double().mean(0) for s in range(3)])
        for v in (masks, margins)
    ]
    centred = [v.double() - mean[slots] for v, mean in zip((masks, margins), means, strict=True)]
    problem = make_problem(*(v[fitting] for v in centred))
    plain = problem_module.Validation(*(v[~fitting] for v in centred))
    sizes = torch.full((3,), 80.0)
    x_mean, y_mean = (mean.float() for mean in means)
    within = problem_module.LassoProblem(
        **{**vars(problem), "x_mean": x_mean, "y_mean": y_mean, "sizes": sizes}
    )
    slotted = problem_module.Validation(masks[~fitting], margins[~fitting], slots[~fitting])
    first, second = (
        lasso.lasso_path(p, v, engine=COMPILED) for p, v in ((problem, plain), (within, slotted))
    )
    torch.testing.assert_close(first.errors, second.errors, equal_nan=True, rtol=1e-4, atol=1e-5)


def test_threads_change_nothing():
    problem, validation = split(*draw(300, 80, 23), 240)
    one, three = (
        lasso.lasso_path(problem, validation, engine=lasso.Engine("working_set", threads=threads))
        for threads in (1, 3)
    )
    for name in ("lam", "weights", "index"):
        assert torch.equal(getattr(one, name), getattr(three, name))


def test_order_of_targets_changes_nothing():
    masks, margins = draw(300, 80, 12)
    order = torch.from_numpy(np.random.default_rng(1).permutation(12))
    first = lasso.lasso_path(*split(masks, margins, 240), engine=COMPILED)
    second = lasso.lasso_path(*split(masks, margins[:, order], 240), engine=COMPILED)
    np.testing.assert_allclose(second.weights, first.weights[order], atol=1e-5)
    assert torch.equal(second.index, first.index[order])


def test_gives_back_what_it_has_when_sweeps_run_out():
    problem, _ = split(*draw(200, 300, 4, share=1.0, noise=0.01), 180)
    lam = problem.lam_max * 1e-4
    rough, gaps = lasso.solve_lasso(problem, lam, tol=1e-6, engine=lasso.Engine(max_iter=3))
    assert gaps.max() > 1e-6
    assert torch.isfinite(rough).all()


FIT = """
import hashlib, numpy as np
from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.engines.estimators import FitOptions
rng = np.random.default_rng(0)
masks = rng.random((32, 60)) < 0.5
weights = rng.normal(size=(90, 60)) * (rng.random((90, 60)) < 0.1)
margins = (masks @ weights.T + rng.normal(size=(32, 90))).astype("f4")
options = FitOptions(n_lams=8)
fit = fit_datamodels(masks, margins, method="lasso", options=options, slots=np.arange(32) % 2)
print(hashlib.sha256(fit.weights.tobytes() + fit.lam.tobytes()).hexdigest())
"""


@pytest.mark.slow
def test_code_just_compiled_gives_the_same_bits_as_that_of_the_cache(tmp_path):
    """It did not, and datamodels of a run that was killed and resumed differed at random."""
    command, found = [sys.executable, "-c", FIT], []
    for _ in range(2):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        found.append(subprocess.run(command, env=environment, capture_output=True, check=True))
    assert list(tmp_path.rglob("*.nbc"))  # there is a cache by now
    assert found[0].stdout == found[1].stdout
