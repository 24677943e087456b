"""What imitates a subpopulation, on planted embeddings, and by chance."""

import numpy as np
import pytest

from mdhelpers.method.comparison import normalise_rows
from mdhelpers.method.proposals import matches, residual_projections, unit

WIDTH, N, K = 16, 120, 20


def embedded(rng, feature, strength: float):
    """Images of a class of which the first ``K`` have a feature."""
    found = rng.normal(0, 1, (N, WIDTH))
    found[:K] += strength * feature
    return found


def candidates(rng, n: int = 12) -> dict[str, np.ndarray]:
    return {f"t{i}": row for i, row in enumerate(rng.normal(0, 1, (n, WIDTH)))}


def test_the_transformation_that_adds_the_feature_is_found():
    rng = np.random.default_rng(0)
    changes = candidates(rng)
    images = embedded(rng, unit(changes["t3"]), 3.0)
    found = matches(images, changes, np.arange(K), np.arange(K, N))
    assert found["transformation"][0] == "t3"
    assert found["match"][0] > 0.8
    assert found["p"][0] < 0.01
    assert found["match"].is_monotonic_decreasing


def test_a_match_is_a_cosine():
    rng = np.random.default_rng(1)
    changes, images = candidates(rng), rng.normal(0, 1, (N, WIDTH))
    found = matches(images, changes, np.arange(5), np.arange(9, N), n_random=1)
    found = found.set_index("transformation")["match"]
    wanted = images[:5].mean(0) - images[9:].mean(0)
    for name, change in changes.items():
        cosine = wanted @ change / np.linalg.norm(wanted) / np.linalg.norm(change)
        assert found[name] == pytest.approx(cosine)


def test_random_subpopulations_are_matched_as_often_as_p_says():
    rng = np.random.default_rng(2)
    changes, images = candidates(rng), rng.normal(0, 1, (N, WIDTH))
    first = []
    for seed in range(200):
        order = rng.permutation(N)
        given = np.sort(order[:K]), np.sort(order[K:])
        first.append(matches(images, changes, *given, seed=seed, n_random=99)["p"][0])
    assert 0.01 <= np.mean(np.array(first) <= 0.05) <= 0.1
    assert 0.4 <= np.mean(first) <= 0.6


def test_a_seed_gives_the_same_p_values():
    rng = np.random.default_rng(3)
    changes, images = candidates(rng), rng.normal(0, 1, (N, WIDTH))
    given = images, changes, np.arange(K), np.arange(K, N)
    assert matches(*given, seed=4).equals(matches(*given, seed=4))


def test_what_changes_nothing_matches_nothing():
    rng = np.random.default_rng(5)
    changes = candidates(rng, 2) | {"identity": np.zeros(WIDTH)}
    found = matches(rng.normal(0, 1, (N, WIDTH)), changes, np.arange(K), np.arange(K, N))
    assert found.set_index("transformation")["match"]["identity"] == 0


def test_a_subpopulation_of_nobody_is_refused():
    with pytest.raises(ValueError, match="0 members and 5 mates"):
        matches(np.ones((5, 3)), {"t": np.ones(3)}, np.arange(0), np.arange(5))


def test_projections_are_those_of_residuals_by_hand():
    rng = np.random.default_rng(6)
    one, two = rng.normal(0, 1, (2, 7, 30))
    directions = unit(rng.normal(0, 1, (3, 30)))
    found = residual_projections((one, two), directions)
    a, b = normalise_rows(one), normalise_rows(two)
    for i in range(7):
        residual = a[i] - (a[i] @ b[i]) * b[i]
        assert abs(residual @ b[i]) < 1e-6
        np.testing.assert_allclose(found[i], directions @ residual, atol=1e-6)
