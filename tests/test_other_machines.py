"""Machines that are not ours: shells, locales, disks and homes that differ, and signals."""

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from small_project import COMMON, make_project, write_notebook

import mdhelpers
from mdhelpers.base.threads import SIGNALS, Stopped, exit_code, stoppable
from mdhelpers.command import cli, execution
from mdhelpers.command.execution import execute
from mdhelpers.method.engines import compiled
from mdhelpers.runs.notebooks import _say_once, find_notebooks
from mdhelpers.training.workers import processes

PACKAGE = Path(mdhelpers.__file__).resolve().parent
ODD_NAME = "a b {c} 100% 'd' é∖$x"


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / ODD_NAME
    folder.mkdir()
    monkeypatch.chdir(make_project(folder))
    return folder


def python(*words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words],
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent)} | environment,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=300,
    )


# What a shell or a profile holds


@pytest.mark.notebooks
def test_a_kernel_takes_nothing_from_shell_or_profile(project, tmp_path, monkeypatch):
    profile = tmp_path / "ipython" / "profile_default"
    (profile / "startup").mkdir(parents=True)
    (profile / "startup" / "a.py").write_text("planted = 1")
    (profile / "ipython_config.py").write_text("c.InteractiveShellApp.exec_lines = ['by_line = 1']")
    (tmp_path / "startup.py").write_text("planted_too = 1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    values = {"MPLBACKEND": "agg", "PYTHONHASHSEED": "7", "PYTHONOPTIMIZE": "2"}
    (tmp_path / "matplotlibrc").write_text("savefig.transparent: True\nlines.linewidth: 77")
    values |= {"MATPLOTLIBRC": str(tmp_path)}
    values |= {"PYTHONSTARTUP": str(tmp_path / "startup.py"), "PYTHONWARNINGS": "error"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    source, output = project / "notebooks" / "05_x.ipynb", project / "runs" / "05_x.ipynb"
    look = "print([n for n in ('planted', 'planted_too', 'by_line') if n in globals()], hash('a'))"
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    draw += "\nassert plt.rcParams['lines.linewidth'] == 1.5"
    write_notebook(source, COMMON, look, draw, "import sys\nprint(sys.flags.optimize, __debug__)")
    execute(source, output, {}, label="")
    outputs = [cell.outputs for cell in nbformat.read(output, 4).cells if cell.get("outputs")]
    hashed = python("-c", "print(hash('a'))", PYTHONHASHSEED="0").stdout
    assert outputs[0][0].text == f"[] {hashed}"
    assert "image/png" in outputs[1][-1].data
    assert outputs[2][0].text == "0 True\n"
    assert os.environ["MPLBACKEND"] == "agg"


@pytest.mark.notebooks
def test_what_a_kernel_leaves_among_temporary_files_is_gone_with_it(project, tmp_path, monkeypatch):
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    source, output = project / "notebooks" / "05_x.ipynb", project / "runs" / "05_x.ipynb"
    write_notebook(source, COMMON, "import tempfile\nprint(tempfile.mkdtemp())")
    execute(source, output, {}, label="")
    assert str(place) in output.read_text("utf-8")
    assert list(place.iterdir()) == []


# Locales


LATIN = {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}


def test_the_command_line_prints_whatever_the_terminal_can_say():
    code = "from mdhelpers.command.cli import app, _print_whatever_the_locale\nimport sys\n"
    code += "_print_whatever_the_locale()\nprint('a → b…')\nprint('ü …', file=sys.stderr)"
    done = python("-c", code, **LATIN)
    assert (done.returncode, done.stdout) == (0, "a ? b?\n")
    assert done.stderr.endswith("?\n")
    done = python("-m", "mdhelpers.command.cli", "studies", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr


def test_every_text_file_is_read_and_written_as_utf_8():
    assert [fault for path in PACKAGE.glob("*.py") for fault in locale_faults(path)] == []


def locale_faults(path: Path) -> list[str]:
    """Calls that leave the encoding of a file, or of a process's words, to the locale."""
    calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
    return [f"{path.name}:{call.lineno} {ast.unparse(call)}" for call in calls if is_local(call)]


def is_local(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    said = {word.arg for word in call.keywords}
    texts = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
    if name in ("read_text", "write_text"):
        return "encoding" not in said and "utf-8" not in texts
    if name == "open":
        modes = [t for t in texts if isinstance(t, str) and set(t) <= set("rwaxbt+")]
        of_path = isinstance(call.func, ast.Name) or not call.args or modes
        of_class = (
            isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value)[0].isupper()
        )
        binary = any("b" in mode or mode == "a" for mode in modes)  # "a": locks, which hold nothing
        return bool(of_path) and not of_class and not binary and "encoding" not in said
    return name in ("run", "Popen", "check_output") and "text" in said and "encoding" not in said


@pytest.mark.parametrize(
    ("code", "faults"),
    [
        ("p.read_text()", 1),
        ("p.read_text('utf-8')", 0),
        ("p.open()", 1),
        ("p.open('w')", 1),
        ("p.open('rb')", 0),
        ("Image.open(p)", 0),
        ("open(p, encoding='utf-8')", 0),
        ("subprocess.run(c, text=True)", 1),
    ],
)
def test_the_check_of_encodings_sees(code, faults, tmp_path):
    (tmp_path / "a.py").write_text(code)
    assert len(locale_faults(tmp_path / "a.py")) == faults


# Copies of notebooks


COPIES = ("02_train-Copy1", "02_train-Copy1-Copy2", "02_train_1", "02_train (1)", "02_train copy")
COPIES += ("02_train-checkpoint", "02_train (conflicted copy 2026-01-01)", "02_train (Kopie)")


@pytest.mark.parametrize("name", COPIES[:-1])
def test_a_notebook_s_copy_is_no_step_and_is_said_once(project, name, capsys):
    notebooks = project / "notebooks"
    (notebooks / f"{name}.ipynb").write_bytes((notebooks / "02_train.ipynb").read_bytes())
    _say_once.cache_clear()
    for _ in range(2):
        assert [n.name for n in find_notebooks()] == ["01_data", "02_train", "03_fit"]
    assert capsys.readouterr().err.count(f"{name}.ipynb in notebooks: a copy, and no step") == 1
    assert len(find_notebooks(notebooks)) == 3


def test_a_name_that_only_looks_like_a_copy_s_is_a_step(project, capsys):
    write_notebook(project / "notebooks" / "04_more_2.ipynb", COMMON)
    assert [n.name for n in find_notebooks()][-1] == "04_more_2"
    assert capsys.readouterr().err == ""


# Temporary files


@pytest.fixture
def untouched_processes(monkeypatch):
    config = processes.multiprocessing.process.current_process()._config
    monkeypatch.setitem(config, "tempdir", None)
    return config


def test_sockets_lie_where_their_names_are_not_cut(tmp_path, monkeypatch, untouched_processes):
    long = tmp_path / ("job." * 22)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    processes.keep_sockets_short()
    assert len(f"{untouched_processes['tempdir']}/listener-12345678") <= 103
    assert tempfile.tempdir == str(long)


def test_a_short_folder_is_left_alone(monkeypatch, untouched_processes):
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")
    processes.keep_sockets_short()
    assert untouched_processes["tempdir"] is None


def test_where_no_folder_is_short_tmpdir_is_named(tmp_path, monkeypatch, untouched_processes):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("job." * 22)))
    monkeypatch.setattr(processes, "is_usable", lambda folder: False)  # noqa: ARG005
    with pytest.raises(RuntimeError, match=r"TMPDIR is .* Set TMPDIR to a shorter folder"):
        processes.keep_sockets_short()
    assert untouched_processes["tempdir"] is None


def return_task(plan, algorithm, task) -> dict:  # noqa: ARG001
    return {"algorithm": algorithm, "task": task}


LONG = """
import test_other_machines as t
if __name__ == "__main__":
    pool = t.processes.ProcessPool(t.SimpleNamespace(device="cpu"), t.return_task, 1)
    print(list(pool.results([(1, 5)])))
    pool.close()
"""


@pytest.mark.slow
def test_workers_start_under_a_long_tmpdir(tmp_path):
    long = tmp_path / ("job." * 22)
    long.mkdir()
    (tmp_path / "go.py").write_text(LONG)
    here = os.pathsep.join((str(PACKAGE.parent), str(Path(__file__).parent)))
    done = python(str(tmp_path / "go.py"), TMPDIR=str(long), PYTHONPATH=here)
    assert done.stdout == "[{'algorithm': 1, 'task': 5}]\n", done.stderr
    assert SimpleNamespace  # used by the script


# No place to write


def refuse(*places: str):
    """numba's compiler that can cache in none of these places."""

    def njit(*, cache: bool = False, **_):
        def decorate(function):
            if cache and compiled.numba.config.CACHE_DIR in places:
                raise RuntimeError("cannot cache function")
            return function, cache, compiled.numba.config.CACHE_DIR

        return decorate

    return njit


@pytest.fixture
def cache_dir(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    return str(tmp_path / f"mdhelpers-numba-{os.getuid()}")


def test_a_cache_of_compiled_code_is_a_convenience(monkeypatch, cache_dir):
    monkeypatch.setattr(compiled.numba, "njit", refuse())
    assert compiled.compiled()(abs) == (abs, True, "")
    monkeypatch.setattr(compiled.numba, "njit", refuse(""))
    assert compiled.compiled()(abs) == (abs, True, cache_dir)
    assert os.stat(cache_dir).st_mode & 0o77 == 0
    monkeypatch.setattr(compiled.numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(compiled.numba, "njit", refuse("", cache_dir))
    assert compiled.compiled()(abs)[:2] == (abs, False)


@pytest.mark.parametrize("what", ["open", "link"])
def test_a_cache_that_others_could_fill_is_not_read(monkeypatch, cache_dir, tmp_path, what):
    if what == "open":
        os.mkdir(cache_dir)
        os.chmod(cache_dir, 0o777)
    else:
        os.symlink(tmp_path, cache_dir)
    monkeypatch.setattr(compiled.numba, "njit", refuse(""))
    assert compiled.compiled()(abs)[1] is False


@pytest.mark.notebooks
def test_a_notebook_runs_without_a_home(project):
    source = project / "notebooks" / "05_x.ipynb"
    write_notebook(source, COMMON, "import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()")
    code = "from pathlib import Path\nfrom mdhelpers.command.execution import execute\n"
    code += f"execute(Path({str(source)!r}), Path({str(project / 'o.ipynb')!r}), {{}}, label='')"
    done = python("-c", code, HOME="/proc/nope", XDG_CACHE_HOME="/proc/nope")
    assert done.returncode == 0, done.stderr
    cells = json.loads((project / "o.ipynb").read_text("utf-8"))["cells"]
    assert any("image/png" in o.get("data", {}) for c in cells for o in c.get("outputs", ()))


def test_a_user_without_a_name_has_one_for_torch(monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(cli.getpass, "getuser", unknown)
    monkeypatch.setenv("LOGNAME", "")
    cli._have_a_user_name()
    assert os.environ["LOGNAME"] == "nobody"
    monkeypatch.undo()


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with execution._temporary_folder() as mine:
        dead = tmp_path / Path(mine).name.replace(f"-{os.getpid()}-", "-4194300-")
        dead.mkdir()
        with execution._temporary_folder():
            assert Path(mine).is_dir()
            assert not dead.exists()
    assert list(tmp_path.iterdir()) == []


# Signals


def signalled(number: int) -> None:
    with stoppable():
        os.kill(os.getpid(), number)
        time.sleep(5)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_one_word_and_the_code_that_shells_expect(number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stop:
        signalled(number)
    assert exit_code(stop.value) == 128 + number
    assert signal.getsignal(number) == before
    assert exit_code(KeyboardInterrupt()) == 130


def test_what_was_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


CLEANING = """
import os, time
from pathlib import Path
Path('pid').write_text(str(os.getpid()))
try:
    time.sleep(100)
finally:
    Path('closed').touch()
"""
STOPPED = """
from mdhelpers.command.cli import _readable_errors
from mdhelpers.command.execution import execute
from pathlib import Path
import typer
try:
    with _readable_errors(traceback=False):
        execute(Path("notebooks/05_x.ipynb"), Path("out.ipynb"), {}, label="")
except typer.Exit as end:
    raise SystemExit(end.exit_code)
"""


def start(project: Path, *code: str) -> subprocess.Popen:
    write_notebook(project / "notebooks" / "05_x.ipynb", COMMON, *code)
    return subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(PACKAGE.parent), "TMPDIR": str(project)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(condition, seconds: float = 120):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return found


SAID = "stopped. What is finished stays; the same command goes on from there.\n"


@pytest.mark.notebooks
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_one_line_and_leaves_nothing(project, number, code):
    process = start(project, CLEANING)
    kernel = int(wait_for(lambda: (project / "pid").exists() and (project / "pid").read_text()))
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == (SAID, code)
    assert (project / "closed").exists()
    wait_for(lambda: not is_alive(kernel), 10)
    assert not [path for path in project.iterdir() if path.name.startswith((".mdhelpers", "tmp"))]


@pytest.mark.notebooks
@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0])
def test_a_run_may_be_stopped_before_its_kernel_answers(project, seconds):
    process = start(project, *["import time\ntime.sleep(1)"] * 60)
    time.sleep(1.5 + seconds)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode in (143, -signal.SIGTERM)
    assert said in (SAID, "")


@pytest.mark.notebooks
@pytest.mark.slow
def test_a_kernel_that_does_not_heed_is_killed(project):
    deaf = (
        "import os, signal\nfrom pathlib import Path\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"
    )
    deaf += "\nPath('pid').write_text(str(os.getpid()))\nimport time\ntime.sleep(100)"
    process = start(project, deaf)
    kernel = int(wait_for(lambda: (project / "pid").exists() and (project / "pid").read_text()))
    process.send_signal(signal.SIGTERM)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)  # a second one waits for nothing
    said, _ = process.communicate(timeout=60)
    assert (said, process.returncode) == (SAID, 143)
    assert not is_alive(kernel)
    assert execution.PATIENCE_S <= 20


def is_alive(process: int) -> bool:
    try:
        stat = Path(f"/proc/{process}/stat").read_text("utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
