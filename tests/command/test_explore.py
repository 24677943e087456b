"""The notebook of `mdhelpers explore`: whole, never overwritten, good where the run is moved."""

import ast
from types import SimpleNamespace

import nbformat
import pytest

from mdhelpers.command.explore import open_lab, ready_notebook
from mdhelpers.runs.run import StudyError


def finished(folder, study="it's", manifest=True):
    about = {"folder": folder, "study": study, "profile": "full"}
    return SimpleNamespace(
        **about,
        manifest=lambda _: {"key": 1} if manifest else {},
        command=lambda: "mdhelpers run x",
    )


def test_the_notebook_is_python_that_names_no_folder_and_is_kept(tmp_path):
    path = ready_notebook(finished(tmp_path))
    cells = nbformat.read(path, as_version=4).cells
    sources = [cell.source for cell in cells if cell.cell_type == "code"]
    for source in sources:
        ast.parse(source)
    assert str(tmp_path) not in "".join(sources)
    assert "open_run(\"it's\", profile='full'" in sources[1]
    path.write_text("someone's notes")
    assert ready_notebook(finished(tmp_path)).read_text() == "someone's notes"


def test_a_run_that_is_not_finished_and_a_missing_jupyterlab_are_told(tmp_path, monkeypatch):
    with pytest.raises(StudyError, match=r"nothing to explore yet: .*mdhelpers run x"):
        ready_notebook(finished(tmp_path, manifest=False))
    monkeypatch.setattr("mdhelpers.command.explore.find_spec", lambda _: None)
    with pytest.raises(StudyError, match=r"pip install 'mdhelpers\[lab\]'"):
        open_lab(tmp_path / "explore.ipynb", [])
