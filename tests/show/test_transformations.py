"""The page on transformations shows every kind."""

import matplotlib.pyplot as plt
import pytest

from mdhelpers.data.transforms import KINDS
from mdhelpers.show import transformations as show


def test_every_kind_is_shown_once_or_is_of_ones_own():
    shown = [word for family in show.FAMILIES for word in show.of_family(family)]
    assert sorted([*shown, *show.OF_ONES_OWN]) == sorted(KINDS)


@pytest.mark.parametrize("family", ["overlays", "objects"])
def test_the_gallery_has_each_kind_as_it_is_changed_and_as_a_placebo(family):
    figure, said = show.gallery(family)
    words = show.of_family(family)
    assert len(figure.axes) == len(words) * 3 * len(show.SIZES)
    for row in range(len(words)):
        panels = figure.axes[row * 9 : row * 9 + 9]
        for block, size in enumerate(show.SIZES):
            images = [ax.images[0].get_array() for ax in panels[3 * block : 3 * block + 3]]
            assert {image.shape for image in images} == {(size, size, 3)}
            assert (images[0] != images[1]).any()
            assert (images[0] != images[2]).any()
    assert all(word.replace("_", " ") in said for word in words)
    plt.close("all")


def test_the_table_names_units_and_options():
    rows = {row["kind"]: row for row in show.kinds_rows()}
    assert rows["ring"]["intensity"] == "px"
    assert rows["square"]["options"] == "unit, where, color"
    assert all(row["what it does"] for row in rows.values())
