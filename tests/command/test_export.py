from dataclasses import replace

import numpy as np
import pytest
import torch

from mdhelpers.command.export import export_pt, export_release, export_weights
from mdhelpers.formats.models import read_masks_and_margins
from mdhelpers.formats.scores import load_scores, read_npy, read_pt
from mdhelpers.method.datamodels import fit_datamodels


@pytest.fixture(scope="module")
def trained():
    rng = np.random.default_rng(0)
    masks = rng.random((60, 7)) < 0.5
    margins = masks @ rng.normal(size=(7, 4)) + rng.normal(size=(60, 4)) + 2
    return masks, margins.astype(np.float32)


@pytest.fixture(scope="module")
def datamodels(trained):
    fitted = fit_datamodels(*trained, method="difference_of_means")
    return replace(fitted, lam=np.arange(4, dtype=np.float32))


def test_a_pt_comes_back_as_it_was(tmp_path, datamodels):
    path = export_pt(datamodels, tmp_path / "d.pt")
    for read in (read_pt, load_scores):
        back = read(path, n_train=7, n_test=4)
        for name in ("weights", "bias", "lam"):
            np.testing.assert_array_equal(getattr(back, name), getattr(datamodels, name))
    assert [p.name for p in tmp_path.iterdir()] == ["d.pt"]


@pytest.mark.parametrize("per_example", [False, True])
def test_a_standardised_pt_comes_back_too(tmp_path, datamodels, trained, per_example):
    masks, _ = trained
    alpha = masks.mean(0) if per_example else 0.5
    back = read_pt(export_pt(datamodels, tmp_path / "d.pt", alpha=alpha))
    np.testing.assert_allclose(back.weights, datamodels.weights, rtol=1e-6)
    np.testing.assert_allclose(back.predict(masks), datamodels.predict(masks), atol=1e-5)
    held = torch.load(tmp_path / "d.pt", weights_only=True)
    scaled = (masks - alpha) / np.sqrt(np.asarray(alpha) * (1 - np.asarray(alpha)))
    np.testing.assert_allclose(
        scaled @ held["weight"].numpy() + held["bias"].numpy(),
        datamodels.predict(masks),
        atol=1e-5,
    )


def test_a_pt_is_what_modeldiff_reads(tmp_path, datamodels):
    path = export_pt(datamodels, tmp_path / "d.pt")
    content = torch.load(path, map_location="cpu", weights_only=True)
    assert all(type(value) is torch.Tensor for value in content.values())
    assert [tuple(content[key].shape) for key in ("weight", "bias", "lam")] == [(7, 4), (4,), (4,)]
    np.testing.assert_array_equal(content["weight"].numpy().T, datamodels.weights)


def test_square_weights_come_back_without_a_word(tmp_path, datamodels):
    square = replace(datamodels, weights=datamodels.weights[:, :4])
    back = read_pt(export_pt(square, tmp_path / "d.pt"))
    np.testing.assert_array_equal(back.weights, square.weights)


def test_weights_alone_come_back(tmp_path, datamodels):
    path = export_weights(datamodels, tmp_path / "w.npy")
    said = {"standardised": False, "positive_means": "helps", "orientation": "test_train"}
    np.testing.assert_array_equal(read_npy(path, **said).weights, datamodels.weights)
    np.testing.assert_array_equal(np.load(path), datamodels.weights)


def test_masks_and_margins_come_back(tmp_path, trained):
    masks, margins = trained
    paths = export_release(tmp_path / "new" / "folder", masks, margins)
    percent = round(100 * masks.mean())
    assert paths[0].name == f"train_masks_{percent}pct.npy"
    assert paths[1].name == f"test_margins_{percent}pct.npy"
    assert np.load(paths[1]).dtype == np.float16
    back = read_masks_and_margins(*paths, n_train=7, n_test=4)
    np.testing.assert_array_equal(back.masks, masks)
    np.testing.assert_allclose(back.margins, margins, rtol=1e-3)


def test_the_user_chooses_names_and_precision(tmp_path, trained):
    masks, margins = trained
    how = {"split": "train", "percent": 50, "dtype": "float32"}
    paths = export_release(tmp_path, masks, margins, **how)
    assert [p.name for p in paths] == ["train_masks_50pct.npy", "train_margins_50pct.npy"]
    np.testing.assert_array_equal(np.load(paths[1]), margins)


def test_refuses_what_would_not_come_back(tmp_path, trained):
    masks, margins = trained
    for wrong in (np.packbits(masks, axis=1), masks[:-1], masks[0]):
        with pytest.raises(ValueError, match="expected bool"):
            export_release(tmp_path, wrong, margins)
    with pytest.raises(ValueError, match="split is 'val'"):
        export_release(tmp_path, masks, margins, split="val")
    for bad in (1e5, np.nan):
        broken = margins.copy()
        broken[3, 2] = bad
        with pytest.raises(ValueError, match=r"model 3 on test example 2 .* float16"):
            export_release(tmp_path, masks, broken)
    assert list(tmp_path.iterdir()) == []
