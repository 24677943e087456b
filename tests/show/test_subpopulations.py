from types import SimpleNamespace

import numpy as np
import pandas as pd

from mdhelpers.data.scenes import CLASS_NAMES, PLANTED, make_scenes
from mdhelpers.show import data, effects, subpopulations

TEST = make_scenes(n_train=12, n_test=90, size=16, seed=0).test


def index_of(image: np.ndarray) -> int:
    return int(np.flatnonzero((TEST.images == image).all(axis=(1, 2, 3)))[0])


def test_class_samples_carry_no_feature():
    rows = data.class_samples(TEST, CLASS_NAMES, n=5)
    for label, name in enumerate(CLASS_NAMES):
        chosen = [index_of(image) for image in rows[name]]
        assert (TEST.labels[chosen] == label).all()
        assert not TEST.truth.iloc[chosen].to_numpy().any()


def test_feature_samples_pair_carriers_with_their_class():
    rows = data.feature_samples(TEST, CLASS_NAMES, n=4)
    for feature, name in PLANTED.items():
        carriers = [index_of(image) for image in rows[f"{name}, {feature}"]]
        others = [index_of(image) for image in rows[f"{name}, none"]]
        assert TEST.truth[feature].iloc[carriers].all()
        assert not TEST.truth[feature].iloc[others].any()
        assert set(TEST.labels[carriers]) == set(TEST.labels[others])


def test_members_come_outermost_first():
    members = pd.DataFrame(
        {"comparison": "1_minus_2", "direction": 3, "end": ["top", "top", "bottom"],
         "rank": [2, 1, 1], "index": [7, 5, 9]}
    )  # fmt: skip
    assert subpopulations.members_at(members, "1_minus_2", 3, "top").tolist() == [5, 7]


def test_transformations_are_shown_from_untouched_to_strongest():
    hypotheses = [{"name": "tag", "transformation": "tag", "intensities": [3, 5]}]
    placebo = {"transformation": "scrambled_square", "intensities": [4]}
    images = TEST.images[(TEST.metadata["tag_corner"] == "").to_numpy()]
    rows = list(effects.transformation_rows(hypotheses, placebo, images, seed=0, n=1).values())
    assert [len(row) for row in rows] == [3, 2]
    assert np.array_equal(rows[0][0], images[0])
    changed = [(row != rows[0][0]).any(axis=-1).sum() for row in rows[0]]
    assert changed == sorted(changed)
    assert changed[0] == 0


def test_an_end_that_holds_all_of_its_classes_has_no_others_beside_it():
    test = SimpleNamespace(labels=np.array([0, 0, 1, 1]), images=np.zeros((4, 2, 2, 3), np.uint8))
    ends = [("top", 0), ("top", 1), ("bottom", 2)]
    members = pd.DataFrame(
        [("1_minus_2", 1, end, rank, index) for rank, (end, index) in enumerate(ends)],
        columns=["comparison", "direction", "end", "rank", "index"],
    )
    directions = SimpleNamespace(name="1_minus_2", component=[1])
    rows = subpopulations.subpopulation_rows(members, directions, test)
    assert {label: len(row) for label, row in rows.items()} == {
        "1 ▲": 2,
        "random as 1 ▲": 0,
        "1 ▼": 1,
        "random as 1 ▼": 1,
    }
