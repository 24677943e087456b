"""Tables of prose pages, made from what benchmarks recorded."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mdhelpers.plain_text import escape_markdown

_TABLE = re.compile(r"\{\{\s*table\s+(\S+)(?:\s+where\s+(\S+))?\s*\|\s*([^{}]+?)\s*\}\}")
_COLUMN = re.compile(r"(?P<key>.+?)(?::(?P<spec>\S+))?(?:\s+as\s+(?P<title>.+))?")


def expand_tables(text: str, look_up: Callable[[str], Any], *, page: str) -> str:
    """Replace ``{{ table recorded.training.rows | way; seconds:.1f as s a model }}`` by a table.

    Parameters
    ----------
    text : str
        Markdown. A table is a dotted path to a list of mappings, perhaps ``where`` and a key that
        rows must have, and columns between semicolons: a key, or two joined by a dot, perhaps a
        format after a colon, perhaps ``as`` and a title.
    look_up : callable
        Gives what lies at a dotted path.
    page : str
        Name of the page, for messages.

    Raises
    ------
    ValueError
        When the path holds no list of mappings, or no row has a column.
    """

    def replace(match: re.Match) -> str:
        path, needed, columns = match.groups()
        rows = look_up(path)
        if not isinstance(rows, Sequence) or not all(isinstance(r, Mapping) for r in rows):
            raise ValueError(f"{page}: {path} is no list of rows; a table needs one.")
        rows = [row for row in rows if needed is None or needed in row]
        return table(rows, [column.strip() for column in columns.split(";")], page=page)

    return _TABLE.sub(replace, text)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, page: str) -> str:
    """A Markdown table; numbers are set to the right, missing values left empty."""
    titles, cells = [], []
    for column in columns:
        parts = _COLUMN.fullmatch(column).groupdict()
        key = parts["key"]
        if all(_value(row, key) is None for row in rows):
            known = ", ".join(sorted({key for row in rows for key in row}))
            raise ValueError(f"{page}: no row has {key!r} (they have {known}).")
        titles.append(parts["title"] or key)
        cells.append([_cell(_value(row, key), parts["spec"] or "") for row in rows])
    numeric = [any(isinstance(_value(r, _key(c)), int | float) for r in rows) for c in columns]
    lines = [titles, ["--:" if right else "---" for right in numeric], *zip(*cells, strict=True)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(row: Mapping[str, Any], key: str) -> Any:
    if key in row:
        return row[key]
    outer, _, inner = key.partition(".")
    found = row.get(outer)
    return found.get(inner) if isinstance(found, Mapping) else None


def _key(column: str) -> str:
    return _COLUMN.fullmatch(column)["key"]


def _cell(value: Any, spec: str) -> str:
    """One cell; what is no number is shown as it is, and never as Markdown."""
    if value is None:
        return ""
    return escape_markdown(format(value, spec)) if isinstance(value, str) else format(value, spec)
