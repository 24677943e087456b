"""What a study may say, as rows for the book's reference.

Types, defaults and ranges are those of the validated models; what a parameter means is what the
notebook that takes it says beside it.
"""

from __future__ import annotations

import io
import tokenize
from collections.abc import Iterable, Mapping
from typing import Any

import nbformat

from mdhelpers.runs.notebooks import Notebook

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
