"""Captions: the arithmetic against plain loops and simulation, banks, and what must be refused."""

import socket
import time

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from mdhelpers.clip import encoders
from mdhelpers.clip.words import CaptionSpec, caption_bank, scene_captions
from mdhelpers.method import captions
from mdhelpers.method.captions import distinguishing_captions
from mdhelpers.stages import captions as stages_captions
from mdhelpers.stages.captions import caption_subpopulations

NAMED = "ViT-B-32"


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


def test_table_of_subpopulations(monkeypatch, embeddings):
    images, texts, bank = embeddings
    monkeypatch.setattr(captions, "embed_images", lambda *_: images)
    monkeypatch.setattr(captions, "embed_texts", lambda *_: texts)
    members = {("1_minus_2", 0, "top"): [4, 9, 2], ("1_minus_2", 0, "bottom"): [5, 6, 50]}
    table = pd.DataFrame(
        [(*key, rank, index) for key, those in members.items() for rank, index in enumerate(those)],
        columns=["comparison", "direction", "end", "rank", "index"],
    )
    labels = np.arange(60) % 2
    named = caption_subpopulations(None, None, table, bank, labels=labels, top=3)
    assert len(named) == 2 * 2 * 3
    part = named[(named["end"] == "bottom") & (named["reference"] == "class")]
    alone = distinguishing_captions(images, texts, bank, [5, 6, 50], labels=labels, top=3)
    assert part["caption"].tolist() == alone["caption"].tolist()
    assert part["z"].tolist() == alone["z"].tolist()


def test_default_banks():
    assert 120 <= len(scene_captions()) <= 250
    assert caption_bank(CaptionSpec(model="small")) == scene_captions()
    words = caption_bank(CaptionSpec(model=NAMED))
    assert len(words) > 500
    assert {"yellow", "faces", "spider web", "polka dots", "stripes", "windows"} <= set(words)


def test_bank_from_a_file(tmp_path):
    file = tmp_path / "bank.txt"
    file.write_text("# words\na ring\n\na tag # in a corner\na ring\n")
    assert caption_bank(CaptionSpec(model="small", bank=str(file))) == ["a ring", "a tag"]


@pytest.mark.parametrize(
    ("bank", "message"),
    [
        (["a ring", "a giraffe"], r"'a giraffe' \(giraffe\).*It knows: .*boat"),
        (["a ring", "!?"], "no word"),
        (["a ring"], "at least 2"),
        ("no_such_bank.txt", "no file"),
    ],
)
def test_bad_banks(bank, message):
    with pytest.raises(ValueError, match=message):
        caption_bank(CaptionSpec(model="small", bank=bank))


def test_captions_can_be_off_and_small_takes_no_weights(tmp_path):
    assert stages_captions.load_clip(CaptionSpec(model="none"), cache_dir=tmp_path) is None
    with pytest.raises(ValueError, match="leave it empty"):
        stages_captions.load_clip(
            CaptionSpec(model="small", pretrained="openai"), cache_dir=tmp_path
        )


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-23", "openai", "unknown CLIP model 'ViT-B-23'; nearest: .*also: auto, small, none"),
        (NAMED, "", "needs weights"),
        ("ViT-B-16-SigLIP", "webli", "tokenizer from a hub"),
        (NAMED, "opnai", "nearest: openai"),
        (NAMED, "weights/none.pt", "no CLIP weights at"),
    ],
)
def test_names_that_do_not_exist(tmp_path, model, pretrained, message):
    spec = CaptionSpec(model=model, pretrained=pretrained)
    with pytest.raises(ValueError, match=message):
        stages_captions.load_clip(spec, cache_dir=tmp_path)


def test_a_tag_without_network_fails_at_once(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(encoders, "cached_weights", lambda *_: None)
    open_clip.list_models()  # imported before the clock starts
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"cannot be reached; pass the path.*model: none"):
        stages_captions.load_clip(CaptionSpec(model=NAMED, pretrained="openai"), cache_dir=tmp_path)
    assert time.monotonic() - start < 5


def small_weights():
    from mdhelpers.clip.small_clip import new_encoder

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return new_encoder(24)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_local_checkpoint_is_loaded(tmp_path, suffix):
    made = small_weights()
    made.model.eval()
    weights = {k: v.contiguous() for k, v in made.model.state_dict().items()}
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    loaded = encoders.load_named("small_clip", str(path))
    assert loaded.image_size == (24, 24)
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    pixels = torch.randn(2, 3, 24, 24)
    assert torch.equal(loaded.model.encode_image(pixels), made.model.encode_image(pixels))
    seen = encoders.embed_images(loaded, images)
    assert seen.dtype == np.float32
    assert np.linalg.norm(seen, axis=1) == pytest.approx(np.ones(3), abs=1e-5)


class Sneaky:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_nothing_but_weights_is_read(tmp_path):
    small_weights()  # registers small_clip
    trap, path = tmp_path / "trap", tmp_path / "weights.pt"
    torch.save({"state_dict": Sneaky(str(trap))}, path)
    with pytest.raises(ValueError, match="does not hold plain weights"):
        encoders.load_named("small_clip", str(path))
    assert not trap.exists()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(ValueError, match="safetensors"):
        encoders.load_named("small_clip", str(path))
    save_file({"visual.wrong": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="belong together"):
        encoders.load_named("small_clip", str(path))


def test_images_must_be_uint8():
    with pytest.raises(ValueError, match="uint8, got"):
        encoders.embed_images(None, np.zeros((2, 24, 24, 3), np.float32))


def test_auto_is_the_small_clip_on_scenes_alone():
    assert CaptionSpec().for_data("scenes").model == "small"
    assert CaptionSpec().for_data("image_folder").model == "none"
    assert CaptionSpec(model=NAMED).for_data("cifar10").model == NAMED
    with pytest.raises(ValueError, match=r"Give captions: {model: none}, or a CLIP that does"):
        CaptionSpec(model="small").for_data("cifar10")
