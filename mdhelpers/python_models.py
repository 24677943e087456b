"""A function of the user's own as a learning algorithm."""

from __future__ import annotations

import ast
import copy
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from mdhelpers.algorithms import PythonSpec
from mdhelpers.paths import project_root, shown
from mdhelpers.specs import unknown_word
from mdhelpers.trained_models import TrainedOnSubsets, as_array
from mdhelpers.training import Task, TrainingData

INSTALLED = ("site-packages", "dist-packages")


class TrainedFunctions(TrainedOnSubsets):
    """Models of a user's function, trained whenever logits are asked for, once a model and call.

    The function is given the ``data_seeds`` of the task. A model's own subset is appended to its
    test images, for the training loss.
    """

    retrains = True

    def __init__(self, task: Task, data: TrainingData):
        super().__init__(task, data)
        self.function = load_function(self.spec)
        self._losses: np.ndarray | None = None

    @property
    def losses(self) -> np.ndarray:
        """(G, 1) float32, log loss of each model on its own subset, when last trained."""
        if self._losses is None:
            self.logits(np.empty((0, *self.data.source.size, 3), np.uint8))
        return self._losses

    def logits(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """See `TrainedModels.logits`."""
        images = as_array(images)
        found = [self.call(g, images) for g in self.rows]
        losses = [self.loss(g, logits[len(images) :]) for g, logits in enumerate(found)]
        self._losses = np.array(losses, np.float32)[:, None]
        return torch.stack([logits[: len(images)] for logits in found])

    def call(self, model: int, images: np.ndarray) -> torch.Tensor:
        """Logits of ``images`` and then of the model's subset, checked."""
        subset, labels = self.subset(model)
        test_images = np.concatenate([images, subset])
        known = {"n_classes": self.n_classes, "seed": int(self.seeds[model])}
        options = copy.deepcopy(self.spec.options)
        shape = (len(test_images), self.n_classes)
        try:
            with threadpool_limits(1):
                result = self.function(subset, labels, test_images, **known, **options)
            return checked_logits(result, shape)
        except Exception as error:
            raise self.failure(self.spec.function, model, error) from error


def checked_logits(result, shape: tuple[int, int]) -> torch.Tensor:
    """What a function returned as float32 logits; a ValueError unless finite and of ``shape``."""
    logits = result.detach().cpu() if isinstance(result, torch.Tensor) else np.asarray(result)
    logits = torch.as_tensor(logits) if logits.dtype != object else None
    if logits is None or logits.shape != shape or not logits.is_floating_point():
        got = type(result).__name__ if logits is None else f"{tuple(logits.shape)} {logits.dtype}"
        raise ValueError(f"it must return logits {shape} of a float dtype, got {got}")
    logits = logits.float()
    bad = ~logits.isfinite()
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {bad.numel()} logits are not finite (the first in row "
            f"{int(bad.any(1).nonzero()[0])}). If they are logarithms, clip what they are taken of"
        )
    return logits


def load_function(spec: PythonSpec) -> Callable:
    """The function that ``spec`` names, from the project's folder, the working one or a package.

    Raises
    ------
    ValueError
        If there is no such module or function, or it does not take what it would be given.

    """
    module_name, _, name = spec.function.partition(":")
    folders = _look_in_own_folders()
    try:
        _say_what_runs(module_name)
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"{spec.name}: cannot import {module_name!r}, from {' or '.join(folders)} or the "
            f"installed packages: {type(error).__name__}: {error}"
        ) from error
    found = {n: f for n, f in vars(module).items() if callable(f) and not n.startswith("__")}
    if name not in found:
        raise ValueError(
            f"{spec.name}: {unknown_word(name, found, f'function of {module_name}')}; the module "
            f"is {module.__file__}"
        )
    check_call(spec, found[name])
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

    return multiprocessing.parent_process() is not None


def module_file(module_name: str) -> Path | None:
    """The file of a module, which is not run for it; None where there is none."""
    folder, spec = None, None
    for name in module_name.split("."):  # find_spec alone would import the packages on the way
        spec = PathFinder.find_spec(name, folder)
        if spec is None:
            return None
        folder = spec.submodule_search_locations
    return Path(spec.origin).resolve() if spec.origin else None


def function_digest(function: str) -> str:
    """A fingerprint of the code that ``module:function`` runs, none of which is run for it.

    It is made of the module's file and of those of all modules that it imports, and these import,
    from the folder that the module lies in or folders below it; installed packages are left out.
    What a module imports by a name that it makes up is not seen.

    Raises
    ------
    ValueError
        If there is no such module.

    """
    folders = _look_in_own_folders()
    module_name = function.partition(":")[0]
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


def check_call(spec: PythonSpec, function: Callable) -> None:
    signature = inspect.signature(function)
    try:
        signature.bind(None, None, None, n_classes=2, seed=0, **spec.options)
    except TypeError as error:
        raise ValueError(
            f"{spec.name}: {spec.function}{signature} does not take what it would be given "
            f"(images, labels, test_images, n_classes=, seed= and the options "
            f"{list(spec.options)}): {error}"
        ) from None
