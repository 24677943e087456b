from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import (
    Dataset,
    DatasetSpec,
    Split,
    fingerprint,
    read_dataset,
    save_dataset,
)
from mdhelpers.data.scenes import make_scenes


@pytest.fixture(scope="module")
def data() -> Dataset:
    return make_scenes(n_train=12, n_test=9, size=16, seed=0)


def test_what_is_saved_is_read_back(data, tmp_path):
    save_dataset(data, tmp_path)
    again = read_dataset(tmp_path)
    assert again.class_names == data.class_names
    assert again.fingerprint == fingerprint(again) == data.fingerprint
    for part in ("train", "test"):
        one, two = getattr(data, part), getattr(again, part)
        assert np.array_equal(one.images, two.images)
        assert np.array_equal(one.labels, two.labels)
        assert np.array_equal(one.foreground, two.foreground)
        assert one.metadata.astype(str).equals(two.metadata.astype(str))


def test_the_fingerprint_sees_one_changed_pixel(data):
    images = data.train.images.copy()
    images[3, 2, 1, 0] ^= 1
    other = replace(data, train=replace(data.train, images=images))
    assert fingerprint(other) != data.fingerprint


def test_the_fingerprint_sees_the_order(data):
    flipped = Split(data.test.images[::-1], data.test.labels[::-1], data.test.metadata)
    assert fingerprint(replace(data, test=flipped)) != data.fingerprint


def test_no_data_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="01_data_prep"):
        read_dataset(tmp_path)


def test_a_class_without_test_image_is_refused(data):
    keep = data.test.labels != 1
    test = Split(data.test.images[keep], data.test.labels[keep], data.test.metadata[keep])
    with pytest.raises(ValueError, match="no test image of class fish"):
        Dataset.build("x", data.train, test, data.class_names)


def test_halves_of_different_size_are_refused(data):
    other = make_scenes(n_train=12, n_test=9, size=20, seed=0)
    with pytest.raises(ValueError, match=r"\(16, 16\) px and test images \(20, 20\)"):
        Dataset.build("x", data.train, other.test, data.class_names)


def test_float_images_are_refused(data):
    wrong = replace(data.train, images=data.train.images.astype(np.float32))
    with pytest.raises(ValueError, match="uint8"):
        Dataset.build("x", wrong, data.test, data.class_names)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"root": "~/pets"}, "root would not be read: this is kind: scenes, .* kind: image_folder"),
        (
            {"kind": "image_folder", "root": "x", "n_train": 90},
            "n_train would not be read: this is kind: image_folder.*give limit_train",
        ),
        ({"kind": "cifar10", "distractors": ["ring"]}, "distractors would not be read"),
    ],
)
def test_a_key_that_its_kind_does_not_read_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        validate(DatasetSpec, given)


def test_a_record_with_all_defaults_is_read():
    spec = validate(DatasetSpec, {"kind": "image_folder", "root": "x"})
    assert validate(DatasetSpec, spec.model_dump(mode="json")) == spec


def test_some_images_are_of_all_classes_where_a_folder_lists_one_after_the_other():
    labels = np.repeat([0, 1, 2], 30)
    images = np.arange(90, dtype=np.uint8)[:, None, None, None] + np.zeros((90, 4, 4, 3), np.uint8)
    some = Split(images, labels, pd.DataFrame({"n": range(90)}), images[..., 0] > 40).some(5)
    assert some.metadata["n"].tolist() == some.images[:, 0, 0, 0].tolist() == [0, 22, 44, 67, 89]
    assert set(some.labels) == {0, 1, 2}
    assert some.foreground[:, 0, 0].tolist() == [False, False, True, True, True]
    assert len(Split(images, labels, pd.DataFrame(index=range(90))).some(200)) == 90
