"""What a parameters file names: mappings that are validated, and code of the user's own.

Every specification is a `Spec`, whose faults are told by key and value. Whatever has a registry
(kinds of algorithms, architectures, kinds of data) also takes a name like ``module:name``, in every
process and on every host, with nothing to register: the name says where to look.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mdhelpers.base.places import project_root, shown

NO_MAPPING = ("model_type", "model_attributes_type", "dict_type")
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class Spec(BaseModel):
    """A mapping whose unknown keys are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in given:
                if key not in cls.model_fields:
                    raise ValueError(unknown_word(str(key), cls.model_fields, "key"))
        return given


def unknown_word(word: str, known, what: str) -> str:
    """A message that refuses ``word`` and offers the nearest of the known ones."""
    near = difflib.get_close_matches(word, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {word!r}{hint} (known: {', '.join(known)})"


def validate(model: type[BaseModel], given: dict, what: str = "") -> Any:
    """``model(**given)`` with pydantic's report turned into one readable line a fault.

    Raises
    ------
    ValueError
        Names every faulty key and what was expected.

    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            where = ".".join(str(part) for part in (*([what] if what else []), *fault["loc"]))
            message = fault["msg"].removeprefix("Value error, ")
            got = fault["input"]
            if fault["type"] in NO_MAPPING:
                message = "expected a mapping, such as {key: value, other_key: value}"
            if fault["type"] == "literal_error" and isinstance(got, str):
                known = re.findall("'([^']*)'", fault["ctx"]["expected"])
                message = unknown_word(got, known, "word")
            shown = "" if isinstance(got, dict) else f", got {got!r}"
            lines.append(f"{where or 'parameters'}: {message}{shown}")
        raise ValueError("\n".join(lines)) from None


INSTALLED = ("site-packages", "dist-packages")


def find_named(word: str, known: Mapping[str, Any], what: str, fits: Callable[[Any], bool]) -> Any:
    """``known[word]``, or what ``word`` names as ``module:name``.

    Parameters
    ----------
    word
        A key of ``known``, or ``module:name``.
    known
        The registry.
    what
        What it holds, in a word, for messages.
    fits
        Whether something is of that sort.

    Raises
    ------
    ValueError
        For an unknown word, with the nearest known one, and for a module without such a thing.

    """
    if word in known:
        return known[word]
    if not is_own(word):
        raise ValueError(f"{unknown_word(word, known, what)}, or your own as module:name")
    return load_named(word, what, fits)


def is_own(word: str) -> bool:
    """Whether a word of a study names code of the user's own."""
    return ":" in word


def load_named(word: str, what: str, fits: Callable[[Any], bool]) -> Any:
    """What ``module:name`` names, from the project's folder, the working one or a package.

    Raises
    ------
    ValueError
        If there is no such module, or nothing in it of that name that fits.

    """
    module_name, _, name = word.partition(":")
    folders = _look_in_own_folders()
    try:
        _say_what_runs(module_name)
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"cannot import {module_name!r}, from {' or '.join(folders)} or the installed "
            f"packages: {type(error).__name__}: {error}"
        ) from error
    found = {n: it for n, it in vars(module).items() if not n.startswith("__") and fits(it)}
    if name not in found:
        unknown = unknown_word(name, found, f"{what} of {module_name}")
        raise ValueError(f"{unknown}; the module is {module.__file__}")
    return found[name]


def _look_in_own_folders() -> list[str]:
    """Let modules be found in the project's folder and the working one."""
    folders = list(dict.fromkeys([str(project_root()), str(Path.cwd())]))
    # Appended, so that a file of the user's hides no installed package.
    sys.path += [folder for folder in folders if folder not in sys.path]
    importlib.invalidate_caches()
    return folders


@lru_cache(maxsize=100)
def _say_what_runs(module_name: str) -> None:
    """Once in a process, and before it is imported: importing runs it."""
    file = module_file(module_name)
    if file and not _is_worker():
        print(f"This study runs code from {shown(file)}", file=sys.stderr)


def _is_worker() -> bool:
    """Whether this process was started by one that has said it."""
    import multiprocessing

    starting = getattr(multiprocessing.current_process(), "_inheriting", False)
    return starting or multiprocessing.parent_process() is not None


def module_file(module_name: str) -> Path | None:
    """The file of a module, which is not run for it; None where there is none."""
    folder, spec = None, None
    for name in module_name.split("."):  # find_spec alone would import the packages on the way
        spec = PathFinder.find_spec(name, folder)
        if spec is None:
            return None
        folder = spec.submodule_search_locations
    return Path(spec.origin).resolve() if spec.origin else None


def code_digest(word: str) -> str:
    """A fingerprint of the code that ``module:name`` runs, none of which is run for it.

    It is made of the module's file and of those of all modules that it imports, and these import,
    from the folder that the module lies in or folders below it; installed packages are left out.
    What a module imports by a name that it makes up is not seen.

    Raises
    ------
    ValueError
        If there is no such module.

    """
    folders = _look_in_own_folders()
    module_name = word.partition(":")[0]
    file = module_file(module_name)
    if file is None or file.suffix != ".py":
        raise ValueError(
            f"cannot import {module_name!r} from {' or '.join(folders)} or the installed packages"
        )
    root = file.parents[len(module_name.split(".")) - (file.name != "__init__.py")]
    found = _with_imported(file, root, module_name.split(".")[0])
    named = sorted((path.relative_to(root).as_posix(), code) for path, code in found.items())
    lines = [f"{name} {hashlib.sha256(code).hexdigest()}" for name, code in named]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _with_imported(file: Path, root: Path, own: str) -> dict[Path, bytes]:
    """The contents of a module's file and of all that it imports below ``root``."""
    found, waiting = {}, [file]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_bytes()
            names = _imports(path, found[path], root)
            waiting += [other for name in names for other in _files(name, root, own)]
    return found


def _imports(path: Path, code: bytes, root: Path) -> set[str]:
    """The dotted names of modules that a file may import, `from a import b` naming `a.b` too."""
    package = path.relative_to(root).with_suffix("").parts[:-1]
    names = set()
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):  # its import will say so
        return names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            names |= {base, *(f"{base}.{alias.name}".lstrip(".") for alias in node.names)}
    return names


def _files(name: str, root: Path, own: str) -> list[Path]:
    """The files below ``root`` that importing a dotted name runs: packages on the way too."""
    parts, files = name.split("."), []
    if parts[0] == "mdhelpers" or (root.name in INSTALLED and parts[0] != own):
        return []  # both have versions of their own
    for n in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:n])
        files += [place.with_suffix(".py"), place / "__init__.py"]
    return [file for file in files if file.is_file()]
