from dataclasses import replace

import numpy as np
import pytest

from mdhelpers.runs.run import Run
from mdhelpers.stages import comparison, data, datamodels
from mdhelpers.stages import models as stages_models
from mdhelpers.training.loading import ffcv_problem
from mdhelpers.training.tasks import resident_data
from mdhelpers.training.workers.schedulers import run_tasks

DATA = {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 30}
MODELS = {
    "algorithm_1": {"name": "a", "epochs": 1, "width": 4},
    "algorithm_2": {"name": "b", "epochs": 2, "width": 4},
    "n_models": 24,
    "n_heldout": 8,
    "n_kept": 4,
    "alpha": 0.5,
    "n_slots": 2,
    "stack": 4,
    "seed": 0,
}


def trained(folder, dataset=DATA) -> Run:
    """A run of the smallest study, as far as its models."""
    run = Run("s", runs_dir=folder)
    data.prepare_data(run, dataset)
    stages_models.train_models(run, **MODELS, workers=1)
    return run


def compared(folder, dataset=DATA) -> Run:
    """The same as far as directions, two of either side."""
    run = trained(folder, dataset)
    datamodels.fit_datamodels(run, method="difference_of_means")
    comparison.compare_algorithms(run, n_directions=2, n_splits=1, n_null_splits=1)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return trained(tmp_path_factory.mktemp("runs"))


def test_a_finished_stage_is_read_and_not_made_again(run, capsys):
    first = data.prepare_data(run, DATA)
    models = stages_models.train_models(run, **MODELS, workers=1)
    said = capsys.readouterr().out
    assert said.count("finished before with these parameters") == 2
    assert first.fingerprint == models.dataset.fingerprint == models.plan.fingerprint


def test_heldout_models_are_kept_apart(run):
    models = stages_models.read_models(run)
    held, fitting = models.heldout(1), models.fitting(1)
    assert (len(held.margins), len(fitting.margins)) == (8, 24)
    both = np.concatenate([held.masks, fitting.masks])
    assert np.array_equal(both, models.all(1).masks)


def test_other_parameters_do_not_overwrite_models(run):
    other = MODELS | {"algorithm_1": {"name": "a", "epochs": 3, "width": 4}}
    with pytest.raises(ValueError, match=r"epochs was 1, now 3.*another study name"):
        stages_models.train_models(run, **other, workers=1)
    stages_models.read_models(run)  # what was finished still is


def test_fits_are_graded_on_models_they_have_not_seen(run):
    fits = datamodels.fit_datamodels(run, method="difference_of_means")
    assert fits.predicted[0].shape == (8, 30)
    assert -1 <= fits.lds[0].spearman <= 1
    figures = run.results["03_datamodel_fitting"]
    assert figures["lds_1"] == pytest.approx(fits.lds[0].spearman)
    assert figures["method"] == "difference_of_means"


def test_a_stage_whose_input_is_missing_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match="01_data_prep has not been run"):
        stages_models.train_models(Run("s", runs_dir=tmp_path), **MODELS)
    with pytest.raises(ValueError, match="Run notebook 02_mask_training first"):
        stages_models.read_models(Run("s", runs_dir=tmp_path))


def test_discarding_the_models_removes_them_and_their_log(tmp_path):
    run = Run("s", runs_dir=tmp_path)
    data.prepare_data(run, DATA)
    stages_models.train_models(run, **MODELS, workers=1)
    stages_models.discard(run)
    assert sorted(p.name for p in run.path.glob("*models*")) == []
    assert not (run.path / "training.jsonl").exists()


def test_models_are_read_in_the_stacks_that_they_were_trained_in(run, monkeypatch):
    monkeypatch.setattr("mdhelpers.stages.models.choose_stack", lambda *_: 2)
    manifest = run.manifest

    def chosen_by_rule(self, name):  # noqa: ARG001
        found = manifest(name)
        return found | {"parameters": found["parameters"] | {"stack": 0}}

    monkeypatch.setattr(Run, "manifest", chosen_by_rule)
    assert stages_models.read_models(run).plan.stack == 4


def test_images_that_are_large_for_the_memory_come_from_ffcv(run, tmp_path, monkeypatch):
    """Its file is written where it is not there, and the stages after this one read it too."""
    own = Run("s", runs_dir=tmp_path)
    found, written = data.prepare_data(own, DATA), []
    plan = stages_models.read_models(run).plan
    plan = replace(plan, folder=own.path)

    def write(split, path):
        path.write_bytes(b"beton")
        written.append((len(split), path.name))

    monkeypatch.setattr(stages_models, "write_beton", write)
    monkeypatch.setattr(stages_models, "choose_loader", lambda *_: "ffcv")
    assert stages_models.chosen_loader(plan, found, "auto", 1) == "ffcv"
    assert stages_models.chosen_loader(plan, found, "memory", 1) == "memory"
    assert written == [(24, "train.beton")]

    read = stages_models.read_models(run)
    assert read.plan.loader == "memory"
    beton = read.plan.data_folder / "train.beton"
    beton.write_bytes(b"")
    monkeypatch.setattr(stages_models, "fit_memory", lambda _: 1.0)
    assert stages_models.read_models(run).plan.loader == "ffcv"
    beton.unlink()


def test_models_of_a_clusters_gpus_are_read_where_there_is_none(run, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    plan = stages_models.read_models(run, device="cuda").plan
    assert (plan.device, plan.here) == ("cuda", "cpu")
    assert resident_data(plan)[1].device.type == "cpu"
    with pytest.raises(ValueError, match="torch sees no GPU"):
        next(run_tasks(plan, [(1, 0)], "local"))


def test_processes_that_share_a_memory_are_counted(run, monkeypatch):
    plan = stages_models.read_models(run).plan
    assert stages_models.copies(plan, 3) == 3
    monkeypatch.setattr(stages_models, "visible_gpus", lambda: ["0", "1"])
    assert stages_models.copies(replace(plan, device="cuda"), 3) == 2


@pytest.mark.slow
@pytest.mark.skipif(bool(ffcv_problem()), reason=ffcv_problem() or "-")
def test_models_on_images_from_disk_are_the_same_to_the_bit(run, tmp_path, monkeypatch):
    monkeypatch.setattr(stages_models, "fit_memory", lambda _: 1.0)
    own = Run("s", runs_dir=tmp_path)
    data.prepare_data(own, DATA)
    models = stages_models.train_models(own, **MODELS, workers=1)
    assert (own.path / "data" / "train.beton").exists()
    assert models.plan.loader == "ffcv"
    for a in (1, 2):
        before, now = stages_models.read_models(run).all(a), models.all(a)
        np.testing.assert_array_equal(before.margins, now.margins)
