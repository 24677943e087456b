import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from small_project import make_project
from typer.testing import CliRunner

from mdhelpers.command import cli, execution, runner
from mdhelpers.runs.run import Run, StudyError


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(make_project(tmp_path))
    return tmp_path


@pytest.fixture
def call(project):  # noqa: ARG001
    def invoke(*words):
        return CliRunner().invoke(cli.app, list(words))

    return invoke


@pytest.fixture
def given(monkeypatch):
    """What `run` hands to the runner; `raises` is raised there."""
    seen = SimpleNamespace(raises=None)

    def run_study(file, **options):
        seen.file, seen.options = file, options
        if seen.raises:
            raise seen.raises

    monkeypatch.setattr(runner, "run_study", run_study)
    return seen


def test_options_are_papermills(call, given):
    words = "run tiny -f smoke -f lr.yaml -p n_models 8 -p lr=0.5 --from 04 --force --dry-run"
    assert call(*words.split(), "--runs-dir", "out").exit_code == 0
    assert given.file == "tiny"
    assert given.options == {
        "overlays": ["smoke", "lr.yaml"],
        "parameters": {"n_models": 8, "lr": 0.5, "runs_dir": "out"},
        "force": True,
        "start": "04",
        "dry_run": True,
    }


def test_a_value_may_begin_with_a_dash(call, given):
    assert call("run", "tiny", "-p", "epsilon", "-1.5").exit_code == 0
    assert given.options["parameters"] == {"epsilon": -1.5}


@pytest.mark.parametrize(
    "words", [["-p"], ["-p", "n_models"], ["-p", "=3"], ["-p", "n_models", "--dry-run"]]
)
def test_a_parameter_without_a_value_is_refused(call, given, words):
    result = call("run", "tiny", *words)
    assert result.exit_code == 2
    assert "-p takes a name and a value" in result.stderr
    assert not hasattr(given, "file")


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (StudyError("alpha is 2"), 2, "error: alpha is 2\n"),
        (FileNotFoundError("no folder x"), 2, "error: no folder x\n"),
        (execution.NotebookFailed("03_fit failed in cell [4]"), 1, "error: 03_fit failed"),
        (KeyboardInterrupt(), 130, "stopped. What is finished stays"),
    ],
)
def test_errors_are_one_paragraph_and_an_exit_code(call, given, error, code, said):
    given.raises = error
    result = call("run", "tiny")
    assert result.exit_code == code
    assert result.stderr.startswith(said)
    assert "Traceback" not in result.output


def test_traceback_shows_where(call, given):
    given.raises = StudyError("alpha is 2")
    assert call("run", "tiny", "--traceback").exception is given.raises


def test_faults_of_ours_keep_their_traceback(call, given):
    given.raises = TypeError("a fault")
    assert call("run", "tiny").exception is given.raises


def test_unknown_study_is_answered_with_those_there_are(call):
    result = call("run", "tinny")
    assert result.exit_code == 2
    assert "Did you mean parameters/tiny.yaml?" in result.stderr


def test_studies_lists_files_with_their_first_comment(call, project):
    assert call("studies").stdout == "smoke  A quick look\ntiny   A tiny study\n"
    shutil.rmtree(project / "parameters")
    assert call("studies").exit_code == 2


def test_results_prints_what_a_run_found(call):
    assert "Run: mdhelpers run parameters/tiny.yaml" in call("results", "tiny").stderr
    Run("tiny").stage("03_fit", {}).finish([], figures={"lds_1": 0.5})
    assert json.loads(call("results", "tiny").stdout)["03_fit"]["lds_1"] == 0.5


def test_status_is_of_a_name_or_a_folder(call, project, monkeypatch):
    seen = []
    monkeypatch.setattr("mdhelpers.command.status.status", lambda folder: seen.append(folder))
    monkeypatch.setattr("mdhelpers.command.status.status_text", lambda _: "the table")
    assert call("status", "tiny").stdout == "the table\n"
    call("status", "tiny", "--profile", "smoke")
    call("status", "tiny", "--runs-dir", "out")
    call("status", "runs/tiny")
    folders = ["runs/tiny", "runs/tiny-smoke", "out/tiny", "runs/tiny"]
    assert seen == [project / folder for folder in folders]


def test_status_of_a_run_that_has_not_begun(call):
    result = call("status", "tiny")
    assert result.exit_code == 0
    assert result.stdout.startswith("runs/tiny: training has not begun")


def test_status_watches(call, project, monkeypatch):
    seen = []
    monkeypatch.setattr("mdhelpers.command.status.watch", lambda *given: seen.append(given))
    assert call("status", "tiny", "--watch", "5").exit_code == 0
    assert seen == [(project / "runs/tiny", 5.0)]
    assert call("status", "tiny", "--watch", "0").exit_code == 2


def test_status_checks_and_mends(call, project, monkeypatch):
    bad, mended = [], []
    monkeypatch.setattr("mdhelpers.command.status.check_run", lambda _: [("store", bad)])
    monkeypatch.setattr("mdhelpers.command.status.check_text", lambda _: "checked")
    monkeypatch.setattr("mdhelpers.command.status.mend", lambda *given: mended.append(given) or 8)
    assert call("status", "tiny", "--check").exit_code == 0
    bad.append(("margins", 3))
    result = call("status", "tiny", "--check")
    assert (result.exit_code, result.stdout) == (1, "checked\n")
    assert "--mend" in result.stderr
    assert mended == []
    result = call("status", "tiny", "--check", "--mend")
    assert result.exit_code == 0
    assert "8 models are forgotten" in result.stdout
    assert mended == [(project / "runs/tiny", [("store", bad)])]


def test_book_is_built_from_the_named_run(call, project, monkeypatch):
    seen = {}

    def build(study, **options):
        seen.update(options, study=study)
        return "index.html"

    monkeypatch.setattr("mdhelpers.book.build.build", build)
    result = call("book", "tiny", "--profile", "smoke")
    assert "Open index.html" in result.stdout
    commands = {row["command"] for row in seen.pop("commands")}
    assert "mdhelpers run STUDY" in commands
    assert seen == {
        "study": "tiny",
        "profile": "smoke",
        "runs_dir": project / "runs",
        "out": project / "book/_build/html",
        "links": None,
    }
    monkeypatch.setattr("mdhelpers.base.places._git", lambda *_: "https://github.com/a/b")
    call("book", "tiny", "--launch")
    assert seen["links"]["colab"].startswith("https://colab.research.google.com/github/a/b/")


def test_launch_writes_what_it_names(call, project, monkeypatch):
    told = {}

    def launch_folder(run, out, **options):
        told.update(options, run=run.study, out=out)
        return [project / "parameters"]

    monkeypatch.setattr("mdhelpers.command.launch.launch_folder", launch_folder)
    result = call("launch", "tiny", "--repository", "https://github.com/a/b")
    assert result.exit_code == 0
    assert "parameters  " in result.stdout
    assert told == {
        "run": "tiny",
        "out": project / "launch",
        "repository": "https://github.com/a/b",
    }


def test_doctor_prints_words_or_json(call, monkeypatch):
    monkeypatch.setattr("mdhelpers.command.doctor.examine", lambda: {"cores": 2})
    monkeypatch.setattr("mdhelpers.command.doctor.report", lambda found: f"{found['cores']} cores")
    assert call("doctor").stdout == "2 cores\n"
    assert json.loads(call("doctor", "--json").stdout) == {"cores": 2}


def test_help_needs_no_heavy_import():
    code = (
        "import sys, mdhelpers.command.cli as c\n"
        "try: c.app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'papermill', 'pandas', 'IPython', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "doctor" in done.stdout


def test_all_parameters_are_printed_for_papermill(call, monkeypatch, tmp_path):
    monkeypatch.chdir(Path(__file__).parents[2])
    file = tmp_path / "pets.yaml"
    file.write_text("algorithm_1: {name: a}\nalgorithm_2: {name: b}\nn_models: 48\n")
    result = call("parameters", str(file), "-p", "n_heldout", "16")
    values = yaml.safe_load(result.stdout)
    assert (values["study"], values["profile"], values["runs_dir"]) == ("pets", "full", "runs")
    assert (values["n_models"], values["n_heldout"], values["n_slots"]) == (48, 16, 0)
    assert values["algorithm_2"]["epochs"] == 20
    assert "Did you mean 'n_models'" in call("parameters", str(file), "-p", "n_model", "3").stderr


def test_a_reader_that_has_seen_enough_is_no_error(call, monkeypatch):
    def broken(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("mdhelpers.command.files.known_studies", broken)
    result = call("studies")
    assert (result.exit_code, result.output) == (1, "")
