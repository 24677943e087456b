"""Page 07's figures and table show the effects that they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mdhelpers.data.scenes import make_scenes
from mdhelpers.show import effects as show
from mdhelpers.show.style import ALGORITHM_COLORS, NULL_COLOR
from mdhelpers.stages.effect_cases import EFFECT_COLUMNS, VERDICT_COLUMNS
from mdhelpers.stages.effects import StudyEffects, certain, headline, points

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


CASES = {
    "tag": ("study", "boat", (30.0, 1.0), "only_1", 0, "neither", 1),
    "web → fish": ("proposed", "fish", (3.0, -8.04), "undecided", 77, "alike", 0),
}


def found() -> StudyEffects:
    """A hypothesis and a proposal at two intensities, on two classes."""
    effects, verdicts = [], []
    for name, (source, target, (one, two), outcome, n, placebo, uses) in CASES.items():
        kind = name.split(" ")[0]
        for share, dose in ((0.5, 3.0), (1.0, 6.0)):
            for label in ("boat", "fish"):
                sign = 1 if label == target else -1
                triple = (1, sign * one), (2, sign * two), (0, sign * (one - two))
                for what, part in (("feature", share), ("placebo", 0)):
                    about = name, what, kind, dose, label
                    effects += [
                        (*about, a, part * e, part * e - 1, part * e + 1, 0.01) for a, e in triple
                    ]
        verdicts.append(
            (name, source, kind, target, uses, outcome, 6.0, "px", one, one - 1, one + 1, two,
             two - 1, two + 1, one - two, one - two - 2, one - two + 2, 0.0, 0.0004, n, placebo)
        )  # fmt: skip
    table = pd.DataFrame(effects, columns=list(EFFECT_COLUMNS))
    return StudyEffects(table, pd.DataFrame(verdicts, columns=list(VERDICT_COLUMNS)), None)


def test_a_verdict_is_told_with_its_figures_and_what_would_decide():
    table = show.verdicts(found(), NAMES).reset_index()
    assert table["verdict"].tolist() == [
        "only fixed responds, as expected",
        "undecided at this budget; 77 models would decide",
    ]
    assert table["transformation"].tolist() == ["tag → boat", "web → fish"]
    assert table["fixed"][0] == "+30.0 (+29.0 to +31.0)"
    assert table["difference"][1] == "+11.0 (+9.0 to +13.0)"
    assert table["shifted"][1] == "−8.0 (−9.0 to −7.0)"
    assert table["placebo"].tolist() == ["neither responds", "both respond alike"]
    assert table["p"].tolist() == ["<0.001"] * 2
    assert table["at"].tolist() == ["6 px"] * 2


def test_a_verdict_in_a_sentence():
    said = show.told(found(), NAMES)["verdict"].tolist()
    assert said[0] == (
        "Adding a tag (6 px) makes fixed models 30.0 points more certain of boat, "
        "and shifted models 1.0 points more certain: "
        "only fixed responds."
    )


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        (-0.04, "0.0 points more certain"),
        (-7.76, "7.8 points less certain"),
        (0.0, "0.0 points more certain"),
    ],
)
def test_changes_of_confidence_are_said(effect, words):
    assert certain(effect) == words


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(-0.04, 1, "0.0"), (0.04, 1, "0.0"), (-3.26, 1, "−3.3"), (12, 0, "+12"), (-0.4, 0, "0")],
)
def test_points_have_a_sign_where_they_are_some(value, digits, text):
    assert points(value, digits) == text


def test_each_hypothesis_has_a_panel_of_its_own_class():
    figure = show.effect_panels(found(), names=NAMES)
    assert [ax.get_title() for ax in figure.axes] == ["tag → boat"]
    assert figure.axes[0].get_xlabel() == "intensity (px)"
    curves = {line.get_label(): line for line in figure.axes[0].lines}
    np.testing.assert_allclose(curves["fixed"].get_xydata(), [[3, 15], [6, 30]])
    assert curves["placebo, fixed"].get_ydata().tolist() == [0, 0]
    other = show.effect_panels(found(), names=NAMES, source="proposed")
    assert [ax.get_title() for ax in other.axes] == ["web → fish"]
    nothing = StudyEffects(found().effects.head(0), found().verdicts.head(0), None)
    assert len(show.effect_panels(nothing, names=NAMES).axes) == 1
    assert isinstance(show.verdicts(nothing, NAMES), str)
    assert isinstance(show.told(nothing, NAMES), str)
    plt.close("all")


def test_the_heat_map_has_every_class_at_the_largest_intensity():
    figure = show.effect_heatmap(found(), names=NAMES)
    for ax, wanted in zip(figure.axes, ([30, -30, -3, 3], [1, -1, 8, -8]), strict=True):
        assert ax.images[0].get_array().ravel().tolist() == pytest.approx(wanted, abs=0.1)
    cells = [text.get_text() for text in figure.axes[0].texts]
    assert cells == ["+30", "−30", "−3", "+3"]
    nothing = StudyEffects(found().effects.head(0), found().verdicts.head(0), None)
    assert len(show.effect_heatmap(nothing, names=NAMES).axes) == 2
    plt.close("all")


def test_images_stand_untouched_then_changed_and_last_their_placebo():
    test = make_scenes(n_train=6, n_test=12, size=16, seed=0).test
    hypotheses = [
        {"transformation": "tag", "intensities": [2, 4]},
        {"name": "mine", "transformation": {"kind": "square", "unit": "%"}, "intensities": [20]},
    ]
    rows = show.transformation_rows(hypotheses, test, seed=0, n=2)
    assert [label for label in rows if label.strip(show.NOTHING)] == [
        "tag\n(px)",
        "mine\n(% of the side)",
    ]
    assert [len(row) for row in rows.values()] == [4, 4, 3, 3]
    first = next(iter(rows.values()))
    assert np.array_equal(first[0], test.images[0])
    changed = [(image != first[0]).any(axis=-1).sum() for image in first]
    assert changed[0] == 0 < changed[1] < changed[2]
    assert 0 < changed[3] <= changed[2]


def test_a_headline_is_what_one_would_tell_a_friend():
    row = {"outcome": "only_1", "transformation": "tag", "class_name": "boat"}
    row |= {"effect_1": 30.4, "effect_2": -0.5}
    assert headline(row, NAMES) == (
        "Adding a tag to a picture makes fixed models 30 points more certain that it is “boat”; "
        "shifted models hardly change."
    )
    row |= {"outcome": "more_2", "effect_1": 10.8, "effect_2": 37.7, "transformation": "blur"}
    assert headline(row, NAMES) == (
        "Applying blur to a picture makes shifted models 38 points more certain that it is “boat”; "
        "fixed models become more certain by 11."
    )
