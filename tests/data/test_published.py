"""Data sets that everyone knows, in folders of their layout that are made here."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import DatasetSpec, fingerprint, read_dataset, save_dataset
from mdhelpers.data.published import FASHION, LIVING17, subpopulations
from mdhelpers.data.sources import data_digest, expected_sizes, has_masks, load_dataset
from tests.published_data import make_fashion_mnist, make_living17, make_waterbirds


def spec_of(kind, root, **given):
    return DatasetSpec(kind=kind, root=str(root), **{"size": 16} | given)


# Waterbirds


@pytest.fixture(scope="module")
def waterbirds(tmp_path_factory):
    return make_waterbirds(tmp_path_factory.mktemp("birds") / "waterbirds_v1.0")


@pytest.mark.parametrize(("part", "n_test"), [("test", 32), ("validation", 16)])
def test_waterbirds_come_in_the_official_splits_with_their_groups(waterbirds, part, n_test):
    spec = spec_of("waterbirds", waterbirds, part=part)
    data = load_dataset(spec)
    assert data.class_names == ("landbird", "waterbird")
    assert expected_sizes(spec) == (len(data.train), len(data.test), 2) == (40, n_test, 2)
    table = pd.read_csv(waterbirds / "metadata.csv").set_index("img_filename")
    for split, number in ((data.train, 0), (data.test, 2 if part == "test" else 1)):
        assert len(split) == (table.split == number).sum()
        for row in split.metadata.itertuples():
            (told,) = (table.loc[name] for name in table.index if name.endswith(row.file[-13:]))
            place = ("land", "water")[told.place]
            assert (told.y, told.split, row.place) == (row.label, number, place)
            assert row.group == f"{data.class_names[row.label]} on {place}"
    assert data.test.metadata["group"].nunique() == 4


def test_a_square_of_a_waterbird_is_as_a_folder_of_pictures_is_read(waterbirds):
    data = load_dataset(spec_of("waterbirds", waterbirds, size=30))
    table = pd.read_csv(waterbirds / "metadata.csv")
    first = table[(table.split == 0) & (table.y == 0)].img_filename.iloc[0]
    with Image.open(waterbirds / first) as image:
        assert np.array_equal(data.train.images[0], np.asarray(image)[:, 5:35])


def test_waterbirds_lie_below_the_root_too_and_limits_are_of_a_class(waterbirds):
    spec = spec_of("waterbirds", waterbirds.parent, limit_train=5, limit_test=3)
    data = load_dataset(spec)
    assert np.bincount(data.train.labels).tolist() == [5, 5]
    assert expected_sizes(spec) == (10, 6, 2)
    numbers = data.train.metadata["file"].str.extract(r"_(\d+)\.jpg")[0].astype(int)
    assert numbers[:5].tolist() == [0, 8, 16, 24, 32]  # of 20 in turns of the classes


def test_masks_of_birds_lie_as_the_birds_do(waterbirds, tmp_path):
    table = pd.read_csv(waterbirds / "metadata.csv")
    for name in table.img_filename:
        path = (tmp_path / name).with_suffix(".png")
        path.parent.mkdir(exist_ok=True)
        mask = np.zeros((30, 40), np.uint8)
        mask[:, :20] = 204  # as in CUB's, where four of five people saw the bird
        mask[:, 20:24] = 102
        Image.fromarray(mask).save(path)
    spec = spec_of("waterbirds", waterbirds, size=30, masks=str(tmp_path))
    assert has_masks(spec)
    data = load_dataset(spec)
    assert (data.test.foreground == (np.arange(30) < 15)).all()


def test_waterbirds_say_what_is_missing_and_where_it_is_had(tmp_path):
    with pytest.raises(ValueError, match=r"needs root: .*metadata\.csv.*nlp\.stanford\.edu"):
        validate(DatasetSpec, {"kind": "waterbirds"}, "dataset")
    with pytest.raises(FileNotFoundError, match=r"no metadata\.csv in .*package wilds"):
        expected_sizes(spec_of("waterbirds", tmp_path))
    root = make_waterbirds(tmp_path)
    (lost,) = list(root.glob("*/Bird_2_0003.jpg"))
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks 1 \(001\.Species_1/Bird_2_0003\.jpg\)"):
        expected_sizes(spec_of("waterbirds", root))
    assert expected_sizes(spec_of("waterbirds", root, part="validation")) == (40, 16, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="place"), "no column place"),
        (lambda t: t.assign(split=t.split + 1), r"split is 3, not of \(0, 1, 2\)"),
    ],
)
def test_a_table_of_something_else_is_refused(tmp_path, change, message):
    root = make_waterbirds(tmp_path, n_train=8, n_validation=4, n_test=8)
    change(pd.read_csv(root / "metadata.csv")).to_csv(root / "metadata.csv", index=False)
    with pytest.raises(ValueError, match=message):
        expected_sizes(spec_of("waterbirds", root))


def test_a_changed_table_is_another_data_set(tmp_path):
    root = make_waterbirds(tmp_path, n_train=8, n_validation=4, n_test=8)
    spec, table = spec_of("waterbirds", root), pd.read_csv(root / "metadata.csv")
    before = data_digest(spec)
    assert data_digest(spec) == before
    table.assign(place=1 - table.place).to_csv(root / "metadata.csv", index=False)
    assert data_digest(spec) != before


# Living17


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    return make_living17(tmp_path_factory.mktemp("imagenet"))


def test_living17_is_68_classes_of_imagenet_in_17():
    wnids = [wnid for name in LIVING17 for wnid in subpopulations(name, "")]
    assert (len(LIVING17), len(wnids), len(set(wnids))) == (17, 68, 68)
    assert all(len(wnid) == 9 and wnid[0] == "n" and wnid[1:].isdigit() for wnid in wnids)
    for name in LIVING17:
        source, target = subpopulations(name, "source"), subpopulations(name, "target")
        assert source | target == subpopulations(name, "")
        assert (len(source), len(target), len(source | target)) == (2, 2, 4)
    spiders = subpopulations("spider", "source").values()
    assert list(spiders) == ["tarantula", "black and gold garden spider"]  # BREEDS, table of App. A


@pytest.mark.parametrize(("split", "of_class"), [("", 4), ("source", 2), ("target", 2)])
def test_living17_takes_both_halves_or_one(imagenet, split, of_class):
    spec = spec_of("living17", imagenet, split=split)
    data = load_dataset(spec)
    assert data.class_names == tuple(LIVING17)
    assert np.bincount(data.train.labels).tolist() == [4 * of_class] * 17
    assert expected_sizes(spec) == (68 * of_class, 34 * of_class, 17)
    for part in (data.train, data.test):
        for row in part.metadata.itertuples():
            known = subpopulations(data.class_names[row.label], split)
            wnid = row.file.rpartition("/")[2].partition("_")[0]
            assert known[wnid] == row.subpopulation


def test_limits_of_living17_take_as_many_of_each_subpopulation(imagenet):
    spec = spec_of("living17", imagenet, classes=["fox", "bear"], limit_train=6, limit_test=4)
    data = load_dataset(spec)
    assert data.class_names == ("fox", "bear")
    counts = data.train.metadata.groupby(["label", "subpopulation"]).size()
    assert sorted(counts.loc[0]) == [1, 1, 2, 2]
    assert set(data.test.metadata.groupby("subpopulation").size()) == {1}
    assert expected_sizes(spec) == (12, 8, 2)


def test_living17_says_which_folders_are_missing(tmp_path):
    with pytest.raises(ValueError, match=r"needs root: .*val/.*image-net\.org"):
        validate(DatasetSpec, {"kind": "living17"}, "dataset")
    root = make_living17(tmp_path, n_train=1, n_test=1, names=["fox", "bear"])
    spec = spec_of("living17", root, classes=["fox", "bear", "crab"])
    with pytest.raises(FileNotFoundError, match=r"lacks 8 \(train/n0.*of 24 folders.*WordNet"):
        expected_sizes(spec)
    with pytest.raises(ValueError, match="did you mean 'crab'"):
        expected_sizes(spec_of("living17", root, classes=["fox", "crap"]))
    assert expected_sizes(spec_of("living17", root, classes=["fox", "bear"])) == (8, 8, 2)


# Fashion-MNIST


@pytest.mark.parametrize(
    ("place", "suffix"), [("FashionMNIST/raw", ""), ("data/fashion", ".gz"), (".", ".gz")]
)
def test_fashion_mnist_is_read_wherever_it_lies(tmp_path, place, suffix):
    made = make_fashion_mnist(tmp_path / place, suffix)
    spec = spec_of("fashion_mnist", tmp_path, size=28)
    data = load_dataset(spec)
    assert expected_sizes(spec) == (60, 30, 10)
    assert (data.class_names, data.size) == (FASHION, (28, 28))
    for split, begins in ((data.train, "train"), (data.test, "t10k")):
        images, labels = made[begins]
        at = split.metadata["file"].astype(int)
        assert np.array_equal(labels[at], split.labels)
        assert all(np.array_equal(split.images[..., c], images[at]) for c in range(3))


def test_fashion_mnist_takes_classes_limits_and_sizes(tmp_path):
    make_fashion_mnist(tmp_path)
    given = {"classes": ["Bag", "Coat"], "limit_train": 4, "limit_test": 5, "size": 20}
    spec = spec_of("fashion_mnist", tmp_path, **given)
    data = load_dataset(spec)
    assert expected_sizes(spec) == (len(data.train), len(data.test), 2) == (8, 6, 2)
    assert (data.class_names, data.size) == (("Bag", "Coat"), (20, 20))


def test_mnist_is_not_taken_for_fashion_mnist(tmp_path):
    make_fashion_mnist(tmp_path / "MNIST" / "raw", seed=1)
    make_fashion_mnist(tmp_path / "digits", seed=2)
    spec = spec_of("fashion_mnist", tmp_path)
    with pytest.raises(ValueError, match=r"which is Fashion-MNIST.*MNIST/raw"):
        expected_sizes(spec)
    make_fashion_mnist(tmp_path / "FashionMNIST" / "raw", seed=3)
    assert all("FashionMNIST" in str(path) for _, path in spec.source.files(spec))


def test_fashion_mnist_says_what_is_missing_or_cut_short(tmp_path):
    spec = spec_of("fashion_mnist", tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install dataset-fashion-mnist"):
        expected_sizes(spec)
    make_fashion_mnist(tmp_path)
    before = data_digest(spec)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-2000])
    assert data_digest(spec) != before
    with pytest.raises(ValueError, match=r"train-images.* is no whole IDX file"):
        load_dataset(spec)


# CIFAR-10


def test_cifar10_is_asked_for_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("mdhelpers.data.published.reachable", lambda _: False)
    spec = DatasetSpec(kind="cifar10", root=str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"cannot be reached\. Put cifar-10-batches-py there"
    ):
        spec.source.names(spec)
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert spec.source.names(spec)[5] == "dog"
    monkeypatch.setattr("mdhelpers.data.published.reachable", lambda _: True)
    assert len(DatasetSpec(kind="cifar10").source.names(DatasetSpec(kind="cifar10"))) == 10


# Training images in a larger size beside


def test_larger_training_images_are_kept_for_crops(waterbirds, tmp_path):
    given = {"kind": "waterbirds", "root": str(waterbirds), "size": 16}
    data = load_dataset(DatasetSpec(**given, stored=24))
    large = load_dataset(DatasetSpec(**given | {"size": 24}))
    assert np.array_equal(data.train.stored, large.train.images)
    assert data.train.images.shape == (40, 16, 16, 3)
    for split, whole in ((data.train, large.train), (data.test, large.test)):
        for image, square in zip(split.images, whole.images, strict=True):
            shrunk = Image.fromarray(square).resize((16, 16), Image.Resampling.LANCZOS)
            assert np.array_equal(image, np.asarray(shrunk))
    assert data.test.stored is None
    others = data.train.stored.copy()
    others[0, 0, 0] ^= 1
    other = replace(data.train, stored=others)
    assert fingerprint(replace(data, train=other)) != data.fingerprint
    save_dataset(data, tmp_path)
    again = read_dataset(tmp_path)
    assert np.array_equal(again.train.stored, data.train.stored)
    assert again.fingerprint == data.fingerprint
    plain = load_dataset(DatasetSpec(**given))
    save_dataset(plain, tmp_path)
    assert read_dataset(tmp_path).train.stored is None


def test_what_is_planted_is_in_the_larger_images_too(waterbirds):
    given = {"kind": "waterbirds", "root": str(waterbirds), "size": 16, "stored": 24}
    data = load_dataset(DatasetSpec(**given, duplicates=6))
    before = load_dataset(DatasetSpec(**given))
    copies = data.train.metadata["duplicate_of"].to_numpy() >= 0
    changed = (data.train.stored != before.train.stored).any((1, 2, 3))
    assert np.array_equal(changed, copies)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "image_folder", "root": "r", "size": 32, "stored": 32}, "not more than the 32"),
        ({"kind": "scenes", "stored": 64}, "stored would not be read"),
    ],
)
def test_larger_images_that_would_be_of_no_use_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        DatasetSpec(**given)


# Of all of them


@pytest.mark.parametrize(
    ("kind", "key", "theirs"),
    [
        ("image_folder", {"part": "validation"}, "waterbirds"),
        ("waterbirds", {"split": "source"}, "living17"),
        ("living17", {"masks": "m"}, "image_folder, or waterbirds"),
        ("fashion_mnist", {"n_train": 5}, "scenes"),
    ],
)
def test_keys_of_another_kind_are_refused(kind, key, theirs):
    with pytest.raises(ValueError, match=f"would not be read.*{theirs}"):
        DatasetSpec(kind=kind, root="r", **key)


def test_what_is_not_used_is_not_recorded():
    shown = DatasetSpec(kind="waterbirds", root="r").model_dump()
    assert not {"part", "split", "masks", "stored"} & set(shown)
    assert DatasetSpec(kind="waterbirds", root="r", part="validation").model_dump()["part"]
