"""House rules that a reader relies on: clean notebooks, no paths of one machine, no large files."""

import ast
import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TOP_FOLDERS = "|".join(("root", "home", "work", "mnt", "farm", "Users"))
MACHINE_PATH = re.compile(rf"(?<![\w.:/])/(?:{TOP_FOLDERS})/[A-Za-z]")
PATH_LITERAL = re.compile(r"^~|^\.{0,2}/\w|^[A-Za-z]:\\|^\S+/\S+\.\w+$")
MAX_LINES, MAX_PARAMETER_LINES = 12, 30

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind="code"):
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def source(cell):
    return "".join(cell["source"])


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", ())


def nodes(path, *kinds):
    trees = [ast.parse(source(cell)) for cell in cells(path) if not is_parameters(cell)]
    return [node for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)]


def faults_in(path):
    """All that is wrong with one notebook, in words."""
    found = []
    notebook = json.loads(path.read_text())
    if extra := set(notebook["metadata"]) - {"kernelspec", "language_info", "mdhelpers"}:
        found.append(f"metadata {extra}")
    if not notebook["cells"] or not source(notebook["cells"][0]).startswith("# "):
        found.append("it does not begin with a title")
    for number, cell in enumerate(cells(path), start=1):
        lines = len(source(cell).splitlines())
        if cell["outputs"] or cell["execution_count"] is not None:
            found.append(f"code cell {number} is not stripped")
        if extra := set(cell["metadata"]) - {"tags"}:
            found.append(f"code cell {number} has metadata {extra}")
        if lines > (MAX_PARAMETER_LINES if is_parameters(cell) else MAX_LINES):
            found.append(f"code cell {number} has {lines} lines")
    found += [f"it defines {n.name}" for n in nodes(path, ast.FunctionDef, ast.ClassDef)]
    found += ["a while loop"] * len(nodes(path, ast.While, ast.AsyncFunctionDef))
    for loop in nodes(path, ast.For):
        if re.search("model|mask", ast.unparse(loop.target) + ast.unparse(loop.iter)):
            found.append(f"a loop over models: {ast.unparse(loop.iter)}")
    strings = [n.value for n in nodes(path, ast.Constant) if isinstance(n.value, str)]
    return found + [f"a path: {text!r}" for text in strings if PATH_LITERAL.search(text)]


def parameter_faults(path):
    """What is wrong with a notebook's parameters cell, in words."""
    found = [cell for cell in cells(path) if is_parameters(cell)]
    if len(found) != 1:
        return [f"{len(found)} cells tagged parameters"]
    text = source(found[0])
    faults = []
    for statement in ast.parse(text).body:
        line = ast.get_source_segment(text, statement)
        if not isinstance(statement, ast.AnnAssign) or statement.value is None:
            faults.append(f"no annotated value: {line}")
            continue
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            faults.append(f"no literal: {line}")
        lines = text.splitlines()
        if "#" not in lines[statement.lineno - 1] + lines[statement.end_lineno - 1]:
            faults.append(f"no comment: {line}")
    return faults


def files():
    """Tracked files, and those that would be."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_notebooks_are_numbered_without_gaps():
    assert [path.name[:3] for path in NOTEBOOKS] == [
        f"{n:02d}_" for n in range(1, len(NOTEBOOKS) + 1)
    ]


@each_notebook
def test_notebooks_keep_to_the_house_style(path):
    assert faults_in(path) == []


@each_notebook
def test_parameters_are_annotated_literals_with_a_comment(path):
    assert parameter_faults(path) == []


def write(path, *sources, tag=None):
    made = [{"cell_type": "markdown", "metadata": {}, "source": "# Title"}]
    for text in sources:
        cell = {"cell_type": "code", "metadata": {"tags": [tag]} if tag else {}, "source": text}
        made.append(cell | {"outputs": [], "execution_count": None})
    path.write_text(json.dumps({"cells": made, "metadata": {}}))
    return path


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("def f():\n    pass", "it defines f"),
        ("for i in range(n_models):\n    train(i)", "a loop over models"),
        ("while True:\n    pass", "a while loop"),
        ("open('/data/x')", "a path"),
        ("open('runs/x.json')", "a path"),
        ("\n".join(["x = 1"] * 13), "13 lines"),
    ],
)
def test_the_check_of_notebooks_sees(text, fault, tmp_path):
    assert fault in " ".join(faults_in(write(tmp_path / "n.ipynb", text)))


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("a: int = 1  # one", 0),
        ("a: dict = {\n  'x': 1,\n}  # two", 0),
        ("a: dict = {  # two\n  'x': 1,\n}", 0),
        ("a = 1  # no annotation", 1),
        ("a: int = 1", 1),
        ("a: int = f()  # no literal", 1),
    ],
)
def test_the_check_of_parameters_sees(text, faults, tmp_path):
    assert len(parameter_faults(write(tmp_path / "n.ipynb", text, tag="parameters"))) == faults


def test_no_file_names_a_path_of_one_machine():
    for path in files():
        if path.suffix in (".gz", ".png", ".woff2", ".lock"):
            continue
        found = MACHINE_PATH.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path}: {found[0]}"


def test_no_file_is_large():
    large = [path for path in files() if path.stat().st_size > 1500 * 1024]
    assert large == []


def test_modules_are_short():
    lengths = {p.name: len(p.read_text().splitlines()) for p in ROOT.glob("mdhelpers/*.py")}
    assert {name: n for name, n in lengths.items() if n > 500} == {}


def test_readme_and_changelog_name_this_version():
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text()
