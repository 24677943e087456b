"""Every kind at several sizes, its places and contents, placebos, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from mdhelpers.data.drawings import YELLOW
from mdhelpers.data.scenes import make_scenes
from mdhelpers.data.transform_kinds import luminance, others
from mdhelpers.data.transforms import (
    KINDS,
    Around,
    contents_of,
    parse_transformation,
    placebo_images,
    transform_images,
)

BY_HAND = {"several", "patch", "pattern"}  # they need content of the user's own
NAMES = sorted(set(KINDS) - BY_HAND)


@pytest.fixture(scope="module")
def test_split():
    return make_scenes(n_train=6, n_test=30, seed=0).test


@pytest.fixture(scope="module")
def images(test_split) -> np.ndarray:
    return test_split.images


@pytest.fixture(scope="module")
def around(test_split) -> Around:
    return Around(test_split.foreground, test_split.labels)


@pytest.fixture
def picture(tmp_path):
    """A file: red at the left, half transparent blue at the right."""
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:, :4] = (255, 0, 0, 255)
    pixels[:, 4:] = (0, 0, 255, 128)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "patch_shuffle"])
def test_a_transformation_changes_images_more_at_more_intensity(images, around, name):
    strong = KINDS[name].default
    changes = [
        np.abs(
            transform_images(name, images, level, seed=1, around=around).astype(int) - images
        ).mean()
        for level in (0, strong / 2, strong)
    ]
    assert changes[0] == 0
    assert changes[1] > 0
    if name != "hue":  # which turns in a circle
        assert changes[1] < changes[2]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [24, 32, 224])
def test_a_seed_gives_the_same_images_and_leaves_the_input_alone(name, size):
    rng = np.random.default_rng(4)
    images = rng.integers(0, 256, (4, size, size, 3), dtype=np.uint8)
    kept, around = images.copy(), Around(images[..., 0] > 128, np.array([0, 0, 1, 1]))
    dose = KINDS[name].default
    results = [transform_images(name, images, dose, seed=5, around=around) for _ in range(2)]
    assert np.array_equal(*results)
    assert np.array_equal(images, kept)
    assert (results[0] != images).any()
    assert (results[0].dtype, results[0].shape) == (np.uint8, images.shape)


@pytest.mark.parametrize("name", NAMES)
def test_a_kind_survives_a_parameters_file(name):
    kind = parse_transformation(name)
    assert parse_transformation(json.loads(json.dumps(kind.model_dump()))) == kind
    assert parse_transformation(kind.name) == kind


def test_per_cent_means_the_same_share_of_an_image_of_any_size():
    kind = {"kind": "square", "unit": "%", "where": "centre"}
    shares = []
    for size in (24, 224):
        gray = np.full((1, size, size, 3), 128, np.uint8)
        shares.append((transform_images(kind, gray, 25) != gray).any(-1).mean())
    assert shares == pytest.approx([1 / 16, 1 / 16])


def test_the_tag_touches_only_the_top_left_corner(images):
    changed = (transform_images("tag", images, 5) != images).any(axis=-1)
    assert not changed[:, 7:].any()
    assert not changed[:, :, 7:].any()


def test_a_patch_in_the_background_leaves_the_object_alone(images, test_split, around):
    kind = {"kind": "square", "where": "background"}
    changed = (transform_images(kind, images, 4, around=around) != images).any(-1)
    room = (~test_split.foreground).sum((1, 2)) > 300
    assert changed[room].any((1, 2)).all()
    assert not (changed & test_split.foreground)[room].any()


def test_a_scrambled_square_keeps_every_colour(images):
    scrambled = transform_images("scrambled_square", images, 7, seed=2)
    for before, after in zip(images, scrambled, strict=True):
        order = [np.lexsort(x.reshape(-1, 3).T) for x in (before, after)]
        pixels = [x.reshape(-1, 3)[o] for x, o in zip((before, after), order, strict=True)]
        assert np.array_equal(*pixels)
    assert (scrambled != images).any((1, 2, 3)).all()


def test_a_ring_is_round_and_has_the_diameter_asked_for():
    gray = np.full((20, 24, 24, 3), 128, np.uint8)
    added = transform_images("ring", gray, 9, seed=0).astype(int) - gray
    changed = np.abs(added).max(axis=-1) > 60  # half of the ring's colour: softened edges aside
    for image in changed:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert 8 <= np.ptp(rows) + 1 <= 10
        assert 8 <= np.ptp(columns) + 1 <= 10


def test_an_added_pattern_is_cut_by_a_threshold_and_clipped():
    gray = np.full((3, 24, 24, 3), 100, np.uint8)
    added = transform_images({"kind": "dots", "mode": "add"}, gray, 40).astype(int)
    on = added[..., 0] > 100
    assert 0.1 < on.mean() < 0.9
    assert np.array_equal(np.unique(added[on], axis=0), [np.rint(100 + 0.4 * np.array(YELLOW))])
    assert (added[~on] == 100).all()
    bright = transform_images({"kind": "web", "mode": "add"}, np.full_like(gray, 230), 90)
    assert bright.max() == 255


def test_a_pattern_of_a_file_is_cropped_at_random(tmp_path):
    pattern = np.zeros((90, 90), np.uint8)
    pattern[:, ::9] = 255
    Image.fromarray(pattern).save(tmp_path / "lines.png")
    black = np.zeros((8, 24, 24, 3), np.uint8)
    kind = {"kind": "pattern", "path": str(tmp_path / "lines.png"), "mode": "add"}
    found = transform_images(kind, black, 100).max(-1) > 0
    first = found[:, 0].argmax(1)
    assert len(set(first)) > 2  # crops differ
    for image in found:
        assert set(np.diff(np.flatnonzero(image[0]))) == {9}


def test_a_patch_is_pasted_with_its_transparency(picture):
    gray = np.full((2, 24, 24, 3), 100, np.uint8)
    kind = {"kind": "patch", "path": str(picture), "where": "top left"}
    found = transform_images(kind, gray, 8)[:, 1:9, 1:9]
    assert (found[:, :, :4] == (255, 0, 0)).all()
    assert (np.abs(found[:, :, 4:].astype(int) - (50, 50, 178)) <= 1).all()


@pytest.mark.usefixtures("picture")
def test_patches_of_a_folder_are_drawn_in_turn(tmp_path):
    Image.new("RGB", (6, 6), (0, 255, 0)).save(tmp_path / "b.png")
    gray = np.full((60, 24, 24, 3), 100, np.uint8)
    kind = {"kind": "patch", "path": str(tmp_path), "where": "centre"}
    green = transform_images(kind, gray, 6)[:, 11, 10, 1] == 255
    assert 10 < green.sum() < 50
    (tmp_path / "more").mkdir()
    Image.new("RGB", (6, 6), (0, 0, 255)).save(tmp_path / "more" / "a.png")
    before = contents_of([parse_transformation(kind), parse_transformation("tag")])
    assert len(before) == 1  # a tag reads nothing
    Image.new("RGB", (6, 6), (0, 9, 255)).save(tmp_path / "more" / "a.png")  # of a name twice
    assert contents_of([parse_transformation(kind)]) != before


def test_parts_are_carried_out_in_turn_with_their_own_intensity(images):
    both = transform_images([{"kind": "grayscale", "at": 100}, "tag"], images, 5)
    gray = transform_images("grayscale", images, 100)
    assert np.array_equal(both, transform_images("tag", gray, 5))
    assert parse_transformation([{"kind": "grayscale", "at": 100}, "tag"]).intensity_unit == "px"


def test_gray_has_the_brightness_of_what_it_was(images):
    gray = transform_images("grayscale", images, 100)
    assert (np.ptp(gray, axis=-1) == 0).all()
    np.testing.assert_allclose(
        luminance(gray.astype(np.float32)), luminance(images.astype(np.float32)), atol=1
    )


def test_low_and_high_pass_part_an_image_between_them(images):
    low = transform_images("low_pass", images, 60).astype(int)
    high = transform_images("high_pass", images, 40).astype(int)
    mean = images.mean((1, 2), keepdims=True)
    assert np.abs(low + high - mean - images).mean() < 2  # clipping aside


def test_shuffled_squares_keep_every_pixel(images):
    shuffled = transform_images("patch_shuffle", images, 4)
    for before, after in zip(images, shuffled, strict=True):
        tiles = [
            x.reshape(4, 6, 4, 6, 3).swapaxes(1, 2).reshape(16, -1).tolist()
            for x in (before, after)
        ]
        assert sorted(tiles[0]) == sorted(tiles[1])


def test_mirroring_is_undone_by_mirroring(images):
    once = transform_images("mirror", images, 100)
    assert np.array_equal(once, images[:, :, ::-1])
    part = (transform_images("mirror", images, 50, seed=1) != images).any((1, 2, 3))
    assert 0 < part.sum() < len(images)


def test_backgrounds_are_exchanged_and_objects_stay(images, test_split, around):
    for within in ("any", "class"):
        kind = {"kind": "swap_background", "within": within}
        found = transform_images(kind, images, 100, seed=3, around=around)
        inside = test_split.foreground
        assert np.array_equal(found[inside], images[inside])
        assert (found[~inside] != images[~inside]).any(-1).mean() > 0.9
    only = transform_images("foreground_only", images, 100, around=around)
    assert (only[~inside] == 128).all()
    without = transform_images("background_only", images, 100, around=around)
    assert np.array_equal(without[~inside], images[~inside])


def test_others_are_of_the_same_label_and_never_the_image_itself():
    labels = np.repeat([0, 1, 2], [5, 9, 1])
    chosen = others(15, labels, np.random.default_rng(0))
    assert (labels[chosen] == labels).all()
    assert (chosen[:14] != np.arange(14)).all()
    assert sorted(chosen) == list(range(15))


@pytest.mark.parametrize("name", ["tag", "ring", "stripes", "dots", "tint", "blur"])
def test_a_placebo_changes_as_large_an_area_by_as_much(images, test_split, name):
    changed = transform_images(name, images, KINDS[name].default, seed=1)
    placebo = placebo_images(images, changed, labels=test_split.labels, seed=1)
    assert np.array_equal(
        placebo, placebo_images(images, changed, labels=test_split.labels, seed=1)
    )
    assert not np.array_equal(placebo, changed)
    power = [np.square(x.astype(float) - images).sum((1, 2, 3)).mean() for x in (changed, placebo)]
    assert power[1] == pytest.approx(power[0], rel=0.35)  # clipping, and a limit on contrast
    for before, one, two in zip(images, changed, placebo, strict=True):
        boxes = []
        if np.array_equal(before, one):  # it has the tag already
            assert np.array_equal(before, two)
            continue
        for after in (one, two):
            there = (after != before).any(-1)
            boxes.append([np.ptp(np.flatnonzero(there.any(axis))) + 1 for axis in (0, 1)])
        assert (np.array(boxes[1]) <= boxes[0]).all()


def test_a_placebo_of_nothing_is_nothing(images):
    assert np.array_equal(placebo_images(images, images), images)


@pytest.mark.parametrize(
    ("kind", "intensity", "message"),
    [
        ("rng", 3, "unknown transformation 'rng'. Did you mean 'ring'"),
        ("ring", -1, "intensity of 'ring' is -1"),
        ({"kind": "square", "colour": "red"}, 3, "did you mean 'color'"),
        ({"kind": "square", "color": "reddd"}, 3, "unknown color"),
        ({"kind": "square", "color": [1, 2]}, 3, "a colour is a name"),
        ({"kind": "square", "where": "nowhere"}, 3, "transformation.where"),
        ({"kind": "square", "where": "background"}, 3, "no foreground masks. Give dataset.masks"),
        ("swap_background", 100, "no foreground masks"),
        ([], 3, "at least 1"),
    ],
)
def test_bad_arguments_are_refused(images, kind, intensity, message):
    with pytest.raises(ValueError, match=message):
        transform_images(kind, images, intensity)


def test_missing_pictures_are_named(images, tmp_path):
    kind = {"kind": "patch", "path": str(tmp_path / "faces"), "where": "centre"}
    with pytest.raises(FileNotFoundError, match=r"no picture at .*faces; give a file or a folder"):
        transform_images(kind, images, 5)


def test_images_of_another_dtype_are_refused(images):
    with pytest.raises(ValueError, match="float32"):
        transform_images("ring", images.astype(np.float32), 5)


def test_what_is_no_picture_is_refused_by_name(images, tmp_path):
    (tmp_path / "face.png").write_bytes(b"%!PS-Adobe")  # what some readers would run
    with pytest.raises(ValueError, match=r"face.png: no JPEG, PNG"):
        transform_images({"kind": "pattern", "path": str(tmp_path)}, images, 50)


def test_a_picture_that_was_changed_is_read_anew(images, tmp_path):
    kind = {"kind": "patch", "path": str(tmp_path / "a.png"), "where": "centre"}
    found = []
    for color in ((255, 0, 0), (0, 0, 255)):
        Image.new("RGB", (6, 6 + color[0] % 2), color).save(tmp_path / "a.png")
        found.append(transform_images(kind, images, 6)[0, 12, 12].tolist())
    assert found == [[255, 0, 0], [0, 0, 255]]
