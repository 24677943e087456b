import contextlib
import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from mdhelpers.base import records
from mdhelpers.runs import stage as run_stage
from mdhelpers.runs.run import Run, StudyError, is_run
from mdhelpers.show.style import show_provenance


@pytest.fixture
def run(tmp_path):
    return Run("tiny", profile="smoke", runs_dir=tmp_path)


def finish(run, name, parameters=None, after=(), output="out.txt", **figures):
    stage = run.stage(name, parameters or {}, after=after)
    stage.withdraw()
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


def work(stage):
    """Enter a stage and leave it before it is finished; returns whether it must be run."""
    with stage.working() as needed:
        if needed:
            stage.withdraw()
        return needed


def test_a_stage_is_current_only_from_the_same_parameters(run, capsys):
    stage = run.stage("03_fit", {"lam_min_ratio": 0.01})
    assert stage.reason == "never run"
    finish(run, "03_fit", {"lam_min_ratio": 0.01})
    same = run.stage("03_fit", {"lam_min_ratio": np.float64(0.01)})
    assert not same.reason
    assert not work(same)
    assert "03_fit: finished before with these parameters (" in capsys.readouterr().out
    other = run.stage("03_fit", {"lam_min_ratio": 0.001})
    assert other.reason
    assert work(other)
    assert capsys.readouterr().out == ("03_fit: running (lam_min_ratio changed: 0.01 → 0.001)\n")


def test_a_stage_that_was_begun_no_longer_counts_as_finished(run):
    finish(run, "03_fit", {"seed": 0}, lds=0.5)
    assert work(run.stage("03_fit", {"seed": 1}))  # begun with other parameters, and cut short
    assert run.stage("03_fit", {"seed": 0}).reason
    assert "03_fit" not in run.results
    assert "03_fit" not in json.loads((run.path / "results.json").read_text())


def test_a_stage_that_is_stopped_before_it_writes_loses_nothing(run):
    stage = finish(run, "03_fit", {"seed": 0}, lds=0.5)
    with contextlib.suppress(KeyboardInterrupt), run.stage("03_fit", {"seed": 1}).working():
        raise KeyboardInterrupt
    assert not stage.reason
    assert run.results["03_fit"]["lds"] == 0.5


def test_a_lost_output_and_a_withdrawn_stage_run_again(run):
    stage = finish(run, "03_fit", output="datamodels_1.safetensors")
    content = (run.path / "datamodels_1.safetensors").read_bytes()
    (run.path / "datamodels_1.safetensors").unlink()
    assert stage.reason == "output datamodels_1.safetensors is missing"
    (run.path / "datamodels_1.safetensors").write_bytes(content)
    assert not stage.reason
    stage.withdraw()
    assert stage.reason == "never run"


HARM = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "emptied": lambda path: path.write_bytes(b""),
    "one bit": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1, *b"3_fit"])),
    "of another run": lambda path: path.write_text("04_fit"),
    "lost": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
def test_an_output_that_is_not_what_was_written_is_named_and_made_anew(run, harm):
    stage = finish(run, "03_fit", output="out.npy")
    assert run.output("03_fit", "out.npy") == run.path / "out.npy"
    harm(run.path / "out.npy")
    with pytest.raises(StudyError, match=r"out\.npy, which 03_fit wrote, (was changed|is missing)"):
        run.output("03_fit", "out.npy")
    assert stage.reason.startswith("output out.npy ")


def test_what_an_earlier_run_of_the_stage_left_is_neither_read_nor_kept(run):
    stage = finish(run, "04_pca", {"models": True}, output="gaps.parquet")
    again = run.stage("04_pca", {"models": False})
    with again.working():
        again.withdraw()
        (run.path / "other.parquet").write_text("")
        again.finish(["other.parquet"])
    assert run.output("04_pca", "gaps.parquet") is None
    assert not (run.path / "gaps.parquet").exists()
    assert stage.reason == "models changed: false → true"


def test_a_damaged_manifest_counts_as_none(run):
    stage = finish(run, "03_fit", lds=0.5)
    path = run.path / "stages" / "03_fit.json"
    path.write_text(path.read_text().replace("0.5", "0.9"))
    assert stage.reason == "its record is damaged"
    assert "03_fit" not in run.results


def test_results_are_what_the_stages_say_whatever_befell_the_file(run):
    finish(run, "03_fit", {"seed": 3}, lds=0.5)
    file = run.path / "results.json"
    whole = run.results
    for harm in ("", "{", file.read_text().replace("0.5", "0.9")):
        file.write_text(harm)
        assert run.results == whole
        run.write_results()
        assert json.loads(file.read_text()) == whole
    file.unlink()
    assert run.results == whole


def test_results_hold_nothing_that_was_made_from_older_inputs(run):
    finish(run, "02_train", {"n_models": 128}, output="models")
    finish(run, "03_fit", after=["02_train"], lds=0.5)
    finish(run, "04_pca", after=["03_fit"], output="pca", gap=1)
    assert {"03_fit", "04_pca"} <= set(run.results)
    finish(run, "02_train", {"n_models": 256}, output="models")
    assert set(run.results) == {"run", "02_train"}


def test_a_second_process_waits_for_the_first_and_reads_its_results(run, capsys):
    context = multiprocessing.get_context("fork")
    begun, go = context.Event(), context.Event()

    def first():
        stage = run.stage("03_fit", {})
        with stage.working():
            begun.set()
            go.wait(30)
            (run.path / "out.txt").write_text("x")
            stage.finish(["out.txt"])

    process = context.Process(target=first)
    process.start()
    assert begun.wait(30)
    threading.Timer(0.5, go.set).start()
    assert not work(run.stage("03_fit", {}))
    process.join()
    said = capsys.readouterr().out
    assert "03_fit: another process is at this stage; waiting for it" in said
    assert "finished before" in said


def test_a_folder_with_things_of_others_is_no_run(tmp_path):
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets" / "photo.png").write_text("")
    with pytest.raises(StudyError, match="holds files that no run made"):
        Run("pets", runs_dir=tmp_path).path  # noqa: B018
    assert [path.name for path in (tmp_path / "pets").iterdir()] == ["photo.png"]


@pytest.mark.parametrize("name", ["results.json", "run.json", "stages/x.json"])
def test_files_of_other_tools_make_no_run(tmp_path, name):
    (tmp_path / "pets" / name).parent.mkdir(parents=True)
    (tmp_path / "pets" / name).write_text('{"score": 1}')
    assert not is_run(tmp_path / "pets")
    with pytest.raises(StudyError, match="holds files that no run made"):
        Run("pets", runs_dir=tmp_path).path  # noqa: B018


def test_a_run_without_its_mark_is_known_by_what_it_holds(run):
    finish(run, "03_fit", lds=0.5)
    for keep in ("results.json", "stages"):
        for name in ("run.json", {"results.json": "none", "stages": "results.json"}[keep]):
            (run.folder / name).unlink(missing_ok=True)
        assert is_run(run.folder)
    assert not run.stage("03_fit", {}).reason
    assert (run.path / "run.json").exists()


def test_a_copy_of_a_run_is_whole_and_has_a_mark_of_its_own(run, tmp_path):
    finish(run, "03_fit", lds=0.5)
    shutil.copytree(tmp_path / "tiny-smoke", tmp_path / "copy" / "tiny-smoke")
    copy = Run("tiny", profile="smoke", runs_dir=tmp_path / "copy")
    assert not copy.stage("03_fit", {}).reason
    assert copy.results == run.results
    assert copy.id != run.id
    assert str(tmp_path) not in "".join(p.read_text() for p in copy.path.rglob("*.json"))


def test_a_manifest_that_names_what_lies_outside_has_nothing_read_or_removed(run, tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    stage = finish(run, "03_fit")
    path = run.path / "stages" / "03_fit.json"
    manifest = json.loads(path.read_text())
    del manifest["sha256"]
    for name in ("../precious.txt", str(tmp_path / "precious.txt")):
        path.write_text(json.dumps(manifest | {"outputs": {name: {}}}))
        assert stage.reason == f"output {name} lies outside of the run"
        again = run.stage("03_fit", {})
        with again.working():
            again.withdraw()
            again.finish(["out.txt"])
        assert (tmp_path / "precious.txt").exists()


@pytest.mark.parametrize(
    "harm",
    [
        {"inputs": {"03_fit": "x"}},  # itself: an endless search
        {"inputs": {"04_pca": "x"}},
        {"inputs": []},
        {"outputs": 5},
        {"outputs": [["x"]]},
        {"parameters": None},
        {"figures": "x"},
        {"run": 3},
    ],
)
def test_a_manifest_that_no_stage_wrote_counts_as_none(run, harm):
    stage = finish(run, "03_fit", lds=0.5)
    path = run.path / "stages" / "03_fit.json"
    manifest = json.loads(path.read_text()) | harm
    del manifest["sha256"]
    path.write_text(json.dumps(manifest))
    assert stage.reason == "its record is damaged"
    assert set(run.results) <= {"run"}
    with pytest.raises(StudyError, match="03_fit has not been run"):
        run.stage("05_inspect", {}, after=["03_fit"])


def test_leftovers_of_killed_writers_go_and_nothing_else(run):
    dead = subprocess.run(
        [sys.executable, "-c", "from pathlib import Path; from mdhelpers.base import records; "
         "print(records.unfinished_name(Path('x.npy')).name)"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    keep = [records.unfinished_name(run.path / "live.npy"), run.path / ".mine.unfinished"]
    for path in [run.path / dead, *keep]:
        path.write_text("")
    work(run.stage("03_fit", {}))
    assert [(run.path / dead).exists(), *(path.exists() for path in keep)] == [False, True, True]


def test_a_new_schema_makes_old_stages_run_again(run, monkeypatch):
    stage = finish(run, "03_fit")
    monkeypatch.setattr(run_stage, "SCHEMA", run_stage.SCHEMA + 1)
    assert stage.reason == "made by another version of mdhelpers"


def test_what_a_stage_reads_decides_whether_it_is_current(run):
    finish(run, "02_train", {"n_models": 128}, output="models")
    finish(run, "03_fit", after=["02_train"])
    assert not run.stage("03_fit", {}, after=["02_train"]).reason
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
    with pytest.raises(StudyError, match="02_train is damaged: output models is missing"):
        run.stage("03_fit", {}, after=["02_train"])


def test_manifest_says_what_was_made_from_what(run):
    stage = finish(run, "03_fit", {"seed": 0})
    manifest = json.loads((run.path / "stages" / "03_fit.json").read_text())
    assert manifest["key"] == stage.key
    assert manifest["outputs"] == {
        "out.txt": {"size": 6, "sha256": hashlib.sha256(b"03_fit").hexdigest()}
    }
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
    assert stage.reason


def test_results_hold_figures_parameters_and_what_made_them(run):
    finish(run, "02_train", {"n_models": 1152, "seed": 0}, accuracy=np.float32(0.5))
    finish(run, "03_fit", {"method": "lasso"}, lds_1=np.nan, gaps=np.array([1.0, 2.0]))
    assert run.results["03_fit"] == {
        "lds_1": None,
        "gaps": [1.0, 2.0],
        "seconds": 12.3,
        "parameters": {"method": "lasso"},
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
        finish(run, block, output=f"{block}.txt", last=number)


def test_figures_of_processes_that_finish_at_once_are_all_kept(tmp_path):
    context = multiprocessing.get_context("spawn")
    blocks = ["02_train", "03_fit"]
    workers = [context.Process(target=_record, args=(tmp_path, block)) for block in blocks]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    results = json.loads((tmp_path / "tiny-smoke" / "results.json").read_text())
    assert [results[block]["last"] for block in blocks] == [14, 14]


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


def test_a_page_of_another_profile_is_told_of_the_full_run(tmp_path):
    run = Run("tiny", profile="smoke", runs_dir=tmp_path)
    with pytest.raises(StudyError, match=r"01_data_prep has not been run\. Run"):
        run.check("01_data_prep")
    assert Run("tiny", runs_dir=tmp_path).path.is_dir()
    with pytest.raises(StudyError, match="has a run of profile full: give -p profile full"):
        run.check("01_data_prep")


def test_a_notebook_shows_a_study_error_in_a_line():
    assert StudyError("no root")._render_traceback_() == ["StudyError: no root"]
