"""The page on transformations: every kind at several sizes, with its placebo, and a table."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from mdhelpers.data.drawings import DRAWN_AT
from mdhelpers.data.scenes import make_scenes
from mdhelpers.data.transform_kinds import Frame, OfParts, Overlay, Placed
from mdhelpers.data.transforms import (
    KINDS,
    Around,
    Transformation,
    placebo_images,
    transform_images,
)
from mdhelpers.show.style import label_text

SIZES = (24, 32, 224)
OF_ONES_OWN = ("patch", "pattern", "several")  # content that a user brings
FAMILIES = {
    "placed": (Placed, Frame),
    "overlays": (Overlay,),
    "objects": (OfParts,),
    "whole": (Transformation,),
}


def of_family(family: str) -> list[str]:
    """The words of one family's kinds; what belongs to a family before it is left out."""
    order = list(FAMILIES)
    found = []
    for word, kind in KINDS.items():
        first = next(name for name in order if issubclass(kind, FAMILIES[name]))
        if first == family and word not in OF_ONES_OWN:
            found.append(word)
    return found


def usual_dose(kind: type[Transformation], size: int) -> float:
    """A kind's usual intensity; patches of a few pixels are as large a part of any image."""
    in_pixels = kind.measured_in == "px"
    return kind.default * size / DRAWN_AT if in_pixels else kind.default


def gallery(family: str, _data: Any = None) -> tuple[Figure, str]:
    """Each kind of a family at its usual intensity, at three sizes, with the placebo beside it."""
    words = of_family(family)
    fig, axes = plt.subplots(
        len(words), 3 * len(SIZES), figsize=(9, 0.98 * len(words) + 0.5), squeeze=False
    )
    for block, size in enumerate(SIZES):
        test = make_scenes(n_train=3, n_test=12, size=size, seed=3).test
        around = Around(test.foreground, test.labels)
        for row, word in enumerate(words):
            dose = usual_dose(KINDS[word], size)
            after = transform_images(word, test.images, dose, seed=2, around=around)
            placebo = placebo_images(test.images, after, labels=test.labels, seed=2)
            given = {"as it is": test.images, "changed": after, "placebo": placebo}
            for column, (title, images) in enumerate(given.items()):
                ax = axes[row, 3 * block + column]
                ax.imshow(images[row % 12], interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                if row == 0:
                    ax.set_title(f"{size} px\n{title}" if column == 0 else f"\n{title}", size=9)
                if block == column == 0:
                    name = label_text(word.replace("_", " "), 20)
                    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    names = ", ".join(word.replace("_", " ") for word in words)
    sizes = ", ".join(map(str, SIZES[:-1])) + f" and {SIZES[-1]}"
    return fig, f"Generated scenes of {sizes} pixels, as they are, with {names}, and with placebos."


def kinds_rows() -> list[dict[str, Any]]:
    """Every kind: what it does, the unit of its intensity, its usual one, and its options."""
    rows = []
    for word, kind in KINDS.items():
        if word == "several":  # which a list of parts is
            continue
        options = [name for name in kind.model_fields if name not in ("kind", "at")]
        rows.append(
            {
                "kind": word,
                "what it does": kind.about or (kind.__doc__ or "").split(";")[0].split(".")[0],
                "intensity": kind.measured_in,
                "usual": kind.default,
                "options": ", ".join(options) or "–",
            }
        )
    return rows
