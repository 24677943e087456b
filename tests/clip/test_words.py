"""Banks of captions, and which CLIP a study means."""

import pytest

from mdhelpers.clip.words import CaptionSpec, caption_bank, scene_captions

NAMED = "ViT-B-32"


def test_default_banks():
    assert 120 <= len(scene_captions()) <= 250
    assert caption_bank(CaptionSpec(model="small")) == scene_captions()
    words = caption_bank(CaptionSpec(model=NAMED))
    assert 20_000 < len(words) == len(set(words)) < 25_000
    assert {"yellow", "faces", "spider web", "polka dots", "florist", "canary"} <= set(words)
    assert {"a photo of stripes", "stripes in the background"} <= set(words)
    assert all(len(word) >= 3 and word.isascii() for word in words)


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


def test_auto_is_the_small_clip_on_scenes_alone():
    assert CaptionSpec().for_data("scenes").model == "small"
    assert CaptionSpec().for_data("image_folder").model == "none"
    assert CaptionSpec(model=NAMED).for_data("cifar10").model == NAMED
    with pytest.raises(ValueError, match=r"Give captions: {model: none}, or a CLIP that does"):
        CaptionSpec(model="small").for_data("cifar10")
