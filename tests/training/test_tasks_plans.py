"""Plans: devices, stacks, seeds."""

import numpy as np
import pytest

from mdhelpers.training import tasks as plans
from mdhelpers.training.algorithms import NetworkSpec, parse_algorithm


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "must be auto"), ("tpu:0", "must be auto")]
)
def test_unknown_devices_are_refused(device, message):
    with pytest.raises(ValueError, match=message):
        plans.resolve_device(device)


def test_auto_takes_a_gpu_where_there_is_one(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert plans.resolve_device("auto") == "cuda"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert plans.resolve_device("auto") == "cpu"
    with pytest.raises(ValueError, match="sees no GPU"):
        plans.resolve_device("cuda")
    assert plans.resolve_device("cuda", "tcp://head:8786") == "cuda"


def make_plan(tmp_path, **changes) -> plans.TrainingPlan:
    spec = NetworkSpec(name="a")
    options = {
        "folder": tmp_path, "algorithms": (spec, spec), "fingerprint": "f", "n_train": 24,
        "n_test": 6, "seed": 3, "alpha": 0.5, "n_models": 16, "n_keep": 0, "n_slots": 4,
        "stack": 4, "device": "cpu",
    }  # fmt: skip
    return plans.TrainingPlan(**options | changes)


def test_a_stack_divides_the_models_and_keeps_to_the_rule():
    cnn, big = NetworkSpec(name="a"), NetworkSpec(name="b", architecture="resnet50")
    forest = parse_algorithm({"name": "f", "kind": "sklearn", "classifier": "SVC"})
    assert plans.choose_stack((cnn, cnn), 1152, "cpu") == 8
    assert plans.choose_stack((cnn, cnn), 1152, "cuda:1") == 128
    assert plans.choose_stack((cnn, cnn), 15, "cpu") == 5
    assert plans.choose_stack((cnn, big), 1152, "cpu") == 1
    assert plans.choose_stack((cnn, forest), 1152, "cuda") == 8


def test_shared_orders_are_one_a_slot_and_apart_between_algorithms(tmp_path):
    own, _ = plans.make_task(make_plan(tmp_path), 1, slice(0, 8))
    shared, slots = plans.make_task(make_plan(tmp_path, share_order=True), 1, slice(0, 8))
    other, _ = plans.make_task(make_plan(tmp_path, share_order=True), 2, slice(0, 8))
    assert len(set(own.data_seeds)) == 8
    assert shared.data_seeds[:4] == shared.data_seeds[4:]
    assert len(set(shared.data_seeds)) == 4
    assert slots.tolist() == [0, 1, 2, 3] * 2
    assert not set(shared.data_seeds) & set(other.data_seeds)
    assert np.array_equal(own.masks, shared.masks)


def test_sharing_without_slots_is_refused(tmp_path):
    with pytest.raises(ValueError, match="needs slots"):
        make_plan(tmp_path, share_order=True, n_slots=0)


def test_identity_tells_apart_what_decides_the_bits(tmp_path):
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    spec = parse_algorithm(
        {"name": "a", "initialisation": {"kind": "checkpoint", "path": str(weights)}}
    )
    plan = make_plan(tmp_path, algorithms=(spec, spec))
    first = plan.identity(1)
    weights.write_bytes(b"another")
    assert plan.identity(1)["weights"] != first["weights"]
    changed = make_plan(tmp_path, loader="ffcv", models_url="memory://x", n_models=32)
    assert changed.identity(1) == make_plan(tmp_path).identity(1)
    assert make_plan(tmp_path, margins_dtype="float16").identity(1) != changed.identity(1)
