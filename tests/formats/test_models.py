import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from mdhelpers.base.arrays import open_npy
from mdhelpers.command.export import KINDS, export_run
from mdhelpers.formats.models import margins_from_logits, output_function, read_masks_and_margins
from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.method.margins import correct_class_margins
from mdhelpers.runs.run import Run
from mdhelpers.show import models as tables
from mdhelpers.stages import data, datamodels
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.study import Study
from mdhelpers.training.store_files import Trained
from tests.stages.test_models import DATA, MODELS


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    run = Run("here", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    stages_models.train_models(run, **MODELS | {"n_slots": 0}, workers=1)
    datamodels.fit_datamodels(run, method="difference_of_means", relative_to_class=True)
    return run


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    return folder, export_run(trained, folder, dtype="float32")


def given(folder, **changes) -> dict:
    found = {}
    for a in (1, 2):
        files = folder / f"algorithm_{a}"
        masks, margins = files / "train_masks_50pct.npy", files / "test_margins_50pct.npy"
        found[f"models_{a}_given"] = {"masks": str(masks), "margins": str(margins)} | changes
    return found


@pytest.fixture
def elsewhere(tmp_path) -> Run:
    run = Run("elsewhere", runs_dir=tmp_path / "runs")
    data.prepare_data(run, DATA)
    return run


def test_models_trained_elsewhere_take_the_place_of_models_trained_here(
    trained, exported, elsewhere, capsys
):
    folder, written = exported
    assert len(written) == 2 * len(KINDS) + 2  # a release is two files
    models = stages_models.train_models(elsewhere, **MODELS | given(folder))
    own = stages_models.read_models(trained)
    for a in (1, 2):
        assert np.array_equal(models.all(a).masks, own.all(a).masks)
        assert np.array_equal(models.all(a).margins, own.all(a).margins)
        np.testing.assert_allclose(models.all(a).accuracy, own.all(a).accuracy, atol=1e-6)
    assert models.made_elsewhere
    assert not own.made_elsewhere
    fits = datamodels.fit_datamodels(elsewhere, method="difference_of_means")
    first = datamodels.fit_datamodels(trained, method="difference_of_means")
    assert np.array_equal(fits.datamodels[1].weights, first.datamodels[1].weights)
    stages_models.train_models(elsewhere, **MODELS | given(folder))
    assert "finished before with these parameters" in capsys.readouterr().out.splitlines()[-1]
    assert isinstance(tables.throughput(models), str)
    assert models.all(1).masks.mean() ** 2 == pytest.approx(0.25, abs=0.01)


def test_changed_files_are_noticed_and_never_mixed(exported, elsewhere, tmp_path):
    folder, _ = exported
    copies = given(folder)
    masks = tmp_path / "train_masks_50pct.npy"
    np.save(masks, np.load(copies["models_1_given"]["masks"]))
    copies["models_1_given"]["masks"] = str(masks)
    stages_models.train_models(elsewhere, **MODELS | copies)
    np.save(masks, np.load(masks)[::-1])
    with pytest.raises(ValueError, match="origin was"):
        stages_models.train_models(elsewhere, **MODELS | copies)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_models": 25}, ValueError, r"holds 32 models, and n_heldout \+ n_models = 33"),
        ({"models_1_given": {}}, ValueError, "models_1_given is empty"),
        ({"models_1_given": {"mask": "a.npy"}}, ValueError, "did you mean 'masks'"),
        ({"models_1_given": {"masks": "/nowhere/a.npy"}}, FileNotFoundError, "nowhere"),
    ],
)
def test_what_cannot_be_read_is_refused(exported, elsewhere, changes, error, message):
    with pytest.raises(error, match=message):
        stages_models.train_models(
            elsewhere, **MODELS | {"stack": 0} | given(exported[0]) | changes
        )


def test_a_study_of_given_models_can_test_no_hypothesis(exported):
    algorithms = {"algorithm_1": {"name": "a"}, "algorithm_2": {"name": "b"}}
    study = {"study": "s", **algorithms, **given(exported[0])}
    assert Study(**study).models_1_given["masks"].endswith("50pct.npy")
    hypothesis = {"transformation": "tag", "intensities": [3], "target_class": "boat", "uses": 1}
    with pytest.raises(ValueError, match="give hypotheses: \\[\\]"):
        Study(**study, hypotheses=[hypothesis])


def test_files_are_written_of_the_kinds_asked_for(trained, tmp_path):
    written = export_run(trained, tmp_path, kinds=("npy",))
    assert [path.name for path in written] == ["weights.npy", "weights.npy"]
    fits = datamodels.fit_datamodels(trained, method="difference_of_means")
    assert np.array_equal(np.load(written[0]), fits.datamodels[0].weights)
    with pytest.raises(ValueError, match="did you mean 'npy'"):
        export_run(trained, tmp_path, kinds=("npz",))


def test_an_export_writes_over_exports_alone(trained, tmp_path):
    export_run(trained, tmp_path / "ours", kinds=["npy"])
    export_run(trained, tmp_path / "ours", kinds=["npy"])
    theirs = tmp_path / "theirs" / "algorithm_2" / "weights.npy"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(ValueError, match="holds files that no export made"):
        export_run(trained, tmp_path / "theirs", kinds=["npy"])
    assert [p for p in (tmp_path / "theirs").rglob("*") if p.is_file()] == [theirs]


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
    findings = ("bias corrected", "units checked", "sign checked", "computed from logits\nmargin\n")
    for finding in (*findings, "it was fitted with standardised masks"):
        assert finding in printed


LABELS = np.array([2, 0, 1, 1, 2])


def some_logits(n_models=9):
    rng = np.random.default_rng(0)
    return rng.normal(scale=4, size=(n_models, 5, 3)).astype(np.float16)


def slow(logits, output):
    """One model and test example at a time."""
    margins = np.empty(logits.shape[:2])
    for model, row in enumerate(logits.astype(np.float64)):
        for example, (values, label) in enumerate(zip(row, LABELS, strict=True)):
            others = np.delete(values, label)
            against = others.max() if output == "margin" else logsumexp(others)
            margins[model, example] = values[label] - against
    return margins


@pytest.mark.parametrize("output", ["margin", "log_odds"])
@pytest.mark.parametrize("block_bytes", [1, 100, 10**6])
def test_agrees_with_one_model_at_a_time(output, block_bytes):
    logits = some_logits()
    margins = margins_from_logits(logits, LABELS, output=output, block_bytes=block_bytes)
    assert margins.dtype == np.float32
    np.testing.assert_allclose(margins, slow(logits, output), atol=1e-5)


def test_writes_to_a_file_and_maps_it(tmp_path):
    logits = some_logits()
    np.save(tmp_path / "labels.npy", LABELS)
    margins = margins_from_logits(logits, tmp_path / "labels.npy", out=tmp_path / "m.npy")
    assert isinstance(margins, np.memmap)
    np.testing.assert_array_equal(margins, margins_from_logits(logits, LABELS))


def test_memory_is_a_few_blocks_whatever_the_file(tmp_path):
    shape = (4000, 50, 10)
    logits = np.lib.format.open_memmap(tmp_path / "l.npy", "w+", np.float16, shape)
    logits[:] = np.random.default_rng(0).normal(size=shape)
    logits.flush()
    mapped = open_npy(tmp_path / "l.npy", ("n_models", "n_test", "n_classes"))
    tracemalloc.start()
    margins_from_logits(mapped, np.arange(50) % 10, out=tmp_path / "m.npy", block_bytes=2**16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**16 < logits.nbytes / 7


@pytest.mark.parametrize("labels", [None, LABELS[:4], LABELS + 1, LABELS - 1, LABELS + 0.0])
def test_refuses_labels_that_do_not_belong(labels):
    with pytest.raises(ValueError, match="labels"):
        margins_from_logits(some_logits(), labels)


@pytest.mark.parametrize("output", ["margin", "log_odds"])
def test_tells_which_output_margins_hold(output):
    logits = some_logits(300)
    margins = slow(logits, output).astype(np.float16)
    assert output_function(margins, logits, LABELS) == output
    margins[0, 0] = np.nan
    with pytest.raises(ValueError, match="not those of the logits"):
        output_function(margins, logits, LABELS)


def test_knows_margins_of_other_models():
    margins = slow(some_logits(), "margin")
    with pytest.raises(ValueError, match="same order"):
        output_function(margins[::-1], some_logits(), LABELS)
