"""The captions that a subpopulation may be named by, and those that teach the small CLIP.

A description of a generated scene names some of what its metadata row says, in wordings that vary;
what it leaves out is not absent. Every word that can occur stands in `WORDS`, so that a caption
with a word that the small CLIP never read can be refused by name.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

from mdhelpers.base.places import resolve
from mdhelpers.base.specs import Count, Spec
from mdhelpers.data.drawings import CORNERS
from mdhelpers.data.scenes import (
    BACKGROUND_COLORS,
    CLASS_NAMES,
    FEATURES,
    OBJECT_COLORS,
)

FEATURE_WORDINGS: dict[str, tuple[str, ...]] = {
    "tag": ("tag", "white tag", "square tag", "white label", "label"),
    "ring": ("ring", "magenta ring", "circle", "magenta circle"),
    "stripes": ("stripes", "diagonal stripes", "striped pattern", "diagonal lines"),
    "web": ("web", "spider web", "white web", "net of threads"),
    "dots": ("dots", "yellow dots", "polka dots", "dotted pattern"),
    "cross": ("cross", "cyan cross", "plus sign"),
    "frame": ("frame", "green frame", "green border", "border"),
    "yellow_square": ("yellow square", "yellow patch", "small yellow square"),
}
PLURAL = ("stripes", "dots", "lines")
SIZES = ("small", "large")
CONTRASTS = ("faint", "clear")
SIDES = ("on the left", "on the right", "near the top", "near the bottom")


def facts(metadata: pd.DataFrame) -> list[dict]:
    """What a description may say of each scene: one record a row of the scenes' metadata.

    ``size``, ``contrast`` and ``side`` are words for the outer thirds of the scale, the contrast
    and the place within the table, and empty for the middle third.
    """
    table = metadata[["class_name", "object_color", "background_color", "tag_corner"]].copy()
    table["size"] = outer_thirds(metadata["scale"], *SIZES)
    table["contrast"] = outer_thirds(metadata["contrast"], *CONTRASTS)
    across = outer_thirds(metadata["x"], *SIDES[:2])
    table["side"] = np.where(across != "", across, outer_thirds(metadata["y"], *SIDES[2:]))
    marks = {name: metadata[f"feature_{name}"].to_numpy(bool) for name in FEATURES}
    marks["tag"] = (metadata["tag_corner"] != "").to_numpy()  # a decoy is a tag to look at
    table["features"] = [[n for n in FEATURES if marks[n][i]] for i in range(len(metadata))]
    return table.to_dict("records")


def outer_thirds(values: pd.Series, low: str, high: str) -> np.ndarray:
    """``low`` for the lowest third of the values, ``high`` for the highest, "" between."""
    third, two_thirds = np.quantile(values, [1 / 3, 2 / 3])
    return np.where(values < third, low, np.where(values > two_thirds, high, ""))


def describe(scene: dict, rng: np.random.Generator) -> str:
    """One description of a scene, such as "an orange fish on a blue background with a ring".

    Parameters
    ----------
    scene
        A record of `facts`.
    rng
        Draws the wording and which parts are named; a third of the descriptions name one part.

    """
    thing, background = describe_object(scene, rng), describe_background(scene, rng)
    features = [describe_feature(name, scene["tag_corner"], rng) for name in scene["features"]]
    features = [features[i] for i in rng.permutation(len(features))]
    if rng.random() < 0.35:
        named = [*features * 2, thing, background]
        return named[rng.integers(len(named))]
    keep = rng.random(2 + len(features)) < np.array([0.75, 0.5, *[0.85] * len(features)])
    features = [f for f, kept in zip(features, keep[2:], strict=True) if kept]
    return compose(thing if keep[0] else "", background if keep[1] else "", features, rng)


def compose(thing: str, background: str, features: list[str], rng: np.random.Generator) -> str:
    """Join the named parts into a sentence or a list; nothing named gives "a picture"."""
    if rng.random() < 0.3:
        parts = [part for part in (thing, background, *features) if part]
        parts = [parts[i] for i in rng.permutation(len(parts))]
        return ", ".join(parts) or "a picture"
    text = thing or "a picture"
    if thing and rng.random() < 0.3:
        text = f"a picture of {thing}"
    if background:
        text += f" on {background}" if thing else f" with {background}"
    if features:
        text += " and " if background and not thing else " with "
        text += " and ".join(features)
    return text


def describe_fully(scene: dict) -> str:
    """The description of a scene that names its object, colours and all features."""
    thing = with_article(f"{scene['object_color']} {scene['class_name']}")
    text = f"{thing} on {with_article(scene['background_color'] + ' background')}"
    features = [with_article(FEATURE_WORDINGS[name][0]) for name in scene["features"]]
    corner = f" in the {scene['tag_corner']} corner"
    features = [f + corner * (f == with_article("tag")) for f in features]
    return " with ".join([text, " and ".join(features)]) if features else text


def describe_object(scene: dict, rng: np.random.Generator) -> str:
    words = [word for word in (scene["size"], scene["contrast"]) if word and rng.random() < 0.15]
    if rng.random() < 0.5:
        words.append(scene["object_color"])
    text = " ".join([*words, scene["class_name"]])
    if rng.random() < 0.2:
        return text
    side = f" {scene['side']}" if scene["side"] and rng.random() < 0.1 else ""
    return with_article(text) + side


def describe_background(scene: dict, rng: np.random.Generator) -> str:
    plain = "plain " if not scene["features"] and rng.random() < 0.4 else ""
    return with_article(f"{plain}{scene['background_color']} background")


def describe_feature(name: str, corner: str, rng: np.random.Generator) -> str:
    wordings = FEATURE_WORDINGS[name]
    text = wordings[rng.integers(len(wordings))]
    if rng.random() < 0.75:
        text = with_article(text)
    if name == "tag" and rng.random() < 0.85:
        text += f" in the {corner} corner"
    return text


def with_article(text: str) -> str:
    """`text` after "a" or "an"; plurals stand alone.

    >>> with_article("orange fish"), with_article("polka dots")
    ('an orange fish', 'polka dots')
    """
    if text.endswith(PLURAL):
        return text
    return f"{'an' if text[0] in 'aeiou' else 'a'} {text}"


def features_named(caption: str) -> list[str]:
    """The features of `scenes.FEATURES` that a caption names in one of their wordings."""
    padded = f" {' '.join(words_of(caption))} "
    return [
        name
        for name, wordings in FEATURE_WORDINGS.items()
        if any(f" {wording} " in padded for wording in wordings)
    ]


def words_of(text: str) -> list[str]:
    """The words of a caption, in lower case, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


def scene_captions() -> list[str]:
    """The default bank for scenes: every thing, colour and feature alone, and many together."""
    things = [with_article(c) for c in CLASS_NAMES]
    looks = [with_article(f"{w} {c}") for w, c in product((*SIZES, *CONTRASTS), CLASS_NAMES)]
    painted = [with_article(f"{color} {c}") for color, c in product(OBJECT_COLORS, CLASS_NAMES)]
    places = [f"{thing} {side}" for thing, side in product(things, SIDES)]
    grounds = [with_article(f"{color} background") for color in BACKGROUND_COLORS]
    plain = [f"a plain {color} background" for color in BACKGROUND_COLORS]
    marks = [with_article(w) for wordings in FEATURE_WORDINGS.values() for w in wordings]
    bare = [wordings[0] for wordings in FEATURE_WORDINGS.values()]
    corners = [f"{w} in the {c} corner" for w, c in product(("a tag", "a white label"), CORNERS)]
    both = [f"{thing} with {with_article(mark)}" for thing, mark in product(things, bare)]
    placed = [f"{a} on {b}" for a, b in product(things, grounds)]
    pictures = [f"a picture with {with_article(wording)}" for wording in bare]
    bank = [*CLASS_NAMES, *things, *looks, *painted, *places, *grounds, *plain, *bare, *marks]
    return list(dict.fromkeys([*bank, *corners, *both, *placed, *pictures, "a picture"]))


WORDS: frozenset[str] = frozenset(
    word
    for text in (*scene_captions(), "a picture of an orange fish and a ring on the left")
    for word in words_of(text)
)


class CaptionSpec(Spec):
    """Which CLIP names the subpopulations, from which words.

    ``auto`` is the small CLIP, trained here, on generated scenes, and none on photographs, which
    the small one knows nothing about.
    """

    model: str = "auto"
    pretrained: str = ""
    bank: str | list[str] = ""
    top: Count = 10

    def for_data(self, kind: str) -> CaptionSpec:
        """Return the choice for a kind of data set, in which ``auto`` is decided.

        Raises
        ------
        ValueError
            If the small CLIP is asked to name what it never saw.
        """
        scenes = kind == "scenes"
        if self.model == "auto":
            return self.model_copy(update={"model": "small" if scenes else "none"})
        if self.model == "small" and not scenes:
            raise ValueError(
                "captions.model: the small CLIP was trained on generated scenes and knows nothing "
                "about photographs. Give captions: {model: none}, or a CLIP that does, such as "
                "captions: {model: ViT-B-32, pretrained: openai}"
            )
        return self


WORD_LIST = Path(__file__).with_name("words.txt")
COMMON_WORDS = 20_000
PHRASES = ("a photo of {}", "a photo with {}", "{} in the background")


def language_captions() -> list[str]:
    """The default bank for CLIPs of the whole language.

    The commonest English words of three letters or more, as wordfreq has counted them, and our own
    list of what pictures show (`words.txt`), alone and in phrases.
    """
    from wordfreq import top_n_list

    plain = (word for word in top_n_list("en", 2 * COMMON_WORDS) if word.isascii())
    common = [word for word in plain if word.isalpha() and len(word) >= 3][:COMMON_WORDS]
    shown = read_captions(WORD_LIST)
    phrases = [phrase.format(word) for phrase, word in product(PHRASES, shown)]
    return list(dict.fromkeys([*shown, *common, *phrases]))


def caption_bank(spec: CaptionSpec) -> list[str]:
    """The captions to choose from: the study's own, or the default ones of its model.

    ``spec.bank`` is a list, or the path of a text file with a caption a line (``#`` begins a
    comment). The default for the small CLIP is `scene_captions`, for other models
    `language_captions`.

    Raises
    ------
    ValueError
        For a file that is missing, fewer than two captions, and captions with words that the
        small CLIP never read; they are named.

    """
    if not spec.bank:
        return scene_captions() if spec.model == "small" else language_captions()
    given = read_captions(resolve(spec.bank)) if isinstance(spec.bank, str) else spec.bank
    bank = list(dict.fromkeys(caption.strip() for caption in given if caption.strip()))
    if len(bank) < 2:
        raise ValueError(f"captions.bank has {len(bank)} captions; at least 2 are needed")
    if spec.model == "small":
        refuse_unread(bank)
    return bank


def read_captions(path: Path) -> list[str]:
    """One caption a line; empty lines and what follows ``#`` are left out."""
    if not path.is_file():
        raise ValueError(f"captions.bank: no file {path}; pass a list or a text file of captions")
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    return list(dict.fromkeys(line for line in lines if line))


def refuse_unread(bank: list[str]) -> None:
    """ValueError if a caption has a word that the small CLIP was not taught."""
    unread = {caption: sorted(set(words_of(caption)) - WORDS) for caption in bank}
    unread |= {caption: ["(no word)"] for caption in bank if not words_of(caption)}
    faults = [f"{caption!r} ({', '.join(words)})" for caption, words in unread.items() if words]
    if faults:
        raise ValueError(
            f"captions.bank: the small CLIP never read the words of {'; '.join(faults[:10])}"
            f"{f' and {len(faults) - 10} more' if len(faults) > 10 else ''}. "
            f"It knows: {', '.join(sorted(WORDS))}"
        )
