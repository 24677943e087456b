"""The small CLIP: its words, its tokens, its bits, and whether it names what was planted."""

import numpy as np
import pytest
import torch

from mdhelpers.clip import small_clip
from mdhelpers.clip.encoders import embed_images, embed_texts
from mdhelpers.clip.small_clip import compact_tokenizer
from mdhelpers.clip.words import (
    WORDS,
    describe,
    describe_fully,
    facts,
    features_named,
    scene_captions,
    words_of,
)
from mdhelpers.data import scenes
from mdhelpers.data.drawings import CORNERS
from mdhelpers.method.captions import distinguishing_captions
from mdhelpers.stages.study import Study

STEPS = Study.model_fields["caption_steps"].default  # what the book uses


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    return small_clip.load_or_train(tmp_path_factory.mktemp("clip"), steps=STEPS, progress=False)


@pytest.fixture(scope="module")
def told():
    rng = np.random.default_rng(1)
    known = facts(scenes.random_scenes(300, seed=4, rate=0.3).metadata)
    return [(scene, describe(scene, rng)) for scene in known for _ in range(5)]


def test_descriptions_say_nothing_untrue(told):
    for scene, text in told:
        assert set(features_named(text)) <= set(scene["features"])
        words = set(words_of(text))
        assert words & set(scenes.CLASS_NAMES) <= {scene["class_name"]}
        if "background" in words:
            assert scene["background_color"] in words
        corners = [corner for corner in CORNERS if f"{corner} corner" in text]
        assert corners in ([], [scene["tag_corner"]])


def test_a_full_description_says_all_that_is_there(told):
    for scene, _ in told:
        text = describe_fully(scene)
        assert features_named(text) == scene["features"]
        assert f"{scene['object_color']} {scene['class_name']} on" in text
        assert f"{scene['background_color']} background" in text
        assert (f"{scene['tag_corner']} corner" in text) == bool(scene["tag_corner"])
        assert set(words_of(text)) <= WORDS


def test_every_word_is_known_and_every_known_word_is_read(told):
    read = {word for _, text in told for word in words_of(text)}
    assert read == WORDS


def test_every_feature_can_be_named():
    named = {name for caption in scene_captions() for name in features_named(caption)}
    assert named == set(scenes.FEATURES)
    assert features_named("a white boat near the top") == []


def test_compact_tokens_keep_words_apart_and_end_highest():
    tokenize = compact_tokenizer()
    rows = tokenize(sorted(WORDS))
    assert len({tuple(row.tolist()) for row in rows}) == len(WORDS)
    ends = rows.argmax(dim=1)
    assert rows.max(dim=1).values.unique().numel() == 1
    for row, end in zip(rows, ends, strict=True):
        assert (row[: end + 1] > 0).all()
        assert (row[end + 1 :] == 0).all()


def test_same_bits_again_and_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(
        small_clip, "Training", lambda **given: TINY(**given, n_scenes=200, marked=16, plain=8)
    )
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = small_clip.load_or_train(tmp_path / "a", steps=3, progress=False)
    assert torch.equal(before, torch.get_rng_state())
    second = small_clip.load_or_train(tmp_path / "b", steps=3, progress=False)
    other = small_clip.load_or_train(tmp_path / "b", steps=3, seed=1, progress=False)
    same = first.model.state_dict()
    assert all(torch.equal(same[k], v) for k, v in second.model.state_dict().items())
    assert not torch.equal(same["text_projection"], other.model.state_dict()["text_projection"])
    monkeypatch.setattr(small_clip, "train", None)  # would fail if it were called
    again = small_clip.load_or_train(tmp_path / "a", steps=3, progress=False)
    assert again.report == first.report
    assert len(list((tmp_path / "b").iterdir())) == 2


TINY = small_clip.Training


def test_recall_is_chance_where_nothing_is_known_and_whole_where_all_is(monkeypatch):
    encoder = small_clip.new_encoder(24)
    monkeypatch.setattr(small_clip, "embed_images", lambda _, images: noise(len(images), 0))
    monkeypatch.setattr(small_clip, "embed_texts", lambda _, texts: noise(len(texts), 1))
    how = {"size": 24, "seed": 0, "choices": 20, "batches": 200}
    one, five = small_clip.held_out_retrieval(encoder, **how)
    assert one["recall"] == pytest.approx(one["chance"], abs=0.02)
    assert five["recall"] == pytest.approx(five["chance"], abs=0.04)
    assert (one["k"], one["chance"], five["k"], five["chance"]) == (1, 0.05, 5, 0.25)
    monkeypatch.setattr(small_clip, "embed_texts", lambda _, texts: noise(len(texts), 0))
    assert [row["recall"] for row in small_clip.held_out_retrieval(encoder, **how)] == [1, 1]


def noise(n, seed):
    table = np.random.default_rng(seed).normal(size=(n, 16))
    return table / np.linalg.norm(table, axis=1, keepdims=True)


@pytest.mark.slow
def test_it_can_see(trained):
    auc = {(row["kind"], row["what"]): row["auc"] for row in trained.report["auc"]}
    planted = [auc["feature", name] for name in scenes.PLANTED]
    assert min(planted) > 0.9
    assert np.mean([value for (kind, _), value in auc.items() if kind == "feature"]) > 0.85
    assert min(value for (kind, _), value in auc.items() if kind == "background") > 0.95
    one, five = trained.report["retrieval"]
    assert one["recall"] > 0.8 > one["chance"]
    assert five["recall"] > 0.95
    losses = [row["loss"] for row in trained.report["losses"]]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_planted_feature_is_named(trained, seed, share):
    test = scenes.make_scenes(n_train=240, n_test=600, seed=seed).test
    bank = scene_captions()
    seen, read = embed_images(trained, test.images), embed_texts(trained, bank)
    rng = np.random.default_rng(seed)
    for name, class_name in scenes.PLANTED.items():
        carries = test.metadata[f"feature_{name}"].to_numpy()
        of_class = test.labels == scenes.CLASS_NAMES.index(class_name)
        n = round(24 * share)
        members = np.r_[
            rng.choice(np.flatnonzero(of_class & carries), n, replace=False),
            rng.choice(np.flatnonzero(of_class & ~carries), 24 - n, replace=False),
        ]
        for labels in (None, test.labels):
            top = distinguishing_captions(seen, read, bank, members, labels=labels, top=5)
            assert any(name in features_named(caption) for caption in top["caption"])
