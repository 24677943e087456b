"""Page 06's figures and tables show what they were given, and say so where there is nothing."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from mdhelpers.runs.stage import CAPTIONS
from mdhelpers.show import captions as show
from mdhelpers.stages.captions import COLUMNS

WORTH = (0.9, 0.8, 1.0, 0.3, 3.0, 1.0)  # auc, its interval, score, z, stability
NONE = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)


@pytest.fixture
def table():
    """Two captions of both ends of two directions, against all references; the second unstable."""
    rows = [
        (name, direction, end, reference, rank, f"{end} {rank}", *(w - rank / 10 for w in WORTH))
        for name in ("1_minus_2", "2_minus_1")
        for direction in (4, 1)
        for end in ("top", "bottom")
        for reference in ("all", "class", "end")
        for rank in (1, 2)
    ]
    found = pd.DataFrame(rows, columns=list(COLUMNS))
    found["stability"] = np.where(found["rank"] == 1, 1.0, 0.2)
    found.loc[(found["direction"] == 1) & (found["end"] == "top"), "stability"] = 0.2
    clearest = (found["end"] == "bottom") & (found["reference"] == "class") & (found["rank"] == 1)
    found.loc[clearest & (found["direction"] == 4), "z"] = 9.0
    return found


def test_caption_bars_show_the_clearest_first(ax):
    captions = pd.DataFrame(
        {
            "caption": ["a", "b", "c"],
            "z": [1, 3, -2],
            "auc": [0.6, 0.7, 0.3],
            "auc_low": [0.5, 0.55, 0.2],
            "auc_high": [0.7, 0.9, 0.4],
            "stability": [0.1, 0.5, 0.0],
        }
    )
    assert show.caption_bars(ax, captions, top_k=2) is ax
    assert [text.get_text() for text in ax.get_yticklabels()] == ["b", "a"]
    bars = [(bar.get_x(), bar.get_width()) for bar in ax.patches]
    assert bars == [(0.5, pytest.approx(0.2)), (0.5, pytest.approx(0.1))]
    (whiskers,) = (lines.get_segments() for lines in ax.collections)
    assert [segment[:, 0].tolist() for segment in whiskers] == [
        pytest.approx([0.55, 0.9]),
        pytest.approx([0.5, 0.7]),
    ]
    colors = [to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colors == [show.CAPTION_COLOR, show.UNSTABLE_COLOR]
    assert ax.yaxis_inverted()
    with pytest.raises(ValueError, match="lacks"):
        show.caption_bars(ax, captions[["caption", "z"]])


def test_the_first_directions_clearest_end_is_chosen(table):
    first = show.first_end(table, "1_minus_2")
    assert set(first["direction"]) == {4}
    assert set(first["end"]) == {"bottom"}
    assert len(first) == 6
    figure = show.caption_panels(first)
    assert [ax.get_title() for ax in figure.axes] == list(show.REFERENCES.values())
    middle = [text.get_text() for text in figure.axes[1].get_yticklabels()]
    assert middle == ["bottom 1", "bottom 2"]
    plt.close("all")


def test_a_panel_without_a_stable_caption_says_so(table):
    first = show.first_end(table, "1_minus_2")
    first.loc[first["reference"] == "class", "stability"] = 0.4
    titles = [ax.get_title() for ax in show.caption_panels(first).axes]
    assert [show.NONE_STABLE in title for title in titles] == [False, True, False]
    plt.close("all")


def test_all_captions_with_their_worth(table):
    styled = show.best_captions(table, ("a", "b"), n=2)
    best = styled.data
    assert best.index[0] == ("a ∖ b", 4, "top")
    assert best.loc[("b ∖ a", 4, "bottom"), 1] == "★ bottom 1 (0.80, 100%)"
    assert best[[1, 2]].stack().str.startswith("★").sum() == 2
    assert best.loc[("a ∖ b", 4, "top"), "stable"] == "1 stable"
    assert best.loc[("a ∖ b", 1, "top"), "stable"] == show.NONE_STABLE
    page = styled.to_html()
    assert page.count("100%)") == page.count(", 20%)") - 2 * 2 == 6
    grey = page[: page.index("</style>")]
    assert grey.count("#T_captions_row") == 2 * (4 + 1)


def test_hostile_text_in_the_table_stays_text(table):
    table["caption"] = "<img src=x onerror=alert(1)> $x$"
    page = show.best_captions(table, ("<b>a</b>", "$b$")).to_html()
    assert "<img" not in page
    assert "<b>" not in page
    assert "mathjax_ignore" in page


def test_retrieval_stands_beside_chance():
    rows = [
        {"k": k, "recall": 0.9, "chance": k / 100, "choices": 100, "batches": 5} for k in (1, 5)
    ]
    run = SimpleNamespace(results={CAPTIONS: {"clip": {"retrieval": rows}}})
    table = show.retrieval_report(run)
    assert table.index.tolist() == ["recall@1", "recall@5"]
    assert table["chance"].tolist() == [0.01, 0.05]
    for clip in ({}, None, {"auc": []}):  # another CLIP, and one of before
        run = SimpleNamespace(results={CAPTIONS: {"clip": clip}})
        assert "nothing to grade" in show.retrieval_report(run)


def test_without_a_clip_the_page_says_so():
    assert "switched off" in show.best_captions(NONE, ("a", "b"))
    first = show.first_end(NONE, "1_minus_2")
    for figure in (show.caption_panels(first), show.captioned_images(None, first)):
        assert all("none of these" in ax.texts[0].get_text() for ax in figure.axes)
    plt.close("all")
