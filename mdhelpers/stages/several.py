"""Stage 12: more than two algorithms, trained on the same masks, and every pair compared.

The first two are the study's own, whose models the stages before have made. The further ones are
trained here on the same subsets, from seeds of their own, and get datamodels in the same way. Then
every pair is compared as stage 04 compares two; the study's hypotheses are tested on all of them
(paper, App. E); and their models' errors are set on a ladder (`mdhelpers.analyses.ladder`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from mdhelpers.analyses.ladder import greedy_ensembles, measure_ladder, rung
from mdhelpers.analyses.predictions import Predictions
from mdhelpers.analyses.similarity import Similarity, similarity
from mdhelpers.base.specs import validate
from mdhelpers.method.comparison import COMPARISONS, compare
from mdhelpers.method.crossfit import cross_fitted_gaps
from mdhelpers.method.datamodels import Datamodels, Fitter
from mdhelpers.method.engines.moments import split_models
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import ALL_DATA, DATAMODELS, MODELS, SEVERAL
from mdhelpers.stages import gradients
from mdhelpers.stages.capacity import check_gradients
from mdhelpers.stages.comparison import gap_figures
from mdhelpers.stages.datamodels import HowFitted, how_fitted, read_datamodels
from mdhelpers.stages.effect_cases import measure_hypotheses
from mdhelpers.stages.effect_models import NAME, EffectModels, on_all, read_effect_models
from mdhelpers.stages.models import StudyModels, read_models, softmax
from mdhelpers.stages.outside import algorithms_from_outside
from mdhelpers.stages.study import Hypothesis, Placebo
from mdhelpers.training.algorithms import AlgorithmSpec, parse_algorithm
from mdhelpers.training.mask_training import retrain, retraining, train_all
from mdhelpers.training.tasks import TrainingPlan, choose_stack

FOLDER = "further"
FEWEST = 3
PREFIX = "several_"  # of the tables' files
TABLES = ("cosines", "pairs", "sweep", "ladder", "ensembles")


@dataclass(frozen=True, eq=False)
class StudySeveral:
    """What stage 12 made.

    Attributes
    ----------
    names : tuple of str
        The algorithms, in their order.
    cosines : DataFrame
        Of `mdhelpers.analyses.similarity.Similarity`, each algorithm with fits on two halves.
    pairs : DataFrame
        ``first, second, rung, comparison, significant, strong, gap, low, high``: of each pair and
        either side, how many directions are significant and how many strong, and the cross-fitted
        gap in percent of the datamodels' variance, with its 95% interval.
    sweep : DataFrame
        ``hypothesis, class_name, intensity, unit, algorithm, effect, low, high, outcome``: the
        effect on the confidence in the hypothesis' class in percentage points, and the verdict on
        the algorithm (2) against the first (1), "" for the first.
    ladder, ensembles : DataFrame
        Of `mdhelpers.analyses.ladder`.
    """

    names: tuple[str, ...]
    cosines: pd.DataFrame
    pairs: pd.DataFrame
    sweep: pd.DataFrame
    ladder: pd.DataFrame
    ensembles: pd.DataFrame

    @property
    def similarity(self) -> Similarity:
        return Similarity(self.names, self.cosines)


def compare_several(
    run: Run,
    algorithms: list[dict],
    *,
    hypotheses: list[dict] | None = None,
    epsilon: float = 5.0,
    delta: float = 10.0,
    n_directions: int = 8,
    rotation: str = "none",
    n_splits: int = 4,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict | None = None,
) -> StudySeveral:
    """Stage 12: train the algorithms beyond the second, and compare every pair.

    Parameters
    ----------
    run
        The run's folder, with stages 02 and 03 and `train_on_all` finished.
    algorithms
        Three or more, see `mdhelpers.training.algorithms.AlgorithmSpec`; the first two are those of
        the run.
    hypotheses, epsilon, delta
        As in stage 07.
    n_directions, rotation, n_splits
        As in stage 04.
    seed
        Of splits and transformations.
    device, workers, scheduler, cluster
        Who trains, see `mdhelpers.training.mask_training.train_all`.

    Raises
    ------
    ValueError
        For fewer than three algorithms, two of one name, others than the run's before the third,
        and what has no gradients where datamodels are taken from these.
    """
    specs = checked_algorithms(run, algorithms)
    wanted = [validate(Hypothesis, h, f"hypotheses.{i}") for i, h in enumerate(hypotheses or [])]
    parameters = {
        "algorithms": [spec.model_dump() for spec in specs],
        "hypotheses": [h.model_dump() for h in wanted],
        "epsilon": epsilon,
        "delta": delta,
        "n_directions": n_directions,
        "n_splits": n_splits,
        "seed": seed,
    } | algorithms_from_outside(*specs)
    if rotation != "none":
        parameters["rotation"] = rotation
    who = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    stage = run.stage(SEVERAL, parameters, after=[MODELS, DATAMODELS, ALL_DATA])
    with stage.working() as needed:
        if needed:
            every = Several.trained(run, specs, who, device=device)
            about = {"n_directions": n_directions, "rotation": rotation}
            about |= {"n_splits": n_splits, "seed": seed}
            found = {"pairs": every.pairs(**about), "cosines": every.cosines(seed).cosines}
            found["sweep"] = every.sweep(wanted, epsilon, delta, seed)
            predictions = every.predictions()
            found["ladder"] = measure_ladder(predictions, every.rungs(selves=True), seed=seed)
            found["ensembles"] = greedy_ensembles(predictions, seed=seed)
            made = every.outputs()
            tables = {f"{PREFIX}{name}": table for name, table in found.items()}
            stage.keep(tables=tables, made=made, figures=figures_of(every, found))
    return read_several(run)


def read_several(run: Run) -> StudySeveral:
    """What stage 12 wrote."""
    run.check(SEVERAL)
    tables = run.kept(SEVERAL)
    names = tuple(a["name"] for a in run.manifest(SEVERAL)["parameters"]["algorithms"])
    return StudySeveral(names, **{name: tables[f"{PREFIX}{name}"] for name in TABLES})


def checked_algorithms(run: Run, algorithms: list[dict]) -> list[AlgorithmSpec]:
    """The specifications, of which the first two are the run's own; see `compare_several`."""
    if len(algorithms) < FEWEST:
        raise ValueError(
            f"algorithms: {len(algorithms)} given; this page compares {FEWEST} or more. Give them "
            "in place of algorithm_1 and algorithm_2, as in parameters/several.yaml"
        )
    specs = [parse_algorithm(given, f"algorithms.{i}") for i, given in enumerate(algorithms)]
    for spec in specs:
        spec.check()
    own = run.manifest(MODELS).get("parameters", {})
    for a, spec in enumerate(specs[:2], 1):
        if own and parse_algorithm(own[f"algorithm_{a}"]) != spec:
            raise ValueError(
                f"algorithms.{a - 1} ({spec.name}) is not the run's algorithm {a}; run notebook "
                "02 with the same algorithms first"
            )
    if own.get("models_1_given"):
        raise ValueError("algorithms: the run's models were made elsewhere; give two algorithms")
    return specs


@dataclass(frozen=True, eq=False)
class Several:
    """All algorithms' models, datamodels and models of all data, by their place from 0 on."""

    run: Run
    models: StudyModels
    further: StudyModels
    datamodels: list[Datamodels]
    fitters: list[Fitter]
    all_data: list[TrainingPlan]
    n_all_data: int

    @classmethod
    def trained(cls, run: Run, specs: list[AlgorithmSpec], who: dict, *, device: str) -> Several:
        """Train what is not there yet; a stopped call goes on where it was."""
        models, how = read_models(run, device=device), how_fitted(run)
        if how.by_gradients:
            check_gradients(how.method, specs, elsewhere=False)
        plan = further_plan(models, specs)
        train_all(plan, **who)
        further = StudyModels(plan, models.dataset, models.n_heldout)
        scores = [gradients.read_scores(run, a) if how.by_gradients else None for a in (1, 2)]
        datamodels, of_all = list(read_datamodels(run)), read_effect_models(run, device=device)
        fitters = [
            how.fitter(models, models.fitting(a), score)
            for a, score in zip((1, 2), scores, strict=True)
        ]
        if how.by_gradients:
            gradient_plan = gradients.gradient_plan(further, how.gradients)
            gradients.take_gradients(gradient_plan, **who)
        for a in plan.numbers:
            fit, fitter = fitted(further, how, a)
            datamodels.append(fit)
            fitters.append(fitter)
        if how.by_gradients:
            gradients.forget_gradients(gradient_plan)
        all_data, n = list(of_all.plans), of_all.n_models
        for a in plan.numbers:
            on_everything, *which = on_all(further, n)
            retrain(on_everything, a, *which, name=NAME, keep=True, **who)
            about = {"name": NAME, "keep": True}
            all_data.append(retraining(on_everything, a, *which, **about)[0])
        return cls(run, models, further, datamodels, fitters, all_data, n)

    @property
    def specs(self) -> tuple[AlgorithmSpec, ...]:
        return self.further.plan.algorithms

    @property
    def names(self) -> list[str]:
        return [spec.name for spec in self.specs]

    def rungs(self, *, selves: bool) -> dict[tuple[str, str], str]:
        """What each pair differs in; an algorithm with itself too, with ``selves``."""
        choose = combinations_with_replacement if selves else combinations
        about = {spec.name: spec.model_dump() | {"kind": spec.kind} for spec in self.specs}
        return {(i, j): rung(about[i], about[j]) for i, j in choose(self.names, 2)}

    def pairs(self, *, n_directions: int, rotation: str, n_splits: int, seed: int) -> pd.DataFrame:
        """See `StudySeveral.pairs`."""
        fitting, rows = self.models.fitting(1), []
        slots, place = self.models.slots(fitting), {name: i for i, name in enumerate(self.names)}
        about = {"n_directions": n_directions, "n_splits": n_splits, "slots": slots, "seed": seed}
        for (first, second), said in tqdm(self.rungs(selves=False).items(), unit="pair"):
            i, j = place[first], place[second]
            parts, fits = (
                (self.datamodels[i], self.datamodels[j]),
                (self.fitters[i], self.fitters[j]),
            )
            where = self.models.plan.here
            directions = {"n_directions": n_directions, "rotation": rotation}
            comparison = compare(*parts, **directions, seed=seed, device=where)
            halves = cross_fitted_gaps(*fits, len(fitting.masks), comparison=comparison, **about)
            figures = gap_figures(halves)
            for side in COMPARISONS:
                row = {"first": first, "second": second, "rung": said, "comparison": side}
                row["significant"] = figures.get(f"significant_{side}", np.nan)
                words = figures.get(f"evidence_{side}", {})
                row["strong"] = words.get("strong", 0) if words else np.nan
                gaps = {"gap": "", "low": "_low", "high": "_high"}
                rows.append(row | {k: figures[f"gap_{side}{end}"] for k, end in gaps.items()})
        return pd.DataFrame(rows)

    def cosines(self, seed: int) -> Similarity:
        """Every pair's, with fits on two halves of the models that share no slot where they can."""
        fitting = self.models.fitting(1)
        rng, slots = np.random.default_rng([seed, 18]), self.models.slots(fitting)
        halves = split_models(len(fitting.masks), 2, rng, slots)
        each = zip(self.names, self.fitters, strict=True)
        return similarity({name: [fit(half) for half in halves] for name, fit in each})

    def on_all(self, *places: int) -> EffectModels:
        """Models of all training images of some algorithms."""
        return EffectModels(self.models, tuple(self.all_data[place] for place in places))

    def sweep(
        self, wanted: list[Hypothesis], epsilon: float, delta: float, seed: int
    ) -> pd.DataFrame:
        """See `StudySeveral.sweep`."""
        tables, about = [], {"epsilon": epsilon, "delta": delta, "seed": seed}
        for place, name in enumerate(self.names[1:], 1):
            found, verdicts = measure_hypotheses(self.on_all(0, place), wanted, Placebo(), **about)
            said = verdicts.set_index("hypothesis")[["class_name", "outcome", "unit"]]
            rows = found[found["kind"] == "feature"].merge(
                said, on=["hypothesis", "class_name"], how="inner"
            )
            named = {1: self.names[0], 2: name}
            rows = rows[rows["algorithm"].isin([1, 2] if place == 1 else [2])]
            rows = rows.assign(outcome=rows["outcome"].where(rows["algorithm"] == 2, ""))
            tables.append(rows.assign(algorithm=rows["algorithm"].map(named)))
        columns = ["hypothesis", "class_name", "intensity", "unit", "algorithm"]
        columns += ["effect", "low", "high", "outcome"]
        return pd.concat(tables, ignore_index=True)[columns]

    def predictions(self) -> dict[str, Predictions]:
        """What the models of all data predict on the test images."""
        test, found = self.models.dataset.test, {}
        for place, name in enumerate(self.names):
            probabilities = softmax(self.on_all(place).kept(1), test.images, self.n_all_data)
            found[name] = Predictions(probabilities, test.labels)
        return found

    def outputs(self) -> list[Path]:
        """Files and stores that were made beside the tables."""
        folder = self.further.plan.folder
        made = sorted(folder.glob("models_*.zarr")) + sorted(folder.glob("scores_*.npy"))
        for plan in self.all_data[2:]:
            made += sorted(plan.folder.glob("checkpoints_*/*.safetensors"))
            made += sorted(plan.folder.glob("models_*.zarr"))
        return made


def further_plan(models: StudyModels, specs: list[AlgorithmSpec]) -> TrainingPlan:
    """What trains the algorithms from the third on: the study's masks, in a folder of their own."""
    plan, further = models.plan, tuple(specs[2:])
    url = plan.models_url and f"{plan.models_url.rstrip('/')}/{FOLDER}"
    return replace(
        plan,
        folder=plan.folder / FOLDER,
        run_folder=plan.folder,
        algorithms=tuple(specs),
        numbers=tuple(range(FEWEST, len(specs) + 1)),
        n_keep=0,
        stack=choose_stack(further, plan.n_models, plan.device),
        models_url=url,
    )


def fitted(further: StudyModels, how: HowFitted, a: int) -> tuple[Datamodels, Fitter]:
    """Datamodels of one further algorithm, and what fits them on any of its models."""
    trained, scores, means = further.fitting(a), None, None
    if how.by_gradients:
        plan = gradients.gradient_plan(further, how.gradients)
        found = gradients.ModelGradients.chosen(further, plan, a, how.relative)
        path = found.write(further.plan.folder / f"scores_{a}.npy")
        scores = gradients.open_scores(path)
        means = gradients.as_outputs(found.mean(), further, how.relative)
    return how.fit(further, trained, means), how.fitter(further, trained, scores)


def figures_of(every: Several, found: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """For pages: accuracies, the matrix, and the tables that are short."""
    alike = Similarity(tuple(every.names), found["cosines"])
    accuracy = [every.models.all(a).accuracy.mean() for a in (1, 2)]
    accuracy += [every.further.all(a).accuracy.mean() for a in every.further.plan.numbers]
    algorithms = zip(every.names, accuracy, strict=True)
    return {
        "names": every.names,
        "n_models": len(every.models.fitting(1).masks),
        "n_all_data": every.n_all_data,
        "algorithms": [{"algorithm": name, "accuracy": float(a)} for name, a in algorithms],
        "cosines": alike.matrix.to_numpy().tolist(),
        "corrected": alike.corrected.to_numpy().tolist(),
        **{name: found[name].to_dict("records") for name in ("pairs", "sweep", "ladder")},
        "ensembles": found["ensembles"].to_dict("records"),
    }
