"""A study through all notebooks in a minute or two, and what a run of it left, for comparison."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

TINY = {
    "study": "tiny",
    "dataset": {"kind": "scenes", "size": 16, "n_train": 60, "n_test": 90, "share": 0.3},
    "algorithm_1": {"name": "one", "epochs": 2, "width": 4},
    "algorithm_2": {"name": "two", "epochs": 2, "width": 4, "augmentation": {"shift": 2}},
    "n_models": 32,
    "n_heldout": 16,
    "n_slots": 2,
    "n_kept": 8,
    "n_effect_models": 4,
    "n_reinitialised": 4,
    "n_removal_tests": 2,
    "n_models_per_set": 2,
    "n_clusters": 3,
    "selection_sizes": [20],
    "n_directions": 3,
    "n_splits": 1,
    "n_null_splits": 1,
    "n_lams": 8,
    "top_k": 10,
    "caption_steps": 20,
    "n_tilted": 1,
    "n_random_tilts": 1,
    "n_tilt_pairs": 4,
    "method": "lasso",
    "workers": 2,
    "hypotheses": [
        {"transformation": "tag", "intensities": [4], "target_class": "boat", "uses": 1},
    ],
}
OF_TIMES = {"seconds", "run", "finished", "trained_now", "models_per_minute", "workers"}


def write_study(folder: Path, **changes) -> Path:
    """Write the parameters file of the tiny study, whose runs lie in `folder/runs`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY | {"runs_dir": str(folder / "runs")} | changes))
    return path


def fingerprints(run: Path) -> dict[str, str]:
    """A digest of everything in a finished run but wall times and executed notebooks.

    Stores, safetensors, parquet and pictures byte by byte; of results.json all figures that are
    no times.
    """
    kept = (".npy", ".safetensors", ".parquet", ".png", ".npz")
    paths = [p for p in run.rglob("*") if p.is_file() and not p.name.startswith(".")]
    found = {}
    for path in paths:
        name = path.relative_to(run)
        if path.suffix in kept or (".zarr" in str(name) and "seconds" not in name.parts):
            found[name.as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    results = without_times(json.loads((run / "results.json").read_text(encoding="utf-8")))
    return found | {"results.json": hashlib.sha256(json.dumps(results).encode()).hexdigest()}


def without_times(value):
    if isinstance(value, dict):
        return {
            key: without_times(item)
            for key, item in sorted(value.items())
            if not any(key == word or key.startswith("seconds_a") for word in OF_TIMES)
        }
    return [without_times(item) for item in value] if isinstance(value, list) else value
