import importlib
import json
import sys
import types

import pytest
from small_project import make_project

from mdhelpers.command import doctor


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


FOUND = {
    "python": "3.11.7",
    "cpu": "A processor",
    "cores": 2,
    "memory_bytes": 25e9,
    "free_disk_bytes": 70e9,
    "runs_dir": "runs",
    "torch": "2.12.1",
    "gpu": {"name": None, "why": "torch sees no CUDA device"},
    "ffcv": {"version": None, "why": "not installed: pip install 'mdhelpers[ffcv]'"},
    "clip_weights": [],
    "data": {"cifar10": None, "image_folders": None},
    "chromium": None,
    "jupyter_book": None,
    "studies": {"tiny": {"models": 16, "seconds": 90, "bytes": 2e6}},
}


def test_a_small_machine_in_plain_words():
    said = doctor.report(FOUND)
    assert "GPU            none: torch sees no CUDA device" in said
    assert "- Training runs on the processor, 2 models at a time." in said
    assert "- Study tiny: 16 models, about 1 min 30 s, 2.0 MB of disk." in said
    assert "skip: no Chromium was found" in said
    assert "Memory is under" not in said
    assert "Memory is under 4 GB" in doctor.report(FOUND | {"memory_bytes": 2e9})


def test_a_large_machine_in_plain_words():
    gpu = {"name": "A card", "memory_bytes": 80e9, "count": 2}
    more = {
        "gpu": gpu,
        "ffcv": {"version": "1.0.2"},
        "clip_weights": ["laion/CLIP-ViT-B-32"],
        "data": {"cifar10": "data/cifar-10-batches-py", "image_folders": "data/birds"},
        "chromium": "/usr/bin/chromium",
    }
    said = doctor.report(FOUND | more)
    assert "2 × A card, 80.0 GB" in said
    assert "Training runs on the GPU (A card)" in said
    assert "also laion/CLIP-ViT-B-32" in said
    assert "CIFAR-10 is here." in said


def test_clip_weights_are_found_in_the_cache_only(tmp_path, monkeypatch):
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert doctor.find_clip_weights() == []
    for name, file in [
        ("models--laion--CLIP-ViT-B-32", "open_clip_model.safetensors"),
        ("models--laion--CLIP-empty", "config.json"),
        ("models--timm--resnet18", "model.safetensors"),
    ]:
        snapshot = tmp_path / "hub" / name / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / file).write_text("")
    assert doctor.find_clip_weights() == ["laion/CLIP-ViT-B-32"]


def test_data_is_found_below_data(project):
    assert doctor.find_data() == {"cifar10": None, "image_folders": None}
    for folder in ("cifar-10-batches-py", "birds/train", "birds/test", "half/train"):
        (project / "data" / folder).mkdir(parents=True)
    found = doctor.find_data()
    assert found == {"cifar10": "data/cifar-10-batches-py", "image_folders": "data/birds"}


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (ModuleNotFoundError("No module named 'ffcv'", name="ffcv"), "not installed: pip install"),
        (ModuleNotFoundError("No module named 'cv2'", name="cv2"), "does not import: No module"),
        (ImportError("libturbojpeg.so.0: cannot open"), "does not import: libturbojpeg.so.0"),
    ],
)
def test_ffcv_that_does_not_import_says_why(monkeypatch, error, why):
    def import_module(_):
        raise error

    monkeypatch.setattr(importlib, "import_module", import_module)
    found = doctor.find_ffcv()
    assert found["version"] is None
    assert why in found["why"]


def test_chromium_on_the_path_or_playwrights_own(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "own"))
    assert doctor.find_browser() is None
    for place in ("own/chromium-1200/chrome-linux/chrome", "bin/chromium"):
        file = tmp_path / place
        file.parent.mkdir(parents=True)
        file.write_text("")
        file.chmod(0o755)
        assert doctor.find_browser() == str(file)


def test_the_default_study_is_estimated(project, monkeypatch):
    estimates = types.ModuleType("mdhelpers.command.estimates")
    estimates.estimate = lambda study: {"models": 2 * study.n_models, "seconds": 1, "bytes": 1}
    monkeypatch.setitem(sys.modules, "mdhelpers.command.estimates", estimates)
    assert doctor.estimates() == {}
    algorithms = "algorithm_1: {name: one}\nalgorithm_2: {name: two}\n"
    (project / "parameters" / "augmentation.yaml").write_text(f"n_models: 8\n{algorithms}")
    assert doctor.estimates() == {"augmentation": {"models": 16, "seconds": 1, "bytes": 1}}


@pytest.mark.slow
def test_this_machine_is_examined_in_json(monkeypatch):
    monkeypatch.setattr(doctor, "find_ffcv", lambda: {"version": None, "why": "left out here"})
    monkeypatch.setattr(doctor, "estimates", dict)
    found = json.loads(json.dumps(doctor.examine()))
    assert found["cores"] >= 1
    assert doctor.report(found)
