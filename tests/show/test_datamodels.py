"""Each figure shows the numbers it was given, on the axes it was given."""

import numpy as np
import pytest
from matplotlib import rc_context, rcParams
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from mdhelpers.show import datamodels as plots
from mdhelpers.show.style import ALGORITHM_COLORS, comparison_label, use_style


@pytest.fixture
def ax():
    """Axes in the book's style; drawn at the end, since many faults show only then."""
    with rc_context():
        use_style()
        figure = Figure()
        yield figure.subplots()
        figure.canvas.draw()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_style_is_for_paper_and_phones():
    with rc_context():
        use_style()
        assert rcParams["font.size"] >= 11
        assert rcParams["figure.constrained_layout.use"]
        assert rcParams["image.interpolation"] == "nearest"


def test_comparisons_have_readable_names():
    assert comparison_label("1_minus_2", ("fixed", "shifted")) == "fixed ∖ shifted"
    assert comparison_label("2_minus_1", ("fixed", "shifted")) == "shifted ∖ fixed"
    with pytest.raises(ValueError, match="expected one of"):
        comparison_label("2_1")


def test_accuracy_histogram_says_the_means_and_shares_add_up(ax):
    accuracies = {"fixed": np.array([0.8, 0.9]), "shifted": np.array([0.9, 0.95, 1.0])}
    assert plots.accuracy_histogram(ax, accuracies) is ax
    assert legend(ax) == ["fixed: mean 85.0%", "shifted: mean 95.0%"]
    bars = [patch for patch in ax.patches if hasattr(patch, "get_height")]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(200)
    lines = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [to_hex(line.get_color(), False).upper() for line in lines] == list(
        ALGORITHM_COLORS.values()
    )


def test_margin_histogram_takes_matrices_and_equal_values(ax):
    margins = {"fixed": np.full((3, 4), 2.0), "shifted": np.full((2, 4), 2.0)}
    assert plots.margin_histogram(ax, margins) is ax
    assert legend(ax) == ["fixed: mean 2.0", "shifted: mean 2.0"]


def test_loss_curves_have_a_line_a_model_and_a_label_an_algorithm(ax):
    losses = {"fixed": np.array([[2.0, 1.0], [2.0, 0.5]]), "shifted": np.array([[2.0, 1.5, 1.2]])}
    assert plots.loss_curves(ax, losses) is ax
    assert legend(ax) == ["fixed", "shifted"]
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, 2], [2, 0.5]])
    assert len(ax.lines) == 3


def test_lds_histogram_leaves_undefined_correlations_out(ax):
    assert plots.lds_histogram(ax, {"fixed": np.array([0.2, np.nan, 0.4])}) is ax
    assert legend(ax) == ["fixed: mean 0.30"]


def test_cosine_histogram_takes_one_array_or_several(ax):
    assert plots.cosine_histogram(ax, np.array([0.1, 0.2, 0.9])) is ax
    assert legend(ax) == ["median 0.20"]
    plots.cosine_histogram(ax, {"a": np.array([0.5]), "b": np.array([0.7])})
    assert legend(ax)[-2:] == ["a: median 0.50", "b: median 0.70"]


def test_predicted_against_true_picks_out_the_examples(ax):
    rng = np.random.default_rng(0)
    true, predicted = rng.normal(size=(20, 5)), rng.normal(size=(20, 5))
    assert plots.predicted_against_true(ax, true, predicted, examples=[3, 1]) is ax
    assert legend(ax) == ["test image 3", "test image 1"]
    pooled, *picked = ax.collections
    assert np.exp(0) <= pooled.get_array().max()
    np.testing.assert_allclose(picked[0].get_offsets(), np.c_[predicted[:, 3], true[:, 3]])
    assert ax.get_xlim() == ax.get_ylim()


def test_predicted_against_true_refuses_what_does_not_fit(ax):
    with pytest.raises(ValueError, match="expected the same"):
        plots.predicted_against_true(ax, np.zeros((3, 4)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match="at most 6"):
        plots.predicted_against_true(ax, np.eye(9), np.eye(9), examples=range(7))
