"""A finished comparison to click through, in Jupyter and in the book's pages without a kernel.

Everything the view needs lies in the widget's traits when it is made: numbers as plain lists and
the images of each split as tiles of one sheet. Nothing is computed here but the order of images
along a direction and of training images by weight.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import anywidget
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.show.style import DEFAULT_NAMES, use_word
from mdhelpers.stages.effects import sentence

_HERE = Path(__file__).parent
_ENDS = ("top", "bottom")
_N_CONTRAST = 8  # random images of the same classes
_N_NEIGHBOURS = 6  # training images an algorithm
_N_CAPTIONS = 5
_LARGEST_TILE = 64  # pixels; larger images are shrunk, for the page's sake


class Explorer(anywidget.AnyWidget):
    """The view of one comparison; make it with `explorer`.

    Attributes
    ----------
    comparison : {"1_minus_2", "2_minus_1"}
    direction : int
        The number of its component, as in the tables.
    end : {"top", "bottom"}
    example : int
        Index of the test image whose training images are shown; -1 for the first in view.
    reveal : bool
        Whether the planted features are shown, where they are known.
    """

    _esm = _HERE / "explorer.js"
    _css = _HERE / "explorer.css"

    comparison = traitlets.Enum(COMPARISONS, COMPARISONS[0]).tag(sync=True)
    direction = traitlets.Int(1).tag(sync=True)
    end = traitlets.Enum(_ENDS, _ENDS[0]).tag(sync=True)
    example = traitlets.Int(-1).tag(sync=True)
    reveal = traitlets.Bool(False).tag(sync=True)

    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    features = traitlets.List(traitlets.Unicode()).tag(sync=True)
    comparisons = traitlets.Dict().tag(sync=True)
    test = traitlets.Dict().tag(sync=True)
    train = traitlets.Dict().tag(sync=True)

    @traitlets.validate("direction")
    def _direction_exists(self, proposal):
        known = {each["number"] for found in self.comparisons.values() for each in found}
        if known and proposal["value"] not in known:
            raise traitlets.TraitError(
                f"direction is {proposal['value']}; expected one of {sorted(known)}."
            )
        return proposal["value"]


def explorer(
    comparison,
    datamodels_1,
    datamodels_2,
    train_split,
    test_split,
    class_names,
    *,
    names=DEFAULT_NAMES,
    captions: pd.DataFrame | None = None,
    grades: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
    gaps: pd.DataFrame | None = None,
    uses: pd.DataFrame | None = None,
    findings: pd.DataFrame | None = None,
    top_k: int | None = None,
    seed: int = 0,
) -> Explorer:
    """Gather a finished comparison into one widget.

    Parameters
    ----------
    comparison : Comparison
    datamodels_1, datamodels_2 : Datamodels
        With `weights` of shape (n_test, n_train).
    train_split, test_split : Split
        With `images` (n, height, width, 3) uint8 and `labels` (n,). Images above 64 pixels are
        shrunk to that and compressed.
    class_names : sequence of str
    names : pair of str
        What to call algorithms 1 and 2.
    captions : DataFrame, optional
        Columns comparison, direction (number of its component), caption, score, and perhaps end.
    grades : DataFrame, optional
        Columns comparison, direction, end, feature, auc_within_class.
    gaps, uses : DataFrame, optional
        Evidence for each direction and who uses its subpopulations, as
        :class:`mdhelpers.stages.comparison.StudyComparison` has them.
    findings : DataFrame, optional
        What imitates the ends of directions and the verdict on it, as
        :func:`mdhelpers.stages.effects.read_findings` has them.
    truth : DataFrame, optional
        One bool column a planted feature, a row a test image. Shown behind a tick only.
    top_k : int, optional
        Images at either end of a direction; by default 16, or half of the test images if fewer.
    seed : int
        Of the random images shown for contrast.

    Returns
    -------
    Explorer

    Raises
    ------
    ValueError
        If shapes disagree, a label has no name, or `top_k` is not in 1..n_test.
    """
    if top_k is None:
        top_k = min(16, max(1, len(test_split.labels) // 2))
    weights = [np.asarray(datamodels.weights) for datamodels in (datamodels_1, datamodels_2)]
    _check(comparison, weights, train_split, test_split, class_names, truth, top_k)
    labels = np.asarray(test_split.labels)
    comparisons = {name: _directions(comparison[name], labels, top_k, seed) for name in COMPARISONS}
    for name, directions in comparisons.items():
        _add_captions(directions, _rows(captions, name))
        _add_grades(directions, _rows(grades, name))
        _add_evidence(directions, _rows(gaps, name), _rows(uses, name), name, names, class_names)
        _add_verdicts(directions, _rows(findings, name), names)
    shown = _shown(comparisons)
    neighbours = [_neighbours(w[shown]) for w in weights]
    used = np.unique(np.concatenate([n["index"] for n in neighbours]))
    features = [] if truth is None else [str(c) for c in truth]
    present = [[]] * len(shown) if truth is None else _present(truth.to_numpy(bool)[shown])
    return Explorer(
        comparisons=comparisons,
        direction=comparisons[COMPARISONS[0]][0]["number"],
        test={
            **_sheet(test_split, shown),
            "neighbours": [_listed(n) for n in neighbours],
            "features": present,
        },
        train=_sheet(train_split, used),
        names=[str(n) for n in names],
        class_names=[str(n) for n in class_names],
        features=features,
    )


def sprite_sheet(images: np.ndarray) -> dict:
    """Images as tiles of one picture that a page can carry.

    Parameters
    ----------
    images : array, shape (n, height, width, 3), uint8

    Returns
    -------
    dict
        url (a data URL: PNG, bit for bit, or JPEG where images had to be shrunk), columns, rows,
        height, width (of a tile, pixels). Tiles run row by row.
    """
    tiles, mime = np.asarray(images), "png"
    if max(tiles.shape[1:3]) > _LARGEST_TILE:
        tiles, mime = np.stack([_shrunk(image) for image in tiles]), "jpeg"
    n, height, width, _ = tiles.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, height, width, 3), np.uint8)
    canvas[:n] = tiles
    canvas = canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    buffer = io.BytesIO()
    sheet = Image.fromarray(canvas.reshape(rows * height, columns * width, 3))
    sheet.save(buffer, mime, optimize=True)
    url = f"data:image/{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"url": url, "columns": columns, "rows": rows, "height": height, "width": width}


def _check(comparison, weights, train_split, test_split, class_names, truth, top_k) -> None:
    n_test, n_train = len(test_split.labels), len(train_split.labels)
    for number, w in enumerate(weights, start=1):
        if w.shape != (n_test, n_train):
            raise ValueError(
                f"datamodels_{number} has weights of shape {w.shape}; expected "
                f"(n_test, n_train) = {(n_test, n_train)}, as the splits have."
            )
    for name in COMPARISONS:
        shape = np.shape(comparison[name].projections)
        if len(shape) != 2 or shape[0] != n_test or shape[1] < 1:
            raise ValueError(
                f"The projections of {name} have shape {shape}; expected ({n_test}, k), "
                "a row a test image: was the comparison made on this test split?"
            )
    if truth is not None and len(truth) != n_test:
        raise ValueError(f"truth has {len(truth)} rows; expected {n_test}, one a test image.")
    last = max(int(np.max(split.labels)) for split in (train_split, test_split))
    if last >= len(class_names):
        raise ValueError(f"Label {last} has no name: class_names holds {len(class_names)}.")
    if not 1 <= top_k <= n_test:
        raise ValueError(f"top_k is {top_k}; expected 1 to {n_test}, the test images there are.")


def _directions(direction_set, labels, top_k: int, seed: int) -> list[dict]:
    """Each direction's figures, and the test images at its ends, outermost first."""
    directions = []
    explained = np.asarray(direction_set.explained_variance)
    for position, projection in enumerate(np.asarray(direction_set.projections).T):
        ends = {
            end: np.argsort(sign * projection, kind="stable")[:top_k]
            for end, sign in zip(_ENDS, (-1, 1), strict=True)
        }
        directions.append(
            {
                "number": int(direction_set.component[position]),
                "explained": _listed(100 * explained[position]),
                "images": {end: _listed(index) for end, index in ends.items()},
                "projections": {end: _listed(projection[i]) for end, i in ends.items()},
                "contrast": {
                    end: _listed(random_same_class(labels, i, _N_CONTRAST, seed=seed))
                    for end, i in ends.items()
                },
                "captions": {end: [] for end in _ENDS},
                "grades": {end: {} for end in _ENDS},
                "evidence": "",
                "uses": {end: [] for end in _ENDS},
                "verdict": dict.fromkeys(_ENDS, ""),
                "finding": dict.fromkeys(_ENDS, False),
            }
        )
    return directions


def _rows(frame: pd.DataFrame | None, name: str) -> pd.DataFrame:
    return pd.DataFrame() if frame is None else frame[frame["comparison"] == name]


def _add_captions(directions: list[dict], captions: pd.DataFrame) -> None:
    for direction in directions:
        for end in _ENDS if len(captions) else ():
            rows = captions[captions["direction"] == direction["number"]]
            rows = rows[rows["end"] == end] if "end" in rows else rows
            best = rows.nlargest(_N_CAPTIONS, "score")
            scores = _listed(best["score"].to_numpy())
            direction["captions"][end] = [
                list(p) for p in zip(best["caption"], scores, strict=True)
            ]


def _add_grades(directions: list[dict], grades: pd.DataFrame) -> None:
    by_number = {direction["number"]: direction for direction in directions}
    for row in grades.to_dict("records"):
        if np.isfinite(row["auc_within_class"]) and row["direction"] in by_number:
            here = by_number[row["direction"]]["grades"][row["end"]]
            here[row["feature"]] = round(float(row["auc_within_class"]), 3)


def _add_evidence(directions, gaps, uses, comparison, names, class_names) -> None:
    """The words for the evidence, and a line for each class that makes up an end.

    Of evidence from gradients it is said whether retraining confirms it.
    """
    words = {}
    if "evidence" in gaps:
        said = gaps["evidence"]
        if "confirmed" in gaps:
            said = said + ", " + gaps["confirmed"] + " by retraining"
        words = dict(zip(gaps["direction"], said, strict=True))
    by_number = {direction["number"]: direction for direction in directions}
    for number, direction in by_number.items():
        direction["evidence"] = words.get(number, "")
    for row in uses.itertuples() if "times" in uses else ():
        if row.direction in by_number:
            line = f"{class_names[row.label]}: {use_word(row.use, comparison, names)}"
            if row.use not in ("too_few", "other_images") and np.isfinite(row.times):
                most = f"{row.times_high:.1f}" if np.isfinite(row.times_high) else "more"
                line += f" (× {row.times:.1f}; {row.times_low:.1f} to {most})"
            by_number[row.direction]["uses"][row.end].append(line)


def _add_verdicts(directions: list[dict], findings: pd.DataFrame, names) -> None:
    """What imitates an end, and what adding it to images shows."""
    by_number = {direction["number"]: direction for direction in directions}
    for row in findings.to_dict("records"):
        here = by_number.get(row["direction"])
        if here and row["outcome"]:
            here["verdict"][row["end"]] = sentence(row, names)
            here["finding"][row["end"]] = bool(row["finding"])


def _shown(comparisons: dict) -> np.ndarray:
    """Indices of all test images that some view shows, sorted."""
    return np.unique(
        [
            index
            for directions in comparisons.values()
            for direction in directions
            for end in _ENDS
            for index in direction["images"][end] + direction["contrast"][end]
        ]
    )


def _neighbours(weights) -> dict[str, np.ndarray]:
    """Training images of the largest weight, for each row."""
    index = np.argsort(-weights, axis=1, kind="stable")[:, :_N_NEIGHBOURS]
    return {"index": index, "weight": np.take_along_axis(weights, index, axis=1)}


def _present(truth: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in truth]


def _sheet(split, index: np.ndarray) -> dict:
    """The sheet of some of a split's images, with what the view says about each tile."""
    labels = _listed(np.asarray(split.labels)[index])
    return {**sprite_sheet(split.images[index]), "index": _listed(index), "labels": labels}


def _shrunk(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    scale = _LARGEST_TILE / max(picture.size)
    return np.asarray(picture.resize([max(1, round(s * scale)) for s in picture.size], Image.BOX))


def _listed(values):
    """Plain lists for JSON; four significant digits are enough for a screen."""
    if isinstance(values, dict):
        return {key: _listed(value) for key, value in values.items()}
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return [[_short(v) for v in row] if np.ndim(row) else _short(row) for row in values]
    return values.tolist()


def _short(value) -> float:
    return float(f"{value:.4g}")
