import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from scipy.stats import t as student

from mdhelpers.method.lds import lds, noise_ceiling


def test_lds_agrees_with_scipy_and_counts_constant_predictions():
    rng = np.random.default_rng(0)
    true = rng.normal(size=(40, 12))
    predicted = np.round(true + rng.normal(size=true.shape), 1)  # ties
    predicted[:, 4] = 1.0
    score = lds(true, predicted)
    expected = [
        0.0 if k == 4 else spearmanr(true[:, k], predicted[:, k]).statistic for k in range(12)
    ]
    linear = [0.0 if k == 4 else pearsonr(true[:, k], predicted[:, k]).statistic for k in range(12)]
    np.testing.assert_allclose(score.per_example, expected, atol=1e-5)
    assert score.spearman == pytest.approx(np.mean(expected), abs=1e-6)
    assert score.pearson == pytest.approx(np.mean(linear), abs=1e-6)
    assert score.n_constant == 1
    assert score.low < score.spearman < score.high


def test_masks_are_left_out_in_turn():
    # The slow twin: leave the same models out, and rank again with scipy.
    rng = np.random.default_rng(5)
    true = rng.normal(size=(15, 6))
    predicted = np.round(true + 2 * rng.normal(size=true.shape))
    score = lds(true, predicted)
    pairs = list(zip(true.T, predicted.T, strict=True))
    without = np.array(
        [
            [spearmanr(np.delete(t, i), np.delete(p, i)).statistic for t, p in pairs]
            for i in range(15)
        ]
    )
    centred = without - without.mean(0)
    parts = 14 * np.square(centred.mean(1)).mean(), score.per_example.var(ddof=1) / 6
    variance = max(sum(parts) - 14 * np.square(centred).mean() / 6, *parts)
    middle = 15 * score.spearman - 14 * without.mean()
    half = student.isf(0.025, 14) * variance**0.5 / (1 - middle**2)
    expected = np.tanh(np.arctanh(middle) + np.array([-half, half]))
    np.testing.assert_allclose([score.low, score.high], expected, atol=1e-5)


@pytest.mark.parametrize("pearson", [0.2, 0.6, 0.94])
def test_the_interval_holds_the_score_of_all_masks_as_often_as_it_says(pearson):
    """Also where predictions are nearly right: resampling, whose ties lower ranks, never did."""
    truth, inside = of_ranks(pearson), 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        shared, own = rng.normal(size=(60, 1)), rng.normal(size=(2, 60, 40))
        true = 0.5 * shared + 0.75**0.5 * own[0]  # test examples are alike
        predicted = pearson * true + (1 - pearson**2) ** 0.5 * own[1]
        score = lds(true, predicted)
        inside += score.low <= truth <= score.high
    assert 0.88 <= inside / 150 <= 0.99


def test_a_perfect_score_has_an_interval():
    true = np.random.default_rng(0).normal(size=(20, 5))
    score = lds(true, true)
    assert 0.99 < score.low <= score.spearman <= score.high <= 1


def test_lds_names_what_is_not_finite():
    true = np.zeros((5, 3))
    true[2, 1] = np.inf
    with pytest.raises(ValueError, match="true_margins of model 2 on test example 1"):
        lds(true, np.zeros((5, 3)))
    with pytest.raises(ValueError, match="same test examples"):
        lds(np.zeros((5, 3)), np.zeros((3, 5)))


def trained(rng, reliabilities, n_masks: int, n_trainings: int = 2):
    """Expected margins (n_masks, n_test) of unit variance, and trainings that correlate so."""
    expected = rng.normal(size=(n_masks, len(reliabilities)))
    noise = rng.normal(size=(n_trainings, n_masks, len(reliabilities)))
    r = np.asarray(reliabilities)
    return expected, np.sqrt(r) * expected + np.sqrt(1 - r) * noise


def of_ranks(pearson):
    """Spearman's correlation of normal variables with a given linear one."""
    return 6 / np.pi * np.arcsin(np.asarray(pearson) / 2)


def test_the_ceiling_is_what_the_expected_margin_itself_reaches():
    rng = np.random.default_rng(0)
    reliabilities = rng.uniform(0.15, 0.85, 150)
    expected, trainings = trained(rng, reliabilities, 200)
    found = noise_ceiling(trainings, expected)
    truth = of_ranks(np.sqrt(reliabilities)).mean()
    assert found.ceiling == pytest.approx(truth, abs=0.02)
    assert found.ceiling_pearson == pytest.approx(np.sqrt(reliabilities).mean(), abs=0.015)
    assert found.share == pytest.approx(1, abs=0.03)
    assert found.ceiling_low < found.ceiling < found.ceiling_high
    assert found.share_low < found.share < found.share_high


def test_the_share_is_the_correlation_with_the_expected_margin():
    rng = np.random.default_rng(1)
    expected, trainings = trained(rng, np.full(100, 0.4), 250)
    predicted = 0.6 * expected + 0.8 * rng.normal(size=expected.shape)
    found = noise_ceiling(trainings, predicted)
    assert found.share == pytest.approx(0.6, abs=0.04)
    assert found.share_low < 0.6 < found.share_high


def test_reliability_is_the_mean_over_pairs_of_trainings():
    rng = np.random.default_rng(2)
    expected, trainings = trained(rng, [0.2, 0.5, 0.8], 60, n_trainings=3)
    found = noise_ceiling(trainings, expected)
    pairs = [(0, 1), (0, 2), (1, 2)]
    by_hand = [
        np.mean([spearmanr(trainings[i, :, t], trainings[j, :, t]).statistic for i, j in pairs])
        for t in range(3)
    ]
    assert found.n_trainings == 3
    np.testing.assert_allclose(found.per_example**2, by_hand, atol=1e-6)
    assert found.reliability == pytest.approx(np.mean(by_hand))


def test_trainings_without_anything_in_common_have_no_ceiling_to_speak_of():
    rng = np.random.default_rng(3)
    trainings = rng.normal(size=(2, 400, 50))
    found = noise_ceiling(trainings, trainings[0])
    assert abs(found.reliability) < 0.02
    assert noise_ceiling(np.zeros((2, 5, 4)), np.zeros((5, 4))).share == 0


@pytest.mark.parametrize(
    ("shape", "predicted", "message"),
    [
        ((2, 8, 5), (8, 4), "the same|expected"),
        ((1, 8, 5), (8, 5), "at least 2 trainings"),
        ((2, 2, 5), (2, 5), "of 3 masks"),
    ],
)
def test_what_gives_no_ceiling_is_refused(shape, predicted, message):
    with pytest.raises(ValueError, match=message):
        noise_ceiling(np.zeros(shape), np.zeros(predicted))


def test_margins_that_are_not_finite_are_named():
    trainings = np.zeros((2, 4, 3))
    trainings[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match=r"trainings\[\(1, 2, 0\)\] is nan"):
        noise_ceiling(trainings, np.zeros((4, 3)))
