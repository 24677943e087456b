import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mdhelpers.runs.run import Run
from mdhelpers.show import datamodels as show
from mdhelpers.stages import data, datamodels, models
from mdhelpers.stages import datamodels as quality_stage
from tests.stages.test_models import MODELS as FEW

DATA = {"kind": "scenes", "size": 16, "n_train": 24, "n_test": 30}
MODELS = FEW | {"n_models": 32}
BLOCK = "03_datamodel_fitting"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    models.train_models(run, **MODELS, workers=1)
    datamodels.fit_datamodels(run, method="ridge")
    quality_stage.measure_quality(run, workers=1)
    return run


def test_quality_is_measured_written_and_read_again(run, capsys):
    found = quality_stage.measure_quality(run, workers=1)
    assert "finished before" in capsys.readouterr().out
    assert found.curve(1)["n_models"].to_list() == [16, 32]
    figures = run.results[BLOCK]
    assert figures["lds_1"] == pytest.approx(found.curve(1)["lds"].iloc[-1], abs=5e-3)
    for name in ("ceiling_2", "ceiling_2_low", "share_1_high", "half_cosine_1", "n_half_2"):
        assert figures[name] == found.figures[name]
    assert figures["share_1"] == pytest.approx(figures["lds_1"] / figures["ceiling_1"])
    ceilings = found.examples.groupby("algorithm")["ceiling"].mean()
    np.testing.assert_allclose(ceilings, [figures["ceiling_1"], figures["ceiling_2"]], rtol=1e-5)


def test_the_notebooks_tables_and_figures_tell_what_was_measured(run):
    figures, names = run.results[BLOCK], ("a", "b")
    table = show.quality_table(run)
    assert table.loc["noise ceiling of the LDS", "b"] == pytest.approx(
        figures["ceiling_2"], abs=1e-3
    )
    assert table.loc["LDS over ceiling", "a"] == pytest.approx(figures["share_1"], abs=1e-3)
    half = table.loc["cosine between halves", "a"]
    assert half == pytest.approx(figures["half_cosine_1"], abs=1e-3)
    found = quality_stage.read_quality(run)
    needed = show.models_needed(run, found, cosine=0.9, share=0.95)
    assert set(needed.index.get_level_values("algorithm")) <= set(names)
    for ax in show.learning_curves(found, names=names).axes:
        assert {"a", "b"} <= set(ax.get_legend_handles_labels()[1])
    plt.close("all")


def test_another_fit_is_measured_anew_and_without_repeats_has_no_ceiling(run):
    datamodels.fit_datamodels(run, method="difference_of_means")
    found = quality_stage.measure_quality(run, n_repeats=0, n_splits=1)
    assert "ceiling_1" not in run.results[BLOCK]
    assert found.examples["ceiling"].isna().all()
    assert found.curve(1)["n_fits"].to_list() == [2, 1]
    assert "noise ceiling of the LDS" not in show.quality_table(run).index


def test_too_few_models_to_halve_are_told(run):
    none = quality_stage.read_quality(run).curves.iloc[:0]
    unknown = pd.DataFrame({"algorithm": [1, 2], "half_cosine": np.nan})
    few = quality_stage.StudyQuality(none, unknown, none, {})
    for ax in show.learning_curves(few).axes:
        assert "too few models" in ax.texts[0].get_text()
    assert few.half_cosines(("a", "b")) is None
    plt.close("all")


def test_a_run_without_quality_says_what_to_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"run notebook {BLOCK} first"):
        quality_stage.read_quality(Run("s", runs_dir=tmp_path))
