"""Estimates of a study's cost, made before it begins."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from mdhelpers.base.specs import validate
from mdhelpers.command import estimates
from mdhelpers.stages import capacity
from mdhelpers.stages.study import Study

SIZES = {
    "dataset": {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 30},
    "n_models": 24, "n_heldout": 8, "n_kept": 4, "n_effect_models": 4, "n_slots": 2,
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


def test_algorithms_beyond_the_second_are_counted(monkeypatch):
    monkeypatch.setattr(estimates, "seconds_per_model", lambda *_, **__: 1.0)
    two = estimates.estimate(study(NETWORK, NETWORK | {"name": "b"}, method="trak"))
    several = [NETWORK | {"name": name} for name in "abcd"]
    given = {"study": "s", "algorithms": several, "workers": 1, "method": "trak"}
    found = estimates.estimate(validate(Study, SIZES | given))
    assert found["models"] == 2 * two["models"] == 4 * 32
    further = 32 + 4 / 0.5  # on masks, and on all images
    gradients = estimates.by_gradients(
        validate(Study, SIZES | given), 24, 30, validate(Study, SIZES | given).algorithm_1, 1.0
    )
    assert found["seconds"] - two["seconds"] == pytest.approx(2 * (further + gradients))
    assert found["gradients"] == two["gradients"]  # the further ones' are taken after


def test_models_trained_anew_are_counted_by_their_images():
    sizes = {"n_removal_tests": 5, "n_models_per_set": 2, "selection_sizes": [6, 12]}
    found = estimates.trained_anew(study(NETWORK, NETWORK, **sizes), 24)
    half = 5 * 3
    whole = 1 + 5 * 2
    chosen = 3 * (6 + 12) / 24
    assert found == pytest.approx(2 * (half + 2 * whole + 2 * chosen))


def test_gradients_are_counted_by_models_looks_and_views():
    flips = NETWORK | {"augmentation": {"flip": True}}
    given = {"method": "trak", "gradients": {"models": 10, "at": [0.5, 1.0], "views": 3}}
    wanted = study(NETWORK, flips, **given)
    one, two = (
        estimates.by_gradients(wanted, 24, 30, spec, 6.0)
        for spec in (wanted.algorithm_1, wanted.algorithm_2)
    )
    step = 6.0 / (2 * 12)  # of two epochs on half of the images
    assert one == pytest.approx(10 * (6 + 2 * (30 + 24) * estimates.GRADIENT_STEPS * step))
    assert two == pytest.approx(10 * (6 + 2 * (30 + 72) * estimates.GRADIENT_STEPS * step))
    assert estimates.by_gradients(wanted, 24, 30, wanted.algorithm_1, None) == 0
    ridge = study(NETWORK, flips, method="ridge")
    assert estimates.by_gradients(ridge, 24, 30, wanted.algorithm_1, 6.0) == 0
    assert estimates.n_scored(wanted.model_copy(update={"n_models": 6})) == 6
    beside = estimates.estimate(wanted)["bytes"] - estimates.estimate(ridge)["bytes"]
    looks = 2 * (30 + 24) * 24  # no more numbers an image than training images
    assert beside == 2 * 4 * 10 * (looks + 30 * 24)


def test_what_later_notebooks_train_is_counted(monkeypatch):
    """Held-out masks again, kept masks again, and pairs along directions, of both algorithms."""
    monkeypatch.setattr(estimates, "seconds_per_model", lambda *_, **__: 1.0)
    small = {"n_heldout": 8, "n_kept": 8, "n_effect_models": 4, "method": "ridge", "workers": 1}
    small |= {"n_reinitialised": 0, "n_tilted": 1, "n_random_tilts": 0, "n_tilt_pairs": 2}

    def seconds(**changes):
        return estimates.estimate(study(NETWORK, NETWORK, **small | changes))["seconds"]

    least = seconds()
    assert seconds(n_reinitialised=5) - least == pytest.approx(2 * 5)
    assert seconds(n_repeats=3) - least == pytest.approx(2 * 2 * 8)
    assert seconds(n_tilted=2, n_random_tilts=1) - least == pytest.approx(2 * 2 * 2 * 3)


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
    monkeypatch.setattr(estimates, "memory_bytes", lambda: needed - 1)
    assert "take fewer test images" in estimates.of_memory(needed)
    assert "are here)" in estimates.of_memory(small)


PAPER = {  # images, side, network, epochs, models, GPU-hours by book/scaling.md's assumed rates
    "living17": ((88_400, 3_400), 224, "resnet18", 25, 120_000, 24_556),
    "waterbirds": ((4_795, 5_794), 224, "resnet50", 50, 50_000, 2_775),
    "cifar10": ((50_000, 10_000), 32, "resnet9", 100, 50_000, 4_000),
}


def of_the_paper(name: str, **changes) -> Study:
    (n_train, n_test), side, network, epochs, n_models, _ = PAPER[name]
    one = {"name": "one", "architecture": network, "epochs": epochs, "batch_size": 128}
    dataset = {"kind": "scenes", "size": side, "n_train": n_train, "n_test": n_test}
    beside = dict.fromkeys(("n_reinitialised", "n_random_tilts", "n_repeats"), 0)
    given = {"n_models": n_models, "n_slots": 0, "method": "lasso", "dataset": dataset}
    return study(one, one | {"name": "two"}, **given | beside | changes)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_studies_are_priced_without_being_tried(name, monkeypatch):
    """Within a fifth of the book's GPU-hours, which come from images a second."""
    monkeypatch.setattr(estimates, "timed", lambda *_: pytest.fail("it was tried"))
    found = estimates.estimate(of_the_paper(name))
    assert found["models"] == 2 * (PAPER[name][4] + 8)
    assert found["gpu_hours"] == pytest.approx(PAPER[name][5], rel=0.2)
    assert found["gradients"] == 0
    assert found["fits"].startswith("lasso: ")


@pytest.mark.parametrize("name", PAPER)
def test_gradients_of_dozens_of_models_are_priced(name):
    small = {"models": 32, "at": [1.0], "dimension": 2048}
    given = {"n_models": 32, "method": "trak", "gradients": small}
    found = estimates.estimate(of_the_paper(name, **given))
    n_train, n_test = PAPER[name][0]
    length = min(n_train, 2048)
    expected = 2 * 32 * 4 * ((n_train + n_test) * length + n_train * n_test)
    assert found["gradients"] == expected
    assert found["bytes"] > expected
    assert found["gpu_hours"] < 200


def test_operations_of_a_convolution_are_twice_its_products_and_thrice_with_the_way_back():
    spec = validate(Study, {"study": "s", **ALGORITHMS}).algorithm_1
    c = spec.design.width
    products = 3 * c * 25 * 8**2 + (c * 2 * c + 4 * c * c) * 9 * 4**2 + 2 * c * 2**2 * 4
    found = estimates.operations(spec, 16, 4)
    assert found == 3 * 2 * products
    head = spec.model_copy(update={"trainable": "head"})
    assert estimates.operations(head, 16, 4) == pytest.approx(found / 3)


def test_what_cannot_run_here_is_said(monkeypatch):
    monkeypatch.setattr(capacity, "memory_bytes", lambda: 8e9)
    needs = estimates.estimate(of_the_paper("cifar10", device="cpu"))
    run = SimpleNamespace(folder=Path("runs/cifar10"))
    told = list(estimates.of_needs(SimpleNamespace(run=run), needs))
    assert any(line.startswith("Cannot run here. method: lasso") for line in told)
    assert any(line.startswith("GPU-hours of training: ") for line in told)
    assert "years" in told[0]


# What `--dry-run` says of the data and of the parameters.

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
    told = list(estimates.of_data(pets))
    assert told[0].endswith("2 training and 2 test pictures of 2 classes (cat, dog)")
    assert set(told[1:]) == {
        "  left out, hidden files: 1",
        "  left out, files with .txt: 1 (train/cat/notes.txt)",
        "  left out, folders inside classes: 1 (train/dog/puppies)",
    }


def test_generated_data_have_no_folder():
    assert not list(estimates.of_data(validate(Study, {"study": "scenes", **ALGORITHMS})))


def test_mappings_are_shown_as_they_were_given(pets):
    filled = pets.model_dump(mode="json")
    shown = estimates.as_given(pets, "dataset", filled["dataset"])
    assert shown.startswith('{"kind": "image_folder"')
    assert "n_train" not in shown  # a folder has as many pictures as it has
    assert estimates.as_given(pets, "algorithm_1", filled["algorithm_1"]) == (
        '{"name": "plain", "epochs": 3}'
    )
    assert "transformation" in estimates.as_given(pets, "placebo", filled["placebo"])
    several = pets.model_copy(update={"algorithms": [pets.algorithm_1, pets.algorithm_2]})
    shown = estimates.as_given(several, "algorithms", several.model_dump()["algorithms"])
    assert shown.startswith('[{"name": "plain", "epochs": 3}, {"name": ')
    assert "momentum" not in shown
    assert estimates.as_given(pets, "n_models", 64) == "64"


def test_a_parameter_is_said_once(pets):
    step = SimpleNamespace(name="01", reason="never run", parameters={"study": "pets", "seed": 0})
    again = SimpleNamespace(name="02", reason="", parameters=step.parameters | {"n_models": 8})
    text = list(estimates.of_steps(SimpleNamespace(study=pets, steps=(step, again))))
    assert text == [
        "[1/2] 01  would run (never run)",
        "        seed = 0",
        "[2/2] 02  would skip (finished before)",
        "        n_models = 8",
        "Keys that are not shown have their defaults.",
    ]


def test_what_is_trained_beside_scores_that_are_given_is_said(pets):
    assert not list(estimates.of_scores(pets))
    given = pets.model_copy(update={"datamodels_1_path": "a.pt", "datamodels_2_path": "b.pt"})
    assert "compare the scores given" in next(estimates.of_scores(given))
