"""The reference says of every parameter what the models and the notebooks say of it."""

import importlib
import inspect
from pathlib import Path
from types import FunctionType

import mdhelpers
from mdhelpers.book.reference import api_page, explained, parameter_rows, takes
from mdhelpers.command.cli import app
from mdhelpers.command.reference import command_rows
from mdhelpers.runs.notebooks import find_notebooks
from mdhelpers.stages.study import Study

PACKAGE = Path(mdhelpers.__file__).parent


def test_every_parameter_of_a_study_is_explained():
    rows = {row["name"]: row for row in parameter_rows(Study.model_json_schema(), find_notebooks())}
    assert set(rows) == set(Study.model_fields)
    assert [name for name, row in rows.items() if not row["meaning"]] == []
    assert rows["n_models"]["default"] == "64"
    assert rows["rotation"]["takes"] == "none, varimax"
    assert rows["alpha"]["takes"] == "number > 0, < 1"
    assert rows["models_url"]["default"] == "empty"
    assert rows["selection_sizes"]["takes"] == "list of whole number ≥ 1"


def test_a_comment_below_a_parameter_of_several_lines_is_its_own():
    notebook = next(n for n in find_notebooks() if n.name.startswith("12"))
    assert explained(notebook)["hypotheses"] == "features that all are tested on"


def test_what_a_field_takes_is_said_in_words():
    assert takes({"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]}) == (
        "whole number ≥ 2, null"
    )
    assert takes({"type": "boolean"}) == "true, false"


def test_the_api_page_has_every_public_name_of_the_method_and_its_whole_docstring():
    page = api_page(PACKAGE)
    for name in ("comparison", "trak", "crossfit"):
        module = importlib.import_module(f"mdhelpers.method.{name}")
        for each, found in vars(module).items():
            own = getattr(found, "__module__", "") == module.__name__ and not each.startswith("_")
            if own and found.__doc__ and isinstance(found, type | FunctionType):
                assert f"dropdown}} {each}: " in page
                assert inspect.cleandoc(found.__doc__) in page
    assert "| `workers.hosts` |" in page


def test_every_command_is_listed_with_its_options():
    rows = {row["command"]: row for row in command_rows(app)}
    assert "--force" in rows["mdhelpers run STUDY"]["options"]
    assert "--no-browser" not in rows["mdhelpers explore STUDY"]["command"]
    assert len(rows) >= 10
    assert all(row["what"] for row in rows.values())
