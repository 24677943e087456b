"""Stages 04 and 05 on models so small that they say nothing, but go through every file."""

from collections import Counter

import numpy as np
import pytest
import torch

from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.runs.run import Run
from mdhelpers.show import subpopulations as selections
from mdhelpers.stages import analyses, comparison, data, datamodels, subpopulations
from mdhelpers.stages import models as stages_models
from mdhelpers.training import tasks
from tests.stages.test_models import MODELS as FEW

DATA = {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 30, "share": 0.3}
MODELS = FEW | {"n_models": 32}
BUDGET = {"n_directions": 3, "n_splits": 1, "n_null_splits": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    stages_models.train_models(run, **MODELS, workers=1)
    datamodels.fit_datamodels(run, method="difference_of_means")
    return run


def test_a_comparison_has_its_further_analyses(run, capsys):
    comparison.compare_algorithms(run, **BUDGET)
    found = analyses.analyse_further(run)
    assert found.counts.cosines["n_models"].max() == 16
    assert set(found.disagreement["comparison"]) == set(COMPARISONS)
    figures = run.results["13_further_analyses"]["analyses"]
    alike = found.similarity.matrix.loc["1", "2"]
    assert figures["similarity"]["pair"] == pytest.approx(alike)
    again = analyses.analyse_further(run)
    assert "13_further_analyses: finished before" in capsys.readouterr().out
    assert again.curves.equals(found.curves)
    (run.path / "analyses" / "curves.parquet").unlink()
    assert analyses.analyse_further(run).curves.equals(found.curves)


def votes(models, algorithm) -> list[int]:
    """The class that most of the kept models predict of each test image, counted one by one."""
    kept = tasks.load_kept(models.plan, algorithm, 4)
    chosen = torch.cat([s.logits(models.dataset.test.images) for s in kept]).argmax(-1)
    counts = [Counter(image.tolist()) for image in chosen.T]
    return [min(count, key=lambda c, n=count: (-n[c], c)) for count in counts]


def test_predictions_of_kept_networks_say_which_images_are_left_out(run):
    comparison.compare_algorithms(run, **BUDGET)
    analyses.analyse_further(run)
    models = stages_models.read_models(run)
    differ = sum(one != two for one, two in zip(votes(models, 1), votes(models, 2), strict=True))
    assert differ > 0
    rows = run.results["13_further_analyses"]["analyses"]["disagreement"]
    assert [row["rule"] for row in rows] == 2 * ["predictions"]
    assert {(row["left_out"], row["n"], row["n_models"]) for row in rows} == {
        (differ, 30 - differ, 4)
    }


def test_subpopulations_have_classes_and_influences(run):
    comparison.compare_algorithms(run, **BUDGET)
    found = subpopulations.inspect_subpopulations(run, top_k=5)
    assert len(found.classes) == 2 * 3 * 2
    assert found.classes["share"].between(0.2, 1).all()
    influence = run.results["05_subpopulation_inspection"]["influence"]
    assert {row["direction"] for row in influence} == {1, 2, 3}
    compared, test = comparison.read_comparison(run), stages_models.read_models(run).dataset.test
    rows = selections.influenced_rows(compared, found.members, test, ("a", "b"), n=4)
    assert [row.shape for row in rows.values()] == 4 * [(4, 16, 16, 3)]
    first = compared.comparison.one_minus_two.component[0]
    assert list(rows)[1] == f"a ∖ b #{first}\npulled under b"


def test_scores_made_elsewhere_have_curves_and_no_more(tmp_path):
    rng = np.random.default_rng(0)
    for number in (1, 2):
        weights = torch.from_numpy(rng.normal(size=(20, 30)).astype(np.float32))
        torch.save({"weight": weights}, tmp_path / f"{number}.pt")
    scores = {f"datamodels_{number}_path": str(tmp_path / f"{number}.pt") for number in (1, 2)}
    run = Run("scores", runs_dir=tmp_path / "runs")
    comparison.compare_algorithms(run, n_directions=3, **scores)
    found = analyses.analyse_further(run)
    assert set(found.curves["on"]) == {"all"}
    assert found.counts is None
    assert list(run.results["13_further_analyses"]["analyses"]) == ["curves"]
