"""Page 07's figures and table show the effects that they were given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mdhelpers.data.scenes import make_scenes
from mdhelpers.show import effects as show
from mdhelpers.show.style import ALGORITHM_COLORS, NULL_COLOR

NAMES = ("fixed", "shifted")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def effects(scale):
    rows = [
        (i, a, scale * i * a, scale * i * a - 1, scale * i * a + 1) for i in (4, 0) for a in (1, 2)
    ]
    return pd.DataFrame(rows, columns=["intensity", "algorithm", "effect", "low", "high"])


def test_effect_curves_in_order_of_intensity_with_a_grey_placebo(ax):
    assert show.effect_curves(ax, effects(10), names=NAMES, placebo=effects(1)) is ax
    curves = {line.get_label(): line for line in ax.lines}
    assert legend(ax) == ["fixed", "shifted", "placebo, fixed", "placebo, shifted"]
    np.testing.assert_allclose(curves["shifted"].get_xydata(), [[0, 0], [4, 80]])
    assert curves["fixed"].get_color() == ALGORITHM_COLORS[1]
    assert curves["placebo, fixed"].get_color() == NULL_COLOR


def test_effect_curves_refuse_a_mixture_of_transformations(ax):
    with pytest.raises(ValueError, match="several effects"):
        show.effect_curves(ax, pd.concat([effects(1), effects(2)]))


def found(placebo: float):
    """One hypothesis at two intensities, and a placebo that moves algorithm 1 by so much."""
    rows = [
        ("h", kind, intensity, "boat", algorithm, effect, effect - 1, effect + 1)
        for kind, intensity, difference in (
            ("feature", 3, 5), ("feature", 10, 20), ("placebo", 4, placebo)
        )
        for algorithm, effect in ((1, difference), (2, 0.0), (0, difference))
    ]  # fmt: skip
    columns = [
        "hypothesis",
        "kind",
        "intensity",
        "class_name",
        "algorithm",
        "effect",
        "low",
        "high",
    ]
    verdicts = pd.DataFrame({"hypothesis": ["h"], "outcome": ["distinguishing"]})
    return SimpleNamespace(table=pd.DataFrame(rows, columns=columns), verdicts=verdicts)


@pytest.mark.parametrize(("placebo", "word"), [(0.5, "alike"), (1.8, "alike"), (3.0, "not alike")])
def test_the_verdict_stands_at_the_largest_intensity_and_beside_the_placebo(placebo, word):
    table = show.effects(found(placebo), NAMES)
    assert list(table.columns) == ["fixed", "shifted", "fixed − shifted", "verdict"]
    assert table["verdict"].to_dict() == {
        ("h", "feature", 3): "", ("h", "feature", 10): "distinguishing", ("h", "placebo", 4): word
    }  # fmt: skip
    assert table.loc[("h", "feature", 10), "fixed"] == "+20.0 [+19.0, +21.0]"


def test_each_hypothesis_has_a_panel():
    figure = show.effect_panels(found(0).table, names=NAMES)
    assert [ax.get_title() for ax in figure.axes] == ["h → boat"]
    assert len(show.effect_panels(found(0).table.head(0), names=NAMES).axes) == 1
    plt.close("all")


def test_a_study_without_hypotheses_says_so():
    nothing = SimpleNamespace(table=pd.DataFrame())
    assert show.effects(nothing, NAMES) == "The study tests no hypothesis."


def test_transformations_are_shown_from_untouched_to_strongest():
    test = make_scenes(n_train=12, n_test=90, size=16, seed=0).test
    hypotheses = [{"name": "tag", "transformation": "tag", "intensities": [3, 5]}]
    placebo = {"transformation": "scrambled_square", "intensities": [4]}
    images = test.images[(test.metadata["tag_corner"] == "").to_numpy()]
    rows = list(show.transformation_rows(hypotheses, placebo, images, seed=0, n=1).values())
    assert [len(row) for row in rows] == [3, 2]
    assert np.array_equal(rows[0][0], images[0])
    changed = [(row != rows[0][0]).any(axis=-1).sum() for row in rows[0]]
    assert changed == sorted(changed)
    assert changed[0] == 0
