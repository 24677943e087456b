"""Models that were trained elsewhere, taken into a run in place of its own.

Their masks and margins are copied into the run's stores, so that everything after stage 02 reads
them as it reads any other. What needs the networks themselves (counterfactuals, training again) is
not to be had for them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from mdhelpers.importers import (
    MasksAndMargins,
    check_shapes,
    open_arrays,
    read_masks_and_margins,
)
from mdhelpers.integrity import content_digest
from mdhelpers.paths import resolve
from mdhelpers.plans import TrainingPlan
from mdhelpers.specs import Spec, validate

__all__ = ["GivenModels", "given_models", "import_models", "origins"]


class GivenModels(Spec):
    """Where masks and margins of one algorithm's models lie; see `mdhelpers.importers`.

    ``masks`` and ``margins`` are ``.npy`` files, or ``masks`` is a folder of the datamodels
    package. ``labels`` are needed where ``margins`` holds logits.
    """

    masks: str
    margins: str = ""
    labels: str = ""
    orientation: Literal["models_first", "examples_first"] | None = None
    output: Literal["margin", "log_odds"] = "margin"

    @property
    def files(self) -> list[Path]:
        """The files, or the folder, named; absolute."""
        if resolve(self.masks).is_dir():
            return [resolve(self.masks)]
        return [resolve(name) for name in (self.masks, self.margins, self.labels) if name]


def given_models(parameters: dict) -> dict[int, GivenModels]:
    """What ``models_1_given`` and ``models_2_given`` say, by algorithm; empty where both are.

    Raises
    ------
    ValueError
        If only one of them is given, or one is not as it should be.
    """
    keys = {algorithm: f"models_{algorithm}_given" for algorithm in (1, 2)}
    given = {a: validate(GivenModels, parameters[k], k) for a, k in keys.items() if parameters[k]}
    if len(given) == 1:
        raise ValueError(
            f"models_{3 - min(given)}_given is empty; models of both algorithms are trained here, "
            "or of neither. A comparison with models that you train here takes scores: fit "
            "datamodels for each, and give notebook 04 datamodels_1_path and datamodels_2_path."
        )
    return given


def origins(given: dict[int, GivenModels]) -> list[str]:
    """Names and digests of each algorithm's files, so that changed ones are read again.

    Raises
    ------
    FileNotFoundError
        If one of them is not there.
    """
    return [" ".join(map(stamp, given[algorithm].files)) for algorithm in sorted(given)]


def stamp(path: Path) -> str:
    """A file's name and digest; of a folder, those of its arrays."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; it should hold masks or margins of models")
    if path.is_dir():
        return " ".join(stamp(file) for file in sorted(path.glob("*.npy")))
    return f"{path.name} {content_digest(path)[:16]}"


def import_models(
    plan: TrainingPlan, given: dict[int, GivenModels], *, progress: bool = True
) -> dict:
    """Copy the first ``plan.n_models`` models of each algorithm into the run's stores.

    Returns
    -------
    dict
        As `mdhelpers.mask_training.train_all`: ``models``, ``seconds`` and ``workers``.

    Raises
    ------
    ValueError
        If what is read does not fit the run's data, or has too few models.
    """
    read = {algorithm: open_models(plan, spec) for algorithm, spec in given.items()}
    for algorithm, models in read.items():
        store = plan.create_store(algorithm)
        bar = tqdm(range(store.n_tasks), desc=f"reading models {algorithm}", disable=not progress)
        for task in bar:
            rows = rows_of(models, store.task_rows(task), store.layout["n_epochs"])
            store.write_task(task, rows)
    return {"models": 0, "seconds": 0.0, "workers": 0}


def check_given(given: GivenModels, *, n_models: int, n_train: int, n_test: int) -> None:
    """Hold the shapes of given masks and margins against the study's sizes; nothing is read.

    Raises
    ------
    FileNotFoundError, ValueError
        If a file is not there, or is of other sizes.
    """
    for path in given.files:
        if not path.exists():
            raise FileNotFoundError(
                f"there is no {path}; it should hold masks or margins of models"
            )
    masks, margins, _ = open_arrays(resolve(given.masks), margins_path(given))
    if given.orientation == "examples_first":
        masks, margins = masks.T, margins.swapaxes(0, 1)
    check_shapes(masks.shape, margins.shape, n_train, n_test, given.orientation)
    refuse_too_few(given, len(masks), n_models)


def margins_path(given: GivenModels) -> str | Path:
    """Where margins lie; with a folder of masks, the name of the array in it."""
    folder = resolve(given.masks).is_dir()
    return given.margins if folder or not given.margins else resolve(given.margins)


def refuse_too_few(given: GivenModels, there: int, wanted: int) -> None:
    if there < wanted:
        raise ValueError(
            f"{resolve(given.masks)} holds {there} models, and n_heldout + n_models = {wanted}; "
            "lower one of the two."
        )


def open_models(plan: TrainingPlan, given: GivenModels) -> MasksAndMargins:
    """What the files hold, checked against the sizes of the run's data."""
    models = read_masks_and_margins(
        resolve(given.masks),
        margins_path(given),
        labels=resolve(given.labels) if given.labels else None,
        n_train=plan.n_train,
        n_test=plan.n_test,
        orientation=given.orientation,
        output=given.output,
    )
    refuse_too_few(given, len(models.masks), plan.n_models)
    return models


def rows_of(models: MasksAndMargins, rows: slice, n_epochs: int) -> dict[str, np.ndarray]:
    """What a store wants of some models: what nobody knows is NaN, and each has its own start."""
    margins = np.asarray(models.margins[rows], np.float32)
    n = len(margins)
    return {
        "masks": np.asarray(models.masks[rows]),
        "margins": margins,
        "accuracy": models.accuracy[rows],
        "losses": np.full((n, n_epochs), np.nan, np.float32),
        "seeds": np.zeros((n, 2), np.uint64),
        "slots": np.full(n, -1, np.int32),
        "seconds": np.full(n, np.nan, np.float32),
    }
