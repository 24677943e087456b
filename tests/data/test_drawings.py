"""What is drawn at 24 px, and that it looks the same at any size."""

import numpy as np
import pytest

from mdhelpers.data import drawings

PATTERNS = (drawings.stripes, drawings.web, drawings.dots)
SHAPES = (drawings.draw_tag, drawings.draw_ring, drawings.draw_cross)


def gray(size: int, n: int = 6) -> np.ndarray:
    return np.full((n, size, size, 3), 128, np.float32)


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("size", [32, 224])
def test_a_pattern_covers_as_much_of_a_larger_image(pattern, size):
    shares = [
        np.mean([mask.mean() for mask, _ in pattern(gray(s, 40), np.random.default_rng(0))])
        for s in (24, size)
    ]
    assert shares[1] == pytest.approx(shares[0], rel=0.2)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_covers_as_much_of_a_larger_image(shape):
    shares = []
    for size in (24, 240):
        canvas, corner = gray(size), np.full(6, size / 3)
        shape(canvas, corner, corner, size / 3)
        shares.append((np.abs(canvas - 128).max(-1) > 40).mean())
    assert shares[1] == pytest.approx(shares[0], rel=0.35)


def test_random_positions_keep_a_square_inside():
    tops, lefts = drawings.random_position(gray(24, 500), 9, np.random.default_rng(1))
    for places in (tops, lefts):
        assert places.min() >= 1
        assert places.max() + 9 <= 23
        assert len(np.unique(places)) == 14  # every place occurs


def test_clear_positions_avoid_what_is_blocked():
    blocked = np.ones((300, 24, 24), bool)
    blocked[:, 3:11, 12:22] = False  # room for 8 x 10: three places of a square of 8
    top, left = drawings.clear_position(gray(24, 300), 8, blocked, np.random.default_rng(2))
    assert set(top) == {3}
    assert set(left) == {12, 13, 14}


def test_where_all_is_blocked_the_least_is_covered():
    blocked = np.ones((5, 24, 24), bool)
    blocked[:, 0, 0] = False
    top, left = drawings.clear_position(gray(24, 5), 4, blocked, np.random.default_rng(3))
    assert not top.any()
    assert not left.any()


def test_a_square_of_half_a_pixel_more_is_softened():
    mask = drawings.square_mask(gray(24, 1), np.array([2.0]), np.array([2.5]), 3)
    assert mask.sum() == pytest.approx(9)
    assert set(np.unique(mask)) == {0, 0.5, 1}
