"""Text of others, kept plain where it is shown: class names, captions, names of algorithms.

Such text comes from names of folders and from files, so it may hold anything. Figures show it
through `style.label_text`, pages and Markdown through `escape_markdown`, tables of pandas and the
explorer by their own escaping. It is shown as it is and never becomes TeX, HTML, Markdown, MyST or
a second placeholder.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

_ACTIVE = re.compile(r"[\\`*_{}\[\]<>|$&~^#:]")  # of Markdown, MyST, HTML, TeX and tables
_AT_THE_START = re.compile(r"^(?:[-+=]|\d+(?=[.)]))")  # of a line: a list, or a line under a title
_SCRIPT = re.compile(r"<(?=/?script|!--)", re.IGNORECASE)
_JOINERS = "\u200c\u200d"  # within words and emoji; other signs without a shape are left out
_WORD_JOINER = "\u2060"
_NAME = 60  # characters of a name within a sentence


def one_line(text: Any) -> str:
    """The text on one line, without control characters and signs that turn the direction."""
    line = " ".join(str(text).split())
    return "".join(c for c in line if c in _JOINERS or unicodedata.category(c)[0] != "C")


def shortened(text: str, width: int) -> str:
    """At most ``width`` characters: the middle of a longer text becomes an ellipsis."""
    if len(text) <= width:
        return text
    end = (width - 1) // 2
    return f"{text[: width - 1 - end].rstrip()}…{text[len(text) - end :].lstrip()}"


def escape_markdown(text: Any) -> str:
    """Text that Markdown and MyST show as it is, on one line."""
    line = _ACTIVE.sub(r"\\\g<0>", one_line(text))
    start = _AT_THE_START.match(line)
    if start is None:
        return line
    if line[0].isdigit():
        return f"{start[0]}\\{line[start.end() :]}"
    return f"\\{line}"


def escaped(texts: Iterable[Any]) -> tuple[str, ...]:
    """`escape_markdown` of each name, long ones shortened."""
    return tuple(escape_markdown(shortened(one_line(text), _NAME)) for text in texts)


def without_script_ends(value: Any) -> Any:
    """JSON that can stand in a page's ``<script>``: no text in it begins or ends another.

    An invisible sign is put after the ``<`` of ``<script``, ``</script`` and ``<!--``.
    """
    if isinstance(value, str):
        return _SCRIPT.sub(f"<{_WORD_JOINER}", value)
    if isinstance(value, Mapping):
        return {without_script_ends(k): without_script_ends(v) for k, v in value.items()}
    if isinstance(value, list):
        return [without_script_ends(each) for each in value]
    return value
