"""Each figure and table of page 09 shows the numbers it was given."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mdhelpers.analyses.predictions import OUTCOMES
from mdhelpers.show import predictions as show

NAMES = ("plain", "augmented")
PAIRS = ("1 against 1", "2 against 2", "1 against 2")


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


@pytest.fixture
def pairs():
    rng = np.random.default_rng(0)
    rows = []
    for masks in ("equal", "other"):
        for pair in PAIRS:
            known = masks == "other" or pair == "1 against 2"
            rows += [
                {"pair": pair, "masks": masks, "inconsistency": rng.uniform(0.1, 0.3),
                 "expected": 0.32, "gain": rng.normal() if known else np.nan,
                 "conversion": rng.random() if known else np.nan}
                for _ in range(7)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def test_pairs_have_names_that_readers_know():
    assert show.pair_label("1 against 1", NAMES) == "two plain"
    assert show.pair_label("1 against 2", NAMES) == "plain and augmented"


def test_inconsistencies_stand_in_the_order_of_the_table(ax, pairs):
    kinds = pairs.groupby(["masks", "pair"], sort=False)["inconsistency"].mean().rename("mean")
    kinds = kinds.reset_index().assign(measure="inconsistency")
    kinds["low"], kinds["high"] = kinds["mean"] - 0.01, kinds["mean"] + 0.02
    extra = kinds.iloc[:1].assign(pair="difference")
    shown = pd.concat([kinds, extra])
    assert show.error_inconsistencies(ax, shown, pairs, names=NAMES) is ax
    ticks = [text.get_text().replace("\n", " ") for text in ax.get_yticklabels()]
    assert ticks[:3] == ["two plain, same mask", "two augmented, same mask",
                         "plain and augmented, same mask"]  # fmt: skip
    assert len(ticks) == 6
    means = [line.get_xdata()[0] for line in ax.lines if line.get_markersize() == 9]
    np.testing.assert_allclose(means, 100 * kinds["mean"])
    points = [line for line in ax.lines if line.get_markersize() == 3]
    assert [len(line.get_xdata()) for line in points] == [7] * 6


@pytest.mark.parametrize(("masks", "shown"), [("other", 3), ("equal", 1)])
@pytest.mark.parametrize("measure", ["gain", "conversion"])
def test_ensembles_show_pairs_and_their_mean(ax, pairs, masks, shown, measure):
    show.ensemble_scatter(ax, pairs, measure=measure, masks=masks, names=NAMES)
    assert len(legend(ax)) == shown
    part = pairs[(pairs["masks"] == masks) & (pairs["pair"] == "1 against 2")]
    mean = [line for line in ax.lines if line.get_markersize() == 11][-1]
    assert mean.get_ydata()[0] == pytest.approx(100 * part[measure].mean())


def test_a_point_lies_above_the_diagonal_where_model_1_is_surer(ax):
    one, two = np.array([0.9, 0.5, 0.6, 0.4]), np.array([0.5, 0.9, 0.6, 0.4])
    right = np.array([1, 0, 1, 0], bool), np.array([0, 1, 1, 0], bool)
    show.confidence_confidence(ax, one, two, *right, names=NAMES)
    lines = {line.get_label(): line for line in ax.lines}
    assert (lines["only 1 right"].get_xdata(), lines["only 1 right"].get_ydata()) == ([50], [90])
    assert (lines["only 2 right"].get_xdata(), lines["only 2 right"].get_ydata()) == ([90], [50])
    assert lines["both wrong"].get_xdata() == [40]
    assert "plain" in ax.get_ylabel()


def test_histograms_say_the_share_of_the_outcome(ax):
    edges = np.linspace(-0.7, 0.7, 8)
    rows = [
        {"pair": pair, "masks": "other", "outcome": outcome, "left": a, "right": b, "share": 0.01}
        for pair in PAIRS for outcome in OUTCOMES for a, b in pairwise(edges)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    show.angle_histograms(ax, table, outcome="only 1 right", names=NAMES)
    assert legend(ax)[0] == "two plain: 7.0%"
    assert len(ax.patches) == 3


def test_classes_have_a_marker_for_each_kind(ax):
    rows = [
        {"pair": pair, "masks": "other", "label": label, "theta_mean": 0.1 * label,
         "theta_low": -0.1, "theta_high": 0.3}
        for pair in PAIRS for label in range(3)
    ]  # fmt: skip
    names = ["boat", "fish", "house"]
    show.class_angles(ax, pd.DataFrame(rows), names, names=NAMES)
    assert [text.get_text() for text in ax.get_xticklabels()] == names
    assert legend(ax) == ["two plain", "two augmented", "plain and augmented"]
    drawn = [line.get_ydata() for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(drawn[0], np.degrees([0, 0.1, 0.2]))


def test_grades_of_features_and_subpopulations_are_where_they_are_told(ax):
    rows = [
        {"feature": feature, "score": score, "auc_within_class": auc, "chance": 0.6}
        for feature, auc in (("tag", 0.9), ("odd_ring", 0.7))
        for score in show.SCORE_STYLES
    ]
    show.feature_grades(ax, pd.DataFrame(rows))
    assert [text.get_text() for text in ax.get_yticklabels()] == ["tag", "odd ring"]
    assert len(legend(ax)) == 5
    squares = [line.get_xdata() for line in ax.lines if line.get_marker() == "s"]
    np.testing.assert_allclose(squares[0], [0.9, 0.7])


def test_members_follow_the_order_of_evidence(ax):
    rows = [
        {"comparison": comparison, "direction": direction, "end": end, "chance": 0.6,
         "margin": 0.5 + direction / 10 + 0.01 * (end == "top")}
        for comparison in ("1_minus_2", "2_minus_1")
        for direction in (3, 1) for end in ("top", "bottom")
    ]  # fmt: skip
    show.member_grades(ax, pd.DataFrame(rows), names=NAMES)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["3", "1", "3", "1"]
    tops = [line.get_ydata() for line in ax.lines if line.get_marker() == "^"]
    np.testing.assert_allclose(tops, [[0.81, 0.61]] * 2)


def test_a_lacking_column_is_named(ax, pairs):
    with pytest.raises(ValueError, match=r"lacks.*gain_over_better"):
        show.ensemble_scatter(ax, pairs, measure="gain_over_better")
    with pytest.raises(ValueError, match="lacks"):
        show.member_grades(ax, pairs)


def found(**tables):
    return SimpleNamespace(tables=SimpleNamespace(**tables))


@pytest.mark.parametrize(
    ("difference", "word"), [(0.05, "more"), (0.005, "cannot tell"), (-0.05, "less")]
)
def test_a_difference_is_called_what_its_interval_allows(difference, word):
    rows = [
        {"masks": masks, "measure": "gain", "pair": pair, "mean": mean, "low": mean - 0.01,
         "high": mean + 0.01}
        for masks in ("equal", "other")
        for pair, mean in ((*((p, 0.25) for p in PAIRS), ("difference", difference)))
        if masks == "other" or pair == "1 against 2"
    ]  # fmt: skip
    table = show.kinds(found(kinds=pd.DataFrame(rows)), NAMES)
    assert table.index.tolist() == [("same", table.index[0][1]), ("different", table.index[1][1])]
    assert table["verdict"].tolist() == ["–", word]
    assert table["plain and augmented"].tolist() == ["25.0 [24.0, 26.0]"] * 2
    assert table["two plain"].tolist() == ["–", "25.0 [24.0, 26.0]"]


def test_features_are_called_seen_where_most_outermost_images_carry_them():
    rows = [
        {"feature": "tag", "score": score, "which": which, "end": "top", "auc_within_class": 0.9,
         "auc": 0.8, "precision_at_k": 0.5, "first": first, "n_looks": 2, "chance": 0.6, "n": 20}
        for score, which, first in (
            ("margin", "margin", 0.75), ("direction", "2_minus_1 #4", 0.5)
        )
    ]  # fmt: skip
    table = show.features(found(grades=pd.DataFrame(rows)), NAMES)
    assert table["verdict"].tolist() == ["seen", "not seen"]
    assert table["which"].tolist() == ["margin", "augmented ∖ plain #4"]
    assert table["carriers of the first 12"].tolist() == [9, 6]
    assert "No truth" in show.features(found(grades=pd.DataFrame()), NAMES)


def test_subpopulations_are_told_from_chance():
    rows = [
        {"comparison": "1_minus_2", "direction": direction, "end": end, "label": 1, "n": 8,
         "confidence": 0.5, "angle": 0.5, "margin": margin, "chance": 0.6}
        for direction, end, margin in ((2, "top", 0.9), (2, "bottom", 0.6), (1, "top", np.nan))
    ]  # fmt: skip
    table = show.members(found(members=pd.DataFrame(rows)), ["boat", "fish"], NAMES)
    assert table["verdict"].tolist() == ["above chance", "as by chance", "–"]
    assert table["class"].tolist() == ["fish"] * 3
    assert len(show.members(found(members=pd.DataFrame(rows)), "ab", NAMES, n_directions=1)) == 2


def test_classes_lean_and_single_pairs_show_it_or_not():
    rows = [
        {"pair": "1 against 2", "masks": masks, "label": label, "theta_mean": mean,
         "theta_low": mean - 0.1, "theta_high": mean + 0.1}
        for masks in ("equal", "other") for label, mean in ((0, 0.05), (1, -0.2))
    ]  # fmt: skip
    table = show.classes(found(classes=pd.DataFrame(rows)), ["boat", "fish"], NAMES)
    assert table.index.tolist() == ["fish", "boat"]
    assert table["leans to"].tolist() == ["augmented", "plain"]
    assert table["by, degrees"].tolist() == [11.5, 2.9]
    assert table["verdict"].tolist() == ["nearly every pair", "pairs go either way"]
