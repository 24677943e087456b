"""More than two algorithms: the same masks, every pair, and the first two as they were."""

import numpy as np
import pytest

from mdhelpers.base.specs import validate
from mdhelpers.method.comparison import compare
from mdhelpers.show import several as show
from mdhelpers.stages import effect_models, effects, several
from mdhelpers.stages.datamodels import read_datamodels
from mdhelpers.stages.models import read_models
from mdhelpers.stages.study import Study
from mdhelpers.training.store import ModelStore
from tests.stages.test_models import MODELS, compared

WIDE = {"name": "c", "epochs": 1, "width": 8}
ALGORITHMS = [MODELS["algorithm_1"], MODELS["algorithm_2"], WIDE]
TAG = {"transformation": "tag", "intensities": [3, 5], "target_class": "boat"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = compared(tmp_path_factory.mktemp("runs"))
    effect_models.train_on_all(run, n_effect_models=4, workers=1)
    return run


@pytest.fixture(scope="module")
def found(run) -> several.StudySeveral:
    about = {"hypotheses": [TAG], "n_directions": 2, "n_splits": 1, "workers": 1}
    return several.compare_several(run, ALGORITHMS, **about)


@pytest.mark.usefixtures("found")
def test_a_further_algorithm_is_trained_on_the_same_masks_from_other_seeds(run):
    own, store = read_models(run).all(1), run.path / "further" / "models_3.zarr"
    further = ModelStore.open(store, read_only=True).read()
    np.testing.assert_array_equal(further.masks, own.masks)
    assert not np.allclose(further.margins, own.margins)


@pytest.mark.usefixtures("found")
def test_its_models_are_held_against_digests(run):
    assert "further/models_3.zarr" in run.manifest("12_several_algorithms")["outputs"]


def test_the_first_pair_is_compared_as_page_4_does(run, found):
    rows = found.pairs.set_index(["first", "second", "comparison"])
    assert len(rows) == 3 * 2
    assert rows.loc[("a", "c", "1_minus_2"), "rung"] == "architecture"
    comparison = compare(*read_datamodels(run), n_directions=2)
    assert rows.loc[("a", "b", "1_minus_2"), "gap"] == pytest.approx(
        run.results["04_residual_pca"]["gap_1_minus_2"]
    )
    assert len(comparison.one_minus_two) == 2


def test_the_matrix_has_every_pair(found):
    matrix = found.similarity.matrix
    assert list(matrix) == ["a", "b", "c"]
    assert np.isfinite(matrix.to_numpy()).all()


def test_the_sweep_says_of_two_what_page_7_says(run, found):
    from mdhelpers.stages.captions import caption_directions
    from mdhelpers.stages.subpopulations import inspect_subpopulations

    inspect_subpopulations(run, top_k=5)
    caption_directions(run, {"model": "none"})
    whole = effects.verify_hypotheses(run, [TAG], n_proposed=0)
    rows = whole.effects.query("kind == 'feature' and class_name == 'boat' and algorithm > 0")
    theirs = rows.set_index(["algorithm", "intensity"])["effect"]
    ours = found.sweep.set_index(["algorithm", "intensity"])["effect"]
    for number, name in ((1, "a"), (2, "b")):
        for dose in TAG["intensities"]:
            assert ours[name, dose] == pytest.approx(theirs[number, dose], abs=1e-5)
    assert found.sweep.groupby("algorithm").size().to_dict() == {"a": 2, "b": 2, "c": 2}


def test_a_second_call_trains_nothing(run, found, monkeypatch):
    monkeypatch.setattr(several, "train_all", None)
    about = {"hypotheses": [TAG], "n_directions": 2, "n_splits": 1, "workers": 1}
    again = several.compare_several(run, ALGORITHMS, **about)
    assert again.pairs.equals(found.pairs)


def test_its_figures_and_tables_can_be_shown(found):
    for draw in (show.matrices, show.sweep_panels, show.ladder, show.ensembles):
        assert draw(found).axes
    table = show.pairs(found)
    assert len(table) == 6
    assert list(show.verdicts(found)) == ["b", "c"]
    assert show.added(found).shape == (3, 3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (ALGORITHMS[:2], "2 given; this page compares 3 or more"),
        ([WIDE, *ALGORITHMS], "algorithms.0 .c. is not the run's algorithm 1"),
    ],
)
def test_other_algorithms_than_the_runs_are_refused(run, given, message):
    with pytest.raises(ValueError, match=message):
        several.compare_several(run, given)


def test_a_study_of_several_is_about_its_first_two():
    study = validate(Study, {"study": "s", "algorithms": ALGORITHMS})
    assert (study.algorithm_1.name, study.algorithm_2.name) == ("a", "b")
    assert validate(Study, study.model_dump()) == study
    for wrong, message in (
        (ALGORITHMS[:2], "three or more"),
        ([*ALGORITHMS, WIDE], "two are called 'c'"),
    ):
        with pytest.raises(ValueError, match=message):
            validate(Study, {"study": "s", "algorithms": wrong})
    beside = {"study": "s", "algorithms": ALGORITHMS, "algorithm_1": WIDE}
    with pytest.raises(ValueError, match="leave algorithm_1 and algorithm_2 out"):
        validate(Study, beside)
