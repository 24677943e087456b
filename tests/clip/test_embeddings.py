"""Embeddings are made once for the same contents, and again for others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mdhelpers.clip import embeddings as module
from mdhelpers.clip.embeddings import embeddings
from mdhelpers.clip.small_clip import new_encoder

BANK = ["a boat", "a fish", "a ring"]


@pytest.fixture
def encoder():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        made = new_encoder(24)
    made.model.eval()
    return made


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)


@pytest.fixture
def made(monkeypatch):
    """What was embedded, one word each time."""
    calls = []
    for name in ("embed_images", "embed_texts"):
        embed = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *given, n=name, e=embed: calls.append(n) or e(*given)
        )
    monkeypatch.setattr(module, "WORTH_KEEPING_S", 0)
    return calls


def test_the_second_call_embeds_nothing(tmp_path, encoder, images, made):
    first = embeddings(encoder, images, BANK, folder=tmp_path / "kept")
    assert made == ["embed_images", "embed_texts"]
    again = embeddings(encoder, images.copy(), list(BANK), folder=tmp_path / "kept")
    assert len(made) == 2
    for before, now in zip(first, again, strict=True):
        assert np.array_equal(before, now)
        assert now.dtype == np.float32
    assert [len(array) for array in again] == [5, 3]


def test_whatever_changes_is_embedded_anew(tmp_path, encoder, images, made):
    embeddings(encoder, images, BANK, folder=tmp_path)
    images[2, 3, 4, 0] ^= 1
    embeddings(encoder, images, BANK, folder=tmp_path)
    assert made[2:] == ["embed_images"]
    embeddings(encoder, images, [*BANK[1:], BANK[0]], folder=tmp_path)
    assert made[3:] == ["embed_texts"]
    embeddings(replace(encoder, mean=(0.4, 0.5, 0.5)), images, BANK, folder=tmp_path)
    assert made[4:] == ["embed_images", "embed_texts"]
    with torch.no_grad():
        encoder.model.text_projection += 1e-3
    embeddings(encoder, images, BANK, folder=tmp_path)
    assert made[6:] == ["embed_images", "embed_texts"]


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign", "another's", "a folder"])
def test_damaged_and_foreign_files_count_for_nothing(tmp_path, encoder, images, made, damage):
    first = embeddings(encoder, images, BANK, folder=tmp_path)
    files = sorted(tmp_path.iterdir())
    contents = [file.read_bytes() for file in files]
    for file, content, other in zip(files, contents, contents[::-1], strict=True):
        if damage == "a folder":
            file.unlink()
            file.mkdir()
        else:
            flipped = content[:-1] + bytes([content[-1] ^ 1])
            kinds = {"cut": content[:-9], "changed": flipped, "foreign": b"text"}
            file.write_bytes((kinds | {"another's": other})[damage])
    again = embeddings(encoder, images, BANK, folder=tmp_path)
    assert len(made) == 4
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert sorted(tmp_path.iterdir()) == files
    if damage != "a folder":
        assert [file.read_bytes() for file in files] == contents


def test_what_is_made_quickly_is_not_kept(tmp_path, encoder, images, made, monkeypatch):
    monkeypatch.setattr(module, "WORTH_KEEPING_S", 1e6)
    embeddings(encoder, images, BANK, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(made) == 2


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, encoder, images, made):
    (tmp_path / "file").write_text("no folder")
    found = embeddings(encoder, images, BANK, folder=tmp_path / "file")
    assert [len(array) for array in found] == [5, 3]
    assert len(made) == 2
