"""Figures of recorded benchmarks in prose pages."""

import json
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mdhelpers.book.pages import expand, expand_figures, expand_tables, in_format
from tests.book.test_figures import BUDGETS

RECORDED = Path(__file__).parents[2] / "book" / "recorded"


def expanded(text: str):
    return expand_figures(text, lambda path: {"recorded.b": BUDGETS}[path], page="p.md")


def test_a_figure_becomes_an_image_with_a_text_alternative():
    text, files = expanded("Before\n\n{{ figure lds_by_method recorded.b }}\n\nAfter {{ x }}")
    assert list(files) == ["figures/b-lds_by_method.png"]
    first, image, caption, last = text.split("\n\n")
    assert (first, last) == ("Before", "After {{ x }}")
    assert image.startswith(":::{figure} figures/b-lds_by_method.png\n:alt: LDS against")
    assert "for plain lasso from 0.20 with 100 to 0.50 with 400" in image
    assert ":width: 990px\n:class: inches-9" in image
    assert caption == "LDS of each method against the number of models, a panel per algorithm.\n:::"
    picture = plt.imread(BytesIO(files["figures/b-lds_by_method.png"]))
    assert picture.shape[1] > 900
    assert np.ptp(picture) > 0


def test_the_same_data_give_the_same_bytes_and_leave_the_style_alone():
    before = plt.rcParams["font.size"], plt.get_fignums()
    text = "{{ figure lds_by_method recorded.b }}"
    assert expanded(text) == expanded(text)
    assert before == (plt.rcParams["font.size"], plt.get_fignums())


def test_numbers_are_set_in_one_way():
    given = {
        (12345, ""): "12,345", (1234, ""): "1234", (11284.7, ".1f"): "11,284.7",
        (-20000, "+.0f"): "−20,000", (9e-7, ".0e"): "9 × 10⁻⁷", (2.5e9, ".1e"): "2.5 × 10⁹",
        (0.5, ".0%"): "50%", (120000, ","): "120,000", (True, ""): "true", (-0.04, ".1f"): "0.0",
    }  # fmt: skip
    assert {key: in_format(*key) for key in given} == given


def test_a_long_table_of_a_record_is_cut_and_folded_below_itself():
    rows = [{"n": i} for i in range(13)]
    text = "{{ table recorded.r.rows | n }}"
    found = {"recorded.r.rows": rows, "recorded.r": {"rows": rows}}
    cut = expand_tables(text, found.__getitem__, page="p.md")
    first, whole = cut.split(":::{dropdown} all 13 rows\n")
    assert first == "| n |\n| --: |\n" + "".join(f"| {i} |\n" for i in range(6)) + "\n"
    assert whole == "| n |\n| --: |\n" + "".join(f"| {i} |\n" for i in range(13)) + ":::"
    found["recorded.r.rows"] = rows[:12]
    assert "dropdown" not in expand_tables(text, found.__getitem__, page="p.md")
    reference = expand_tables("{{ table kinds.rows | n }}", lambda _: rows, page="p.md")
    assert "dropdown" not in reference


def test_what_one_types_is_set_as_code_and_cannot_leave_it():
    rows = [{"option": "--force, --from"}, {"option": "a `b` | c"}, {"option": ""}]
    shown = expand_tables("{{ table x | option:code as option }}", lambda _: rows, page="p.md")
    assert shown.split("\n")[2:] == ["| `--force, --from` |", "| `a b , c` |", "|  |"]


def test_an_unknown_figure_is_named():
    with pytest.raises(ValueError, match=r"p\.md: no figure 'lds'; there are lds_by_method"):
        expanded("{{ figure lds recorded.b }}")


@pytest.mark.parametrize("path", sorted(RECORDED.glob("budgets_*.json")), ids=lambda p: p.stem)
def test_what_was_recorded_can_be_drawn(path):
    budgets = json.loads(path.read_text())
    text, files = expand_figures("{{ figure lds_by_method b }}", lambda _: budgets, page="p.md")
    assert len(files) == 1
    assert all(name in text for name in budgets["settings"]["names"])


# Tables of recorded figures in prose pages.

ROWS = [
    {"way": "one", "s a model": 0.123},
    {"way": "two", "s a model": 4.0, "extra": 7, "parts": {"a, b": 0.5}},
]


def with_tables(text: str) -> str:
    there = {"recorded.x.rows": ROWS, "n": 3, "recorded.x": {"rows": ROWS}}
    return expand_tables(text, there.__getitem__, page="p.md")


def test_rows_become_a_table_with_titles_and_formats():
    text = with_tables(
        "Before\n\n{{ table recorded.x.rows | way; s a model:.1f as seconds; extra }}\n"
    )
    assert text.splitlines()[2:] == [
        "| way | seconds | extra |",
        "| --- | --: | --: |",
        "| one | 0.1 |  |",
        "| two | 4.0 | 7 |",
    ]


@pytest.mark.parametrize(
    ("value", "spec", "shown"),
    [(-1.25, ".1f", "−1.2"), (-0.04, ".1f", "0.0"), (0.004, "+.1f", "0.0"), (-0.3, ".0%", "−30%"),
     (3, "", "3"), (-2, "+d", "−2"), ("a-b", "", "a-b")],
)  # fmt: skip
def test_numbers_have_a_minus_sign_and_nothing_is_zero(value, spec, shown):
    assert in_format(value, spec) == shown
    text = f"{{{{ x | {spec} }}}}" if spec else "{{ x }}"
    assert expand(text, {"x": value}, page="p") == shown


def test_a_table_says_once_where_it_was_recorded():
    machine = {"cpu": "a [CPU]", "cores": 2, "gpu": None}
    about = {"study": "s", "models": 64, "commit": "abc", "date": "2026-01-01"}
    there = {"recorded": {"x": {"machine": machine, "rows": ROWS}, "y": {"s": {"about": about}}}}
    there["recorded"]["y"]["s"]["rows"] = there["rows"] = ROWS
    row = "{{ table recorded.x.rows | way }}"
    text = expand(f"{row}\n\n{row}\n\n{{{{ table rows | way }}}}", there, page="p")
    assert text.count("a \\[CPU\\], 2 cores · file x") == 1
    text = expand(f"{row}\n\n{{{{ table recorded.y.s.rows | way }}}}\n\n{row}", there, page="p")
    assert text.count("file x") == 2
    assert "Study s · 2 × 64 models · commit abc · 2026" in text


def test_a_column_that_no_row_has_is_named():
    with pytest.raises(ValueError, match=r"p\.md: no row has 'wya'"):
        with_tables("{{ table recorded.x.rows | wya }}")


def test_only_lists_of_rows_make_tables():
    with pytest.raises(ValueError, match="no list of rows"):
        with_tables("{{ table n | way }}")


def test_rows_are_chosen_by_a_key_and_values_found_in_parts():
    text = with_tables("{{ table recorded.x.rows where parts | way; parts.a, b:.2f as ab }}")
    assert text.splitlines()[1:] == ["| --- | --: |", "| two | 0.50 |"]
