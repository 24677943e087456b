"""The second half of stage 03: how good the datamodels are, and what more models would give.

Held-out masks are trained again for the noise ceiling; halves, quarters and eighths of the models
give reliability and the learning curve.

How many more models a wanted quality would take, and how long, from a run's learning curves.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.base.places import shown
from mdhelpers.base.threads import spread
from mdhelpers.formats import own
from mdhelpers.method import datamodels as dm
from mdhelpers.method.datamodels import Datamodels, fitter
from mdhelpers.method.engines.estimators import FitOptions
from mdhelpers.method.lds import LDS, NoiseCeiling, lds, noise_ceiling, repeat_keys
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
from mdhelpers.runs.run import Run, read_tables, write_tables
from mdhelpers.runs.stage import DATAMODELS, MODELS, QUALITY
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.training.mask_training import retrain
from mdhelpers.training.store_files import Trained

TABLES = ("quality_curves", "quality_examples", "quality_laws")


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
            models = read_models(run, device=device)
            figures, parts = {}, []
            for algorithm in (1, 2):
                measure = Measurement.of(run, models, algorithm, seed)
                ceiling = measure.ceiling(n_repeats, workers)
                parts.append(measure.tables(n_splits, ceiling))
                figures |= measure.figures(parts[-1], ceiling)
            joined = (pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True))
            stage.withdraw()
            outputs = write_tables(run.path, dict(zip(TABLES, joined, strict=True)))
            stage.finish(outputs, figures=figures, block=DATAMODELS)
    return read_quality(run)


def read_quality(run: Run) -> StudyQuality:
    """What :func:`measure_quality` wrote."""
    if not run.manifest(QUALITY):
        raise FileNotFoundError(
            f"the quality of {shown(run.folder)} was not measured; run notebook {DATAMODELS} first"
        )
    tables = read_tables(run, QUALITY)
    return StudyQuality(*(tables[name] for name in TABLES), run.manifest(QUALITY)["figures"])


@dataclass(frozen=True, eq=False)
class Measurement:
    """One algorithm's datamodels and the models that they are judged by."""

    models: StudyModels
    algorithm: int
    fit: Datamodels
    how: dict[str, Any]
    relative: bool
    seed: int

    @classmethod
    def of(cls, run: Run, models: StudyModels, algorithm: int, seed: int) -> Measurement:
        given = run.manifest(DATAMODELS)["parameters"]
        how = {"method": given["method"], "seed": given["seed"]}
        if "options" in given:
            how["options"] = FitOptions(**given["options"])
        fit = read_datamodels(run)[algorithm - 1]
        return cls(models, algorithm, fit, how, given["relative"], seed)

    def outputs(self, trained: Trained) -> np.ndarray:
        """What datamodels are to foretell, (n_models, n_test), less the effect of slots."""
        outputs, slots = self.models.outputs(trained, self.relative), self.models.slots(trained)
        return outputs if slots is None else self.fit.remove_slots(outputs, slots)

    def ceiling(self, n_repeats: int, workers: int) -> NoiseCeiling | None:
        """Train the held-out masks again, each time with other seeds and initialisations.

        None without repeats, and for models that were trained elsewhere.
        """
        plan, heldout = self.models.plan, self.models.heldout(self.algorithm)
        if not n_repeats or plan.origins:
            return None
        trainings = [self.outputs(heldout)]
        for repeat in range(1, n_repeats + 1):
            sizes = {"n_models": plan.n_models, "n_slots": plan.n_slots}
            keys = repeat_keys(len(heldout.masks), repeat, **sizes)
            name = f"repeat{repeat}"
            trained = retrain(plan, self.algorithm, heldout.masks, keys, name=name, workers=workers)
            trainings.append(self.outputs(trained))
        return noise_ceiling(np.stack(trainings), self.fit.predict(heldout.masks), seed=self.seed)

    def curve(self, n_splits: int, method: str) -> LearningCurve:
        fitting, heldout = (
            getattr(self.models, part)(self.algorithm) for part in ("fitting", "heldout")
        )
        slots = self.models.slots(fitting)
        how = self.how | {"method": method}
        fit = fitter(fitting.masks, self.models.outputs(fitting, self.relative), slots=slots, **how)
        n_models = len(fitting.masks)
        full = self.fit.weights if method == self.how["method"] else fit(np.arange(n_models))
        return learning_curve(
            fit,
            full,
            (heldout.masks, self.outputs(heldout)),
            n_models=n_models,
            slots=slots,
            n_splits=n_splits,
            seed=self.seed,
        )

    def tables(self, n_splits: int, ceiling: NoiseCeiling | None) -> tuple[pd.DataFrame, ...]:
        """This algorithm's rows of :class:`StudyQuality`."""
        n_test, method = len(self.fit.weights), self.how["method"]
        examples = pd.DataFrame({"example": np.arange(n_test), "half_cosine": np.nan})
        examples["ceiling"] = np.nan if ceiling is None else ceiling.per_example
        try:
            curve = self.curve(n_splits, method)
        except TooFewModels:
            empty = pd.DataFrame(columns=["draw", *(f.name for f in fields(Law))], dtype=float)
            return tuple(self._own(t) for t in (pd.DataFrame(columns=POINTS), examples, empty))
        ridge = self.curve(n_splits, "ridge") if method in SPARSE else None
        known = {"n_train": self.models.plan.n_train, "n_slots": self.models.plan.n_slots}
        bound = 1.0 if ceiling is None else ceiling.ceiling
        laws = fit_laws(curve, ridge=ridge, method=method, ceiling=bound, **known)
        table = pd.DataFrame([asdict(law) for law in laws], columns=[f.name for f in fields(Law)])
        table.insert(0, "draw", np.arange(len(laws)))
        examples["half_cosine"] = curve.half_cosines
        return self._own(curve.table), self._own(examples), self._own(table)

    def _own(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(algorithm=self.algorithm).astype({"algorithm": int})

    def figures(self, tables, ceiling: NoiseCeiling | None) -> dict[str, Any]:
        """Figures for `results.json`, named like `ceiling_1` and `ceiling_1_low`."""
        curve, _, laws = tables
        fitting = self.models.fitting(self.algorithm)
        found = {"seconds_a_model": float(fitting.seconds.mean())}
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
            found |= {"cosine_of_all": law.cosine(len(fitting.masks)), "plateau": law.plateau}
        ends = ("_low", "_high")
        keys = {key: next((end for end in ends if key.endswith(end)), "") for key in found}
        return {
            f"{key.removesuffix(end)}_{self.algorithm}{end}": found[key]
            for key, end in keys.items()
        }


COSINE, SHARE = 0.9, 0.95  # F.3's cosine; a part of the plateau that is worth training for
FAR = 4  # times the models that there are; further on the curves were not tried


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
    for algorithm in (1, 2):
        laws = quality.law(algorithm)
        if not laws:
            continue
        goals = [lds if share is None else share * law.plateau for law in laws]
        each = [
            models_needed(law, lds=goal, cosine=cosine)
            for law, goal in zip(laws, goals, strict=True)
        ]
        low, high = np.percentile(each[1:] or each, [2.5, 97.5], method="nearest")
        name = run.results[MODELS][f"name_{algorithm}"]
        found.append(Need(name, each[0], float(low), float(high), laws[0], goals[0]))
    return found


def plan(run: Run, *, lds: float | None = None, cosine: float | None = None) -> list[str]:
    """Sentences: what an LDS, a cosine, or by default 0.9 and 95% of the plateau would take."""
    quality = read_quality(run)
    if lds is None and cosine is None:
        goals = [{"cosine": COSINE}, {"share": SHARE}]
    else:
        goals = [{k: v} for k, v in (("lds", lds), ("cosine", cosine)) if v is not None]
    return [sentence(run, quality, goal) for goal in goals]


def sentence(run: Run, quality: StudyQuality, goal: dict[str, float]) -> str:
    """One target in words: each algorithm's models, then what to train for both and how long."""
    found, there = needs(run, quality, **goal), run.results[MODELS]["n_models"]
    words = in_words(goal)
    if not found:
        return f"{words}: nothing stands out from noise here, so no curve tells. Train more models."
    text = f"{words}: {'; '.join(one(need, there) for need in found)}."
    reachable = [need.models for need in found if math.isfinite(need.models)]
    more = max((n - there for n in reachable), default=0)
    if more <= 0:
        return text
    text += f" Train about {about(more)} more models of each algorithm{cost(run, quality, more)}."
    guess = f" That is more than {FAR} times the models there are: take it as a guess."
    return text + (guess if more + there > FAR * there else "")


def cost(run: Run, quality: StudyQuality, more: float) -> str:
    """How long so many more models of both algorithms take; empty where it is not known."""
    each = [quality.figures.get(f"seconds_a_model_{a}") for a in (1, 2)]
    workers = run.results[MODELS]["workers"]
    if not workers or None in each:  # trained elsewhere
        return ""
    processes = f"{workers} process{'es' * (workers > 1)}"
    return f", about {long(more * sum(each) / workers)} at this run's rate ({processes})"


def in_words(goal: dict[str, float]) -> str:
    (kind, value), *_ = goal.items()
    return {
        "lds": f"To reach an LDS of {value:g}",
        "cosine": f"To reach a cosine of {value:g} between fits on disjoint models",
        "share": f"To reach {value:.0%} of the LDS that infinitely many models would have",
    }[kind]


def one(need: Need, there: int) -> str:
    """What one algorithm needs."""
    if math.isinf(need.models):
        return (
            f"{need.name} cannot reach it, its curve levels off at an LDS of {need.law.plateau:.2f}"
        )
    goal = f" (LDS {need.lds:.2f})" if need.lds is not None else ""
    if need.models <= there:
        return f"{need.name}{goal} has it with the {there} models there are"
    high = "no number" if math.isinf(need.high) else about(need.high)
    return f"{need.name}{goal} needs about {about(need.models)} ({about(need.low)} to {high})"


def long(seconds: float) -> str:
    """A time in minutes or hours."""
    minutes = seconds / 60
    return f"{max(minutes, 1):.0f} min" if minutes < 90 else f"{minutes / 60:.1f} hours"


def about(number: float) -> str:
    """Two digits that count, or three where the first is 1."""
    digits = 3 if f"{number:.1e}"[0] == "1" else 2
    step = 10 ** max(math.floor(math.log10(max(number, 1))) + 1 - digits, 0)
    return f"{step * round(number / step):,.0f}"


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
    relative_to_class: bool = True,
    n_lams: int = 50,
    lam_min_ratio: float = 0.01,
    folds: int = 1,
    seed: int = 0,
    device: str = "auto",
) -> StudyFits:
    """Stage 03: regress margins on masks, and grade the result on held-out models.

    Parameters
    ----------
    run
        The run's folder, with stage 02 finished.
    method
        One of `mdhelpers.method.datamodels.METHODS`, of which the paper's is "lasso" (App. B.3), or
        "auto", which goes by the number of models.
    relative_to_class
        Predict margins relative to the mean of their class, see `mdhelpers.method.margins`.
    n_lams, lam_min_ratio, folds
        Of the lasso, see `mdhelpers.method.engines.estimators.FitOptions`.
    seed
        Of the validation split and the bootstrap.

    """
    relative = relative_to_class
    options = FitOptions(n_lams=n_lams, lam_min_ratio=lam_min_ratio, folds=folds)
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
                own.save_datamodels(fit, path)
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
    return tuple(own.load_datamodels(path) for path in paths)


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
