"""Captions: the arithmetic against plain loops, closed forms, scikit-learn and simulation."""

from itertools import product

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mdhelpers.method import captions
from mdhelpers.method.captions import auc_with_interval, distinguishing_captions, found_again


def unit(rows, width, seed):
    table = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


@pytest.fixture
def embeddings():
    return unit(60, 8, 0), unit(12, 8, 1), [f"caption {i}" for i in range(12)]


def test_scores_are_those_of_appendix_f5(embeddings):
    images, texts, bank = embeddings
    members = [3, 7, 20, 41]
    named = distinguishing_captions(images, texts, bank, members, top=12)
    for row in named.itertuples():
        cosines = [float(image @ texts[bank.index(row.caption)]) for image in images]
        inside = np.mean([cosines[i] for i in members])
        assert row.score == pytest.approx(inside - np.mean(cosines), abs=1e-6)
        assert row.similarity_in == pytest.approx(inside, abs=1e-6)
    assert named["z"].is_monotonic_decreasing
    assert named["rank"].tolist() == list(range(1, 13))


def test_z_agrees_with_random_subsets(embeddings):
    images, texts, bank = embeddings
    labels = np.arange(60) % 3
    members = np.array([0, 3, 6, 9, 1])
    named = distinguishing_captions(images, texts, bank, members, labels=labels, top=12)
    rng, similarity = np.random.default_rng(5), images @ texts.T
    draws = [
        similarity[
            np.r_[
                rng.choice(np.flatnonzero(labels == 0), 4, replace=False),
                rng.choice(np.flatnonzero(labels == 1), 1),
            ]
        ].mean(axis=0)
        for _ in range(4000)
    ]
    column = [bank.index(caption) for caption in named["caption"]]
    assert named["similarity_reference"].to_numpy() == pytest.approx(
        np.mean(draws, axis=0)[column], abs=0.02
    )
    assert (named["score"] / named["z"]).to_numpy() == pytest.approx(
        np.std(draws, axis=0)[column], rel=0.06
    )


def test_the_other_end_alone_can_be_the_reference(embeddings):
    images, texts, bank = embeddings
    members, others = np.array([3, 7, 20, 41]), np.array([0, 5, 9, 30, 31])
    named = distinguishing_captions(images, texts, bank, members, others=others, top=12)
    pool = np.r_[members, others]
    alone = distinguishing_captions(images[pool], texts, bank, np.arange(4), top=12)
    assert named["caption"].tolist() == alone["caption"].tolist()
    for column in ("auc", "auc_low", "z", "stability"):
        assert named[column].to_numpy() == pytest.approx(alone[column].to_numpy())
    cosines = images.astype(float) @ texts.T.astype(float)
    away = cosines[members].mean(axis=0) - cosines[others].mean(axis=0)
    column = [bank.index(caption) for caption in named["caption"]]
    assert named["score"].to_numpy() == pytest.approx(away[column])


def test_own_class_as_reference_takes_the_class_away():
    labels = np.repeat([0, 1], 50)
    marked = np.zeros(100, bool)
    marked[:10] = True
    images = np.stack([labels == 0, labels == 1, marked], axis=1).astype(np.float32)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts, bank = np.eye(3, dtype=np.float32), ["the class", "other class", "the mark"]
    members = np.r_[:6, 10:16]
    own = distinguishing_captions(images, texts, bank, members, labels=labels)
    assert own["caption"].iloc[0] == "the mark"
    assert own.set_index("caption").loc["the class", "score"] < 0
    assert own.set_index("caption").loc["the class", "auc"] < 0.5


def test_the_whole_data_set_stands_out_in_nothing(embeddings):
    images, texts, bank = embeddings
    named = distinguishing_captions(images, texts, bank, np.arange(60))
    assert named["score"].abs().max() < 1e-9
    assert (named["z"] == 0).all()
    assert named["auc"].isna().all()


# ---- the AUC and its interval -------------------------------------------------------------------


def slow_delong(members, others):
    """AUC and variance of one caption by DeLong's definition."""
    won = np.array([[(a > b) + 0.5 * (a == b) for b in others] for a in members])
    v, w = won.mean(axis=1), won.mean(axis=0)
    return won.mean(), v.var(ddof=1) / len(v) + w.var(ddof=1) / len(w)


def test_auc_and_interval_agree_with_scikit_learn_and_a_slow_loop():
    similarity = np.random.default_rng(2).normal(size=(40, 6)).round(1)  # with ties
    members = np.array([0, 4, 5, 17, 30, 31, 39])
    similarity[members] += 0.6
    inside = np.isin(np.arange(40), members)
    found = auc_with_interval(similarity, np.zeros(40, int), members)
    for column in range(6):
        auc, variance = slow_delong(similarity[inside, column], similarity[~inside, column])
        assert found["auc"][column] == pytest.approx(roc_auc_score(inside, similarity[:, column]))
        assert found["auc"][column] == pytest.approx(auc)
        half = 1.959964 * np.sqrt(variance)
        assert found["auc_low"][column] == pytest.approx(max(auc - half, 0), abs=1e-6)
        assert found["auc_high"][column] == pytest.approx(min(auc + half, 1), abs=1e-6)


def test_auc_within_classes_is_their_mean_by_members():
    similarity = np.random.default_rng(3).normal(size=(60, 5))
    classes, members = np.arange(60) % 3, np.array([0, 3, 6, 9, 1, 4])
    found = auc_with_interval(similarity, classes, members)
    inside, total = np.isin(np.arange(60), members), 0
    for name, weight in ((0, 4 / 6), (1, 2 / 6)):
        own = classes == name
        total = total + weight * np.array(
            [roc_auc_score(inside[own], similarity[own, j]) for j in range(5)]
        )
    assert found["auc"] == pytest.approx(total)


def test_the_variance_is_that_of_the_closed_form():
    """Hanley and McNeil's, which is exact for exponential similarities."""
    rng, rate, k, m = np.random.default_rng(4), 3.0, 24, 60
    similarity = rng.exponential(size=(k + m, 20_000))
    similarity[:k] *= rate
    found = auc_with_interval(similarity, np.zeros(k + m, int), np.arange(k))
    auc = rate / (1 + rate)
    one, two = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (k - 1) * (one - auc**2) + (m - 1) * (two - auc**2)
    assert found["auc"].mean() == pytest.approx(auc, abs=0.002)
    assert found["auc"].var() == pytest.approx(spread / (k * m), rel=0.04)
    uncut = (found["auc_low"] > 0) & (found["auc_high"] < 1)
    half = (found["auc_high"] - found["auc_low"])[uncut] / 2
    assert np.mean((half / 1.959964) ** 2) == pytest.approx(spread / (k * m), rel=0.06)
    covered = (found["auc_low"] <= auc) & (auc <= found["auc_high"])
    assert 0.92 < covered.mean() < 0.97


def test_perfect_order_leaves_doubt():
    """Were the AUC at the bound, as many disjoint pairs would be all in order once in forty."""
    similarity = np.r_[np.arange(10.0, 18), np.arange(5.0)][:, None] * [1, -1]
    found = auc_with_interval(similarity, np.zeros(13, int), np.arange(8))
    assert found["auc"].tolist() == [1, 0]
    assert found["auc_low"][0] ** 5 == pytest.approx(0.025)
    assert (found["auc_high"][0], found["auc_low"][1]) == (1, 0)
    assert (1 - found["auc_high"][1]) ** 5 == pytest.approx(0.025)


def test_one_image_tells_nothing_of_the_spread():
    found = auc_with_interval(np.arange(5.0)[:, None], np.zeros(5, int), np.array([2]))
    assert [float(found[name][0]) for name in ("auc", "auc_low", "auc_high")] == [0.5, 0, 1]


# ---- stability ----------------------------------------------------------------------------------


def test_stability_agrees_with_all_halvings(monkeypatch):
    """With few images every halving can be looked at, one caption after the other."""
    monkeypatch.setattr(captions, "HALVINGS", 4000)
    values = np.random.default_rng(6).normal(size=(6, 30)) + np.linspace(0, 1, 30)
    named, both = np.zeros(30), np.zeros(30)
    for chosen in product([0, 1], repeat=6):
        half = np.array(chosen, bool)
        if half.sum() == 3:
            one, other = (np.argsort(-values[rows].mean(axis=0)) for rows in (half, ~half))
            for j in one[:2]:  # 30 captions are asked for two, and looked for among four
                named[j] += 1
                both[j] += j in other[:4]
    expected = np.divide(both, named, out=np.zeros(30), where=named > 0)
    assert found_again(values) == pytest.approx(expected, abs=0.06)
    assert 0 < expected.max() < 1


def test_what_all_images_share_is_stable_and_what_one_shows_is_not():
    values = np.random.default_rng(0).normal(size=(24, 200))
    by_chance = found_again(values)
    assert 0 < by_chance.max() < 0.6
    assert (found_again(values, seed=1) != by_chance).any()
    assert (found_again(values[:1]) == 0).all()
    values[:, 5] += 3
    values[0, 9] += 30
    found = found_again(values)
    assert found[5] == 1
    assert found[9] < 0.1


def bootstrapped(values, rng):
    """Share of bootstraps in which each caption is among the first five."""
    k = len(values)
    best = [
        np.argsort(-values[rng.integers(k, size=k)].mean(axis=0))[: captions.FIRST]
        for _ in range(captions.HALVINGS)
    ]
    return np.bincount(np.concatenate(best), minlength=values.shape[1]) / captions.HALVINGS


def test_planted_groups_are_told_from_random_ones_better_than_by_a_bootstrap():
    rng = np.random.default_rng(10)
    chance = [rng.normal(size=(24, 200)) for _ in range(60)]
    planted = [values + 0.8 * (np.arange(200) < 5) for values in chance]
    for groups, least, most in ((planted, 0.9, 1), (chance, 0, 0.4)):
        stable = [found_again(values).max() >= captions.STABLE for values in groups]
        assert least <= np.mean(stable) <= most
    fooled = [bootstrapped(values, rng).max() >= captions.STABLE for values in chance]
    assert np.mean(fooled) > 1.3 * np.mean(stable)


@pytest.mark.parametrize(
    ("members", "message"),
    [([], "list of indices"), ([60], "from 0 to 59"), ([1, 1], "different"), ([0.5], "indices")],
)
def test_bad_members(embeddings, members, message):
    with pytest.raises(ValueError, match=message):
        distinguishing_captions(*embeddings, members)


@pytest.mark.parametrize("others", [[], [60], [-1], [1, 5]])
def test_bad_others(embeddings, others):
    with pytest.raises(ValueError, match="not among the members"):
        distinguishing_captions(*embeddings, [1, 2], others=np.array(others, int))


def test_sizes_that_do_not_agree(embeddings):
    images, texts, bank = embeddings
    with pytest.raises(ValueError, match="one row a caption"):
        distinguishing_captions(images, texts, bank[:5], [1, 2])
    with pytest.raises(ValueError, match="3 labels for 60 images"):
        distinguishing_captions(images, texts, bank, [1, 2], labels=[0, 1, 2])
    with pytest.raises(ValueError, match="not both"):
        distinguishing_captions(images, texts, bank, [1], labels=np.zeros(60), others=[2])
