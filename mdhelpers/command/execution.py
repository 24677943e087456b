"""One notebook through papermill, with this interpreter, its progress shown, its failure named."""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zmq
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill import PapermillExecutionError, execute_notebook
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import strip_color
from traitlets import default

from mdhelpers.base.places import project_root, shown
from mdhelpers.base.records import remove_unfinished, unfinished_name
from mdhelpers.base.threads import Stopped, stoppable

ENGINE = "mdhelpers"
EVERY_S = 30.0  # between lines that tell how far a notebook is, where no bar moves
PATIENCE_S = 10.0  # that a cell has to close what it opened, once it is told to stop
# What a shell or a profile of the user's may hold, and what would change figures or results by it
# unseen: another backend draws into no notebook, PYTHONSTARTUP and IPython's profile run code first
OWN_VALUES = {
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONSTARTUP": "",
    "PYTHONHASHSEED": "0",
    "PYTHONOPTIMIZE": "",
    "PYTHONWARNINGS": "",
    "PYTHONINSPECT": "",
    "PYTHONIOENCODING": "utf-8",
    "PYTHONUTF8": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # no talk of frozen modules
}
BAR = "{desc}: {bar:20} {n_fmt}/{total_fmt} cells, {elapsed}{postfix}"


class NotebookFailed(RuntimeError):
    """A notebook stopped before its end; the message says which, where, why and what to do."""


class ThisPython(AsyncKernelManager):
    """Starts the kernel with the interpreter that runs now.

    Jupyter's search for "python3" may find another environment's kernel: one in the user's folder,
    or in `JUPYTER_PATH`, that knows nothing of this project's packages.
    """

    @default("transport_encryption")
    def _encrypt_where_possible(self) -> str:  # else new kernels warn that they talk in the clear
        return "auto" if zmq.has("curve") else "disabled"

    @property
    def kernel_spec(self) -> KernelSpec:
        """ipykernel's own specification, whose command begins with `sys.executable`."""
        quiet = ["--log-level=CRITICAL"]  # else it tells that it was interrupted between two cells
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict(extra_arguments=quiet))

    async def _async_launch_kernel(self, *args: Any, **options: Any) -> Any:
        launched = await super()._async_launch_kernel(*args, **options)
        if STOPS:
            STOPS[-1].started(self.provisioner.process)
        return launched


class _Stop:
    """A request to stop, passed on to the kernel: an error in it first, its end where that fails.

    Raising here, in the midst of the event loop, would leave the loop's tasks and the kernel
    behind. So the cell is interrupted, the notebook fails by it, and only then `Stopped` is raised.
    """

    def __init__(self) -> None:
        self.number, self.process, self.ready = 0, None, False
        self.timer = threading.Timer(PATIENCE_S, self.kill)
        self.timer.daemon = True

    def request(self, number: int) -> None:
        """Handle a signal; a second one waits for nothing."""
        again, self.number = bool(self.number), self.number or number
        if not again and in_terminal():  # beside the bar, which takes it along when it goes
            with suppress(OSError, ValueError):  # print may not be called from a signal's handler
                os.write(sys.stderr.fileno(), b" stopping; again: at once ")
        logging.getLogger("papermill").disabled = True  # it would tell how the kernel died
        if again or not self.ready:  # a kernel that starts would tell where it was interrupted
            self.kill()
        else:
            self.timer.start()
            self.send(signal.SIGINT)

    def started(self, process: Any) -> None:
        """The kernel's process is there."""
        self.process = process
        if self.number:
            self.kill()

    def kill(self) -> None:
        """End the kernel, whatever it is at; its workers end with it."""
        self.send(signal.SIGKILL)

    def send(self, number: int) -> None:
        """Send the kernel a signal, where there is one."""
        with suppress(OSError, AttributeError):
            self.process.send_signal(number)

    def notebook_starts(self, **_: Any) -> None:
        """The kernel answers (a hook of nbclient)."""
        self.ready = True

    def cell_starts(self, **_: Any) -> None:
        """Between two cells a kernel takes no notice of a signal (a hook of nbclient)."""
        if self.number:
            raise RuntimeError("stopped between two cells")


STOPS: list[_Stop] = []  # of the notebook that is executed now


@contextmanager
def _passing_on_signals() -> Iterator[None]:
    """Let a signal stop the kernel, and then this process by `Stopped`."""
    stop = _Stop()
    STOPS.append(stop)
    log = logging.getLogger("papermill")
    silent = log.disabled
    try:
        with stoppable(stop.request):
            yield
    except Exception:
        if not stop.number:
            raise
    finally:
        stop.timer.cancel()
        STOPS.pop()
        log.disabled = silent
    if stop.number:
        raise Stopped(stop.number)


@contextmanager
def _temporary_folder() -> Iterator[str]:
    place = Path(tempfile.gettempdir())
    remove_unfinished(place)
    folder = unfinished_name(place / "mdhelpers")
    folder.mkdir(mode=0o700)
    (folder / "matplotlibrc").touch()
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Environment variables for kernels, and a folder for what they write for the moment.

    The home may be read-only, or hold profiles that run code in every kernel; and what a killed
    kernel leaves is gone with the folder, which the next run removes where this one is killed.
    """
    with _temporary_folder() as folder:
        theirs = ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR")
        values = OWN_VALUES | dict.fromkeys(theirs, folder)
        values["MATPLOTLIBRC"] = folder  # an empty one: figures look as the book's do
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})


class _LastLine:
    """A file for what cells print; shows its last line beside the progress bar.

    Where no bar moves, a line now and then says that something does.
    """

    def __init__(self, bar: Any, label: str = "") -> None:
        self.bar, self.label, self.said = bar, label, time.monotonic()

    def write(self, text: str) -> None:
        """Show the last line of `text` that says something."""
        lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
        if not lines:
            return
        last = strip_color(lines[-1])
        if self.bar is not None:
            self.bar.set_postfix_str(last[:60])
        elif time.monotonic() - self.said >= EVERY_S:
            self.said = time.monotonic()
            print(f"{self.label}: {last[:100]}".removeprefix(": "), flush=True)

    def flush(self) -> None:
        """Nothing is kept back."""


class _Engine(NBClientEngine):
    """papermill's engine, with this interpreter's kernel and a voice for what cells print."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        voice = _LastLine(nb_man.pbar, options.pop("label", ""))
        voice.write("starting Python")
        options |= {"stdout_file": voice, "stderr_file": voice, "kernel_manager_class": ThisPython}
        if STOPS:
            options |= {"on_notebook_start": STOPS[-1].notebook_starts}
            options |= {"on_cell_start": STOPS[-1].cell_starts}
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


papermill_engines.register(ENGINE, _Engine)


def in_terminal() -> bool:
    """Whether a person watches: then a bar moves, else (CI, a log file) lines are enough."""
    return sys.stderr.isatty() and not os.environ.get("CI")


def execute(source: Path, output: Path, parameters: Mapping[str, Any], *, label: str) -> None:
    """Execute a notebook from the project's folder and write its executed copy.

    Parameters
    ----------
    source, output
        The notebook, and where its executed copy goes; written after every cell.
    parameters
        Exactly the keys that the notebook declares.
    label
        What stands before the progress bar.

    Raises
    ------
    NotebookFailed
        If a cell raises, or the kernel dies.
    mdhelpers.base.threads.Stopped
        If a signal asked to stop; the kernel and its workers are gone then.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    looks = {"desc": label, "leave": False, "dynamic_ncols": True, "bar_format": BAR}
    try:
        with _own_environment(), _passing_on_signals():
            execute_notebook(
                _literal(source),
                _literal(output),
                dict(parameters),
                engine_name=ENGINE,
                label=label,
                kernel_name="python3",
                language="python",
                progress_bar=looks if in_terminal() else False,
                cwd=project_root(),
            )
    except PapermillExecutionError as error:
        raise NotebookFailed(_failure(error, source, output)) from error
    except DeadKernelError as error:
        raise NotebookFailed(
            f"{source.stem}: its Python process was killed, or crashed. Most often the memory was "
            "used up: set fewer workers or smaller models. Running again resumes where it "
            f"stopped. What it did until then: {shown(output)}"
        ) from error


def _literal(path: Path) -> str:
    """Return a path whose braces papermill does not take for placeholders."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _failure(error: PapermillExecutionError, source: Path, output: Path) -> str:
    first = next((line for line in error.source.splitlines() if line.strip()), "")
    said = strip_color(f"{error.ename}: {error.evalue}".rstrip(": ")).strip()
    return (
        f"{source.stem} failed in cell [{error.exec_count}], which begins `{first.strip()}`\n"
        f"{said}\n"
        f"The notebook as far as it came: {shown(output)}"
    )
