"""Formulas become MathML; every formula of the book can be read."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docutils import nodes

from mdhelpers.book import mathml as module
from mdhelpers.book.mathml import mathml

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^\$\$\n?(.+?)\$\$|```\{math\}\n(.+?)```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<![\\$`])\$([^$`\n]+?)\$(?!\$)")


def texts():
    for path in sorted((ROOT / "book").glob("*.md")):
        yield path.name, path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["cell_type"] == "markdown":
                yield path.name, "".join(cell["source"])


def formulas():
    for page, text in texts():
        blocks = [first or second for first, second in BLOCK.findall(text)]
        inline = INLINE.findall(BLOCK.sub("", text))
        yield from ((page, tex) for tex in (*blocks, *inline))


def parsed(made: str):
    """HTML's own entities, such as &nbsp;, are none of XML's."""
    return ElementTree.fromstring(re.sub(r"&(?!lt;|gt;|amp;|quot;)\w+;", " ", made))


def test_all_formulas_of_the_book_are_read():
    found = list(formulas())
    assert len(found) > 50
    for page, tex in found:
        made = mathml(nodes.math(tex, tex), as_block=False)
        assert made.startswith("<math"), (page, tex)
        assert "".join(parsed(made).itertext()).strip(), (page, tex)


def test_a_formula_has_its_parts():
    made = ElementTree.fromstring(mathml(nodes.math("", r"\frac{\hat x_i}{2}"), as_block=True))
    assert made.get("display") == "block"
    assert [e.text for e in made.iter() if e.text and e.text.strip()] == ["x", "i", "ˆ", "2"]


def test_brackets_grow_without_left_and_right():
    made = mathml(nodes.math("", r"\big( a \big)"), as_block=False)
    assert made == mathml(nodes.math("", r"\bigl( a \bigl)"), as_block=False)


def test_bars_are_as_high_as_letters_and_stand_close():
    made = mathml(nodes.math("", r"\sum_i |G| + \|w\|_1"), as_block=True)
    assert made.count('<mo stretchy="false" lspace="0" rspace="0">|</mo>') == 2
    assert made.count('<mo stretchy="false" lspace="0" rspace="0">‖</mo>') == 2


def test_what_cannot_be_read_is_a_warning_and_stays_in_sight(monkeypatch):
    told = []
    monkeypatch.setattr(module._LOG, "warning", lambda text, *given, **_: told.append(text % given))
    assert mathml(nodes.math("", r"\nosuch{<b>}"), as_block=False) == r"\nosuch{&lt;b&gt;}"
    assert "nosuch" in told[0]


@pytest.mark.parametrize("tex", [r"a < b", r"\text{<script>}"])
def test_nothing_in_a_formula_becomes_a_tag_of_the_page(tex):
    made = ElementTree.fromstring(mathml(nodes.math("", tex), as_block=False))
    assert {element.tag.rpartition("}")[2] for element in made.iter()} & {"script", "b"} == set()
