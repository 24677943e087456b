"""Descriptions of generated scenes: what the small CLIP reads, and the captions it chooses from.

A description names some of what its metadata row says, in wordings that vary; what it leaves out
is not absent. Every word that can occur stands in `WORDS`, so that a caption with a word that the
small CLIP never read can be refused by name.
"""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pandas as pd

from mdhelpers.scenes import BACKGROUND_COLORS, CLASS_NAMES, FEATURES, OBJECT_COLORS
from mdhelpers.transforms import CORNERS

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
    """The features of `scenes.FEATURES` that a caption names in one of their wordings.

    >>> features_named("a boat with a white label"), features_named("a white boat")
    (['tag'], [])
    """
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
