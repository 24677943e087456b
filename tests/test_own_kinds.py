"""What a study may name that this package does not have, and what records of its own kinds say."""

import json

import pytest

from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.training.algorithms import NetworkSpec, PythonSpec, SklearnSpec

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
