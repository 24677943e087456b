"""Stage 09: what the predictions alone say of how the algorithms differ.

Pairs of models are compared by their errors and confidences: models of one algorithm that differ in
mask, or in initialisation and order alone, and models of both on equal masks. Then it is graded
whether the planted features and the subpopulations of stage 05 show in the predictions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.analyses import predictions as prediction_pairs
from mdhelpers.analyses.prediction_grades import grade_features, grade_members, prediction_scores
from mdhelpers.analyses.predictions import Predictions
from mdhelpers.method.comparison import Comparison
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import MODELS, PREDICTIONS, SUBPOPULATIONS
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.models import StudyModels, read_models
from mdhelpers.stages.subpopulations import read_subpopulations
from mdhelpers.training.mask_training import retrain
from mdhelpers.training.store_files import Trained
from mdhelpers.training.tasks import TrainingPlan

ARRAYS, PREFIX = "predictions", "prediction_"


@dataclass(frozen=True, eq=False)
class PredictionTables:
    """The tables of stage 09, each a parquet file ``prediction_<name>``.

    Attributes
    ----------
    pairs
        Every pair of models, see `mdhelpers.analyses.predictions.measure_pairs`, with ``pair`` and
        ``masks``.
    kinds
        Their means with intervals, see `mdhelpers.analyses.predictions.summarise`.
    angles
        Histograms of the specialisation angle by kind and outcome.
    classes
        Mean specialisation angles of each kind and class.
    scores
        One row a test example, see `mdhelpers.analyses.prediction_grades.prediction_scores`.
    grades
        How well these and the best direction find each planted feature; no rows without truth.
    members
        How well the scores find each subpopulation.

    """

    pairs: pd.DataFrame
    kinds: pd.DataFrame
    angles: pd.DataFrame
    classes: pd.DataFrame
    scores: pd.DataFrame
    grades: pd.DataFrame
    members: pd.DataFrame


@dataclass(frozen=True, eq=False)
class StudyPredictions:
    """What stage 09 made: its tables, and for each kept model its view of each test example.

    ``confidence`` (in the model's own first choice) and ``right`` are pairs of arrays of shape
    (n_kept, n_test), of algorithms 1 and 2.
    """

    tables: PredictionTables
    confidence: tuple[np.ndarray, np.ndarray]
    right: tuple[np.ndarray, np.ndarray]


def compare_predictions(
    run: Run,
    *,
    n_reinitialised: int = 32,
    seed: int = 0,
    device: str = "auto",
    workers: int = 0,
) -> StudyPredictions:
    """Stage 09: pairs of models side by side, and what could be seen without datamodels.

    Parameters
    ----------
    run
        The run's folder, with stages 02 and 05 finished.
    n_reinitialised
        Models of each algorithm that are trained once more, on the mask of a kept model, from
        another initialisation and in another order; at most as many as are kept, 0 for none.
        Without checkpoints (models trained elsewhere) pairs are compared by errors alone.
    seed
        Of the choice of pairs, the bootstrap and the chance levels.
    device, workers
        Who trains; no result depends on it, but for the kind of device.

    """
    parameters = {"n_reinitialised": n_reinitialised, "seed": seed}
    stage = run.stage(PREDICTIONS, parameters, after=[MODELS, SUBPOPULATIONS])
    with stage.working() as needed:
        if needed:
            models = read_models(run, device=device)
            comparison, members = read_comparison(run).comparison, read_subpopulations(run)
            predictions, trained = kept_predictions(models), (models.all(1), models.all(2))
            again = [
                errors_again(models, a, t, n_reinitialised, workers)
                for a, t in enumerate(trained, 1)
            ]
            tables = PredictionTables(
                **pairs_of_models(models, predictions, trained, again, seed),
                **grades(models, predictions, trained, comparison, members, seed),
            )
            arrays = {f"confidence_{a}": p.confidence for a, p in enumerate(predictions, 1)}
            arrays |= {f"right_{a}": p.right for a, p in enumerate(predictions, 1)}
            stage.keep(
                tables={PREFIX + name: table for name, table in vars(tables).items()},
                arrays={ARRAYS: arrays},
                figures=prediction_figures(tables, models),
            )
    return read_predictions(run)


def read_predictions(run: Run) -> StudyPredictions:
    """What stage 09 wrote."""
    run.check(PREDICTIONS)
    tables, arrays = run.kept(PREDICTIONS), run.kept_arrays(PREDICTIONS, ARRAYS)
    read = [tables[PREFIX + field.name] for field in fields(PredictionTables)]
    pairs = (tuple(arrays[f"{name}_{a}"] for a in (1, 2)) for name in ("confidence", "right"))
    return StudyPredictions(PredictionTables(*read), *pairs)


def kept_predictions(models: StudyModels) -> tuple[Predictions, Predictions]:
    """Softmax outputs of both algorithms' kept models on the test images; perhaps of none."""
    labels, n_classes = models.dataset.test.labels, len(models.dataset.class_names)
    if not models.plan.n_keep:
        none = Predictions(np.empty((0, len(labels), n_classes), np.float32), labels)
        return none, none
    found = (models.confidences(a) for a in (1, 2))
    return tuple(Predictions(probabilities, labels) for probabilities in found)


def other_keys(plan: TrainingPlan, n: int) -> np.ndarray:
    """Keys for models trained again on masks 0 … n - 1: none is used by the study.

    With common initialisations each new key falls into another slot than the mask's first model,
    where there is more than one.
    """
    slots = max(plan.n_slots, 1)
    first = -(-plan.n_models // slots) * slots + slots // 2
    return first + np.arange(n)


def errors_again(
    models: StudyModels, algorithm: int, trained: Trained, n: int, workers: int
) -> pd.DataFrame:
    """Error inconsistency of kept models and models trained again on the same masks.

    Training again gives margins. They say which model is right where the label's logit is
    compared with the largest other one; log-odds do not, so that scikit-learn's classifiers give
    no rows.
    """
    plan = models.plan
    n = min(n, plan.n_keep)
    if not n or plan.algorithms[algorithm - 1].gives_probabilities:
        return pd.DataFrame()
    first = trained.rows(slice(n))
    keys = other_keys(plan, n)
    again = retrain(plan, algorithm, first.masks, keys, name="reinitialised", workers=workers)
    return prediction_pairs.measure_errors(first.margins > 0, again.margins > 0, same_row(n))


def same_row(n: int) -> np.ndarray:
    """Pairs (0, 0) … (n - 1, n - 1), shape (n, 2)."""
    return np.repeat(np.arange(n)[:, None], 2, axis=1)


def pairs_of_models(
    models: StudyModels,
    predictions: tuple[Predictions, Predictions],
    trained: tuple[Trained, Trained],
    again: list[pd.DataFrame],
    seed: int,
) -> dict[str, pd.DataFrame]:
    """What pairs of models show, and its means; ``again`` are pairs with models trained again."""
    slots = models.slots(trained[0])
    if n_keep := models.plan.n_keep:
        kept = np.full(n_keep, -1) if slots is None else slots[:n_keep]
        tables = pair_tables(predictions, kept, seed)
    else:
        tables = tables_of_margins(trained, seed)
    again = [t.assign(pair=p, masks="equal") for t, p in zip(again, SIDES, strict=False) if len(t)]
    tables["pairs"] = pd.concat([tables["pairs"], *again], ignore_index=True)
    n_models = int(tables["pairs"][["model_1", "model_2"]].to_numpy().max()) + 1
    options = {"slots": None if slots is None else slots[:n_models], "seed": seed}
    return tables | {"kinds": prediction_pairs.summarise(tables["pairs"], n_models, **options)}


def pair_tables(
    predictions: tuple[Predictions, Predictions], slots: np.ndarray, seed: int
) -> dict[str, pd.DataFrame]:
    """All that pairs of kept models, of these initialisations, show."""
    other = prediction_pairs.choose_pairs(slots, seed=seed)
    planned = [(pair, "other", other) for pair in SIDES]
    planned.append(("1 against 2", "equal", same_row(len(slots))))
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in MEASURED}
    for pair, masks, rows in planned:
        given = [predictions[side] for side in SIDES[pair]]
        for name, measure in MEASURED.items() if len(rows) else ():
            found[name].append(measure(*given, rows).assign(pair=pair, masks=masks))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}


def tables_of_margins(trained: tuple[Trained, Trained], seed: int) -> dict[str, pd.DataFrame]:
    """Errors alone, where no model is kept: of models that were trained elsewhere."""
    trained = [each.rows(slice(N_WITHOUT_CHECKPOINTS)) for each in trained]
    other = prediction_pairs.choose_pairs(np.full(len(trained[0].masks), -1), seed=seed)
    planned = [(pair, "other", other) for pair in SIDES]
    if np.array_equal(trained[0].masks, trained[1].masks):
        planned.append(("1 against 2", "equal", same_row(len(trained[0].masks))))
    parts = []
    for pair, masks, rows in planned:
        sides = zip(SIDES[pair], rows.T, strict=True)
        right = (trained[side].margins[models_] > 0 for side, models_ in sides)
        table = prediction_pairs.measure_errors(*right, rows)
        parts.append(table.assign(pair=pair, masks=masks))
    none = {name: pd.DataFrame(columns=columns) for name, columns in WITHOUT_ROWS.items()}
    return {"pairs": pd.concat(parts, ignore_index=True)} | none


SIDES = {"1 against 1": (0, 0), "2 against 2": (1, 1), "1 against 2": (0, 1)}
N_WITHOUT_CHECKPOINTS = 64
WITHOUT_ROWS = {
    "angles": ["pair", "masks", "outcome", "left", "right", "share"],
    "classes": ["pair", "masks", "label", "theta_mean", "theta_low", "theta_high"],
}
MEASURED = {
    "pairs": prediction_pairs.measure_pairs,
    "angles": prediction_pairs.histogram_of_angles,
    "classes": prediction_pairs.class_angles,
}


def grades(
    models: StudyModels,
    predictions: tuple[Predictions, Predictions],
    trained: tuple[Trained, Trained],
    comparison: Comparison,
    members: pd.DataFrame,
    seed: int,
) -> dict[str, pd.DataFrame]:
    """Whether features and subpopulations show in the predictions."""
    test = models.dataset.test
    scores = prediction_scores(*predictions, *(each.margins for each in trained))
    projections = {
        f"{found.name} #{component}": column
        for found in comparison
        for component, column in zip(found.component, found.projections.T, strict=True)
    }
    of_features = pd.DataFrame()
    if len(test.truth.columns):
        of_features = grade_features(
            scores, pd.DataFrame(projections), test.labels, test.truth, seed=seed
        )
    of_members = grade_members(scores, members, test.labels, seed=seed)
    return {"scores": scores, "grades": of_features, "members": of_members}


def prediction_figures(tables: PredictionTables, models: StudyModels) -> dict[str, Any]:
    """Means by kind and measure, and the grades of each feature."""
    figures: dict[str, Any] = {"n_models": models.plan.n_keep}
    for row in tables.kinds.itertuples():
        block = figures.setdefault(f"{row.masks}_masks_{row.pair.replace(' ', '_')}", {})
        block |= {
            row.measure: row.mean,
            f"{row.measure}_low": row.low,
            f"{row.measure}_high": row.high,
            "n_pairs": row.n_pairs,
        }
    figures["features"] = tables.grades.to_dict("records")
    figures["members"] = member_figures(tables.members)
    return figures


def member_figures(members: pd.DataFrame) -> dict[str, Any]:
    """Of the subpopulations: how many the margins show above chance, and how well at best."""
    known = members.dropna(subset=["margin", "chance"])
    return {
        "n": len(known),
        "n_above_chance": int((known["margin"] > known["chance"]).sum()),
        "n_at_0.9": int((known["margin"] >= 0.9).sum()),
        "median": known["margin"].median() if len(known) else None,
    }
