import io
import os
import re
import shutil
import sys

import numpy as np
import pytest
import yaml
from PIL import Image

from mdhelpers.analyses.neighbours import pixel_distances
from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import Dataset, DatasetSpec
from mdhelpers.data.sources import (
    data_digest,
    expected_sizes,
    has_masks,
    load_dataset,
    near_copies,
    plant_duplicates,
)

SPEC = {"n_train": 48, "n_test": 60, "seed": 3}


def load_scenes(**changes):
    return load_dataset(DatasetSpec(**SPEC | changes))


def test_copies_take_the_place_of_training_images_of_their_class():
    before, after = load_scenes(), load_scenes(duplicates=12)
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
    after = load_scenes(duplicates=12)
    of = after.train.metadata["duplicate_of"].to_numpy()
    copies = np.flatnonzero(of >= 0)
    for column in ("background_color", "contrast", "feature_tag", "feature_ring"):
        copied = after.test.metadata[column].to_numpy()[of[copies]]
        assert np.array_equal(after.train.metadata[column].to_numpy()[copies], copied)
    assert np.array_equal(after.train.foreground[copies], after.test.foreground[of[copies]])


def test_copies_are_near_and_none_is_the_same():
    test = load_scenes().test.images
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
    assert load_scenes(duplicates=6).fingerprint == load_scenes(duplicates=6).fingerprint
    assert "duplicate_of" not in load_scenes().train.metadata
    assert "duplicates" not in DatasetSpec(**SPEC).model_dump()
    assert DatasetSpec(**SPEC, duplicates=6).model_dump()["duplicates"] == 6


@pytest.mark.parametrize(("n", "message"), [(61, "60 test images"), (58, "plant fewer")])
def test_more_than_there_is_room_for_is_refused(n, message):
    with pytest.raises(ValueError, match=message):
        plant_duplicates(load_scenes(), n)


# Folders of pictures and CIFAR-10


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 4), ("test", 2)):
        for name in ("cat", "dog", "owl"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{i:02d}.png")
    return tmp_path


def load(root, **options):
    return load_dataset(DatasetSpec(kind="image_folder", root=str(root), **options))


def test_images_are_read_cut_and_resized(root):
    data = load(root, size=20)
    assert data.train.images.shape == (12, 20, 20, 3)
    assert data.class_names == ("cat", "dog", "owl")
    assert np.bincount(data.train.labels).tolist() == [4, 4, 4]
    assert data.train.metadata["file"].iloc[5] == "dog/01.png"
    assert not len(data.test.truth.columns)


def test_an_image_of_the_right_size_is_read_bit_for_bit(root):
    data = load(root, size=40)
    with Image.open(root / "train" / "cat" / "00.png") as image:
        assert np.array_equal(data.train.images[0], np.asarray(image)[:, 10:50])


def test_classes_and_limits_are_respected(root):
    data = load(root, size=16, classes=["owl", "cat"], limit_train=3, limit_test=1)
    assert data.class_names == ("owl", "cat")
    assert (len(data.train), len(data.test)) == (6, 2)


def test_unreadable_images_are_all_named(root):
    (root / "train" / "cat" / "01.png").write_bytes(b"no image")
    (root / "train" / "owl" / "03.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"(?s)2 images cannot be read.*cat.01.png.*owl.03.png"):
        load(root, size=16)


def test_a_missing_folder_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"elsewhere.train"):
        load(root / "elsewhere", size=16)


def test_an_unknown_class_gets_the_nearest_name(root):
    with pytest.raises(ValueError, match="unknown class 'dgo'; did you mean 'dog'"):
        load(root, size=16, classes=["cat", "dgo"])


def test_a_class_without_test_image_is_named(root):
    for path in (root / "test" / "dog").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"no image in .*test.dog"):
        load(root, size=16)


def test_one_class_is_not_enough(root):
    with pytest.raises(ValueError, match="at least two"):
        load(root, size=16, classes=["cat"])


def test_a_folder_without_root_is_refused():
    with pytest.raises(ValueError, match="image_folder needs root"):
        validate(DatasetSpec, {"kind": "image_folder"}, "dataset")


def test_cifar10_without_network_or_files_says_what_to_do(tmp_path, monkeypatch):
    def no_network(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", no_network)
    spec = DatasetSpec(kind="cifar10", root=str(tmp_path))
    with pytest.raises(FileNotFoundError, match="use kind: image_folder"):
        load_dataset(spec)


def test_the_estimate_and_the_listing_count_what_is_read(mixed, capsys):
    spec = DatasetSpec(kind="image_folder", root=str(mixed), size=16, limit_train=3)
    data = load_dataset(spec)
    assert expected_sizes(spec) == (len(data.train), len(data.test), 3) == (9, 6, 3)
    files = spec.source.files(spec)
    assert [name for name, _ in files] == sorted(name for name, _ in files)
    assert len(files) == len(data.train) + len(data.test)
    assert all(mixed / name == path for name, path in files)
    assert DatasetSpec().source.files(DatasetSpec()) == []
    assert capsys.readouterr().out.count("pictures read") == 1


@pytest.fixture
def mixed(root):
    """What a folder of pictures holds that has been lived in."""
    cats = root / "train" / "cat"
    for name in (".DS_Store", "._00.png", "Thumbs.db", "desktop.ini"):
        (cats / name).write_bytes(b"x")
    for name in ("a.heic", "b.HEIC", "notes.txt", "no_suffix"):
        (cats / name).write_bytes(b"x")
    (cats / "kittens").mkdir()
    (root / "train" / ".ipynb_checkpoints").mkdir()
    (root / "test" / "read_me.txt").write_text("mine")
    (root / "validation").mkdir()
    Image.new("RGB", (20, 20)).save(
        cats / "film.gif", save_all=True, append_images=[Image.new("RGB", (20, 20), "red")]
    )
    (cats / "00.png").rename(cats / "00.PNG")
    return root


def test_nothing_is_left_out_in_silence(mixed, capsys):
    data = load(mixed, size=16)
    assert data.train.metadata["file"].iloc[0] == "cat/00.PNG"
    assert data.class_names == ("cat", "dog", "owl")
    said = capsys.readouterr().out
    for words in (
        "19 pictures read",
        "files with .heic: 2 (train/cat/a.heic, train/cat/b.HEIC)",
        "files with .txt: 1 (train/cat/notes.txt)",
        "files with no suffix: 1 (train/cat/no_suffix)",
        "folders inside classes: 1 (train/cat/kittens)",
        "beside the folders of the classes: 1 (test/read_me.txt)",
        "folders beside train/ and test/: 1 (validation)",
        "hidden files: 5\n",
        "the first picture of a file of several: 1 (train/cat/film.gif)",
    ):
        assert words in said


def test_a_plain_folder_needs_no_note(root, capsys):
    load(root, size=16)
    assert capsys.readouterr().out == ""


def test_long_lists_are_cut(root, capsys):
    for i in range(30):
        (root / "train" / "cat" / f"{i:02d}.heic").write_bytes(b"x")
    load(root, size=16)
    said = capsys.readouterr().out
    assert ".heic: 30 (" in said
    assert "09.heic, …)" in said
    assert "10.heic" not in said


def test_the_note_can_be_printed_where_little_can(root, monkeypatch):
    (root / "train" / "cat" / "naïve…→.txt").write_bytes(b"x")
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", narrow)
    load(root, size=16)
    narrow.flush()
    assert rb"na\xefve\u2026\u2192.txt" in narrow.buffer.getvalue()


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_a_class_of_one_part_alone_is_refused_with_what_works(part, other, root):
    (root / part / "fox").mkdir()
    Image.new("RGB", (20, 20)).save(root / part / "fox" / "1.png")
    match = rf"'fox' is in {part}/ but not in {other}/.*dataset.classes: (\[.*\])"
    for call in (load, lambda root, **_: expected_sizes(spec_of(root))):
        with pytest.raises(ValueError, match=match) as caught:
            call(root, size=16)
    works = yaml.safe_load(re.search(match, str(caught.value))[1])
    assert load(root, size=16, classes=works).class_names == ("cat", "dog", "owl")


def spec_of(root, **options):
    return DatasetSpec(kind="image_folder", root=str(root), **options)


def test_a_class_that_is_left_out_may_be_of_one_part(root):
    shutil.rmtree(root / "test" / "owl")
    assert load(root, size=16, classes=["cat", "dog"]).class_names == ("cat", "dog")


def test_an_empty_class_says_what_lies_there(root):
    for path in (root / "test" / "dog").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(ValueError, match=r"no image in .*test.dog \(2 files with .heic\).*\.png"):
        expected_sizes(spec_of(root))


@pytest.mark.parametrize("names", [["cat", "cat"], ["caf\u00e9", "cafe\u0301"]])
def test_a_class_named_twice_is_refused(names, root):
    with pytest.raises(ValueError, match="is named twice"):
        spec_of(root, classes=["dog", *names])


def test_a_dataset_with_a_class_twice_is_refused(root):
    data = load(root, size=16)
    with pytest.raises(ValueError, match="'cat' is named twice"):
        Dataset.build("x", data.train, data.test, ["cat", "dog", "cat"])


def test_unicode_forms_of_one_name_are_one_class(root):
    (root / "train" / "owl").rename(root / "train" / "cafe\u0301")
    (root / "test" / "owl").rename(root / "test" / "caf\u00e9")
    data = load(root, size=16)
    assert data.class_names == ("caf\u00e9", "cat", "dog")
    assert data.train.metadata["file"].iloc[0] == "caf\u00e9/00.png"
    assert load(root, size=16, classes=["cat", "cafe\u0301"]).class_names == ("cat", "caf\u00e9")
    assert all(path.is_file() for _, path in spec_of(root).source.files(spec_of(root)))


def test_two_folders_of_one_name_are_refused(root):
    for name in ("cafe\u0301", "caf\u00e9"):
        (root / "train" / name).mkdir()
    with pytest.raises(ValueError, match=r"'café': .*composed form \(NFC\)"):
        load(root, size=16)


@pytest.mark.parametrize("place", ["train/cat/00.png", "train/cat"])
def test_a_name_that_is_not_utf_8_is_refused_and_shown(place, root):
    path = root / place
    path.rename(path.parent / os.fsdecode(b"caf\xe9" + path.suffix.encode()))
    with pytest.raises(ValueError, match=r"train/(cat/)?caf\\xe9(\.png)? in .*not UTF-8; rename"):
        load(root, size=16)


def test_a_pipe_among_the_pictures_is_named_and_not_opened(root):
    os.mkfifo(root / "train" / "cat" / "x.png")
    (root / "train" / "dog" / "y.png").symlink_to("nothing")
    with pytest.raises(ValueError, match=r"(?s)2 images.*x\.png: it is a pipe.*y\.png: .*link"):
        load(root, size=16)


def test_deep_pictures_share_one_range(root, capsys):
    for name, white in (("00", 3000), ("01", 60000)):
        pixels = np.full((20, 20), white, np.uint16)
        Image.fromarray(pixels).save(root / "train" / "cat" / f"{name}.png")
    Image.fromarray(np.full((20, 20), 50.0, np.float32)).save(root / "train" / "cat" / "02.tif")
    Image.fromarray(np.full((20, 20), 100.0, np.float32)).save(root / "test" / "cat" / "02.tif")
    data = load(root, size=16)
    grey = data.train.images[data.train.metadata["file"].str.startswith("cat/0")]
    assert grey[0].max() == round(255 * 3000 / 65535)
    assert grey[1].max() == round(255 * 60000 / 65535)
    said = capsys.readouterr().out
    assert "grey of 16 bits: 2, 0 as black, 65535 as white" in said
    assert "grey of floating point: 2, 50 as black, 100 as white" in said


def test_masks_lie_as_the_pictures_do(tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            for folder, mode in (("pictures", "RGB"), ("masks", "L")):
                (tmp_path / folder / part / name).mkdir(parents=True)
                for i in range(2):
                    image = np.zeros((20, 30, 3) if mode == "RGB" else (20, 30), np.uint8)
                    image[: 10 + i] = 255
                    suffix = "jpg" if mode == "RGB" else "png"
                    Image.fromarray(image).save(tmp_path / folder / part / name / f"{i}.{suffix}")
    given = {"kind": "image_folder", "root": str(tmp_path / "pictures"), "size": 20}
    spec = DatasetSpec(**given, masks=str(tmp_path / "masks"))
    data = load_dataset(spec)
    for split in (data.train, data.test):
        assert split.foreground.mean((1, 2)).tolist() == [0.5, 0.55, 0.5, 0.55]
        assert split.foreground[0, :10].all()
    assert has_masks(spec)
    assert not has_masks(DatasetSpec(**given))
    before = data_digest(spec)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(tmp_path / "masks/train/dog/1.png")
    assert data_digest(spec) != before
    (tmp_path / "masks/test/cat/0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no mask for 1 \(test/cat/0.jpg\)"):
        load_dataset(spec)
