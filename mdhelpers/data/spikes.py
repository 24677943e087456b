"""A positive control: a feature of known strength, put into some images of any data set.

Where a study of one's own photographs finds nothing, there may be nothing, or it may not see it. A
feature that is *spiked in*, as a known amount is added to a sample in a laboratory, tells the two
apart: it is as strong as one says, and who carries it is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import model_validator

from mdhelpers.base.specs import Positive, Share, Spec, unknown_word
from mdhelpers.data.transforms import AnyTransformation, Around, transform_images

if TYPE_CHECKING:
    from mdhelpers.data.datasets import Dataset, Split

FEWEST = 2  # carriers in either part: one image is no feature
KEY = 107


class Spike(Spec):
    """A ``transformation`` that ``share`` of one class's images carry, in training and in test.

    ``target_class`` may be given as ``class``; ``intensity`` is in the transformation's own unit,
    its usual one where none is given.
    """

    transformation: AnyTransformation
    target_class: str
    share: Share = 0.1
    intensity: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _class_is_a_word_of_its_own(cls, given: Any) -> Any:
        if isinstance(given, dict) and "class" in given and "target_class" not in given:
            given = given | {"target_class": given["class"]}
            del given["class"]
        return given

    @property
    def name(self) -> str:
        return self.transformation.name

    @property
    def strength(self) -> float:
        return self.intensity or self.transformation.default


def check_spikes(spikes: Sequence[Spike], classes: Sequence[str]) -> None:
    """Refuse one feature twice in a class, and unknown classes where ``classes`` are known."""
    given = [(spike.name, spike.target_class) for spike in spikes]
    if twice := [pair for pair in given if given.count(pair) > 1]:
        raise ValueError(f"spike_in: {' in '.join(twice[0])} is given twice; give one of them")
    for spike in spikes:
        if classes and spike.target_class not in classes:
            raise ValueError(f"spike_in: {unknown_word(spike.target_class, classes, 'class')}")


def spike_in(data: Dataset, spikes: Sequence[Spike], *, seed: int = 0) -> Dataset:
    """Put each feature into a share of its class's images.

    Parameters
    ----------
    data : Dataset
        Any; it is left as it is.
    spikes : sequence of Spike
        Carried out in turn.
    seed : int
        Draws the carriers of either part, and the places of what is drawn.

    Returns
    -------
    Dataset
        With a bool column ``feature_NAME`` in the metadata of both parts, True for carriers, by
        which every stage knows the truth.

    Raises
    ------
    ValueError
        For an unknown class, fewer than two carriers in either part, and what cannot be drawn.
    """
    check_spikes(spikes, data.class_names)
    parts = [
        _spiked(part, data.class_names, spikes, np.random.default_rng([seed, KEY, k]), name)
        for k, (name, part) in enumerate({"training": data.train, "test": data.test}.items())
    ]
    return type(data).build(data.name, *parts, data.class_names)


def _spiked(part: Split, classes, spikes, rng: np.random.Generator, name: str) -> Split:
    images, metadata = part.images.copy(), part.metadata.copy()
    for spike in spikes:
        members = np.flatnonzero(part.labels == classes.index(spike.target_class))
        n = round(spike.share * len(members))
        if n < FEWEST:
            raise ValueError(
                f"spike_in: a share of {spike.share} of the {len(members)} {name} images of "
                f"{spike.target_class!r} is {n}; at least {FEWEST} must carry it. Give a larger "
                f"share (from {FEWEST / max(len(members), FEWEST):.2g} on), or more images"
            )
        rows = np.sort(rng.choice(members, n, replace=False))
        masks = None if part.foreground is None else part.foreground[rows]
        around, place = Around(masks, part.labels[rows]), int(rng.integers(2**32))
        about = {"seed": place, "around": around}
        images[rows] = transform_images(spike.transformation, images[rows], spike.strength, **about)
        column = f"feature_{spike.name}"
        carries = metadata[column].to_numpy(bool) if column in metadata else False
        metadata[column] = carries | np.isin(np.arange(len(part)), rows)
    return replace(part, images=images, metadata=metadata)
