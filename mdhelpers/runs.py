"""A run folder: what each stage made, from what, and the figures that the book quotes.

A stage is finished when its manifest, `stages/<name>.json`, says so; the manifest is written last.
It holds a key made of the stage's parameters and of the keys of the stages that it reads. Change a
parameter, and this stage and all that hang on it have another key and run again.
"""

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from mdhelpers.machine import duration, git_commit, machine, versions
from mdhelpers.paths import resolve, shown
from mdhelpers.records import (
    differences,
    digest,
    few,
    locked,
    moment,
    now,
    plain,
    read_json,
    write_json,
)

SCHEMA = 1  # raise it when what the stages write changes, and old runs are made anew
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class StudyError(ValueError):
    """Something that the user can put right: a parameter, a file, a stage not yet run."""


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
        made_by = self.results.get("run", {})
        if made_by and (made_by["study"], made_by["profile"]) != (study, profile):
            raise StudyError(
                f"{shown(self.folder)} holds the run of study {made_by['study']!r}, profile "
                f"{made_by['profile']!r}, not of {study!r}, {profile!r}. Name the study otherwise, "
                "or set runs_dir to another folder."
            )

    def __repr__(self) -> str:
        return f"Run({self.study!r}, profile={self.profile!r}, path={shown(self.folder)!r})"

    @property
    def path(self) -> Path:
        """The run's folder, made when it is first asked for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    @property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds now: "run", and the figures of each finished stage."""
        return read_json(self.folder / "results.json")

    def manifest(self, name: str) -> dict[str, Any]:
        """Return the manifest of a finished stage, empty where it has none."""
        return read_json(self.folder / "stages" / f"{name}.json")

    def stage(self, name: str, parameters: Mapping[str, Any], after: Sequence[str] = ()) -> "Stage":
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

    def _finished(self, name: str, *, wanted_by: str) -> dict[str, Any]:
        manifest = self.manifest(name)
        if not manifest:
            problem = "has not been run"
        elif missing := self.missing(manifest):
            problem = f"has lost its output {missing[0]}"
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

    def missing(self, manifest: Mapping[str, Any]) -> list[str]:
        """Return which of a manifest's outputs are not there any more."""
        return [name for name in manifest["outputs"] if not (self.folder / name).exists()]

    def command(self) -> str:
        """Return the command that carries out this run."""
        overlay = "" if self.profile == "full" else f" -f parameters/{self.profile}.yaml"
        return f"mdhelpers run parameters/{self.study}.yaml{overlay}"

    def record(self, **facts: Any) -> None:
        """Merge facts about the whole run, such as `seed=0, n_models=1152`, into `results.json`."""
        self.merge("run", facts)

    def merge(self, block: str, figures: Mapping[str, Any], *, replace: bool = False) -> None:
        """Merge figures into a block of `results.json`, safe beside other processes."""
        figures = plain(figures)
        with locked(self.path / ".results.lock"):
            results = self.results
            old = {} if replace else results.get(block, {})
            results[block] = old | figures
            results["run"] = results.get("run", {}) | _found(results) | self._facts()
            ordered = {
                name: results[name] for name in sorted(results, key=lambda n: (n != "run", n))
            }
            write_json(self.folder / "results.json", ordered)

    def _facts(self) -> dict[str, Any]:
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
        return provenance(results.get("run") or self._facts() | {"finished": None})

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
    facts = read_json(folder / "results.json").get("run")
    if not facts:
        raise StudyError(f"{shown(folder)} holds no results. Run the study, or give its folder.")
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


@dataclass
class Stage:
    """One step of a run; get it from `Run.stage`."""

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
    def is_current(self) -> bool:
        """Whether this stage was finished from the same parameters and its outputs are there."""
        return not self.reason

    @property
    def reason(self) -> str:
        """Why this stage must run, in words; empty where it need not."""
        old = self.manifest
        if not old:
            return "never run"
        if changed := differences(old["parameters"], self.parameters):
            return few(changed)
        again = [name for name, key in self.inputs.items() if old["inputs"].get(name) != key]
        if again or set(old["inputs"]) - set(self.inputs):
            return f"{again[0]} was run again" if again else "it reads other stages than before"
        if missing := self.run.missing(old):
            return f"output {missing[0]} is missing"
        return "" if old["key"] == self.key else "made by another version of mdhelpers"

    def say(self) -> None:
        """Print whether this stage runs, and why, or that its results are read."""
        reason = self.reason
        if reason:
            print(f"{self.name}: running ({reason})")
            return
        old = self.manifest
        print(
            f"{self.name}: finished before with these parameters "
            f"({moment(old['finished'])}, {duration(old['seconds'])}); reading its results"
        )

    def finish(
        self,
        outputs: Iterable[str | Path],
        *,
        figures: Mapping[str, Any] | None = None,
        seconds: float | None = None,
    ) -> None:
        """Declare the stage finished: its figures go to `results.json`, then its manifest.

        Parameters
        ----------
        outputs
            Files and folders in the run's folder, relative to it or absolute.
        figures
            Numbers, texts, lists and mappings of them; they replace the stage's earlier ones.
        seconds
            What the work took; by default the time since this object was made.

        Raises
        ------
        ValueError
            If an output is not there, or a figure is nothing that JSON can say.
        """
        names = [self._relative(output) for output in outputs]
        took = round(time.perf_counter() - self.started if seconds is None else seconds, 2)
        block = dict(figures or {}) | {"seconds": took, "parameters": self.parameters}
        self.run.merge(self.name, block, replace=True)
        manifest = {
            "key": self.key,
            "parameters": self.parameters,
            "inputs": self.inputs,
            "outputs": names,
            "seconds": took,
            "versions": versions(),
            "finished": now(),
        }
        write_json(self.run.path / "stages" / f"{self.name}.json", manifest)

    def _relative(self, output: str | Path) -> str:
        path = self.run.path / output
        if not path.is_relative_to(self.run.path):
            raise ValueError(f"{path} lies outside {self.run.path}. Write outputs into the run.")
        if not path.exists():
            raise ValueError(f"{self.name} did not write {path}, which it names as an output.")
        return path.relative_to(self.run.path).as_posix()

    def record(self, **figures: Any) -> None:
        """Add figures to this stage's block of `results.json` after it was finished."""
        self.run.merge(self.name, figures)

    def discard(self) -> None:
        """Forget that this stage was finished, so that it runs again; its outputs stay."""
        (self.run.folder / "stages" / f"{self.name}.json").unlink(missing_ok=True)


def _found(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the stages' parameters say of the whole run."""
    stages = [block.get("parameters", {}) for name, block in results.items() if name != "run"]
    names = ("n_models", "seed")
    return {name: given[name] for given in stages for name in names if name in given}


def show_provenance(run: Run) -> None:
    """Display, in a notebook, what made the page, and the banner where its budget is small."""
    from IPython.display import display

    bundle = {"text/html": _html(run), "text/plain": f"{run.banner()}\n{run.provenance()}".strip()}
    display(bundle, raw=True)


def _html(run: Run) -> str:
    banner = run.banner()
    shown_banner = (
        '<div class="mdhelpers-banner" role="note" style="border-left: 4px solid #d97706; '
        f'padding: 0.4em 0.8em; margin-bottom: 0.4em"><strong>{escape(banner)}</strong></div>'
    )
    line = f'<div class="mdhelpers-provenance"><small>{escape(run.provenance())}</small></div>'
    return (shown_banner if banner else "") + line
