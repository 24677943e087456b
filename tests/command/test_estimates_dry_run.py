"""What `--dry-run` says of the data and of the parameters."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mdhelpers.base.specs import validate
from mdhelpers.command import estimates as dry_run
from mdhelpers.stages.study import Study

ALGORITHMS = {"algorithm_1": {"name": "plain", "epochs": 3}, "algorithm_2": {"name": "two"}}


@pytest.fixture
def pets(tmp_path) -> Study:
    """Two classes with a text file, a hidden file and a folder inside a class."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(folder / "a.png")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("mine")
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("")
    (tmp_path / "train" / "dog" / "puppies").mkdir()
    dataset = {"kind": "image_folder", "root": str(tmp_path), "size": 16}
    return validate(Study, {"study": "pets", "dataset": dataset, **ALGORITHMS})


def test_a_folder_is_counted_and_what_it_leaves_out_is_named(pets):
    told = list(dry_run.of_folder(pets))
    assert told[0].endswith("2 training and 2 test pictures of 2 classes (cat, dog)")
    assert set(told[1:]) == {
        "  left out, hidden files: 1",
        "  left out, files with .txt: 1 (train/cat/notes.txt)",
        "  left out, folders inside classes: 1 (train/dog/puppies)",
    }


def test_generated_data_have_no_folder():
    assert not list(dry_run.of_folder(validate(Study, {"study": "scenes", **ALGORITHMS})))


def test_mappings_are_shown_as_they_were_given(pets):
    filled = pets.model_dump(mode="json")
    shown = dry_run.as_given(pets, "dataset", filled["dataset"])
    assert shown.startswith('{"kind": "image_folder"')
    assert "n_train" not in shown  # a folder has as many pictures as it has
    assert dry_run.as_given(pets, "algorithm_1", filled["algorithm_1"]) == (
        '{"name": "plain", "epochs": 3}'
    )
    assert "scrambled_square" in dry_run.as_given(pets, "placebo", filled["placebo"])
    assert dry_run.as_given(pets, "n_models", 64) == "64"


def test_a_parameter_is_said_once(pets):
    step = SimpleNamespace(name="01", reason="never run", parameters={"study": "pets", "seed": 0})
    again = SimpleNamespace(name="02", reason="", parameters=step.parameters | {"n_models": 8})
    text = list(dry_run.of_steps(SimpleNamespace(study=pets, steps=(step, again))))
    assert text == [
        "[1/2] 01  would run (never run)",
        "        seed = 0",
        "[2/2] 02  would skip (finished before)",
        "        n_models = 8",
        "Keys that are not shown have their defaults.",
    ]


def test_what_is_trained_beside_scores_that_are_given_is_said(pets):
    assert not list(dry_run.of_scores(pets))
    given = pets.model_copy(update={"datamodels_1_path": "a.pt", "datamodels_2_path": "b.pt"})
    assert "compare the scores given" in next(dry_run.of_scores(given))
