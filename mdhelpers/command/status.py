"""How far the training of a run is: read from its stores and its log, while it runs or after.

Nothing is written. What is done is what the stores hold; rates, accuracy and failures come from
``training.jsonl``, a line per task.

Find damaged chunks in a run's stores, and have their models trained again.
"""

from __future__ import annotations

import contextlib
import math
import sys
import textwrap
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mdhelpers.base.places import duration, in_words, shown
from mdhelpers.base.records import few, read_or_empty
from mdhelpers.runs.run import is_run, read_plan, store_locations
from mdhelpers.runs.stage import MODELS
from mdhelpers.training.locations import open_location
from mdhelpers.training.mask_training import read_log
from mdhelpers.training.store import ModelStore, changed_tasks
from mdhelpers.training.store_files import DamagedChunk

LATELY = 300.0  # seconds


@dataclass(frozen=True)
class AlgorithmStatus:
    """One algorithm's models.

    Attributes
    ----------
    done, total
        Models.
    failed
        (task, message) of tasks that failed and have not been done since.
    rate, rate_lately
        Models a minute while the run was working: since it began, and in the last five minutes;
        NaN where no task was finished.
    accuracy
        Mean over the models done, on the test images; NaN before the first.
    size
        Bytes of the store.
    problem
        Why the store cannot be read; empty where it can.

    """

    name: str
    done: int
    total: int
    failed: tuple[tuple[int, str], ...] = ()
    rate: float = math.nan
    rate_lately: float = math.nan
    accuracy: float = math.nan
    size: int = 0
    problem: str = ""

    @property
    def seconds_left(self) -> float:
        """At the rate of the last minutes, or else of the whole run; NaN where neither is known."""
        if self.done >= self.total > 0:
            return 0.0
        rate = self.rate if math.isnan(self.rate_lately) else self.rate_lately
        return 60 * (self.total - self.done) / rate if rate else math.nan


@dataclass(frozen=True)
class RunStatus:
    """A run's training; ``algorithms`` is empty where it has not begun.

    ``quiet`` counts the seconds since a task was finished or failed where that is longer than any
    task took, and is 0 where the run seems to be at work.
    """

    folder: Path
    algorithms: tuple[AlgorithmStatus, ...] = ()
    quiet: float = 0.0

    @property
    def done(self) -> int:
        return sum(a.done for a in self.algorithms)

    @property
    def total(self) -> int:
        return sum(a.total for a in self.algorithms)

    @property
    def finished(self) -> bool:
        good = not any(a.problem for a in self.algorithms)
        return bool(self.algorithms) and good and self.done >= self.total

    @property
    def seconds_left(self) -> float:
        """Both algorithms are trained in turn: until the later one ends."""
        return float(np.max([a.seconds_left for a in self.algorithms])) if self.algorithms else 0.0


def status(run_folder: str | Path, *, now: float | None = None) -> RunStatus:
    """Look at a run; ``now`` is a Unix time, by default the present."""
    folder, now = Path(run_folder), time.time() if now is None else now
    plan = read_plan(folder)
    lines = read_log(folder / "training.jsonl")
    stores = store_locations(folder)
    names = plan.get("names") or [Path(str(store)).stem for store in stores]
    found = []
    for number, (name, store) in enumerate(zip(names, stores, strict=False), 1):
        own = [line for line in lines if line["algorithm"] == number]
        rates = models_a_minute(own, lines), models_a_minute(own, lines, since=now - LATELY)
        found.append(look_at(store, own, name=name, total=plan.get("n_models", 0), rates=rates))
    return RunStatus(folder, tuple(found), seconds_of_quiet(lines, now))


def look_at(
    location: Path | str, lines: list[dict], *, name: str, total: int, rates: tuple[float, float]
) -> AlgorithmStatus:
    """The status of one algorithm from its store and its lines of the log."""
    try:
        if not open_location(location).exists("zarr.json"):
            return AlgorithmStatus(name, 0, total, failures(lines, set()))
        store = ModelStore.open(location, read_only=True)
    except ValueError as error:
        return AlgorithmStatus(name, 0, total, problem=str(error))
    sizes = store.folder.sizes()
    tasks = store.tasks_of(key for key in sizes if key.startswith("margins/c/"))
    rows = [store.task_rows(task) for task in tasks]
    return AlgorithmStatus(
        name=store.identity.get("algorithm", {}).get("name", name),
        done=sum(r.stop - r.start for r in rows),
        total=total or store.n_models,
        failed=failures(lines, tasks),
        rate=rates[0],
        rate_lately=rates[1],
        accuracy=mean_accuracy(store, tasks, lines),
        size=sum(sizes.values()),
    )


def failures(lines: Iterable[dict], done: set[int]) -> tuple[tuple[int, str], ...]:
    """(task, message) of tasks that failed last and are not done."""
    last = {line["task"]: line.get("failed") for line in lines}
    return tuple((task, text) for task, text in sorted(last.items()) if text and task not in done)


def mean_accuracy(store: ModelStore, tasks: set[int], lines: Iterable[dict]) -> float:
    """Of the models done, from the log, or from the store where the log has not all of them."""
    last = {line["task"]: line["accuracy"] for line in lines if "accuracy" in line}
    if not tasks:
        return math.nan
    if tasks <= set(last):
        return float(np.mean([last[task] for task in tasks]))
    rows = np.concatenate([np.r_[store.task_rows(task)] for task in sorted(tasks)])
    try:
        return float(store.read_array("accuracy", rows).mean())
    except DamagedChunk:
        return math.nan


def models_a_minute(own: list[dict], every: list[dict], since: float = 0.0) -> float:
    """Models of ``own`` tasks a minute of the time in which any task was under way.

    A task that began before ``since`` counts by the part of it that lies after. Pauses of the run
    do not count, so that one that was stopped for a night keeps its rate.
    """
    working = seconds_covered(span for line in every if (span := interval(line, since)))
    models = 0.0
    for line in own:
        if span := interval(line, since):
            models += line["models"] * (span[1] - span[0]) / max(line["seconds"], 1e-9)
    return 60 * models / working if working else math.nan


def interval(line: dict, since: float) -> tuple[float, float] | None:
    """When a task was under way, from ``since`` on."""
    if "failed" in line or "at" not in line or line["at"] <= since:
        return None
    return max(line["at"] - line["seconds"], since), line["at"]


def seconds_covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    covered, reached = 0.0, -math.inf
    for start, end in sorted(intervals):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def seconds_of_quiet(lines: list[dict], now: float) -> float:
    times = [line["at"] for line in lines if "at" in line]
    longest = max((line.get("seconds", 0.0) for line in lines), default=0.0)
    quiet = now - max(times) if times else 0.0
    return quiet if quiet > max(LATELY, 3 * longest) else 0.0


# In words

HEAD = "{:<14} {:>12} {:>6} {:>7} {:>7} {:>8} {:>11} {:>8}"
COLUMNS = (
    "algorithm",
    "done/total",
    "failed",
    "per min",
    "lately",
    "accuracy",
    "time left",
    "on disk",
)


def status_text(found: RunStatus) -> str:
    """A plain table of 80 columns: a line per run, a line per algorithm, and what went wrong."""
    if not found.algorithms:
        return f"{shown(found.folder)}: {not_begun(found.folder)}"
    lines = [f"{shown(found.folder)}: {summary(found)}", HEAD.format(*COLUMNS)]
    lines += [row(a) for a in found.algorithms]
    notes = [f"{a.name}: {a.problem}" for a in found.algorithms if a.problem]
    for a in found.algorithms:
        told = [f"task {task}: {text}" for task, text in a.failed]
        notes += [f"{a.name}, failed and not trained since: {few(told)}"] if told else []
    lines += [textwrap.fill(note, 80, break_long_words=False) for note in notes]
    return "\n".join(lines)


def not_begun(folder: Path) -> str:
    """Why there is nothing to tell, and which runs there are where there is none of that name."""
    if is_run(folder):
        return "training has not begun (no plan and no models there)."
    there = sorted(path.name for path in folder.parent.glob("*") if is_run(path))
    beside = f" Beside it are {', '.join(there)} (by name, -smoke as --profile smoke)."
    return f"training has not begun, and there is no such run.{beside if there else ''}"


def summary(found: RunStatus) -> str:
    if found.finished:
        return f"all {found.total} models are trained."
    if any(a.problem for a in found.algorithms):
        return "its models cannot be read."
    text = f"{found.done} of {found.total} models"
    if found.quiet:
        return (
            f"{text}.\nNo task has ended for {duration(found.quiet)}: it has stopped, unless a "
            "task takes so long.\nThe same `mdhelpers run` goes on from there."
        )
    left = found.seconds_left
    return text + ("." if math.isnan(left) else f", {duration(left)} left.")


def row(a: AlgorithmStatus) -> str:
    name = a.name if len(a.name) <= 14 else a.name[:13] + "…"
    done = a.done >= a.total > 0
    left = "" if done else "?" if math.isnan(a.seconds_left) else duration(a.seconds_left)
    rates = (number(rate, 1 if rate < 1000 else 0) for rate in (a.rate, a.rate_lately))
    amounts = (*rates, number(a.accuracy, 3), left, in_words(a.size))
    return HEAD.format(name, f"{a.done}/{a.total or '?'}", len(a.failed), *amounts).rstrip()


def number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def watch(run_folder: str | Path, seconds: float) -> None:
    """Print the status every so many seconds until the run is finished."""
    while True:
        found = status(run_folder)
        if sys.stdout.isatty():
            print("\033[H\033[J", end="")
        print(status_text(found), flush=True)
        if found.finished:
            return
        time.sleep(seconds)


LOST, CHANGED = "all of task", "other models in task"
Checked = list[tuple[ModelStore, list[tuple[str, int]]]]


def check_run(run_folder: str | Path) -> Checked:
    """Each store of a run with its damaged chunks, (array, task); every chunk is read.

    Of a finished run a task that is lost counts as damaged too, and one that is whole but not what
    was written. Of models that were trained to verify by, the damaged stores are listed alone.
    """
    folder = Path(run_folder)
    there = [at for at in store_locations(folder) if open_location(at).exists("zarr.json")]
    told = outputs_of(folder)
    found = []
    for location in there:
        store = ModelStore.open(location)
        bad = store.check()
        known = {task for _, task in bad}
        name = Path(str(location)).name
        if name in told:  # the stage was finished: no task may be missing, or another
            lost = [(LOST, task) for task in store.missing_tasks()]
            changed = [(CHANGED, t) for t in changed_tasks(store, told[name]) if t not in known]
            bad = bad + lost + changed
        found.append((store, bad))
    again = [ModelStore.open(path) for path in sorted(folder.glob("retrained/*/models_?.zarr"))]
    return found + [(store, bad) for store in again if (bad := store.check())]


def outputs_of(folder: Path) -> dict:
    """What the finished stage 02 said of its outputs, by name; empty where it is not finished."""
    outputs = read_or_empty(folder / "stages" / f"{MODELS}.json").get("outputs", {})
    return outputs if isinstance(outputs, dict) else {name: {} for name in outputs}


def check_text(checked: Checked) -> str:
    lines = [] if checked else ["No models to check."]
    for store, bad in checked:
        name = Path(str(store.path)).name
        lines.append(
            f"{name}: {len(store.done_tasks())} tasks checked, {len(bad) or 'no'} damaged chunks"
        )
        for array, task in bad:
            rows = store.task_rows(task)
            what = array if array in (LOST, CHANGED) else f"{array} of task"
            lines.append(f"  {what} {task} (models {rows.start} to {rows.stop - 1})")
    return "\n".join(lines)


def mend(run_folder: str | Path, checked: Checked) -> int:
    """Forget the damaged tasks, so that the next run trains them again; returns the models."""
    models = 0
    for store, bad in checked:
        for task in sorted({task for _, task in bad}):
            rows = store.task_rows(task)
            models += rows.stop - rows.start
            store.forget(task)
    if models:  # else the stage would pass for finished, and the run would skip it
        stages = Path(run_folder) / "stages"
        with contextlib.suppress(FileNotFoundError):
            (stages / f"{MODELS}.json").replace(stages / f"{MODELS}.withdrawn")
    return models
