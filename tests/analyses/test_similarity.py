import numpy as np
import pytest

from mdhelpers.analyses.similarity import datamodel_cosines, similarity


def draw(seed=0, noise=1.0, n_test=80, n_train=400):
    """Two algorithms alike by half and one that is apart; two fits of each with their own noise."""
    rng = np.random.default_rng(seed)
    parts = rng.normal(size=(4, n_test, n_train))
    truths = {"a": parts[0] + parts[1], "b": parts[0] + parts[2], "c": np.sqrt(2) * parts[3]}
    shape = (n_test, n_train)
    return {
        name: [truth + noise * rng.normal(size=shape) for _ in range(2)]
        for name, truth in truths.items()
    }


def test_cosines_are_those_of_the_rows():
    first, second = draw()["a"]
    expected = [x @ y / np.sqrt((x @ x) * (y @ y)) for x, y in zip(first, second, strict=True)]
    np.testing.assert_allclose(datamodel_cosines(first, second), expected, atol=1e-12)


def test_the_matrix_tells_who_is_alike():
    one_each = {name: fits[0] for name, fits in draw(noise=0).items()}
    matrix = similarity(one_each).matrix
    assert matrix.loc["a", "b"] == pytest.approx(0.5, abs=0.02)
    assert matrix.loc["b", "c"] == pytest.approx(0, abs=0.02)
    assert np.isnan(np.diag(matrix)).all()
    np.testing.assert_array_equal(matrix, matrix.T)


def test_noise_lowers_cosines_and_is_corrected_for():
    """Noise of the truth's own variance halves the cosines, of an algorithm with itself too."""
    found = similarity(draw(noise=np.sqrt(2)))
    assert found.matrix.loc["a", "a"] == pytest.approx(0.5, abs=0.02)
    assert found.matrix.loc["a", "b"] == pytest.approx(0.25, abs=0.02)
    assert found.corrected.loc["a", "b"] == pytest.approx(0.5, abs=0.04)
    np.testing.assert_allclose(np.diag(found.corrected), 1)


def test_hardly_more_than_noise_is_not_corrected():
    corrected = similarity(draw(noise=10)).corrected
    assert corrected.isna().all(axis=None)


def test_fits_of_equal_place_are_not_compared():
    """They may share masks, so that their noise is the same: here it is, and must not show."""
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(60, 300)), rng.normal(size=(2, 60, 300))
    fits = {name: [truth + 2 * noise[0], truth + 2 * noise[1]] for name in ("a", "b")}
    matrix = similarity(fits).matrix
    assert matrix.loc["a", "b"] == pytest.approx(matrix.loc["a", "a"], abs=1e-12)
    assert matrix.loc["a", "b"] < 0.3


def test_distributions_and_their_summary():
    fits = {name: several[0] for name, several in draw().items()}
    found = similarity(fits)
    values = datamodel_cosines(fits["b"], fits["c"])
    np.testing.assert_allclose(found.distribution("c", "b"), values)
    row = found.summary.set_index(["first", "second"]).loc[("b", "c")]
    assert row["median"] == pytest.approx(np.median(values))
    assert [row["low"], row["high"]] == pytest.approx(list(np.percentile(values, [5, 95])))
    with pytest.raises(ValueError, match="no cosines of 'a' and 'd'; there are"):
        found.distribution("a", "d")


def test_refuses_a_single_fit():
    with pytest.raises(ValueError, match="expected two algorithms, or two fits"):
        similarity({"a": np.ones((3, 4))})
