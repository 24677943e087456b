"""A finished comparison to click through, in Jupyter and in the book's pages without a kernel.

Everything the view needs lies in the widget's traits when it is made: numbers as plain lists or
packed arrays, and images as tiles of sheets. What is computed here is the order of training images
by weight; the view itself sorts, filters and draws.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import traitlets
from PIL import Image

from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.method.subpopulations import random_same_class
from mdhelpers.show.style import DEFAULT_NAMES, use_word
from mdhelpers.show.views import CSS, esm
from mdhelpers.stages.effects import sentence

_ENDS = ("top", "bottom")
_N_CONTRAST = 8  # random images of the same classes
_N_NEIGHBOURS = 6  # training images an algorithm, that help and that hurt
_N_CAPTIONS = 5
_LARGEST_TILE = 64  # pixels; larger images are shrunk, for the page's sake
_TILES_A_SHEET = 256
_FEW_TILES = 2048  # more of them are compressed
_MOST_TEST, _MOST_TRAIN = 10_000, 4_000  # images that a view carries


class Explorer(anywidget.AnyWidget):
    """The view of one comparison; make it with `explorer`.

    Attributes
    ----------
    tab : {"directions", "images", "tests"}
    comparison : {"1_minus_2", "2_minus_1"}
    direction : int
        The number of its component, as in the tables.
    end : {"top", "bottom"}
    example : int
        Index of the test image whose training images are shown; -1 for the first in view.
    trainee : int
        Index of the training image whose test images are shown; -1 for none.
    only : int
        The class whose test images are shown; -1 for all.
    order : str
        Of the images tab: "index", "class", "cosine", "difference" or "wrong".
    reveal : bool
        Whether the planted features are shown, where they are known.
    hypothesis, dose : int
        Which test is shown, and at which of its intensities; -1 for the largest.
    notes : str
        Whatever the reader writes.
    """

    _esm = esm("explorer")
    _css = CSS

    tab = traitlets.Enum(("directions", "images", "tests"), "directions").tag(sync=True)
    comparison = traitlets.Enum(COMPARISONS, COMPARISONS[0]).tag(sync=True)
    direction = traitlets.Int(1).tag(sync=True)
    end = traitlets.Enum(_ENDS, _ENDS[0]).tag(sync=True)
    example = traitlets.Int(-1).tag(sync=True)
    trainee = traitlets.Int(-1).tag(sync=True)
    only = traitlets.Int(-1).tag(sync=True)
    order = traitlets.Unicode("index").tag(sync=True)
    reveal = traitlets.Bool(False).tag(sync=True)
    hypothesis = traitlets.Int(0).tag(sync=True)
    dose = traitlets.Int(-1).tag(sync=True)
    notes = traitlets.Unicode("").tag(sync=True)

    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    features = traitlets.List(traitlets.Unicode()).tag(sync=True)
    top_k = traitlets.Int(16).tag(sync=True)
    comparisons = traitlets.Dict().tag(sync=True)
    test = traitlets.Dict().tag(sync=True)
    train = traitlets.Dict().tag(sync=True)
    hypotheses = traitlets.List().tag(sync=True)

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
    hypotheses: Sequence[Mapping[str, Any]] = (),
    right: np.ndarray | None = None,
    top_k: int | None = None,
    seed: int = 0,
) -> Explorer:
    """Gather a finished comparison into one widget.

    Of more than 10,000 test images those at the ends of directions are taken. Training images are
    those of the largest weights, at most 4,000; the first are those of images at the ends.

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
    hypotheses : sequence of mapping, optional
        What was tested, see :func:`mdhelpers.show.effects.hypothesis_views`.
    right : ndarray, shape (2, n_test), optional
        Share of each algorithm's models that are right about each test image, in 0..1.
    truth : DataFrame, optional
        One bool column per planted feature, a row per test image. Shown behind a tick only.
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
    outermost = _outermost(comparison, top_k)
    shown = np.arange(len(labels)) if len(labels) <= _MOST_TEST else np.sort(outermost)
    comparisons = {
        name: _directions(comparison[name], labels, shown, top_k, seed) for name in COMPARISONS
    }
    for name, directions in comparisons.items():
        _add_captions(directions, _rows(captions, name))
        _add_grades(directions, _rows(grades, name))
        _add_evidence(directions, _rows(gaps, name), _rows(uses, name), name, names, class_names)
        _add_verdicts(directions, _rows(findings, name), names)
    first = np.concatenate([outermost, np.setdiff1d(shown, outermost)])
    pulls = [_extremes(w, shown) for w in weights]
    used = _used(pulls, np.searchsorted(shown, first))
    moved = [_extremes(w[shown], used, columns=True) for w in weights]
    features = [] if truth is None else [str(c) for c in truth]
    present = [[]] * len(shown) if truth is None else _present(truth.to_numpy(bool)[shown])
    return Explorer(
        comparisons=comparisons,
        direction=comparisons[COMPARISONS[0]][0]["number"],
        test={
            **_sheets(test_split, shown),
            "pulls": _placed(pulls, used),
            "cosine": packed(_cosines(*(w[shown] for w in weights))),
            "right": [] if right is None else [packed(100 * share[shown]) for share in right],
            "features": present,
        },
        train={**_sheets(train_split, used), "pulls": _placed(moved)},
        names=[str(n) for n in names],
        class_names=[str(n) for n in class_names],
        features=features,
        hypotheses=list(hypotheses),
        top_k=top_k,
    )


def packed(values: np.ndarray) -> dict:
    """An array as JSON can hold it in little room: whole numbers as they are, others rounded.

    Parameters
    ----------
    values : ndarray
        Whole numbers, or floats; these are kept as 16-bit multiples of ``scale``, NaN as -32768.

    Returns
    -------
    dict
        ``type`` ("int16" or "int32"), ``shape``, ``scale`` and ``data``, base64, little-endian.
    """
    values, scale = np.asarray(values), 1.0
    kind = "int16"
    if values.dtype.kind == "f":
        largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
        scale = float(largest) / 32767 or 1.0
        values = np.where(np.isfinite(values), np.rint(values / scale), -32768)
    elif np.max(np.abs(values), initial=0) > 32767:
        kind = "int32"
    data = base64.b64encode(np.ascontiguousarray(values, np.dtype(kind).newbyteorder("<")))
    return {"type": kind, "shape": list(values.shape), "scale": scale, "data": data.decode()}


def sprite_sheet(images: np.ndarray, *, compress: bool = False) -> dict:
    """Images as tiles of one picture that a page can carry.

    Parameters
    ----------
    images : array, shape (n, height, width, 3), uint8
    compress : bool
        Whether a tenth of the bytes matters more than the last bit.

    Returns
    -------
    dict
        url (a data URL: PNG, bit for bit, or WebP where images had to be shrunk or compressed),
        columns, rows, count, height, width (of a tile, pixels). Tiles run row by row.
    """
    tiles = np.asarray(images)
    large = max(tiles.shape[1:3]) > _LARGEST_TILE
    if large:
        tiles = np.stack([_shrunk(image) for image in tiles])
    n, height, width, _ = tiles.shape
    columns = int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    canvas = np.zeros((rows * columns, height, width, 3), np.uint8)
    canvas[:n] = tiles
    canvas = canvas.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    sheet = Image.fromarray(canvas.reshape(rows * height, columns * width, 3))
    how = {"format": "webp", "quality": 85} if large or compress else {"format": "png"}
    with io.BytesIO() as buffer:
        sheet.save(buffer, **how, optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode()
    url = f"data:image/{how['format']};base64,{data}"
    size = {"height": height, "width": width}
    return {"url": url, "columns": columns, "rows": rows, "count": n, **size}


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
                "a row per test image: was the comparison made on this test split?"
            )
    if truth is not None and len(truth) != n_test:
        raise ValueError(f"truth has {len(truth)} rows; expected {n_test}, one per test image.")
    last = max(int(np.max(split.labels)) for split in (train_split, test_split))
    if last >= len(class_names):
        raise ValueError(f"Label {last} has no name: class_names holds {len(class_names)}.")
    if not 1 <= top_k <= n_test:
        raise ValueError(f"top_k is {top_k}; expected 1 to {n_test}, the test images there are.")


def _outermost(comparison, top_k: int) -> np.ndarray:
    """Test images at the ends of directions, those of the first directions first."""
    ends = [
        np.argsort(sign * projection, kind="stable")[:top_k]
        for name in COMPARISONS
        for projection in np.asarray(comparison[name].projections).T
        for sign in (-1, 1)
    ]
    return pd.unique(np.concatenate(ends))


def _directions(direction_set, labels, shown, top_k: int, seed: int) -> list[dict]:
    """Each direction's figures, and where the test images lie along it."""
    directions = []
    explained = np.asarray(direction_set.explained_variance)
    for position, projection in enumerate(np.asarray(direction_set.projections).T):
        ends = {
            end: np.argsort(sign * projection, kind="stable")[:top_k]
            for end, sign in zip(_ENDS, (-1, 1), strict=True)
        }
        others = {e: random_same_class(labels, i, _N_CONTRAST, seed=seed) for e, i in ends.items()}
        directions.append(
            {
                "number": int(direction_set.component[position]),
                "explained": listed(100 * explained[position]),
                "projections": packed(projection[shown]),
                "contrast": {end: listed(np.intersect1d(i, shown)) for end, i in others.items()},
                "captions": {end: [] for end in _ENDS},
                "grades": {end: {} for end in _ENDS},
                "evidence": "",
                "sure": 0,
                "gap": [],
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
            scores = listed(best["score"].to_numpy())
            direction["captions"][end] = [
                list(p) for p in zip(best["caption"], scores, strict=True)
            ]


def _add_grades(directions: list[dict], grades: pd.DataFrame) -> None:
    by_number = {direction["number"]: direction for direction in directions}
    for row in grades.to_dict("records"):
        if np.isfinite(row["auc_within_class"]) and row["direction"] in by_number:
            here = by_number[row["direction"]]["grades"][row["end"]]
            here[row["feature"]] = round(float(row["auc_within_class"]), 3)


_SURE = {"strong": 2, "weak": 1}


def _add_evidence(directions, gaps, uses, comparison, names, class_names) -> None:
    """The words for the evidence, and a line for each class that makes up an end.

    Of evidence from gradients it is said whether retraining confirms it.
    """
    words = {}
    by_number = {direction["number"]: direction for direction in directions}
    clean = "clean_" if "clean_gap" in gaps else ""  # without noise, where it could be told
    for row in gaps.to_dict("records") if "gap" in gaps else ():
        if here := by_number.get(row["direction"]):
            measured = [row[f"{clean}{key}"] for key in ("gap", "low", "high")]
            here["gap"] = [_percent(value) for value in (*measured, row["naive_gap"])]
            here["sure"] = _SURE.get(row.get("evidence"), 0)
    if "evidence" in gaps:
        said = gaps["evidence"]
        if "confirmed" in gaps:
            said = said + ", " + gaps["confirmed"] + " by retraining"
        words = dict(zip(gaps["direction"], said, strict=True))
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


def _cosines(one, two) -> np.ndarray:
    """Of the two datamodels of each test image; 0 where one of them is zero."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    products = np.einsum("ij,ij->i", one, two)
    return np.divide(products, lengths, out=np.zeros(len(one)), where=lengths > 0)


def _extremes(weights, chosen, *, columns: bool = False) -> dict[str, np.ndarray]:
    """What has the largest and the smallest weights in some rows (columns) of (n_test, n_train).

    Returns ``index`` and ``weight``, (n, 2, k): what raises most, and what lowers most.
    """
    found = {"index": [], "weight": []}
    k = min(_N_NEIGHBOURS, weights.shape[0 if columns else 1])
    for number in chosen:
        line = weights[:, number] if columns else weights[number]
        ends = []
        for sign in (-1, 1):
            near = np.argpartition(sign * line, k - 1)[:k]
            ends.append(near[np.argsort(sign * line[near], kind="stable")])
        found["index"].append(ends)
        found["weight"].append([line[end] for end in ends])
    return {key: np.array(value) for key, value in found.items()}


def _used(pulls: Sequence[dict], order: np.ndarray) -> np.ndarray:
    """Training images that a view shows, sorted: those of the first test images, up to a limit."""
    each = np.concatenate([p["index"][order].reshape(len(order), -1) for p in pulls], axis=1)
    return np.sort(pd.unique(each.ravel())[:_MOST_TRAIN])


def _placed(pulls: Sequence[dict], used: np.ndarray | None = None) -> dict:
    """Extremes of both algorithms, (2, n, 2, k), as places in the sheets, or ``-1``."""
    index = np.stack([p["index"] for p in pulls])
    if used is not None:
        places = np.clip(np.searchsorted(used, index), 0, len(used) - 1)
        index = np.where(used[places] == index, places, -1)
    return {"place": packed(index), "weight": packed(np.stack([p["weight"] for p in pulls]) * 1.0)}


def _present(truth: np.ndarray) -> list[list[int]]:
    return [np.flatnonzero(row).tolist() for row in truth]


def _sheets(split, index: np.ndarray) -> dict:
    """The sheets of some of a split's images, with what the view says about each tile."""
    parts = np.array_split(index, -(-len(index) // _TILES_A_SHEET))
    compress = len(index) > _FEW_TILES
    sheets = [sprite_sheet(split.images[part], compress=compress) for part in parts]
    labels = np.asarray(split.labels)[index]
    return {"sheets": sheets, "index": packed(index), "labels": packed(labels)}


def _shrunk(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image)
    scale = _LARGEST_TILE / max(picture.size)
    return np.asarray(picture.resize([max(1, round(s * scale)) for s in picture.size], Image.BOX))


def listed(values):
    """Plain lists for JSON; four significant digits are enough for a screen."""
    if isinstance(values, dict):
        return {key: listed(value) for key, value in values.items()}
    values = np.asarray(values)
    if values.dtype.kind == "f":
        return [[short(v) for v in row] if np.ndim(row) else short(row) for row in values]
    return values.tolist()


def _percent(value) -> float | None:
    return short(100 * value) if np.isfinite(value) else None


def short(value) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")
