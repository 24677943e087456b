"""Single pages of the book: a run's figures put into prose, executed notebooks made fit to read."""

import copy
import re
from collections.abc import Mapping
from typing import Any

from mdhelpers.book_tables import expand_tables
from mdhelpers.plain_text import escape_markdown, without_script_ends

_PLACEHOLDER = re.compile(r"\{\{\s*([^{}|]+?)\s*(?:\|\s*([^{}]+?)\s*)?\}\}")
_PROGRESS = re.compile(r"\d+%\|")
_TITLE = re.compile(r"^# .+$", re.MULTILINE)


def expand(text: str, values: Mapping[str, Any], *, page: str) -> str:
    """Replace ``{{ results.04_residual_pca.gap | .2f }}`` by the value found in ``values``.

    Parameters
    ----------
    text : str
        Markdown. A placeholder is a dotted path, and optionally a format specification of Python;
        or a table, see `mdhelpers.book_tables`.
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
            shown = format(value, spec or "")
            return escape_markdown(shown) if isinstance(value, str) else shown
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


def publishable(notebook: dict, header: str, *, page: str) -> dict:
    """Copy an executed notebook, with ``header`` under its title and without progress bars.

    Parameters
    ----------
    notebook : dict
        An executed notebook, format 4.
    header : str
        Markdown: provenance, and a banner where there is one. It replaces what
        `mdhelpers.runs.show_provenance` showed when the notebook ran.
    page : str
        Name of the notebook, for messages.

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
        if "injected-parameters" in cell["metadata"].get("tags", ()):
            cell["source"] = _source(cell).replace(
                "# Parameters\n", "# The values of this run\n", 1
            )
        if cell["cell_type"] == "code":
            cell["outputs"] = [kept for kept in map(_for_readers, cell["outputs"]) if kept]
    notebook["metadata"].pop("papermill", None)
    if "widgets" in notebook["metadata"]:
        notebook["metadata"]["widgets"] = without_script_ends(notebook["metadata"]["widgets"])
    return notebook


def _source(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"])


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
    """Drop what the header says already, and progress bars, which are for the one who waits."""
    if "mdhelpers-provenance" in "".join(output.get("data", {}).get("text/html", "")):
        return None
    if output["output_type"] != "stream" or output["name"] != "stderr":
        return output
    lines = re.split(r"(?<=[\n\r])", "".join(output["text"]))
    text = "".join(line for line in lines if not _PROGRESS.search(line) and not line.endswith("\r"))
    return {**output, "text": text} if text.strip() else None
