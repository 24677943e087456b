import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mdhelpers.formats.models import read_masks_and_margins
from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.margins import correct_class_margins
from mdhelpers.training.store_files import Trained

N_MODELS, N_TRAIN, N_TEST = 12, 8, 5
PAGE = Path(__file__).parents[2] / "book" / "formats.md"


def made(alpha=0.5, seed=0):
    rng = np.random.default_rng(seed)
    masks = np.zeros((N_MODELS, N_TRAIN), bool)
    for mask in masks:
        mask[rng.permutation(N_TRAIN)[: round(alpha * N_TRAIN)]] = True
    return masks, rng.normal(size=(N_MODELS, N_TEST)).astype(np.float16)


def release(tmp_path, masks, outputs, what="margins", percent=50):
    """Files by the names of the datamodels release."""
    paths = (
        tmp_path / f"train_masks_{percent}pct.npy",
        tmp_path / f"test_{what}_{percent}pct.npy",
    )
    for path, array in zip(paths, (masks, outputs), strict=True):
        np.save(path, array)
    return paths


def store(tmp_path, masks, margins, completed, spec=True):
    """A folder as the datamodels package trains into it: empty memmaps, rows filled one by one."""
    arrays = {"masks": masks, "margins": margins, "_completed": completed}
    schema = {}
    for name, values in arrays.items():
        array = np.lib.format.open_memmap(
            tmp_path / f"{name}.npy", mode="w+", dtype=values.dtype, shape=values.shape
        )
        array[completed] = values[completed]
        array.flush()
        dtype = {"bool": "bool_"}.get(values.dtype.name, values.dtype.name)
        schema[name] = {"shape": list(values.shape[1:]), "dtype": dtype}
    del schema["_completed"]
    if spec:
        text = json.dumps({"num_models": len(masks), "schema": schema})
        (tmp_path / "spec.json").write_text(text)
    return tmp_path


def test_maps_the_files_of_the_release(tmp_path):
    masks, margins = made()
    models = read_masks_and_margins(*release(tmp_path, masks, margins), n_train=8, n_test=5)
    for array, expected in ((models.masks, masks), (models.margins, margins)):
        assert isinstance(array, np.memmap)
        np.testing.assert_array_equal(array, expected)
    assert models.alpha == 0.5
    np.testing.assert_allclose(models.accuracy, (margins > 0).mean(1))
    assert models.notes == (
        "read from train_masks_50pct.npy and test_margins_50pct.npy",
        "output: margin, as the user says",
    )


def test_stage_02_could_have_made_them(tmp_path):
    masks, margins = made()
    trained = read_masks_and_margins(*release(tmp_path, masks, margins)).trained()
    assert isinstance(trained, Trained)
    assert trained.margins.dtype == np.float32
    fitting = trained.rows(slice(4, None))
    assert [len(getattr(fitting, name)) for name in Trained.__dataclass_fields__] == [8] * 6
    fits = [
        fit_datamodels(m, y, method="difference_of_means")
        for m, y in ((fitting.masks, fitting.margins), (masks[4:], margins[4:]))
    ]
    np.testing.assert_array_equal(fits[0].weights, fits[1].weights)


def test_margins_come_from_logits(tmp_path):
    masks, _ = made()
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(N_MODELS, N_TEST, 10)).astype(np.float16)
    labels = rng.integers(10, size=N_TEST)
    np.save(tmp_path / "labels.npy", labels)
    paths = release(tmp_path, masks, logits, "logits")
    expected = correct_class_margins(torch.tensor(logits).float(), torch.tensor(labels))
    out = tmp_path / "margins.npy"
    mapped = read_masks_and_margins(*paths, labels=tmp_path / "labels.npy", margins_out=out)
    assert isinstance(mapped.margins, np.memmap)
    np.testing.assert_array_equal(mapped.margins, expected)
    np.testing.assert_allclose(mapped.accuracy, (logits.argmax(-1) == labels).mean(1))
    odds = read_masks_and_margins(*paths, labels=labels, output="log_odds")
    assert (odds.margins < expected.numpy()).all()
    assert np.isnan(odds.accuracy).all()
    with pytest.raises(ValueError, match="need labels"):
        read_masks_and_margins(*paths)


@pytest.mark.parametrize("spec", [True, False])
def test_only_completed_models_of_a_folder_are_read(tmp_path, spec):
    masks, margins = made()
    completed = np.ones(N_MODELS, bool)
    completed[[2, 7]] = False
    models = read_masks_and_margins(store(tmp_path, masks, margins, completed, spec), n_train=8)
    np.testing.assert_array_equal(models.masks, masks[completed])
    np.testing.assert_array_equal(models.margins, margins[completed])
    assert "10 completed models of 12" in models.notes[0]


def test_a_folder_that_was_stopped_stays_mapped(tmp_path):
    masks, margins = made()
    models = read_masks_and_margins(store(tmp_path, masks, margins, np.arange(N_MODELS) < 9))
    assert models.masks.shape == (9, N_TRAIN)
    assert isinstance(models.masks, np.memmap)


def test_refuses_a_folder_of_which_nothing_is_completed(tmp_path):
    folder = store(tmp_path, *made(), np.zeros(N_MODELS, bool))
    with pytest.raises(ValueError, match=r"no model in .* is completed"):
        read_masks_and_margins(folder)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"num_models": 99}, r"shape \(12, 8\), but spec.json says bool of \(99, 8\)"),
        ({"schema": {"masks": {"shape": [8], "dtype": "int8"}}}, "says int8"),
        ({"schema": {}}, "says no shape and dtype of masks"),
        ({"schema": {"masks": {"shape": [8], "dtype": "no_such"}}}, "says no shape and dtype"),
    ],
)
def test_a_folder_must_be_what_its_specification_says(tmp_path, spec, message):
    folder = store(tmp_path, *made(), np.ones(N_MODELS, bool))
    written = json.loads((folder / "spec.json").read_text())
    (folder / "spec.json").write_text(json.dumps(written | spec))
    with pytest.raises(ValueError, match=message):
        read_masks_and_margins(folder)


@pytest.mark.parametrize(
    "sizes", [{"n_train": N_TRAIN}, {"n_test": N_TEST}, {"n_train": N_TRAIN, "n_test": N_TEST}, {}]
)
def test_swapped_rows_and_columns_are_caught(tmp_path, sizes):
    masks, margins = made()
    paths = release(tmp_path, masks.T, margins.T)
    with pytest.raises(ValueError, match="swapped"):
        read_masks_and_margins(*paths, **sizes)
    models = read_masks_and_margins(*paths, orientation="examples_first", **sizes)
    np.testing.assert_array_equal(models.masks, masks)
    np.testing.assert_array_equal(models.margins, margins)


def test_one_swapped_file_is_caught_too(tmp_path):
    masks, margins = made()
    with pytest.raises(ValueError, match="swapped"):
        read_masks_and_margins(*release(tmp_path, masks.T, margins))
    with pytest.raises(ValueError, match="swapped"):
        read_masks_and_margins(*release(tmp_path, masks, margins.T), n_train=N_TRAIN)


@pytest.mark.parametrize(("n_train", "n_test"), [(12, 5), (8, 12)])
def test_square_files_need_a_word(tmp_path, n_train, n_test):
    rng = np.random.default_rng(0)
    masks, margins = rng.random((12, n_train)) < 0.5, rng.normal(size=(12, n_test))
    paths = release(tmp_path, masks, margins, percent=round(100 * masks.mean()))
    with pytest.raises(ValueError, match="square"):
        read_masks_and_margins(*paths, n_train=n_train, n_test=n_test)
    models = read_masks_and_margins(*paths, orientation="models_first")
    np.testing.assert_array_equal(models.margins, margins)


def test_margins_on_training_examples_are_recognised(tmp_path):
    masks, _ = made()
    paths = release(tmp_path, masks, np.zeros((N_MODELS, N_TRAIN)))
    with pytest.raises(ValueError, match="margins on training examples"):
        read_masks_and_margins(*paths, n_train=N_TRAIN, n_test=N_TEST)


def test_files_of_different_shares_do_not_belong_together(tmp_path):
    masks, margins = made(alpha=0.25)
    with pytest.raises(ValueError, match=r"names 50% .* hold 25\.0%"):
        read_masks_and_margins(*release(tmp_path, masks, margins))
    assert read_masks_and_margins(*release(tmp_path, masks, margins, percent=25)).alpha == 0.25


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_masks_of_0_and_1_are_masks(tmp_path, dtype):
    masks, margins = made()
    models = read_masks_and_margins(*release(tmp_path, masks.astype(dtype), margins))
    assert models.masks.dtype == bool
    np.testing.assert_array_equal(models.masks, masks)


def test_refuses_what_no_training_could_have_made(tmp_path):
    masks, margins = made()
    with pytest.raises(ValueError, match="packed"):
        read_masks_and_margins(*release(tmp_path, 2 * masks.astype(np.uint8), margins))
    empty = masks.copy()
    empty[3] = False
    with pytest.raises(ValueError, match="mask of model 3 is empty"):
        read_masks_and_margins(*release(tmp_path, empty, margins))
    margins[6, 1] = np.nan
    with pytest.raises(ValueError, match="margin of model 6 on test example 1 is nan"):
        read_masks_and_margins(*release(tmp_path, masks, margins))


def test_refuses_pickles_and_unknown_words(tmp_path):
    masks, margins = made()
    paths = release(tmp_path, masks, margins)
    np.save(tmp_path / "objects.npy", margins.astype(object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"objects\.npy was refused"):
        read_masks_and_margins(paths[0], tmp_path / "objects.npy")
    for said in ({"output": "loss"}, {"orientation": "rows"}):
        with pytest.raises(ValueError, match="expected one of"):
            read_masks_and_margins(*paths, **said)
    with pytest.raises(ValueError, match="margins_path is empty"):
        read_masks_and_margins(paths[0])


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)


def test_the_page_of_formats_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert len(blocks_of(PAGE)) >= 5
    everything = {}
    for block in blocks_of(PAGE):
        exec(block, everything)
    printed = capsys.readouterr().out
    findings = ("bias corrected", "units checked", "sign checked", "- margin")
    for finding in (*findings, "it was fitted with standardised masks"):
        assert finding in printed
