"""Stage 09 on a run small enough to train here, and what its page shows of it."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from mdhelpers.analyses.predictions import MEASURES
from mdhelpers.runs import stage
from mdhelpers.runs.run import Run
from mdhelpers.show import predictions as show
from mdhelpers.stages import comparison, data, datamodels, predictions, subpopulations
from mdhelpers.stages import models as stages_models
from mdhelpers.training import tasks
from mdhelpers.training.algorithms import parse_algorithm

PARAMETERS = {
    "algorithm_1": {"name": "plain", "epochs": 2, "width": 4},
    "algorithm_2": {"name": "flipped", "epochs": 3, "width": 4, "augmentation": {"flip": True}},
    "n_models": 32,
    "n_heldout": 8,
    "n_kept": 8,
    "alpha": 0.5,
    "n_slots": 4,
    "stack": 8,
    "seed": 0,
}
NAMES = ("plain", "flipped")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 60})
    stages_models.train_models(run, **PARAMETERS, workers=1)
    datamodels.fit_datamodels(run, method="difference_of_means")
    comparison.compare_algorithms(run, n_directions=2, n_splits=1, n_null_splits=1)
    subpopulations.inspect_subpopulations(run, top_k=8)
    return run


@pytest.fixture(scope="module")
def found(run):
    return predictions.compare_predictions(run, n_reinitialised=4, workers=1)


@pytest.fixture(scope="module")
def models(run):
    return stages_models.read_models(run)


def logits(models, algorithm):
    kept = tasks.load_kept(models.plan, algorithm, 8)
    return torch.cat([stack.logits(models.dataset.test.images) for stack in kept]).numpy()


def test_every_kind_has_its_pairs(found):
    counted = found.tables.pairs.groupby(["masks", "pair"]).size().to_dict()
    assert counted == {
        ("equal", "1 against 1"): 4,
        ("equal", "2 against 2"): 4,
        ("equal", "1 against 2"): 8,
        ("other", "1 against 1"): 24,  # 28 pairs less those in one of four slots
        ("other", "2 against 2"): 24,
        ("other", "1 against 2"): 24,
    }
    other = found.tables.pairs[found.tables.pairs["masks"] == "other"]
    rows = [part[["model_1", "model_2"]].to_numpy() for _, part in other.groupby("pair")]
    assert all((part == rows[0]).all() for part in rows)  # the same masks in every group


def test_pairs_are_those_of_the_checkpoints(found, models):
    one, two = (logits(models, a).argmax(-1) == models.dataset.test.labels for a in (1, 2))
    across = found.tables.pairs[found.tables.pairs["pair"] == "1 against 2"]
    for row in across.itertuples():
        table = confusion_matrix(one[row.model_1], two[row.model_2], labels=[False, True])
        assert row.inconsistency == pytest.approx((table[0, 1] + table[1, 0]) / table.sum())
    kept = [models.all(a).accuracy[:8] for a in (1, 2)]
    np.testing.assert_allclose(found.right[0].mean(1), kept[0], atol=1e-6)
    np.testing.assert_allclose(found.right[1].mean(1), kept[1], atol=1e-6)


def test_reinitialisations_keep_the_mask_and_nothing_else(models):
    plan = models.plan
    keys = predictions.other_keys(plan, 8)
    assert keys.min() >= plan.n_models
    assert ((keys - np.arange(8)) % plan.n_slots == plan.n_slots // 2).all()
    stored = models.all(1)
    table = predictions.errors_again(models, 1, stored, 4, 1)
    np.testing.assert_allclose(table["accuracy_1"], stored.accuracy[:4], atol=1e-6)
    assert (table["inconsistency"] > 0).any()


def test_the_page_reads_what_was_finished(run, found, capsys):
    again = predictions.compare_predictions(run, n_reinitialised=4, workers=1)
    assert "finished before" in capsys.readouterr().out
    assert again.tables.kinds.equals(found.tables.kinds)
    figures = run.results[stage.PREDICTIONS]
    kinds = found.tables.kinds.set_index(["masks", "pair", "measure"])["mean"]
    block = figures["other_masks_1_against_2"]
    assert block["gain"] == pytest.approx(kinds["other", "1 against 2", "gain"])
    assert figures["equal_masks_difference"]["inconsistency_low"] is not None
    assert figures["members"]["n"] <= len(found.tables.members) == 8
    assert "n_reinitialised" in figures["parameters"]


@pytest.mark.usefixtures("found")
def test_without_reinitialisations_the_rest_is_there(run):
    bare = predictions.compare_predictions(run, n_reinitialised=0)
    kinds = bare.tables.kinds
    assert set(kinds[kinds["masks"] == "equal"]["pair"]) == {"1 against 2"}
    assert set(kinds[kinds["masks"] == "other"]["measure"]) == set(MEASURES)
    assert set(show.kinds(bare, NAMES).loc["same", "verdict"]) == {"–"}
    run.stage(stage.PREDICTIONS, {}).withdraw()
    predictions.compare_predictions(run, n_reinitialised=4, workers=1)


def test_forests_have_no_margins_that_tell_errors(models):

    forest = parse_algorithm(
        {"kind": "sklearn", "name": "f", "classifier": "DecisionTreeClassifier"}
    )
    plan = replace(models.plan, algorithms=(forest, models.plan.algorithms[1]))
    assert not len(predictions.errors_again(replace(models, plan=plan), 1, models.all(1), 4, 1))


def test_without_checkpoints_margins_tell_errors(run, found, models):
    """As for models that were trained elsewhere: all that needs probabilities is left out."""
    bare = replace(models, plan=replace(models.plan, n_keep=0, n_slots=0))
    none, trained = predictions.kept_predictions(bare), (models.all(1), models.all(2))
    known = comparison.read_comparison(run).comparison, subpopulations.read_subpopulations(run)
    tables = predictions.PredictionTables(
        **predictions.pairs_of_models(bare, none, trained, [], 0),
        **predictions.grades(bare, none, trained, *known, 0),
    )
    assert set(tables.kinds["measure"]) == {"inconsistency", "of_expected"}
    keys = ["pair", "masks", "model_1", "model_2"]
    both = found.tables.pairs.merge(tables.pairs, on=keys)
    across = both[both["pair"] == "1 against 2"]
    assert (across["masks"] == "equal").sum() == 8
    assert (across["masks"] == "other").any()  # as many as were drawn of all models' pairs
    np.testing.assert_allclose(across["inconsistency_x"], across["inconsistency_y"])
    np.testing.assert_allclose(tables.scores["margin"], found.tables.scores["margin"])
    without = predictions.StudyPredictions(tables, *[tuple(p.right for p in none)] * 2)
    assert_page_holds(without, bare)


def assert_page_holds(without, bare):
    names = bare.dataset.class_names
    assert "Without checkpoints" in show.classes(without, names, NAMES)
    assert len(show.kinds(without, NAMES)) == 4
    assert "angle" not in show.members(without, names, NAMES)
    figure = Figure()
    show.class_angles(figure.subplots(), without.tables.classes, names, names=NAMES)
    panels = (show.confidence_panels, show.angle_panels, show.ensemble_panels)
    for drawn in (figure, *(panel(without, names=NAMES) for panel in panels)):
        assert all("none of these" in ax.texts[0].get_text() for ax in drawn.axes)
        drawn.canvas.draw()
    plt.close("all")


def test_tables_speak_of_the_algorithms(found, models):
    kinds = show.kinds(found, NAMES)
    assert list(kinds.columns) == ["two plain", "two flipped", "plain and flipped",
                                   "across less within", "verdict"]  # fmt: skip
    assert kinds.loc[("same", "put right by the ensemble, %"), "two plain"] == "–"
    accuracy = show.accuracies(found, NAMES)
    assert accuracy.loc[("different", "two plain"), "pairs"] == 24
    names = models.dataset.class_names
    assert len(show.members(found, names, NAMES, n_directions=1)) == 4
    features = show.features(found, NAMES)
    assert features["carriers of the first 12"].between(0, 12).all()
    assert "∖" in features.xs("direction", level="score")["which"].iloc[0]
    rows = show.seen_rows(found, models.dataset.test, NAMES, n=5)
    assert [len(images) for images in rows.values()] == [5] * 4
    assert set(show.classes(found, names, NAMES).index) == set(names)


def test_real_images_have_no_features_to_grade(found, models, tmp_path):
    pd.DataFrame().to_parquet(tmp_path / "none.parquet")
    tables = replace(found.tables, grades=pd.read_parquet(tmp_path / "none.parquet"))
    bare = replace(found, tables=tables)
    assert "nothing to grade" in show.features(bare, NAMES)
    assert predictions.prediction_figures(tables, models)["features"] == []
    ax = Figure().subplots()
    show.feature_grades(ax, bare.tables.grades)
    assert "none of these" in ax.texts[0].get_text()


def test_panels_are_drawn(found):
    figure = show.confidence_panels(found, names=NAMES)
    assert [ax.get_title() for ax in figure.axes] == ["two plain", "two flipped",
                                                      "plain and flipped"]  # fmt: skip
    figure = show.angle_panels(found, names=NAMES)
    assert [ax.get_title() for ax in figure.axes] == list(OUTCOMES)
    figure.canvas.draw()
    figure = show.ensemble_panels(found, names=NAMES)
    assert [ax.get_legend() is not None for ax in figure.axes] == [True, True]
    figure = Figure()
    ax = figure.subplots()
    show.class_angles(ax, found.tables.classes, ["boat", "fish", "house"], names=NAMES)
    assert [text.get_text() for text in ax.get_xticklabels()] == ["boat", "fish", "house"]
    figure = Figure()
    above, below = figure.subplots(2, 1)
    show.feature_grades(above, found.tables.grades)
    show.member_grades(below, found.tables.members, names=NAMES)
    assert len(above.get_yticklabels()) == found.tables.grades["feature"].nunique()
    figure.canvas.draw()
    plt.close("all")


OUTCOMES = ("only 1 right", "only 2 right", "both wrong")
