import json
import multiprocessing

import numpy as np
import pytest

from mdhelpers import runs
from mdhelpers.runs import Run, StudyError, show_provenance


@pytest.fixture
def run(tmp_path):
    return Run("tiny", profile="smoke", runs_dir=tmp_path)


def finish(run, name, parameters=None, after=(), output="out.txt", **figures):
    stage = run.stage(name, parameters or {}, after=after)
    (run.path / output).write_text(name)
    stage.finish([output], figures=figures, seconds=12.3)
    return stage


def test_folder_carries_the_profile_and_is_made_when_asked_for(tmp_path):
    full = Run("tiny", runs_dir=tmp_path)
    smoke = Run("tiny", profile="smoke", runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())
    assert full.path == tmp_path / "tiny"
    assert smoke.path == tmp_path / "tiny-smoke"
    assert smoke.path.is_dir()


@pytest.mark.parametrize("name", ["a/b", "..", "", ".hidden", "two words", 3])
def test_names_that_are_no_folders_are_refused(tmp_path, name):
    with pytest.raises(StudyError, match="cannot name a folder"):
        Run(name, runs_dir=tmp_path)
    with pytest.raises(StudyError, match="profile is"):
        Run("tiny", profile=name, runs_dir=tmp_path)


def test_a_folder_of_another_study_is_refused(tmp_path):
    finish(Run("tiny", profile="smoke", runs_dir=tmp_path), "01_data_prep")
    with pytest.raises(StudyError, match="holds the run of study 'tiny', profile 'smoke'"):
        Run("tiny-smoke", runs_dir=tmp_path)


def test_a_stage_is_current_only_from_the_same_parameters(run, capsys):
    stage = run.stage("03_fit", {"lam_min_ratio": 0.01})
    assert stage.reason == "never run"
    finish(run, "03_fit", {"lam_min_ratio": 0.01})
    same = run.stage("03_fit", {"lam_min_ratio": np.float64(0.01)})
    assert same.is_current
    same.say()
    assert "03_fit: finished before with these parameters (" in capsys.readouterr().out
    other = run.stage("03_fit", {"lam_min_ratio": 0.001})
    assert not other.is_current
    other.say()
    assert capsys.readouterr().out == ("03_fit: running (lam_min_ratio changed: 0.01 → 0.001)\n")


def test_a_missing_output_and_a_discarded_stage_run_again(run):
    stage = finish(run, "03_fit", output="datamodels_1.safetensors")
    (run.path / "datamodels_1.safetensors").unlink()
    assert stage.reason == "output datamodels_1.safetensors is missing"
    (run.path / "datamodels_1.safetensors").write_text("")
    assert stage.is_current
    stage.discard()
    assert stage.reason == "never run"


def test_a_new_schema_makes_old_stages_run_again(run, monkeypatch):
    stage = finish(run, "03_fit")
    monkeypatch.setattr(runs, "SCHEMA", runs.SCHEMA + 1)
    assert stage.reason == "made by another version of mdhelpers"


def test_what_a_stage_reads_decides_whether_it_is_current(run):
    finish(run, "02_train", {"n_models": 128}, output="models")
    finish(run, "03_fit", after=["02_train"])
    assert run.stage("03_fit", {}, after=["02_train"]).is_current
    finish(run, "02_train", {"n_models": 256}, output="models")
    again = run.stage("03_fit", {}, after=["02_train"])
    assert again.reason == "02_train was run again"


def test_a_stage_made_from_older_inputs_is_not_read(run):
    finish(run, "02_train", {"n_models": 128}, output="models")
    finish(run, "03_fit", after=["02_train"])
    finish(run, "02_train", {"n_models": 256}, output="models")
    with pytest.raises(StudyError, match="03_fit was made before 02_train ran again"):
        run.stage("04_pca", {}, after=["03_fit"])


def test_a_stage_not_yet_run_is_named_with_the_command(run):
    with pytest.raises(StudyError) as error:
        run.stage("03_fit", {}, after=["02_train"])
    assert "Run notebook 02_train first" in str(error.value)
    assert "mdhelpers run parameters/tiny.yaml -f parameters/smoke.yaml" in str(error.value)


def test_a_stage_whose_output_is_lost_is_named(run):
    finish(run, "02_train", output="models")
    (run.path / "models").unlink()
    with pytest.raises(StudyError, match="02_train has lost its output models"):
        run.stage("03_fit", {}, after=["02_train"])


def test_manifest_says_what_was_made_from_what(run):
    stage = finish(run, "03_fit", {"seed": 0})
    manifest = json.loads((run.path / "stages" / "03_fit.json").read_text())
    assert manifest["key"] == stage.key
    assert manifest["outputs"] == ["out.txt"]
    assert manifest["parameters"] == {"seed": 0}
    assert manifest["seconds"] == 12.3
    assert manifest["versions"]["numpy"] == np.__version__


def test_outputs_must_exist_and_lie_in_the_run(run, tmp_path):
    stage = run.stage("03_fit", {})
    with pytest.raises(ValueError, match="did not write"):
        stage.finish(["none.txt"])
    (tmp_path / "out.txt").write_text("")
    with pytest.raises(ValueError, match="lies outside"):
        stage.finish([tmp_path / "out.txt"])
    assert not stage.is_current


def test_results_hold_figures_parameters_and_what_made_them(run):
    finish(run, "02_train", {"n_models": 1152, "seed": 0}, accuracy=np.float32(0.5))
    finish(run, "03_fit", {"method": "lasso"}, lds_1=np.nan, gaps=np.array([1.0, 2.0]))
    run.stage("03_fit", {"method": "lasso"}).record(late=1)
    assert run.results["03_fit"] == {
        "lds_1": None,
        "gaps": [1.0, 2.0],
        "seconds": 12.3,
        "parameters": {"method": "lasso"},
        "late": 1,
    }
    facts = run.results["run"]
    assert (facts["study"], facts["profile"]) == ("tiny", "smoke")
    assert (facts["n_models"], facts["seed"]) == (1152, 0)
    assert facts["finished"].startswith(facts["date"])
    assert set(facts["machine"]) == {"cpu", "cores", "gpu", "memory"}


def test_a_stage_that_runs_again_leaves_none_of_its_old_figures(run):
    finish(run, "03_fit", old=1)
    finish(run, "03_fit", new=2)
    assert "old" not in run.results["03_fit"]


def _record(folder, block):
    run = Run("tiny", profile="smoke", runs_dir=folder)
    for number in range(15):
        run.merge(block, {f"figure_{number}": number})


def test_figures_of_processes_that_write_at_once_are_all_kept(tmp_path):
    context = multiprocessing.get_context("spawn")
    blocks = ["02_train", "03_fit"]
    workers = [context.Process(target=_record, args=(tmp_path, block)) for block in blocks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results = Run("tiny", profile="smoke", runs_dir=tmp_path).results
    assert [len(results[block]) for block in blocks] == [15, 15]


def test_provenance_in_one_line(run):
    before = run.provenance()
    assert before.startswith("Study tiny · profile smoke · commit ")
    assert "finished" not in before
    finish(run, "02_train", {"n_models": 1152, "seed": 0})
    assert "2 × 1152 models · seed 0 · commit " in run.provenance()
    assert " · finished 2" in run.provenance()


def test_only_small_budgets_carry_a_banner(run, tmp_path):
    assert run.banner() == "Smoke run: small budget, its numbers are no findings."
    assert Run("tiny", runs_dir=tmp_path).banner() == ""


def test_provenance_is_shown_as_html_with_its_banner(run, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, **_: shown.append(bundle))
    show_provenance(run)
    show_provenance(Run("tiny", runs_dir=tmp_path))
    assert 'class="mdhelpers-banner"' in shown[0]["text/html"]
    assert "mdhelpers-banner" not in shown[1]["text/html"]
    assert 'class="mdhelpers-provenance"' in shown[1]["text/html"]
    assert shown[0]["text/plain"].startswith("Smoke run")
