import ast
from pathlib import Path

import nbformat
import pytest
import yaml

from mdhelpers.base.specs import validate
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
    given = yaml.safe_load(path.read_text())
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
        ({"epsilon": 10, "delta": 5}, r"epsilon \(10.0\) must be below delta"),
        ({"dataset": {"kind": "scene"}}, "dataset.kind: .*'scenes'"),
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
