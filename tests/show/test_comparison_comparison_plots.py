"""Figures about directions show the numbers they were given."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from mdhelpers.show import comparison as comparison_plots
from mdhelpers.show.style import use_style

NAMES = ("fixed", "shifted")


@pytest.fixture
def ax():
    with rc_context():
        use_style()
        figure = Figure(figsize=(5, 5))
        yield figure.subplots()
        figure.canvas.draw()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def annotations(ax):
    return [text for text in ax.texts if isinstance(text, Annotation)]


def gaps(pair, gap, n_splits=3):
    rows = [
        (pair, comparison, direction, 0.08 / direction, gap + 0.001 * split, split)
        for comparison in ("1_minus_2", "2_minus_1")
        for direction in (1, 2)
        for split in range(n_splits)
    ]
    columns = ["pair", "comparison", "direction", "naive_gap", "gap", "split"]
    return pd.DataFrame(rows, columns=columns)


def test_explained_variance_is_drawn_in_percent_on_equal_axes(ax):
    one, two = np.array([[0.05, 0.01], [0.03, 0.01]]), np.array([[0.01, 0.04]])
    assert comparison_plots.explained_variance_scatter(ax, one, two, names=NAMES) is ax
    np.testing.assert_allclose(ax.collections[0].get_offsets(), 100 * one)
    np.testing.assert_allclose(ax.collections[1].get_offsets(), 100 * two)
    assert ax.get_xlim() == ax.get_ylim()
    assert [note.get_text() for note in annotations(ax)] == ["1", "2", "1"]
    assert legend(ax) == ["directions of fixed ∖ shifted", "directions of shifted ∖ fixed"]


def test_explained_variance_numbers_may_be_given_or_left_out(ax):
    one, two = np.array([[0.05, 0.01], [0.03, 0.01]]), np.array([[0.01, 0.04]])
    comparison_plots.explained_variance_scatter(ax, one, two, labels=False)
    assert not annotations(ax)
    comparison_plots.explained_variance_scatter(ax, one, two, labels=([7, 2], [5]))
    assert [note.get_text() for note in annotations(ax)] == ["7", "2", "5"]
    with pytest.raises(ValueError, match=r"expected \(k, 2\)"):
        comparison_plots.explained_variance_scatter(ax, one.ravel(), two)


def test_labels_of_crowded_points_do_not_cover_each_other(ax):
    rng = np.random.default_rng(0)
    one = 0.05 + 0.004 * rng.random((8, 2))
    comparison_plots.explained_variance_scatter(ax, one, one[:, ::-1] * 0.5)
    ax.figure.canvas.draw()
    boxes = [note.get_window_extent() for note in annotations(ax)]
    centres = np.array([(box.x0 + box.x1, box.y0 + box.y1) for box in boxes]) / 2
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e3 * np.eye(len(boxes))
    assert apart.min() > 0.6 * boxes[0].height


def test_gap_curves_draw_both_gaps_of_the_pair_and_of_the_null(ax):
    null = pd.concat([gaps("1 against 1", 0.0), gaps("2 against 2", 0.0)])
    assert comparison_plots.gap_curves(ax, gaps("1 against 2", 0.02), null, names=NAMES) is ax
    assert legend(ax) == [
        "fixed ∖ shifted",
        "shifted ∖ fixed",
        "null: fixed ∖ itself",
        "null: shifted ∖ itself",
    ]
    means = [container[0].get_ydata() for container in ax.containers]
    np.testing.assert_allclose(means[0], [8, 4])  # naive, per cent
    np.testing.assert_allclose(means[1], [2.1, 2.1])  # cross-fitted, mean over splits
    np.testing.assert_allclose(means[5], [0.1, 0.1])  # the null, cross-fitted


def test_gap_curves_take_one_table_of_all_pairs(ax):
    table = pd.concat([gaps("1 against 2", 0.02), gaps("1 against 1", 0.0)])
    comparison_plots.gap_curves(ax, table)
    assert len(legend(ax)) == 3
    with pytest.raises(ValueError, match="split"):
        comparison_plots.gap_curves(ax, table.drop(columns="split"))


@pytest.mark.parametrize("replication", [True, False])
def test_gap_bars_show_naive_and_cross_fitted(ax, replication):
    table = pd.DataFrame(
        {
            "comparison": ["1_minus_2", "1_minus_2", "2_minus_1"],
            "direction": [1, 4, 2],
            "naive_gap": [0.08, 0.07, 0.06],
            "gap": [0.02, 0.01, -0.001],
            "low": [0.01, 0.0, -0.002],
            "high": [0.03, 0.02, 0.001],
            "replication": [0.9, 0.55, 1.0],
        }
    )
    table = table if replication else table.drop(columns="replication")
    assert comparison_plots.gap_bars(ax, table, names=NAMES) is ax
    heights = [patch.get_height() for patch in ax.patches]
    np.testing.assert_allclose(heights, [8, 7, 2, 1, 6, -0.1])
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels == (["1\n.90", "4\n.55", "2\n1.00"] if replication else ["1", "4", "2"])


def test_auc_heatmap_writes_the_better_end(ax):
    rows = [
        ("1_minus_2", 1, "top", "tag", 0.99),
        ("1_minus_2", 1, "bottom", "tag", 0.01),
        ("1_minus_2", 1, "top", "yellow_square", 0.3),
        ("1_minus_2", 1, "bottom", "yellow_square", 0.7),
        ("2_minus_1", 1, "top", "tag", 0.5),
        ("2_minus_1", 1, "top", "yellow_square", np.nan),
    ]
    columns = ["comparison", "direction", "end", "feature", "auc_within_class"]
    assert comparison_plots.auc_heatmap(ax, pd.DataFrame(rows, columns=columns), names=NAMES) is ax
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0.99 ▲", "0.70 ▼", "0.50 ▲", "–", "fixed ∖ shifted", "shifted ∖ fixed"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["tag", "yellow square"]
