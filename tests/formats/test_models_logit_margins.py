import tracemalloc

import numpy as np
import pytest
from scipy.special import logsumexp

from mdhelpers.base.arrays import open_npy
from mdhelpers.formats.models import margins_from_logits, output_function

LABELS = np.array([2, 0, 1, 1, 2])


def some_logits(n_models=9):
    rng = np.random.default_rng(0)
    return rng.normal(scale=4, size=(n_models, 5, 3)).astype(np.float16)


def slow(logits, output):
    """One model and test example at a time."""
    margins = np.empty(logits.shape[:2])
    for model, row in enumerate(logits.astype(np.float64)):
        for example, (values, label) in enumerate(zip(row, LABELS, strict=True)):
            others = np.delete(values, label)
            against = others.max() if output == "margin" else logsumexp(others)
            margins[model, example] = values[label] - against
    return margins


@pytest.mark.parametrize("output", ["margin", "log_odds"])
@pytest.mark.parametrize("block_bytes", [1, 100, 10**6])
def test_agrees_with_one_model_at_a_time(output, block_bytes):
    logits = some_logits()
    margins = margins_from_logits(logits, LABELS, output=output, block_bytes=block_bytes)
    assert margins.dtype == np.float32
    np.testing.assert_allclose(margins, slow(logits, output), atol=1e-5)


def test_writes_to_a_file_and_maps_it(tmp_path):
    logits = some_logits()
    np.save(tmp_path / "labels.npy", LABELS)
    margins = margins_from_logits(logits, tmp_path / "labels.npy", out=tmp_path / "m.npy")
    assert isinstance(margins, np.memmap)
    np.testing.assert_array_equal(margins, margins_from_logits(logits, LABELS))


def test_memory_is_a_few_blocks_whatever_the_file(tmp_path):
    shape = (4000, 50, 10)
    logits = np.lib.format.open_memmap(tmp_path / "l.npy", "w+", np.float16, shape)
    logits[:] = np.random.default_rng(0).normal(size=shape)
    logits.flush()
    mapped = open_npy(tmp_path / "l.npy", ("n_models", "n_test", "n_classes"))
    tracemalloc.start()
    margins_from_logits(mapped, np.arange(50) % 10, out=tmp_path / "m.npy", block_bytes=2**16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**16 < logits.nbytes / 7


@pytest.mark.parametrize("labels", [None, LABELS[:4], LABELS + 1, LABELS - 1, LABELS + 0.0])
def test_refuses_labels_that_do_not_belong(labels):
    with pytest.raises(ValueError, match="labels"):
        margins_from_logits(some_logits(), labels)


@pytest.mark.parametrize("output", ["margin", "log_odds"])
def test_tells_which_output_margins_hold(output):
    logits = some_logits(300)
    margins = slow(logits, output).astype(np.float16)
    assert output_function(margins, logits, LABELS) == output
    margins[0, 0] = np.nan
    with pytest.raises(ValueError, match="not those of the logits"):
        output_function(margins, logits, LABELS)


def test_knows_margins_of_other_models():
    margins = slow(some_logits(), "margin")
    with pytest.raises(ValueError, match="same order"):
        output_function(margins[::-1], some_logits(), LABELS)
