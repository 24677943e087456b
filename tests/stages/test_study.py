"""A study is validated data; what would fail hours later is refused at once, by its key."""

import ast
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from PIL import Image

from mdhelpers.base.specs import validate
from mdhelpers.command.files import complete, known_studies, merge, read_parameters, read_study
from mdhelpers.method.engines import moments
from mdhelpers.runs.notebooks import find_notebooks
from mdhelpers.runs.run import StudyError
from mdhelpers.runs.stage import EFFECTS
from mdhelpers.stages.checks import check_study, fitting_defaults
from mdhelpers.stages.outside import of_study
from mdhelpers.stages.study import Study
from mdhelpers.training.algorithms import NetworkSpec

ROOT = Path(__file__).parents[2]
SMALLEST = {"study": "s", "algorithm_1": {"name": "a"}, "algorithm_2": {"name": "b"}}


def defaults_of(notebook: Path) -> dict:
    """The literals of a notebook's parameters cell."""
    cells = nbformat.read(notebook, 4).cells
    source = next(c.source for c in cells if "parameters" in c.metadata.get("tags", []))
    return {node.target.id: ast.literal_eval(node.value) for node in ast.parse(source).body}


def test_a_study_needs_a_name_and_two_algorithms():
    study = validate(Study, SMALLEST)
    assert study.algorithm_2.lr == NetworkSpec(name="b").lr
    assert study.dataset.kind == "scenes"


@pytest.mark.parametrize("path", sorted((ROOT / "parameters").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_parameters_file_is_valid(path):
    given = read_parameters(path)
    validate(Study, given if "study" in given else SMALLEST | given)


def test_notebooks_default_to_the_smoke_profile_of_the_default_study():
    given = {}
    for name in ("augmentation", "smoke"):
        given |= yaml.safe_load((ROOT / "parameters" / f"{name}.yaml").read_text())
    wanted = validate(Study, given).model_dump()
    seen = {}
    for notebook in sorted((ROOT / "notebooks").glob("*.ipynb")):
        seen |= defaults_of(notebook)
    got = validate(Study, seen).model_dump()
    assert got == wanted


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_model": 3}, "unknown key 'n_model'; did you mean 'n_models'"),
        ({"algorithm_1": {"name": "a", "epoch": 3}}, "algorithm_1: unknown key 'epoch'"),
        ({"algorithm_1": {"name": "a", "epochs": "many"}}, r"algorithm_1\.epochs: .*got 'many'"),
        ({"algorithm_1": {"name": "a", "lr": -1}}, r"algorithm_1\.lr: .*greater than 0, got -1"),
        ({"alpha": 1.0}, "alpha: .*less than 1"),
        ({"alpha": 0}, "alpha: .*greater than 0"),
        ({"n_models": 1001, "stack": 8}, "do not make whole stacks of 8"),
        ({"scheduler": "tpc://host"}, "scheduler: "),
        ({"loader": "ffvc"}, "did you mean .ffcv"),
        ({"loader": "ffcv"}, "write_beton: true"),
        ({"epsilon": 10, "delta": 5}, r"epsilon \(10.0\) must be above 0 and below delta"),
        ({"dataset": {"kind": "scene"}}, "dataset.kind: .*'scenes'"),
        ({"patch_size": 25, "dataset": {"size": 24}}, "25 px do not fit .* give at most 24"),
        ({"patch_class": "boot"}, "patch_class: unknown class 'boot'; did you mean 'boat'"),
        (
            {"hypotheses": [{"name": "h", "transformation": "tga", "intensities": [1],
                             "target_class": "boat", "uses": 1}]},
            "unknown transformation 'tga'. Did you mean 'tag'",
        ),
        (
            {"hypotheses": [{"name": "h", "transformation": "tag", "intensities": [1],
                             "target_class": "boot", "uses": 1}]},
            "unknown class 'boot'; did you mean 'boat'",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_name(changes, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        validate(Study, SMALLEST | changes)


@pytest.mark.parametrize("key", ["algorithm_1", "dataset", "captions", "cluster"])
def test_a_word_where_a_mapping_belongs_is_refused_by_its_key(key):
    with pytest.raises(ValueError, match=rf"{key}: expected a mapping.*, got 'pets'"):
        validate(Study, SMALLEST | {key: "pets"})


# What would stop a study

SCENES = {
    "study": "s",
    "dataset": {"kind": "scenes", "size": 16, "n_train": 240, "n_test": 100},
    "algorithm_1": {"name": "one", "width": 4, "epochs": 1},
    "algorithm_2": {"name": "two", "width": 4, "epochs": 1, "augmentation": {"shift": 2}},
    "captions": {"model": "none"},
}


def study(**changes) -> Study:
    return validate(Study, SCENES | changes)


@pytest.fixture
def pets(tmp_path) -> dict:
    """A folder with 40 training and 16 test pictures of two classes."""
    for part, n in (("train", 20), ("test", 8)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = np.full((16, 16, 3), 9 * i, np.uint8)
                Image.fromarray(pixels).save(tmp_path / "pets" / part / name / f"{i}.png")
    return {"dataset": {"kind": "image_folder", "root": str(tmp_path / "pets"), "size": 16}}


@pytest.mark.parametrize("name", known_studies())
def test_the_projects_own_studies_pass(name):
    if name == "smoke":
        return
    for overlays in ([], ["smoke"]):
        given, _ = complete(merge(name, overlays), Study)
        if given.dataset.kind == "scenes":
            check_study(given)


# Appendix B.2 and B.3 of the paper, as it says them
OF_BOTH = {
    "living17": {
        "architecture": "resnet18", "epochs": 25, "batch_size": 1024, "lr": 0.6, "momentum": 0.9,
        "weight_decay": 5e-4, "label_smoothing": 0.1, "schedule": "triangular",
    },
    "waterbirds": {
        "architecture": "resnet50", "epochs": 50, "stop_at_loss": 0.01, "batch_size": 64,
        "momentum": 0.9, "weight_decay": 1e-4, "augmentation": {},
    },
    "cifar10": {
        "architecture": "resnet9", "epochs": 100, "stop_at_loss": 0.01, "momentum": 0.9,
        "weight_decay": 5e-4, "augmentation": {"shift": 4, "flip": True},
    },
}  # fmt: skip
OF_ONE = {
    "living17": ({"augmentation": {"crop": 0.08, "flip": True}}, {"augmentation": {}}),
    "waterbirds": (
        {"lr": 0.005, "schedule": "constant", "initialisation": {"kind": "torchvision"}},
        {"lr": 0.01, "schedule": "step", "step_factor": 0.2, "step_epochs": 15},
    ),
    "cifar10": (
        {"lr": 0.1, "batch_size": 256, "schedule": "step", "step_factor": 0.5, "step_epochs": 20},
        {"lr": 0.02, "batch_size": 1024, "schedule": "constant"},
    ),
}
MODELS_OF = {"living17": 120_000, "waterbirds": 50_000, "cifar10": 50_000}


@pytest.mark.parametrize("name", list(MODELS_OF))
def test_the_papers_studies_have_its_recipes(name):
    study, _ = complete(merge(f"paper_{name}"), Study)
    assert study.n_models == MODELS_OF[name]
    assert (study.method, study.n_slots, study.relative_to_class) == ("lasso", 0, False)
    assert (study.alpha, study.n_lams, study.folds, study.n_effect_models) == (0.5, 50, 1, 500)
    for spec, own in zip((study.algorithm_1, study.algorithm_2), OF_ONE[name], strict=True):
        said = NetworkSpec(**{"name": spec.name, "precision": "bf16"} | OF_BOTH[name] | own)
        ours = spec.model_dump() | {"validation_share": 0.0, "peak": said.peak}
        assert ours == said.model_dump()
    if name == "living17":
        assert study.algorithm_1.peak * study.algorithm_1.epochs == 12


@pytest.mark.parametrize("name", list(MODELS_OF))
def test_affordable_twins_change_the_budget_alone(name):
    whole, twin = merge(f"paper_{name}"), merge(f"paper_{name}_affordable")
    assert twin["study"] == f"paper_{name}_affordable"
    for key in ("algorithm_1", "algorithm_2", "hypotheses", "captions", "seed", "alpha"):
        assert twin[key] == whole[key]
    study, _ = complete(twin, Study)
    assert study.n_models + study.n_heldout < 100


def test_all_faults_are_told_at_once(pets):
    with pytest.raises(StudyError) as error:
        check_study(study(**pets, n_models=120, n_slots=32))
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["n_models", "top_k", "selection_sizes"]


def test_what_is_advised_passes(pets):
    faulty = study(**pets, n_models=120, n_slots=32)
    with pytest.raises(StudyError) as error:
        check_study(faulty)
    text = str(error.value)
    sizes = re.search(r"selection_sizes: (\[[\d, ]+\])", text)[1]
    top_k = int(re.search(r"Give top_k: (\d+)", text)[1])
    for key in ("n_models", "n_slots"):
        value = int(re.search(rf"\b(?:Give|or) {key}: (\d+)", text)[1])
        changes = {
            "n_models": 120,
            "n_slots": 32,
            key: value,
            "top_k": top_k,
            "selection_sizes": json.loads(sizes),
        }
        check_study(study(**pets, **changes))


@pytest.mark.parametrize(("n_slots", "of_a_slot"), [(0, 8), (1, 8), (5, 8), (16, 4), (32, 4)])
def test_the_fewest_models_are_those_that_can_be_parted(n_slots, of_a_slot):
    """In quarters of each slot, or in halves of each where quarters take whole slots."""
    least, parts = of_a_slot * max(1, n_slots), of_a_slot // 2
    check_study(study(n_models=least, n_slots=n_slots))
    of = np.arange(3, 3 + least) % n_slots if n_slots else None
    moments.split_models(least, parts, np.random.default_rng(0), of)
    with pytest.raises(StudyError, match="n_models"):
        check_study(study(n_models=least - 1, n_slots=n_slots))
    of = np.arange(3, 2 + least) % n_slots if n_slots else None
    with pytest.raises(ValueError, match="two models of each slot"):
        moments.split_models(least - 1, parts, np.random.default_rng(0), of)


@pytest.mark.parametrize(("n_models", "n_slots"), [(120, 30), (100, 25), (60, 7)])
def test_so_few_models_are_advised_so_many_initialisations(n_models, n_slots):
    with pytest.raises(StudyError, match=rf"or n_slots: {n_slots}\b"):
        check_study(study(n_models=n_models, n_slots=32))
    check_study(study(n_models=n_models, n_slots=n_slots))


TAG = {"transformation": "tag", "target_class": "boat", "uses": 1, "intensities": [3]}
FAULTS = {
    "directions": ({"n_directions": 101}, "n_directions is 101; expected a number from 1 to 99"),
    "no function": (
        {"algorithm_2": {"kind": "python", "name": "x", "function": "no_such_module:f"}},
        "cannot import 'no_such_module'",
    ),
    "no classifier": (
        {"algorithm_2": {"kind": "sklearn", "name": "x", "classifier": "NoSuch"}},
        "NoSuch",
    ),
    "no checkpoint": (
        {"algorithm_2": {"name": "x", "initialisation": {"kind": "checkpoint", "path": "no.pth"}}},
        r"no\.pth",
    ),
    "no CLIP": (
        {"captions": {"model": "ViT-B-32", "pretrained": "no_such.pt"}},
        r"no_such\.pt; pass the path",
    ),
    "unknown CLIP": ({"captions": {"model": "ViT-B-33", "pretrained": "x.pt"}}, "ViT-B-32"),
    "no bank": ({"captions": {"model": "small", "bank": "none.txt"}}, r"captions\.bank: no file"),
    "no scores": (
        {"datamodels_1_path": "no.pt", "datamodels_2_path": "no.pt"},
        "datamodels_1_path: there is nothing at",
    ),
    "scores of one": ({"datamodels_1_path": "no.pt"}, "both, or neither"),
    "no masks": (
        {"models_1_given": {"masks": "no.npy"}, "models_2_given": {"masks": "no.npy"}},
        r"there is no .*no\.npy",
    ),
    "no such device": ({"device": "gpu"}, "device is 'gpu'"),
    "fast_l1 without a GPU": ({"method": "fast_l1", "device": "cpu"}, "runs on CUDA only"),
    "gradients of a forest": (
        {
            "method": "trak",
            "algorithm_2": {
                "kind": "sklearn",
                "name": "x",
                "classifier": "RandomForestClassifier",
            },
        },
        "trak takes gradients of networks .* x is none",
    ),
    "cluster": ({"cluster": {"qeue": "long"}}, "did you mean 'queue'"),
    "alpha": ({"alpha": 0.001}, "alpha: 0.001 of 240 training images"),
}


def test_scores_are_read_before_anything_runs(tmp_path):
    numbers = np.random.default_rng(0).normal(size=(100, 240)).astype(np.float32)
    paths = {f"datamodels_{a}_path": str(tmp_path / f"{a}.npy") for a in (1, 2)}
    for path in paths.values():
        np.save(path, numbers)
    with pytest.raises(StudyError, match=r"sign of .*scores_options: {positive_means: helps}"):
        check_study(study(**paths))
    said = {"scores_options": {"positive_means": "helps"}}
    check_study(study(**paths, **said))
    np.save(paths["datamodels_2_path"], numbers[:90])
    with pytest.raises(StudyError, match=r"2\.npy .*n_test=100"):
        check_study(study(**paths, **said))


@pytest.mark.parametrize(("given", "message"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_told_by_its_key(given, message):
    check_study(study())
    with pytest.raises(StudyError, match=message):
        check_study(study(**given))


def test_classes_of_a_folder_are_known_before_it_is_read(pets):
    small = pets | {"top_k": 4, "selection_sizes": [10]}
    check_study(study(**small, hypotheses=[TAG | {"target_class": "dog"}]))
    with pytest.raises(StudyError, match="unknown class 'dig'; did you mean 'dog'"):
        check_study(study(**small, hypotheses=[TAG | {"target_class": "dig"}]))
    with pytest.raises(StudyError, match="selection_targets: unknown target 'kat'"):
        check_study(study(**small, selection_targets=["kat"]))


def test_given_models_must_be_of_the_studys_sizes_and_enough(tmp_path):
    def given(n_models, n_train, n_test):
        np.save(tmp_path / "masks.npy", np.ones((n_models, n_train), bool))
        np.save(tmp_path / "margins.npy", np.ones((n_models, n_test), "f4"))
        files = {name: str(tmp_path / f"{name}.npy") for name in ("masks", "margins")}
        return study(models_1_given=files, models_2_given=files, n_models=56, n_heldout=8)

    check_study(given(64, 240, 100))
    with pytest.raises(StudyError, match=r"holds 63 models, and n_heldout \+ n_models = 64"):
        check_study(given(63, 240, 100))
    with pytest.raises(StudyError, match=r"rows and columns are swapped|Are they of other data"):
        check_study(given(64, 239, 100))


def test_a_url_with_a_key_is_refused_and_the_key_is_not_told():
    with pytest.raises(ValueError, match=r"models_url|s3://") as error:
        study(models_url="s3://KEY:SECRET@bucket/models")
    assert "SECRET" not in str(error.value)
    assert "KEY" not in str(error.value)


@pytest.mark.parametrize(
    ("captions", "decided"), [({}, "none"), ({"model": "ViT-B-32", "pretrained": "x"}, "ViT-B-32")]
)
def test_photographs_have_no_captions_unless_a_clip_is_named(captions, decided):
    spec = validate(Study, SCENES | {"captions": captions}).captions
    assert spec.for_data("image_folder").model == decided


def test_the_small_clip_is_refused_for_photographs(pets):
    with pytest.raises(StudyError, match=r"captions\.model: .* Give captions: {model: none}"):
        check_study(study(**pets, captions={"model": "small"}))


def test_defaults_fit_few_pictures_and_what_was_given_is_refused(pets):
    few = validate(Study, SCENES | pets)
    assert fitting_defaults(few) == {"top_k": 4, "selection_sizes": [5, 10, 20]}
    check_study(validate(Study, SCENES | pets | fitting_defaults(few)))
    assert "top_k" not in fitting_defaults(study(**pets, top_k=24))
    assert fitting_defaults(study()) == {}


def test_what_has_no_gradients_gets_a_thousand_models():
    forest = {"kind": "sklearn", "name": "x", "classifier": "RandomForestClassifier"}
    fitted = fitting_defaults(study(algorithm_2=forest))
    assert fitted == {"n_models": 1024, "n_heldout": 128, "n_slots": 32}
    check_study(study(algorithm_2=forest, **fitted))
    given = study(algorithm_2=forest, n_models=64, n_heldout=16)
    assert fitting_defaults(given) == {"n_slots": 0}
    assert fitting_defaults(study(algorithm_2=forest, n_models=64, n_slots=32)) == {
        "n_heldout": 128
    }


@pytest.mark.parametrize(("n_models", "fitted"), [(16, {"n_slots": 0}), (64, {})])
def test_few_models_share_no_initialisations(n_models, fitted):
    assert fitting_defaults(study(n_models=n_models)) == fitted
    check_study(study(n_models=n_models, **fitted))


def test_fitted_defaults_are_said_and_given_to_the_notebooks(pets, capsys):
    few, values = read_study(SCENES | pets, find_notebooks(), Study)
    assert few.top_k == values["top_k"] == 4
    assert "top_k: 4 in place of 24, which suits this study better" in capsys.readouterr().err


def test_pictures_that_transformations_paste_are_read_from_outside(tmp_path):
    Image.new("RGB", (4, 4), (9, 0, 0)).save(tmp_path / "face.png")
    hypothesis = {"transformation": {"kind": "patch", "path": str(tmp_path)}, "intensities": [4]}
    given = complete(merge("parameters/augmentation.yaml"), Study)[0].model_dump()
    given["hypotheses"] = [hypothesis | {"target_class": "boat"}]
    before = of_study(Study(**given))[EFFECTS]
    assert before["reads"]
    Image.new("RGB", (4, 4), (0, 9, 0)).save(tmp_path / "face.png")
    assert of_study(Study(**given))[EFFECTS] != before
    given["hypotheses"] = []
    assert of_study(Study(**given))[EFFECTS] == {}


SPIKE = {"transformation": "cross", "class": "boat", "intensity": 6}


def test_what_is_spiked_in_is_a_hypothesis_unless_the_study_has_its_own():
    alone = validate(Study, SMALLEST | {"dataset": {"spike_in": SPIKE}})
    [own] = alone.hypotheses
    assert (own.name, own.intensities, own.uses) == ("cross → boat", [6.0], None)
    assert validate(Study, alone.model_dump()) == alone
    given = {"transformation": "cross", "intensities": [3, 6], "target_class": "boat", "uses": 1}
    both = validate(Study, alone.model_dump() | {"hypotheses": [given]})
    assert [h.uses for h in both.hypotheses] == [1]


def test_what_is_spiked_in_must_be_of_a_class_and_drawn_on_the_images():
    with pytest.raises(ValueError, match="spike_in: unknown class 'bat'; did you mean 'boat'"):
        validate(Study, SMALLEST | {"dataset": {"spike_in": SPIKE | {"class": "bat"}}})
    lost = SPIKE | {"transformation": {"kind": "patch", "path": "nowhere"}}
    study = validate(Study, SMALLEST | {"dataset": {"spike_in": lost}})
    with pytest.raises(StudyError, match="no picture at"):
        check_study(study)
