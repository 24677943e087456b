import numpy as np
import pytest
from PIL import Image

from mdhelpers.datasets import DatasetSpec
from mdhelpers.image_folders import load_dataset
from mdhelpers.specs import validate


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
