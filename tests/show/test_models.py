"""Page 02's tables and figures show the numbers they were given."""

from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.colors import to_hex

from mdhelpers.show import models as show
from mdhelpers.show.style import ALGORITHM_COLORS
from mdhelpers.training.algorithms import NetworkSpec


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_what_both_algorithms_leave_open_does_not_differ():
    one, two = (NetworkSpec(name=name, epochs=n) for name, n in (("plain", 20), ("more", 40)))
    models = SimpleNamespace(plan=SimpleNamespace(algorithms=(one, two)))
    table = show.algorithms(models)
    assert table.index[table["differs"] == "yes"].tolist() == ["name", "epochs"]
    assert table.loc["width"].tolist() == ["–", "–", ""]


def test_accuracy_histogram_says_the_means_and_shares_add_up(ax):
    accuracies = {"fixed": np.array([0.8, 0.9]), "shifted": np.array([0.9, 0.95, 1.0])}
    assert show.accuracy_histogram(ax, accuracies) is ax
    assert legend(ax) == ["fixed: mean 85.0%", "shifted: mean 95.0%"]
    bars = [patch for patch in ax.patches if hasattr(patch, "get_height")]
    assert sum(bar.get_height() for bar in bars) == pytest.approx(200)
    lines = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [to_hex(line.get_color(), False).upper() for line in lines] == list(
        ALGORITHM_COLORS.values()
    )


def test_margin_histogram_takes_matrices_and_equal_values(ax):
    margins = {"fixed": np.full((3, 4), 2.0), "shifted": np.full((2, 4), 2.0)}
    assert show.margin_histogram(ax, margins) is ax
    assert legend(ax) == ["fixed: mean 2.0", "shifted: mean 2.0"]


def test_loss_curves_have_a_line_a_model_and_a_label_an_algorithm(ax):
    losses = {"fixed": np.array([[2.0, 1.0], [2.0, 0.5]]), "shifted": np.array([[2.0, 1.5, 1.2]])}
    assert show.loss_curves(ax, losses) is ax
    assert legend(ax) == ["fixed", "shifted"]
    np.testing.assert_array_equal(ax.lines[1].get_xydata(), [[1, 2], [2, 0.5]])
    assert len(ax.lines) == 3
