"""What a datamodel and a residual are, to play with: real arrays of a run, in Jupyter and in pages.

`touch` lets a reader take training images in and out of a mask, and holds what a datamodel predicts
against models that were trained on such masks. `arrows` shows what remains of one datamodel when
the other's part is taken away.
"""

from __future__ import annotations

from collections.abc import Sequence

import anywidget
import numpy as np
import traitlets

from mdhelpers.data.datasets import Split
from mdhelpers.method.comparison import COMPARISONS, normalise_rows, residual_datamodels
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import DATA
from mdhelpers.show.explorer import listed, short, sprite_sheet
from mdhelpers.show.style import comparison_label
from mdhelpers.show.views import CSS, esm
from mdhelpers.stages.comparison import StudyComparison
from mdhelpers.stages.data import read_data
from mdhelpers.stages.datamodels import StudyFits
from mdhelpers.stages.models import StudyModels

N_TOUCHED = 8  # training images of an algorithm that can be taken in and out
N_REMAIN = 6  # training images of the largest weight in what remains
N_ANGLES = 9  # test images whose arrows are shown
N_SORTED = 14  # test images along a direction


class Play(anywidget.AnyWidget):
    """One of the two toys; make it with `touch` or `arrows`."""

    _esm = esm("play")
    _css = CSS

    kind = traitlets.Enum(("touch", "arrows"), "touch").tag(sync=True)
    example = traitlets.Int(0).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    examples = traitlets.List().tag(sync=True)
    sorted = traitlets.List().tag(sync=True)
    test = traitlets.Dict().tag(sync=True)
    train = traitlets.Dict().tag(sync=True)


def touch(models: StudyModels, fits: StudyFits, *, relative: bool, n_examples: int = 4) -> Play:
    """Training images to take in and out of a mask, with predicted and found outputs.

    Parameters
    ----------
    models
        Of stage 02. Only held-out models are shown, on which no datamodel was fitted.
    fits
        Of stage 03.
    relative
        Whether datamodels predict margins relative to the mean of their class.
    n_examples
        Test images to choose from: those that are predicted best, of different classes first.
    """
    heldout = [models.heldout(a) for a in (1, 2)]
    outputs = [models.outputs(each, relative) for each in heldout]
    weights = [fit.weights for fit in fits.datamodels]
    data, examples, used = models.dataset, [], []
    for index in well_predicted(fits, data.test.labels, n_examples):
        largest = [np.argsort(-np.abs(w[index]), kind="stable")[:N_TOUCHED] for w in weights]
        pictures = list(dict.fromkeys(np.concatenate(largest).tolist()))
        pictures.sort(key=lambda i, at=index: -float(weights[0][at, i]))
        used += pictures
        examples.append(
            {
                "test": int(index),
                "train": pictures,
                "share": models.plan.alpha,
                "weights": [listed(w[index, pictures]) for w in weights],
                "masks": [words(each.masks[:, pictures]) for each in heldout],
                "outputs": [listed(each[:, index]) for each in outputs],
            }
        )
    return Play(
        kind="touch",
        examples=examples,
        test=tiles(data.test, [each["test"] for each in examples]),
        train=tiles(data.train, used),
        names=list(models.names),
        class_names=list(data.class_names),
    )


def arrows_of(run: Run, compared: StudyComparison) -> Play | str:
    """`arrows` of a run, or a sentence where its scores came without images."""
    if not run.manifest(DATA):
        return "These scores came without images: there is nothing to draw beside the arrows."
    data = read_data(run)
    return arrows(compared, data.train, data.test, data.class_names, names=run.names)


def arrows(
    compared: StudyComparison, train: Split, test: Split, class_names, *, names: Sequence[str]
) -> Play:
    """Both datamodels of a test image as arrows, what remains, and test images along directions.

    Parameters
    ----------
    compared
        Of stage 04.
    train, test
        The images.
    class_names, names
        What classes and algorithms are called.
    """
    one, two = (normalise_rows(d.weights) for d in compared.datamodels)
    remains = residual_datamodels(one, two), residual_datamodels(two, one)
    cosines = compared.comparison.cosines
    known = np.flatnonzero(~compared.comparison.left_out)
    ranked = known[np.argsort(cosines[known], kind="stable")]
    chosen = ranked[np.linspace(0, len(ranked) - 1, min(N_ANGLES, len(ranked))).astype(int)]
    examples, used, along = [], [], []
    for index in chosen:
        rest = [np.argsort(-r[index], kind="stable")[:N_REMAIN].tolist() for r in remains]
        used += rest[0] + rest[1]
        examples.append({"test": int(index), "cosine": short(cosines[index]), "rest": rest})
    for name in COMPARISONS:
        found = compared.comparison[name]
        for direction, projection in zip(found.component[:3], found.projections.T, strict=False):
            order = np.argsort(projection, kind="stable")
            places = np.linspace(0, len(order) - 1, min(N_SORTED, len(order))).astype(int)
            label = f"{comparison_label(name, names)} #{direction}"
            along.append({"label": label, "comparison": name, "test": order[places].tolist()})
    shown = [each["test"] for each in examples] + [i for each in along for i in each["test"]]
    return Play(
        kind="arrows",
        examples=examples,
        sorted=along,
        test=tiles(test, shown),
        train=tiles(train, used),
        names=[str(name) for name in names],
        class_names=[str(name) for name in class_names],
    )


def well_predicted(fits: StudyFits, labels: np.ndarray, n: int) -> list[int]:
    """Test images whose outputs are predicted best under both algorithms, of each class in turn."""
    grades = np.min([np.nan_to_num(score.per_example) for score in fits.lds], axis=0)
    order = np.argsort(-grades, kind="stable")
    turn = {index: (labels[order[:at]] == labels[index]).sum() for at, index in enumerate(order)}
    return sorted(order.tolist(), key=lambda index: turn[index])[:n]


def tiles(split: Split, index: Sequence[int]) -> dict:
    """The sheet of some images, with their numbers and labels."""
    index = np.unique(np.asarray(index, int))
    labels = np.asarray(split.labels)[index]
    sheet = sprite_sheet(split.images[index])
    return {"sheet": sheet, "index": index.tolist(), "labels": labels.tolist()}


def words(masks: np.ndarray) -> list[str]:
    """Masks (n_models, k) as texts of ones and zeros."""
    return ["".join("01"[int(held)] for held in mask) for mask in masks]
