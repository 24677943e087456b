"""Where things are: one answer for notebooks, papermill and the command line.

Jupyter starts a notebook in `notebooks/`, papermill starts it where the caller stands. Relative
paths in parameters therefore count from the project's folder, wherever the process was started.
"""

import tomllib
from pathlib import Path


def _is_checkout(folder: Path) -> bool:
    """Whether `folder` holds this project: its `pyproject.toml` and its `notebooks/`."""
    file = folder / "pyproject.toml"
    if not (file.is_file() and (folder / "notebooks").is_dir()):
        return False
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return False
    wanted = [project.get("name", ""), *project.get("dependencies", [])]
    return any(str(text).startswith("mdhelpers") for text in wanted)


def checkout() -> Path | None:
    """Return the checkout around the working directory, else the one the package lies in."""
    here = Path.cwd()
    places = [here, *here.parents, Path(__file__).resolve().parent.parent]
    return next((folder for folder in places if _is_checkout(folder)), None)


def project_root() -> Path:
    """Return the folder that relative paths count from.

    The nearest ancestor of the working directory that holds `notebooks/` and a `pyproject.toml`
    that is, or depends on, `mdhelpers`; else the checkout that the package lies in; else the
    working directory.
    """
    return checkout() or Path.cwd()


def resolve(path: str | Path) -> Path:
    """Return `path` as absolute: `~` is the home folder, relative counts from `project_root()`."""
    path = Path(path).expanduser()
    return path if path.is_absolute() else project_root() / path


def shown(path: str | Path) -> str:
    """Return `path` as a person wants to read it: relative to the project where it lies in it."""
    path = Path(path)
    root = project_root()
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
