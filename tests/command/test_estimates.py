"""Estimates of a study's cost, made before it begins."""

import pytest

from mdhelpers.base.specs import validate
from mdhelpers.command import estimates
from mdhelpers.command import estimates as dry_run
from mdhelpers.stages.study import Study

SIZES = {
    "dataset": {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 30},
    "n_models": 24, "n_heldout": 8, "n_effect_models": 4, "n_slots": 2,
}  # fmt: skip
NETWORK = {"name": "a", "epochs": 2, "width": 4}


def study(one: dict, two: dict, **changes) -> Study:
    given = {"study": "s", "algorithm_1": one, "algorithm_2": two, "workers": 1}
    return validate(Study, SIZES | given | changes)


def test_models_of_both_algorithms_are_counted():
    found = estimates.estimate(study(NETWORK, NETWORK))
    assert found["models"] == 64
    assert found["seconds"] > estimates.SECONDS_BESIDE_TRAINING
    assert found["bytes"] > 64 * 4 * 30


def test_models_trained_anew_are_counted_by_their_images():
    sizes = {"n_removal_tests": 5, "n_models_per_set": 2, "selection_sizes": [6, 12]}
    found = estimates.trained_anew(study(NETWORK, NETWORK, **sizes), 24)
    half = 5 * 3
    whole = 1 + 5 * 2
    chosen = 3 * (6 + 12) / 24
    assert found == pytest.approx(2 * (half + 2 * whole + 2 * chosen))


def test_more_epochs_take_longer():
    short, long = (
        estimates.estimate(study(NETWORK | {"epochs": n}, NETWORK))["seconds"] for n in (1, 1000)
    )
    assert long > 2 * short - estimates.SECONDS_BESIDE_TRAINING


def test_a_function_is_not_called_for_an_estimate():
    mine = {"name": "mine", "kind": "python", "function": "not_there:train"}
    assert "mine not tried" in estimates.estimate(study(NETWORK, mine))["basis"]


def test_a_forest_is_tried():
    forest = {
        "name": "forest", "kind": "sklearn", "classifier": "RandomForestClassifier",
        "options": {"n_estimators": 5},
    }  # fmt: skip
    assert "forest 0." in estimates.estimate(study(NETWORK, forest))["basis"]


def test_a_folder_that_is_not_there_is_named(tmp_path):
    missing = {"kind": "image_folder", "root": str(tmp_path / "none")}
    with pytest.raises(FileNotFoundError, match=r"check dataset\.root"):
        estimates.estimate(study(NETWORK, NETWORK, dataset=missing))


def test_memory_grows_with_the_largest_step_and_is_said_before(monkeypatch):
    small = estimates.memory_needed(study(NETWORK, NETWORK))
    large = {"kind": "scenes", "size": 16, "n_train": 20_000, "n_test": 5_000}
    needed = estimates.memory_needed(study(NETWORK, NETWORK, dataset=large))
    assert needed - small > 8 * 8 * 20_000 * 5_000  # 8 fits on quarters, float64
    monkeypatch.setattr(dry_run, "memory_bytes", lambda: needed - 1)
    assert "take fewer test images" in dry_run.of_memory(needed)
    assert "are here)" in dry_run.of_memory(small)
