"""A run folder: what each stage made, from what, and the figures that the book quotes.

A stage is finished when its manifest, `stages/<name>.json`, says so. The manifest is withdrawn
before anything that it names is touched and written when all is there again. It holds a key made of
the stage's parameters and of the keys of the stages that it reads: change a parameter, and this
stage and all that hang on it have another key and run again. It holds a digest of every output:
what was cut short, changed, swapped or lost is found when it is read, and made anew. And it holds
the stage's figures, of which `results.json` is made.

All names in a run are relative to its folder, so that it can be copied, moved and sent.
"""

import re
import shlex
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mdhelpers.base.places import git_commit, machine, resolve, shown, versions
from mdhelpers.base.records import (
    READ_ONLY,
    digest,
    locked,
    moment,
    now,
    plain,
    read_or_empty,
    write_json,
)
from mdhelpers.runs.stage import MODELS, STORE, Stage, is_inside, is_manifest
from mdhelpers.runs.stage import problem as problem_of

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
MARK, MAKER = "run.json", "mdhelpers"
LEFT_OUT = "left_out"  # in the mark: what a packed run came without (mdhelpers.runs.archive)


class StudyError(ValueError):
    """Something that the user can put right: a parameter, a file, a stage not yet run."""

    def _render_traceback_(self) -> list[str]:
        """What notebooks show of it: the message, since where it arose helps nobody (IPython)."""
        return [f"{type(self).__name__}: {self}"]


class Run:
    """The folder of one study under one profile: `runs/<study>`, or `runs/<study>-<profile>`.

    Parameters
    ----------
    study
        The study's name: letters, digits, dots, dashes and underscores.
    profile
        "full", or the name of a smaller budget such as "smoke", which gets a folder of its own.
    runs_dir
        Where runs lie; a relative path counts from the project's folder.

    Raises
    ------
    StudyError
        If a name cannot be a folder's name, or the folder holds another study's run.
    """

    def __init__(self, study: str, *, profile: str = "full", runs_dir: str | Path = "runs"):
        for what, name in (("study", study), ("profile", profile)):
            if not (isinstance(name, str) and NAME.fullmatch(name)):
                raise StudyError(
                    f"{what} is {name!r}, which cannot name a folder. Use letters, digits, dots, "
                    "dashes and underscores, and begin with a letter or a digit."
                )
        self.study = study
        self.profile = profile
        self.folder = resolve(runs_dir) / (study if profile == "full" else f"{study}-{profile}")
        made_by = self._mark or self.results.get("run", {})
        made_by = made_by.get("study", study), made_by.get("profile", profile)
        if made_by != (study, profile):
            raise StudyError(
                f"{shown(self.folder)} holds the run of study {made_by[0]!r}, profile "
                f"{made_by[1]!r}, not of {study!r}, {profile!r}. Name the study otherwise, "
                "or set runs_dir to another folder."
            )

    def __repr__(self) -> str:
        return f"Run({self.study!r}, profile={self.profile!r}, path={shown(self.folder)!r})"

    @property
    def path(self) -> Path:
        """The run's folder, made and marked as a run's when it is first asked for.

        Raises
        ------
        StudyError
            If a folder of that name holds something else.
        """
        if self._mark.get("made_by") != MAKER:
            self._take_folder()
        return self.folder

    def _take_folder(self) -> None:
        if not is_run(self.folder) and any(
            not path.name.startswith(".") for path in _children(self.folder)
        ):
            raise StudyError(
                f"{shown(self.folder)} holds files that no run made, and a run would write among "
                "them. Name the study otherwise, or set runs_dir to another folder."
            )
        mark = {"made_by": MAKER, "study": self.study, "profile": self.profile}
        try:
            write_json(self.folder / MARK, mark | {"id": uuid.uuid4().hex})
        except OSError as error:
            if error.errno not in READ_ONLY or not is_run(self.folder):
                raise  # a run of old that can only be read is read without a mark

    @property
    def _mark(self) -> dict[str, Any]:
        return read_or_empty(self.folder / MARK)

    @property
    def id(self) -> str:
        """What marks what this run made outside of its folder; a copy of the run has another.

        It changes with the folder's place, so that a copy never takes its original's for its own.
        """
        self.path  # noqa: B018 - marks the folder
        return digest([self._mark.get("id", ""), str(self.folder.resolve())])[:16]

    @property
    def results(self) -> dict[str, Any]:
        """ "run", and the figures of each finished stage, as `results.json` has them.

        Those of a stage that was made before what it reads was made anew are left out.
        The manifests say them; the file is a copy, of which only runs of older versions are read.
        """
        found = read_or_empty(self.folder / "results.json")  # a damaged one is made anew
        manifests = _up_to_date(self.manifests())
        if (self.folder / "stages").is_dir():
            found = {n: found[n] for n in found if n in {"run", *(m["stage"] for m in manifests)}}
        told = [manifest for manifest in manifests if "figures" in manifest]
        for manifest in sorted(told, key=lambda m: m["block"] != m["stage"]):  # blocks begin new
            about = {"seconds": manifest["seconds"], "parameters": manifest["parameters"]}
            own = manifest["block"] == manifest["stage"]
            before = about if own else found.get(manifest["block"], {})
            found[manifest["block"]] = before | manifest["figures"]
        if told:
            last = max(told, key=lambda manifest: manifest["run"]["finished"])
            found["run"] = found.get("run", {}) | last["run"] | _found(found)
        return {name: found[name] for name in sorted(found, key=lambda n: (n != "run", n))}

    @property
    def names(self) -> tuple[str, str]:
        """The algorithms' own names; "algorithm 1" and "algorithm 2" where no models were made."""
        figures = self.results.get(MODELS, {})
        return tuple(figures.get(f"name_{a}", f"algorithm {a}") for a in (1, 2))

    def write_results(self) -> None:
        """Write `results.json` as the finished stages have it, safe beside other processes."""
        with locked(self.path / ".results.lock"):
            results, path = plain(self.results), self.folder / "results.json"
            if read_or_empty(path) != results:
                write_json(path, results)

    def manifests(self) -> list[dict[str, Any]]:
        """Return the manifests of all finished stages, in the order of their names."""
        names = sorted(path.stem for path in _children(self.folder / "stages", "*.json"))
        return [manifest for name in names if (manifest := self.manifest(name))]

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of a finished stage, empty where it has none or it is damaged."""
        found = read_or_empty(self.folder / "stages" / f"{name}.json")
        said = found.pop("sha256", None)
        if said is not None and said != digest(found):
            return {}
        found = {"stage": name, "block": name} | found
        return found if is_manifest(found) else {}

    def of_notebook(self, name: str) -> list[dict[str, Any]]:
        """Return the manifests of the stages that a notebook finishes: those of its number."""
        return [manifest for manifest in self.manifests() if manifest["stage"][:3] == name[:3]]

    def stage(self, name: str, parameters: Mapping[str, Any], after: Sequence[str] = ()) -> Stage:
        """Return the stage `name` of this run, with the key that its inputs give it.

        Parameters
        ----------
        name
            The notebook's stem, such as "03_datamodel_fitting".
        parameters
            All that decides the result, and nothing else: leave out `device` and `runs_dir`, put
            in the fingerprints of data and of files from elsewhere.
        after
            The names of the stages whose outputs this one reads.

        Raises
        ------
        StudyError
            If one of `after` has not been run, or was made from other inputs than lie here now.
        """
        inputs = {other: self._finished(other, wanted_by=name)["key"] for other in after}
        return Stage(self, name, plain(parameters), inputs)

    def check(self, name: str) -> None:
        """Raise StudyError, with what to do, unless a stage is finished and its outputs are there.

        Files are held against their digests when they are read (`output`).
        """
        self._finished(name, wanted_by="This page")

    def _finished(self, name: str, *, wanted_by: str) -> dict[str, Any]:
        manifest = self.manifest(name)
        if not manifest:
            problem = f"has not been run{self._of_another_profile()}"
        elif damage := self.damage(manifest, thorough=False, but=self._mark.get(LEFT_OUT, ())):
            problem = f"is damaged: {damage[0]}"
        else:
            inputs = {other: self._finished(other, wanted_by=name) for other in manifest["inputs"]}
            stale = [k for k, v in inputs.items() if v["key"] != manifest["inputs"][k]]
            if not stale:
                return manifest
            problem = f"was made before {stale[0]} ran again"
        raise StudyError(
            f"{wanted_by} reads what {name} writes, and in {shown(self.folder)} {name} {problem}. "
            f"Run notebook {name} first. `{self.command()}` runs all that is missing."
        )

    def _of_another_profile(self) -> str:
        """A hint for those to whom a notebook's own profile, a smaller one, comes unawares."""
        full = self.folder.with_name(self.study)
        hint = f" ({shown(full)} has a run of profile full: give -p profile full to read that)"
        return hint if self.profile != "full" and is_run(full) else ""

    def damage(
        self, manifest: Mapping[str, Any], *, thorough: bool = True, but: Sequence[str] = ()
    ) -> list[str]:
        """Return what is wrong with a manifest's outputs, in words; empty where nothing is.

        Parameters
        ----------
        manifest
            Of a finished stage.
        thorough
            Read every output whole; otherwise only sizes, and the checksums that stores keep, are
            looked at. What is then read is checked when it is read (`output`).
        but
            Outputs that may be missing.
        """
        found = []
        for name in manifest["outputs"]:
            if name in but and not (self.folder / name).exists():
                continue
            problem = self.problem(manifest, name, thorough=thorough)
            found += [f"output {name} {problem}"] if problem else []
        return found

    def problem(self, manifest: Mapping[str, Any], name: str, *, thorough: bool) -> str:
        """Return what is wrong with one of a manifest's outputs, as `damage` does of all."""
        if not is_inside(name):
            return "lies outside of the run"
        outputs = manifest["outputs"]
        told = outputs[name] if isinstance(outputs, dict) else None  # older manifests have names
        return problem_of(self.place(manifest, name), told, thorough=thorough)

    def place(self, manifest: Mapping[str, Any], name: str) -> Any:
        """Where an output lies: in the run's folder, but for stores that are kept elsewhere."""
        elsewhere = manifest["parameters"].get("models_url", "")
        if elsewhere and name.endswith(STORE) and "/" not in name:
            return store_in(elsewhere, name)
        return self.folder / name

    def output(self, stage: str, name: str) -> Path | None:
        """Return the path of a finished stage's output, held against its digest.

        Returns None where the stage, as it was last finished, had no output of that name: a file
        that an earlier run left is not read for this one's.

        Raises
        ------
        StudyError
            If the stage is not finished, or the output is not what it wrote; it says what to do.
        """
        manifest = self.manifest(stage)
        if not manifest:
            raise StudyError(
                f"{stage} is not finished in {shown(self.folder)}. Run notebook {stage} first. "
                f"`{self.command()}` runs all that is missing."
            )
        if name not in manifest["outputs"]:
            return None
        if problem := self.problem(manifest, name, thorough=True):
            raise StudyError(
                f"{shown(self.folder / name)}, which {stage} wrote, {problem}. "
                f"`{self.command()}` makes it anew, and only what is damaged."
            )
        return self.folder / name

    def outputs(self, stage: str, pattern: str = "*") -> list[Path]:
        """Return the outputs of a stage whose names match a pattern, as `output` does each."""
        names = self.manifest(stage).get("outputs", ())
        return [self.output(stage, n) for n in names if fnmatchcase(n, pattern)]

    def kept(self, stage: str) -> dict[str, Any]:
        """Return the tables that a stage has kept, as it was last finished, by their names."""
        import pandas as pd

        paths = self.outputs(stage, "*.parquet")
        names = [path.relative_to(self.folder).with_suffix("").as_posix() for path in paths]
        with readable(self, stage):
            return {name: pd.read_parquet(path) for name, path in zip(names, paths, strict=True)}

    def kept_arrays(self, stage: str, name: str) -> dict[str, Any]:
        """Return the arrays that a stage has kept under a name."""
        from safetensors.numpy import load_file

        return load_file(self.output(stage, f"{name}.safetensors"))

    def command(self) -> str:
        """Return the command that carries out this run."""
        overlay = "" if self.profile == "full" else f" -f parameters/{self.profile}.yaml"
        return f"mdhelpers run parameters/{self.study}.yaml{overlay}{self.option()}"

    def option(self) -> str:
        """Return the option by which commands find this run, after a blank; empty by default."""
        place = self.folder.parent
        if place.resolve() == resolve("runs").resolve():
            return ""
        return f" --runs-dir {shlex.quote(shown(place))}"

    def facts(self) -> dict[str, Any]:
        """Return what makes results now: the study, commit, versions, machine and time."""
        finished = now()
        return {
            "study": self.study,
            "profile": self.profile,
            "commit": git_commit(),
            "versions": versions(),
            "machine": machine(),
            "finished": finished,
            "date": finished[:10],
        }

    def provenance(self) -> str:
        """Return one line: the study, profile, number of models, seed, commit, version and date."""
        results = self.results
        return provenance(results.get("run") or self.facts() | {"finished": None})

    def banner(self) -> str:
        """Return the warning that pages of a smaller budget carry; empty for the full profile."""
        return banner(self.profile)


def run_at(folder: str | Path) -> Run:
    """Return the run whose results lie in a folder.

    Raises
    ------
    StudyError
        If no results do, or they are of another folder's run.
    """
    folder = Path(folder)
    facts = read_or_empty(folder / MARK) or read_or_empty(folder / "results.json").get("run")
    if not facts:
        there = ", ".join(sorted(p.name for p in _children(folder.parent) if is_run(p))) or "none"
        raise StudyError(
            f"{shown(folder)} holds no results. Run the study, or give its folder. Runs beside it: "
            f"{there}"
        )
    run = Run(facts["study"], profile=facts["profile"], runs_dir=folder.parent)
    if run.folder.resolve() != folder.resolve():
        raise StudyError(
            f"{shown(folder)} holds the run of {shown(run.folder)}; give the folder that name."
        )
    return run


def provenance(facts: Mapping[str, Any]) -> str:
    """Return the line that says what made a page, from the block "run" of a `results.json`."""
    parts = [
        f"Study {facts['study']}",
        f"profile {facts['profile']}",
        f"2 × {facts['n_models']} models" if "n_models" in facts else None,
        f"seed {facts['seed']}" if "seed" in facts else None,
        f"commit {facts['commit']}",
        f"mdhelpers {facts['versions']['mdhelpers']}",
        f"finished {moment(facts['finished'])}" if facts["finished"] else None,
    ]
    return " · ".join(part for part in parts if part)


def banner(profile: str) -> str:
    """Return the warning that pages of a smaller budget carry; empty for the full profile."""
    if profile == "full":
        return ""
    return f"{profile.capitalize()} run: small budget, its numbers are no findings."


def _up_to_date(manifests: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Leave out the stages that were made from others than there are now."""
    known = {manifest["stage"]: manifest for manifest in manifests}

    def is_current(manifest: dict[str, Any]) -> bool:
        return all(
            name in known and known[name]["key"] == key and is_current(known[name])
            for name, key in manifest["inputs"].items()
        )

    return [manifest for manifest in manifests if is_current(manifest)]


@contextmanager
def readable(run: Run, stage: str) -> Iterator[None]:
    """Say whose output it is that cannot be read: of runs of older versions, which kept no digests.

    Raises
    ------
    StudyError
        In place of what libraries raise for damaged files.
    """
    try:
        yield
    except StudyError:
        raise
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise StudyError(
            f"what {stage} wrote into {shown(run.folder)} cannot be read ({error}). Remove "
            f"stages/{stage}.json there, and `{run.command()}` makes it anew."
        ) from error


def checked(folder: Path, stage: str, path: Path) -> Path:
    """Return `path` in a run's folder, held against what the stage that wrote it said of it.

    Raises
    ------
    StudyError
        If it is another file by now.
    """
    outputs = read_or_empty(folder / "stages" / f"{stage}.json").get("outputs", {})
    name = path.relative_to(folder).as_posix()
    told = outputs.get(name) if isinstance(outputs, dict) else None
    if told and (wrong := problem_of(path, told, thorough=True)):
        raise StudyError(f"{shown(path)} {wrong}. Run the study again: it is made anew.")
    return path


def store_in(url: str | Path, name: str) -> Path | str:
    """Return where a store lies under a `models_url`, which is a URL or a folder."""
    return f"{url.rstrip('/')}/{name}" if "://" in str(url) else resolve(url) / name


def is_run(folder: Path) -> bool:
    """Return whether a folder bears the mark of a run, or what a run of old has in its place."""
    if read_or_empty(folder / MARK).get("made_by") == MAKER:
        return True
    facts = read_or_empty(folder / "results.json").get("run")
    if isinstance(facts, dict) and {"study", "profile"} <= set(facts):
        return True
    records = (read_or_empty(path) for path in _children(folder / "stages", "*.json"))
    return any({"key", "inputs", "outputs"} <= set(record) for record in records)


def _children(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.glob(pattern)) if folder.is_dir() else []


def _found(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the stages' parameters say of the whole run."""
    stages = [block.get("parameters", {}) for name, block in results.items() if name != "run"]
    names = ("n_models", "seed")
    return {name: given[name] for given in stages for name in names if name in given}


def read_plan(folder: Path) -> dict:
    """The run's ``plan.json``; empty where there is none, or it is damaged."""
    return read_or_empty(folder / "plan.json")


def store_locations(folder: Path) -> list[Path | str]:
    """Where the run's models are: in its folder, or under the URL that its parameters give.

    No other place that a plan names is believed: the run may come from elsewhere.
    """
    plan = read_plan(folder)
    given = read_or_empty(folder / "stages" / f"{MODELS}.json").get("parameters", {})
    if url := plan.get("models_url") or given.get("models_url"):
        return [store_in(url, f"models_{a}.zarr") for a in (1, 2)]
    if plan:
        return [folder / f"models_{a}.zarr" for a in (1, 2)]
    return sorted(folder.glob("models_?.zarr"))
