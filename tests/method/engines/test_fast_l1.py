"""fast_l1 itself needs a CUDA device; a module in its place shows that it is called rightly."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.engines import fast_l1
from mdhelpers.method.engines.estimators import FitOptions

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
    made = Regressor(calls=[], seen=[])
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


def test_what_stops_in_its_own_code_is_said(monkeypatch):
    def stops(*_, **__):
        raise RuntimeError("tensors of two devices")

    monkeypatch.setattr(fast_l1, "_regressor", lambda _: SimpleNamespace(train_saga=stops))
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
