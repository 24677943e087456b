import re

import pytest

from mdhelpers.base.specs import validate
from mdhelpers.runs.run import StudyError
from mdhelpers.stages import capacity
from mdhelpers.stages.capacity import method_of, no_room
from mdhelpers.stages.checks import check_study
from mdhelpers.stages.study import GradientSpec, Study
from mdhelpers.training.algorithms import NetworkSpec

NETWORK = {"architecture": "resnet9", "epochs": 2}
LARGE = {
    "study": "large",
    "dataset": {"kind": "scenes", "size": 32, "n_train": 50_000, "n_test": 10_000},
    "algorithm_1": {"name": "one", **NETWORK},
    "algorithm_2": {"name": "two", **NETWORK, "augmentation": {"flip": True}},
    "captions": {"model": "none"},
    "n_slots": 0,
    "device": "cpu",
}


def study(**changes) -> Study:
    return validate(Study, LARGE | changes)


@pytest.fixture
def machine(monkeypatch):
    """A machine of so much memory and disk."""

    def made(memory: float, disk: float) -> None:
        monkeypatch.setattr(capacity, "memory_bytes", lambda: memory)
        monkeypatch.setattr(capacity, "disk_bytes", lambda _: disk)

    return made


def test_gradients_of_the_default_specification_take_what_their_shapes_say():
    given = study(n_models=64)
    specs, of = (given.algorithm_1, given.algorithm_2), capacity.sizes_of(given)
    looks, scores = 3 * (50_000 + 10_000) * 4096, 10_000 * 50_000
    expected = 2 * 64 * 4 * (looks + scores)  # 633 GB
    assert capacity.disk_of_gradients(given.gradients, specs, of) == expected
    less = GradientSpec(models=16, at=[1.0], dimension=1024)
    expected = 2 * 16 * 4 * (60_000 * 1024 + scores)
    assert capacity.disk_of_gradients(less, specs, of) == expected


def test_a_small_networks_gradients_are_as_long_as_its_weights():
    of = capacity.Sizes(64, 10_000, 100, 16, 4)
    tiny = NetworkSpec(name="tiny", width=4)
    n_weights = 4 * 3 * 25 + 8 * 4 * 9 + 8 * 8 * 9  # and biases, and the linear layer
    taken = capacity.disk_of_gradients(GradientSpec(models=8, at=[1.0]), [tiny], of)
    length = taken / 4 / 8 - 100 * 10_000
    assert n_weights < length / 10_100 < 1.2 * n_weights


def test_auto_takes_nothing_that_the_machine_has_no_room_for(machine):
    machine(25e9, 1e13)
    assert method_of(study(n_models=50_000)) == "lasso"  # gradients take too much disk
    small = {"models": 16, "at": [1.0], "dimension": 1024}
    assert method_of(study(n_models=50_000, gradients=small)) == "trak"
    assert method_of(study(n_models=64, gradients=small)) == "trak+ridge"
    assert method_of(study(n_models=64)) == "ridge"  # the kernel of 64 models


def test_ridge_at_the_papers_scale_is_refused_with_what_to_give(machine):
    machine(25e9, 1e13)
    with pytest.raises(StudyError, match="method: ridge cannot be fitted here") as error:
        check_study(study(n_models=50_000, method="ridge"))
    for method in re.search("Give method: (.*),", str(error.value))[1].split(" or "):
        small = {"models": 16, "at": [1.0], "dimension": 1024}
        check_study(study(n_models=50_000, method=method, gradients=small))
    check_study(study(n_models=50_000, method="ridge"), here=False)


def test_a_gram_matrix_beyond_memory_is_refused(machine):
    machine(8e9, 1e13)
    (told,) = no_room(study(n_models=50_000, method="lasso"))
    assert "a fit takes 18.1 GB, and 8.0 GB are there" in told


def test_gradients_beyond_the_disk_are_refused_and_what_is_advised_passes(machine):
    machine(1e12, 3e11)
    (told,) = no_room(study(n_models=64, method="trak"))
    assert "take 633.5 GB, and the disk of runs_dir has 300.0 GB" in told
    models, at, dimension = re.search(
        r"models: (\d+), at: \[(.*)\], dimension: (\d+)", told
    ).groups()
    advised = {"models": int(models), "dimension": int(dimension)}
    advised["at"] = [float(share) for share in at.split(",")]
    assert not no_room(study(n_models=64, method="trak", gradients=advised))


def test_datamodels_made_elsewhere_take_no_fit(machine):
    machine(1e9, 1e9)
    given = {"datamodels_1_path": "a.pt", "datamodels_2_path": "b.pt"}
    assert not no_room(study(n_models=50_000, method="ridge", **given))


def test_images_beyond_the_memory_are_refused(machine):
    machine(1e8, 1e13)
    assert "dataset: images take 184.3 MB" in no_room(study(n_models=64, method="trak"))[-1]
