import subprocess
import sys

import numpy as np
import pytest

from mdhelpers.method.costs import Cost, fit_cost, fits_at_once, why_not
from mdhelpers.method.datamodels import AT_ONCE, Fitter, fit_all, method_for

PAPER = {"cifar10": (50_000, 50_000, 10_000), "living17": (120_000, 88_400, 3_400)}
MEASURED = """
import sys
import numpy as np, torch
from mdhelpers.method.datamodels import fit_datamodels
torch.set_num_threads(1)
method, n_models, n_train, n_test = sys.argv[1], *map(int, sys.argv[2:])
rng = np.random.default_rng(0)
def most():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def data(n_models, n_train):
    masks = rng.integers(0, 2, (n_models, n_train), np.uint8).view(bool)
    return masks, rng.normal(size=(n_models, n_test)).astype(np.float32)
fit_datamodels(*data(32, 24), method=method)
given = data(n_models, n_train)
before = most()
fit_datamodels(*given, method=method)
print(most() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "sizes"),
    [("ridge", (1500, 6000, 8)), ("ridge", (2600, 1500, 8)), ("lasso", (3000, 5000, 8))],
)
def test_memory_is_what_a_process_takes(method, sizes):
    args = [sys.executable, "-c", MEASURED, method, *map(str, sizes)]
    said, all_taken = fit_cost(method, *sizes).memory, []
    for _ in range(3):  # a process' peak has what its allocator left lying about, more or less
        done = subprocess.run(args, capture_output=True, text=True, check=True)
        all_taken.append(float(done.stdout))
        if 0.8 * all_taken[-1] < said < 1.7 * all_taken[-1]:
            return
    pytest.fail(f"said {said:.0f} bytes, took {all_taken}")


@pytest.mark.parametrize("sizes", PAPER.values(), ids=PAPER)
def test_at_the_papers_scale_no_eigendecomposition_is_chosen(sizes):
    n_models, n_train, n_test = sizes
    for memory in (16e9, 1e12):
        given = {"n_test": n_test, "memory": memory}
        assert method_for(n_models, n_train, **given) == "lasso"
        assert method_for(n_models, n_train, gradients=True, **given) == "trak"
    cuda = {"n_test": n_test, "memory": 80e9, "device": "cuda"}
    assert method_for(n_models, n_train, **cuda) == "lasso"


def test_with_few_models_the_kernel_is_small_whatever_the_images():
    assert method_for(64, 50_000, n_test=10_000, memory=16e9) == "ridge"
    assert method_for(64, 50_000, n_test=10_000, gradients=True, memory=16e9) == "trak+ridge"
    assert method_for(64, 50_000, n_test=10_000, gradients=True, memory=4e9) == "trak"


def test_studies_of_ordinary_size_are_fitted_as_before():
    for n_models in (64, 1024, 1439):
        assert method_for(n_models, 240) == "ridge"
        assert method_for(n_models, 240, gradients=True) == "trak+ridge"
    assert method_for(1440, 240) == method_for(1440, 240, gradients=True) == "lasso"


def test_why_not_says_what_is_taken_and_what_there_is():
    cost = fit_cost("ridge", 50_000, 50_000, 10)
    assert why_not(cost, memory=1e9).endswith("and 1.0 GB are there")
    assert "50,000 rows takes 10 hours" in why_not(cost, memory=1e15)
    assert not why_not(cost, memory=1e15, patience=86_400)


def test_fits_run_side_by_side_in_half_of_the_memory():
    cost = Cost(memory=1e9, seconds=1.0)
    shared = {"device": "cpu", "at_most": 4}
    assert [fits_at_once(cost, room, **shared) for room in (1e9, 5e9, 1e12, None)] == [1, 2, 4, 4]
    assert fits_at_once(cost, 1e12, device="cuda:1", at_most=4) == 1


def test_how_many_fits_run_at_once_changes_no_bit():
    rng = np.random.default_rng(0)
    masks, margins = rng.random((40, 9)) < 0.5, rng.normal(size=(40, 5))
    halves = [np.arange(20), np.arange(20, 40)]
    one, many = (Fitter(masks, margins, method="ridge", memory=m) for m in (1.0, 1e12))
    assert (one.at_once(20), many.at_once(20)) == (1, AT_ONCE)
    found = [fit_all((fit, half) for half in halves) for fit in (one, many)]
    for first, second in zip(*found, strict=True):
        np.testing.assert_array_equal(first, second)
