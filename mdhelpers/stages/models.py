"""Stage 02: the models of both algorithms, trained here or read from elsewhere.

A run that was stopped resumes: what is trained stays in the stores, task by task, and only what is
missing, damaged or changed since is trained. So this stage withdraws its manifest before it trains,
and not, as the others do, once all is computed.
"""

from __future__ import annotations

import contextlib
import math
import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mdhelpers.base.places import shown
from mdhelpers.base.threads import spread
from mdhelpers.data.datasets import Dataset
from mdhelpers.formats.models import given_models, import_models, origins
from mdhelpers.method.margins import relative_to_class, worst_group_accuracy
from mdhelpers.runs.run import Run, StudyError, checked, store_locations
from mdhelpers.runs.stage import DATA, MODELS, is_inside, lies_in, problem
from mdhelpers.stages.capacity import fit_memory
from mdhelpers.stages.data import read_data
from mdhelpers.stages.outside import algorithms_from_outside
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.learners import TrainedModels
from mdhelpers.training.loading import are_large, choose_loader, open_source, write_beton
from mdhelpers.training.locations import open_location
from mdhelpers.training.mask_training import default_workers, train_all
from mdhelpers.training.store import ModelStore, changed_tasks
from mdhelpers.training.store_files import Trained
from mdhelpers.training.tasks import TrainingPlan, choose_stack, load_kept, resolve_device, sources
from mdhelpers.training.workers.processes import visible_gpus


@dataclass(frozen=True, eq=False)
class StudyModels:
    """What stage 02 made: both algorithms' models, held-out ones apart."""

    plan: TrainingPlan
    dataset: Dataset
    n_heldout: int

    @property
    def made_elsewhere(self) -> bool:
        """Whether the models were read from files, so that there are no networks to run."""
        return bool(self.plan.origins)

    @property
    def names(self) -> tuple[str, str]:
        """The algorithms' own names."""
        return tuple(spec.name for spec in self.plan.algorithms)

    def kept(self, algorithm: int, n_models: int | None = None) -> list[TrainedModels]:
        """The first kept models (all of them by default), held against the run's digests."""
        check, n = partial(checked, self.plan.folder, MODELS), n_models or self.plan.n_keep
        return load_kept(self.plan, algorithm, n, check=check)

    def logits(self, algorithm: int, images: np.ndarray) -> torch.Tensor:
        """What the kept models say of images, (n_kept, n_images, n_classes), on the CPU."""
        none = torch.empty(0, len(images), len(self.dataset.class_names))
        found = [stack.logits(images) for stack in self.kept(algorithm)]
        return torch.cat([none, *found])[: self.plan.n_keep]

    def confidences(self, algorithm: int) -> np.ndarray:
        """Softmax of the kept models on the test images, (n_kept, n_test, n_classes) float32."""
        return softmax(self.kept(algorithm), self.dataset.test.images, self.plan.n_keep)

    def all(self, algorithm: int, n_models: int | None = None) -> Trained:
        """Every model of algorithm 1 or 2, or the first ones."""
        given = self.plan.store_path(algorithm), {"data": self.plan.fingerprint}
        store = ModelStore.open(*given, read_only=True)
        return store.read(n_models or self.plan.n_models)

    def heldout(self, algorithm: int) -> Trained:
        """The models kept aside to grade datamodels."""
        return self.all(algorithm, self.n_heldout).rows(slice(0, self.n_heldout))

    def fitting(self, algorithm: int) -> Trained:
        """The models that datamodels are fitted on."""
        return self.all(algorithm).rows(slice(self.n_heldout, None))

    def outputs(self, trained: Trained, relative: bool) -> np.ndarray:
        """What datamodels predict, (n_models, n_test): margins, perhaps relative to the class."""
        labels = self.dataset.test.labels
        return relative_to_class(trained.margins, labels) if relative else trained.margins

    def worst_group(self, algorithm: int) -> np.ndarray | None:
        """Accuracy of each model on its worst group of test images, (n_models,).

        None where images have no ``group`` in their metadata, or where who is right is not known,
        as of log-odds of several classes.
        """
        spec, metadata = self.plan.algorithms[algorithm - 1], self.dataset.test.metadata
        trained, two = self.all(algorithm), len(self.dataset.class_names) == 2
        known = np.isfinite(trained.accuracy).all() and (two or not spec.gives_probabilities)
        if "group" not in metadata or not known:
            return None
        return worst_group_accuracy(trained.margins > 0, metadata["group"].to_numpy())

    def slots(self, trained: Trained) -> np.ndarray | None:
        """The common initialisations of some models, or None where each had its own."""
        return trained.slots if self.plan.n_slots else None


def softmax(stacks: list[TrainedModels], images: np.ndarray, n: int) -> np.ndarray:
    """Confidences of the first ``n`` models, (n, n_images, n_classes) float32."""
    stateless = all(stack.stateless for stack in stacks)
    found = spread(partial(_logits, images), stacks, at_once=0 if stateless else 1)
    return torch.cat([logits.softmax(-1) for logits in found])[:n].numpy()


def _logits(images: np.ndarray, stack: TrainedModels) -> torch.Tensor:
    return stack.logits(images)


def train_models(
    run: Run,
    algorithm_1: dict[str, Any],
    algorithm_2: dict[str, Any],
    *,
    n_models: int,
    n_heldout: int,
    n_kept: int,
    alpha: float = 0.5,
    n_slots: int = 0,
    share_order: bool = False,
    stack: int = 0,
    margins_dtype: str = "float32",
    models_url: str = "",
    models_1_given: dict[str, Any] | None = None,
    models_2_given: dict[str, Any] | None = None,
    seed: int = 0,
    loader: str = "auto",
    device: str = "auto",
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict[str, Any] | None = None,
) -> StudyModels:
    """Stage 02: train every model of both algorithms; a killed run resumes.

    Parameters
    ----------
    run
        The run's folder, with stage 01 finished.
    algorithm_1, algorithm_2
        See `mdhelpers.training.algorithms.AlgorithmSpec`.
    n_models, n_heldout
        Models of each algorithm that datamodels are fitted on, and that grade them.
    n_kept
        Models of each that are kept whole, held-out ones first.
    alpha
        The share of the training images in a mask.
    n_slots, share_order
        Common initialisations that models share in turn (0: each its own), and whether the models
        of one share the order of images and their augmentation too.
    stack
        Models trained side by side in one network; 0 leaves it to the architecture and device.
    margins_dtype, models_url
        How margins are stored, and where; in the run's folder by default.
    models_1_given, models_2_given
        `mdhelpers.formats.models.GivenModels`: models trained elsewhere; nothing is trained then.
    loader
        Where training images come from: memory, ffcv, or auto, which is ffcv where they take more
        than half of the memory (`mdhelpers.training.loading`). No result depends on it.
    device, workers, scheduler, cluster
        Who trains, see `mdhelpers.training.mask_training.train_all`; no result depends on it, but
        for the kind of device.

    """
    specs = [
        parse_algorithm(spec, f"algorithm_{a}")
        for a, spec in enumerate((algorithm_1, algorithm_2), 1)
    ]
    for spec in specs:
        spec.check()
    parameters = {
        "algorithm_1": specs[0].model_dump(),
        "algorithm_2": specs[1].model_dump(),
        "n_models": n_models,
        "n_heldout": n_heldout,
        "n_effect_models": n_kept,  # as it was called before: finished runs stay finished
        "alpha": alpha,
        "n_slots": n_slots,
        "share_order": share_order,
        "stack": stack,
        "margins_dtype": margins_dtype,
        "models_url": models_url,
        "models_1_given": models_1_given or {},
        "models_2_given": models_2_given or {},
        "seed": seed,
    }
    if given := given_models(parameters):
        parameters |= {"n_slots": 0, "n_effect_models": 0, "origins": origins(given)}
    else:
        parameters |= algorithms_from_outside(*specs)
    stage = run.stage(MODELS, parameters, after=[DATA])
    with stage.working() as needed:
        if needed:
            data, where = read_data(run, mmap=True), resolve_device(device, scheduler)
            plan = training_plan(run.path, data, parameters, where)
            plan = replace(plan, loader=chosen_loader(plan, data, loader, workers))
            refuse_others(plan)
            stage.withdraw()
            mark_stores(run, plan)
            mend_stores(plan, stage.before)
            if given:
                begun = import_models(plan, given)
            else:
                begun = train_all(plan, workers=workers, scheduler=scheduler, cluster=cluster)
            figures = training_figures(StudyModels(plan, data, n_heldout), begun)
            stage.finish(model_outputs(plan), figures=figures)
    return read_models(run, device=device)


def chosen_loader(plan: TrainingPlan, data: Dataset, loader: str, workers: int) -> str:
    """What a study's ``loader`` stands for; FFCV's file is written where ``auto`` takes it."""
    if loader != "auto":
        return loader
    size = data.train.images.nbytes, copies(plan, workers), fit_memory(plan.here)
    if choose_loader(*size) == "memory":
        return "memory"
    try:
        open_source(plan.data_folder, "ffcv", "cpu")
    except (FileNotFoundError, ValueError):  # not there, or of other images
        write_beton(data.train, plan.data_folder / "train.beton")
    return "ffcv"


def copies(plan: TrainingPlan, workers: int = 0) -> int:
    """Processes that share a memory, of this machine or of one of its cards."""
    n = workers or default_workers(plan, 2 * plan.n_tasks)
    return n if plan.device == "cpu" else math.ceil(n / max(len(visible_gpus()), 1))


def model_outputs(plan: TrainingPlan) -> list[str | Path]:
    """What stage 02 has made: stores, kept networks, source models."""
    kept = -(-plan.n_keep // plan.stack)
    paths = [plan.checkpoint_path(a, task) for a in (1, 2) for task in range(kept)]
    paths += sources(plan)
    return [f"models_{a}.zarr" for a in (1, 2)] + [path for path in paths if path.exists()]


def refuse_others(plan: TrainingPlan) -> None:
    """Raise ValueError where a store holds models that were made otherwise; nothing is touched."""
    for algorithm in plan.numbers:
        with contextlib.suppress(FileNotFoundError):
            ModelStore.open(plan.store_path(algorithm), plan.identity(algorithm), read_only=True)


OWNER = "made_by"


def mark_stores(run: Run, plan: TrainingPlan) -> None:
    """Mark the stores that this run makes outside of its folder, so that it may remove them."""
    for algorithm in plan.numbers if plan.models_url else ():
        folder = open_location(plan.store_path(algorithm))
        if not folder.exists("zarr.json"):
            plan.create_store(algorithm)
            folder.write(OWNER, run.id.encode())


def mend_stores(plan: TrainingPlan, before: dict[str, Any]) -> None:
    """Forget what was changed since it was trained, so that it is trained again.

    ``before`` are the outputs as the stage wrote them, by name.
    """
    for algorithm in plan.numbers:
        with contextlib.suppress(FileNotFoundError):
            store = ModelStore.open(plan.store_path(algorithm))
            for task in changed_tasks(store, before.get(f"models_{algorithm}.zarr", {})):
                store.forget(task)
    for name in before:
        path = plan.folder / name
        if path.is_file() and is_inside(name) and problem(path, before[name], thorough=True):
            path.unlink()


def remove_changed(run: Run, name: str) -> None:
    """Remove what a stage has trained and is not that any more, so that it is trained anew.

    What is whole in itself and of other models no checksum tells.
    """
    manifest = run.manifest(name)
    for output in manifest.get("outputs", ()):
        path = run.folder / output
        ours = is_inside(output) and lies_in(path, run.folder)
        if ours and run.problem(manifest, output, thorough=True):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)


def training_plan(
    folder: Path, data: Dataset, parameters: dict[str, Any], device: str
) -> TrainingPlan:
    """What to train in a run's folder, from the parameters of stage 02."""
    algorithms = tuple(parse_algorithm(parameters[f"algorithm_{a}"]) for a in (1, 2))
    n_models = parameters["n_heldout"] + parameters["n_models"]
    return TrainingPlan(
        folder=folder,
        algorithms=algorithms,
        fingerprint=data.fingerprint,
        n_train=len(data.train),
        n_test=len(data.test),
        seed=parameters["seed"],
        alpha=parameters["alpha"],
        n_models=n_models,
        n_keep=parameters["n_effect_models"],
        n_slots=parameters["n_slots"],
        share_order=parameters["share_order"],
        stack=parameters["stack"] or choose_stack(algorithms, n_models, device),
        device=device,
        models_url=parameters["models_url"],
        margins_dtype=parameters["margins_dtype"],
        origins=tuple(parameters.get("origins", ())),
    )


def read_models(run: Run, *, device: str = "auto") -> StudyModels:
    """The finished models of a run, for the stages that read them."""
    run.check(MODELS)
    data, parameters = read_data(run), run.manifest(MODELS)["parameters"]
    plan = training_plan(run.path, data, parameters, resolve_device(device, "elsewhere"))
    stack = ModelStore.open(plan.store_path(1), read_only=True).rows_per_task
    plan = replace(plan, stack=stack)  # as trained, perhaps on another kind of device
    size = data.train.images.nbytes, copies(plan), fit_memory(plan.here)
    if are_large(*size) and (plan.data_folder / "train.beton").exists():
        plan = replace(plan, loader="ffcv")
    return StudyModels(plan, data, parameters["n_heldout"])


def training_figures(models: StudyModels, begun: dict) -> dict:
    figures = {
        "n_models": models.plan.n_models - models.n_heldout,
        "n_heldout": models.n_heldout,
        "workers": begun["workers"],
        "trained_now": begun["models"],
        "models_per_minute": 60 * begun["models"] / max(begun["seconds"], 1e-9),
    }
    for algorithm in (1, 2):
        accuracy = models.all(algorithm).accuracy
        figures[f"name_{algorithm}"] = models.names[algorithm - 1]
        figures[f"accuracy_{algorithm}"] = accuracy.mean()
        figures[f"accuracy_sd_{algorithm}"] = accuracy.std()
        if (worst := models.worst_group(algorithm)) is not None:
            figures[f"worst_group_{algorithm}"] = worst.mean()
    return figures


MADE = ("models_?.zarr", "checkpoints_?", "sources", "retrained", "gradients", "further")
MADE += ("training.jsonl", "plan.json")


def discard(run: Run) -> None:
    """Remove the models that stage 02 has trained, which it would take up again.

    Only what lies in the run's folder itself goes, and stores elsewhere that bear the run's mark.

    Raises
    ------
    StudyError
        If there is something that the run may not remove; nothing is removed then.
    """
    paths = [path for pattern in MADE for path in run.path.glob(pattern)]
    if leading_out := [path for path in paths if not lies_in(path, run.folder)]:
        raise StudyError(
            f"{shown(leading_out[0])} is a link that leads out of the run, and --force removes "
            "only what lies in it. Remove the link, and what it leads to if you wish, yourself."
        )
    stores = [open_location(location) for location in store_locations(run.folder)]
    stores = [store for store in stores if store.exists("zarr.json")]
    elsewhere = [store for store in stores if store.location not in paths]
    for store in elsewhere:
        if store.read(OWNER) != run.id.encode():
            raise StudyError(
                f"{store.location} was not made by this run, or this run was copied or moved "
                "since; --force removes only what a run made. Remove it yourself, or set "
                "models_url to another place."
            )
    for store in elsewhere:
        store.clear()
    for path in [*paths, run.folder / "stages" / f"{MODELS}.withdrawn"]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
