import numpy as np
import pytest

from mdhelpers.analyses.neighbours import pixel_distances
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.sources import load_dataset, near_copies, plant_duplicates

SPEC = {"n_train": 48, "n_test": 60, "seed": 3}


def load(**changes):
    return load_dataset(DatasetSpec(**SPEC | changes))


def test_copies_take_the_place_of_training_images_of_their_class():
    before, after = load(), load(duplicates=12)
    of = after.train.metadata["duplicate_of"].to_numpy()
    copies = np.flatnonzero(of >= 0)
    assert len(copies) == len(np.unique(of[copies])) == 12
    assert np.array_equal(after.train.labels, before.train.labels)
    assert np.array_equal(after.test.labels[of[copies]], after.train.labels[copies])
    kept = of < 0
    assert np.array_equal(after.train.images[kept], before.train.images[kept])
    assert np.array_equal(after.test.images, before.test.images)
    assert after.fingerprint != before.fingerprint


def test_a_copy_carries_the_truth_of_what_it_copies():
    after = load(duplicates=12)
    of = after.train.metadata["duplicate_of"].to_numpy()
    copies = np.flatnonzero(of >= 0)
    for column in ("background_color", "contrast", "feature_tag", "feature_ring"):
        copied = after.test.metadata[column].to_numpy()[of[copies]]
        assert np.array_equal(after.train.metadata[column].to_numpy()[copies], copied)
    assert np.array_equal(after.train.foreground[copies], after.test.foreground[of[copies]])


def test_copies_are_near_and_none_is_the_same():
    test = load().test.images
    copies = near_copies(test, np.random.default_rng(0))
    assert copies.dtype == np.uint8
    distances = pixel_distances(test, copies)
    own = np.diag(distances)
    assert own.min() > 1
    assert np.median(own) < 0.6 * np.median(distances)
    alike = np.random.default_rng(1).integers(100, 150, (3, 1, 1, 3)).astype(np.uint8)
    flat = np.broadcast_to(alike, (3, 20, 20, 3))
    ratio = near_copies(flat, np.random.default_rng(0)).mean((1, 2, 3)) / flat.mean((1, 2, 3))
    assert (np.abs(ratio - 1) < 0.11).all()


def test_the_same_seed_plants_the_same_and_none_plants_nothing():
    assert load(duplicates=6).fingerprint == load(duplicates=6).fingerprint
    assert "duplicate_of" not in load().train.metadata
    assert "duplicates" not in DatasetSpec(**SPEC).model_dump()
    assert DatasetSpec(**SPEC, duplicates=6).model_dump()["duplicates"] == 6


@pytest.mark.parametrize(("n", "message"), [(61, "60 test images"), (58, "plant fewer")])
def test_more_than_there_is_room_for_is_refused(n, message):
    with pytest.raises(ValueError, match=message):
        plant_duplicates(load(), n)
