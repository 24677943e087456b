"""Stage 03: datamodels of both algorithms, how well they predict, and what more models would give.

First every algorithm's margins are regressed on its masks, or the gradients of some of its models
are taken, and the datamodels are graded on models that they have not seen. Then the fit's quality
is measured: held-out masks are trained again for the noise ceiling, and halves, quarters and
eighths of the models give its reliability and the learning curve. Last, `needs` reads from the
curves how many models a wanted quality takes.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.base.places import shown
from mdhelpers.base.specs import validate
from mdhelpers.base.threads import spread
from mdhelpers.formats.own import load_datamodels, save_datamodels
from mdhelpers.method import datamodels as dm
from mdhelpers.method.costs import fit_cost, fits_at_once, why_not
from mdhelpers.method.datamodels import Datamodels
from mdhelpers.method.engines.estimators import FitOptions
from mdhelpers.method.lds import LDS, NoiseCeiling, lds, noise_ceiling
from mdhelpers.method.learning_curves import (
    POINTS,
    SPARSE,
    Law,
    LearningCurve,
    TooFewModels,
    fit_laws,
    learning_curve,
    models_needed,
)
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import DATAMODELS, MODELS, QUALITY
from mdhelpers.stages.capacity import (
    Sizes,
    check_gradients,
    fit_memory,
    method_here,
    no_gradients,
)
from mdhelpers.stages.data import read_data
from mdhelpers.stages.gradients import (
    MEANS,
    ModelGradients,
    as_outputs,
    forget_gradients,
    gradient_plan,
    mean_scores,
    read_scores,
    take_gradients,
    writers,
)
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.study import GradientSpec
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.mask_training import retrain
from mdhelpers.training.store_files import Trained
from mdhelpers.training.tasks import device_here, repeat_keys

FILES = ("datamodels_1.safetensors", "datamodels_2.safetensors")
TABLES = ("quality_curves", "quality_examples", "quality_laws")


@dataclass(frozen=True)
class HowFitted:
    """How stage 03 fits datamodels; later stages fit theirs alike."""

    method: str
    relative: bool
    options: FitOptions
    seed: int
    gradients: GradientSpec = field(default_factory=GradientSpec)

    @property
    def parameters(self) -> dict[str, Any]:
        """Those of stage 03."""
        found = {"method": self.method, "relative": self.relative, "seed": self.seed}
        if self.by_gradients:
            found["gradients"] = self.gradients.model_dump()
        sparse = self.method in ("lasso", "fast_l1")
        return found | {"options": asdict(self.options)} if sparse else found

    @property
    def by_gradients(self) -> bool:
        return self.method in dm.FROM_GRADIENTS

    def fit(
        self, models: StudyModels, fitting: Trained, scores: np.ndarray | None = None
    ) -> Datamodels:
        """Datamodels of one algorithm's models, with their mean scores if there are some."""
        return dm.fit_datamodels(
            fitting.masks,
            models.outputs(fitting, self.relative),
            slots=models.slots(fitting),
            scores=scores,
            method=self.method,
            options=self.options,
            seed=self.seed,
            device=models.plan.here,
        )

    def at_once(self, models: StudyModels, n_models: int, *, at_most: int) -> int:
        """How many fits on so many models run side by side."""
        n_train, n_test = models.plan.n_train, models.plan.n_test
        device = models.plan.here
        cost = fit_cost(self.method, n_models, n_train, n_test, device=device)
        return fits_at_once(cost, fit_memory(device), device=device, at_most=at_most)

    def fitter(
        self, models: StudyModels, fitting: Trained, scores: np.ndarray | None = None
    ) -> dm.Fitter:
        """The same on any choice of these models; scores (n_scored, n_test, n_train) of each."""
        return dm.Fitter(
            fitting.masks,
            models.outputs(fitting, self.relative),
            slots=models.slots(fitting),
            scores=scores,
            method=self.method,
            options=self.options,
            seed=self.seed,
            device=models.plan.here,
            memory=fit_memory(models.plan.here),
        )


def how_fitted(run: Run) -> HowFitted:
    """How stage 03 has fitted, by its manifest."""
    given = run.manifest(DATAMODELS)["parameters"]
    options, gradients = FitOptions(**given.get("options", {})), given.get("gradients", {})
    parts = given["method"], given["relative"], options, given["seed"]
    return HowFitted(*parts, GradientSpec(**gradients))


@dataclass(frozen=True, eq=False)
class StudyFits:
    """What stage 03 made: datamodels of both algorithms and how well they predict.

    ``scores`` are the models' mean scores, (n_test, n_train), zeros where no gradients were taken.
    """

    datamodels: tuple[Datamodels, Datamodels]
    predicted: tuple[np.ndarray, np.ndarray]
    true: tuple[np.ndarray, np.ndarray]
    lds: tuple[LDS, LDS]
    lds_raw: tuple[LDS, LDS]
    relative: bool
    scores: tuple[np.ndarray, np.ndarray]


def fit_datamodels(
    run: Run,
    *,
    method: str = "lasso",
    relative_to_class: bool = True,
    n_lams: int = 50,
    lam_min_ratio: float = 0.01,
    folds: int = 1,
    gradients: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict[str, Any] | None = None,
    keep_gradients: bool = False,
) -> StudyFits:
    """Stage 03: fit datamodels, and grade them on held-out models.

    Parameters
    ----------
    run
        The run's folder, with stage 02 finished.
    method
        One of `mdhelpers.method.datamodels.METHODS`, of which the paper's is "lasso" (App. B.3), or
        "auto": `mdhelpers.method.datamodels.method_for`.
    relative_to_class
        Predict margins relative to the mean of their class, see `mdhelpers.method.margins`.
    n_lams, lam_min_ratio, folds
        Of the lasso, see `mdhelpers.method.engines.estimators.FitOptions`.
    gradients
        Of ``trak`` and ``trak+ridge``: `mdhelpers.stages.study.GradientSpec`.
    seed
        Of the validation split.
    device, workers, scheduler, cluster
        Who takes gradients, as `mdhelpers.training.mask_training.train_all`; no result depends on
        it, but for the kind of device.
    keep_gradients
        Leave their files for a fit on more models, which begins with these; they are large.

    """
    if trained := run.manifest(MODELS):
        where = device_here(device)
        method = chosen_method(run, method, trained["parameters"], gradients or {}, device=where)
    options = FitOptions(n_lams=n_lams, lam_min_ratio=lam_min_ratio, folds=folds)
    spec = validate(GradientSpec, gradients or {}, "gradients")
    how = HowFitted(method, relative_to_class, options, seed, spec)
    stage = run.stage(DATAMODELS, how.parameters, after=[MODELS])
    with stage.working() as needed:
        models = read_models(run, device=device)
        if not needed:
            parts = (mean_scores(run, models, a, how.relative) for a in (1, 2) if how.by_gradients)
            scores = tuple(parts)
            return grade_fits(models, read_datamodels(run), how, scores)
        arrays, files, figures, means, plan = {}, {}, {}, (), None
        if how.by_gradients:
            plan = gradient_plan(models, spec)
            take_gradients(plan, workers=workers, scheduler=scheduler, cluster=cluster)
            found = tuple(ModelGradients.chosen(models, plan, a, how.relative) for a in (1, 2))
            files, figures = writers(found), gradient_figures(found)
            arrays = {MEANS: {str(a): each.mean() for a, each in enumerate(found, 1)}}
            means = tuple(as_outputs(m, models, how.relative) for m in arrays[MEANS].values())
        n_models = models.plan.n_models - models.n_heldout
        at_once = how.at_once(models, n_models, at_most=2)
        fitted = spread(
            lambda a: how.fit(models, models.fitting(a), means[a - 1] if means else None),
            (1, 2),
            at_once=at_once,
        )
        fits = grade_fits(models, tuple(fitted), how, means)
        saved = (partial(save_datamodels, fit) for fit in fits.datamodels)
        files |= zip(FILES, saved, strict=True)
        stage.keep(arrays=arrays, files=files, figures=fit_figures(fits, method) | figures)
        if plan and not keep_gradients:
            forget_gradients(plan)
    return fits


def chosen_method(
    run: Run,
    method: str,
    trained: dict[str, Any],
    gradients: dict[str, Any] | None = None,
    *,
    device: str = "cpu",
) -> str:
    """The method that ``auto`` stands for; refuses gradients of what is no network."""
    specs = [parse_algorithm(trained[f"algorithm_{a}"]) for a in (1, 2)]
    given = specs, "origins" in trained
    if method == "auto":
        data, without = read_data(run, mmap=True), no_gradients(*given)
        n_train, n_test = len(data.train), len(data.test)
        of = Sizes(trained["n_models"], n_train, n_test, data.size[0], len(data.class_names))
        spec = validate(GradientSpec, gradients or {}, "gradients")
        method = method_here(of, spec, specs, gradients=not without, device=device)
        why = without or "both algorithms are networks"
        print(f"method: {method} ({trained['n_models']} models, {n_train} training images; {why})")
    if method in dm.FROM_GRADIENTS:
        check_gradients(method, *given)
    return method


def gradient_figures(found: tuple[ModelGradients, ModelGradients]) -> dict[str, Any]:
    figures = {"n_scored": len(found[0])}
    for a, each in enumerate(found, 1):
        figures |= {f"damping_{a}": each.damping, f"damping_at_edge_{a}": each.at_edge}
        figures[f"foretold_{a}"] = each.foretold
    return figures


def read_datamodels(run: Run) -> tuple[Datamodels, Datamodels]:
    """Both algorithms' datamodels as stage 03 wrote them, held against its digests."""
    return tuple(load_datamodels(run.output(DATAMODELS, name)) for name in FILES)


def grade_fits(
    models: StudyModels,
    fitted: tuple[Datamodels, Datamodels],
    how: HowFitted,
    scores: tuple[np.ndarray, ...] = (),
) -> StudyFits:
    """Predict the held-out models' margins, within initialisations and as they are."""
    scores = scores or tuple(np.zeros_like(fit.weights) for fit in fitted)
    predicted, true, graded, raw = [], [], [], []
    for algorithm, fit in enumerate(fitted, 1):
        heldout = models.heldout(algorithm)
        outputs = models.outputs(heldout, how.relative)
        predicted.append(fit.predict(heldout.masks))
        true.append(within_slots(models, fit, heldout, outputs))
        graded.append(lds(true[-1], predicted[-1]))
        raw.append(lds(outputs, predicted[-1]))
    parts = (fitted, predicted, true, graded, raw)
    return StudyFits(*(tuple(part) for part in parts), how.relative, scores)


def within_slots(
    models: StudyModels, fit: Datamodels, trained: Trained, outputs: np.ndarray
) -> np.ndarray:
    """Outputs (n_models, n_test) less the effects of the models' common initialisations."""
    slots = models.slots(trained)
    return outputs if slots is None else fit.remove_slots(outputs, slots)


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


@dataclass(frozen=True, eq=False)
class StudyQuality:
    """What is known about the quality of a run's datamodels.

    Attributes
    ----------
    curves
        Learning curves: ``algorithm`` and the columns of
        `mdhelpers.method.learning_curves.LearningCurve`.
    examples
        ``algorithm, example, half_cosine, ceiling``: for each test example; ceilings are NaN where
        held-out masks were trained once only.
    laws
        ``algorithm, draw, noise, others, plateau, n_slots``: the curves carried on; draw 0 is the
        estimate, the others are the bootstrap's. No rows where nothing stands out from noise.
    figures
        What `results.json` holds of it.

    """

    curves: pd.DataFrame
    examples: pd.DataFrame
    laws: pd.DataFrame
    figures: dict[str, Any]

    def curve(self, algorithm: int) -> pd.DataFrame:
        """The points of one algorithm; none where there were too few models to be halved."""
        return self.curves[self.curves["algorithm"] == algorithm]

    def half_cosines(self, names: tuple[str, str]) -> dict[str, np.ndarray] | None:
        """Cosine between halves of each test example, by algorithm; None where not measured."""
        groups = self.examples.groupby("algorithm")["half_cosine"]
        found = {names[algorithm - 1]: rows.to_numpy() for algorithm, rows in groups}
        return None if self.examples["half_cosine"].isna().all() else found

    def law(self, algorithm: int) -> list[Law]:
        """One algorithm's curve carried on: the estimate first, then the bootstrap's draws."""
        rows = self.laws[self.laws["algorithm"] == algorithm].sort_values("draw")
        return [Law(*values) for values in rows[[f.name for f in fields(Law)]].to_numpy()]


def measure_quality(
    run: Run,
    *,
    n_repeats: int = 1,
    n_splits: int = 2,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
) -> StudyQuality:
    """Measure what stage 03's datamodels are worth; read it where that is done.

    Parameters
    ----------
    run
        The run's folder, with `mdhelpers.stages.datamodels.fit_datamodels` finished.
    n_repeats
        How often each held-out mask is trained once more; 0 leaves the noise ceiling out.
    n_splits
        Random halvings of the models.
    seed
        Of the halvings and the bootstrap.
    device, workers
        Who trains; no result depends on it, but for the kind of device.

    """
    parameters = {"n_repeats": n_repeats, "n_splits": n_splits, "seed": seed}
    stage = run.stage(QUALITY, parameters, after=[DATAMODELS])
    with stage.working() as needed:
        if needed:
            models, how = read_models(run, device=device), how_fitted(run)
            figures, parts = {}, []
            for a, fit in enumerate(read_datamodels(run), 1):
                trained = models.fitting(a), models.heldout(a)
                measure = Measurement(run, models, a, fit, how, *trained, seed)
                ceiling = measure.ceiling(n_repeats, workers)
                parts.append(measure.tables(n_splits, ceiling))
                figures |= measure.figures(parts[-1], ceiling)
            tables = (pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True))
            named = dict(zip(TABLES, tables, strict=True))
            stage.keep(tables=named, figures=figures, block=DATAMODELS)
    return read_quality(run)


def read_quality(run: Run) -> StudyQuality:
    """What :func:`measure_quality` wrote."""
    if not run.manifest(QUALITY):
        raise FileNotFoundError(
            f"the quality of {shown(run.folder)} was not measured; run notebook {DATAMODELS} first"
        )
    tables = run.kept(QUALITY)
    return StudyQuality(*(tables[name] for name in TABLES), run.manifest(QUALITY)["figures"])


@dataclass(frozen=True, eq=False)
class Measurement:
    """One algorithm's datamodels and the models that they are judged by."""

    run: Run
    models: StudyModels
    algorithm: int
    fit: Datamodels
    how: HowFitted
    fitting: Trained
    heldout: Trained
    seed: int

    def outputs(self, trained: Trained) -> np.ndarray:
        """What datamodels are to predict, (n_models, n_test), less the effect of slots."""
        outputs = self.models.outputs(trained, self.how.relative)
        return within_slots(self.models, self.fit, trained, outputs)

    def ceiling(self, n_repeats: int, workers: int) -> NoiseCeiling | None:
        """Train the held-out masks again, each time with other seeds and initialisations.

        None without repeats, and for models that were trained elsewhere.
        """
        plan, masks = self.models.plan, self.heldout.masks
        if not n_repeats or self.models.made_elsewhere:
            return None
        trainings = [self.outputs(self.heldout)]
        for repeat in range(1, n_repeats + 1):
            keys = repeat_keys(len(masks), repeat, n_models=plan.n_models, n_slots=plan.n_slots)
            name = f"repeat{repeat}"
            trained = retrain(plan, self.algorithm, masks, keys, name=name, workers=workers)
            trainings.append(self.outputs(trained))
        return noise_ceiling(np.stack(trainings), self.fit.predict(masks))

    def curve(self, n_splits: int, method: str) -> LearningCurve:
        scores = read_scores(self.run, self.algorithm) if self.how.by_gradients else None
        fit = replace(self.how, method=method).fitter(self.models, self.fitting, scores)
        n_models = len(self.fitting.masks)
        full = self.fit.weights if method == self.how.method else fit(np.arange(n_models))
        return learning_curve(
            fit,
            full,
            (self.heldout.masks, self.outputs(self.heldout)),
            n_models=n_models,
            slots=fit.slots,
            n_splits=n_splits,
            seed=self.seed,
        )

    @property
    def has_ridge(self) -> bool:
        """Whether ridge regression can be had on all models, whose law the lasso's needs."""
        device, sizes = self.models.plan.here, (*self.fitting.masks.shape, len(self.fit.weights))
        return not why_not(fit_cost("ridge", *sizes, device=device), memory=fit_memory(device))

    def tables(self, n_splits: int, ceiling: NoiseCeiling | None) -> tuple[pd.DataFrame, ...]:
        """This algorithm's rows of :class:`StudyQuality`."""
        n_test, method = len(self.fit.weights), self.how.method
        examples = pd.DataFrame({"example": np.arange(n_test), "half_cosine": np.nan})
        examples["ceiling"] = np.nan if ceiling is None else ceiling.per_example
        try:
            curve = self.curve(n_splits, method)
        except TooFewModels:
            empty = pd.DataFrame(columns=["draw", *(f.name for f in fields(Law))], dtype=float)
            return tuple(self._own(t) for t in (pd.DataFrame(columns=POINTS), examples, empty))
        ridge = self.curve(n_splits, "ridge") if method in SPARSE and self.has_ridge else None
        laws = (
            []
            if method in SPARSE and ridge is None
            else fit_laws(
                curve,
                ridge=ridge,
                method=method,
                ceiling=1.0 if ceiling is None else ceiling.ceiling,
                n_train=self.models.plan.n_train,
                n_slots=self.models.plan.n_slots,
            )
        )
        table = pd.DataFrame([asdict(law) for law in laws], columns=[f.name for f in fields(Law)])
        table.insert(0, "draw", np.arange(len(laws)))
        examples["half_cosine"] = curve.half_cosines
        return self._own(curve.table), self._own(examples), self._own(table)

    def _own(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(algorithm=self.algorithm).astype({"algorithm": int})

    def figures(self, tables, ceiling: NoiseCeiling | None) -> dict[str, Any]:
        """Figures for `results.json`, named like `ceiling_1` and `ceiling_1_low`."""
        curve, _, laws = tables
        found = {"seconds_a_model": float(self.fitting.seconds.mean())}
        if ceiling is not None:
            names = ("ceiling", "share")
            found["seed_reliability"] = ceiling.reliability
            found["ceiling_pearson"] = ceiling.ceiling_pearson
            found |= {n + e: getattr(ceiling, n + e) for n in names for e in ("", "_low", "_high")}
        if len(curve):
            half = curve.iloc[-2]
            found["n_half"] = int(half["n_models"])
            found |= {f"half_{key}": half[key] for key in ("cosine", "cosine_low", "cosine_high")}
        if len(laws):
            law = Law(**laws.iloc[0][[f.name for f in fields(Law)]])
            found |= {"cosine_of_all": law.cosine(len(self.fitting.masks)), "plateau": law.plateau}
        return {
            re.sub("(_low|_high|)$", rf"_{self.algorithm}\1", key, count=1): value
            for key, value in found.items()
        }


@dataclass(frozen=True)
class Need:
    """Models of one algorithm that reach a target, and percentiles 2.5 and 97.5; inf: none do.

    ``lds`` is the target on this algorithm's own scale, or None for a cosine.
    """

    name: str
    models: float
    low: float
    high: float
    law: Law
    lds: float | None


def needs(
    run: Run,
    quality: StudyQuality,
    *,
    lds: float | None = None,
    cosine: float | None = None,
    share: float | None = None,
) -> list[Need]:
    """What both algorithms need for one target; without those whose curve tells nothing.

    Parameters
    ----------
    run, quality
        A run, and what `mdhelpers.stages.datamodels.read_quality` gives for it.
    lds, cosine, share
        One of: an LDS; a cosine between fits on disjoint models; a part of the plateau's LDS.

    """
    found = []
    for algorithm, name in enumerate(run.names, 1):
        laws = quality.law(algorithm)
        if not laws:
            continue
        goals = [lds if share is None else share * law.plateau for law in laws]
        each = [
            models_needed(law, lds=goal, cosine=cosine)
            for law, goal in zip(laws, goals, strict=True)
        ]
        low, high = np.percentile(each[1:] or each, [2.5, 97.5], method="nearest")
        found.append(Need(name, each[0], float(low), float(high), laws[0], goals[0]))
    return found
