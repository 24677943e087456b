from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from mdhelpers.analyses.factor_sweeps import binned, indicators, interactions, orthonormal, widest
from mdhelpers.method.effects import holm

LEVELS = {"a": 3, "b": 2, "c": 4, "d": 2, "e": 3, "f": 3}


def drawn(n, seed):
    rng = np.random.default_rng(seed)
    return pd.DataFrame({name: rng.integers(k, size=n) for name, k in LEVELS.items()}), rng


def additive(factors):
    return 0.3 * (factors["a"] == 1) - 0.2 * factors["b"] + 0.1 * factors["c"]


def uneven(factors, rng):
    """Noise that is large at some levels, and skewed."""
    size = np.where(factors["a"] == 0, 0.05, np.where(factors["b"] == 1, 0.4, 0.15))
    return size * (rng.exponential(1, len(factors)) - 1)


def found_in(outcome, factors):
    table = interactions(outcome, factors)
    sure = table[holm(table["p"]) < 0.05]
    return set(zip(sure["factor_1"], sure["factor_2"], strict=True))


def test_a_planted_interaction_is_found_and_no_other():
    others = 0
    for seed in range(20):
        factors, rng = drawn(600, seed)
        planted = 0.4 * ((factors["a"] == 1) & (factors["b"] == 1))
        found = found_in(additive(factors) + planted + uneven(factors, rng), factors)
        assert ("a", "b") in found
        others += len(found) > 1
    assert others <= 3  # of 20, at 5%: 4 or more come by chance in less than 2%


def test_without_an_interaction_none_is_found_in_95_percent():
    false = 0
    for seed in range(60):
        factors, rng = drawn(400, seed)
        false += bool(found_in(additive(factors) + uneven(factors, rng), factors))
    assert false <= 7  # of 60, at 5%: 8 or more come by chance in 1%


def test_the_share_is_what_was_planted():
    shares = []
    for seed in range(10):
        factors, rng = drawn(1500, seed)
        table = 0.3 * np.where((factors["a"] == 1) == (factors["b"] == 1), 1, -1)
        y = table + rng.normal(0, 0.5, 1500)
        shares.append(interactions(y, factors)["share"].iloc[:5].to_numpy())
    centred = np.where(np.arange(3)[:, None] == 1, 1, -1) * np.array([-1, 1])
    inside = centred - centred.mean(0) - centred.mean(1, keepdims=True) + centred.mean()
    wanted = 0.09 * np.square(inside).mean() / (0.09 * centred.var() + 0.25)
    mean = np.mean(shares, axis=0)
    assert mean[0] == pytest.approx(wanted, abs=0.03)
    np.testing.assert_allclose(mean[1:], 0, atol=0.005)


def test_the_share_is_that_of_nested_least_squares():
    """With its noise by the textbook, in a balanced design with noise that is alike everywhere."""
    grid = np.stack(np.meshgrid(*map(np.arange, (3, 2, 4)), indexing="ij")).reshape(3, -1)
    factors = pd.DataFrame(np.tile(grid, 50).T, columns=list("abc"))
    rng = np.random.default_rng(0)
    y = factors["a"] * factors["b"] + rng.normal(size=len(factors))
    table = interactions(y, factors).set_index(["factor_1", "factor_2"])
    main = pd.get_dummies(factors.astype(str), drop_first=True).assign(one=1).to_numpy(float)
    for pair in combinations("abc", 2):
        cells = pd.get_dummies(factors[list(pair)].astype(str).agg(" ".join, axis=1))
        both = np.column_stack([main, cells.to_numpy(float)])
        left = [np.square(y - x @ np.linalg.lstsq(x, y)[0]).sum() for x in (main, both)]
        rank = np.linalg.matrix_rank(both) - np.linalg.matrix_rank(main)
        noise = rank * left[1] / (len(y) - np.linalg.matrix_rank(both))
        wanted = (left[0] - left[1] - noise) / (len(y) * y.var(ddof=0))
        assert table.loc[pair, "share"] == pytest.approx(wanted, abs=2e-3)


def test_outcomes_are_looked_at_one_by_one():
    factors, rng = drawn(300, 0)
    y = rng.normal(size=(2, 300))
    both = interactions(y, factors)
    for k in (0, 1):
        alone = interactions(y[k], factors)
        rows = both[both["outcome"] == k].reset_index(drop=True)
        np.testing.assert_allclose(alone[["share", "p"]], rows[["share", "p"]], atol=1e-12)
    assert len(both) == 2 * 15


def test_an_outcome_that_does_not_vary_has_no_interaction():
    factors, _ = drawn(200, 0)
    table = interactions(np.ones(200), factors.assign(b=0))
    assert (table["share"] == 0).all()
    assert (table["p"] == 1).all()


def test_numbers_are_cut_into_bins_and_words_are_not():
    numbers = pd.Series(np.random.default_rng(0).random(300))
    assert np.bincount(binned(numbers)).tolist() == [100] * 3
    assert binned(pd.Series(["b", "a", "", "b"])).tolist() == [2, 1, 0, 2]
    assert binned(pd.Series([True, False])).tolist() == [1, 0]


def test_a_basis_spans_what_it_is_made_of():
    columns = indicators(np.array([0, 1, 2, 0, 1, 2, 2]))
    doubled = np.column_stack([columns, columns.sum(1)])
    basis = orthonormal(doubled)
    assert basis.shape == (7, 2)
    np.testing.assert_allclose(basis @ (basis.T @ doubled), doubled, atol=1e-12)
    np.testing.assert_allclose(columns.sum(0), 0, atol=1e-12)


def test_the_widest_pair_of_levels_is_that_of_all_pairs():
    one, two = np.random.default_rng(0).random((2, 5, 3, 8))
    first, last = widest(one, two)
    gap = one.mean((1, 2)) - two.mean((1, 2))
    most = max(abs(gap[i] - gap[j]) for i, j in combinations(range(5), 2))
    assert first < last
    assert abs(gap[last] - gap[first]) == pytest.approx(most)


@pytest.mark.parametrize(
    ("n", "rows", "message"),
    [(20, 20, "20 scenes are too few"), (300, 299, "300 outcomes and 299")],
)
def test_what_cannot_be_told_is_refused(n, rows, message):
    with pytest.raises(ValueError, match=message):
        interactions(np.arange(n, dtype=float), drawn(rows, 0)[0])
