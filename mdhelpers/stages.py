"""Stages 01 to 03 of a run: data, models, datamodels. Each returns at once what is finished.

A stage function checks its parameters, asks the run whether its results are there from the same
parameters and inputs, computes what is missing, and returns the results in memory. The science is
elsewhere; this is where it meets files.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from mdhelpers import datamodels as dm
from mdhelpers.algorithms import parse_algorithm
from mdhelpers.beton import write_beton as write_beton_file
from mdhelpers.datasets import Dataset, DatasetSpec, read_dataset, save_dataset
from mdhelpers.image_folders import load_dataset
from mdhelpers.imported_models import given_models, import_models, origins
from mdhelpers.lds import LDS, lds
from mdhelpers.learners import check_algorithm
from mdhelpers.locations import open_location
from mdhelpers.mask_training import train_all
from mdhelpers.outputs import relative_to_class
from mdhelpers.plans import TrainingPlan, choose_stack, resolve_device
from mdhelpers.runs import Run
from mdhelpers.specs import validate
from mdhelpers.status import store_locations
from mdhelpers.store import ModelStore, Trained

DATA, MODELS, DATAMODELS = "01_data_prep", "02_mask_training", "03_datamodel_fitting"


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
    stage = run.stage(DATA, {"dataset": spec.model_dump(), "write_beton": write_beton})
    stage.say()
    folder = run.path / "data"
    if stage.is_current:
        return read_dataset(folder)
    data = load_dataset(spec)
    outputs = save_dataset(data, folder)
    if write_beton:
        outputs += [write_beton_file(getattr(data, p), folder / f"{p}.beton") for p in SPLITS]
    planted = {p: getattr(data, p).truth.sum().to_dict() for p in SPLITS}
    figures = {
        "kind": spec.kind,
        "fingerprint": data.fingerprint,
        "n_train": len(data.train),
        "n_test": len(data.test),
        "size": data.size[0],
        "class_names": list(data.class_names),
        "planted": planted,
    }
    stage.finish(outputs, figures=figures)
    return data


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
        store = ModelStore.open(self.plan.store_path(algorithm), {"data": self.plan.fingerprint})
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
    for key in ("algorithm_1", "algorithm_2"):
        spec = parse_algorithm(parameters[key], key)
        check_algorithm(spec)
        parameters[key] = spec.model_dump()
    given = given_models(parameters)
    if given:
        parameters |= {"n_slots": 0, "n_effect_models": 0, "origins": origins(given)}
    stage = run.stage(MODELS, parameters, after=[DATA])
    plan = training_plan(run, parameters, resolve_device(device, scheduler), loader=loader)
    stage.say()
    if not stage.is_current:
        who = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
        begun = import_models(plan, given) if given else train_all(plan, **who)
        models = StudyModels(plan, read_dataset(run.path / "data"), parameters["n_heldout"])
        outputs = [] if plan.models_url else [plan.store_path(a) for a in (1, 2)]
        folders = (plan.checkpoint_path(a, 0).parent for a in (1, 2))
        outputs += [folder for folder in folders if folder.exists()]
        stage.finish(outputs, figures=training_figures(models, begun))
        return models
    return read_models(run)


def training_plan(
    run: Run, parameters: dict[str, Any], device: str, *, loader: str = "memory"
) -> TrainingPlan:
    data = read_dataset(run.path / "data", mmap=True)
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
    manifest = run.manifest(MODELS)
    if not manifest:
        raise FileNotFoundError(f"{run.path} has no models; run notebook {MODELS} first")
    plan = training_plan(run, manifest["parameters"], resolve_device(device))
    stack = ModelStore.open(plan.store_path(1), read_only=True).rows_per_task
    plan = replace(plan, stack=stack)  # as trained, perhaps on another kind of device
    n_heldout = manifest["parameters"]["n_heldout"]
    return StudyModels(plan, read_dataset(run.path / "data"), n_heldout)


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
    stage.say()
    models = read_models(run, device=device)
    paths = [run.path / f"datamodels_{a}.safetensors" for a in (1, 2)]
    if not stage.is_current:
        for algorithm, path in enumerate(paths, 1):
            fitting = models.fitting(algorithm)
            fit = dm.fit_datamodels(
                fitting.masks,
                models.outputs(fitting, relative),
                method=method,
                slots=models.slots(fitting),
                options=options,
                seed=seed,
                device=models.plan.device,
            )
            dm.save_datamodels(fit, path)
    fitted = [dm.load_datamodels(path) for path in paths]
    fits = grade_fits(models, fitted, relative=relative, seed=seed)
    if not stage.is_current:
        stage.finish(paths, figures=fit_figures(fits, method))
    return fits


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


def discard(run: Run, stage_name: str) -> None:
    """Forget a stage's results so that it is made anew; only 02's are costly."""
    if stage_name != MODELS:
        return
    for location in store_locations(run.folder):
        open_location(location).clear()
    for pattern in ("checkpoints_*", "sources", "retrained", "training.jsonl", "plan.json"):
        for path in run.folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
