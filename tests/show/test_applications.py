"""Each figure shows the numbers it was given."""

import numpy as np
import pandas as pd
import pytest

from mdhelpers.show import applications


@pytest.fixture
def removals():
    """Two test examples, the second with the smaller set."""
    table = pd.DataFrame({"test": [4, 9, 4, 9], "kind": ["set", "set", "control", "control"]})
    table["size"] = [7, 2, 7, 2]
    table["predicted"], table["retrained"] = [2.0, 1.0, 0.1, 0.0], [1.5, 1.2, 0.0, -0.1]
    table["low"], table["high"] = table["retrained"] - 0.2, table["retrained"] + 0.3
    table["before"], table["foretold"] = [1.5, 0.9, 1.5, 0.9], [-0.5, -0.1, -0.5, -0.1]
    table["found"] = [0.1, -0.3, 1.4, 1.0]
    return table


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_removal_scatter_puts_each_set_at_its_effects_with_its_interval(ax, removals):
    grey = np.linspace(-3, 3, 20).reshape(2, 10)
    assert applications.removal_scatter(ax, removals, predicted=grey, retrained=grey) is ax
    control, chosen = ax.containers
    assert chosen.lines[0].get_xydata().tolist() == [[2.0, 1.5], [1.0, 1.2]]
    bars = np.array(chosen.lines[2][0].get_segments())
    np.testing.assert_allclose(bars[0], [[2.0, 1.3], [2.0, 1.8]])
    assert control.lines[0].get_xdata().tolist() == [0.1, 0.0]
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[0] < -3
    assert legend(ax) == ["random set of equal size", "set"]


def test_flips_are_in_the_order_of_the_sets_sizes(ax, removals):
    assert applications.flip_dumbbells(ax, removals) is ax
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["2", "7"]
    before, control, found, foretold = (points.get_offsets() for points in ax.collections[1:])
    assert before[:, 0].tolist() == [0.9, 1.5]
    assert control[:, 0].tolist() == [1.0, 1.4]
    assert found[:, 0].tolist() == [-0.3, 0.1]
    assert foretold[:, 0].tolist() == [-0.1, -0.5]


def test_a_map_shows_one_image_a_cell_in_its_classs_colour(ax):
    rng = np.random.default_rng(0)
    places, images = rng.random((50, 2)), rng.integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    groups, numbers = np.arange(50) % 2, np.arange(50) % 3 + 1
    applications.image_map(
        ax, places, images, groups, names=("cat", "dog"), numbers=numbers, cells=4
    )
    assert len(ax.images) == len(
        np.unique(np.minimum(relative(places) * 4, 3.999).astype(int), axis=0)
    )
    assert len(ax.patches) == len(ax.images)
    shown = [image.get_array() for image in ax.images]
    assert all(any(np.array_equal(image, one) for one in images) for image in shown)
    assert [text.get_text() for text in ax.texts] == ["1", "2", "3"]
    assert legend(ax) == ["cat", "dog"]


def relative(places):
    return (places - places.min(0)) / np.ptp(places, axis=0)


def test_a_map_of_one_place_is_drawn(ax):
    images = np.zeros((3, 8, 8, 3), np.uint8)
    applications.image_map(ax, np.ones((3, 2)), images, np.zeros(3, int), names=("cat",))
    assert len(ax.images) == 1


def test_selection_curves_have_a_line_a_way_in_percent(ax):
    table = pd.DataFrame({"way": np.repeat(list(applications.WAYS), 2), "size": [10, 20] * 3})
    table["right"] = np.linspace(0.3, 0.8, 6)
    table["right_low"], table["right_high"] = table["right"] - 0.1, table["right"] + 0.05
    assert applications.selection_curves(ax, table) is ax
    assert legend(ax) == ["at random", "nearest in pixels", "by datamodels"]
    heights = [container.lines[0].get_ydata() for container in ax.containers]
    np.testing.assert_allclose(np.concatenate(heights).astype(float), 100 * table["right"])
    bar = ax.containers[0].lines[2][0].get_segments()[0][:, 1]
    np.testing.assert_allclose(bar, [20, 35])


def test_a_table_without_a_column_is_refused(ax):
    with pytest.raises(ValueError, match="lacks"):
        applications.flip_dumbbells(ax, pd.DataFrame({"test": [1]}))
