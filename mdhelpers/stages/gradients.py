"""Scores from gradients, for stage 03: the models' gradients, task by task, and what they say.

Gradients are taken by the same processes or hosts that train (`mdhelpers.training.gradients`). They
lie in the run's folder until the scores that come of them are written, so that a stopped run
resumes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from tqdm import tqdm

from mdhelpers.base.arrays import open_npy, write_npy
from mdhelpers.method.engines.moments import within_slots
from mdhelpers.method.margins import relative_to_class
from mdhelpers.method.trak import DAMPINGS, Look, correlation, model_scores, predicted_by_others
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import DATAMODELS
from mdhelpers.stages.models import StudyModels
from mdhelpers.stages.study import GradientSpec
from mdhelpers.training.gradients import PARTS, GradientPlan, run_gradients, unfinished
from mdhelpers.training.mask_training import default_workers, log_report
from mdhelpers.training.tasks import TrainingPlan
from mdhelpers.training.workers.schedulers import failure_message, run_tasks

FILES = ("scores_1.npy", "scores_2.npy")
MEANS = "mean_scores"
LOG = "training.jsonl"  # of failures, which a message names
FOLDER = "gradients"


def gradient_plan(models: StudyModels, spec: GradientSpec) -> GradientPlan:
    """Which models' gradients are taken: of those that datamodels are fitted on, the first."""
    plan, first = models.plan, models.n_heldout
    own = {field.name: getattr(plan, field.name) for field in fields(TrainingPlan)}
    return GradientPlan(
        **own | {"folder": plan.folder / FOLDER, "run_folder": plan.run_folder or plan.folder},
        rows=(first, min(first + spec.models, plan.n_models)),
        at=tuple(spec.at),
        views=spec.views,
        dimension=spec.dimension,
    )


def take_gradients(
    plan: GradientPlan, *, workers: int = 0, scheduler: str = "local", cluster: dict | None = None
) -> None:
    """Take the gradients that are not there yet, with a progress bar.

    Raises
    ------
    RuntimeError
        When tasks failed, after all others are finished; it names them. What is done is kept.
    """
    plan.folder.mkdir(parents=True, exist_ok=True)
    tasks, failures, n_done = unfinished(plan), [], 0
    workers = workers or default_workers(plan, len(tasks))
    reports = run_tasks(plan, tasks, scheduler, workers, cluster, run=run_gradients)
    total = len(plan.numbers) * len(plan.tasks) * plan.stack
    begun = total - len(tasks) * plan.stack
    bar = tqdm(total=total, initial=begun, unit="model", desc="gradients", mininterval=2.0)
    with bar, closing(reports):
        for report in reports:
            if "failed" in report:
                log_report(plan.folder / LOG, report)
                failures.append(report)
            else:
                n_done += 1
                bar.update(report["models"])
    if failures:
        n_untried = len(tasks) - n_done - len(failures)
        raise RuntimeError(failure_message(plan, failures, n_untried, workers))


def forget_gradients(plan: GradientPlan) -> None:
    """Remove the files of gradients; the folder goes where nothing else lies in it."""
    for path in (*plan.folder.glob("*-?????-*.safetensors"), plan.folder / LOG):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        plan.folder.rmdir()


@dataclass(frozen=True, eq=False)
class ModelGradients:
    """What `take_gradients` left of one algorithm's models, and its best lambda.

    Attributes
    ----------
    damping : float
        Lambda of `mdhelpers.method.trak`.
    at_edge : bool
        Whether it is the smallest or the largest that was tried.
    foretold : float
        Mean correlation of the models' own outputs with what the others' scores say of them.
    """

    models: StudyModels
    plan: GradientPlan
    algorithm: int
    relative: bool
    damping: float = 0.0
    at_edge: bool = False
    foretold: float = 0.0

    @classmethod
    def chosen(
        cls, models: StudyModels, plan: GradientPlan, algorithm: int, relative: bool
    ) -> ModelGradients:
        """With the lambda that predicts models best by the scores of the others."""
        parts = models, plan, algorithm, relative
        found = {damping: cls(*parts).score(damping) for damping in DAMPINGS}
        best = max(found, key=found.get)
        return cls(*parts, best, best in (DAMPINGS[0], DAMPINGS[-1]), found[best])

    def __len__(self) -> int:
        return self.plan.rows[1] - self.plan.rows[0]

    def looks(self) -> Iterator[list[Look]]:
        """Each model's looks, in the order of models."""
        for row in range(*self.plan.rows):
            task, g = divmod(row, self.plan.stack)
            with safe_open(self.plan.path(self.algorithm, task), "numpy") as file:
                parts = [[f"{part}@{at:g}" for part in PARTS] for at in self.plan.at]
                # a function's own networks are looked at once, when they are trained
                parts = [names for names in parts if names[0] in file.keys()]  # noqa: SIM118
                yield [Look(*(file.get_slice(name)[g] for name in names)) for names in parts]

    def score(self, damping: float) -> float:
        trained = self.models.fitting(self.algorithm).rows(slice(len(self)))
        predicted = predicted_by_others(self.looks(), trained.masks, damping, device=self.plan.here)
        labels, slots = self.models.dataset.test.labels, self.models.slots(trained)
        if self.relative:
            predicted = relative_to_class(predicted, labels)
        if slots is not None and np.unique(slots, return_counts=True)[1].min() < 2:
            slots = None  # the mean of a slot of one model would take all of it away
        both = predicted, self.models.outputs(trained, self.relative)
        return correlation(*(less_slots(part, slots) for part in both))

    def scores(self) -> Iterator[np.ndarray]:
        """Each model's scores, relative to the class where outputs are: (1, n_test, n_train)."""
        for looks in self.looks():
            found = model_scores(looks, self.damping, device=self.plan.here)
            yield as_outputs(found, self.models, self.relative)[None]

    def write(self, path: Path) -> Path:
        shape = (len(self), self.models.plan.n_test, self.models.plan.n_train)
        return write_npy(path, shape, np.float32, self.scores())

    def mean(self) -> np.ndarray:
        """Mean scores, not relative to the class, (n_test, n_train)."""
        scores = partial(model_scores, damping=self.damping, device=self.plan.here)
        return sum(map(scores, self.looks())) / len(self)


def less_slots(values: np.ndarray, slots: np.ndarray | None) -> np.ndarray:
    """Values (n_models, n_test) less the mean of models of the same slot."""
    if slots is None:
        return values
    groups = torch.from_numpy(np.unique(slots, return_inverse=True)[1])
    given = torch.from_numpy(np.asarray(values, np.float32))
    return within_slots(given, groups, torch.arange(len(given))).numpy()


def writers(found: tuple[ModelGradients, ModelGradients]) -> dict:
    """What writes both algorithms' scores, by name."""
    return {
        name: partial(ModelGradients.write, each) for name, each in zip(FILES, found, strict=True)
    }


def mean_scores(run: Run, models: StudyModels, algorithm: int, relative: bool) -> np.ndarray:
    """Mean scores of one algorithm, (n_test, n_train), perhaps relative to the class."""
    return as_outputs(run.kept_arrays(DATAMODELS, MEANS)[str(algorithm)], models, relative)


def as_outputs(scores: np.ndarray, models: StudyModels, relative: bool) -> np.ndarray:
    """Scores (n_test, n_train) of what datamodels predict, perhaps relative to the class."""
    return relative_to_class(scores.T, models.dataset.test.labels).T if relative else scores


def read_scores(run: Run, algorithm: int) -> np.ndarray:
    """One algorithm's scores as stage 03 wrote them, (n_scored, n_test, n_train), on disk."""
    return open_scores(run.output(DATAMODELS, FILES[algorithm - 1]))


def open_scores(path: Path) -> np.ndarray:
    """Scores that `ModelGradients.write` wrote, on disk."""
    return open_npy(path, ("n_models", "n_test", "n_train"))
