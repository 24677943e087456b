import hashlib
import io
import socket
import time
import urllib.error

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mdhelpers.training import weights
from mdhelpers.training.weights import fit_to, read_weights, torchvision_weights


def small_net(n_classes=3, width=4):
    layers = (nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(width, n_classes))


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.fixture
def state():
    torch.manual_seed(1)
    return small_net().state_dict()


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.PTH"])
def test_weights_are_read_from_either_kind_of_file(name, state, tmp_path):
    path = tmp_path / name
    save_file(state, path) if name.endswith("tensors") else torch.save(state, path)
    assert same(read_weights(path), state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"state_dict": {f"module.{key}": s[key] for key in s}},
        lambda s: {f"_orig_mod.module.{key}": s[key] for key in s},
    ],
)
def test_the_usual_wrappers_are_taken_off(wrap, state, tmp_path):
    torch.save(wrap(state), tmp_path / "w.pt")
    assert same(read_weights(tmp_path / "w.pt"), state)


class Trap:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_nothing_in_a_pickle_is_run(tmp_path):
    torch.save({"state_dict": Trap(tmp_path / "sprung")}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt was refused.*more than tensors.*could run code"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", b"", "are read from .safetensors, .pt, .pth files only"),
        ("w.bin", b"", "are read from .safetensors, .pt, .pth files only"),
        ("w.safetensors", b"nonsense", "not a safetensors file"),
        ("w.pt", b"", r"w\.pth? was refused: it is damaged"),
        ("w.pth", b"PK\x03\x04 cut off", r"w\.pth? was refused: it is damaged"),
    ],
)
def test_other_files_are_refused(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no weights at .*none\.pt"):
        read_weights(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ([torch.zeros(2)], "got list"),
        ({"epoch": 3, "a": torch.zeros(2)}, "'epoch' is not one"),
        ({}, "there are none"),
    ],
)
def test_a_file_of_other_things_is_refused(held, message, tmp_path):
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=message):
        read_weights(tmp_path / "w.pt")


def test_weights_that_fit_are_all_taken(state):
    model = small_net()
    assert same(fit_to(model, state), state)
    model.load_state_dict(fit_to(model, state, fresh_head=False))


def test_another_number_of_classes_leaves_the_head_fresh(state):
    model = small_net(n_classes=5)
    fitted = fit_to(model, state)
    head = {"3.weight", "3.bias"}
    own = model.state_dict()
    assert all(torch.equal(fitted[key], (own if key in head else state)[key]) for key in own)
    model.load_state_dict(fitted)
    with pytest.raises(ValueError, match=r"3\.weight has shape \(3, 4\), expected \(5, 4\)"):
        fit_to(model, state, fresh_head=False)


def test_files_without_step_counters_fit(state):
    del state["1.num_batches_tracked"]
    assert fit_to(small_net(), state)["1.num_batches_tracked"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), r"a Sequential's: 0\.bias is missing"),
        (lambda s: s.pop("3.bias"), r"3\.bias is missing"),
        (lambda s: s.update(other=s["0.bias"]), "other is unknown"),
        (lambda s: s.update({"0.bias": torch.zeros(7)}), r"0\.bias has shape \(7,\), expected"),
        (lambda s: s.clear(), r"0\.weight is missing.*\(and 5 more\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message, state):
    change(state)
    with pytest.raises(ValueError, match=message):
        fit_to(small_net(), state)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_torchvisions_weights_come_from_the_cache(hub, state, monkeypatch):
    hub.mkdir()
    torch.save(state, hub / "resnet18-f37072fd.pth")
    monkeypatch.setattr(weights, "reachable", None)
    assert same(torchvision_weights("resnet18"), state)


def test_without_a_network_the_way_out_is_said_at_once(hub, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", refuse)
    start = time.monotonic()
    with pytest.raises(ValueError, match="kind: checkpoint, path: FILE") as error:
        torchvision_weights("resnet50")
    assert str(hub / "resnet50-0676ba61.pth") in str(error.value)
    assert time.monotonic() - start < 30  # torchvision's import included
    assert not hub.exists()


def served(monkeypatch, answer):
    monkeypatch.setattr(weights, "reachable", lambda _: True)
    monkeypatch.setattr(weights, "urlopen", answer)


def test_a_download_is_checked_and_kept(hub, state, monkeypatch):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    served(monkeypatch, lambda _, timeout: io.BytesIO(buffer.getvalue()))  # noqa: ARG005
    place = hub / f"net-{digest[:8]}.pth"
    weights._download(f"https://host/{place.name}", place)
    assert same(read_weights(place), state)


def test_a_damaged_download_is_not_kept(hub, monkeypatch):
    served(monkeypatch, lambda _, timeout: io.BytesIO(b"half of it"))  # noqa: ARG005
    with pytest.raises(ValueError, match=r"SHA-256 begins with .*, not f37072fd"):
        torchvision_weights("resnet18")
    assert list(hub.iterdir()) == []


def test_a_download_that_fails_says_why(hub, monkeypatch):
    def stall(_, timeout):
        assert timeout < 30
        raise urllib.error.URLError("timed out")

    served(monkeypatch, stall)
    with pytest.raises(ValueError, match=r"timed out.*kind: checkpoint"):
        torchvision_weights("resnet18")
    assert list(hub.iterdir()) == []


def test_architectures_without_weights_are_refused():
    with pytest.raises(ValueError, match="no ImageNet weights of 'resnet9'"):
        torchvision_weights("resnet9")
