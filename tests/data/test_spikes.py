"""What is spiked in is where it says, as strong as it says, and known as the truth."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import Dataset, DatasetSpec, Split
from mdhelpers.data.sources import data_digest, load_dataset
from mdhelpers.data.spikes import Spike, spike_in
from mdhelpers.data.transforms import transform_images

TAG = {"transformation": "tag", "class": "dog", "share": 0.25, "intensity": 4}


def photographs(n: int = 40, side: int = 16, *, masks: bool = False) -> Dataset:
    """Noise of three classes, without any metadata of its own but the label."""
    rng = np.random.default_rng(0)
    parts = []
    for k in (n, 2 * n):
        labels = np.arange(k) % 3
        images = rng.integers(0, 256, (k, side, side, 3), np.uint8)
        inside = np.zeros((k, side, side), bool)
        inside[:, : side // 2] = True
        table = pd.DataFrame({"label": labels})
        parts.append(Split(images, labels, table, inside if masks else None))
    return Dataset.build("noise", *parts, ("cat", "dog", "hen"))


def spiked(data: Dataset, *given: dict, seed: int = 0) -> Dataset:
    return spike_in(data, [validate(Spike, each) for each in given], seed=seed)


def test_a_share_of_one_class_carries_it_and_nothing_else_changes():
    data = photographs()
    found = spiked(data, TAG)
    for before, after in ((data.train, found.train), (data.test, found.test)):
        carries = after.metadata["feature_tag"].to_numpy()
        assert carries.dtype == bool
        assert set(after.labels[carries]) == {1}
        assert carries.sum() == round(0.25 * (before.labels == 1).sum())
        assert np.array_equal(before.images[~carries], after.images[~carries])
        moved = (before.images != after.images).any(3)[carries]
        assert moved[:, :5, :5].any((1, 2)).all()
        assert not moved[:, 6:].any()
        assert not moved[:, :, 6:].any()
    assert found.fingerprint != data.fingerprint


def test_it_is_what_the_transformation_draws():
    data = photographs()
    after = spiked(data, TAG).test
    carries = after.metadata["feature_tag"].to_numpy()
    drawn = transform_images("tag", data.test.images[carries], 4, seed=0)  # its place is fixed
    assert np.array_equal(after.images[carries], drawn)


def test_seeds_draw_carriers_and_places_anew():
    data, cross = photographs(), TAG | {"transformation": "cross"}
    one, again, other = (spiked(data, cross, seed=s) for s in (1, 1, 2))
    assert one.fingerprint == again.fingerprint != other.fingerprint
    where = [d.test.metadata["feature_cross"].to_numpy() for d in (one, other)]
    assert not np.array_equal(*where)


def test_the_truth_of_the_data_is_kept():
    given = {"transformation": "tag", "class": "fish", "intensity": 5, "share": 0.2}
    data = load_dataset(validate(DatasetSpec, {"n_train": 60, "n_test": 60}))
    found = load_dataset(validate(DatasetSpec, {"n_train": 60, "n_test": 60, "spike_in": given}))
    before, after = (d.train.metadata["feature_tag"].to_numpy() for d in (data, found))
    assert after[before].all()
    assert (after & ~before).sum() == 4
    assert set(found.train.labels[after & ~before]) == {1}


def test_it_knows_where_the_object_is():
    behind = TAG | {"transformation": {"kind": "square", "where": "background"}, "intensity": 3}
    data = photographs(masks=True)
    found = spiked(data, behind)
    moved = (found.test.images != data.test.images).any(3)
    assert moved.any()
    assert not moved[:, :8].any()
    assert found.test.foreground is data.test.foreground
    with pytest.raises(ValueError, match="foreground"):
        spiked(photographs(), behind)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([TAG | {"class": "dig"}], "did you mean 'dog'"),
        ([TAG | {"share": 0.05}], "of the 13 training images of 'dog' is 1; at least 2"),
        ([TAG, TAG], "tag in dog is given twice"),
    ],
)
def test_what_cannot_be_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        spiked(photographs(), *given)


def test_a_study_writes_one_or_several():
    one = validate(DatasetSpec, {"spike_in": TAG | {"class": "boat"}})
    both = validate(DatasetSpec, {"spike_in": [TAG | {"class": c} for c in ("boat", "fish")]})
    assert one.spike_in == both.spike_in[:1]
    assert validate(DatasetSpec, one.model_dump()) == one
    assert validate(Spike, TAG | {"intensity": None}).strength == 5
    assert "spike_in" not in DatasetSpec().model_dump()
    with pytest.raises(ValueError, match="clas"):
        validate(DatasetSpec, {"spike_in": {"clas": "boat", "transformation": "tag"}})


def test_a_pasted_picture_that_changes_is_noticed(tmp_path):
    file = tmp_path / "face.png"
    seen = []
    for grey in (10, 200):
        Image.new("RGB", (4, 4), (grey,) * 3).save(file)
        face = {"kind": "patch", "path": str(file), "where": "anywhere"}
        spec = validate(DatasetSpec, {"spike_in": {"transformation": face, "class": "boat"}})
        seen.append(data_digest(spec))
    assert len({*seen, data_digest(DatasetSpec())}) == 3


def test_it_does_not_go_with_images_that_are_kept_in_two_sizes():
    given = {"kind": "image_folder", "root": "x", "size": 32, "stored": 64}
    with pytest.raises(ValueError, match="spike_in and stored do not go together"):
        validate(DatasetSpec, given | {"spike_in": TAG})
