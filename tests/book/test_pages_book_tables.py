"""Tables of recorded figures in prose pages."""

import pytest

from mdhelpers.book.pages import expand_tables

ROWS = [
    {"way": "one", "s a model": 0.123},
    {"way": "two", "s a model": 4.0, "extra": 7, "parts": {"a, b": 0.5}},
]


def expanded(text: str) -> str:
    return expand_tables(text, lambda path: {"recorded.x.rows": ROWS, "n": 3}[path], page="p.md")


def test_rows_become_a_table_with_titles_and_formats():
    text = expanded(
        "Before\n\n{{ table recorded.x.rows | way; s a model:.1f as seconds; extra }}\n"
    )
    assert text.splitlines()[2:] == [
        "| way | seconds | extra |",
        "| --- | --: | --: |",
        "| one | 0.1 |  |",
        "| two | 4.0 | 7 |",
    ]


def test_a_column_that_no_row_has_is_named():
    with pytest.raises(ValueError, match=r"p\.md: no row has 'wya'"):
        expanded("{{ table recorded.x.rows | wya }}")


def test_only_lists_of_rows_make_tables():
    with pytest.raises(ValueError, match="no list of rows"):
        expanded("{{ table n | way }}")


def test_rows_are_chosen_by_a_key_and_values_found_in_parts():
    text = expanded("{{ table recorded.x.rows where parts | way; parts.a, b:.2f as ab }}")
    assert text.splitlines()[1:] == ["| --- | --: |", "| two | 0.50 |"]
