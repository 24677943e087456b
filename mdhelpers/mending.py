"""Find damaged chunks in a run's stores, and have their models trained again."""

from __future__ import annotations

from pathlib import Path

from mdhelpers.locations import open_location
from mdhelpers.status import store_locations
from mdhelpers.store import ModelStore

TRAINING = "02_mask_training"
Checked = list[tuple[ModelStore, list[tuple[str, int]]]]


def check_run(run_folder: str | Path) -> Checked:
    """Each store of a run with its damaged chunks, (array, task); every chunk is read."""
    there = [
        at for at in store_locations(Path(run_folder)) if open_location(at).exists("zarr.json")
    ]
    stores = [ModelStore.open(location) for location in there]
    return [(store, store.check()) for store in stores]


def check_text(checked: Checked) -> str:
    lines = [] if checked else ["No models to check."]
    for store, bad in checked:
        name = Path(str(store.path)).name
        lines.append(
            f"{name}: {len(store.done_tasks())} tasks checked, {len(bad) or 'no'} damaged chunks"
        )
        for array, task in bad:
            rows = store.task_rows(task)
            lines.append(f"  {array} of task {task} (models {rows.start} to {rows.stop - 1})")
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
        (Path(run_folder) / "stages" / f"{TRAINING}.json").unlink(missing_ok=True)
    return models
