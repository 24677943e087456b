"""What a study may say, and what the package offers, for the book's reference.

Types, defaults and ranges are those of the validated models; what a parameter means is what the
notebook that takes it says beside it. Of functions and classes it is what their docstrings say.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

import nbformat

from mdhelpers.runs.notebooks import Notebook
from mdhelpers.show.style import escape_markdown

TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true, false",
    "object": "mapping",
}
BOUNDS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
}


def parameter_rows(schema: Mapping[str, Any], notebooks: Iterable[Notebook]) -> list[dict]:
    """A row a parameter of a study, in the order of the pages that take them.

    Parameters
    ----------
    schema
        JSON schema of the study's model.
    notebooks
        In whose parameters cells each is explained.

    Returns
    -------
    list of dict
        ``name, default, takes, meaning``.
    """
    rows: dict[str, dict] = {}
    for notebook in notebooks:
        for name, meaning in explained(notebook).items():
            if name not in schema["properties"]:
                continue
            row = rows.setdefault(name, {"name": name, "meaning": ""})
            row["meaning"] = row["meaning"] or meaning
    for name, row in rows.items():
        about = schema["properties"][name]
        row["takes"] = takes(about)
        given = about.get("default")
        mapping = isinstance(given, Mapping) or "default" not in about
        row["default"] = "" if mapping else in_yaml(given)
    return list(rows.values())


def explained(notebook: Notebook) -> dict[str, str]:
    """Of each parameter that a notebook declares, the comment on its line."""
    cells = nbformat.read(notebook.path, as_version=4).cells
    source = next((c.source for c in cells if "parameters" in c.metadata.get("tags", ())), "")
    comments = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments[token.start[0]] = token.string.lstrip("# ")
    found, name = {}, ""
    for number, line in enumerate(source.splitlines(), 1):
        begins = line.split(":")[0].split("=")[0].strip()
        if begins in notebook.declares:
            name = begins
            found[name] = ""
        if number in comments and name:
            found[name] = comments[number]
    return found


def in_yaml(value: Any) -> str:
    """A default as a parameters file would have it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or "empty"
    if isinstance(value, Sequence):
        return f"[{', '.join(map(in_yaml, value))}]"
    return str(value)


def takes(about: Mapping[str, Any]) -> str:
    """What a field of a JSON schema accepts, in words."""
    if "enum" in about:
        return ", ".join(in_yaml(each) for each in about["enum"])
    if "anyOf" in about:
        return ", ".join(takes(each) for each in about["anyOf"])
    if about.get("type") == "array":
        return f"list of {takes(about.get('items', {}))}"
    if about.get("type") == "null":
        return "null"
    words = TYPES.get(about.get("type", "object"), "value")
    bounds = [text.format(f"{about[key]:g}") for key, text in BOUNDS.items() if key in about]
    return " ".join([words, ", ".join(bounds)]).strip()


API_TITLE = "# The package, function by function"
API_INTRO = """\
**Question.** What can be called, with which arrays, and what comes back?

The method first: arrays in, arrays out, nothing read or written. Shapes, dtypes, units and errors
stand in each docstring. Then the other rooms, a line per module.
"""


def api_page(package: Path, *, room: str = "method") -> str:
    """A page in Markdown: every public function and class of a room, and the modules of the others.

    Parameters
    ----------
    package
        The folder of `mdhelpers`.
    room
        The folder in it whose docstrings are shown whole.
    """
    parts = [API_TITLE, API_INTRO]
    for path in sorted((package / room).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = [_entry(node) for node in tree.body if _is_public(node)]
        if found:
            name = f"mdhelpers.{room}.{path.stem}"
            parts += [f"## `{name}`", first_line(tree), *found]
    for folder in sorted(p for p in package.iterdir() if (p / "__init__.py").exists()):
        if folder.name != room:
            parts += [f"## `mdhelpers.{folder.name}`", _modules(folder)]
    return "\n\n".join(parts) + "\n"


def first_line(node: ast.Module | ast.FunctionDef | ast.ClassDef) -> str:
    """The first paragraph of a docstring, as plain Markdown."""
    said = cleandoc(ast.get_docstring(node) or "").split("\n\n")[0]
    return escape_markdown(re.sub(r":\w+:(?=`)|`", "", said))


def _is_public(node: ast.AST) -> bool:
    defined = isinstance(node, ast.FunctionDef | ast.ClassDef)
    return defined and not node.name.startswith("_") and ast.get_docstring(node) is not None


def _entry(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A fold: the name and what it is for; within, the signature and the whole docstring."""
    lines = [*_signatures(node), "", cleandoc(ast.get_docstring(node) or "")]
    body = "\n".join(lines)
    title = f"{node.name}: {first_line(node)}"
    return f"::::{{dropdown}} {title}\n~~~~{{code-block}} text\n{body}\n~~~~\n::::"


def _signatures(node: ast.FunctionDef | ast.ClassDef) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        yield f"{node.name}({ast.unparse(node.args)}){returns}"
        return
    yield f"class {node.name}"
    for each in node.body:
        if isinstance(each, ast.FunctionDef) and not each.name.startswith("_"):
            yield f"    .{next(_signatures(each))}"


def _modules(folder: Path) -> str:
    rows = ["| module | what it holds |", "|---|---|"]
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.stem != "__init__" and (said := first_line(tree)):
            name = ".".join(path.relative_to(folder).with_suffix("").parts)
            rows.append(f"| `{name}` | {said} |")
    return "\n".join(rows)
