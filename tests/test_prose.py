"""The pages speak plain English, British, with true signs: a small style, checked."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROSE = [*ROOT.glob("book/*.md"), *ROOT.glob("book/findings/*.md"), ROOT / "README.md"]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))

FAULTS = {
    r"\b(?:fore(?:tell|told|tells|telling))\b": "say predict",
    r"\b(?:likest|surer|surest|plainest)\b": "say more certain, most alike",
    r"\b(?:one|number|line|panel|row|time|models|dot|file|process|worker) an? "
    r"(?:image|model|algorithm|kind|pair|drawing|core|GPU|class|notebook|folder)\b": (
        "say per image"
    ),
    r"\b(?:images|models|seconds|steps) an? (?:second|minute|hour)\b": "say per second",
    r"\b(?:color|behavior|optimizer|optimize|(?:initial|normal|regular|summar)iz\w+)\b": (
        "the book is British: colour, initialise"
    ),
    r"\b(?:utilis\w+|leverag\w+ (?!scores)|in order to|due to the fact|it should be noted)\b": (
        "say it in a plain word"
    ),
    r"(?<![\w.`$^{(-])-\d": "a negative number has a true minus sign",
    r"\s--\s": "write a sentence instead of a dash",
}
LONGEST = 60  # words of a sentence


def without_code(text: str) -> str:
    """Markdown without code, formulas, roles, links' targets and placeholders."""
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1", " ", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$|\$[^$\n]+\$", " x ", text, flags=re.DOTALL)
    text = re.sub(r"\{\{.*?\}\}", " y ", text, flags=re.DOTALL)
    text = re.sub(r"\{[\w:]+\}`[^`]*`|`[^`\n]*`", " z ", text)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    return re.sub(r"<[^>\n]+>", " ", text)


def captions() -> str:
    """The first sentence of what draws, which pages have as captions, and units of axes."""
    texts = []
    for path in sorted((ROOT / "mdhelpers/show").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (said := ast.get_docstring(node)):
                texts.append(said.split("\n\n")[0].replace("``", "`"))
    return "\n\n".join(texts)


def sources() -> dict[str, str]:
    found = {path.name: path.read_text(encoding="utf-8") for path in PROSE}
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        said = ["".join(c["source"]) for c in cells if c["cell_type"] == "markdown"]
        found[path.name] = "\n\n".join(said)
    found["captions"] = captions()
    return {name: without_code(text) for name, text in found.items()}


SOURCES = sources()


@pytest.mark.parametrize("name", SOURCES)
def test_words_are_those_of_the_style(name):
    found = [
        f"{match[0]!r} ({why})"
        for pattern, why in FAULTS.items()
        for match in re.finditer(pattern, SOURCES[name], re.IGNORECASE)
    ]
    assert found == []


@pytest.mark.parametrize("name", SOURCES)
def test_sentences_are_short(name):
    text = re.sub(
        r"^\|.*$|^#.*$|^[-*] |^:::.*$|^:\w+:.*$", "\n\n", SOURCES[name], flags=re.MULTILINE
    )
    sentences = [
        " ".join(each.split()) for each in re.split(r"(?<=[.?!:;])\s|\n\n|\n(?=[-*:] )", text)
    ]
    assert [s for s in sentences if len(s.split()) > LONGEST] == []


def test_the_style_finds_what_it_looks_for():
    bad = "It foretells -3 points, one line an image, in behavior."
    assert sum(bool(re.search(p, bad, re.IGNORECASE)) for p in FAULTS) == 4
    assert not any(re.search(p, without_code("`-3` and $-3$"), re.IGNORECASE) for p in FAULTS)
