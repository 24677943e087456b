"""Stages 01 to 03 of a run: data, models, datamodels. Each returns at once what is finished.

A stage function checks its parameters, asks the run whether its results are there from the same
parameters and inputs, computes what is missing, and returns the results in memory. The science is
elsewhere; this is where it meets files.
"""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mdhelpers import datamodels as dm
from mdhelpers import inputs
from mdhelpers.algorithms import parse_algorithm
from mdhelpers.beton import write_beton as write_beton_file
from mdhelpers.datasets import Dataset, DatasetSpec, read_dataset, save_dataset
from mdhelpers.image_folders import load_dataset
from mdhelpers.imported_models import given_models, import_models, origins
from mdhelpers.integrity import changed_tasks, is_inside, lies_in, problem
from mdhelpers.lds import LDS, lds
from mdhelpers.learners import check_algorithm
from mdhelpers.locations import open_location
from mdhelpers.mask_training import train_all
from mdhelpers.outputs import relative_to_class
from mdhelpers.paths import shown
from mdhelpers.plans import TrainingPlan, choose_stack, resolve_device
from mdhelpers.pretraining import sources
from mdhelpers.runs import Run, StudyError, readable
from mdhelpers.specs import validate
from mdhelpers.status import store_locations
from mdhelpers.store import ModelStore, Trained
from mdhelpers.threads import spread

DATA, MODELS, DATAMODELS = "01_data_prep", "02_mask_training", "03_datamodel_fitting"
ALGORITHMS = ("algorithm_1", "algorithm_2")


def prepare_data(run: Run, dataset: dict, *, write_beton: bool = False) -> Dataset:
    """Stage 01: make or read the images and write them to ``data/``.

    Parameters
    ----------
    run
        The run's folder.
    dataset
        See `mdhelpers.studies.DatasetSpec`.
    write_beton
        Also write FFCV's ``train.beton`` and ``test.beton``.

    """
    spec = validate(DatasetSpec, dataset, "dataset")
    parameters = {"dataset": spec.model_dump(), "write_beton": write_beton}
    stage = run.stage(DATA, parameters | inputs.data(spec))
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
        paths += [write_beton_file(getattr(data, p), folder / f"{p}.beton") for p in SPLITS]
    return paths


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


SPLITS = ("train", "test")


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

    def all(self, algorithm: int) -> Trained:
        """Every model of algorithm 1 or 2."""
        given = self.plan.store_path(algorithm), {"data": self.plan.fingerprint}
        store = ModelStore.open(*given, read_only=True)
        return store.read(self.plan.n_models)

    def heldout(self, algorithm: int) -> Trained:
        """The models kept aside to grade datamodels."""
        return self.all(algorithm).rows(slice(0, self.n_heldout))

    def fitting(self, algorithm: int) -> Trained:
        """The models that datamodels are fitted on."""
        return self.all(algorithm).rows(slice(self.n_heldout, None))

    def outputs(self, trained: Trained, relative: bool) -> np.ndarray:
        """What datamodels predict, (n_models, n_test): margins, perhaps relative to the class."""
        labels = self.dataset.test.labels
        return relative_to_class(trained.margins, labels) if relative else trained.margins

    def slots(self, trained: Trained) -> np.ndarray | None:
        """The common initialisations of some models, or None where each had its own."""
        return trained.slots if self.plan.n_slots else None


MODEL_DEFAULTS = {
    "share_order": False,
    "stack": 0,
    "models_url": "",
    "margins_dtype": "float32",
    "models_1_given": {},
    "models_2_given": {},
}


def train_models(
    run: Run,
    parameters: dict[str, Any],
    *,
    device: str = "auto",
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict | None = None,
    loader: str = "memory",
) -> StudyModels:
    """Stage 02: train every model of both algorithms; a killed run resumes.

    Parameters
    ----------
    run
        The run's folder, with stage 01 finished.
    parameters
        ``algorithm_1``, ``algorithm_2``, ``n_models``, ``n_heldout``, ``n_effect_models``,
        ``alpha``, ``n_slots``, ``share_order``, ``stack``, ``seed``, ``margins_dtype``: all that
        decides the models; and ``models_url``, where they are stored. With ``models_1_given`` and
        ``models_2_given`` (see `mdhelpers.imported_models.GivenModels`) nothing is trained.
    device, workers, scheduler, cluster
        Who trains, see `mdhelpers.mask_training.train_all`; no result depends on it, but for the
        kind of device.
    loader
        Where training images come from, see `mdhelpers.loading`.

    """
    parameters = MODEL_DEFAULTS | parameters
    for key in ALGORITHMS:
        spec = parse_algorithm(parameters[key], key)
        check_algorithm(spec)
        parameters[key] = spec.model_dump()
    given = given_models(parameters)
    if given:
        parameters |= {"n_slots": 0, "n_effect_models": 0, "origins": origins(given)}
    else:
        parameters |= inputs.algorithms(*(parse_algorithm(parameters[k], k) for k in ALGORITHMS))
    stage = run.stage(MODELS, parameters, after=[DATA])
    with stage.working() as needed:
        if needed:
            plan = training_plan(run, parameters, resolve_device(device, scheduler), loader=loader)
            refuse_others(plan)
            stage.withdraw()
            mark_stores(run, plan)
            mend_stores(plan, stage.before)
            who = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
            begun = import_models(plan, given) if given else train_all(plan, **who)
            models = StudyModels(plan, read_data(run), parameters["n_heldout"])
            stage.finish(model_outputs(plan), figures=training_figures(models, begun))
    return read_models(run, device=device)


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


def training_plan(
    run: Run, parameters: dict[str, Any], device: str, *, loader: str = "memory"
) -> TrainingPlan:
    data = read_data(run, mmap=True)
    algorithms = tuple(parse_algorithm(parameters[f"algorithm_{a}"]) for a in (1, 2))
    n_models = parameters["n_heldout"] + parameters["n_models"]
    return TrainingPlan(
        folder=run.path,
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
        loader=loader,
        models_url=parameters["models_url"],
        margins_dtype=parameters["margins_dtype"],
        origins=tuple(parameters.get("origins", ())),
    )


def read_models(run: Run, *, device: str = "auto") -> StudyModels:
    """The finished models of a run, for the stages that read them."""
    run.check(MODELS)
    manifest = run.manifest(MODELS)
    plan = training_plan(run, manifest["parameters"], resolve_device(device))
    stack = ModelStore.open(plan.store_path(1), read_only=True).rows_per_task
    plan = replace(plan, stack=stack)  # as trained, perhaps on another kind of device
    n_heldout = manifest["parameters"]["n_heldout"]
    return StudyModels(plan, read_data(run), n_heldout)


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
    return figures


@dataclass(frozen=True, eq=False)
class StudyFits:
    """What stage 03 made: datamodels of both algorithms and how well they predict."""

    datamodels: tuple[dm.Datamodels, dm.Datamodels]
    predicted: tuple[np.ndarray, np.ndarray]
    true: tuple[np.ndarray, np.ndarray]
    lds: tuple[LDS, LDS]
    lds_raw: tuple[LDS, LDS]
    relative: bool


def fit_datamodels(
    run: Run,
    *,
    method: str = "lasso",
    options: dm.FitOptions | None = None,
    relative: bool = True,
    seed: int = 0,
    device: str = "auto",
) -> StudyFits:
    """Stage 03: regress margins on masks, and grade the result on held-out models.

    Parameters
    ----------
    run
        The run's folder, with stage 02 finished.
    method
        One of `mdhelpers.datamodels.METHODS`, of which the paper's is "lasso" (App. B.3), or
        "auto", which goes by the number of models.
    options
        Of the lasso: the path's length and reach, and what scores it.
    relative
        Predict margins relative to the mean of their class, see `outputs.relative_to_class`.
    seed
        Of the validation split and the bootstrap.

    """
    options = options or dm.FitOptions()
    if method == "auto" and run.manifest(MODELS):
        given = read_models(run, device=device)
        method = dm.method_for(given.plan.n_models - given.n_heldout, given.plan.n_train)
        print(f"method: {method}, chosen by the numbers of models and of training images")
    parameters = {"method": method, "relative": relative, "seed": seed}
    if method in ("lasso", "fast_l1"):
        parameters["options"] = asdict(options)
    stage = run.stage(DATAMODELS, parameters, after=[MODELS])
    with stage.working() as needed:
        models = read_models(run, device=device)
        if needed:
            how = {"method": method, "options": options, "seed": seed}
            fit = partial(fit_algorithm, models, relative, **how)
            fitted = list(spread(fit, (1, 2), at_once=2 if models.plan.device == "cpu" else 1))
            fits = grade_fits(models, fitted, relative=relative, seed=seed)
            stage.withdraw()
            paths = [run.path / f"datamodels_{a}.safetensors" for a in (1, 2)]
            for fit, path in zip(fitted, paths, strict=True):
                dm.save_datamodels(fit, path)
            stage.finish(paths, figures=fit_figures(fits, method))
            return fits
    return grade_fits(models, list(read_datamodels(run)), relative=relative, seed=seed)


def fit_algorithm(models: StudyModels, relative: bool, algorithm: int, **how: Any) -> dm.Datamodels:
    fitting = models.fitting(algorithm)
    outputs, slots = models.outputs(fitting, relative), models.slots(fitting)
    return dm.fit_datamodels(fitting.masks, outputs, slots=slots, device=models.plan.device, **how)


def read_datamodels(run: Run) -> tuple[dm.Datamodels, dm.Datamodels]:
    """Both algorithms' datamodels as stage 03 wrote them, held against its digests."""
    paths = (run.output(DATAMODELS, f"datamodels_{a}.safetensors") for a in (1, 2))
    return tuple(dm.load_datamodels(path) for path in paths)


def grade_fits(models: StudyModels, fitted: list, *, relative: bool, seed: int) -> StudyFits:
    """Predict the held-out models' margins, within initialisations and as they are."""
    predicted, true, scores, raw = [], [], [], []
    for algorithm, fit in enumerate(fitted, 1):
        heldout = models.heldout(algorithm)
        slots = models.slots(heldout)
        outputs = models.outputs(heldout, relative)
        centred = outputs if slots is None else fit.remove_slots(outputs, slots)
        prediction = fit.predict(heldout.masks)
        predicted.append(prediction)
        true.append(centred)
        scores.append(lds(centred, prediction, seed=seed))
        raw.append(lds(outputs, prediction, seed=seed))
    parts = (fitted, predicted, true, scores, raw)
    return StudyFits(*(tuple(part) for part in parts), relative)


def fit_figures(fits: StudyFits, method: str) -> dict:
    figures = {"method": method}
    for a in (1, 2):
        score, raw, fit = fits.lds[a - 1], fits.lds_raw[a - 1], fits.datamodels[a - 1]
        figures |= {
            f"lds_{a}": score.spearman,
            f"lds_{a}_low": score.low,
            f"lds_{a}_high": score.high,
            f"lds_{a}_pearson": score.pearson,
            f"lds_{a}_raw": raw.spearman,
            f"lam_at_edge_{a}": float(fit.lam_at_edge.mean()),
            f"nonzero_{a}": float((fit.weights != 0).mean()),
            f"all_zero_{a}": int((fit.weights == 0).all(axis=1).sum()),
        }
    return figures


MADE = ("models_?.zarr", "checkpoints_?", "sources", "retrained", "training.jsonl", "plan.json")


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
