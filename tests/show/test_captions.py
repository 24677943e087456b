"""Page 06's figures and tables show what they were given, and say so where there is nothing."""

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from mdhelpers.show import captions as show
from mdhelpers.stages.captions import COLUMNS

NONE = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)


@pytest.fixture
def table():
    """Two captions of both ends of two directions, against both references."""
    rows = [
        (name, direction, end, reference, rank, f"{end} {rank}", 0.3 - 0.1 * rank, z)
        for name, z in (("1_minus_2", 2.0), ("2_minus_1", 3.0))
        for direction in (4, 1)
        for end in ("top", "bottom")
        for reference in ("all", "class")
        for rank in (1, 2)
    ]
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    clearest = (found["end"] == "bottom") & (found["reference"] == "class") & (found["rank"] == 2)
    found.loc[clearest & (found["direction"] == 4), "z"] = 9.0
    return found


def test_caption_bars_show_the_best_first(ax):
    captions = pd.DataFrame({"caption": ["a", "b", "c"], "score": [0.1, 0.3, -0.2]})
    assert show.caption_bars(ax, captions, top_k=2) is ax
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    assert [bar.get_width() for bar in ax.patches] == [0.3, 0.1]
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match="lacks"):
        show.caption_bars(ax, captions[["caption"]])


def test_the_first_directions_clearest_end_is_chosen(table):
    first = show.first_end(table, "1_minus_2")
    assert set(first["direction"]) == {4}
    assert set(first["end"]) == {"bottom"}
    assert len(first) == 4
    left, right = show.caption_panels(first).axes
    assert [left.get_title(), right.get_title()] == list(show.REFERENCES.values())
    assert [text.get_text() for text in right.get_yticklabels()] == ["bottom 1", "bottom 2"]
    plt.close("all")


def test_the_clearest_caption_of_each_comparison_has_a_star(table):
    best = show.best_captions(table, ("a", "b"), n=2)
    assert best.index[0] == ("a ∖ b", 4, "top")
    assert best.loc[("b ∖ a", 4, "bottom"), 2] == "★ bottom 2 (z 9.0)"
    assert best.stack().str.startswith("★").sum() == 2


def test_without_a_clip_the_page_says_so():
    assert "switched off" in show.best_captions(NONE, ("a", "b"))
    first = show.first_end(NONE, "1_minus_2")
    for figure in (show.caption_panels(first), show.captioned_images(None, first)):
        assert all("none of these" in ax.texts[0].get_text() for ax in figure.axes)
    plt.close("all")
