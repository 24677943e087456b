"""One step of a run: whether it is finished, from what, and with what results.

A finished stage has a manifest, which names its outputs and says what each was when it was written:
a file's size and sha256, a store's own digest. Whether an output still is that is found when the
stage is asked for and when the output is read. `Stage.keep` writes a stage's results, whole or not
at all, and `Run.kept` reads them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from mdhelpers.base.places import duration, versions
from mdhelpers.base.records import (
    Busy,
    content_digest,
    differences,
    digest,
    few,
    locked,
    moment,
    now,
    plain,
    read_or_empty,
    remove_unfinished,
    write_json,
    written,
)
from mdhelpers.base.threads import one_thread

if TYPE_CHECKING:
    from mdhelpers.runs.run import Run


# The stages, each named as the notebook that carries it out; notebooks 03 and 07 carry out two.
DATA = "01_data_prep"
MODELS = "02_mask_training"
DATAMODELS = "03_datamodel_fitting"
QUALITY = "03_quality"
COMPARISON = "04_residual_pca"
SUBPOPULATIONS = "05_subpopulation_inspection"
CAPTIONS = "06_clip_captioning"
ALL_DATA = "07_all_data"
EFFECTS = "07_counterfactual_verification"
APPLICATIONS = "08_datamodel_applications"
PREDICTIONS = "09_prediction_level"
TILTING = "10_reweighting"
PROBES = "11_patch_and_factors"
SEVERAL = "12_several_algorithms"
FURTHER = "13_further_analyses"
STORE = ".zarr"


def describe(place: Path | str) -> dict[str, Any]:
    """Return what a manifest keeps of an output: a file's size and sha256, a store's digest."""
    if str(place).endswith(STORE):
        from mdhelpers.training.store import ModelStore, task_digests

        store = ModelStore.open(place, read_only=True)
        return {"store": store.digest(), "tasks": task_digests(store)}
    return {"size": Path(place).stat().st_size, "sha256": content_digest(Path(place))}


def problem(place: Path | str, told: Mapping[str, Any] | None, *, thorough: bool) -> str:
    """Return in words what is wrong with an output; empty where nothing is.

    Parameters
    ----------
    place
        Path of a file, or path or URL of a store.
    told
        What `describe` said of it when it was written; None where nobody did.
    thorough
        Read it whole. Otherwise a file's size is looked at, and a store's own checksums.
    """
    if str(place).endswith(STORE):
        return _store_problem(place, told, thorough=thorough)
    if not place.is_file():
        return "" if not told and place.is_dir() else "is missing"
    size = place.stat().st_size
    if not told:
        return ""
    if size != told.get("size"):
        return f"was changed: it has {size} bytes, and had {told.get('size')}"
    return "was changed" if thorough and content_digest(place) != told.get("sha256") else ""


def _store_problem(place: Path | str, told: Mapping[str, Any] | None, *, thorough: bool) -> str:
    from mdhelpers.training.store import ModelStore

    try:
        store = ModelStore.open(place, read_only=True)
    except FileNotFoundError:
        return "is missing"
    except ValueError as error:
        return f"cannot be read ({error})"
    if lost := store.missing_tasks():
        return f"lacks the models of {len(lost)} tasks, of task {lost[0]} first"
    if thorough and (bad := store.check()):
        array, task = bad[0]
        return f"has {len(bad)} damaged chunks, that of {array} of task {task} first"
    return "was changed" if told and store.digest() != told.get("store") else ""


def is_inside(name: str) -> bool:
    """Return whether a name in a manifest can only mean something in the run's own folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name


def lies_in(path: Path, folder: Path) -> bool:
    """Return whether a path is in a folder itself, and not by a link that leads out of it."""
    return not path.is_symlink() and path.resolve().is_relative_to(folder.resolve())


_KINDS = {
    "stage": str, "block": str, "key": str, "parameters": dict, "inputs": dict,
    "outputs": dict | list, "figures": dict, "run": dict, "seconds": int | float, "finished": str,
}  # fmt: skip
_LATER = {"figures", "run"}  # which runs of older versions lack


def is_manifest(found: Mapping[str, Any]) -> bool:
    """Whether a record has what a manifest has: it may be damaged, or a stranger's."""
    missing = set(_KINDS) - set(found)
    if not missing <= _LATER or missing == {"run"}:
        return False
    if not all(isinstance(found[key], _KINDS[key]) for key in set(_KINDS) - missing):
        return False
    if not all(other < found["stage"] for other in found["inputs"]):  # stages read earlier ones
        return False
    return all(isinstance(name, str) for name in found["outputs"])


SCHEMA = 1  # raise it when what the stages write changes, and old runs are made anew


@dataclass
class Stage:
    """One step of a run; get it from `Run.stage`.

    It is worked at as `with stage.working() as needed: …`: compute, then `keep`. What takes its
    results up again where it was stopped does the three parts of `keep` by itself: `withdraw`,
    write, `finish`.
    """

    run: Run
    name: str
    parameters: dict[str, Any]
    inputs: dict[str, str]
    started: float = field(default_factory=time.perf_counter)

    @property
    def key(self) -> str:
        """The sha256 of all that decides this stage's result."""
        return digest([self.name, SCHEMA, self.parameters, self.inputs])

    @property
    def manifest(self) -> dict[str, Any]:
        """What this stage wrote when it was last finished; empty where it never was."""
        return self.run.manifest(self.name)

    @property
    def reason(self) -> str:
        """Why this stage must run, in words; empty where its results are whole."""
        old = self.manifest
        if not old:
            path = self.run.folder / "stages" / f"{self.name}.json"
            return "its record is damaged" if path.exists() else "never run"
        if changed := differences(old["parameters"], self.parameters):
            return few(changed)
        again = [name for name, key in self.inputs.items() if old["inputs"].get(name) != key]
        if again or set(old["inputs"]) - set(self.inputs):
            return f"{again[0]} was run again" if again else "it reads other stages than before"
        if damage := self.run.damage(old):
            return few(damage)
        return "" if old["key"] == self.key else "made by another version of mdhelpers"

    @contextlib.contextmanager
    def working(self) -> Iterator[bool]:
        """Hold this stage for as long as the block lasts, and tell whether it must be run.

        Says which, and why. What it made before stays finished until `withdraw`, which comes before
        the first output is written: a run that is refused or stopped before loses nothing. A second
        process that comes to the same stage waits, and finds it finished. What is computed within
        is computed on one thread, so that its bits do not depend on the cores that there are.
        """
        lock = self.run.path / "stages" / f".{self.name}.lock"
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, wait=False))
            except Busy:
                print(f"{self.name}: another process is at this stage; waiting for it", flush=True)
                stack.enter_context(locked(lock))
            reason = self.reason
            self._say(reason)
            self.started = time.perf_counter()
            if reason:  # a finished stage is only read, for which torch need not come
                stack.enter_context(one_thread())
            yield bool(reason)

    def _say(self, reason: str) -> None:
        if reason:
            print(f"{self.name}: running ({reason})")
            return
        old = self.manifest
        print(
            f"{self.name}: finished before with these parameters "
            f"({moment(old['finished'])}, {duration(old['seconds'])}); reading its results"
        )

    def keep(
        self,
        *,
        tables: Mapping[str, Any] | None = None,
        arrays: Mapping[str, Mapping[str, Any]] | None = None,
        files: Mapping[str, Callable[[Path], object]] | None = None,
        made: Iterable[Path] = (),
        figures: Mapping[str, Any] | None = None,
        block: str = "",
    ) -> None:
        """Write what the stage has found in place of what it wrote before, and finish it.

        Names are relative to the run's folder and may have folders in them.

        Parameters
        ----------
        tables
            Data frames, each written as ``<name>.parquet``; `Run.kept` reads them.
        arrays
            Named arrays, written together as ``<name>.safetensors``; `Run.kept_arrays` reads them.
        files
            What writes each other file: a function that is given the path.
        made
            Outputs that lie in the run already.
        figures, block
            See `finish`.
        """
        from mdhelpers.base.arrays import write_tensors  # torch: not for those who only look

        writers = {f"{name}.parquet": table.to_parquet for name, table in (tables or {}).items()}
        named = {f"{name}.safetensors": found for name, found in (arrays or {}).items()}
        self.withdraw()
        for name, write in writers.items():
            with written(self._place(name)) as unfinished:
                write(unfinished)
        for name, found in named.items():
            write_tensors(self._place(name), found)
        for name, write in (files or {}).items():
            write(self._place(name))
        names = [*writers, *named, *(files or ()), *made]
        self.finish(names, figures=figures, block=block)

    def _place(self, name: str) -> Path:
        path = self.run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def withdraw(self) -> None:
        """Let what this stage made before count no longer, before any of it is touched."""
        for folder in (self.run.path, *(p for p in self.run.folder.iterdir() if p.is_dir())):
            remove_unfinished(folder)
        with contextlib.suppress(FileNotFoundError):
            self._path.replace(self._withdrawn)
        self.run.write_results()

    @property
    def _path(self) -> Path:
        return self.run.folder / "stages" / f"{self.name}.json"

    @property
    def _withdrawn(self) -> Path:
        return self._path.with_suffix(".withdrawn")

    def finish(
        self,
        outputs: Iterable[str | Path],
        *,
        figures: Mapping[str, Any] | None = None,
        seconds: float | None = None,
        block: str = "",
    ) -> None:
        """Declare the stage finished: its manifest is written, then `results.json`.

        What an earlier run of the stage made and this one did not is removed.

        Parameters
        ----------
        outputs
            Files and folders in the run's folder, relative to it or absolute; of a folder, all
            files in it, of a store (`….zarr`) the whole.
        figures
            Numbers, texts, lists and mappings of them; they replace the stage's earlier ones.
        seconds
            What the work took; by default the time since `working` was entered.
        block
            The stage under whose name `results.json` has the figures; by default this one.

        Raises
        ------
        ValueError
            If an output is not there, or a figure is nothing that JSON can say.
        """
        assert not self._path.exists(), f"{self.name}: withdraw it before its outputs are written"
        names = [name for output in outputs for name in self._names(output)]
        about = {"parameters": self.parameters}
        took = round(time.perf_counter() - self.started if seconds is None else seconds, 2)
        manifest = {
            "stage": self.name,
            "block": block or self.name,
            "key": self.key,
            "parameters": self.parameters,
            "inputs": self.inputs,
            "outputs": {name: describe(self.run.place(about, name)) for name in names},
            "figures": plain(dict(figures or {})),
            "seconds": took,
            "versions": versions(),
            "finished": now(),
            "run": plain(self.run.facts()),
        }
        self._write(manifest)
        self._remove_what_is_left(set(names))

    def _write(self, manifest: dict[str, Any]) -> None:
        manifest = plain({k: v for k, v in manifest.items() if k != "sha256"})
        write_json(self._path, manifest | {"sha256": digest(manifest)})
        self.run.write_results()

    def add_output(self, output: str | Path) -> None:
        """Add a file that the stage's page made to the outputs of the finished stage."""
        (name,) = self._names(output)
        old = self.manifest
        if isinstance(old.get("outputs"), dict):
            self._write(old | {"outputs": old["outputs"] | {name: describe(self.run.path / name)}})

    def _names(self, output: str | Path) -> list[str]:
        path = self.run.path / output
        if not path.is_relative_to(self.run.path):
            raise ValueError(f"{path} lies outside {self.run.path}. Write outputs into the run.")
        name = path.relative_to(self.run.path).as_posix()
        if name.endswith(STORE):
            return [name]
        if not path.exists():
            raise ValueError(f"{self.name} did not write {path}, which it names as an output.")
        if path.is_file():
            return [name]
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        return [
            file.relative_to(self.run.path).as_posix()
            for file in files
            if not file.name.startswith(".")
        ]

    @property
    def before(self) -> dict[str, Any]:
        """What was known of the outputs when the stage was withdrawn, by name."""
        outputs = read_or_empty(self._withdrawn).get("outputs", {})
        return outputs if isinstance(outputs, dict) else {name: {} for name in outputs}

    def _remove_what_is_left(self, names: set[str]) -> None:
        """Remove the files that this stage made before and has not made again."""
        for name in set(self.before) - names:
            path = self.run.folder / name
            if is_inside(name) and path.is_file() and lies_in(path, self.run.folder):
                path.unlink(missing_ok=True)
        self._withdrawn.unlink(missing_ok=True)
