"""What is proposed for ends of directions, on a tiny run whose networks are untrained but real."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mdhelpers.data.transforms import parse_transformation, transform_images
from mdhelpers.runs.run import Run
from mdhelpers.stages import captions, comparison, models, proposals
from mdhelpers.stages import subpopulations as sub
from tests.stages.test_models import compared

DATA = {"kind": "scenes", "size": 16, "n_train": 30, "n_test": 90}
OFF = {"model": "none"}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = compared(tmp_path_factory.mktemp("runs"), DATA)
    sub.inspect_subpopulations(run, top_k=20)
    captions.caption_directions(run, OFF)
    return run


@pytest.fixture(scope="module")
def given(run):
    """The models, and a comparison of which every direction counts as called."""
    return models.read_models(run), replace(comparison.read_comparison(run), gaps=None)


def members_of(inside: np.ndarray) -> pd.DataFrame:
    about = {"comparison": "1_minus_2", "direction": 1, "end": "top"}
    return pd.DataFrame({"index": inside, "rank": np.arange(len(inside))}).assign(**about)


def candidates(*words: str):
    kinds = {word: parse_transformation(word) for word in words}
    return {word: (kind, kind.default) for word, kind in kinds.items()}


def test_every_candidate_is_held_against_both_ends_of_every_direction(run, given):
    members = sub.read_subpopulations(run)
    tried = candidates("tag", "stripes", "tint")
    table = proposals.propose(run, *given, members, tried, OFF, seed=0)
    assert list(table.columns) == list(proposals.COLUMNS)
    ends = table.groupby(["comparison", "direction", "end"])
    assert {tuple(sorted(rows["transformation"])) for _, rows in ends} == {
        ("stripes", "tag", "tint")
    }
    assert table["match"].between(-1, 1).all()
    assert (table["q"] >= table["p"] - 1e-12).all()
    assert table["moved"].notna().any()
    assert table.equals(proposals.propose(run, *given, members, tried, OFF, seed=0))


def test_images_that_were_striped_are_imitated_by_stripes(run, given):
    """The subpopulation is striped by hand, in the images that the run has."""
    study, found = given
    test = study.dataset.test
    inside = np.flatnonzero(test.labels == 0)[:10]
    images = np.array(test.images)
    images[inside] = transform_images("stripes", images[inside], 40, seed=5)
    changed = replace(study, dataset=replace(study.dataset, test=replace(test, images=images)))
    tried = candidates("tag", "stripes", "tint", "grayscale", "blur")
    table = proposals.propose(run, changed, found, members_of(inside), tried, OFF, seed=0)
    first = table.iloc[0]
    assert first["transformation"] == "stripes"
    assert first["match"] > 0.6
    assert first["p"] < 0.01


def test_without_called_directions_or_candidates_nothing_is_proposed(run, given):
    study, found = given
    members = sub.read_subpopulations(run)
    assert proposals.propose(run, study, found, members, {}, OFF, seed=0).empty
    gaps = comparison.read_comparison(run).gaps.assign(q=0.5)
    none = replace(found, gaps=gaps)
    assert proposals.propose(run, study, none, members, candidates("tag"), OFF, seed=0).empty


def test_ends_of_the_directions_of_the_strongest_evidence_alone_are_looked_at(run, given):
    study, found = given
    members, labels = sub.read_subpopulations(run), study.dataset.test.labels
    gaps = comparison.read_comparison(run).gaps.assign(q=0.01)
    every = list(proposals.called_ends(replace(found, gaps=gaps), members, labels))
    shifted = gaps.assign(rank=gaps["rank"] + proposals.N_DIRECTIONS - 1)
    first = list(proposals.called_ends(replace(found, gaps=shifted), members, labels))
    firsts = set(map(tuple, gaps.loc[gaps["rank"] == 1, ["comparison", "direction"]].to_numpy()))
    assert {key[:2] for key, *_ in first} == firsts
    assert len(first) < len(every)


def test_a_class_that_is_an_end_as_a_whole_has_nothing_to_be_compared_with(run, given):
    inside = np.flatnonzero(given[0].dataset.test.labels == 1)
    tried = candidates("tag")
    assert proposals.propose(run, *given, members_of(inside), tried, OFF, seed=0).empty


def test_halves_share_no_image():
    one, two = proposals.halves(31, 4)
    assert sorted([*one, *two]) == list(range(31))


def test_the_library_asks_for_masks_where_there_are_some(given):
    test = given[0].dataset.test
    assert "swap_background" in proposals.library(test)
    without = proposals.library(replace(test, foreground=None))
    assert "swap_background" not in without
    assert "ring" in without
