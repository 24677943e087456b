"""The second half of stage 03: how good the datamodels are, and what more models would give.

Held-out masks are trained again for the noise ceiling; halves, quarters and eighths of the models
give reliability and the learning curve.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.datamodels import Datamodels, FitOptions
from mdhelpers.fitters import fitter
from mdhelpers.learning_curves import (
    POINTS,
    LearningCurve,
    TooFewModels,
    learning_curve,
)
from mdhelpers.learning_laws import SPARSE, Law, fit_laws
from mdhelpers.paths import shown
from mdhelpers.quality import NoiseCeiling, noise_ceiling, repeat_keys
from mdhelpers.retraining import retrain
from mdhelpers.runs import Run, read_tables, write_tables
from mdhelpers.stages import DATAMODELS, StudyModels, read_datamodels, read_models
from mdhelpers.store import Trained

QUALITY = "03_quality"
TABLES = ("quality_curves", "quality_examples", "quality_laws")


@dataclass(frozen=True, eq=False)
class StudyQuality:
    """What is known about the quality of a run's datamodels.

    Attributes
    ----------
    curves
        Learning curves: ``algorithm`` and the columns of `mdhelpers.learning_curves.LearningCurve`.
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
        The run's folder, with `mdhelpers.stages.fit_datamodels` finished.
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
