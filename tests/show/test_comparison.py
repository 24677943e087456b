"""Page 04's figures about directions show the numbers they were given, and tables a verdict."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Annotation

from mdhelpers.method.comparison import Comparison, DirectionSet
from mdhelpers.show import comparison as show

NAMES = ("fixed", "shifted")


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


def directions(one, two, components=None):
    """A comparison of which only explained variances and numbers matter."""
    components = components or [np.arange(1, len(values) + 1) for values in (one, two)]
    sets = [
        DirectionSet(name, values, values, values, numbers)
        for name, values, numbers in zip(
            ("1_minus_2", "2_minus_1"), (one, two), components, strict=True
        )
    ]
    return Comparison(*sets, cosines=np.zeros(1), n_zero=np.zeros(2))


def test_explained_variance_is_drawn_in_percent_on_equal_axes(ax):
    one, two = np.array([[0.05, 0.01], [0.03, 0.01]]), np.array([[0.01, 0.04]])
    assert show.explained_variance_scatter(ax, directions(one, two), names=NAMES) is ax
    np.testing.assert_allclose(ax.collections[0].get_offsets(), 100 * one)
    np.testing.assert_allclose(ax.collections[1].get_offsets(), 100 * two)
    assert ax.get_xlim() == ax.get_ylim()
    assert [note.get_text() for note in annotations(ax)] == ["1", "2", "1"]
    assert legend(ax) == ["directions of fixed ∖ shifted", "directions of shifted ∖ fixed"]


def test_explained_variance_numbers_are_those_of_the_components(ax):
    one, two = np.array([[0.05, 0.01], [0.03, 0.01]]), np.array([[0.01, 0.04]])
    show.explained_variance_scatter(ax, directions(one, two, ([7, 2], [5])))
    assert [note.get_text() for note in annotations(ax)] == ["7", "2", "5"]


def test_labels_of_crowded_points_do_not_cover_each_other(ax):
    rng = np.random.default_rng(0)
    one = 0.05 + 0.004 * rng.random((8, 2))
    show.explained_variance_scatter(ax, directions(one, one[:, ::-1] * 0.5))
    ax.figure.canvas.draw()
    boxes = [note.get_window_extent() for note in annotations(ax)]
    centres = np.array([(box.x0 + box.x1, box.y0 + box.y1) for box in boxes]) / 2
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e3 * np.eye(len(boxes))
    assert apart.min() > 0.6 * boxes[0].height


def test_gap_curves_draw_both_gaps_of_the_pair_and_of_the_null(ax):
    pairs = {"1 against 2": 0.02, "1 against 1": 0.0, "2 against 2": 0.0}
    table = pd.concat([gaps(pair, gap) for pair, gap in pairs.items()])
    assert show.gap_curves(ax, table, names=NAMES) is ax
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
    show.gap_curves(ax, table)
    assert len(legend(ax)) == 3
    with pytest.raises(ValueError, match="split"):
        show.gap_curves(ax, table.drop(columns="split"))


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
    assert show.gap_bars(ax, table, names=NAMES) is ax
    heights = [patch.get_height() for patch in ax.patches]
    np.testing.assert_allclose(heights, [8, 7, 2, 1, 6, -0.1])
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels == (["1\n.90", "4\n.55", "2\n1.00"] if replication else ["1", "4", "2"])


def test_cosine_histogram_takes_one_array_or_several(ax):
    assert show.cosine_histogram(ax, np.array([0.1, 0.2, 0.9])) is ax
    assert legend(ax) == ["median 0.20"]
    show.cosine_histogram(ax, {"a": np.array([0.5]), "b": np.array([0.7])})
    assert legend(ax)[-2:] == ["a: median 0.50", "b: median 0.70"]


def null(gap: float, naive: float = 15.0) -> dict:
    return {"naive_gap": naive, "gap": gap, "low": gap - 0.5, "high": gap + 0.5}


def figures(real: float, itself: float) -> dict:
    found = {"gap_1_minus_2": real}
    for name in ("1_minus_2", "2_minus_1"):
        found[f"null_1_against_2_{name}"] = null(real)
        found |= {f"null_{a}_against_{a}_{name}": null(itself) for a in (1, 2)}
    return {"04_residual_pca": found}


@pytest.mark.parametrize(
    ("real", "itself", "words"), [(8, 0.3, "well above"), (1, 0.9, "not clearly above")]
)
def test_gaps_are_called_what_they_are(real, itself, words):
    run = SimpleNamespace(names=NAMES, results=figures(real, itself))
    table = show.null_gaps(run)
    assert table["verdict"].str.startswith(words).sum() == 2
    assert set(table["naive gap, %"]) == {15.0}
    run.results["04_residual_pca"] = {}
    assert "Without models" in show.null_gaps(run)


def test_who_uses_what_is_drawn_to_one_side_for_each_algorithm(ax):
    row = {"end": "top", "label": 0, "times": 2.0, "times_low": 1.25, "times_high": np.inf}
    rows = [
        row | {"comparison": "1_minus_2", "direction": 3, "use": "more_1"},
        row | {"comparison": "1_minus_2", "direction": 3, "label": 1, "use": "only_2"},
        row | {"comparison": "2_minus_1", "direction": 1, "use": "more_1"},
        row | {"comparison": "2_minus_1", "direction": 1, "end": "bottom", "use": "alike"},
    ]
    show.use_intervals(ax, pd.DataFrame(rows), names=("plain", "augmented"))
    bars = [line.get_xdata() for line in ax.lines[1:] if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars[0], [1.25, 8])  # as wide as the axis
    np.testing.assert_allclose(bars[1], [1 / 8, 1 / 1.25])  # of augmented, on its own side
    assert [text.get_text() for text in ax.texts] == ["plain more", "augmented more"]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["#3", "#1"]
    assert legend(ax)[0] == "directions of plain ∖ augmented"


def test_too_few_models_to_tell_are_no_picture(ax):
    show.use_intervals(ax, pd.DataFrame(columns=["use"]))
    assert "too few models" in ax.texts[0].get_text()
