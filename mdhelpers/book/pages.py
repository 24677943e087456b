"""Pages of prose: figures of runs and benchmarks put into them.

A page of prose names a figure by its place in a run's or a benchmark's record: alone, in a table,
or drawn when the book is built.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from mdhelpers.base.places import typeset
from mdhelpers.book.figures import FIGURES, GALLERY, Drawing, drawn
from mdhelpers.show.style import DPI, comparison_label, escape_markdown, one_line

_TABLE = re.compile(r"\{\{\s*table\s+(\S+)(?:\s+where\s+(\S+))?\s*\|\s*([^{}]+?)\s*\}\}")
_COLUMN = re.compile(r"(?P<key>.+?)(?::(?P<spec>\S+))?(?:\s+as\s+(?P<title>.+))?")


def expand_tables(text: str, look_up: Callable[[str], Any], *, page: str) -> str:
    """Replace ``{{ table recorded.training.rows | way; seconds:.1f as s a model }}`` by a table.

    Parameters
    ----------
    text : str
        Markdown. A table is a dotted path to a list of mappings, perhaps ``where`` and a key that
        rows must have, and columns between semicolons: a key, or two joined by a dot, perhaps a
        format after a colon (``code`` for what one types), perhaps ``as`` and a title.
    look_up : callable
        Gives what lies at a dotted path.
    page : str
        Name of the page, for messages.

    Below a table of a recorded file stands where that comes from, once for several in a row. Of
    such a table with many rows the first are shown, and the whole is folded below them.

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
        given = [column.strip() for column in columns.split(";")]
        shown = table(rows, given, page=page)
        if path.startswith("recorded.") and len(rows) > MOST_ROWS:
            first = "\n".join(shown.split("\n")[: 2 + FIRST_ROWS])  # below title and rule
            shown = f"{first}\n\n:::{{dropdown}} all {len(rows)} rows\n{shown}\n:::"
        origin, before = origin_of(path, look_up), told[-1:]
        told.append(origin)
        if not origin or before == [origin]:
            return shown
        return f"{shown}\n\n:::{{div}} provenance\n{escape_markdown(origin)}\n:::"

    told: list[str] = []
    return _TABLE.sub(replace, text)


def origin_of(path: str, look_up: Callable[[str], Any]) -> str:
    """Which run or machine made a table of a recorded file; "" of others, and where none says it.

    A record says it itself (``machine``), or each of its parts does (``about``).
    """
    root, *parts = path.split(".")
    if root != "recorded":
        return ""
    record = look_up(f"recorded.{parts[0]}")
    if not isinstance(record, Mapping):
        return ""
    about = record.get(parts[1], {}) if len(parts) > 1 else {}
    about = about.get("about") if isinstance(about, Mapping) else None
    if isinstance(about, Mapping):
        return (
            f"Study {about['study']} · 2 × {about['models']} models · commit {about['commit']} · "
            f"{about['date']}"
        )
    if not (machine := record.get("machine")):
        return ""
    cores = f"{machine['cores']} core{'s' * (machine['cores'] > 1)}"
    return f"Measured on: {machine['gpu'] or machine['cpu']}, {cores} · file {parts[0]}.json"


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
    """One cell; what is no number is plain text, never Markdown, with signs in place of letters."""
    if value is None:
        return ""
    if spec == CODE:
        return f"`{one_line(value).replace('`', '').replace('|', ',')}`" if value != "" else ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        value = _TIMES.sub(" × ", COMPARISONS.get(value, value))
    return in_format(value, spec)


MOST_ROWS, FIRST_ROWS = 12, 6  # of a table that is cut
GROUPED = 10_000  # numbers from here on have commas between thousands
_PLAIN = re.compile(r"[+]?(\.\d+f?|[df])?")
CODE = "code"  # in place of a format: the cell as one types it
_TIMES = re.compile(r"(?<=\w) x (?=\d)")  # noise x 2
COMPARISONS = {name: comparison_label(name, ("1", "2")) for name in ("1_minus_2", "2_minus_1")}
_POWER = re.compile(r"(.+)e([-+]\d+)")
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def in_format(value: Any, spec: str) -> str:
    """A value as plain text in Markdown.

    Negative numbers have a minus sign, what rounds to zero has none; thousands are set apart, and
    powers of ten are written out.
    """
    if isinstance(value, str):
        return escape_markdown(format(value, spec))
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, int | float):
        return format(value, spec)
    if abs(value) >= GROUPED and _PLAIN.fullmatch(spec):
        spec = re.sub(r"(?=[.df]|$)", ",", spec, count=1)
    shown = format(value, spec)
    if powers := _POWER.fullmatch(shown):
        return f"{typeset(powers[1])} × 10{str(int(powers[2])).translate(_RAISED)}"
    return typeset(shown)


_FIGURE = re.compile(r"\{\{\s*figure\s+(\S+)\s+(\S+)\s*\}\}")


def expand_figures(
    text: str, look_up: Callable[[str], Any], *, page: str, draw: Drawing = drawn
) -> tuple[str, dict[str, bytes]]:
    """Replace ``{{ figure lds_by_method recorded.budgets_scenes }}`` by an image.

    Parameters
    ----------
    text : str
        Markdown. A figure is one of ``FIGURES`` and the dotted path to what it is drawn from.
    look_up : callable
        Gives what lies at a dotted path.
    page : str
        Name of the page, for messages.
    draw : callable
        Gives a figure's picture and text alternative, of its name and data.

    Returns
    -------
    text : str
        With images and their text alternatives.
    files : dict of str to bytes
        The PNG files by their path below the source folder.

    Raises
    ------
    ValueError
        When there is no figure of that name.
    """
    files: dict[str, bytes] = {}

    def replace(match: re.Match) -> str:
        name, path = match.groups()
        if name not in FIGURES:
            raise ValueError(f"{page}: no figure {name!r}; there are {', '.join(FIGURES)}.")
        file = f"figures/{'-'.join(path.split('.')[1:] or [path])}-{name}.png"
        files[file], alternative = draw(name, look_up(path))
        width = round(int.from_bytes(files[file][16:20], "big") / 2)  # of PNG's header
        told = f":alt: {one_line(alternative)}\n:width: {width}px\n:class: {size_class(width)}"
        caption = f"{captions(name)} {origin_of(path, look_up)}".strip()
        return f":::{{figure}} {file}\n{told}\n\n{escape_markdown(caption)}\n:::"

    return _FIGURE.sub(replace, text), files


def size_class(width: int) -> str:
    """By which a page's style knows how wide, in inches, a picture of so many pixels is."""
    return f"inches-{ceil(width / DPI - 0.25)}"  # a quarter is the white rim


def captions(name: str) -> str:
    """What stands below a figure: the first sentence of what draws it."""
    draw = FIGURES[name]
    lines = (getattr(draw, "func", draw).__doc__ or "").strip().split("\n\n")
    family = name.removeprefix(GALLERY)
    return " ".join(lines[0].split()) + (f" Family: {family}." if family != name else "")


_PLACEHOLDER = re.compile(r"\{\{\s*([^{}|]+?)\s*(?:\|\s*([^{}]+?)\s*)?\}\}")
_TITLE = re.compile(r"^# .+$", re.MULTILINE)


def expand(text: str, values: Mapping[str, Any], *, page: str) -> str:
    """Replace ``{{ results.04_residual_pca.gap | .2f }}`` by the value found in ``values``.

    Parameters
    ----------
    text : str
        Markdown. A placeholder is a dotted path, and optionally a format specification of Python;
        or a table, see `mdhelpers.book.pages`.
    values : mapping
        Nested mappings and sequences; ``results`` holds a run's ``results.json``.
    page : str
        Name of the page, for the message.

    Returns
    -------
    str
        The text without placeholders. What is put in for one is plain text, never Markdown.

    Raises
    ------
    ValueError
        When a path leads nowhere, or the format does not suit the value.
    """

    def replace(match: re.Match) -> str:
        path, spec = match.groups()
        value = look_up(values, path, page=page)
        try:
            return in_format(value, spec or "")
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{page}: {{{{ {path} }}}} is {value!r}, which the format {spec!r} does not suit; "
                "name a single number or string, or change the format."
            ) from error

    text = expand_tables(text, lambda path: look_up(values, path, page=page), page=page)
    return _PLACEHOLDER.sub(replace, text)


def look_up(values: Mapping[str, Any], path: str, *, page: str) -> Any:
    """Return what lies at a dotted path; ValueError, which names the page, where nothing does."""
    value: Any = values
    for depth, key in enumerate(path.split(".")):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, TypeError, ValueError):
            known = ", ".join(map(str, value)) if isinstance(value, Mapping) else "no keys"
            where = ".".join(path.split(".")[:depth]) or "the top"
            raise ValueError(
                f"{page}: {{{{ {path} }}}} leads nowhere: {where} has no {key!r} (it has {known}). "
                "Mend the page, or have the notebook write the figure into results.json."
            ) from None
    return value


def with_header(text: str, header: str, *, page: str) -> str:
    """Put ``header`` under the title of a Markdown page; ValueError when it has no title."""
    title = _TITLE.search(text)
    if title is None:
        raise ValueError(
            f"{page} has no title; begin it with a line '# Title' (in a notebook, in its first "
            "Markdown cell)."
        )
    return f"{text[: title.end()]}\n\n{header}\n{text[title.end() :]}"
