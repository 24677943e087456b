"""One notebook through papermill, with this interpreter, its progress shown, its failure named."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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

from mdhelpers.paths import project_root, shown

ENGINE = "mdhelpers"
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
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


class _LastLine:
    """A file for what cells print; shows its last line beside the progress bar."""

    def __init__(self, bar: Any) -> None:
        self.bar = bar

    def write(self, text: str) -> None:
        """Show the last line of `text` that says something."""
        lines = [line.strip() for line in text.replace("\r", "\n").splitlines() if line.strip()]
        if lines and self.bar is not None:
            self.bar.set_postfix_str(strip_color(lines[-1])[:60])

    def flush(self) -> None:
        """Nothing is kept back."""


class _Engine(NBClientEngine):
    """papermill's engine, with this interpreter's kernel and a voice for what cells print."""

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        voice = _LastLine(nb_man.pbar)
        options |= {"stdout_file": voice, "stderr_file": voice, "kernel_manager_class": ThisPython}
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
    """
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # no talk of frozen modules
    output.parent.mkdir(parents=True, exist_ok=True)
    looks = {"desc": label, "leave": False, "dynamic_ncols": True, "bar_format": BAR}
    try:
        with _terminable():
            execute_notebook(
                _literal(source),
                _literal(output),
                dict(parameters),
                engine_name=ENGINE,
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


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does, so that the kernel is shut down in both cases."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:  # noqa: ARG001
    raise KeyboardInterrupt
