import pandas as pd
import pytest

from mdhelpers.studies import Hypothesis
from mdhelpers.verification import EFFECT_COLUMNS, judge, largest


def table(rows) -> pd.DataFrame:
    full = [
        ("h", "feature", "tag", intensity, "boat", algorithm, effect, effect - 1, effect + 1)
        for intensity, algorithm, effect in rows
    ]
    return pd.DataFrame(full, columns=EFFECT_COLUMNS)


def hypothesis(uses: int) -> Hypothesis:
    return Hypothesis(
        name="h", transformation="tag", intensities=[3, 5], target_class="boat", uses=uses
    )


@pytest.mark.parametrize(
    ("effects", "uses", "outcome"),
    [
        ((30, 1), 1, "distinguishing"),
        ((1, 30), 1, "opposite"),
        ((1, 30), 2, "distinguishing"),
        ((30, 12), 1, "not shown"),
        ((30, 30), 0, "control"),
    ],
)
def test_the_verdict_is_given_at_the_largest_intensity(effects, uses, outcome):
    measured = table([(3, 1, 0), (3, 2, 0), (5, 1, effects[0]), (5, 2, effects[1])])
    verdict = judge(measured, [hypothesis(uses)], ("p", "q"), epsilon=5, delta=10)
    assert verdict["outcome"].item() == outcome
    assert set(largest(measured, "h", "feature")["intensity"]) == {5}


def test_no_hypothesis_gives_an_empty_table():
    assert not len(judge(table([]), [], ("p", "q"), epsilon=5, delta=10))
