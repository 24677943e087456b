"""The reference says of every parameter what the models and the notebooks say of it."""

from mdhelpers.book.reference import explained, parameter_rows, takes
from mdhelpers.runs.notebooks import find_notebooks
from mdhelpers.stages.study import Study


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
