import numpy as np
import pytest

from mdhelpers.data.scenes import make_scenes
from mdhelpers.data.transforms import TRANSFORMS, transform_images


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return make_scenes(n_train=6, n_test=30, seed=0).test.images


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_transformation_changes_images_more_at_more_intensity(images, name):
    strong = TRANSFORMS[name].default
    changes = [
        np.abs(transform_images(name, images, level, seed=1).astype(int) - images).mean()
        for level in (0, strong / 2, strong)
    ]
    assert changes[0] == 0
    assert changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_a_seed_gives_the_same_images_and_leaves_the_input_alone(images, name):
    kept = images.copy()
    results = [transform_images(name, images, TRANSFORMS[name].default, seed=5) for _ in range(2)]
    assert np.array_equal(*results)
    assert np.array_equal(images, kept)
    assert results[0].dtype == np.uint8
    assert results[0].shape == images.shape


def test_the_tag_touches_only_the_top_left_corner(images):
    changed = (transform_images("tag", images, 5) != images).any(axis=-1)
    assert not changed[:, 7:].any()
    assert not changed[:, :, 7:].any()


def test_a_scrambled_square_keeps_every_colour(images):
    scrambled = transform_images("scrambled_square", images, 7, seed=2)
    for before, after in zip(images, scrambled, strict=True):
        order = [np.lexsort(x.reshape(-1, 3).T) for x in (before, after)]
        pixels = [x.reshape(-1, 3)[o] for x, o in zip((before, after), order, strict=True)]
        assert np.array_equal(*pixels)


def test_a_ring_is_round_and_has_the_diameter_asked_for():
    gray = np.full((20, 24, 24, 3), 128, np.uint8)
    added = transform_images("ring", gray, 9, seed=0).astype(int) - gray
    changed = np.abs(added).max(axis=-1) > 60  # half of the ring's colour: softened edges aside
    for image in changed:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert 8 <= np.ptp(rows) + 1 <= 10
        assert 8 <= np.ptp(columns) + 1 <= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("rng", 3), "unknown transformation 'rng'. Did you mean 'ring'"),
        (("ring", -1), "intensity of 'ring' is -1"),
    ],
)
def test_bad_arguments_are_refused(images, arguments, message):
    name, intensity = arguments
    with pytest.raises(ValueError, match=message):
        transform_images(name, images, intensity)


def test_images_of_another_dtype_are_refused(images):
    with pytest.raises(ValueError, match="float32"):
        transform_images("ring", images.astype(np.float32), 5)
