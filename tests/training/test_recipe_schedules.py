"""Schedules against torch's own, step by step."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.recipe import learning_rates, make_optimizer

PER_EPOCH = 5


def rates_of(**options) -> np.ndarray:
    return learning_rates(NetworkSpec(name="a", lr=0.4, **options), PER_EPOCH)


def torch_rates(make, n: int) -> np.ndarray:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule, found = make(optimizer), []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


def test_steps_as_in_torch():
    ours = rates_of(schedule="step", epochs=7, step_epochs=2, step_factor=0.3)
    theirs = torch_rates(lambda o: lr_scheduler.StepLR(o, 2 * PER_EPOCH, 0.3), 7 * PER_EPOCH)
    np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cosine", lambda n: lambda o: lr_scheduler.CosineAnnealingLR(o, n)),
        ("linear", lambda n: lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, n)),
    ],
)
def test_falling_schedules_lie_half_a_step_from_torchs(name, make):
    n = 8 * PER_EPOCH
    ours, theirs = rates_of(schedule=name, epochs=8), torch_rates(make(n), n + 1)
    middle = (theirs[1:] + theirs[:-1]) / 2
    np.testing.assert_allclose(ours, middle, atol=1e-3)


@pytest.mark.parametrize("name", ["triangular", "one_cycle"])
def test_cycles_rise_to_the_peak_and_fall_to_nothing(name):
    rates = rates_of(schedule=name, epochs=25, peak=0.48)
    assert rates.argmax() / PER_EPOCH == pytest.approx(12, abs=0.5)
    assert rates.max() == pytest.approx(0.4, rel=0.02)
    assert max(rates[0], rates[-1]) < 0.01
    assert (np.diff(rates[:60]) > 0).all()
    assert (np.diff(rates[61:]) < 0).all()


def test_warm_up_rises_to_the_schedules_start():
    rates = rates_of(schedule="constant", epochs=4, warmup_epochs=2)
    assert len(rates) == 20
    np.testing.assert_allclose(rates[:10], 0.4 * (np.arange(10) + 0.5) / 10)
    np.testing.assert_allclose(rates[10:], 0.4)


def test_optimisers_are_those_of_the_recipe():
    weights = [torch.nn.Parameter(torch.zeros(2))]
    sgd = make_optimizer(NetworkSpec(name="a", nesterov=True, weight_decay=0.1), weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"]
    assert sgd.defaults["weight_decay"] == 0.1
    adamw = make_optimizer(NetworkSpec(name="a", optimizer="adamw"), weights)
    assert isinstance(adamw, torch.optim.AdamW)
