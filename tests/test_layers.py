"""Who may import whom: rooms stand on floors, and each foreign library has one home."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mdhelpers"
FLOORS = {
    "": 0,
    "base": 0,
    "method/engines": 0,
    "data": 1,
    "method": 1,
    "analyses": 2,
    "training": 3,
    "training/workers": 3,
    "clip": 3,
    "formats": 4,
    "runs": 4,
    "stages": 5,
    "show": 6,
    "book": 7,
    "command": 8,
}
NEVER = {  # though the floors would let them
    ("method", "base"),
    ("method", "data"),
    ("analyses", "base"),
    ("analyses", "data"),
    ("data", "method"),
    ("training", "analyses"),
    ("training", "clip"),
    ("formats", "analyses"),
    ("formats", "runs"),
    ("runs", "formats"),
    ("show", "formats"),
    ("show", "training/workers"),
}
BUT = {("method", "mdhelpers.base.threads")}  # fits side by side, each on one thread
HOMES = {
    "matplotlib": {"show", "book"},
    "anywidget": {"show"},
    "IPython": {"show"},
    "zarr": {"training"},
    "ffcv": {"training"},
    "fsspec": {"training"},
    "distributed": {"training/workers"},
    "open_clip": {"clip"},
    "wordfreq": {"clip"},
    "numba": {"method/engines", "training"},  # FFCV wants it too
    "papermill": {"command"},
    "typer": {"command"},
    "pydantic": {"base", "data", "training", "training/workers", "clip", "formats", "stages"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def folder(path):
    return "" if path.parent == PACKAGE else path.parent.relative_to(PACKAGE).as_posix()


def imports(tree):
    """(module, names) of every import, those within functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)


def home(module, names):
    """The room that an import of ours leads to."""
    parts = module.split(".")[1:]
    for n in (2, 1):
        place = "/".join(parts[:n])
        if len(parts) >= n and place in FLOORS:
            return place
    return next((name for name in names if name in FLOORS), "")


def faults(own, text):
    found = []
    for module, names in imports(ast.parse(text)):
        top = module.split(".")[0]
        if top == "mdhelpers":
            there = home(module, names)
            higher = FLOORS[there] > FLOORS[own] or (own, there) in NEVER
            if there != own and higher and (own, module) not in BUT:
                found.append(module)
        elif own not in HOMES.get(top, {own}):
            found.append(module)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_room_looks_down_only(path):
    assert faults(folder(path), path.read_text(encoding="utf-8")) == []


def test_every_room_has_a_floor():
    assert {folder(path) for path in FILES} == set(FLOORS)


@pytest.mark.parametrize(
    ("own", "text"),
    [
        ("method", "from mdhelpers.runs.run import Run"),
        ("method", "def f():\n    from mdhelpers.base import records"),
        ("training", "from mdhelpers.stages import models"),
        ("stages", "import matplotlib.pyplot as plt"),
        ("show", "from mdhelpers.formats.scores import load_scores"),
    ],
)
def test_the_rule_sees(own, text):
    assert len(faults(own, text)) == 1


def test_no_module_imports_itself_in_a_circle():
    """Imports at the top of modules make no circle; those within functions may."""

    def name(path):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(("mdhelpers", *(parts[:-1] if parts[-1] == "__init__" else parts)))

    known = {name(path): path for path in FILES}
    edges = {}
    for module, path in known.items():
        tops = ast.parse(path.read_text(encoding="utf-8")).body
        froms = [node for node in tops if isinstance(node, ast.ImportFrom) and node.module]
        names = [f"{node.module}.{alias.name}" for node in froms for alias in node.names]
        edges[module] = {n for n in [*names, *(node.module for node in froms)] if n in known}
        edges[module] -= {module.rsplit(".", 1)[0], "mdhelpers"}
    done = set()
    while ready := {m for m in set(edges) - done if edges[m] <= done}:
        done |= ready
    assert set(edges) - done == set()


@pytest.mark.parametrize(
    ("module", "without"),
    [
        ("mdhelpers.command.cli", ("torch", "pandas", "pydantic", "papermill")),
        ("mdhelpers.command.runner", ("torch", "pandas", "papermill")),
        ("mdhelpers.stages.data", ("torch", "zarr", "matplotlib")),
        ("mdhelpers.show.data", ("torch", "zarr")),
        ("mdhelpers.stages.comparison", ("numba", "open_clip", "distributed", "matplotlib")),
    ],
)
def test_heavy_libraries_come_where_they_are_used(module, without):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(without) & set(done.stdout.split()) == set()
