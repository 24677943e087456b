"""Stage 01: the images of a study, made or read from elsewhere, in the run's ``data/``.

All stages are alike. A stage function opens what it reads, asks the run whether its results are
there from the same parameters and inputs, computes what is missing, keeps it, and returns the
results in memory. The science is elsewhere; this is where it meets files.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import Dataset, DatasetSpec, read_dataset, save_dataset
from mdhelpers.data.sources import data_digest, load_dataset
from mdhelpers.runs.run import Run, readable
from mdhelpers.runs.stage import DATA

SPLITS = ("train", "test")


def prepare_data(run: Run, dataset: dict, *, write_beton: bool = False) -> Dataset:
    """Stage 01: make or read the images, and return them.

    Parameters
    ----------
    run
        The run's folder.
    dataset
        See `mdhelpers.data.datasets.DatasetSpec`.
    write_beton
        Also write FFCV's ``train.beton`` and ``test.beton``.

    """
    spec = validate(DatasetSpec, dataset, "dataset")
    parameters = {"dataset": spec.model_dump(), "write_beton": write_beton}
    stage = run.stage(DATA, parameters | data_from_outside(spec))
    with stage.working() as needed:
        if needed:
            data = load_dataset(spec)
            stage.withdraw()
            stage.finish(write_data(run, data, write_beton), figures=data_figures(data, spec))
    return read_data(run)


def write_data(run: Run, data: Dataset, write_beton: bool) -> list[Path]:
    folder = run.path / "data"
    paths = save_dataset(data, folder)
    if write_beton:
        from mdhelpers.training import loading  # FFCV and torch, which images alone do without

        paths += [loading.write_beton(getattr(data, p), folder / f"{p}.beton") for p in SPLITS]
        if data.train.stored is not None:
            larger = replace(data.train, images=data.train.stored)
            paths.append(loading.write_beton(larger, folder / loading.STORED_BETON))
    return paths


def data_from_outside(spec: DatasetSpec) -> dict[str, Any]:
    """What the stage reads beside its parameters."""
    pictures = data_digest(spec)
    return {"pictures": pictures} if pictures else {}


def data_figures(data: Dataset, spec: DatasetSpec) -> dict[str, Any]:
    return {
        "kind": spec.kind,
        "fingerprint": data.fingerprint,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "size": data.size[0],
        "class_names": list(data.class_names),
        "planted": {p: getattr(data, p).truth.sum().to_dict() for p in SPLITS},
    }


def read_data(run: Run, *, mmap: bool = False) -> Dataset:
    """The images as stage 01 wrote them, held against its digests; `mmap` leaves them on disk."""
    names = {path.name for path in run.outputs(DATA, "data/*")}
    with readable(run, DATA):
        foreground = "train_foreground.npy" in names
        return read_dataset(run.folder / "data", mmap=mmap, foreground=foreground)
