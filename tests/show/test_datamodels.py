"""Page 03's tables and figures show the numbers they were given."""

from types import SimpleNamespace

import numpy as np
import pytest

from mdhelpers.runs.stage import DATAMODELS
from mdhelpers.show import datamodels


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_lds_histogram_leaves_undefined_correlations_out(ax):
    assert datamodels.lds_histogram(ax, {"fixed": np.array([0.2, np.nan, 0.4])}) is ax
    assert legend(ax) == ["fixed: mean 0.30"]


def test_predicted_against_true_picks_out_the_examples(ax):
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    assert datamodels.predicted_against_true(ax, true, predicted, examples=[3, 1]) is ax
    assert legend(ax) == ["test image 3", "test image 1"]
    pooled, *picked = ax.collections
    assert np.exp(0) <= pooled.get_array().max()
    np.testing.assert_allclose(picked[0].get_offsets(), np.c_[predicted[:, 3], true[:, 3]])
    assert ax.get_xlim() == ax.get_ylim()


def test_predicted_against_true_refuses_what_does_not_fit(ax):
    with pytest.raises(ValueError, match="expected the same"):
        datamodels.predicted_against_true(ax, np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="at most 6"):
        datamodels.predicted_against_true(ax, np.eye(9), np.eye(9), examples=range(7))


def test_datamodels_that_foretell_nothing_are_called_so():
    ends = (("", 0.4), ("_low", 0.3), ("_high", 0.5), ("_pearson", 0.4), ("_raw", 0.3))
    figures = {f"lds_{a}{end}": value for a in (1, 2) for end, value in ends}
    figures |= {f"{what}_{a}": 0.5 for what in ("nonzero", "lam_at_edge") for a in (1, 2)}
    run = SimpleNamespace(names=("a", "b"), results={DATAMODELS: figures | {"lds_2_low": -0.1}})
    verdicts = {"a": "predict", "b": "not told from chance"}
    assert datamodels.lds_table(run)["verdict"].to_dict() == verdicts
