import numpy as np
import pandas as pd
import pytest

from mdhelpers.method.comparison import compare
from mdhelpers.method.subpopulations import (
    class_shares,
    influence_on_tests,
    influence_table,
    most_influenced,
    used_by,
)


def draw(seed=0, n_test=150, n_train=60):
    """Algorithm 1 decides tests 0-19 by training examples 0-5; 2 tests 40-59 by 10-15."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, 4)) @ rng.normal(size=(4, n_train))
    both = [shared + 0.3 * rng.normal(size=shared.shape) for _ in range(2)]
    both[0][:20, :6] += 5
    both[1][40:60, 10:16] += 5
    return [d.astype(np.float32) for d in both]


def test_training_examples_of_the_algorithm_that_uses_them():
    both = draw()
    assert set(used_by(1, *both, np.arange(20), n=6)) == set(range(6))
    assert set(used_by(2, *both, np.arange(40, 60), n=6)) == set(range(10, 16))
    with pytest.raises(ValueError, match="expected 1 or 2"):
        used_by(0, *both, np.arange(20))


def test_they_influence_the_subpopulation_under_that_algorithm_only():
    first, second = draw()
    assert set(most_influenced(first, np.arange(6), n=20)) == set(range(20))
    assert np.isin(most_influenced(second, np.arange(6), n=20), np.arange(20)).mean() < 0.4
    unit = first / np.linalg.norm(first, axis=1, keepdims=True)
    expected = [sum(abs(row[k]) for k in range(6)) for row in unit]
    np.testing.assert_allclose(influence_on_tests(first, np.arange(6)), expected, rtol=1e-5)


def test_a_zero_datamodel_is_not_influenced():
    first, _ = draw()
    first[3] = 0
    assert influence_on_tests(first, np.arange(6))[3] == 0


def test_the_table_shows_the_planted_ends():
    both = draw()
    comparison = compare(*both, n_directions=3)
    table = influence_table(comparison, *both, top_k=20, n_train=6, n_directions=2)
    assert len(table) == 2 * 2 * 2
    for name, own, other in (("1_minus_2", "1", "2"), ("2_minus_1", "2", "1")):
        best = table[table["comparison"] == name].nlargest(1, f"influence_{own}").iloc[0]
        assert best[f"influence_{own}"] > 2 * best[f"influence_{other}"]
        assert best[f"in_{own}"] > 0.9
        assert best[f"in_{other}"] < 0.5
        assert best["in_both"] < 0.5


def test_classes_of_subpopulations():
    labels = np.arange(60) % 3
    ends = [("top", np.r_[0:27:3, 1]), ("bottom", np.arange(10))]
    members = pd.concat(
        pd.DataFrame({"comparison": "1_minus_2", "direction": 4, "end": end, "index": index})
        for end, index in ends
    )
    table = class_shares(members, labels).set_index("end")
    assert table.loc["top", ["label", "share"]].tolist() == [0, 0.9]
    assert table.loc["bottom", ["label", "share"]].tolist() == [0, 0.4]
    assert table["expected"].tolist() == pytest.approx([1 / 3, 1 / 3])
