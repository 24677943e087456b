"""Figures of the further analyses show the numbers they were given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context

from mdhelpers.show import analyses as show
from mdhelpers.show.style import ALGORITHM_COLORS, use_style

NAMES = ("fixed", "shifted")


@pytest.fixture(autouse=True)
def in_style():
    with rc_context():
        use_style()
        yield
        plt.close("all")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_similarity_is_written_in_the_cells(ax):
    values = np.array([[0.8, 0.31], [0.31, np.nan]])
    matrix = pd.DataFrame(values, index=["a", "b"], columns=["a", "b"])
    assert show.similarity_heatmap(ax, matrix) is ax
    assert [text.get_text() for text in ax.texts] == ["0.80", "0.31", "0.31", "–"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b"]
    with pytest.raises(ValueError, match="the same algorithms in both"):
        show.similarity_heatmap(ax, matrix.rename(index={"a": "c"}))


def curves(scale=1.0):
    component = np.arange(1, 5)
    one, two = scale * 0.08 / component, scale * 0.02 / component
    parts = (("1_minus_2", one, two), ("2_minus_1", two, 2 * one))
    return pd.concat(
        pd.DataFrame({"comparison": n, "component": component, "variance_1": a, "variance_2": b})
        for n, a, b in parts
    )


def test_curves_of_each_comparison_in_percent():
    further = SimpleNamespace(curves=curves().assign(on="all"))
    shown = show.variance_curves(further, names=NAMES)
    ax = shown.axes[1]
    drawn = lines(ax)
    assert list(drawn) == ["under fixed", "under shifted"]
    np.testing.assert_allclose(drawn["under shifted"].get_ydata(), 16 / np.arange(1, 5))
    assert drawn["under fixed"].get_color() == ALGORITHM_COLORS[1]
    assert ax.get_title(loc="left") == "shifted ∖ fixed"


def test_curves_on_other_models_are_dashed():
    both = [curves().assign(on="all"), curves(0.5).assign(on="others")]
    shown = show.variance_curves(SimpleNamespace(curves=pd.concat(both)), names=NAMES)
    drawn = lines(shown.axes[0])
    assert len(drawn) == 4
    other = drawn["under fixed, other models"]
    assert other.get_linestyle() == "--"
    np.testing.assert_allclose(other.get_ydata(), 4 / np.arange(1, 5))


def test_cosines_by_number_of_models(ax):
    rows = [
        (algorithm, size, against, 0.2, 0.1 * algorithm + size / 1000, 0.9)
        for algorithm in (1, 2)
        for size in (256, 128)
        for against in ("all", "others")
    ]
    columns = ["algorithm", "n_models", "against", "low", "median", "high"]
    table = pd.DataFrame(rows, columns=columns)
    assert show.cosines_by_models(ax, table, names=NAMES) is ax
    drawn = lines(ax)["shifted: two samples"]
    np.testing.assert_allclose(drawn.get_xdata(), [128, 256])
    np.testing.assert_allclose(drawn.get_ydata(), [0.328, 0.456])
    assert [text.get_text() for text in ax.get_xticklabels()] == ["128", "256"]
    with pytest.raises(ValueError, match="median"):
        show.cosines_by_models(ax, table.drop(columns="median"))


def test_directions_by_number_of_models(ax):
    rows = [
        (comparison, size, against, direction, 0.5 + 0.1 * (against == "all") - 0.05 * direction)
        for comparison in ("1_minus_2", "2_minus_1")
        for size in (128, 256)
        for against in ("all", "others")
        for direction in range(5)
    ]
    columns = ["comparison", "n_models", "against", "direction", "cosine"]
    table = pd.DataFrame(rows, columns=columns)
    assert show.directions_by_models(ax, table, names=NAMES, n=2) is ax
    assert len(ax.get_lines()) == 6
    assert legend(ax) == ["fixed ∖ shifted: all directions", "shifted ∖ fixed: all directions"]
    first = lines(ax)["fixed ∖ shifted: all directions"]
    np.testing.assert_allclose(first.get_ydata(), [0.5, 0.5])
    assert [text.get_text() for text in ax.texts] == ["1", "2", "1", "2"]


def test_components_found_with_fewest_and_with_all_models(ax):
    rows = [
        (algorithm, found, measured, component, algorithm * found / measured / component / 100)
        for algorithm in (1, 2)
        for found in (64, 128, 256)
        for measured in (64, 256)
        for component in (1, 2)
    ]
    columns = ["algorithm", "found_with", "measured_with", "component", "variance"]
    table = pd.DataFrame(rows, columns=columns)
    assert show.components_by_models(ax, table, 2, names=NAMES) is ax
    drawn = lines(ax)
    assert len(drawn) == 4
    line = drawn["256 → 64"]
    np.testing.assert_allclose(line.get_ydata(), [8, 4])
    assert drawn["64 → 256"].get_color() == ALGORITHM_COLORS[2]
    assert ax.get_title(loc="left") == "shifted"
