import errno
import json
import shutil
from types import SimpleNamespace

import nbformat
import pytest
from small_project import COMMON, TinyStudy, make_project, write_notebook

from mdhelpers.base.records import locked
from mdhelpers.command import execution, runner
from mdhelpers.command.execution import NotebookFailed
from mdhelpers.runs.run import Run, StudyError

ALL = ["01_data", "02_train", "03_fit"]
SMALL = {"models": 16, "seconds": 90, "bytes": 2e6, "basis": "one model timed"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


@pytest.fixture
def executed(project, monkeypatch):  # noqa: ARG001
    """Stand in for papermill: what was executed, with what; `fails` names one that must fail."""
    log = SimpleNamespace(names=[], parameters={}, fails=None)

    def execute(source, output, parameters, *, label):
        log.names.append(source.stem)
        log.parameters[source.stem] = parameters
        output.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, output)
        if source.stem == log.fails:
            raise NotebookFailed(f"{label} failed")

    monkeypatch.setattr(execution, "execute", execute)
    return log


def run(executed, file="tiny", **options):
    """Run, and return the names of the notebooks that were executed this time."""
    executed.names.clear()
    options = {"study_class": TinyStudy, "estimate": lambda study: SMALL} | options  # noqa: ARG005
    runner.run_study(file, **options)
    return list(executed.names)


def test_each_notebook_gets_exactly_what_it_declares(project, executed):
    assert run(executed, overlays=["smoke"], parameters={"n_train": 7}) == ALL
    common = {"study": "tiny", "profile": "smoke", "runs_dir": "runs"}
    assert executed.parameters == {
        "01_data": common | {"n_train": 7},
        "02_train": common | {"n_models": 2},
        "03_fit": common | {"algorithm": {"lr": 0.1}},
    }
    copies = project / "runs" / "tiny-smoke" / "notebooks"
    assert sorted(path.stem for path in copies.glob("*.ipynb")) == ALL


def test_what_is_finished_is_skipped(executed, capsys):
    run(executed)
    capsys.readouterr()
    assert run(executed) == []
    out = capsys.readouterr().out
    assert "[2/3] 02_train: skipped (finished before)" in out
    assert "0 run, 3 skipped" in out
    assert "runs/tiny/results.json" in out
    assert "mdhelpers book tiny" in out


def test_a_changed_parameter_runs_its_notebook_and_all_after(executed, capsys):
    run(executed)
    assert run(executed, parameters={"n_models": 16}) == ALL[1:]
    out = capsys.readouterr().out
    assert "[2/3] 02_train: running (n_models changed: 8 → 16)" in out
    assert "[3/3] 03_fit: running (02_train runs again)" in out


def test_a_changed_notebook_runs_again_and_all_after(project, executed, capsys):
    run(executed)
    path = project / "notebooks" / "02_train.ipynb"
    write_notebook(path, nbformat.read(path, 4).cells[1].source, "print('new')")
    assert run(executed) == ALL[1:]
    assert "02_train: running (the notebook changed)" in capsys.readouterr().out


def test_another_version_of_mdhelpers_runs_all(executed, monkeypatch):
    run(executed)
    monkeypatch.setattr("mdhelpers.__version__", "99")
    assert run(executed) == ALL


def test_a_lost_copy_or_output_runs_again(project, executed):
    run(executed)
    (project / "runs" / "tiny" / "notebooks" / "03_fit.ipynb").unlink()
    assert run(executed) == ALL[2:]
    stage = Run("tiny").stage("02_train", {})
    (stage.run.path / "models").write_text("")
    stage.finish(["models"])
    assert run(executed) == ALL[1:]  # made outside of this run
    assert run(executed) == []
    (stage.run.path / "models").unlink()
    assert run(executed) == ALL[1:]


def test_a_changed_copy_or_record_runs_again(project, executed, capsys):
    run(executed)
    notebooks = project / "runs" / "tiny" / "notebooks"
    (notebooks / "02_train.ipynb").write_text((notebooks / "02_train.ipynb").read_text() + " ")
    assert run(executed) == ALL[1:]
    assert "02_train: running (its executed copy was changed)" in capsys.readouterr().out
    assert (notebooks / "02_train-changed-1.ipynb").read_text().endswith(" ")  # somebody's notes
    keys = notebooks / "keys.json"
    keys.write_text(keys.read_text().replace('"seconds": ', '"seconds": 9', 1))
    assert run(executed) == ALL
    keys.write_text("{")
    assert run(executed) == ALL
    assert run(executed) == []


def test_results_that_were_lost_are_written_again_without_running(project, executed):
    run(executed)
    stage = Run("tiny").stage("02_train", {})
    stage.withdraw()
    stage.finish([], figures={"accuracy": 0.5})
    run(executed)
    results = project / "runs" / "tiny" / "results.json"
    for harm in (results.unlink, lambda: results.write_text("{")):
        harm()
        assert run(executed) == []
        assert json.loads(results.read_text())["02_train"]["accuracy"] == 0.5


def test_after_a_failure_the_run_goes_on_from_there(executed, capsys):
    executed.fails = "02_train"
    with pytest.raises(NotebookFailed):
        run(executed)
    assert executed.names == ALL[:2]
    executed.fails = None
    assert run(executed) == ALL[1:]
    assert "02_train: running (not finished yet)" in capsys.readouterr().out


def test_a_run_cut_short_never_leaves_later_pages_of_an_older_one(project, executed):
    run(executed)
    executed.fails = "02_train"
    with pytest.raises(NotebookFailed):
        run(executed, parameters={"n_models": 16})
    copies = project / "runs" / "tiny" / "notebooks"
    assert not (copies / "03_fit.ipynb").exists()
    assert list(json.loads((copies / "keys.json").read_text())) == ["01_data"]


def test_force_runs_all_and_discards_what_the_stages_finished(executed):
    run(executed)
    stage = Run("tiny").stage("02_train", {})
    stage.finish([])
    run(executed)
    assert not stage.reason
    assert run(executed, force=True) == ALL
    assert stage.reason


def test_stages_estimate_and_discard_by_default(executed, monkeypatch, capsys):
    discarded = []
    monkeypatch.setattr(
        "mdhelpers.command.estimates.estimate", lambda study: SMALL | {"models": study.n_models}
    )
    monkeypatch.setattr("mdhelpers.stages.models.discard", lambda run: discarded.append(run.study))
    monkeypatch.setattr("mdhelpers.runs.stage.MODELS", "02_train")
    run(executed, force=True, estimate=None)
    assert discarded == ["tiny"]
    run(executed, dry_run=True, estimate=None)
    assert "8 models" in capsys.readouterr().out


@pytest.mark.parametrize("start", ["02", "2", "02_train", "02_train.ipynb"])
def test_from_runs_unchanged_notebooks_and_leaves_earlier_ones(executed, start):
    run(executed)
    assert run(executed, start=start) == ALL[1:]
    assert run(executed) == []


def test_from_needs_the_earlier_ones_finished(executed):
    with pytest.raises(StudyError, match=r"needs 01_data finished .* it is not finished"):
        run(executed, start="02")
    run(executed)
    with pytest.raises(StudyError, match="n_train changed: 10 → 11"):
        run(executed, start="02", parameters={"n_train": 11})
    with pytest.raises(StudyError, match=r"--from 9 names no notebook\. Give one of 01_data"):
        run(executed, start="9")
    assert executed.names == []


def test_from_with_force_discards_only_from_there(executed):
    run(executed)
    stages = [Run("tiny").stage(name, {}) for name in ALL]
    for stage in stages:
        stage.finish([])
    run(executed)
    run(executed, start="03", force=True)
    assert [bool(stage.reason) for stage in stages] == [False, False, True]


def test_what_takes_seconds_is_announced(executed, capsys):
    run(executed)
    assert capsys.readouterr().err.splitlines() == [
        "Checking the study …",
        "Timing a few batches of its training …",
    ]


def test_dry_run_prints_all_and_runs_nothing(project, executed, capsys):
    assert run(executed, dry_run=True) == []
    out = capsys.readouterr().out
    assert "[1/3] 01_data   would run (never run)" in out
    assert "        n_models = 8" in out
    assert "16 models, about 1 min 30 s, 2.0 MB of disk" in out
    assert "one model timed" in out
    assert "study = " not in out  # the first line says it
    assert not (project / "runs").exists()
    run(executed)
    run(executed, dry_run=True)
    assert "02_train  would skip (finished before)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_model": 3}, "Did you mean 'n_models'"),
        ({"n_models": "many"}, "n_models: Input should be a valid integer"),
        ({"study": "a/b"}, "cannot name a folder"),
    ],
)
def test_bad_parameters_are_refused_before_anything_runs(project, executed, parameters, message):
    with pytest.raises(StudyError, match=message):
        run(executed, parameters=parameters)
    assert executed.names == []
    assert not (project / "runs").exists()


def test_a_field_of_the_study_that_no_notebook_declares_is_known(executed):
    assert run(executed, parameters={"unused": 3}) == ALL


def test_the_estimate_is_said_first_and_left_out_where_little_is_to_do(executed, capsys):
    run(executed)
    assert capsys.readouterr().out.startswith("The whole study: 16 models, about 1 min 30 s")
    run(executed, parameters={"algorithm": {"lr": 0.2}}, estimate=lambda _: 1 / 0)
    assert executed.names == ["03_fit"]


def test_too_small_a_disk_is_said_before_anything_runs(executed, monkeypatch):
    monkeypatch.setattr(runner, "free_bytes", lambda _: 1e6)
    with pytest.raises(StudyError, match=r"needs about 2\.0 MB more, and 1\.0 MB are free"):
        run(executed)
    assert executed.names == []


FULL = [
    OSError(errno.ENOSPC, "No space left on device", "x.npy"),
    NotebookFailed("03_fit failed in cell [3]\nSafetensorError: IoError: StorageFull"),
    NotebookFailed("01_data failed in cell [5]\nOSError: 46080 requested and 16256 written"),
]


@pytest.mark.parametrize("error", FULL)
def test_a_full_disk_is_told_with_what_stays(executed, monkeypatch, error):
    def full(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(execution, "execute", full)
        with pytest.raises(RuntimeError, match="Make space, and the same command goes on"):
            runner.run_study("tiny", study_class=TinyStudy, estimate=lambda _: SMALL)
    assert run(executed) == ALL


def test_two_runs_at_once_in_one_folder_are_refused(executed):
    with (
        locked(Run("tiny").path / ".run.lock"),
        pytest.raises(StudyError, match="Another `mdhelpers run` works in runs/tiny"),
    ):
        run(executed)
    assert executed.names == []


STAGE = """
from mdhelpers.runs.run import Run
run = Run(study, profile=profile, runs_dir=runs_dir)
stage = run.stage("01_data", {"n_train": n_train})
with stage.working() as needed:
    if needed:
        (run.path / "data.txt").write_text("x" * n_train)
        stage.finish(["data.txt"], figures={"n": n_train})
"""


@pytest.mark.notebooks
@pytest.mark.slow
def test_papermill_executes_and_stages_read_what_is_finished(project, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(execution.__file__.rsplit("/", 3)[0]))
    notebook = project / "notebooks" / "01_data.ipynb"
    for name in ALL[1:]:
        (project / "notebooks" / f"{name}.ipynb").unlink()
    write_notebook(notebook, f"{COMMON}n_train: int = 1\n", STAGE)
    options = {"study_class": TinyStudy, "estimate": lambda _: SMALL}
    (project / "parameters" / "tiny.yaml").write_text("n_train: 3\n")
    runner.run_study("tiny", **options)
    assert (project / "runs" / "tiny" / "data.txt").read_text() == "xxx"
    assert Run("tiny").results["01_data"]["n"] == 3
    runner.run_study("tiny", start="1", **options)
    executed = nbformat.read(project / "runs" / "tiny" / "notebooks" / "01_data.ipynb", 4)
    assert "reading its results" in executed.cells[-1].outputs[0].text


def test_a_run_that_was_moved_or_spread_wider_is_finished_there(project, executed, capsys):
    run(executed)
    shutil.copytree(project / "runs" / "tiny", project / "other disk" / "tiny")
    assert run(executed, parameters={"runs_dir": "other disk"}) == []
    assert "The book: mdhelpers book tiny --runs-dir 'other disk'" in capsys.readouterr().out
    assert run(executed, parameters={"runs_dir": "other disk"}, start="03") == ["03_fit"]


def test_what_changes_no_result_does_not_count():
    given = {"n_models": 8, "workers": 4, "scheduler": "slurm", "cluster": {"queue": "a"}}
    alone = {"n_models": 8, "workers": 0, "scheduler": "local", "cluster": {}}
    assert runner.counted(given) == runner.counted(alone) == alone
    assert runner.counted(given | {"n_models": 9}) != alone
