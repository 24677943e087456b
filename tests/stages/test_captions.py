"""Captions of every subpopulation, and the CLIP that a study asks for."""

import socket
import time

import numpy as np
import open_clip
import pandas as pd
import pytest

from mdhelpers.clip import encoders
from mdhelpers.clip.words import CaptionSpec
from mdhelpers.method.captions import distinguishing_captions
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import CAPTIONS
from mdhelpers.stages import captions as stages_captions
from mdhelpers.stages.captions import caption_subpopulations
from mdhelpers.stages.data import prepare_data
from mdhelpers.stages.outside import captions_from_outside

NAMED = "ViT-B-32"


def unit(rows, width, seed):
    table = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return table / np.linalg.norm(table, axis=1, keepdims=True)


@pytest.fixture
def embeddings():
    return unit(60, 8, 0), unit(12, 8, 1), [f"caption {i}" for i in range(12)]


def test_table_of_subpopulations(embeddings):
    images, texts, bank = embeddings
    members = {("1_minus_2", 0, "top"): [4, 9, 2], ("1_minus_2", 0, "bottom"): [5, 6, 50]}
    members |= {("2_minus_1", 0, "top"): [7, 8, 9]}
    table = pd.DataFrame(
        [(*key, rank, index) for key, those in members.items() for rank, index in enumerate(those)],
        columns=["comparison", "direction", "end", "rank", "index"],
    )
    labels = np.arange(60) % 2
    named = caption_subpopulations(images, texts, bank, table, labels=labels, top=3)
    assert len(named) == (2 * 3 + 2) * 3  # the last has no other end
    assert set(stages_captions.COLUMNS) <= set(named.columns)
    references = {"all": {}, "class": {"labels": labels}, "end": {"others": [4, 9, 2]}}
    for reference, given in references.items():
        part = named[(named["end"] == "bottom") & (named["reference"] == reference)]
        alone = distinguishing_captions(images, texts, bank, [5, 6, 50], **given, top=3)
        for column in ("caption", "z", "auc", "stability"):
            assert part[column].tolist() == alone[column].tolist()
    assert set(caption_subpopulations(images, texts, bank, table)["reference"]) == {"all", "end"}


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


def test_a_page_embeds_by_the_clip_that_its_captions_were_made_with(tmp_path, monkeypatch):
    """Whatever that would be named today, as when the recipe has another number since."""
    run, asked = Run("s", runs_dir=tmp_path), []
    prepare_data(run, {"kind": "scenes", "size": 16, "n_train": 12, "n_test": 15})
    made = run.path / "clip" / "small_clip_of_old.safetensors"
    made.parent.mkdir()
    made.write_bytes(b"weights")
    run.stage(CAPTIONS, {}).keep(made=[made])
    monkeypatch.setattr("mdhelpers.clip.small_clip.load", lambda path: asked.append(path))
    monkeypatch.setattr(stages_captions, "embeddings", lambda *_, **where: [where["folder"]] * 2)
    seen, _, bank = stages_captions.embeddings_of(run, {"model": "small"})
    assert asked == [made]
    assert seen == tmp_path / ".clip"
    assert len(bank) > 100


def test_the_commonest_words_are_among_what_the_stage_reads(monkeypatch):
    """They come from a package: another list of them makes the captions anew."""
    named = CaptionSpec(model=NAMED, pretrained="openai")
    before = captions_from_outside(named)
    monkeypatch.setattr("mdhelpers.clip.words.COMMON_WORDS", 500)
    assert captions_from_outside(named) != before
    assert captions_from_outside(CaptionSpec(model="small")) == {}
