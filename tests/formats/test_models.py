import numpy as np
import pytest

from mdhelpers.command.export import KINDS, export_run
from mdhelpers.runs.run import Run
from mdhelpers.show import checks
from mdhelpers.show import models as tables
from mdhelpers.stages import data, datamodels
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.study import Study
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
    assert isinstance(tables.throughput(elsewhere), str)
    assert checks.mask_overlap(models)["expected"].item() == pytest.approx(0.25, abs=0.01)


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
        stages_models.train_models(elsewhere, **MODELS | {"stack": 0} | given(exported[0]) | changes)


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
