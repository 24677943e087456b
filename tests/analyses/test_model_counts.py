import numpy as np
import pytest

from mdhelpers.analyses.model_counts import default_sizes, effect_of_model_count, fit_samples

N_MODELS, SHAPE = 512, (90, 50)


def world(seed=0):
    """Fits whose noise falls with the root of the number of models; models keep their noise.

    A fit is the truth plus the mean of its models' own noise, as a difference of means is.
    """
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(SHAPE[0], 4)) @ rng.normal(size=(4, SHAPE[1]))
    asked, fits = [], []
    for algorithm in (0, 1):
        truth = shared.copy()
        truth[20 * algorithm : 20 * algorithm + 12, 10 * algorithm : 10 * algorithm + 5] += 6
        noise = (20 * rng.normal(size=(N_MODELS, *SHAPE))).astype(np.float32)

        def fit(models, truth=truth, noise=noise):
            asked.append(models)
            return (truth + noise[models].mean(0)).astype(np.float32)

        fits.append(fit)
    return fits, asked, shared


def test_samples_of_a_size_share_no_model():
    fits, asked, _ = world()
    slots = np.arange(N_MODELS) % 8
    samples = fit_samples(*fits, N_MODELS, slots=slots)
    assert list(samples.halves) == [64, 128, 256]
    assert len(asked) == 3 * 2 * 2 + 2
    for size, (one, again, other, _) in zip(
        (64, 128, 256), np.split(np.arange(12), 3), strict=True
    ):
        np.testing.assert_array_equal(asked[one], asked[again])  # both algorithms alike
        assert not np.isin(asked[one], asked[other]).any()
        assert np.bincount(slots[asked[one]]).tolist() == [size // 8] * 8


def test_cosines_are_those_that_the_noise_allows():
    fits, _, _ = world()
    found = effect_of_model_count(fit_samples(*fits, N_MODELS, sizes=[64, 256]))
    means = found.cosines.set_index(["algorithm", "n_models", "against"])["mean"]
    everyone = fits[0](np.arange(N_MODELS)).astype(float)
    for size in (64, 256):
        noise = 400 / size
        signal = np.square(everyone).sum(1) - SHAPE[1] * 400 / N_MODELS
        expected = (signal / (signal + SHAPE[1] * noise)).mean()
        assert means[1, size, "others"] == pytest.approx(expected, abs=0.05)
    assert means[1, 64, "all"] > means[1, 64, "others"] + 0.05  # part of it, so it shares noise
    assert means[1, 256, "others"] > means[1, 64, "others"] + 0.1


def test_planted_directions_are_found_again_with_more_models():
    fits, _, _ = world()
    found = effect_of_model_count(fit_samples(*fits, N_MODELS, sizes=[32, 256]), n_directions=3)
    first = found.directions[found.directions["direction"] == 1]
    cosines = first.set_index(["comparison", "n_models", "against"])["cosine"]
    for name in ("1_minus_2", "2_minus_1"):
        assert cosines[name, 256, "all"] > 0.9
        assert cosines[name, 256, "others"] > cosines[name, 32, "others"]
    shares = found.directions[found.directions["direction"] == 0]["cosine"]
    assert shares.between(0, 1).all()


def test_components_explain_less_of_other_models():
    fits, _, _ = world()
    found = effect_of_model_count(fit_samples(*fits, N_MODELS, sizes=[64, 256]), n_components=4)
    table = found.components.groupby(["algorithm", "found_with", "measured_with"])["variance"].sum()
    assert set(found.components["component"]) == {1, 2, 3, 4}
    # The four shared factors carry most of the truth; with many models they are found.
    assert table[1, 512, 256] > table[1, 64, 256]
    assert table[1, 256, 512] > table[1, 256, 64]
    unit = np.asarray(fits[0](np.arange(N_MODELS)), float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    lengths = np.linalg.svd(unit, compute_uv=False)[:4]
    assert table[1, 512, 512] == pytest.approx(np.square(lengths).sum() / SHAPE[0], abs=1e-5)


def test_sizes_leave_two_models_of_each_slot():
    assert default_sizes(1024) == [128, 256, 512]
    assert default_sizes(64, np.arange(64) % 8) == [16, 32]
    assert default_sizes(20, np.arange(20) % 8) == []


def test_refuses_samples_that_overlap():
    fits, _, _ = world()
    with pytest.raises(ValueError, match=r"sizes \[300\] are not from 1 to 256"):
        fit_samples(*fits, N_MODELS, sizes=[100, 300])
