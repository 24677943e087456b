import shutil
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from mdhelpers.runs import stage as names
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import TILTING
from mdhelpers.show import reweighting as show
from mdhelpers.stages import comparison, models
from mdhelpers.stages.reweighting import StudyTilts, read_tilted, tilt_directions
from mdhelpers.training.store import ModelStore
from tests.stages.test_models import compared

BUDGET = {"n_tilted": 1, "n_random_tilts": 1, "n_tilt_pairs": 4}
NAMES = ("a", "b")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return compared(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def found(run) -> StudyTilts:
    return tilt_directions(run, **BUDGET, workers=1)


def test_every_direction_is_measured_under_both_algorithms(run, found):
    assert len(found.table) == 6
    assert len(found.changes) == 6 * 30
    first = comparison.read_comparison(run).comparison.one_minus_two.component[0]
    rows = found.table[found.table["comparison"] == "1_minus_2"]
    assert rows["direction"].tolist() == [first, first]
    assert found.table["correlation"].abs().max() <= 1
    assert (found.table["predicted_size"] > 0).all()
    figures = run.results[TILTING]["random_algorithm_2"]
    mean = found.table.query("comparison == 'random' and algorithm == 2")["correlation"].mean()
    assert figures["correlation"] == pytest.approx(mean)


def test_called_directions_are_confirmed_by_what_was_trained(run, found):
    table, gaps = found.confirmations, comparison.read_comparison(run).gaps
    assert table["comparison"].tolist() == ["1_minus_2", "2_minus_1"]
    assert table["z"].notna().all()
    listed = table.merge(gaps, on=["comparison", "direction"], suffixes=("", "_there"))
    assert (listed["called"] == (listed["q_there"] < 0.05)).all()
    word = np.where(table["q"] < 0.05, "confirmed", "not confirmed")
    assert (table["confirmed"] == np.where(table["called"], word, "not tested")).all()
    figures = run.results[TILTING]
    assert figures["n_tilted"] == 2
    assert figures["n_confirmed"] == (table["confirmed"] == "confirmed").sum()


def test_what_is_confirmed_is_in_every_table_from_then_on(run, found):
    """And no more where stage 04 has been made anew since."""
    keys = ["comparison", "direction"]
    gaps = comparison.read_comparison(run).gaps
    listed = gaps.merge(found.confirmations, on=keys, suffixes=("", "_there"))
    assert (listed["confirmed"] == listed["confirmed_there"]).all()
    assert (gaps["confirmed"] == "not tested").sum() >= len(gaps) - len(listed)
    before = run.kept(names.COMPARISON)["gaps"]
    assert "confirmed" not in before
    manifest = run.folder / "stages" / f"{TILTING}.json"
    aside = manifest.rename(manifest.with_suffix(".aside"))
    assert comparison.read_comparison(run).gaps.equals(before)
    aside.rename(manifest)


def test_the_page_says_what_share_is_confirmed(found):
    table = show.confirmations(found, NAMES)
    assert table.index.names == ["comparison", "direction"]
    assert table["by retraining"].tolist() == found.confirmations["confirmed"].tolist()
    rows = found.confirmations.assign(called=True, confirmed=["confirmed", "not confirmed"])
    said = show.share_confirmed(replace(found, confirmations=rows))
    assert said.startswith("Retraining confirms 1 of the 2 directions")
    none = show.share_confirmed(replace(found, confirmations=rows.assign(called=False)))
    assert none.startswith("No direction was called")


@pytest.mark.usefixtures("found")
def test_tilted_models_start_from_weights_that_no_other_model_had(run):
    (store,) = run.folder.glob("retrained/tilts_1-*/models_1.zarr")
    assert (ModelStore.open(store, read_only=True).read().slots == -1).all()


def test_it_is_read_when_it_is_done(run, found, monkeypatch):
    monkeypatch.setattr("mdhelpers.stages.reweighting.retrain", None)
    again = tilt_directions(run, **BUDGET, workers=1)
    assert again.table.equals(found.table)


def test_the_page_shows_it(found):
    table = show.tilts(found, NAMES)
    assert len(table) == 6
    assert "a ∖ b" in table.index.get_level_values("comparison")
    fig = show.tilt_panels(found, names=NAMES)
    assert "r = " in fig.axes[0].get_legend().get_texts()[0].get_text()
    assert "a ∖ b, direction" in fig.axes[0].get_title()
    ax = plt.figure().subplots()
    show.tilt_sizes(ax, found.table, names=NAMES)
    heights = [patch.get_height() for patch in ax.patches]
    assert sorted(heights) == pytest.approx(
        sorted([*found.table["size"], *found.table["predicted_size"]])
    )
    plt.close("all")


def test_the_models_that_were_trained_are_read_in_pairs(run, found):
    """Tilted towards its direction's images, all of one size, and as far apart as measured."""
    directions = comparison.read_comparison(run).comparison.one_minus_two.directions
    for algorithm in (1, 2):
        masks, outputs = read_tilted(run, algorithm)
        assert masks.shape[:3] == outputs.shape[:3] == (3, 2, 4)
        assert (masks.sum(-1) == masks.shape[-1] // 2).all()
        along, against = masks[0][..., directions[0].argmax()].sum(-1)
        assert along > against
        measured = (outputs[:, 0] - outputs[:, 1]).mean(1)
        listed = found.changes[found.changes["algorithm"] == algorithm]["measured"]
        np.testing.assert_allclose(measured.ravel(), listed, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "correlation", "verdicts"),
    [
        ((2.0, 1.0), 0.9, ["follows, moved more", "follows"]),
        ((1.0, 2.0), 0.1, ["does not follow, not moved more", "does not follow"]),
    ],
)
def test_the_verdict_is_of_the_algorithm_that_is_named_first(found, sizes, correlation, verdicts):
    rows = found.table.head(1).loc[[0, 0]].assign(algorithm=[1, 2], size=sizes)
    given = replace(found, table=rows.assign(correlation=correlation))
    assert show.tilts(given, NAMES)["verdict"].tolist() == verdicts


def test_models_that_were_trained_elsewhere_have_no_page(run, monkeypatch):
    monkeypatch.setattr(models.StudyModels, "made_elsewhere", property(lambda _: True))
    monkeypatch.setattr("mdhelpers.stages.reweighting.retrain", None)
    other = Run("s", runs_dir=run.path.parent)
    nothing = tilt_directions(other, **BUDGET | {"n_tilt_pairs": 2})
    assert show.tilts(nothing, NAMES) == show.NO_MODELS
    assert show.confirmations(nothing, NAMES) == show.share_confirmed(nothing) == show.NO_MODELS
    ax = plt.figure().subplots()
    show.tilt_sizes(ax, nothing.table, names=NAMES)
    assert not ax.axison
    assert not any(ax.axison for ax in show.tilt_panels(nothing).axes)
    assert [each.shape[:3] for each in read_tilted(other, 1)] == [(0, 2, 2)] * 2
    plt.close("all")
    monkeypatch.undo()
    tilt_directions(run, **BUDGET, workers=1)


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
