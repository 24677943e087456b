import pandas as pd
import pytest

from mdhelpers.runs.stage import DATAMODELS
from mdhelpers.show import comparison as sentences


class FakeRun:
    def __init__(self, **results):
        self.results = results


def null(gap: float, naive: float = 15.0) -> dict:
    return {"naive_gap": naive, "gap": gap, "low": gap - 0.5, "high": gap + 0.5}


def comparison(real: float, itself: float) -> dict:
    figures = {"gap_1_minus_2": real}
    for name in ("1_minus_2", "2_minus_1"):
        figures[f"null_1_against_2_{name}"] = null(real)
        figures |= {f"null_{a}_against_{a}_{name}": null(itself) for a in (1, 2)}
    return {"04_residual_pca": figures}


@pytest.mark.parametrize(
    ("real", "itself", "words"), [(8, 0.3, "well above"), (1, 0.9, "**not clearly above**")]
)
def test_gaps_are_called_what_they_are(real, itself, words):
    text = sentences.null_comparison(FakeRun(**comparison(real, itself))).data
    assert text.count(words) == 2
    assert "15.0%" in text


def test_datamodels_that_foretell_nothing_are_called_so():
    good = {f"lds_{a}{end}": v for a in (1, 2) for end, v in (("", 0.4), ("_low", 0.3),
                                                              ("_high", 0.5))}  # fmt: skip
    assert "do foretell" in sentences.datamodel_quality(FakeRun(**{DATAMODELS: good})).data
    bad = good | {"lds_2_low": -0.1}
    assert "chance" in sentences.datamodel_quality(FakeRun(**{DATAMODELS: bad})).data


@pytest.mark.parametrize(
    ("effect", "low", "high", "words"),
    [(0.3, -0.4, 1.0, "alike"), (1.5, 1.0, 2.0, "alike"), (4.0, 3.0, 5.0, "does not move")],
)
def test_a_placebo_that_moves_one_algorithm_is_reported(effect, low, high, words):
    row = {"kind": "placebo", "algorithm": 0, "class_name": "boat"}
    table = pd.DataFrame([row | {"effect": effect, "low": low, "high": high}])
    found = type("Found", (), {"table": table})
    assert words in sentences.placebo(found).data
