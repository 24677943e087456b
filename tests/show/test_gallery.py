"""Mosaics show every image, whole and where it belongs."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from mdhelpers.show.gallery import datamodel_neighbours, image_rows, show_images

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)


@pytest.fixture
def ax():
    figure = Figure(figsize=(6, 3))
    yield figure.subplots()
    figure.canvas.draw()


def drawn(ax):
    return [image.get_array() for image in ax.images]


def test_images_are_shown_whole_unsmoothed_and_apart(ax):
    assert show_images(ax, IMAGES, columns=4, gap=2) is ax
    np.testing.assert_array_equal(drawn(ax), IMAGES)
    assert {image.get_interpolation() for image in ax.images} == {"nearest"}
    lefts = [image.get_extent()[0] for image in ax.images]
    assert lefts[:5] == [0, 10, 20, 30, 0]
    bottoms_tops = [image.get_extent()[2:] for image in ax.images]
    assert bottoms_tops[4][1] >= bottoms_tops[0][0] + 2


def test_all_images_lie_within_the_axes(ax):
    show_images(ax, IMAGES, titles=["two\nlines"] * 10, columns=3)
    for image in ax.images:
        left, right, bottom, top = image.get_extent()
        assert ax.get_xlim()[0] <= left < right <= ax.get_xlim()[1]
        assert ax.get_ylim()[0] >= bottom > top >= ax.get_ylim()[1]


def test_titles_and_outlines_belong_to_their_images(ax):
    outlines = [None] * 9 + ["#009E73"]
    show_images(ax, IMAGES, titles=[str(i) for i in range(10)], outlines=outlines)
    assert [text.get_text() for text in ax.texts] == [str(i) for i in range(10)]
    (box,) = ax.patches
    left, _, bottom, _ = ax.images[9].get_extent()
    assert box.get_x() == pytest.approx(left, abs=1)
    assert box.get_y() + box.get_height() == pytest.approx(bottom, abs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": IMAGES[0]}, "expected a non-empty"),
        ({"images": IMAGES / 255}, "float64"),
        ({"images": IMAGES[:0]}, "non-empty"),
        ({"images": IMAGES, "titles": ["one"]}, "Got 1 titles for 10"),
        ({"images": IMAGES, "columns": 0}, "columns is 0"),
    ],
)
def test_what_is_not_a_stack_of_images_is_refused(ax, arguments, message):
    with pytest.raises(ValueError, match=message):
        show_images(ax, **arguments)


def test_rows_have_their_label_and_may_differ_in_length(ax):
    rows = {"top": IMAGES[:3], "random": IMAGES[3:8]}
    assert image_rows(ax, rows) is ax
    assert len(ax.images) == 8
    tops = [image.get_extent()[3] for image in ax.images]
    assert len(set(tops[:3])) == 1
    assert tops[3] > tops[0]
    assert [text.get_text() for text in ax.texts] == ["top", "random"]
    with pytest.raises(ValueError, match="one size"):
        image_rows(ax, {"top": IMAGES, "random": IMAGES[:, :4]})


def test_neighbours_are_the_largest_weights_of_each_algorithm(ax):
    weights = {"fixed": np.arange(10.0), "shifted": -np.arange(10.0)}
    image = IMAGES[0]
    assert datamodel_neighbours(ax, image, IMAGES, weights, top_k=2) is ax
    np.testing.assert_array_equal(drawn(ax)[0], image)
    np.testing.assert_array_equal(drawn(ax)[1:], IMAGES[[9, 8, 0, 1]])
    texts = [text.get_text() for text in ax.texts]
    assert "+8" in texts
    assert texts[-2:] == ["fixed", "shifted"]


def test_neighbours_refuse_weights_of_another_training_set(ax):
    with pytest.raises(ValueError, match="10 training images"):
        datamodel_neighbours(ax, IMAGES[0], IMAGES, {"fixed": np.zeros(9)})
    with pytest.raises(ValueError, match="top_k 11"):
        datamodel_neighbours(ax, IMAGES[0], IMAGES, {"fixed": np.zeros(10)}, top_k=11)


def test_empty_rows_are_left_out_and_nothing_at_all_is_said():
    ax, same, none = (Figure().subplots() for _ in range(3))
    image_rows(ax, {"full": IMAGES, "empty": IMAGES[:0]})
    image_rows(same, {"full": IMAGES})
    assert len(ax.texts) == len(same.texts)
    assert len(ax.images) == len(same.images)
    image_rows(none, {"empty": IMAGES[:0]})
    assert [text.get_text() for text in none.texts] == ["no images to show here"]
    assert none.figure.get_figheight() < 1 < ax.figure.get_figheight()
