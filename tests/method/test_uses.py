import numpy as np
import pandas as pd
import pytest

from mdhelpers.method.comparison import Comparison, DirectionSet
from mdhelpers.method.evidence import Outputs
from mdhelpers.method.uses import (
    Margins,
    contrast_weights,
    contrasts,
    measured_uses,
    subpopulation_classes,
)

N_TRAIN, N_TEST, CARRIERS = 40, 60, np.arange(12)
LABELS = np.arange(N_TEST) // 30
OTHER = {"only_1": (3, 0), "more_1": (3, 1), "alike": (3, 3), "only_2": (0, 3)}


def algorithms(rng, first: float, second: float, *, elsewhere=False, noise=(1.0, 3.0), n=600):
    """Outputs of two algorithms whose carriers depend on some images so much; other scales."""
    shared = rng.normal(size=(N_TEST, N_TRAIN))
    masks = rng.random((n, N_TRAIN)).argsort(1) < N_TRAIN // 2
    parts = []
    for algorithm, size in enumerate((first, second)):
        weights = shared.copy()
        images = slice(10, 18) if elsewhere and algorithm else slice(0, 8)
        weights[CARRIERS, images] += size
        margins = masks @ weights.T + noise[algorithm] * rng.normal(size=(n, N_TEST))
        scale = (1, 7)[algorithm]
        parts.append(Outputs.measured(masks, scale * margins, np.full(N_TEST, 1.0)))
    return parts


def of_carriers():
    projections = np.isin(np.arange(N_TEST), CARRIERS).astype(float)
    weights, of_class = contrast_weights(projections, LABELS, 0, len(CARRIERS))
    return weights[:, None], of_class[:, None]


def said(parts, **options) -> pd.Series:
    measured = contrasts(*parts, *of_carriers())
    return measured_uses([[measured]], [[parts[0].ids]], **options).iloc[0]


@pytest.mark.parametrize("use", OTHER)
def test_each_use_has_its_word_whatever_the_noise_and_scale(use):
    row = said(algorithms(np.random.default_rng(0), *OTHER[use]))
    assert row["use"] == use


def test_use_through_other_training_images_is_told_apart():
    row = said(algorithms(np.random.default_rng(0), 3, 3, elsewhere=True))
    assert row["use"] == "other_images"
    assert row["cosine"] < 0.4
    assert row["times"] == pytest.approx(1, abs=0.2)


def test_too_few_models_say_so():
    row = said(algorithms(np.random.default_rng(0), 1, 1, noise=(20, 20), n=40))
    assert row["use"] == "too_few"


def test_intervals_hold_the_truth_as_often_as_they_say():
    inside = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(N_TEST, N_TRAIN))
        weights = [shared.copy() for _ in range(2)]
        for rows, size in zip(weights, (2, 1), strict=True):
            rows[CARRIERS, :8] += size
            rows -= rows.mean(1, keepdims=True)  # masks of equal sizes do not tell of a mean
        masks = rng.random((150, N_TRAIN)).argsort(1) < N_TRAIN // 2
        parts = [
            Outputs.measured(
                masks, masks @ w.T + s * rng.normal(size=(150, N_TEST)), np.ones(N_TEST)
            )
            for w, s in zip(weights, (2, 3), strict=True)
        ]
        chosen, of_class = of_carriers()
        one, two = (chosen[:, 0] @ w for w in weights)
        share = [
            np.square(k).sum() / (np.square(w).sum(1) @ of_class[:, 0])
            for k, w in zip((one, two), weights, strict=True)
        ]
        truth = {
            "share_first": share[0],
            "share_second": share[1],
            "times": (share[0] / share[1]) ** 0.5,
            "cosine": one @ two / np.linalg.norm(one) / np.linalg.norm(two),
        }
        row = said(parts)
        inside.append([row[f"{k}_low"] <= v <= row[f"{k}_high"] for k, v in truth.items()])
    held = np.mean(inside, 0)
    assert (held > 0.89).all(), held
    assert (held < 0.995).all(), held


def test_the_margins_decide():
    parts = algorithms(np.random.default_rng(0), 3, 2)
    row = said(parts)
    assert row["use"] == "more_1"
    assert row["times_low"] > 1
    wide = said(parts, margins=Margins(0.2, 4.0))
    assert wide["use"] == "alike"


@pytest.mark.parametrize(
    ("given", "message"),
    [((1.5, 2), "only_below is 1.5"), ((0.5, 0.9), "alike_within is 0.9"), ((0.5, 3), "at most 2")],
)
def test_margins_that_contradict_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Margins(*given)


def test_a_contrast_is_of_members_against_the_other_half_of_their_class():
    weights, of_class = contrast_weights(-np.arange(N_TEST), LABELS, 1, 4)
    assert weights[30:34].tolist() == [0.25] * 4
    np.testing.assert_allclose(weights[45:], -1 / 15)
    assert (weights[:30] == 0).all()
    assert (weights[34:45] == 0).all()  # who may be members that a half of the models missed
    most = contrast_weights(-np.arange(N_TEST), LABELS, 1, 20)[0]
    np.testing.assert_allclose(most[50:], -1 / 10)
    assert of_class.sum() == pytest.approx(1)
    assert (of_class[30:] > 0).all()
    whole = contrast_weights(-np.arange(N_TEST), LABELS, 1, 30)[0]
    np.testing.assert_allclose(whole[:30], -1 / 30)  # nothing is left of the class


def test_classes_that_make_up_an_end_are_looked_at_one_by_one():
    def side(name):
        projections = np.zeros((N_TEST, 1))
        projections[:6, 0], projections[30:36, 0], projections[-9:, 0] = 3, 2, -1
        return DirectionSet(name, np.eye(1, N_TRAIN), projections, np.zeros((1, 2)), np.array([4]))

    comparison = Comparison(*map(side, ("1_minus_2", "2_minus_1")), np.zeros(N_TEST), np.zeros(2))
    found = subpopulation_classes(comparison, LABELS, top_k=9)
    first = found[found["comparison"] == "1_minus_2"]
    listed = first[["direction", "end", "label", "n"]].to_numpy().tolist()
    assert listed == [[4, "top", 0, 6], [4, "top", 1, 3], [4, "bottom", 1, 9]]


def test_a_length_that_noise_hides_leaves_nothing_to_say():
    rng = np.random.default_rng(0)
    halves = [rng.normal(size=(17, 5, 1)) * 1e-3 for _ in range(2)]
    for half in halves:
        half[:, 3] = -1e-300  # no length of the first can be told
        half[:, 4] += 1
    row = measured_uses([halves], [[np.arange(16), np.arange(16)]]).iloc[0]
    assert row["use"] == "too_few"
    assert np.isnan(row["share_first"])
    assert np.isfinite(row["share_second"])
