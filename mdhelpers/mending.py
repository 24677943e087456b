"""Find damaged chunks in a run's stores, and have their models trained again."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mdhelpers.integrity import changed_tasks
from mdhelpers.locations import open_location
from mdhelpers.records import read_or_empty
from mdhelpers.status import store_locations
from mdhelpers.store import ModelStore

TRAINING = "02_mask_training"
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
    outputs = read_or_empty(folder / "stages" / f"{TRAINING}.json").get("outputs", {})
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
            (stages / f"{TRAINING}.json").replace(stages / f"{TRAINING}.withdrawn")
    return models
