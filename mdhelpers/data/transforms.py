"""Feature transformations: what is done to images to see whether models mind.

A distinguishing transformation (Definition 2 of the paper) puts a feature into an image. Each kind
here has an intensity, so that a counterfactual can be run at several strengths (App. B.4), and is
seeded, so that both algorithms see the same transformed images. A study names one by a word, by a
mapping with the options of its kind, or as a list of parts that are carried out in turn:

    transformation: ring
    transformation: {kind: square, color: red, unit: "%", where: background}
    transformation: [{kind: grayscale, at: 100}, {kind: web, mode: add}]

Patches are measured in pixels or, with ``unit: "%"``, in per cent of the image's shorter side, so
that a study means the same at any size. What needs to know where the object is takes the data set's
foreground masks (`Around`).

Beside each transformation stands a *placebo*: a change of the same area and contrast with other
content (`placebo_images`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mdhelpers.base.records import content_digest, digest
from mdhelpers.base.specs import validate
from mdhelpers.data.transform_kinds import (
    KINDS,
    AnyTransformation,
    Around,
    Transformation,
    of_its_kind,
    others,
)

__all__ = ["KINDS", "AnyTransformation", "Around", "Transformation", "of_its_kind"]


def parse_transformation(given: Any) -> Transformation:
    """A transformation from a word, a mapping with its ``kind`` and options, or a list of parts.

    Raises
    ------
    ValueError
        For an unknown kind, with the nearest known one, and for faulty options.
    """
    if isinstance(given, Transformation):
        return given
    if isinstance(given, dict) and given.get("kind") in KINDS:
        return validate(KINDS[given["kind"]], given, "transformation")
    return of_its_kind(given)


def transform_images(
    transformation: Any,
    images: np.ndarray,
    intensity: float,
    *,
    seed: int = 0,
    around: Around | None = None,
) -> np.ndarray:
    """Put a feature into every image.

    Parameters
    ----------
    transformation
        What `parse_transformation` takes.
    images
        (n, H, W, 3) uint8.
    intensity
        Strength in the transformation's own unit (see `Transformation.intensity_unit`); 0 changes
        nothing.
    seed
        Seeds the random places and contents; the draws do not depend on the intensity.
    around
        Foreground masks and labels, for what needs them.

    Returns
    -------
    (n, H, W, 3) uint8

    Raises
    ------
    ValueError
        For an unknown kind, a negative intensity, images of another shape or dtype, and where
        masks are needed and not there.

    """
    found = parse_transformation(transformation)
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise ValueError(
            f"images must be (n, height, width, 3) uint8, got {images.shape} {images.dtype}"
        )
    if intensity < 0:
        raise ValueError(f"the intensity of {found.name!r} is {intensity}; it must be 0 or more")
    if intensity == 0:
        return images.copy()
    canvas = images.astype(np.float32)
    found.paint(canvas, intensity, np.random.default_rng(seed), around or Around())
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def placebo_images(
    images: np.ndarray, changed: np.ndarray, *, labels: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Images changed over the same area and by as much, with other content.

    Into a box as large as that which a transformation changes, at a random place, comes a piece of
    another image, of the same class where labels are given. It is mixed in as strongly as makes
    the mean squared change that of the transformation. What a model makes of it, it makes of any
    change of that size.

    Parameters
    ----------
    images, changed
        (n, H, W, 3) uint8, without and with a transformation.
    labels
        (n,) int.
    seed
        Of pieces and places.

    Returns
    -------
    (n, H, W, 3) uint8
    """
    rng, size = np.random.default_rng([seed, 11]), images.shape[1:3]
    chosen, found = others(len(images), labels, rng), images.astype(np.float32)
    change = np.square(changed.astype(np.float32) - images).sum(3)
    rows, columns = (change.max(axis=axis) > 0 for axis in (2, 1))
    for i in np.flatnonzero(rows.any(1)):
        box = [np.ptp(np.flatnonzero(each[i])) + 1 for each in (rows, columns)]
        room = [m - k + 1 for m, k in zip(size, box, strict=True)]
        here, there = (
            tuple(slice(at, at + k) for at, k in zip(rng.integers(room), box, strict=True))
            for _ in range(2)
        )
        piece = images[chosen[i]][there].astype(np.float32) - found[i][here]
        strength = (change[i].sum() / max(np.square(piece).sum(), 1)) ** 0.5
        found[i][here] += min(strength, MOST_STRENGTH) * piece
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


MOST_STRENGTH = 3.0  # to which the contrast of a piece is raised


def contents_of(transformations: Sequence[Transformation]) -> dict[str, str]:
    """A digest of the files that each transformation reads, by its name; none of most."""
    read = {each.name: each.reads() for each in transformations}
    named = {name: [(p.name, content_digest(p)) for p in paths] for name, paths in read.items()}
    return {name: digest(files)[:16] for name, files in named.items() if files}
