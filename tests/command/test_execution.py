import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from small_project import COMMON, make_project, write_notebook

from mdhelpers.command import execution
from mdhelpers.command.execution import NotebookFailed, ThisPython, execute

PACKAGE = Path(execution.__file__).resolve().parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "with {braces}"
    folder.mkdir()
    monkeypatch.chdir(make_project(folder))
    return folder


def test_the_kernel_is_this_interpreter_whatever_jupyter_finds(tmp_path, monkeypatch):
    other = tmp_path / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python", "-m", "x"], "display_name": "x", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    assert ThisPython(kernel_name="python3").kernel_spec.argv[0] == sys.executable


@pytest.mark.notebooks
def test_a_notebook_runs_with_its_parameters_in_the_project_folder(project, monkeypatch):
    kernels = project / "jupyter" / "kernels" / "python3"
    kernels.mkdir(parents=True)
    spec = {"argv": ["/nowhere/python"], "display_name": "x", "language": "python"}
    (kernels / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(project / "jupyter"))
    source, output = project / "notebooks" / "05_x.ipynb", project / "runs" / "a" / "05_x.ipynb"
    write_notebook(source, COMMON, "import os, sys\nprint(study, os.getcwd(), sys.executable)")
    execute(source, output, {"study": "mine"}, label="[1/1] 05_x")
    cells = nbformat.read(output, 4).cells
    assert cells[-1].outputs[0].text == f"mine {project} {sys.executable}\n"
    assert [cell.metadata.get("tags") for cell in cells[1:3]] == [
        ["parameters"],
        ["injected-parameters"],
    ]


@pytest.mark.notebooks
def test_a_failure_names_notebook_cell_and_error(project):
    source, output = project / "notebooks" / "05_x.ipynb", project / "runs" / "05_x.ipynb"
    write_notebook(source, COMMON, "kept = 1\nprint(kept)", "\nraise ValueError('alpha is 2')")
    with pytest.raises(NotebookFailed) as error:
        execute(source, output, {"study": "mine"}, label="")
    assert str(error.value) == (
        "05_x failed in cell [4], which begins `raise ValueError('alpha is 2')`\n"
        "ValueError: alpha is 2\n"
        "The notebook as far as it came: runs/05_x.ipynb"
    )
    outputs = [cell.outputs for cell in nbformat.read(output, 4).cells if cell.get("outputs")]
    assert outputs[0][0].text == "1\n"


@pytest.mark.notebooks
def test_a_killed_kernel_is_reported(project):
    source, output = project / "notebooks" / "05_x.ipynb", project / "runs" / "05_x.ipynb"
    write_notebook(source, COMMON, "import os\nos.kill(os.getpid(), 9)")
    with pytest.raises(NotebookFailed, match="its Python process was killed, or crashed"):
        execute(source, output, {"study": "mine"}, label="")


STOPPED = """
import sys
from pathlib import Path
from mdhelpers.command.execution import execute
execute(Path("notebooks/05_x.ipynb").resolve(), Path("out.ipynb").resolve(), {}, label="")
"""


@pytest.mark.notebooks
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_kernel_too(project, number):
    source = project / "notebooks" / "05_x.ipynb"
    slow = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)"
    write_notebook(source, COMMON, slow)
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
        stderr=subprocess.PIPE,
        text=True,
    )
    kernel = _wait_for(lambda: (project / "pid").exists() and (project / "pid").read_text())
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    name = signal.Signals(number).name
    assert number == signal.SIGKILL or said.splitlines()[-1].endswith(f"Stopped: stopped by {name}")
    _wait_for(lambda: not Path(f"/proc/{kernel}").exists() or _is_zombie(kernel))


def _is_zombie(process):
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def _wait_for(condition, seconds=120):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError


def test_the_last_line_that_cells_print_stands_beside_the_bar():
    shown = []

    class Bar:
        set_postfix_str = shown.append

    voice = execution._LastLine(Bar())
    voice.write("\n")
    voice.write("trained 8\r\x1b[31mtrained 16 of 64\x1b[0m models\n\n")
    assert shown == ["trained 16 of 64 models"]


def test_where_no_bar_moves_a_line_now_and_then_says_how_far_it_is(monkeypatch, capsys):
    voice = execution._LastLine(None, "[2/10] 02_train")
    voice.write("trained 8 of 64\n")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(execution, "EVERY_S", 0)
    voice.write("trained 8\rtrained 16 of 64\n")
    voice.write("\n")
    assert capsys.readouterr().out == "[2/10] 02_train: trained 16 of 64\n"


@pytest.mark.parametrize(("terminal", "ci", "moves"), [(1, "", 1), (1, "true", 0), (0, "", 0)])
def test_bars_move_for_people_only(monkeypatch, terminal, ci, moves):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: bool(terminal), raising=False)
    monkeypatch.setenv("CI", ci)
    assert execution.in_terminal() == bool(moves)


def test_a_person_who_asks_to_stop_is_answered_at_once_and_once(capfd, monkeypatch):
    execution._Stop().request(signal.SIGINT)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(execution, "in_terminal", lambda: True)
    stop = execution._Stop()
    stop.request(signal.SIGINT)
    stop.request(signal.SIGINT)
    assert capfd.readouterr().err.count("stopping") == 1
    assert stop.number == signal.SIGINT
