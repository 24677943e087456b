"""Our own files give back what was put in, and no other file is taken for one."""

from dataclasses import replace

import numpy as np
import pytest

from mdhelpers.formats.own import (
    load_comparison,
    load_datamodels,
    save_comparison,
    save_datamodels,
)
from mdhelpers.method.comparison import compare
from mdhelpers.method.datamodels import fit_datamodels


def test_datamodels_are_kept(tmp_path):
    rng = np.random.default_rng(0)
    masks, slots = rng.random((300, 30)).argsort(1) < 15, np.arange(300) % 3
    weights = rng.normal(size=(30, 8)) * (rng.random((30, 8)) < 0.2)
    margins = masks @ weights + slots[:, None] + 0.3 * rng.normal(size=(300, 8))
    datamodels = replace(fit_datamodels(masks, margins, slots=slots), notes=("one", "two"))
    save_datamodels(datamodels, tmp_path / "datamodels.safetensors")
    loaded = load_datamodels(tmp_path / "datamodels.safetensors")
    for name, value in vars(datamodels).items():
        np.testing.assert_array_equal(getattr(loaded, name), value)


def test_another_file_holds_no_datamodels(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="does not hold datamodels"):
        load_datamodels(tmp_path / "x.safetensors")


def test_a_comparison_is_kept(tmp_path):
    found = compare(*np.random.default_rng(0).normal(size=(2, 60, 40)))
    save_comparison(found, tmp_path / "comparison.safetensors")
    loaded = load_comparison(tmp_path / "comparison.safetensors")
    for before, after in zip(found, loaded, strict=True):
        assert before.name == after.name
        for field in ("directions", "projections", "explained_variance", "component"):
            np.testing.assert_array_equal(getattr(before, field), getattr(after, field))
    np.testing.assert_array_equal(found.cosines, loaded.cosines)
    np.testing.assert_array_equal(found.n_zero, loaded.n_zero)


def test_another_file_holds_no_comparison(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="does not hold a comparison"):
        load_comparison(tmp_path / "x.safetensors")
