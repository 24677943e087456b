"""Algorithms that start from other weights: files, and source models trained here."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdhelpers.training import tasks as pt
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.networks import make_model
from mdhelpers.training.tasks import TrainingPlan

SOURCE = {
    "dataset": {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 12, "seed": 5},
    "algorithm": {"name": "source", "epochs": 2, "width": 4},
    "n_models": 2,
}
TUNED = {
    "name": "tuned", "epochs": 2, "width": 4,
    "initialisation": {"kind": "pretraining", "source": SOURCE},
}  # fmt: skip


def make_plan(folder, one=TUNED, two=TUNED, **changes) -> TrainingPlan:
    options = {
        "folder": folder, "algorithms": (parse_algorithm(one), parse_algorithm(two)),
        "fingerprint": "f", "n_train": 24, "n_test": 12, "seed": 0, "alpha": 0.5, "n_models": 8,
        "n_keep": 0, "n_slots": 0, "stack": 4, "device": "cpu",
    }  # fmt: skip
    return TrainingPlan(**options | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    plan = make_plan(tmp_path_factory.mktemp("run"))
    summaries = [pt.run_source(plan, *key) for key in pt.unfinished_sources(plan)]
    return plan, summaries


def test_algorithms_of_one_source_share_its_models(trained):
    plan, summaries = trained
    assert len(summaries) == 2
    assert pt.unfinished_sources(plan) == []
    assert len(list((plan.folder / "sources").glob("*.safetensors"))) == 2
    head = make_plan(plan.folder, two=TUNED | {"trainable": "head"})
    assert pt.unfinished_sources(head) == []


def test_another_source_or_seed_is_trained_apart(trained):
    plan, _ = trained
    other = SOURCE | {"algorithm": {"name": "source", "epochs": 3, "width": 4}}
    two = TUNED | {"initialisation": {"kind": "pretraining", "source": other}}
    assert [a for a, _ in pt.unfinished_sources(make_plan(plan.folder, two=two))] == [2, 2]
    assert len(pt.unfinished_sources(make_plan(plan.folder, seed=1))) == 2


def test_a_source_is_trained_to_the_same_bits_and_learns(trained, tmp_path):
    plan, summaries = trained
    again = make_plan(tmp_path)
    pt.run_source(again, 1, 1)
    (path,) = (tmp_path / "sources").iterdir()
    assert path.read_bytes() == (plan.folder / "sources" / path.name).read_bytes()
    assert all(0 < s["accuracy"] <= 1 for s in summaries)


def test_models_take_the_sources_in_turn(trained):
    plan, _ = trained
    states = pt.starting_weights(plan, 1, slice(2, 6))
    files = [
        load_file(pt.source_path(plan, plan.algorithms[0].start.source, n)) for n in (0, 1, 0, 1)
    ]
    for state, file in zip(states, files, strict=True):
        assert torch.equal(state["conv1.weight"], file["conv1.weight"])
    assert not torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])


def test_models_of_a_slot_share_their_source(trained):
    plan = make_plan(trained[0].folder, n_slots=3)
    states = pt.starting_weights(plan, 1, slice(0, 6))
    for i in range(3):
        assert torch.equal(states[i]["conv2.weight"], states[i + 3]["conv2.weight"])


def test_a_checkpoint_is_where_all_models_start(tmp_path):
    spec = {"name": "a", "width": 4}
    weights = make_model(parse_algorithm(spec), (16, 16), 3).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    started = spec | {
        "initialisation": {"kind": "checkpoint", "path": str(tmp_path / "w.safetensors")}
    }
    states = pt.starting_weights(make_plan(tmp_path, one=started), 1, slice(0, 4))
    assert len(states) == 4
    assert all(torch.equal(s["linear.bias"], weights["linear.bias"]) for s in states)
    assert pt.starting_weights(make_plan(tmp_path, one=spec), 1, slice(0, 4)) == ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"initialisation": "pretraining"}, "pretraining and source belong together"),
        ({"initialisation": {"kind": "checkpoint"}}, "checkpoint and path"),
        ({"initialisation": "torchvision"}, "no weights for cnn"),
        ({"initialisation": "randon"}, "did you mean 'random'"),
        ({"architecture": "resnet9", "initialisation": TUNED["initialisation"]}, "the same only"),
    ],
)
def test_starts_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        parse_algorithm({"name": "a"} | changes)


def test_source_models_see_all_of_their_data():
    images = pt.source_data(
        parse_algorithm(TUNED).initialisation.source.dataset.model_dump_json(), "cpu"
    )[0].source.images
    assert images.shape == (24, 16, 16, 3)
    assert np.unique(images).size > 10
