"""Names of ours in prose, docstrings and messages lead somewhere."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAME = re.compile(r"(?<![\w/.@-])mdhelpers(?:\.[A-Za-z_]\w*)+(?![\w-]*\.(?:py|zarr|yaml)\b)")
PAGES = [*ROOT.glob("*.md"), *(ROOT / "book").glob("*.md"), *(ROOT / "benchmarks").rglob("*.py")]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MODULES = sorted((ROOT / "mdhelpers").rglob("*.py"))


def texts(path):
    """What a reader sees: of modules, their strings; of notebooks and pages, all of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        nodes = ast.walk(ast.parse(text))
        yield from (n.value for n in nodes if isinstance(n, ast.Constant) and type(n.value) is str)
        yield from re.findall(r"#.*", text)
    elif path.suffix == ".ipynb":
        yield from ("".join(cell["source"]) for cell in json.loads(text)["cells"])
    else:
        yield text


def resolves(name):
    """Whether a dotted name is a module of ours, or something in one that is defined there."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            annotations = getattr(found, "__annotations__", {})
            if not hasattr(found, part) and part not in annotations:
                return False
            found = getattr(found, part, None)
        return (
            getattr(found, "__module__", None) in (None, ".".join(parts[:n])) or n < len(parts) - 1
        )
    return False


@pytest.mark.parametrize(
    "path", [*PAGES, *NOTEBOOKS, *MODULES], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_every_name_leads_somewhere(path):
    names = {name for text in texts(path) for name in NAME.findall(text)}
    assert {name for name in names if not resolves(name)} == set()


def test_the_check_sees():
    assert resolves("mdhelpers.method.comparison.compare")
    assert resolves("mdhelpers.runs.run.Run.outputs")
    assert not resolves("mdhelpers.lasso")
    assert not resolves("mdhelpers.method.comparison.nothing")
    assert not resolves("mdhelpers.stages.comparison.compare")  # lies elsewhere
