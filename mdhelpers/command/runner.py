"""All notebooks of a study, one after the other; what is finished and unchanged is skipped.

A notebook is finished when its executed copy is there and was made from the same cells, the same
parameters, the same earlier notebooks and the same version of mdhelpers: `notebooks/keys.json` in
the run's folder keeps what each was made from. Within a notebook, the stage decides on its own
(`mdhelpers.runs.run`) whether it computes or reads; this module decides whether a kernel starts at
all.
"""

import itertools
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mdhelpers.base.places import (
    duration,
    folder_bytes,
    free_bytes,
    in_words,
    is_disk_full,
    package_version,
    shown,
)
from mdhelpers.base.records import (
    Busy,
    differences,
    digest,
    few,
    file_digest,
    locked,
    now,
    write_json,
)
from mdhelpers.command.files import merge, read_study
from mdhelpers.runs.notebooks import Notebook, find_notebooks, keys_file, read_entries
from mdhelpers.runs.run import Run, StudyError

Estimate = Callable[[Any], Mapping[str, Any]]
FITTING = 4  # the stages that fit datamodels on all models, and those before them
COSTLY = 2  # the first stages take nearly all time and disk: before the others no estimate pays


# Where and by whom a result is made, which changes no bit of it; as if none of them was given
OF_NO_RESULT = {"runs_dir": "runs", "workers": 0, "scheduler": "local", "cluster": {}}
OF_NO_RESULT |= {"loader": "memory"}  # as it was by default when older runs were made


def counted(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as far as results depend on them: a run may be moved, or spread wider."""
    return {name: OF_NO_RESULT.get(name, value) for name, value in parameters.items()}


@dataclass(frozen=True)
class Step:
    """One notebook of a run: what it is given, and why it must run ("" if it need not)."""

    notebook: Notebook
    parameters: dict[str, Any]
    reads: dict[str, Any]  # digests of what it reads from outside of the run
    version: str
    after: str  # the key of the notebook before it
    reason: str

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.notebook.name

    @property
    def key(self) -> str:
        """The sha256 of all that decides this notebook's result."""
        about = [self.notebook.source, counted(self.parameters), self.version, self.after]
        return digest([*about, self.reads] if self.reads else about)


@dataclass(frozen=True)
class Plan:
    """A validated study, its run folder and its steps."""

    study: Any
    run: Run
    steps: tuple[Step, ...]

    @property
    def to_run(self) -> tuple[Step, ...]:
        """The steps that must run."""
        return tuple(step for step in self.steps if step.reason)

    def copy(self, step: Step) -> Path:
        """Return where a step's executed notebook lies."""
        return self.run.folder / "notebooks" / step.notebook.path.name


def run_study(
    file: str | Path,
    *,
    overlays: Iterable[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    force: bool = False,
    start: str | None = None,
    dry_run: bool = False,
    notebooks_dir: str | Path | None = None,
    study_class: type | None = None,
    estimate: Estimate | None = None,
) -> Plan:
    """Carry out a study: check all that it is given, then execute the notebooks that must run.

    Parameters
    ----------
    file, overlays, parameters
        A parameters file or its name, files whose keys replace its keys, and single values that
        replace all; `runs_dir` is one of the parameters.
    force
        Compute anew what is finished too.
    start
        Execute from this notebook on ("04", "4" or its full name), even unchanged ones; those
        before it must be finished with these parameters, and are left alone.
    dry_run
        Only print what would run, why, with what, and what it would take.
    notebooks_dir, study_class, estimate
        The notebooks, the model that validates, and what tells models, seconds and bytes of a
        study; by default the project's own.

    Returns
    -------
    Plan
        What was decided before anything ran.

    Raises
    ------
    StudyError
        If a file, key, value, `start`, or the disk is not fit; nothing has run then.
    mdhelpers.command.execution.NotebookFailed
        If a notebook stops before its end.
    """
    say("Checking the study …")
    from mdhelpers.stages.study import Study

    study_class = study_class or Study
    notebooks = find_notebooks(notebooks_dir)
    study, values = read_study(merge(file, overlays, parameters), notebooks, study_class)
    if isinstance(study, Study):
        from mdhelpers.stages.checks import check_study

        check_study(study, here=False)
    plan = make_plan(notebooks, study, values, force=force, start=start)
    costly = any(step.reason for step in plan.steps[:COSTLY])
    if costly or dry_run:
        say("Timing a few batches of its training …")
    needs = _needs(study, estimate) if costly or dry_run else {}
    if dry_run:
        from mdhelpers.command.estimates import describe

        print(describe(plan, needs))
        return plan
    check_room(plan)
    check_disk(plan.run, needs)
    if needs:
        from mdhelpers.command.estimates import needs_in_words

        print(f"The whole study: {needs_in_words(needs)}", flush=True)
    carry_out(plan, force=force)
    return plan


def say(text: str) -> None:
    """Say, beside what is printed, what takes seconds now."""
    print(text, file=sys.stderr, flush=True)


def make_plan(
    notebooks: Sequence[Notebook],
    study: Any,
    values: Mapping[str, Any],
    *,
    force: bool = False,
    start: str | None = None,
) -> Plan:
    """Decide for each notebook whether it must run, and why; see `run_study`."""
    run = Run(
        values["study"],
        profile=values.get("profile", "full"),
        runs_dir=values.get("runs_dir", "runs"),
    )
    plan, reads = Plan(study, run, ()), _reads(study)
    notebooks = [notebook for notebook in notebooks if notebook.concerns(values)]
    entries = read_entries(plan.run)
    first = _position(start, notebooks) if start is not None else 0
    why = "forced" if force else "asked for by --from" if start is not None else ""
    steps, after, again = [], "", ""
    for number, notebook in enumerate(notebooks):
        given = {name: values[name] for name in notebook.declares if name in values}
        read = reads.get(notebook.name, {})
        step = Step(notebook, given, read, package_version("mdhelpers"), after, "")
        entry = entries.get(notebook.name, {})
        if number < first:
            _must_be_finished(step, entry, plan, notebooks[first].name)
            after, reason = entry["key"], ""
        else:
            after, reason = step.key, _reason(step, entry, plan) or again or _order(step, entry)
        steps.append(replace(step, reason=reason or (why if number >= first else "")))
        again = f"{notebook.name} runs again" if steps[-1].reason else ""
    return Plan(study, run, tuple(steps))


def _reads(study: Any) -> Mapping[str, Mapping[str, Any]]:
    """What each notebook reads from outside of the run, where the study is one of the project's."""
    from mdhelpers.stages.study import Study

    if not isinstance(study, Study):
        return {}
    from mdhelpers.stages.outside import of_study

    return of_study(study)


def _position(start: str, notebooks: Sequence[Notebook]) -> int:
    names = [notebook.name for notebook in notebooks]
    for number, name in enumerate(names):
        digits = name[:2]
        if start in (name, digits, digits.lstrip("0"), f"{name}.ipynb"):
            return number
    raise StudyError(f"--from {start} names no notebook. Give one of {', '.join(names)}, or 01, …")


def _reason(step: Step, entry: Mapping[str, Any], plan: Plan) -> str:
    """Return why a step must run, leaving aside what happens to the steps before it now."""
    if not entry:
        return "not finished yet" if plan.copy(step).exists() else "never run"
    if changed := differences(counted(entry["parameters"]), counted(step.parameters)):
        return few(changed)
    if entry.get("reads", {}) != step.reads:
        return few(differences(entry.get("reads", {}), step.reads))
    if not plan.copy(step).exists():
        return "its executed copy is missing"
    if entry.get("copy") not in (None, file_digest(plan.copy(step))):
        return "its executed copy was changed"
    if plan.run.manifest(step.name).get("key") != entry["stage_key"]:
        return "its results were made anew, or discarded, outside of this run"
    for manifest in plan.run.of_notebook(step.name):
        if damage := plan.run.damage(manifest):
            return few(damage)
    if entry["source"] != step.notebook.source:
        return "the notebook changed"
    if entry["version"] != step.version:
        return f"mdhelpers was {entry['version']}, is {step.version}"
    return ""


def _order(step: Step, entry: Mapping[str, Any]) -> str:
    return "" if entry["after"] == step.after else "an earlier notebook was run again"


def _must_be_finished(step: Step, entry: Mapping[str, Any], plan: Plan, start: str) -> None:
    reason = "" if entry and plan.copy(step).exists() else "it is not finished"
    reason = reason or few(differences(counted(entry["parameters"]), counted(step.parameters)))
    if reason:
        raise StudyError(
            f"--from {start} needs {step.name} finished with these parameters, but in "
            f"{shown(plan.run.folder)}: {reason}. Run without --from."
        )


def _needs(study: Any, estimate: Estimate | None) -> Mapping[str, Any]:
    """Return the estimated models, seconds and bytes; empty where nothing can tell them."""
    if estimate is None:
        try:
            from mdhelpers.command.estimates import estimate
        except ImportError:
            return {}
    return estimate(study)


def check_room(plan: Plan) -> None:
    """Raise StudyError if what is still to be fitted cannot be had on this machine."""
    from mdhelpers.stages.capacity import no_room
    from mdhelpers.stages.study import Study

    still = any(step.reason for step in plan.steps[:FITTING])
    if still and isinstance(plan.study, Study) and (faults := no_room(plan.study)):
        raise StudyError("\n".join(faults))


def check_disk(run: Run, needs: Mapping[str, Any]) -> None:
    """Raise StudyError if the disk cannot hold what the run still has to write."""
    still = needs.get("bytes", 0) - folder_bytes(run.folder)
    free = free_bytes(run.folder)
    if still > free:
        raise StudyError(
            f"Not enough disk: {shown(run.folder)} needs about {in_words(still)} more, and "
            f"{in_words(free)} are free. Free some space, or set runs_dir to a larger disk."
        )


def carry_out(plan: Plan, *, force: bool = False) -> None:
    """Execute the steps of a plan that must run, and say what happens, a line at a time."""
    began = time.perf_counter()
    try:
        with locked(plan.run.path / ".run.lock", wait=False):
            plan.run.write_results()
            _begin(plan, force=force)
            for number, step in enumerate(plan.steps, start=1):
                _carry_out_step(plan, step, f"[{number}/{len(plan.steps)}] {step.name}")
    except Busy:
        raise StudyError(
            f"Another `mdhelpers run` works in {shown(plan.run.folder)}. Wait until it has "
            "finished, or stop it."
        ) from None
    except (OSError, RuntimeError) as error:
        if not is_disk_full(error):
            raise
        free = in_words(free_bytes(plan.run.folder))
        raise RuntimeError(
            f"The disk that holds {shown(plan.run.folder)} is full ({free} are free). What is "
            "finished stays. Make space, and the same command goes on from there."
        ) from error
    print(_farewell(plan, time.perf_counter() - began))


def _begin(plan: Plan, *, force: bool) -> None:
    """Forget what will be made anew, so that a run that is cut short never passes for whole.

    Pages that are no part of the study any more are forgotten too.
    """
    names, entries = [step.name for step in plan.to_run], read_entries(plan.run)
    left = [name for name in entries if name not in {step.name for step in plan.steps}]
    if not names and not left:
        return
    if force:
        _discard(plan.run, names)
    kept = {k: v for k, v in entries.items() if k not in (*names, *left)}
    write_json(keys_file(plan.run), kept)
    for name in (*names, *left):
        _put_away(plan.run.folder / "notebooks" / f"{name}.ipynb", entries.get(name, {}))


def _put_away(copy: Path, entry: Mapping[str, Any]) -> None:
    """Remove an executed notebook; one that somebody has changed since is kept by another name."""
    if not copy.exists() or entry.get("copy") in (None, file_digest(copy)):
        copy.unlink(missing_ok=True)
        return
    names = (copy.with_name(f"{copy.stem}-changed-{n}.ipynb") for n in itertools.count(1))
    kept = next(path for path in names if not path.exists())
    copy.rename(kept)
    print(f"{copy.name} was changed since it was executed: it is kept as {kept.name}", flush=True)


def _discard(run: Run, names: list[str]) -> None:
    from mdhelpers.runs.stage import MODELS
    from mdhelpers.stages.models import discard

    if MODELS in names:  # first, since it may refuse
        discard(run)
    for name in names:
        for manifest in run.of_notebook(name):
            run.stage(manifest["stage"], {}).withdraw()


def _carry_out_step(plan: Plan, step: Step, label: str) -> None:
    if not step.reason:
        print(f"{label}: skipped (finished before)", flush=True)
        return
    from mdhelpers.command.execution import execute

    print(f"{label}: running ({step.reason})", flush=True)
    began = time.perf_counter()
    execute(step.notebook.path, plan.copy(step), step.parameters, label=label)
    seconds = time.perf_counter() - began
    entry = {
        "key": step.key,
        "source": step.notebook.source,
        "parameters": step.parameters,
        "version": step.version,
        "after": step.after,
        "stage_key": plan.run.manifest(step.name).get("key"),
        "reads": step.reads,
        "copy": file_digest(plan.copy(step)),
        "seconds": round(seconds, 1),
        "finished": now(),
    }
    entry["sha256"] = digest(entry)
    write_json(keys_file(plan.run), read_entries(plan.run) | {step.name: entry})
    print(f"{label}: done in {duration(seconds)}", flush=True)


def _farewell(plan: Plan, seconds: float) -> str:
    ran, folder = len(plan.to_run), shown(plan.run.folder)
    profile = "" if plan.run.profile == "full" else f" --profile {plan.run.profile}"
    return (
        f"Finished in {duration(seconds)}: {ran} run, {len(plan.steps) - ran} skipped.\n"
        f"Figures:  {folder}/results.json\n"
        f"Pages:    {folder}/notebooks/\n"
        f"The book: mdhelpers book {plan.run.study}{profile}{plan.run.option()}"
    )
