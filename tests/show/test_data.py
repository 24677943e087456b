"""Which images page 01 shows, and how many carry what was planted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd

from mdhelpers.data.scenes import CLASS_NAMES, PLANTED, make_scenes
from mdhelpers.show import data

TEST = make_scenes(n_train=12, n_test=90, size=16, seed=0).test


def index_of(image: np.ndarray) -> int:
    return int(np.flatnonzero((TEST.images == image).all(axis=(1, 2, 3)))[0])


def test_class_samples_carry_no_feature():
    rows = data.class_samples(TEST, CLASS_NAMES, n=5)
    for label, name in enumerate(CLASS_NAMES):
        chosen = [index_of(image) for image in rows[name]]
        assert (TEST.labels[chosen] == label).all()
        assert not TEST.truth.iloc[chosen].to_numpy().any()


def test_where_nothing_was_planted_there_are_no_carriers():
    bare = replace(TEST, metadata=TEST.metadata[[]])
    assert data.feature_samples(bare, CLASS_NAMES) == {}


def test_feature_samples_pair_carriers_with_their_class():
    rows = data.feature_samples(TEST, CLASS_NAMES, n=4)
    for feature, name in PLANTED.items():
        carriers = [index_of(image) for image in rows[f"{name}, {feature}"]]
        others = [index_of(image) for image in rows[f"{name}, none"]]
        assert TEST.truth[feature].iloc[carriers].all()
        assert not TEST.truth[feature].iloc[others].any()
        assert set(TEST.labels[carriers]) == set(TEST.labels[others])


def test_where_nothing_is_known_to_be_planted_the_table_has_no_rows():
    split = SimpleNamespace(truth=pd.DataFrame(index=range(3)), labels=np.zeros(3, int))
    table = data.planted(SimpleNamespace(train=split, test=split, class_names=("boat",)))
    assert len(table) == 0
