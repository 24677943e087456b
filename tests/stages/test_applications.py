"""Stage 08 on a study of a few tiny models, trained for real."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from mdhelpers.analyses.removal import join
from mdhelpers.formats.own import load_datamodels
from mdhelpers.method.datamodels import fit_datamodels
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import APPLICATIONS
from mdhelpers.show import applications as show
from mdhelpers.stages import data, datamodels
from mdhelpers.stages import models as stages_models
from mdhelpers.stages.applications import apply_datamodels
from mdhelpers.stages.datamodels import how_fitted
from mdhelpers.training.store import ModelStore

DATA = {"kind": "scenes", "size": 16, "n_train": 30, "n_test": 36, "share": 0.4, "duplicates": 6}
MODELS = {
    "algorithm_1": {"name": "a", "epochs": 6, "width": 4},
    "algorithm_2": {"name": "b", "epochs": 2, "width": 4},
    "n_models": 48,
    "n_heldout": 16,
    "n_kept": 4,
    "alpha": 0.5,
    "n_slots": 2,
    "stack": 8,
    "seed": 0,
}
HOW = {
    "application_algorithm": 1,
    "n_removal_tests": 4,
    "n_models_per_set": 2,
    "n_clusters": 3,
    "selection_targets": ["hardest", "tag"],
    "selection_sizes": [6, 12],
    "workers": 1,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    stages_models.train_models(run, **MODELS, workers=1)
    datamodels.fit_datamodels(run, method="difference_of_means")
    return run


@pytest.fixture(scope="module")
def found(run):
    return apply_datamodels(run, **HOW)


@pytest.fixture(scope="module")
def models(run):
    return stages_models.read_models(run)


def test_every_use_leaves_its_table(run, found):
    assert len(found.removals.table) == 2 * 2 * 4
    assert len(found.selections) == 2 * 3 * 2
    assert len(found.clusters) == 2 * 36
    assert set(found.leakage["algorithm"]) == {1, 2}
    assert set(found.cluster_grades["feature"]) == {"tag", "ring", "stripes"}
    figures = run.results[APPLICATIONS]
    assert set(figures["removal"]) == {"half", "full"}
    assert figures["duplicates"]["n"] == 6
    rows = found.removals.table.query("setting == 'half' and kind == 'set'")
    wanted = np.corrcoef(rows["predicted"], rows["retrained"])[0, 1]
    assert figures["removal"]["half"]["correlation"] == pytest.approx(wanted)


def test_datamodels_are_of_the_margins_themselves(found, models):
    fitting = models.fitting(1)
    how = {"method": "difference_of_means", "slots": fitting.slots}
    wanted = fit_datamodels(fitting.masks, fitting.margins, **how)
    np.testing.assert_allclose(found.datamodels.weights, wanted.weights, atol=1e-6)


def test_a_study_of_plain_margins_keeps_its_fit(run, tmp_path, monkeypatch):
    how = replace(how_fitted(run), relative=False)
    monkeypatch.setattr("mdhelpers.stages.applications.how_fitted", lambda _: how)
    monkeypatch.setattr("mdhelpers.stages.applications.retrain", None)
    monkeypatch.setattr(
        "mdhelpers.stages.models.StudyModels.made_elsewhere", property(lambda _: True)
    )
    stored = load_datamodels(run.path / "datamodels_2.safetensors")
    plain = Run("s", runs_dir=tmp_path)
    shutil.copytree(run.path, plain.folder)
    found = apply_datamodels(plain, **HOW | {"application_algorithm": 2})
    assert np.array_equal(found.datamodels.weights, stored.weights)


def test_effects_are_those_of_the_trained_models(run, found):
    folder = next((run.path / "retrained").glob("removal_full_1-*"))
    trained = ModelStore.open(folder / "models_1.zarr").read()
    whole = next((run.path / "retrained").glob("whole_1-*"))
    whole = ModelStore.open(whole / "models_1.zarr").read()
    row = found.removals.table.query("setting == 'full' and kind == 'set'").iloc[0]
    members = found.removals.members.query(
        "setting == 'full' and kind == 'set' and test == @row.test"
    )["train"]
    without = ~trained.masks[:, members].any(axis=1) & (trained.masks.sum(1) == 30 - row["size"])
    assert without.sum() >= 2
    both = np.unique(trained.margins[without][:, row["test"]])
    wanted = whole.margins[:, row["test"]].mean() - both.mean()
    assert row["retrained"] == pytest.approx(wanted, abs=1e-5)
    assert found.removals.table["found"].notna().all()


def test_what_is_finished_is_read(run, found, monkeypatch, capsys):
    monkeypatch.setattr("mdhelpers.stages.applications.retrain", None)
    again = apply_datamodels(run, **HOW)
    assert "finished before with these parameters" in capsys.readouterr().out
    pd.testing.assert_frame_equal(again.removals.table, found.removals.table)
    pd.testing.assert_frame_equal(again.selections, found.selections)
    assert again.algorithm == 1


def test_tables_say_the_figures(run, found, models):
    figures = run.results[APPLICATIONS]
    half, shown = figures["removal"]["half"], show.removals(run)["half of the images"]
    assert shown["test images"] == 4
    assert shown["flips predicted"] == half["flips_foretold"]
    assert shown["correlation"].startswith(f"{half['correlation']:.2f} [")
    copies = show.duplicates(run)
    assert copies["planted copies"].tolist() == [6] * 5
    pixels = copies.loc["distance in pixels", ["come first", "among the first three"]].tolist()
    given = figures["duplicates"]["pixels"]
    assert pixels == pytest.approx([given["first"], given["among_3"]], abs=0.005)
    assert len(show.selections(found)) == 12
    assert len(show.leakage(found, models, n=3)) == 6
    assert "planted copy" in show.leakage(found, models)
    clusters = show.cluster_grades(found, models)
    own = clusters["verdict"] == "a cluster of its own"
    assert len(clusters) == 6
    assert sum(own) == sum(row["f1"] > 2 / 3 for row in figures["cluster_grades"])
    brittle = show.most_brittle(found)
    assert brittle in set(found.removals.table["test"])


def test_what_is_counted_agrees_with_an_ordinary_regression(found, models):
    table = show.counted_effects(found, models)
    test, heldout = table.index[0], models.heldout(1)
    members = found.removals.members.query("setting == 'half' and kind == 'set' and test == @test")
    held = heldout.masks[:, members["train"]].sum(1).astype(float)
    slots = np.eye(2)[heldout.slots]
    design = np.column_stack([held, slots])
    margins = heldout.margins[:, test]
    centred = margins - slots @ np.linalg.lstsq(slots, margins, rcond=None)[0]
    slope = np.linalg.lstsq(np.column_stack([held, np.ones(16)]), centred, rcond=None)[0][0]
    assert table["counted on held-out models"].iloc[0] == pytest.approx(
        len(members) * slope, abs=0.006
    )
    assert design.shape == (16, 3)


def test_figures_are_drawn(found, models):
    for panels in (show.removal_panels, show.flip_panels):
        fig = panels(found.removals)
        assert all(ax.has_data() for ax in fig.axes)
        fig.canvas.draw()
    fig = show.image_maps(found, models)
    assert [ax.get_title() for ax in fig.axes] == ["a", "b"]
    fig.canvas.draw()
    fig = show.selection_panels(found.selections)
    assert len(fig.axes) == 4
    fig.canvas.draw()
    (ax,) = show.leaked_images(found, models, n=5).axes
    assert len(ax.images) == 5 * 4
    copies = found.leakage.groupby("algorithm").head(5)["copy"]
    assert len(ax.patches) == copies.sum()
    show.brittle_neighbours(found, models, top_k=3).canvas.draw()
    plt.close("all")


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"selection_targets": ["cow"], "selection_sizes": [6]}, "unknown target 'cow'"),
        ({"selection_sizes": [31]}, "31 of 30"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_training(run, selection, message, monkeypatch):
    monkeypatch.setattr("mdhelpers.stages.applications.retrain", None)
    with pytest.raises(ValueError, match=message):
        apply_datamodels(run, **HOW | selection)


def test_models_made_elsewhere_are_not_trained_anew(run, models, monkeypatch):
    monkeypatch.setattr(
        "mdhelpers.stages.models.StudyModels.made_elsewhere", property(lambda _: True)
    )
    monkeypatch.setattr("mdhelpers.stages.applications.retrain", None)
    other = Run("s", runs_dir=run.path.parent)
    found = apply_datamodels(other, **HOW | {"n_clusters": 4})
    assert len(found.removals.table) == len(found.selections) == 0
    assert len(found.clusters) == 2 * 36
    assert len(show.removals(other)) == 0
    assert len(show.selections(found)) == 0
    assert len(show.counted_effects(found, models)) == 0
    assert show.most_brittle(found) == 0
    for fig in (show.removal_panels(join([])), show.selection_panels(found.selections)):
        assert all("none of these" in ax.texts[0].get_text() for ax in fig.axes)
    plt.close("all")


def test_what_datamodels_choose_is_called_better_where_intervals_are_apart():
    rows = [
        {"target": "ring", "size": size, "way": way, "right_all": 0.5, "right_all_low": 0.4,
         "right_all_high": 0.6, "right": at, "right_low": at - 0.1, "right_high": at + 0.1}
        for size, best in ((10, 0.9), (20, 0.65))
        for way, at in (("random", 0.3), ("nearest", 0.5), ("datamodels", best))
    ]  # fmt: skip
    table = show.selections(SimpleNamespace(selections=pd.DataFrame(rows)))
    better = table.index[table["verdict"] == "better than both"]
    assert better.tolist() == [("ring", 10, "by datamodels")]
