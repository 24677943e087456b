"""fast_l1 itself needs a CUDA device; modules in its place show that it is called rightly."""

import sys
import time
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretend_device import CARD, Card
from sklearn.linear_model import Lasso

from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.engines import fast_l1
from mdhelpers.method.engines.estimators import FitOptions
from mdhelpers.method.engines.lasso import solve_lasso
from mdhelpers.method.engines.moments import Moments

FRACTION = 0.2  # of its first penalty, which the one in its place chooses


class Regressor(SimpleNamespace):
    """Solves the last penalty by scikit-learn, on the batches that it is given."""

    def train_saga(self, weights, bias, batches, held_out, *, start_lams, num_lambdas, **rules):
        self.calls.append(rules | {"num_lambdas": num_lambdas, "held_out": held_out is not None})
        lams = start_lams * (FRACTION if held_out is not None else 1)
        x, y, index = (torch.cat(parts).double() for parts in zip(*batches, strict=True))
        self.seen.append((x, y, index))
        for target, lam in enumerate(lams.tolist()):
            lasso = Lasso(lam, fit_intercept=False, tol=1e-8, max_iter=10_000)
            solved = lasso.fit(x.numpy(), y[:, target].numpy()).coef_
            weights[:, target] = torch.from_numpy(solved)
        bias.zero_()
        return lams


@pytest.fixture
def regressor(monkeypatch):
    made = Regressor(calls=[], seen=[], Thread=Thread)
    monkeypatch.setattr(fast_l1, "_regressor", lambda _: made)
    return made


@pytest.mark.parametrize("slots", [None, np.arange(200) % 4])
def test_its_weights_are_those_of_the_lasso_at_the_penalty_that_it_chose(regressor, slots):
    rng = np.random.default_rng(0)
    masks = rng.random((200, 30)).argsort(1) < 15
    margins = masks @ rng.normal(size=(30, 5)) + rng.normal(size=(200, 5))
    if slots is not None:
        margins += 3 * slots[:, None]
    options = FitOptions(n_lams=7, lam_min_ratio=0.05, validation_share=0.05)
    found = fit_datamodels(masks, margins, method="fast_l1", slots=slots, options=options)

    groups = np.zeros(200, int) if slots is None else slots
    x, y = masks.astype(float), margins.copy()
    for values in (x, y):
        for slot in np.unique(groups):
            values[groups == slot] -= values[groups == slot].mean(0)
    for test in range(5):
        lasso = Lasso(found.lam[test], fit_intercept=False, tol=1e-8, max_iter=10_000)
        expected = lasso.fit(x / x.std(0), y[:, test]).coef_ / x.std(0)
        np.testing.assert_allclose(found.weights[test], expected, atol=1e-5)
    assert found.method == "fast_l1"

    path, refit = regressor.calls
    assert path["held_out"]
    assert not refit["held_out"]
    assert path["lam_decay"] ** path["num_lambdas"] == pytest.approx(0.05)
    assert (refit["lam_decay"], refit["num_lambdas"]) == (1, 1)
    masks_seen, margins_seen, models = regressor.seen[0]
    assert len(set(models.tolist())) == len(models) == 190  # all that fit, each once
    assert masks_seen.std(0, correction=0).numpy() == pytest.approx(np.ones(30), abs=0.05)
    assert margins_seen.std(0, correction=0).numpy() == pytest.approx(np.ones(5), abs=0.1)


class Saga(SimpleNamespace):
    """Stochastic average gradients as fast_l1 takes them: residuals of each model in a table on the
    host, written by a thread while the card goes on, and read and sorted by indices on the card.
    """

    def train_saga(
        self, weights, bias, batches, held_out, *, start_lams, lam_decay, num_lambdas, **to
    ):
        n = sum(len(rows) for *_, rows in batches)
        last = max(int(rows.max().cpu()) + len(rows) for *_, rows in batches)  # some may sit out
        table = torch.zeros(last, weights.shape[1])
        bias.zero_()
        mean = torch.zeros_like(weights)
        best, least = start_lams.clone(), torch.full_like(start_lams, torch.inf)
        lams = [start_lams * lam_decay**k for k in range(num_lambdas)]
        for lam in lams:
            for _ in range(to["most"]):
                before = weights.clone()
                for x, y, rows in batches:
                    self._step(weights, x, y, rows, table, mean, lam, n, to["lr"])
                if float((weights - before).square().amax()) < to["early_stop_eps"]:
                    break
            if held_out is not None:
                parts = [(x @ weights - y).square().sum(0) for x, y, _ in held_out]
                better = sum(parts) < least
                best, least = torch.where(better, lam, best), torch.minimum(sum(parts), least)
        everyone = torch.arange(weights.shape[1])
        assert len(everyone[best > 0]) == weights.shape[1]  # on the host, by a mask on the card
        return best

    def _step(self, weights, x, y, rows, table, mean, lam, n, lr) -> None:
        old, residuals = table[rows].to(x.device), x @ weights - y
        gradient = x.T @ (residuals - old) / len(rows)
        weights -= lr * (gradient + mean)
        mean += len(rows) / n * gradient
        weights -= weights.clamp(-lr * lam, lr * lam)

        def write(rows, values) -> None:
            time.sleep(self.pause)
            table.index_copy_(0, rows, values)

        if self.writing:
            self.writing.pop().join()
        self.writing.append(self.Thread(target=write, args=(rows.cpu(), residuals.cpu())))
        self.writing[-1].start()


@pytest.mark.parametrize("slots", [None, np.arange(120) % 4])
def test_on_the_card_its_solution_is_the_lassos(monkeypatch, slots):
    """By our own solver at the penalties that it chose; a slow thread spoils none of it."""
    made = Saga(Thread=Thread, writing=[], pause=2e-4)
    solve = made.train_saga
    monkeypatch.setattr(made, "train_saga", lambda *a, **k: solve(*a, most=100, **k), raising=False)
    monkeypatch.setattr(fast_l1, "_regressor", lambda _: made)
    rng = np.random.default_rng(3)
    masks = rng.random((120, 12)).argsort(1) < 6
    margins = (masks @ rng.normal(size=(12, 3)) + 0.5 * rng.normal(size=(120, 3))).astype(
        np.float32
    )
    given = {"slots": slots, "options": FitOptions(n_lams=2, lam_min_ratio=0.1)}
    with Card() as card:
        found = fit_datamodels(masks, margins, method="fast_l1", device=CARD, **given)
    assert card.on_card
    assert not card.on_host
    problem = Moments(masks, slots).problem(margins, form="gram")
    lam = torch.from_numpy(found.lam) / problem.y_scale
    solved = solve_lasso(problem, lam, tol=1e-7)[0]
    expected = (solved * problem.y_scale[:, None] / problem.x_scale).numpy()
    np.testing.assert_allclose(found.weights, expected, atol=0.01 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.3
    with pytest.raises(RuntimeError, match="two devices"), Card():
        torch.arange(3)[torch.ones(3, dtype=torch.bool, device=CARD)]  # what is mended


def test_a_pass_over_the_batches_ends_when_the_last_residuals_are_written():
    written, threads = [], fast_l1._Waiting()
    batches = fast_l1._Batches(torch.ones(4, 2), torch.ones(4, 1), 2, seed=0)
    batches.after = threads.join

    def write(number: int) -> None:
        time.sleep(0.02)
        written.append(number)

    for number, _ in enumerate(batches):
        threads(target=write, args=(number,)).start()
    assert 1 in written


@pytest.mark.gpu
def test_fast_l1_itself_gives_the_lassos_solution():
    pytest.importorskip("fast_l1.regressor")
    rng = np.random.default_rng(0)
    masks = rng.random((400, 60)).argsort(1) < 30
    margins = (masks @ rng.normal(size=(60, 4)) + rng.normal(size=(400, 4))).astype(np.float32)
    given = {"options": FitOptions(n_lams=12), "device": "cuda"}
    found = fit_datamodels(masks, margins, method="fast_l1", **given)
    problem = Moments(masks).problem(margins, form="gram")
    lam = (torch.from_numpy(found.lam) / problem.y_scale).clamp_min(1e-6)
    solved = solve_lasso(problem, lam, tol=1e-7)[0]
    expected = (solved * problem.y_scale[:, None] / problem.x_scale).numpy()
    np.testing.assert_allclose(found.weights, expected, atol=0.02 * np.abs(expected).max())


def test_what_stops_in_its_own_code_is_said(monkeypatch):
    def stops(*_, **__):
        raise RuntimeError("tensors of two devices")

    monkeypatch.setattr(
        fast_l1, "_regressor", lambda _: SimpleNamespace(train_saga=stops, Thread=Thread)
    )
    masks = np.random.default_rng(0).random((40, 6)) < 0.5
    with pytest.raises(ValueError, match="fast_l1 stopped in its own code"):
        fit_datamodels(masks, masks @ np.ones((6, 2)), method="fast_l1")


@pytest.mark.parametrize(
    ("device", "message"), [("cpu", "runs on CUDA only"), ("cuda", "pip install")]
)
def test_where_it_cannot_be_had_the_message_says_how(monkeypatch, device, message):
    monkeypatch.setitem(sys.modules, "fast_l1.regressor", None)
    with pytest.raises(ValueError, match=message):
        fast_l1.check_fast_l1(device)
