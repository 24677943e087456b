"""The notebooks that carry out a study, and what each executed copy in a run was made from."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat

from mdhelpers.base.places import project_root, shown
from mdhelpers.base.records import digest, read_or_empty
from mdhelpers.runs.run import Run, StudyError


@dataclass(frozen=True)
class Notebook:
    """A notebook's source, as far as a run depends on it."""

    path: Path
    declares: tuple[str, ...]
    source: str  # sha256 of its cells, outputs left out
    needs: str = ""  # a parameter without which it has nothing to do, by its metadata

    @property
    def name(self) -> str:
        """The stage's name, such as "03_datamodel_fitting"."""
        return self.path.stem

    def concerns(self, values: Mapping[str, Any]) -> bool:
        """Whether it is part of a study with these parameters."""
        return not self.needs or bool(values.get(self.needs))


def find_notebooks(folder: str | Path | None = None) -> list[Notebook]:
    """Return the notebooks `NN_*.ipynb` of a folder, in order; copies of them are left aside.

    Raises
    ------
    StudyError
        If there is none, or one cannot be read.
    """
    folder = Path(folder) if folder is not None else project_root() / "notebooks"
    paths, copies = _steps_and_copies(folder)
    if copies:
        names = ", ".join(path.name for path in copies)
        _say_once(f"{names} in {shown(folder)}: a copy, and no step of a study. Left aside.")
    found = [read_notebook(path) for path in paths]
    if not found:
        raise StudyError(
            f"{folder} holds no notebook named like 01_data_prep.ipynb. "
            "Stand in a checkout of the project and try again."
        )
    return found


def _steps_and_copies(folder: Path) -> tuple[list[Path], list[Path]]:
    """Notebooks by name; and what JupyterLab and file managers call a notebook's copy.

    A name like `02_train-Copy1`, `02_train (1)` or `02_train_1` is a copy's only where the notebook
    without that ending lies beside it.
    """
    steps, copies = [], []
    for path in sorted(folder.glob("[0-9][0-9]_*.ipynb")):
        original = COPY.sub("", path.stem)
        is_copy = original != path.stem and path.with_stem(original).exists()
        (copies if is_copy else steps).append(path)
    return steps, copies


def read_notebook(path: Path) -> Notebook:
    """Return what a notebook declares and a digest of its cells."""
    try:
        found = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds
        raise StudyError(f"{shown(path)} cannot be read as a notebook: {error}") from None
    cells, needs = found.cells, found.metadata.get("mdhelpers", {}).get("needs", "")
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", ())]
    declares = declared(tagged[0].source, shown(path)) if tagged else ()
    source = digest([[c.cell_type, c.source, c.metadata.get("tags", [])] for c in cells])
    return Notebook(path.resolve(), declares, source, needs)


COPY = re.compile(
    r"(-Copy\d*|[-_ ]?\(\d+\)|[-_ ]\d+|[-_ ]copy([-_ ]?\d+)?|[ ]?\(.*(copy|Copy).*\)"
    r"|-checkpoint)+$"
)


@lru_cache(maxsize=100)
def _say_once(text: str) -> None:
    print(text, file=sys.stderr)


def declared(source: str, where: str) -> tuple[str, ...]:
    """Return the names that a parameters cell assigns.

    Read from the syntax tree: `papermill.inspect_notebook` overlooks `n: int | None = None`, and
    lines with a second `=`, although papermill passes such parameters well.
    """
    try:
        body = ast.parse(source).body
    except SyntaxError as error:
        raise StudyError(
            f"{where}: line {error.lineno} of the parameters cell is not Python. "
            "Give literals only, one `name: type = value` a line."
        ) from None
    targets = [t for s in body for t in getattr(s, "targets", [getattr(s, "target", None)])]
    return tuple(target.id for target in targets if isinstance(target, ast.Name))


ENTRY = {"key", "source", "parameters", "version", "after", "stage_key"}


def keys_file(run: Run) -> Path:
    """Where is kept what the executed notebooks were made from."""
    return run.folder / "notebooks" / "keys.json"


def read_entries(run: Run) -> dict[str, dict[str, Any]]:
    """What each executed notebook was made from; those whose record is damaged are left out."""
    entries = read_or_empty(keys_file(run)).items()
    return {name: entry for name, entry in entries if _is_whole(entry)}


def _is_whole(entry: Any) -> bool:
    if not isinstance(entry, dict) or not set(entry) >= ENTRY:
        return False
    said = {key: value for key, value in entry.items() if key != "sha256"}
    return entry.get("sha256") in (None, digest(said))  # runs of older versions have none
