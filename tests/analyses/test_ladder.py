"""The ladder's rungs, its measures against slow loops, and greedy ensembles against a search."""

import itertools

import numpy as np
import pytest

from mdhelpers.analyses import ladder
from mdhelpers.analyses.predictions import Predictions

BASE = {
    "name": "a",
    "kind": "network",
    "architecture": "cnn",
    "lr": 0.1,
    "initialisation": "random",
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "b"}, "reinitialisation"),
        ({"lr": 0.2}, "hyper-parameters"),
        ({"augmentation": {"flip": True}}, "hyper-parameters"),
        ({"width": 32, "lr": 0.2}, "architecture"),
        ({"architecture": "resnet9"}, "architecture"),
        ({"initialisation": "pretraining", "architecture": "resnet9"}, "data seen before"),
        ({"kind": "sklearn", "initialisation": "none"}, "kind of model"),
    ],
)
def test_the_furthest_difference_is_the_rung(changes, said):
    assert ladder.rung(BASE, BASE | changes) == said == ladder.rung(BASE | changes, BASE)


def models(n: int, accuracy: float, seed: int, *, n_test: int = 200) -> Predictions:
    """Models that are right at random, with a share of the images that all get right."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n_test) % 3
    right = rng.random((n, n_test)) < accuracy
    logits = rng.normal(size=(n, n_test, 3))
    logits[..., :] += 4 * (np.arange(3) == labels[:, None]) * right[..., None]
    logits -= 4 * (np.arange(3) == labels[:, None]) * ~right[..., None]
    exp = np.exp(logits)
    return Predictions(exp / exp.sum(-1, keepdims=True), labels)


@pytest.fixture
def two():
    return {"a": models(5, 0.7, 0), "b": models(5, 0.6, 1)}


def test_means_are_those_of_a_slow_loop(two):
    rungs = {("a", "a"): "reinitialisation", ("a", "b"): "architecture"}
    table = ladder.measure_ladder(two, rungs).set_index(["first", "second", "measure"])
    pairs = {
        ("a", "a"): list(itertools.combinations(range(5), 2)),
        ("a", "b"): list(itertools.product(range(5), range(5))),
    }
    for (first, second), chosen in pairs.items():
        differ, converted = [], []
        for i, j in chosen:
            one, other = two[first].right[i], two[second].right[j]
            both = two[first].probabilities[i] + two[second].probabilities[j]
            differ.append(np.mean(one != other))
            good = both.argmax(-1) == two["a"].labels
            converted.append(np.mean(good[one != other]))
        row = table.loc[(first, second)]
        assert row.loc["inconsistency", "mean"] == pytest.approx(np.mean(differ))
        assert row.loc["conversion", "mean"] == pytest.approx(np.mean(converted))
        assert (row["n_pairs"] == len(chosen)).all()
        assert row.loc["inconsistency", "low"] < np.mean(differ) < row.loc["inconsistency", "high"]


def test_intervals_over_models_cover_the_truth():
    """Of models that are right at random the inconsistency is known."""
    one, two, hits, n = 0.7, 0.6, 0, 60
    truth = one * (1 - two) + two * (1 - one)
    for seed in range(n):
        given = {"a": models(12, one, 2 * seed), "b": models(12, two, 2 * seed + 1)}
        table = ladder.measure_ladder(given, {("a", "b"): "architecture"}, seed=seed)
        row = table[table["measure"] == "inconsistency"].iloc[0]
        hits += row["low"] <= truth <= row["high"]
    assert hits / n > 0.8  # noise of pairs, which the models' drawings do not hold, makes it wide


def test_an_ensemble_adds_the_best_of_what_is_left(two):
    two["c"] = models(5, 0.95, 2)
    table = ladder.greedy_ensembles(two, n_draws=8).set_index(["base", "step"])
    assert set(table.index.get_level_values("step")) == {0, 1, 2, 3}
    assert {table.loc[(base, 1), "added"] for base in "ab"} == {"c"}
    assert table.loc[("a", 1), "accuracy"] > table.loc[("a", 0), "accuracy"]
    assert table.loc[("a", 0), "accuracy"] == pytest.approx(two["a"].right.mean(), abs=0.05)
    assert (table["low"] <= table["accuracy"]).all()
    assert (table["accuracy"] <= table["high"]).all()


def test_what_is_reported_was_not_what_it_was_chosen_by():
    """Of models that know nothing, choosing gains nothing on the other half."""
    given = {name: models(4, 1 / 3, k, n_test=90) for k, name in enumerate("abcdef")}
    for predictions in given.values():
        predictions.probabilities[:] = np.random.default_rng(
            int(1e6 * predictions.probabilities.sum()) % 2**31
        ).dirichlet(np.ones(3), predictions.probabilities.shape[:2])
    table = ladder.greedy_ensembles(given, n_draws=60)
    assert abs(table[table["step"] == 1]["accuracy"].mean() - 1 / 3) < 0.04
