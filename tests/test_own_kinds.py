"""What a study may name that this package does not have, and what records of its own kinds say."""

import json
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mdhelpers.base.specs import _say_what_runs, validate
from mdhelpers.command.estimates import estimate
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.sources import SOURCES, data_digest
from mdhelpers.runs.run import Run
from mdhelpers.stages.checks import check_study
from mdhelpers.stages.data import prepare_data
from mdhelpers.stages.models import train_models
from mdhelpers.stages.study import Study
from mdhelpers.training.algorithms import (
    LEARNERS,
    NetworkSpec,
    PythonSpec,
    SklearnSpec,
    parse_algorithm,
)
from mdhelpers.training.learners import margins_of
from mdhelpers.training.mask_training import read_log
from mdhelpers.training.networks import ARCHITECTURES

RECORDED = [
    (
        NetworkSpec(name="a"),
        '{"name": "a", "kind": "network", "architecture": "cnn", "width": null, "initialisation": '
        '{"kind": "random", "path": "", "source": null}, "trainable": "all", "optimizer": "sgd", '
        '"lr": 0.03, "momentum": 0.9, "nesterov": false, "weight_decay": 0.0005, "schedule": '
        '"triangular", "peak": 0.2, "step_epochs": 15, "step_factor": 0.2, "warmup_epochs": 0.0, '
        '"epochs": 20, "batch_size": 40, "label_smoothing": 0.0, "augmentation": {"shift": 0, '
        '"flip": false, "crop": 0.0, "jitter": 0.0, "cutout": 0}, "stop_at_loss": 0.0, '
        '"validation_share": 0.0, "average_last": 0.0, "precision": "fp32", "compile": false}',
    ),
    (
        SklearnSpec(name="a", kind="sklearn", classifier="SVC"),
        '{"name": "a", "kind": "sklearn", "classifier": "SVC", "options": {}}',
    ),
    (
        PythonSpec(name="a", kind="python", function="m:f"),
        '{"name": "a", "kind": "python", "function": "m:f", "options": {}}',
    ),
    (
        DatasetSpec(),
        '{"kind": "scenes", "size": null, "seed": 0, "n_train": 240, "n_test": 600, "share": 0.25, '
        '"root": "", "classes": [], "limit_train": null, "limit_test": null}',
    ),
]  # stores and finished stages hold these words: other ones would have all models trained anew


@pytest.mark.parametrize(("spec", "recorded"), RECORDED, ids=lambda it: type(it).__name__)
def test_a_specification_is_recorded_in_the_same_words_as_ever(spec, recorded):
    assert json.dumps(spec.model_dump()) == recorded


PAGE = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python\n# (\w+)\.py\n(.*?)```", PAGE, re.S))
GIVEN = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.S)[1])
BUDGET = {"n_models": 8, "n_heldout": 8, "n_kept": 2, "n_slots": 0, "stack": 4}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The files of CONTRIBUTING.md beside the working directory, forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name, code in FILES.items():
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def train(folder, workers):
    run = Run("own", runs_dir=folder / "runs")
    data = prepare_data(run, GIVEN["dataset"])
    algorithms = GIVEN["algorithm_1"], GIVEN["algorithm_2"]
    return data, train_models(run, *algorithms, **BUDGET, seed=0, workers=workers, device="cpu")


def test_a_toy_of_each_kind_is_trained_by_two_workers(own, capfd):
    _say_what_runs.cache_clear()
    data, models = train(own, workers=2)
    assert capfd.readouterr().err.count("This study runs code from") == len(FILES)
    assert data.class_names == ("red", "blue")
    processes = {line["process"] for line in read_log(models.plan.folder / "training.jsonl")}
    assert len(processes - {os.getpid()}) == 2
    pixels = data.train.images.reshape(40, -1) * np.float32(2 / 255) - 1
    tests = data.test.images.reshape(24, -1) * np.float32(2 / 255) - 1
    trained = models.all(1)
    for mask, margins in zip(trained.masks, trained.margins, strict=True):
        here = [pixels[mask & (data.train.labels == c)] for c in (0, 1)]
        means = [each.sum(0) / (len(each) + 1) for each in here]
        gaps = np.stack([np.square(tests - mean).sum(1) for mean in means])
        wanted = 0.2 * (gaps[1] - gaps[0]) * np.where(data.test.labels == 0, 1, -1)
        np.testing.assert_allclose(margins, wanted, rtol=1e-3, atol=1e-3)
    assert models.all(2).accuracy.mean() > 0.9
    labels = torch.tensor(data.test.labels)
    for algorithm in (1, 2):  # one is trained again, the other read from its checkpoint
        logits = torch.cat([each.logits(data.test.images) for each in models.kept(algorithm)])[:2]
        again = margins_of(models.plan.algorithms[algorithm - 1], logits, labels)
        np.testing.assert_allclose(again, models.all(algorithm).margins[:2], atol=1e-4)


def test_a_changed_file_has_its_kind_trained_anew(own):
    study = Study(**GIVEN)
    before = study.algorithm_1.made_with(), study.algorithm_2.made_with()
    digest = data_digest(study.dataset)
    for name in FILES:
        with (own / f"{name}.py").open("a") as file:
            file.write("# changed\n")
    after = study.algorithm_1.made_with(), study.algorithm_2.made_with()
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert data_digest(study.dataset) != digest


@pytest.mark.usefixtures("own")
def test_a_study_of_own_kinds_is_checked_estimated_and_sent_as_any_other(capsys):
    study = Study(**GIVEN)
    check_study(study.model_copy(update={"top_k": 6, "selection_sizes": [5, 10]}))
    assert study.dataset.pixels == 16
    assert estimate(study)["models"] == 80
    assert Study(**study.model_dump()) == study
    for spec in (study.algorithm_1, study.algorithm_2):
        assert pickle.loads(pickle.dumps(spec)) == spec
    _say_what_runs.cache_clear()
    Study(**GIVEN)
    assert {line.split("/")[-1] for line in capsys.readouterr().err.splitlines()} == {
        f"{name}.py" for name in FILES
    }


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("algorithm_1", {"kind": "my_centroids:NearestCentriod"}, "mean 'NearestCentroid'"),
        ("algorithm_1", {"kind": "my_centroids:np"}, "unknown kind of my_centroids 'np'"),
        ("algorithm_1", {"kind": "my_nowhere:A"}, "cannot import 'my_nowhere'"),
        ("algorithm_1", {"kind": "netwrok"}, "did you mean 'network'.*your own as module:name"),
        ("algorithm_1", {"scael": 1.0}, "algorithm_1: unknown key 'scael'; did you mean 'scale'"),
        ("algorithm_2", {"architecture": "my_networks:liner"}, "did you mean 'linear'"),
        ("algorithm_2", {"architecture": "my_networks:nn"}, "algorithm_2.architecture: unknown"),
        ("algorithm_2", {"width": 8}, "width: my_networks:linear has its own; leave it out"),
        ("algorithm_2", {"initialisation": "torchvision"}, "torchvision has no weights for my_"),
        ("dataset", {"kind": "my_data:sqares"}, "dataset.kind: .*did you mean 'squares'"),
        ("dataset", {"kind": "my_data:Split"}, "dataset.kind: unknown kind of my_data 'Split'"),
        ("dataset", {"root": "x"}, "root would not be read: this is kind: my_data:squares"),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_an_own_kind_cannot_be_is_refused_by_name(key, value, message):
    with pytest.raises(ValueError, match=message):
        validate(Study, GIVEN | {key: GIVEN[key] | value})


@pytest.mark.usefixtures("own")
def test_an_entry_of_a_registry_is_a_name(monkeypatch):
    study = Study(**GIVEN)
    monkeypatch.setitem(LEARNERS, "centroids", type(study.algorithm_1))
    monkeypatch.setitem(ARCHITECTURES, "linear", study.algorithm_2.design)
    monkeypatch.setitem(SOURCES, "squares", study.dataset.source)
    assert type(parse_algorithm({"kind": "centroids", "name": "c"})) is type(study.algorithm_1)
    assert NetworkSpec(name="l", architecture="linear").design is study.algorithm_2.design
    assert DatasetSpec(kind="squares").pixels == 16
    monkeypatch.undo()
    with pytest.raises(ValueError, match="unknown kind 'centroids'"):
        parse_algorithm({"kind": "centroids", "name": "c"})
