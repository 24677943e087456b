"""Executed notebooks as pages: what a reader wants first, and the code where it can be looked up.

Figures get a caption and a text alternative, code that made something stands folded below it,
imports and parameters are one fold under the title, and what is for the one who waits goes.
"""

import ast
import base64
import copy
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

from mdhelpers.base.places import typeset
from mdhelpers.book.pages import FIRST_ROWS, MOST_ROWS, size_class, with_header
from mdhelpers.show.style import escape_markdown

_PROGRESS = re.compile(r"\d+%\|")
_LOG = re.compile(r"^\d\d_\w+: (?:running|finished before)[^\n]*\n?", re.MULTILINE)
PICTURE = "image/png"


def publishable(notebook: dict, header: str, *, page: str, about: str = "") -> dict:
    """Copy an executed notebook as a page for readers.

    Parameters
    ----------
    notebook : dict
        An executed notebook, format 4.
    header : str
        Markdown: provenance, and a banner where there is one. It replaces what
        `mdhelpers.show.style.show_provenance` showed when the notebook ran.
    page : str
        Name of the notebook, for messages.
    about : str
        What ends every caption: which run the figure is of.

    Raises
    ------
    ValueError
        When the notebook has no title, was not run to its end, or failed.
    """
    notebook = copy.deepcopy(notebook)
    _check_finished(notebook, page=page)
    titled = next((c for c in notebook["cells"] if c["cell_type"] == "markdown"), None)
    if titled is None:
        raise ValueError(f"{page} has no Markdown cell; begin it with a title.")
    titled["source"] = with_header(_source(titled), header, page=page)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [kept for kept in map(_for_readers, cell["outputs"]) if kept]
    describe_figures(notebook["cells"], about)
    notebook["cells"] = with_folds(notebook["cells"])
    notebook["metadata"].pop("papermill", None)
    return notebook


SETUP = """<details class="setup"><summary>Imports and parameters</summary>

{told}
"""
END = "</details>"
_STAGE = re.compile(r"\w\(\s*run\b")  # a call that carries out, or reads, a step of the run
_RUN = ("study", "profile", "runs_dir")


def with_folds(cells: Sequence[dict]) -> list[dict]:
    """Fold imports and parameters into one, and the code of what is shown below what it made.

    Code that shows nothing stays in sight where it is a formula written out, and no call of a step.
    """
    imports = next((i for i, c in enumerate(cells) if c["cell_type"] == "code"), None)
    opened = next((i for i, c in enumerate(cells) if "open_run(" in _code(c)), None)
    if imports is None or opened is None or opened < imports:
        imports, opened = len(cells), len(cells) - 1
    setup = [copy.deepcopy(cell) for cell in cells[imports : opened + 1]]
    for cell in setup:
        if cell["cell_type"] == "markdown":  # a heading would begin a section within the fold
            cell["source"] = re.sub(r"^#+ (.+)$", r"**\1**", _source(cell), flags=re.MULTILINE)
    for cell in (*cells[:imports], *cells[opened + 1 :]):
        if cell.get("outputs") or _STAGE.search(_code(cell)):
            tags = cell["metadata"].setdefault("tags", [])
            cell["metadata"]["tags"] = [*tags, "hide-input"]
    if setup:
        begin = _markdown(SETUP.format(told=differences(setup)), "setup")
        setup = [begin, *setup, _markdown(END, "setup-end")]
    return [*cells[:imports], *setup, *cells[opened + 1 :]]


def _markdown(source: str, name: str) -> dict:
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}


def differences(cells: Sequence[dict]) -> str:
    """Which parameters of a run are not the notebook's own, in a sentence of Markdown."""
    own, given = (
        {name: value for c in cells if tag in _tags(c) for name, value in assigned(_source(c))}
        for tag in ("parameters", "injected-parameters")
    )
    other = [
        escape_markdown(f"{name} = {value}")
        for name, value in given.items()
        if name not in _RUN and value != own.get(name)
    ]
    return f"Not the defaults: {', '.join(other)}." if other else "All parameters are the defaults."


def assigned(source: str) -> Iterator[tuple[str, str]]:
    """Names and values of a parameters cell, the values as Python writes them."""
    for node in _parsed(source).body:
        target = getattr(node, "target", None) or getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and node.value is not None:
            yield target.id, ast.unparse(node.value)


FRAMES = (
    "mosaic",
    "image_rows",
    "show_images",
)  # what puts into a figure what another function made


def describe_figures(cells: Sequence[dict], about: str = "") -> None:
    """Give each figure of a notebook's cells a caption, a text alternative and its width.

    The words are what the functions of `mdhelpers.show` that drew the figure say of themselves; of
    a figure that a cell draws by itself, what stands above it. MyST-NB takes them from the cell.
    """
    modules: dict[str, str] = {}
    above = ""
    for cell in cells:
        if cell["cell_type"] == "markdown":
            above = first_sentence(_source(cell))
        elif cell["cell_type"] == "code":
            tree = _parsed(_source(cell))
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "mdhelpers.show":
                    modules |= {n.asname or n.name: f"{node.module}.{n.name}" for n in node.names}
            if sizes := [w for w in map(width_of, cell["outputs"]) if w]:
                said = " ".join(_drawn_by(tree, modules)) or above
                image = {"alt": said, "width": f"{max(sizes)}px", "classes": size_class(max(sizes))}
                shown = {
                    "image": image,
                    "figure": {"caption": f"{said} {escape_markdown(about)}".strip()},
                }
                cell["metadata"].setdefault("mystnb", {}).update(shown)


def width_of(output: Mapping[str, Any]) -> int:
    """The width of an output's picture, in pixels of a page; 0 without one."""
    if PICTURE not in output.get("data", ()):
        return 0
    known = output.get("metadata", {}).get(PICTURE, {}).get("width")
    first = base64.b64decode("".join(output["data"][PICTURE])[:32])  # with PNG's header
    return int(known or struct.unpack(">I", first[16:20])[0])


def _parsed(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError:  # a cell of IPython's own commands
        return ast.Module([], [])


def _drawn_by(tree: ast.Module, modules: Mapping[str, str]) -> list[str]:
    """The first sentences of what is called in a cell, of the book's functions that draw."""
    found = []
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
            module = modules.get(called.value.id)
            function = getattr(import_module(module), called.attr, None) if module else None
            if function is not None and function.__doc__ and called.attr not in FRAMES:
                found.append(first_sentence(function.__doc__))
    return list(dict.fromkeys(found))


def first_sentence(text: str) -> str:
    """The first sentence of Markdown or a docstring, without headings and marks of either."""
    lines = [line for line in text.strip().splitlines() if not line.startswith(("#", ":::"))]
    words = " ".join(" ".join(lines).split())
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*$]|\{\w+\}|,? \(n_[^)]*\)", r"\1", words)
    return re.split(r"(?<=[.?!])(?<!App\.)\s", plain, maxsplit=1)[0]


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


def _code(cell: Mapping[str, Any]) -> str:
    return _source(cell) if cell["cell_type"] == "code" else ""


def _tags(cell: Mapping[str, Any]) -> Sequence[str]:
    return cell["metadata"].get("tags", ())


def _check_finished(notebook: dict, *, page: str) -> None:
    code = [c for c in notebook["cells"] if c["cell_type"] == "code" and _source(c).strip()]
    for number, cell in enumerate(code, start=1):
        for output in cell["outputs"]:
            if output["output_type"] == "error":
                raise ValueError(
                    f"{page}: code cell {number} failed with {output['ename']}: "
                    f"{output['evalue']}. Mend it and run the study again."
                )
        if cell["execution_count"] is None:
            raise ValueError(f"{page}: code cell {number} was not run. Run the study to its end.")


def _for_readers(output: dict) -> dict | None:
    """Drop what the header says already, and what is for the one who waits; set numbers in type."""
    page = "".join(output.get("data", {}).get("text/html", ""))
    if "mdhelpers-provenance" in page:
        return None
    if page:
        return {**output, "data": output["data"] | {"text/html": with_short_tables(page)}}
    if output["output_type"] != "stream":
        return without_quotes(output)
    text = _LOG.sub("", "".join(output["text"]))
    if output["name"] == "stderr":
        lines = re.split(r"(?<=[\n\r])", text)
        kept = (line for line in lines if not _PROGRESS.search(line) and not line.endswith("\r"))
        text = "".join(kept)
    return {**output, "text": text} if text.strip() else None


def without_quotes(output: dict) -> dict:
    """A text that a cell ends with, as a reader would write it."""
    said = "".join(output.get("data", {}).get("text/plain", ""))
    if set(output.get("data", ())) != {"text/plain"} or said[:1] not in ("'", '"'):
        return output
    try:
        return {**output, "data": {"text/plain": str(ast.literal_eval(said))}}
    except (ValueError, SyntaxError):  # a thing whose name begins with a quote
        return output


_CELL = re.compile(r"(<t[dh][^>]*>)([^<]*)(?=</t[dh]>)")
_NUMBER = re.compile(r"(?<![\w.-])-\d[\d.]*")
_COUNT = re.compile(r"(?<![\d.])([1-9]\d+)\.0{2,}(?!\d)")  # 32.000 is a count among shares
WORDS = {"True": "yes", "False": "no", "NaN": "–", "None": "–"}
_ROW = re.compile(r"<tr.*?</tr>", re.DOTALL)
_BODY = re.compile(r"(<tbody>)(.*?)(</tbody>)", re.DOTALL)


def with_short_tables(page: str) -> str:
    """HTML with true minus signs in its tables, and long tables cut: the whole is below, folded."""

    def set_in_type(cell: re.Match) -> str:
        said = WORDS.get(cell[2], _COUNT.sub(r"\1", cell[2]))
        return cell[1] + _NUMBER.sub(lambda number: typeset(number[0]), said)

    if "<table" not in page:
        return page
    page = _CELL.sub(set_in_type, page)
    body = _BODY.search(page)
    rows = _ROW.findall(body[2]) if body else []
    if len(rows) <= MOST_ROWS:
        return page
    short = (
        page[: body.start()] + body[1] + "".join(rows[:FIRST_ROWS]) + body[3] + page[body.end() :]
    )
    whole = f"<details><summary>all {len(rows)} rows</summary>{page}</details>"
    return f"{short}{whole}"
