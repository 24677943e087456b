import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mdhelpers.training import tasks
from mdhelpers.training.algorithms import NetworkSpec, parse_algorithm
from mdhelpers.training.networks import make_model
from mdhelpers.training.tasks import TrainingPlan, repeat_keys

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
    summaries = [tasks.run_source(plan, *key) for key in tasks.unfinished_sources(plan)]
    return plan, summaries


def test_algorithms_of_one_source_share_its_models(trained):
    plan, summaries = trained
    assert len(summaries) == 2
    assert tasks.unfinished_sources(plan) == []
    assert len(list((plan.folder / "sources").glob("*.safetensors"))) == 2
    head = make_plan(plan.folder, two=TUNED | {"trainable": "head"})
    assert tasks.unfinished_sources(head) == []


def test_another_source_or_seed_is_trained_apart(trained):
    plan, _ = trained
    other = SOURCE | {"algorithm": {"name": "source", "epochs": 3, "width": 4}}
    two = TUNED | {"initialisation": {"kind": "pretraining", "source": other}}
    assert [a for a, _ in tasks.unfinished_sources(make_plan(plan.folder, two=two))] == [2, 2]
    assert len(tasks.unfinished_sources(make_plan(plan.folder, seed=1))) == 2


def test_a_source_is_trained_to_the_same_bits_and_learns(trained, tmp_path):
    plan, summaries = trained
    again = make_plan(tmp_path)
    tasks.run_source(again, 1, 1)
    (path,) = (tmp_path / "sources").iterdir()
    assert path.read_bytes() == (plan.folder / "sources" / path.name).read_bytes()
    assert all(0 < s["accuracy"] <= 1 for s in summaries)


def test_models_take_the_sources_in_turn(trained):
    plan, _ = trained
    states = tasks.starting_weights(plan, 1, slice(2, 6))
    files = [
        load_file(tasks.source_path(plan, plan.algorithms[0].start.source, n)) for n in (0, 1, 0, 1)
    ]
    for state, file in zip(states, files, strict=True):
        assert torch.equal(state["conv1.weight"], file["conv1.weight"])
    assert not torch.equal(states[0]["conv1.weight"], states[1]["conv1.weight"])


def test_models_of_a_slot_share_their_source(trained):
    plan = make_plan(trained[0].folder, n_slots=3)
    states = tasks.starting_weights(plan, 1, slice(0, 6))
    for i in range(3):
        assert torch.equal(states[i]["conv2.weight"], states[i + 3]["conv2.weight"])


def test_a_checkpoint_is_where_all_models_start(tmp_path):
    spec = {"name": "a", "width": 4}
    weights = make_model(parse_algorithm(spec), (16, 16), 3).state_dict()
    save_file(weights, tmp_path / "w.safetensors")
    started = spec | {
        "initialisation": {"kind": "checkpoint", "path": str(tmp_path / "w.safetensors")}
    }
    states = tasks.starting_weights(make_plan(tmp_path, one=started), 1, slice(0, 4))
    assert len(states) == 4
    assert all(torch.equal(s["linear.bias"], weights["linear.bias"]) for s in states)
    assert tasks.starting_weights(make_plan(tmp_path, one=spec), 1, slice(0, 4)) == ()


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
    images = tasks.source_data(
        parse_algorithm(TUNED).initialisation.source.dataset.model_dump_json(), "cpu"
    )[0].source.images
    assert images.shape == (24, 16, 16, 3)
    assert np.unique(images).size > 10


# Plans: devices, stacks, seeds


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "must be auto"), ("tpu:0", "must be auto")]
)
def test_unknown_devices_are_refused(device, message):
    with pytest.raises(ValueError, match=message):
        tasks.resolve_device(device)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert tasks.resolve_device("auto") == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert tasks.resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="sees no GPU"):
        tasks.resolve_device("cuda")
    assert tasks.resolve_device("cuda", "tcp://head:8786") == "cuda"


def test_without_a_gpu_here_what_a_cluster_trained_is_computed_on_the_cpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert tasks.device_here("cuda") == tasks.device_here("auto") == "cpu"
    with pytest.raises(ValueError, match="it must be auto"):
        tasks.device_here("gpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (tasks.device_here("cuda:1"), tasks.device_here("cpu")) == ("cuda:1", "cpu")


def plain_plan(tmp_path, **changes) -> tasks.TrainingPlan:
    spec = NetworkSpec(name="a")
    options = {
        "folder": tmp_path, "algorithms": (spec, spec), "fingerprint": "f", "n_train": 24,
        "n_test": 6, "seed": 3, "alpha": 0.5, "n_models": 16, "n_keep": 0, "n_slots": 4,
        "stack": 4, "device": "cpu",
    }  # fmt: skip
    return tasks.TrainingPlan(**options | changes)


def test_a_stack_divides_the_models_and_keeps_to_the_rule():
    cnn, big = NetworkSpec(name="a"), NetworkSpec(name="b", architecture="resnet50")
    forest = parse_algorithm({"name": "f", "kind": "sklearn", "classifier": "SVC"})
    assert tasks.choose_stack((cnn, cnn), 1152, "cpu") == 8
    assert tasks.choose_stack((cnn, cnn), 1152, "cuda:1") == 128
    assert tasks.choose_stack((cnn, cnn), 15, "cpu") == 5
    assert tasks.choose_stack((cnn, big), 1152, "cpu") == 1
    assert tasks.choose_stack((cnn, forest), 1152, "cuda") == 8


def test_shared_orders_are_one_a_slot_and_apart_between_algorithms(tmp_path):
    own, _ = tasks.make_task(plain_plan(tmp_path), 1, slice(0, 8))
    shared, slots = tasks.make_task(plain_plan(tmp_path, share_order=True), 1, slice(0, 8))
    other, _ = tasks.make_task(plain_plan(tmp_path, share_order=True), 2, slice(0, 8))
    assert len(set(own.data_seeds)) == 8
    assert shared.data_seeds[:4] == shared.data_seeds[4:]
    assert len(set(shared.data_seeds)) == 4
    assert slots.tolist() == [0, 1, 2, 3] * 2
    assert not set(shared.data_seeds) & set(other.data_seeds)
    assert np.array_equal(own.masks, shared.masks)


def test_sharing_without_slots_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs slots"):
        plain_plan(tmp_path, share_order=True, n_slots=0)


def test_identity_tells_apart_what_decides_the_bits(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    spec = parse_algorithm(
        {"name": "a", "initialisation": {"kind": "checkpoint", "path": str(weights)}}
    )
    plan = plain_plan(tmp_path, algorithms=(spec, spec))
    first = plan.identity(1)
    weights.write_bytes(b"another")
    assert plan.identity(1)["weights"] != first["weights"]
    changed = plain_plan(tmp_path, loader="ffcv", models_url="memory://x", n_models=32)
    assert changed.identity(1) == plain_plan(tmp_path).identity(1)
    assert plain_plan(tmp_path, margins_dtype="float16").identity(1) != changed.identity(1)


@pytest.mark.parametrize(("n_masks", "n_models", "n_slots"), [(128, 1152, 32), (30, 97, 8)])
def test_repeats_have_keys_of_their_own_and_other_initialisations(n_masks, n_models, n_slots):
    keys = [repeat_keys(n_masks, r, n_models=n_models, n_slots=n_slots) for r in range(1, n_slots)]
    every = np.concatenate([np.arange(n_models), *keys])
    assert len(np.unique(every)) == len(every)
    slots = np.array([np.arange(n_masks), *keys]) % n_slots
    assert all(len(set(column)) == n_slots for column in slots.T)
    assert np.ptp(np.bincount(slots[1], minlength=n_slots)) <= 1


def test_repeats_without_slots_have_keys_of_their_own():
    keys = [repeat_keys(20, r, n_models=33, n_slots=0) for r in (1, 2)]
    assert len(np.unique(np.concatenate([np.arange(33), *keys]))) == 73
