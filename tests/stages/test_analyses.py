"""The further analyses on a small world with planted truth, and the words about them."""

from collections import Counter
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import rc_context

from mdhelpers.base.records import plain
from mdhelpers.method.comparison import compare
from mdhelpers.method.datamodels import Fitter, fit_datamodels
from mdhelpers.runs.run import Run
from mdhelpers.show import analyses as show
from mdhelpers.show.style import use_style
from mdhelpers.stages import data as stages_data
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.analyses import (
    analyse,
    analyses_of,
    figures_of,
    predictions_of_kept,
    tables_of,
)
from mdhelpers.stages.comparison import ModelsGiven
from mdhelpers.training import tasks
from mdhelpers.training.algorithms import parse_algorithm

N_MODELS, N_TRAIN, N_TEST, NAMES = 400, 40, 60, ("plain", "augmented")


class FakeRun:
    names = NAMES

    def __init__(self, figures=None):
        self.results = {} if figures is None else {"13_further_analyses": plain(figures)}


def world(n_models=N_MODELS, seed=0):
    """Models of two algorithms with a planted block each; of tests 40-49 both choose a wrong
    class, each another, and on tests 50-59 only 1 is right."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, N_TRAIN)).argsort(1) < N_TRAIN // 2
    shared = 0.4 * rng.normal(size=(N_TEST, 3)) @ rng.normal(size=(3, N_TRAIN))
    fits, weights, margins = [], [], []
    for algorithm in (0, 1):
        truth = shared.copy()
        truth[25 * algorithm : 25 * algorithm + 12, 10 * algorithm : 10 * algorithm + 5] += 3
        made = (masks - 0.5) @ truth.T + rng.normal(size=(n_models, N_TEST))
        fits.append(Fitter(masks, made, method="difference_of_means"))
        weights.append(fit_datamodels(masks, made, method="difference_of_means"))
        level = np.full(N_TEST, 20.0)
        level[50:] = -20 if algorithm else 20
        level[40:50] = -20
        margins.append(made + level)
    return tuple(weights), ModelsGiven(tuple(fits), n_models, None, tuple(margins))


def first_choices(margins, n_models=12):
    """Classes that models with these margins may choose, where every label is 0."""
    chosen = [np.where(m[:n_models] > 0, 0, 1 + a) for a, m in enumerate(margins)]
    chosen[1][: n_models // 3] = 3  # a few choose otherwise, and are outvoted
    return tuple(chosen)


@pytest.fixture(scope="module")
def found():
    datamodels, given = world()
    return analyse(datamodels, compare(*datamodels, n_directions=4), given)


@pytest.fixture(scope="module")
def nothing():
    datamodels, _ = world()
    return analyse(datamodels, compare(*datamodels, n_directions=4))


def test_every_analysis_is_made(found):
    assert set(found.curves["on"]) == {"all", "half", "others"}
    assert found.curves.groupby(["comparison", "on"]).size().eq(N_TRAIN).all()
    assert sorted(found.counts.cosines["n_models"].unique()) == [50, 100, 200]
    matrix = found.named(NAMES).matrix
    assert list(matrix.index) == list(NAMES)
    assert matrix.loc["plain", "plain"] > matrix.loc["plain", "augmented"]


def test_margins_leave_out_what_only_one_gets_right(found):
    table = found.disagreement
    assert dict(table.groupby("kept")["n"].first()) == {"agree": 50, "right": 40}
    assert dict(table.groupby("kept")["left_out"].first()) == {"agree": 10, "right": 20}
    assert set(table["rule"]) == {"margins"}
    first = table.query("kept == 'agree' and direction == 1")
    assert (first["cosine"] > 0.9).all()  # the planted blocks are elsewhere


@pytest.fixture(scope="module")
def predicted():
    datamodels, given = world()
    chosen = first_choices(given.margins)
    return analyse(datamodels, compare(*datamodels, n_directions=4), given, chosen)


def test_predictions_leave_out_what_both_get_wrong_in_different_ways_too(predicted, found):
    table = predicted.disagreement
    assert set(table["rule"]) == {"predictions"}
    assert set(table["kept"]) == {"agree"}
    assert table[["n", "left_out", "n_models"]].drop_duplicates().to_numpy().tolist() == [
        [40, 20, 12]
    ]
    right = found.disagreement.query("kept == 'right'")  # here the same 40 examples
    np.testing.assert_allclose(table["cosine"], right["cosine"])
    rows = figures_of(predicted)["analyses"]["disagreement"]
    assert [(row["rule"], row["left_out"], row["n_models"]) for row in plain(rows)] == 2 * [
        ("predictions", 20, 12)
    ]


def test_the_page_says_by_which_rule(predicted, found):
    table = show.disagreement(FakeRun(figures_of(predicted)))
    assert set(table["left out where"]) == {"most common predictions differ"}
    assert table[["left out", "kept", "models asked"]].to_numpy().tolist() == 2 * [[20, 40, 12]]
    assert list(show.without_disagreement(predicted, names=NAMES)) == [
        "predictions agree (40 images)",
        "as many at random (predictions agree)",
    ]
    table = show.disagreement(FakeRun(figures_of(found)))
    assert set(table["left out where"]) == {"signs of margins differ"}
    assert table[["left out", "kept"]].to_numpy().tolist() == 2 * [[10, 50]]


def test_runs_made_before_there_was_a_rule_can_be_shown(found):
    added = ["rule", "left_out", "n_models"]
    old = replace(found, disagreement=found.disagreement.drop(columns=added))
    assert next(iter(show.without_disagreement(old, names=NAMES))).startswith("signs of")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data = {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 40}
    dataset = stages_data.prepare_data(run, data)
    network = {"epochs": 2, "width": 4}
    parameters = {"algorithm_1": network | {"name": "a"}, "algorithm_2": network | {"name": "b"}}
    parameters |= {"n_models": 6, "n_heldout": 2, "n_effect_models": 6, "stack": 4}
    parameters |= {"alpha": 0.5, "n_slots": 2, "seed": 0}
    parameters |= {"share_order": False, "models_url": "", "margins_dtype": "float32"}
    plan = stages_models.training_plan(run.path, dataset, parameters, "cpu")
    for algorithm, task in tasks.unfinished_tasks(plan):
        tasks.run_task(plan, algorithm, task)
    return stages_models.StudyModels(plan, dataset, parameters["n_heldout"])


def test_kept_networks_predict_as_they_did_when_they_were_trained(models):
    labels = models.dataset.test.labels
    for algorithm, chosen in enumerate(predictions_of_kept(models), 1):
        assert chosen.shape == (6, 40)  # the second stack of four is kept by halves
        np.testing.assert_array_equal(chosen == labels, models.all(algorithm).margins[:6] > 0)
        kept = tasks.load_kept(models.plan, algorithm, 6)
        logits = torch.cat([stack.logits(models.dataset.test.images) for stack in kept])[:6]
        np.testing.assert_array_equal(chosen, logits.argmax(-1))
        assert len(Counter(chosen.ravel().tolist())) > 1


def test_without_kept_networks_there_are_no_predictions(models, tmp_path):
    tree = parse_algorithm({"kind": "sklearn", "name": "t", "classifier": "DecisionTreeClassifier"})
    for change in (
        {"n_keep": 0},
        {"folder": tmp_path},  # checkpoints that are gone
        {"algorithms": (models.plan.algorithms[0], tree)},
    ):
        bare = replace(models, plan=replace(models.plan, **change))
        assert predictions_of_kept(bare) is None


def test_gaps_are_smaller_on_other_models(found):
    first = found.curves[found.curves["component"] <= 4]
    sums = first.groupby(["comparison", "on"])["gap"].sum().unstack()
    assert (sums["others"] < sums["half"]).all()
    assert (sums["others"] > 0).all()


def test_written_and_read(found, nothing, tmp_path):
    run = Run("s", runs_dir=tmp_path)

    def kept(analyses):
        stage = run.stage("04_residual_pca", {})
        with stage.working():
            stage.keep(tables=tables_of(analyses))
        return analyses_of(run.kept(stage.name))

    again = kept(found)
    pd.testing.assert_frame_equal(again.curves, found.curves)
    pd.testing.assert_frame_equal(again.similarity.matrix, found.similarity.matrix)
    pd.testing.assert_frame_equal(again.counts.components, found.counts.components)
    pd.testing.assert_frame_equal(again.disagreement, found.disagreement)
    assert kept(nothing).counts is None
    assert [path.name for path in (run.path / "analyses").iterdir()] == ["curves.parquet"]
    assert analyses_of({}) is None


def test_too_few_models_for_halves_leave_the_rest():
    datamodels, given = world(n_models=14)
    found = analyse(datamodels, compare(*datamodels, n_directions=2), given)
    assert found.similarity is None
    assert found.counts is None
    assert found.disagreement is not None
    assert set(figures_of(found)["analyses"]) == {"curves", "disagreement"}


def test_tables_hold_the_figures(found):
    figures = figures_of(found)
    run = FakeRun(figures)
    table = show.model_counts_table(run)
    assert table.index[[0, -1]].tolist() == [50, 200]
    assert "found again, plain ∖ augmented" in table
    rows = [row for row in figures["analyses"]["model_counts"] if row["against"] == "others"]
    first = {row["n_models"]: row["mean"] for row in rows if row["algorithm"] == 1}
    assert table["cosine, plain"].to_dict() == pytest.approx(first, abs=1e-3)
    table = show.curves_table(run)
    assert table.loc[("plain ∖ augmented", "all models"), "components"] == 40
    assert table.index.get_level_values("measured on").tolist().count("the other half") == 2
    assert (show.disagreement(run)["directions turn"] == "no further than by chance").all()


def test_tables_say_what_is_missing(nothing):
    run = FakeRun(figures_of(nothing))
    for empty in (run, FakeRun()):
        assert show.model_counts_table(empty) == show.NOTHING
        assert show.disagreement(empty) == show.TOO_FEW
    assert show.curves_table(FakeRun()) == show.NOTHING
    assert set(show.curves_table(run).index.get_level_values("measured on")) == {"all models"}
    assert show.without_disagreement(nothing, names=NAMES) == show.TOO_FEW


def test_directions_that_turn_are_said_to():
    row = {"kept": "agree", "comparison": "1_minus_2", "n": 50, "cosine": 0.6, "random": 0.98}
    table = show.disagreement(FakeRun({"analyses": {"disagreement": [row | {"least": 0.5}]}}))
    assert table["directions turn"].tolist() == ["further than by chance"]
    assert "left out where" not in table


def test_table_of_disagreement(found):
    table = show.without_disagreement(found, names=NAMES)
    assert next(iter(table)) == "signs of margins agree (50 images)"
    assert table.index.names == ["comparison", "direction"]
    assert ("augmented ∖ plain", 3) in table.index


@pytest.mark.parametrize("draw", ["similarity", "variance_curves", "model_counts", "components"])
def test_figures_with_and_without_results(draw, found, nothing):
    for further, is_drawn in ((found, True), (nothing, draw == "variance_curves"), (None, False)):
        with rc_context():
            use_style()
            figure = getattr(show, draw)(further, names=NAMES)
            figure.canvas.draw()
        assert all(ax.axison == is_drawn for ax in figure.axes)
        plt.close(figure)
