"""Power: the right studies are carried out, models are shared, and outcomes are told apart."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from mdhelpers.base.specs import validate
from mdhelpers.runs.run import Run
from mdhelpers.stages import power
from mdhelpers.stages.models import read_models
from mdhelpers.stages.study import Study

SMALL = {
    "study": "s",
    "dataset": {
        "size": 16,
        "n_train": 24,
        "n_test": 30,
        "spike_in": {"transformation": "cross", "class": "boat", "share": 0.3, "intensity": 5},
    },
    "algorithm_1": {"name": "a", "epochs": 1, "width": 4},
    "algorithm_2": {"name": "b", "epochs": 2, "width": 4},
    "n_slots": 2,
    "n_models": 24,
    "n_directions": 2,
    "n_splits": 1,
    "top_k": 6,
    "method": "ridge",
    "workers": 1,
}


def study(**more) -> Study:
    return validate(Study, SMALL | more)


def test_each_strength_and_budget_is_a_study_of_its_own_that_extends_the_one_before():
    found = power.studies_of(study(n_slots=16), [6, 3], [128, 64, 32], 2)
    assert [tuple(about.values()) for _, about in found[:4]] == [
        (3, 0, 32), (3, 0, 64), (3, 0, 128), (6, 0, 32),
    ]  # fmt: skip
    assert len(found) == 2 * 2 * 3
    first, last = found[0][0], found[-1][0]
    assert first.dataset.spike_in[0].strength == 3
    assert last.dataset.spike_in[0].strength == 6
    assert (last.seed, last.dataset.seed) == (first.seed + 1, first.dataset.seed + 1)
    assert [each.n_slots for each, _ in found[:3]] == [0, 16, 16]  # 32 are too few for 16 slots
    assert found[1][0].stack == found[2][0].stack  # else none of its models could be taken up
    assert last.hypotheses[0].intensities == [6]


def test_without_a_feature_it_is_refused_with_an_example():
    with pytest.raises(ValueError, match="has no features spiked in"):
        power.studies_of(study(dataset={}), [], [], 1)


def test_the_last_study_is_checked_before_the_first_is_trained(tmp_path):
    with pytest.raises(ValueError, match="n_models: 4 are too few"):
        next(power.measure_power(study(), budgets=[24, 4], folder=tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("power")
    about = {"budgets": [24, 32], "drawings": 1, "folder": folder}
    return folder, about, list(power.measure_power(study(), **about))


def test_rows_have_what_a_table_needs(measured):
    _, _, rows = measured
    assert [row["models"] for row in rows] == [24, 32]
    for row in rows:
        assert row["outcome"] in power.OUTCOMES
        assert row["difference"] == pytest.approx(row["effect_1"] - row["effect_2"])
    assert rows[0]["effect_1"] == rows[1]["effect_1"]  # of the same models of all data


def test_the_smaller_budget_is_part_of_the_larger(measured):
    folder, _, rows = measured
    alone = next(power.measure_power(study(), budgets=[24], drawings=1, folder=folder / "alone"))
    for key in ("auc", "share", "random", "effect_1", "verdict"):
        assert alone[key] == pytest.approx(rows[0][key], nan_ok=True)
    larger, smaller = (
        read_models(Run("s-5-0-own", runs_dir=place)).fitting(2).margins
        for place in (folder, folder / "alone")
    )
    np.testing.assert_array_equal(smaller, larger[:24])


def test_called_again_it_trains_nothing(measured):
    folder, about, rows = measured
    again = list(power.measure_power(study(), **about))
    assert pd.DataFrame(again).equals(pd.DataFrame(rows))
    trained = Run("s-5-0-own", runs_dir=folder).results["02_mask_training"]
    assert trained["trained_now"] == 0


def told(monkeypatch, outcome: str, *, q=(0.01, 0.5), share=(0.9, 0.95), random=0.8) -> dict:
    """`row_of` for a run of one direction a side, as its tables would say it."""
    sides = ["1_minus_2", "2_minus_1"]
    gaps = pd.DataFrame({"comparison": sides, "direction": 1, "q": q, "evidence": ["weak", "none"]})
    grades = pd.DataFrame({"comparison": sides, "direction": 1, "end": "top", "feature": "cross"})
    grades = grades.assign(precision_at_k=share, auc_within_class=0.9)
    verdict = {"outcome": outcome, "effect_1": 20.0, "effect_2": 4.0, "difference": 16.0}
    effects = SimpleNamespace(verdicts=pd.DataFrame([verdict]))
    monkeypatch.setattr(power.effects, "read_effects", lambda _: effects)
    monkeypatch.setattr(power, "random_share", lambda *_: random)
    compared = SimpleNamespace(gaps=gaps)
    monkeypatch.setattr(power.comparison, "read_comparison", lambda _: compared)
    return power.row_of(SimpleNamespace(kept=lambda _: {"grades": grades}), study())


@pytest.mark.parametrize(
    ("outcome", "given", "said"),
    [
        ("more_1", {}, "found"),
        ("only_1", {"random": 0.92}, "not found"),  # chance shows the carriers as well
        ("only_1", {"random": 1.0, "share": (1.0, 0)}, "found"),  # nothing shows them better
        ("more_1", {"q": (0.06, 0.01)}, "not found"),  # significant on the other side only
        ("more_2", {}, "not found"),
        ("more_2", {"q": (0.5, 0.01)}, "found"),
        ("alike", {}, "no difference"),
        ("undecided", {}, "undecided"),
    ],
)
def test_found_takes_a_difference_and_a_direction_of_the_algorithm_that_has_it(
    monkeypatch, outcome, given, said
):
    assert told(monkeypatch, outcome, **given)["outcome"] == said


def test_the_summary_counts_drawings():
    about = {"strength": 3, "models": 64}
    rows = [
        about | {"difference": d, "share": a, "random": 0.5, "auc": a, "outcome": o}
        for d, a, o in ((10, np.nan, "not found"), (20, 0.9, "found"), (40, 0.8, "found"))
    ]
    rows.append(rows[0] | {"strength": 6, "outcome": "undecided"})
    table = power.summary(rows).set_index(["strength", "models"])
    first = table.loc[(3, 64)]
    assert (first["drawings"], first["found"], first["not found"]) == (3, 2, 1)
    assert (first["difference"], first["share"]) == (20, pytest.approx(0.85))
    assert table.loc[(6, 64), "undecided"] == 1
