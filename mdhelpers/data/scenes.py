"""Generated pictures of boats, fish and houses whose distinguishing features are known.

Every image is drawn from factors that stand in its metadata: class, colours, place, size,
contrast, and which planted features it carries. A feature is planted by appearance alone and
independently of every other factor within its class, so that only a learning algorithm can make
it matter. The same code draws a feature here and adds it in a counterfactual (`transforms`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from mdhelpers.base.specs import unknown_word
from mdhelpers.data.datasets import Dataset, Split
from mdhelpers.data.drawings import CORNERS, corner_position, draw_tag
from mdhelpers.data.transforms import KINDS, Around

CLASS_NAMES = ("boat", "fish", "house")
BACKGROUND_COLORS = {
    "blue": (77, 94, 140),
    "green": (83, 112, 86),
    "red": (137, 76, 77),
    "purple": (107, 85, 131),
    "brown": (110, 88, 77),
    "gray": (101, 100, 107),
}
OBJECT_COLORS = {
    "white": (245, 245, 240),
    "orange": (250, 190, 110),
    "pink": (250, 190, 205),
    "mint": (180, 240, 205),
}
PLANTED = {"tag": "boat", "ring": "fish", "stripes": "house"}
FEATURES = ("tag", "ring", "stripes", "web", "dots", "cross", "frame", "yellow_square")
RANGES = {
    "contrast": (0.1, 0.45),
    "x": (0.42, 0.58),
    "y": (0.44, 0.58),
    "scale": (0.6, 0.8),
    "angle": (-15, 15),
    "light": (0, 2 * np.pi),
}
SUPERSAMPLING = 4


def make_scenes(
    *,
    n_train: int,
    n_test: int,
    size: int = 24,
    share: float = 0.25,
    planted: dict[str, str] | None = None,
    distractors: list[str] | tuple[str, ...] = (),
    seed: int = 0,
) -> Dataset:
    """Draw a data set in which each planted feature marks ``share`` of one class.

    The tag sits in the top left corner of its carriers; the same share of the other classes carries
    it in the top right corner, so that a tag as such says nothing and its side tells the class.
    Rings, crosses and squares lie anywhere; stripes, webs and dots everywhere.

    Parameters
    ----------
    n_train, n_test
        Number of images, equal shares of each class.
    size
        Height and width in pixels, 16 to 256.
    share
        Part of a class that carries its feature, in (0, 1).
    planted
        The class that each feature of `FEATURES` marks; `PLANTED` where none is given.
    distractors
        Features that ``share`` of every class carries, so that they tell nothing of it.
    seed
        Draws the same pictures again.

    """
    planted = dict(planted or PLANTED)
    check_scene_arguments(n_train=n_train, n_test=n_test, size=size, share=share)
    check_features(planted, distractors)
    rngs = np.random.default_rng([seed, 101]).spawn(2)
    train, test = (
        planted_split(n, size, share, planted, distractors, rng)
        for n, rng in zip((n_train, n_test), rngs, strict=True)
    )
    return Dataset.build("scenes", train, test, CLASS_NAMES)


def check_scene_arguments(*, n_train: int, n_test: int, size: int, share: float) -> None:
    for name, n in (("n_train", n_train), ("n_test", n_test)):
        if n < len(CLASS_NAMES):
            raise ValueError(f"{name} is {n}; scenes need at least one image of each class")
    if not 16 <= size <= 256:
        raise ValueError(f"size is {size}; scenes are drawn at 16 to 256 px")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1")


def check_features(planted: dict[str, str], distractors) -> None:
    """Refuse features and classes that are not drawn, and one feature in both parts."""
    for name in (*planted, *distractors):
        if name not in FEATURES:
            raise ValueError(unknown_word(name, FEATURES, "feature"))
        if name in planted and name in distractors:
            raise ValueError(f"{name} is planted and a distractor; it can be one of the two")
    for class_name in planted.values():
        if class_name not in CLASS_NAMES:
            raise ValueError(unknown_word(class_name, CLASS_NAMES, "class"))


def planted_split(
    n: int,
    size: int,
    share: float,
    planted: dict[str, str],
    distractors,
    rng: np.random.Generator,
) -> Split:
    labels = np.arange(n) % len(CLASS_NAMES)
    factors = draw_factors(labels, rng)
    for name in FEATURES:
        factors[f"feature_{name}"] = False
    for name, class_name in planted.items():
        members = labels == CLASS_NAMES.index(class_name)
        factors.loc[some_of(members, share, rng), f"feature_{name}"] = True
    factors["tag_corner"] = np.where(factors["feature_tag"], CORNERS[0], "")
    if "tag" in planted:
        others = labels != CLASS_NAMES.index(planted["tag"])
        factors.loc[some_of(others, share, rng), "tag_corner"] = CORNERS[1]
    for name in distractors:
        for label in range(len(CLASS_NAMES)):
            factors.loc[some_of(labels == label, share, rng), f"feature_{name}"] = True
        if name == "tag":
            factors["tag_corner"] = np.where(factors["feature_tag"], CORNERS[0], "")
    order = rng.permutation(n)
    return render(factors.iloc[order].reset_index(drop=True), size, rng)


def some_of(members: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Indices of a random ``share`` of the rows where ``members`` (n,) is True."""
    found = rng.permutation(np.flatnonzero(members))
    return found[: round(share * len(found))]


def random_scenes(n: int, *, size: int = 24, seed: int = 0, rate: float = 0.15) -> Split:
    """Scenes in which class, colours and all of `FEATURES` are independent of each other.

    Each feature appears with probability ``rate``; the tag sits in any corner. No study is made
    of these: they teach the small CLIP what the words mean (`captions`).
    """
    rng = np.random.default_rng([seed, 102])
    factors = draw_factors(rng.integers(len(CLASS_NAMES), size=n), rng)
    for name in FEATURES:
        factors[f"feature_{name}"] = rng.random(n) < rate
    corner = rng.choice(CORNERS, n)
    factors["tag_corner"] = np.where(factors["feature_tag"], corner, "")
    return render(factors, size, rng)


def draw_factors(labels: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Everything but the features: one row per image, each factor independent of the class."""
    n = len(labels)
    return pd.DataFrame(
        {
            "label": labels,
            "class_name": np.array(CLASS_NAMES)[labels],
            "background_color": balanced(list(BACKGROUND_COLORS), labels, rng),
            "object_color": balanced(list(OBJECT_COLORS), labels, rng),
            "contrast": rng.uniform(*RANGES["contrast"], n),
            "x": rng.uniform(*RANGES["x"], n),
            "y": rng.uniform(*RANGES["y"], n),
            "scale": rng.uniform(*RANGES["scale"], n),
            "angle": rng.uniform(*RANGES["angle"], n),
            "mirrored": rng.random(n) < 0.5,
            "light": rng.uniform(*RANGES["light"], n),
        }
    )


def balanced(values: list[str], labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each value equally often within each class, in random order: no chance association."""
    drawn = np.empty(len(labels), dtype=object)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        drawn[members] = np.array(values)[rng.permutation(len(members)) % len(values)]
    return drawn


def render(factors: pd.DataFrame, size: int, rng: np.random.Generator) -> Split:
    """Draw the rows of ``factors``; features are laid over the scene, strengths at default."""
    canvas, foreground = objects(factors, size, rng)
    for name in FEATURES:
        if name != "tag":
            add_to_some(canvas, name, factors[f"feature_{name}"].to_numpy(), rng)
    return with_tags(canvas, factors, foreground)


def objects(
    factors: pd.DataFrame, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Scenes without features, (n, size, size, 3), and how much of each pixel is object."""
    canvas = backgrounds(factors, size, rng)
    foreground = np.stack([object_mask(row, size) for row in factors.itertuples()])
    colors = np.array([OBJECT_COLORS[c] for c in factors["object_color"]], np.float32)
    opacity = foreground * factors["contrast"].to_numpy(np.float32)[:, None, None]
    canvas += opacity[..., None] * (colors[:, None, None] - canvas)
    canvas += rng.normal(0, 5, canvas.shape).astype(np.float32)
    return canvas, foreground


def with_tags(canvas: np.ndarray, factors: pd.DataFrame, foreground: np.ndarray) -> Split:
    tagged = np.flatnonzero(factors["tag_corner"] != "")
    corners = [CORNERS.index(c) for c in factors["tag_corner"].iloc[tagged]]
    patch, side = canvas[tagged], KINDS["tag"].default
    draw_tag(patch, *corner_position(patch, np.array(corners, int), side), side)
    canvas[tagged] = patch
    images = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Split(images, factors["label"].to_numpy(np.int64), factors, foreground > 0.5)


def add_to_some(canvas: np.ndarray, name: str, chosen: np.ndarray, rng) -> None:
    rows = np.flatnonzero(chosen)
    if len(rows):
        part = canvas[rows]
        KINDS[name]().paint(part, KINDS[name].default, rng, Around())
        canvas[rows] = part


def factor_levels(n: int) -> dict[str, list]:
    """The values of each drawing factor: all there are, or ``n`` from end to end of its range.

    The light comes from ``n`` sides. A tag is drawn where ``tag_corner`` says, nowhere for "".
    """
    found = {"background_color": list(BACKGROUND_COLORS), "object_color": list(OBJECT_COLORS)}
    for name, (low, high) in RANGES.items():
        found[name] = np.linspace(low, high, n, endpoint=name != "light").tolist()
    found |= {"mirrored": [False, True], "tag_corner": ["", *CORNERS]}
    others = [name for name in FEATURES if name != "tag"]
    return found | {f"feature_{name}": [False, True] for name in others}


def with_level(factors: pd.DataFrame, name: str, level: Any) -> pd.DataFrame:
    """The same scenes with one factor at one level in all of them."""
    changed = factors.assign(**{name: level})
    return changed.assign(feature_tag=changed["tag_corner"] != "")


def redraw(factors: pd.DataFrame, size: int, *, seed: int = 0) -> Split:
    """Draw the rows of ``factors`` so that a change of one factor changes nothing else.

    Noise, blotches and the places of every feature come from random numbers of their own, drawn for
    all rows whether they carry it or not; `render` draws for those that do.
    """
    canvas, foreground = objects(factors, size, np.random.default_rng([seed, 104]))
    for place, name in enumerate(FEATURES):
        chosen = factors[f"feature_{name}"].to_numpy(bool)
        if name != "tag" and chosen.any():
            painted = canvas.copy()
            KINDS[name]().paint(
                painted, KINDS[name].default, np.random.default_rng([seed, 105, place]), Around()
            )
            canvas[chosen] = painted[chosen]
    return with_tags(canvas, factors, foreground)


def crossed_factors(
    n: int, *, features: Sequence[str] = (), rate: float = 0.25, seed: int = 0
) -> pd.DataFrame:
    """Drawing factors of ``n`` scenes, class and ``features`` too, all independent of each other.

    Each feature appears with probability ``rate``; where the tag is one, it is in any of the four
    corners or in none, equally often.
    """
    rng = np.random.default_rng([seed, 106])
    factors = draw_factors(rng.integers(len(CLASS_NAMES), size=n), rng)
    for name in FEATURES:
        factors[f"feature_{name}"] = (rng.random(n) < rate) & (name in features)
    corner = rng.choice(["", *CORNERS], n) if "tag" in features else ""
    return with_level(factors, "tag_corner", corner)


def backgrounds(factors: pd.DataFrame, size: int, rng: np.random.Generator) -> np.ndarray:
    """A colour lit from one side, with soft blotches: (n, size, size, 3) float32."""
    n = len(factors)
    base = np.array([BACKGROUND_COLORS[c] for c in factors["background_color"]], np.float32)
    grid = np.linspace(-1, 1, size, dtype=np.float32)
    light = factors["light"].to_numpy(np.float32)[:, None, None]
    slope = np.cos(light) * grid[None, None, :] + np.sin(light) * grid[None, :, None]
    coarse = rng.normal(0, 1, (n, 5, 5)).astype(np.float32)
    at = np.linspace(0, 4, size)
    low = np.minimum(at.astype(int), 3)
    part = (at - low).astype(np.float32)
    rows = coarse[:, low] * (1 - part)[:, None] + coarse[:, low + 1] * part[:, None]
    blotches = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
    shade = 18 * slope + 10 * blotches
    return base[:, None, None] + shade[..., None]


def object_mask(row, size: int) -> np.ndarray:
    """How much of each pixel the object covers, (size, size) float32 in [0, 1]."""
    wide = size * SUPERSAMPLING
    picture = Image.new("L", (wide, wide), 0)
    pen = ImageDraw.Draw(picture)
    shape = SILHOUETTES[row.class_name]
    turn = np.deg2rad(row.angle)
    rotate = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    for points, fill in shape:
        flip = np.array([-1 if row.mirrored else 1, 1])
        placed = (points * flip) @ rotate.T * row.scale + np.array([row.x, row.y])
        pen.polygon([tuple(p) for p in placed * wide], fill=fill)
    blocks = np.asarray(picture, np.float32).reshape(size, SUPERSAMPLING, size, SUPERSAMPLING)
    return blocks.mean(axis=(1, 3)) / 255


def ellipse(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


# Polygons in a unit box around the origin, y down, with the share of light (0-255) they are
# painted with; later ones lie on top, so that windows and eyes cut holes.
SILHOUETTES: dict[str, list[tuple[np.ndarray, int]]] = {
    "boat": [
        (np.array([[-0.5, 0.15], [0.5, 0.15], [0.3, 0.42], [-0.3, 0.42]]), 255),
        (np.array([[-0.04, 0.15], [-0.04, -0.5], [0.02, -0.5], [0.02, 0.15]]), 255),
        (np.array([[0.05, -0.48], [0.42, 0.08], [0.05, 0.08]]), 230),
        (np.array([[-0.07, -0.3], [-0.36, 0.08], [-0.07, 0.08]]), 230),
    ],
    "fish": [
        (ellipse(-0.08, 0, 0.38, 0.24), 255),
        (np.array([[0.2, 0.0], [0.5, -0.25], [0.44, 0.0], [0.5, 0.25]]), 255),
        (np.array([[-0.15, -0.2], [0.05, -0.36], [0.12, -0.18]]), 240),
        (ellipse(-0.28, -0.06, 0.05, 0.05), 0),
    ],
    "house": [
        (np.array([[-0.36, -0.05], [0.36, -0.05], [0.36, 0.45], [-0.36, 0.45]]), 240),
        (np.array([[-0.46, -0.03], [0.0, -0.46], [0.46, -0.03]]), 255),
        (np.array([[-0.07, 0.18], [0.1, 0.18], [0.1, 0.45], [-0.07, 0.45]]), 40),
        (np.array([[-0.28, 0.06], [-0.14, 0.06], [-0.14, 0.2], [-0.28, 0.2]]), 40),
        (np.array([[0.17, 0.06], [0.29, 0.06], [0.29, 0.2], [0.17, 0.2]]), 40),
    ],
}
