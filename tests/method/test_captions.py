"""Captions: the arithmetic against plain loops and simulation."""

import numpy as np
import pytest

from mdhelpers.method.captions import distinguishing_captions


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
    assert named["score"].is_monotonic_decreasing
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


def test_the_whole_data_set_stands_out_in_nothing(embeddings):
    images, texts, bank = embeddings
    named = distinguishing_captions(images, texts, bank, np.arange(60))
    assert named["score"].abs().max() < 1e-9
    assert (named["z"] == 0).all()


@pytest.mark.parametrize(
    ("members", "message"),
    [([], "list of indices"), ([60], "from 0 to 59"), ([1, 1], "different"), ([0.5], "indices")],
)
def test_bad_members(embeddings, members, message):
    with pytest.raises(ValueError, match=message):
        distinguishing_captions(*embeddings, members)


def test_sizes_that_do_not_agree(embeddings):
    images, texts, bank = embeddings
    with pytest.raises(ValueError, match="one row a caption"):
        distinguishing_captions(images, texts, bank[:5], [1, 2])
    with pytest.raises(ValueError, match="3 labels for 60 images"):
        distinguishing_captions(images, texts, bank, [1, 2], labels=[0, 1, 2])
