"""A finished run in JupyterLab: a notebook with explorer, workbench and recomputing."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat

from mdhelpers.base.places import shown
from mdhelpers.base.records import written
from mdhelpers.runs.run import Run, StudyError
from mdhelpers.runs.stage import EFFECTS

NAME = "explore.ipynb"
HERE = """\
from pathlib import Path

runs = str(Path.cwd().parent)  # this notebook lies in the run's folder"""
CELLS = (
    ("markdown", "# Explore {study}\n\nRun all cells (the menu *Run*). Nothing is trained."),
    ("code", "{runs}"),
    (
        "code",
        "from mdhelpers.show import effects\n"
        "from mdhelpers.show.recompute import recompute\n"
        "from mdhelpers.show.style import open_run\n"
        "from mdhelpers.show.workbench import workbench_of\n\n"
        "run = open_run({study!r}, profile={profile!r}, runs_dir=runs)",
    ),
    ("markdown", "## What was found"),
    ("code", "effects.explore_findings(run)"),
    (
        "markdown",
        "## A hypothesis of your own\n\nChoose a transformation or write one, its intensity and "
        "the class. It is tested on the models of page 7; the last line is what a study's file "
        "takes.",
    ),
    ("code", "workbench_of(run)"),
    (
        "markdown",
        "## Fewer models, other halves, an algorithm with itself\n\nComputed in the browser.",
    ),
    ("code", "recompute(run)"),
)


def notebook_of(run: Run, runs: str = HERE) -> nbformat.NotebookNode:
    """The notebook, without outputs; ``runs`` is the code that finds the folder of runs.

    Raises
    ------
    StudyError
        If the run has not got as far as page 7.
    """
    if not run.manifest(EFFECTS):
        raise StudyError(
            f"{shown(run.folder)} has nothing to explore yet: page 7 is not finished. "
            f"Run: {run.command()}"
        )
    about = {"study": run.study, "profile": run.profile, "runs": runs}
    notebook = nbformat.v4.new_notebook()
    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    notebook.cells = [make[kind](source.format(**about)) for kind, source in CELLS]
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"explore-{number}"
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata |= {"kernelspec": kernel, "language_info": {"name": "python"}}
    return notebook


def ready_notebook(run: Run) -> Path:
    """Write the notebook into the run's folder, or leave the one that is there: it may have notes.

    Raises
    ------
    StudyError
        If the run has not got as far as page 7.
    """
    notebook, path = notebook_of(run), run.folder / NAME
    if not path.exists():
        with written(path) as unfinished:
            nbformat.write(notebook, unfinished)
    return path


def open_lab(path: Path, options: list[str]) -> int:
    """Start JupyterLab on a notebook and wait for its end.

    Raises
    ------
    StudyError
        If JupyterLab is not installed.
    """
    if find_spec("jupyterlab") is None:
        raise StudyError(
            f"JupyterLab is not installed; run: pip install 'mdhelpers[lab]'. Any other Jupyter "
            f"opens it too: {path}"
        )
    as_root = getattr(os, "geteuid", lambda: 1)() == 0  # as in most containers
    options = [*options, "--allow-root"] if as_root else options
    page = f"--LabApp.default_url=/lab/tree/{path.name}"
    command = [sys.executable, "-m", "jupyterlab", page, *options]
    return subprocess.run(command, cwd=path.parent, check=False).returncode
