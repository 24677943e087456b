import shutil

import matplotlib.pyplot as plt
import pytest

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import TILTING
from mdhelpers.show import checks
from mdhelpers.show import reweighting as tilting_words
from mdhelpers.stages import comparison as findings
from mdhelpers.stages import data, datamodels, models
from mdhelpers.stages.reweighting import StudyTilts, tilt_directions
from tests.stages.test_models import DATA, MODELS

BUDGET = {"n_tilted": 1, "n_random_tilts": 1, "n_tilt_pairs": 4}
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    models.train_models(run, **MODELS, workers=1)
    datamodels.fit_datamodels(run, method="difference_of_means")
    findings.compare_algorithms(run, n_directions=2, n_splits=1, n_null_splits=1)
    return run


@pytest.fixture(scope="module")
def found(run) -> StudyTilts:
    return tilt_directions(run, **BUDGET, workers=1)


def test_every_direction_is_measured_under_both_algorithms(run, found):
    assert len(found.table) == 6
    assert len(found.changes) == 6 * 30
    first = findings.read_comparison(run).comparison.one_minus_two.component[0]
    rows = found.table[found.table["comparison"] == "1_minus_2"]
    assert rows["direction"].tolist() == [first, first]
    assert found.table["correlation"].abs().max() <= 1
    assert (found.table["predicted_size"] > 0).all()
    figures = run.results[TILTING]["random_algorithm_2"]
    mean = found.table.query("comparison == 'random' and algorithm == 2")["correlation"].mean()
    assert figures["correlation"] == pytest.approx(mean)


def test_it_is_read_when_it_is_done(run, found, monkeypatch):
    monkeypatch.setattr("mdhelpers.stages.reweighting.retrain", None)
    again = tilt_directions(run, **BUDGET, workers=1)
    assert again.table.equals(found.table)


def test_the_page_shows_it(run, found):
    assert len(tilting_words.table(found, NAMES)) == 6
    assert "a ∖ b" in tilting_words.verdict(run).data
    fig, axes = plt.subplots(1, 2)
    tilting_words.draw_scatters(axes, found, names=NAMES)
    assert "r = " in axes[0].get_legend().get_texts()[0].get_text()
    tilting_words.draw_sizes(axes[0], found, names=NAMES)
    heights = [patch.get_height() for patch in axes[0].patches]
    assert sorted(heights) == pytest.approx(
        sorted([*found.table["size"], *found.table["predicted_size"]])
    )
    plt.close(fig)
    assert len(checks.tilted_inclusion(run, found)) == 2


def test_models_that_were_trained_elsewhere_have_no_page():
    nothing = StudyTilts(None, None)
    assert tilting_words.table(nothing, NAMES) == tilting_words.NO_MODELS
    fig, ax = plt.subplots()
    tilting_words.draw_sizes(ax, nothing, names=NAMES)
    assert not ax.axison
    plt.close(fig)


@pytest.mark.parametrize("harm", ["lost", "of other models"])
def test_models_that_the_page_reads_are_held_against_what_was_trained(run, found, harm):
    (store,) = run.folder.glob("retrained/tilts_1-*/models_1.zarr")
    one, other = (store / "margins/c" / str(task) / "0" for task in (0, 1))
    if harm == "lost":
        one.unlink()
    else:
        shutil.copy(other, one)
    (damage,) = run.damage(run.manifest(TILTING))
    assert "retrained/tilts_1-" in damage
    assert tilt_directions(run, **BUDGET, workers=1).table.equals(found.table)
    assert run.damage(run.manifest(TILTING)) == []
