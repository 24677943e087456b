import pytest

from mdhelpers.runs.stage import MODELS, PREDICTIONS
from mdhelpers.show import predictions as sentences


class FakeRun:
    def __init__(self, **figures):
        self.results = {PREDICTIONS: figures, MODELS: {"name_1": "plain", "name_2": "augmented"}}


def block(value, *, half=0.01, measures=("inconsistency", "gain", "conversion", "surer_is_right")):
    found = {"gain_over_better": value}
    for measure in measures:
        found |= {measure: value, f"{measure}_low": value - half, f"{measure}_high": value + half}
    return found


def kinds(difference, masks="other"):
    prefix = f"{masks}_masks_"
    found = {f"{prefix}{a}_against_{a}": block(0.2) for a in (1, 2)}
    return found | {f"{prefix}1_against_2": block(0.25), f"{prefix}difference": block(difference)}


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        (0.05, "differ more than two alike: +5.0 points [+4.0, +6.0]"),
        (0.005, "**cannot be told from none**"),
        (-0.05, "holds **more**"),
    ],
)
def test_a_difference_is_called_what_its_interval_allows(difference, words):
    run = FakeRun(**kinds(difference))
    text = sentences.errors(run).data
    assert words in text
    assert text.count("- On ") == 1
    assert "25.0% [24.0, 26.0]" in text
    assert "two plain and " in text
    for say in (sentences.ensembles, sentences.specialisation):
        assert words.split("two")[-1].split(":")[0][-10:] in say(run).data


def test_both_comparisons_are_told_and_missing_ones_left_out():
    run = FakeRun(**kinds(0.05), **kinds(0.05, "equal"))
    assert sentences.errors(run).data.count("- On ") == 2
    assert "no pairs" in sentences.errors(FakeRun()).data
    assert "no pairs" in sentences.ensembles(FakeRun()).data
    assert "no pairs" in sentences.specialisation(FakeRun()).data


def graded(score, auc, first, which="margin"):
    return {"feature": "tag", "score": score, "which": which, "auc_within_class": auc,
            "chance": 0.6, "first": first}  # fmt: skip


@pytest.mark.parametrize(
    ("prediction", "direction", "words"),
    [
        (1.0, 1.0, "both show it"),
        (0.5, 1.0, "the direction shows it, and the predictions do not"),
        (0.75, 0.25, "the predictions show it, and the direction does not"),
        (0.25, 0.0, "neither"),
    ],
)
def test_features_are_called_seen_where_most_outermost_images_carry_them(
    prediction, direction, words
):
    rows = [graded("angle", 0.7, 0.0), graded("margin", 0.95, prediction),
            graded("direction", 0.9, direction, "2_minus_1 #4")]  # fmt: skip
    text = sentences.features_sentence(FakeRun(features=rows)).data
    assert words in text
    assert "0.95 (by the margin" in text
    assert "augmented ∖ plain #4" in text
    assert f"{round(12 * prediction)} and {round(12 * direction)} carry it" in text
    assert "No truth" in sentences.features_sentence(FakeRun(features=[])).data


def test_subpopulations_are_counted():
    figures = {"n": 32, "n_above_chance": 16, "n_at_0.9": 2, "median": 0.651}
    text = sentences.members_sentence(FakeRun(members=figures)).data
    assert "Of 32 ends" in text
    assert "**16**" in text
    assert "0.65" in text
    assert "No subpopulation" in sentences.members_sentence(FakeRun(members={"n": 0})).data
