"""Stage 03 from gradients: what it keeps, how it resumes, and what later stages make of it."""

from unittest.mock import Mock

import numpy as np
import pytest

from mdhelpers.method.margins import relative_to_class
from mdhelpers.method.trak import DAMPINGS, model_scores
from mdhelpers.runs.run import Run
from mdhelpers.show import comparison as show
from mdhelpers.stages import applications, comparison, data, datamodels, gradients
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.study import GradientSpec
from mdhelpers.training import gradients as training
from tests.stages.test_models import DATA
from tests.stages.test_models import MODELS as FEW

MODELS = FEW | {"n_models": 64, "n_slots": 16, "n_heldout": 16}
SPEC = {"models": 34, "at": [0.5, 1.0], "views": 2}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    stages_models.train_models(run, **MODELS, workers=1)
    return run


@pytest.fixture(scope="module")
def fits(run):
    return datamodels.fit_datamodels(run, method="trak+ridge", gradients=SPEC, workers=1)


def test_scores_are_those_of_the_models_that_are_fitted_on(run, fits):
    models = stages_models.read_models(run)
    plan = gradients.gradient_plan(models, GradientSpec(**SPEC))
    assert (plan.rows, list(plan.tasks)) == ((16, 50), list(range(4, 13)))
    assert not plan.folder.exists()  # gradients went when scores were written
    gradients.take_gradients(plan, workers=1)
    figures = run.results["03_datamodel_fitting"]
    found = gradients.ModelGradients(models, plan, 2, True, figures["damping_2"])
    each = np.stack([model_scores(looks, figures["damping_2"]) for looks in found.looks()])
    written = gradients.read_scores(run, 2)
    labels = models.dataset.test.labels
    want = np.stack([relative_to_class(scores.T, labels).T for scores in each])
    np.testing.assert_array_equal(written, want)
    np.testing.assert_allclose(fits.scores[1], want.mean(0), atol=1e-6)
    raw = gradients.mean_scores(run, models, 2, False)
    np.testing.assert_allclose(raw, each.mean(0), atol=1e-6)
    gradients.forget_gradients(plan)
    assert (figures["n_scored"], figures["method"]) == (34, "trak+ridge")
    again = datamodels.fit_datamodels(run, method="trak+ridge", gradients=SPEC)
    np.testing.assert_array_equal(again.datamodels[0].weights, fits.datamodels[0].weights)
    np.testing.assert_allclose(again.scores[1], fits.scores[1], atol=1e-6)


def test_models_that_share_no_initialisation_choose_lambda_too(run):
    """Fewer models than slots: the mean of a slot would leave nothing to be predicted."""
    models = stages_models.read_models(run)
    plan = gradients.gradient_plan(models, GradientSpec(models=8, at=[1.0], views=1))
    gradients.take_gradients(plan, workers=1)
    parts = models, plan, 1, True
    found = gradients.ModelGradients.chosen(*parts)
    each = {d: gradients.ModelGradients(*parts).score(d) for d in DAMPINGS}
    assert found.foretold == max(each.values()) != 0
    assert found.damping == max(each, key=each.get)
    gradients.forget_gradients(plan)


@pytest.mark.usefixtures("fits")
def test_workers_and_a_stop_change_no_bit(run, monkeypatch):
    before = {name: (run.path / name).read_bytes() for name in gradients.FILES}

    # other parameters and back: the stage has to be made again
    datamodels.fit_datamodels(run, method="difference_of_means")
    assert not (run.path / gradients.FILES[0]).exists()
    with monkeypatch.context() as patched:
        patched.setattr(datamodels.ModelGradients, "chosen", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            datamodels.fit_datamodels(run, method="trak+ridge", gradients=SPEC, workers=2)
    left = sorted((run.path / gradients.FOLDER).iterdir())
    assert len(left) == 18
    left[0].unlink()
    done = Mock(side_effect=run_here)
    monkeypatch.setattr(gradients, "run_tasks", done)
    datamodels.fit_datamodels(run, method="trak+ridge", gradients=SPEC)
    assert len(done.call_args.args[1]) == 1
    assert {name: (run.path / name).read_bytes() for name in gradients.FILES} == before


def run_here(plan, tasks, *_, **__):
    """In place of `run_tasks`."""
    return (training.run_gradients(plan, *task) for task in tasks)


@pytest.mark.usefixtures("fits")
def test_later_stages_take_them(run):
    found = comparison.compare_algorithms(run, n_directions=2, n_splits=1, n_null_splits=1)
    assert {"retrained_z", "retrained_q", "confirmed"} <= set(found.gaps)
    assert set(found.gaps["confirmed"]) <= {"confirmed", "not confirmed", "not tested"}
    assert "by retraining" in show.gaps(found, names=run.names)
    made = applications.apply_datamodels(
        run, n_removal_tests=1, n_models_per_set=2, n_clusters=2, selection_sizes=[8], workers=1
    )
    assert np.isfinite(made.datamodels.weights).all()
    assert made.datamodels.method == "trak+ridge"
    quality = datamodels.measure_quality(run, n_repeats=0, n_splits=1)
    assert len(quality.curve(1))


def test_failures_are_named_and_the_rest_is_kept(run, monkeypatch):
    models = stages_models.read_models(run)
    plan = gradients.gradient_plan(models, GradientSpec(models=8, at=[1.0], views=1))

    def one_fails(plan, tasks, *_, **__):
        for algorithm, task in tasks:
            failed = {"algorithm": 2, "task": task, "failed": "no memory"}
            yield failed if algorithm == 2 else training.run_gradients(plan, algorithm, task)

    monkeypatch.setattr(gradients, "run_tasks", one_fails)
    with pytest.raises(RuntimeError, match=r"(?s)algorithm 2 \(b\), task 4.*no memory.*are kept"):
        gradients.take_gradients(plan)
    assert training.unfinished(plan) == [(2, task) for task in plan.tasks]
    assert "no memory" in (plan.folder / gradients.LOG).read_text()
    gradients.forget_gradients(plan)
    assert not plan.folder.exists()


def test_methods_without_gradients_are_refused(run):
    with pytest.raises(ValueError, match=r"gradients\.views: .*greater than or equal to 1"):
        datamodels.fit_datamodels(run, method="trak", gradients={"views": 0})
    with pytest.raises(ValueError, match=r"view.*did you mean 'views'"):
        datamodels.fit_datamodels(run, method="trak", gradients={"view": 2})
