"""The further analyses on a small world with planted truth, and the words about them."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from mdhelpers import analysis_panels, analysis_sentences
from mdhelpers.analyses import (
    ModelsGiven,
    analyse,
    figures_of,
    read_analyses,
    write_analyses,
)
from mdhelpers.comparison import compare
from mdhelpers.crossfit import fitter
from mdhelpers.datamodels import fit_datamodels
from mdhelpers.records import plain
from mdhelpers.style import use_style

N_MODELS, N_TRAIN, N_TEST, NAMES = 400, 40, 60, ("plain", "augmented")


class FakeRun:
    def __init__(self, figures=None, influence=()):
        names = {f"name_{a}": name for a, name in enumerate(NAMES, 1)}
        self.results = {"02_mask_training": names}
        self.results["05_subpopulation_inspection"] = {"influence": list(influence)}
        if figures is not None:
            self.results["04_residual_pca"] = plain(figures)


def world(n_models=N_MODELS, seed=0):
    """Models of two algorithms with a planted block each; on tests 50-59 only 1 is right."""
    rng = np.random.default_rng(seed)
    masks = rng.random((n_models, N_TRAIN)).argsort(1) < N_TRAIN // 2
    shared = 0.4 * rng.normal(size=(N_TEST, 3)) @ rng.normal(size=(3, N_TRAIN))
    fits, weights, margins = [], [], []
    for algorithm in (0, 1):
        truth = shared.copy()
        truth[25 * algorithm : 25 * algorithm + 12, 10 * algorithm : 10 * algorithm + 5] += 3
        made = (masks - 0.5) @ truth.T + rng.normal(size=(n_models, N_TEST))
        fits.append(fitter(masks, made, method="difference_of_means"))
        weights.append(fit_datamodels(masks, made, method="difference_of_means"))
        level = np.full(N_TEST, 20.0)
        level[50:] = -20 if algorithm else 20
        margins.append(made + level)
    return tuple(weights), ModelsGiven(tuple(fits), n_models, None, tuple(margins))


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


def test_disagreement_leaves_out_what_only_one_gets_right(found):
    assert dict(found.disagreement.groupby("kept")["n"].first()) == {"agree": 50, "right": 50}
    first = found.disagreement.query("kept == 'agree' and direction == 1")
    assert (first["cosine"] > 0.9).all()  # the planted blocks are elsewhere


def test_gaps_are_smaller_on_other_models(found):
    first = found.curves[found.curves["component"] <= 4]
    sums = first.groupby(["comparison", "on"])["gap"].sum().unstack()
    assert (sums["others"] < sums["half"]).all()
    assert (sums["others"] > 0).all()


def test_written_and_read(found, nothing, tmp_path):
    write_analyses(found, tmp_path)
    again = read_analyses(tmp_path)
    pd.testing.assert_frame_equal(again.curves, found.curves)
    pd.testing.assert_frame_equal(again.similarity.matrix, found.similarity.matrix)
    pd.testing.assert_frame_equal(again.counts.components, found.counts.components)
    pd.testing.assert_frame_equal(again.disagreement, found.disagreement)
    assert len(write_analyses(nothing, tmp_path)) == 1  # and the others are gone
    assert read_analyses(tmp_path).counts is None
    assert read_analyses(tmp_path / "elsewhere") is None


def test_too_few_models_for_halves_leave_the_rest():
    datamodels, given = world(n_models=14)
    found = analyse(datamodels, compare(*datamodels, n_directions=2), given)
    assert found.similarity is None
    assert found.counts is None
    assert found.disagreement is not None
    assert set(figures_of(found)["analyses"]) == {"curves", "disagreement"}


def test_sentences_quote_the_figures(found):
    figures = figures_of(found)
    run, alike = FakeRun(figures), figures["analyses"]["similarity"]
    text = analysis_sentences.similarity(run).data
    assert f"**{alike['pair']:.2f}**" in text
    assert f"about **{alike['pair_corrected']:.2f}**" in text
    text = analysis_sentences.model_counts(run).data
    assert text.startswith("From 50 to 200 models")
    assert "*plain ∖ augmented*" in text
    text = analysis_sentences.curves(run).data
    assert text.count("on the other.") == 2
    assert "40 components explain more under *plain*" in text
    assert analysis_sentences.disagreement(run).data.count("no further than") == 2


def test_sentences_say_what_is_missing(nothing):
    run = FakeRun(figures_of(nothing))
    for say in ("similarity", "model_counts", "disagreement"):
        assert getattr(analysis_sentences, say)(run).data == analysis_sentences.NOTHING
        assert getattr(analysis_sentences, say)(FakeRun()).data == analysis_sentences.NOTHING
    assert "on the other" not in analysis_sentences.curves(run).data
    assert analysis_sentences.without_disagreement(nothing, NAMES) == analysis_sentences.NOTHING


def test_directions_that_turn_are_said_to():
    row = {"kept": "agree", "comparison": "1_minus_2", "n": 50, "cosine": 0.6, "random": 0.98}
    run = FakeRun({"analyses": {"disagreement": [row | {"least": 0.5}]}})
    assert "**further than by" in analysis_sentences.disagreement(run).data


def test_noise_that_cannot_be_corrected_for_is_said(found):
    figures = figures_of(found)["analyses"]["similarity"] | {"pair_corrected": float("nan")}
    run = FakeRun({"analyses": {"similarity": figures}})
    assert "cannot be corrected for" in analysis_sentences.similarity(run).data


def test_table_of_disagreement(found):
    table = analysis_sentences.without_disagreement(found, NAMES)
    assert next(iter(table)) == "outcomes agree (50 images)"
    assert table.index.names == ["comparison", "direction"]
    assert ("augmented ∖ plain", 3) in table.index


def test_influence_is_told_of_each_comparison():
    row = {"comparison": "2_minus_1", "direction": 3, "end": "top", "influence_1": 0.2}
    row |= {"influence_2": 1.5, "in_1": 0.1, "in_2": 0.75, "in_both": 0.05}
    text = analysis_sentences.influence(FakeRun({}, [row])).data
    assert "direction 3 (top): these training images hold 1.50" in text
    assert "75% belong to the subpopulation under the first, 10% under the second" in text


def test_classes_of_the_first_directions():
    rows = [("1_minus_2", d, end, d % 2, 0.5, 0.25) for d in (4, 2, 1) for end in ("top", "bottom")]
    columns = ["comparison", "direction", "end", "label", "share", "expected"]
    holder = type("Found", (), {"classes": pd.DataFrame(rows, columns=columns)})
    table = analysis_sentences.classes(holder, ["boat", "fish"], NAMES, n=2)
    assert table.index.get_level_values("direction").tolist() == [4, 4, 2, 2]
    assert table["class"].tolist() == ["boat"] * 4


@pytest.mark.parametrize(
    "draw", ["draw_similarity", "draw_curves", "draw_counts", "draw_components"]
)
def test_panels_with_and_without_results(draw, found, nothing):
    for further, is_drawn in ((found, True), (nothing, draw == "draw_curves"), (None, False)):
        with rc_context():
            use_style()
            figure = Figure(figsize=(9, 5))
            axes = figure.subplots(1, 2)
            getattr(analysis_panels, draw)(axes, further, NAMES)
            figure.canvas.draw()
        assert all(ax.axison == is_drawn for ax in axes)
