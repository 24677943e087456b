"""Attribution scores made elsewhere, read as datamodels.

One reader a format: ModelDiff's and the datamodels release's ``.pt`` (:func:`read_pt`), TRAK's
``.mmap``, kronfluence's ``.safetensors``, and matrices of no maker in ``.npy`` (:func:`read_npy`).
Each turns what it reads to (n_test, n_train) and to the sign at which a positive score raises the
correct-class output, says in ``notes`` what it did and on whose word, and refuses what it cannot
tell. Nothing is unpickled but tensors.

Scores of TRAK and kronfluence, which estimate influence from gradients, are no regression weights:
there is no bias, and predictions from them are right up to a shift and a scale, which correlations
and the comparison of directions do not mind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from mdhelpers.base.arrays import load_pickled, open_npy, row_blocks
from mdhelpers.formats.own import load_datamodels
from mdhelpers.formats.score_checks import check_finite, resolve_orientation, un_standardise
from mdhelpers.method.datamodels import Datamodels

UNKNOWN = "unknown"
WORDS = ("orientation", "positive_means", "finalized", "standardised", "n_train")
FEW = 2**20  # numbers that may be told by repeating one
HELPS = "sign: a positive score raises the output"
ODD = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, OverflowError, MemoryError)
_SIGNS = {"helps": 1, "hurts": -1}
_SUMMED = ("aggregate_query_gradients", "aggregate_train_gradients")


def load_scores(
    path: str | Path,
    *,
    n_train: int | None = None,
    n_test: int | None = None,
    orientation: str | None = None,
    positive_means: str | None = None,
    standardised: bool | str | None = None,
    alpha: float | np.ndarray | None = None,
    finalized: bool | None = None,
) -> Datamodels:
    """Read attribution scores of any known format, for the comparison of stage 04.

    The comparison divides each row by its length, so it does not mind the units as long as all
    masks had the same alpha. Where they are not told, weights are left as they are, ``notes`` says
    so, and ``bias`` is NaN, so that nothing can be predicted with weights of unknown units.

    Parameters
    ----------
    path : str or Path
        ``.pt``, ``.pth``, ``.mmap``, ``.npy`` or ``.safetensors``, or the ``save_dir`` of TRAK.
    n_train, n_test : int, optional
        Sizes that the scores should have.
    orientation, positive_means, standardised, alpha, finalized
        What the file does not say, see its reader.

    Returns
    -------
    Datamodels
        With NaN ``lam`` where the file has none.

    Raises
    ------
    ValueError
        If the file is of no known format, or where its reader raises one.
    """
    said = {"orientation": orientation, "positive_means": positive_means}
    said |= {"standardised": standardised, "alpha": alpha, "finalized": finalized}
    said = {word: value for word, value in said.items() if value is not None}
    return _read(Path(path), said, n_train=n_train, n_test=n_test)


def scores_of_study(
    path: Path, said: dict, *, n_train: int | None = None, n_test: int | None = None
) -> Datamodels:
    """Scores as a study names them; a word that is missing is asked for by the study's own key."""
    try:
        return _read(path, said, n_train=n_train, n_test=n_test)
    except ValueError as error:
        told = any(word in str(error) for word in WORDS)
        how = " In a study such words stand under scores_options: {positive_means: helps}, say."
        raise ValueError(f"{error}{how if told else ''}") from error


def _read(path: Path, said: dict, *, n_train: int | None, n_test: int | None) -> Datamodels:
    """What a file holds, and what is ``said`` of it by the keywords of its reader."""
    if not path.exists():
        raise ValueError(f"{path} is not a file; expected attribution scores. Check the path.")
    reader, keywords = score_reader(path)
    if strange := sorted(set(said) - set(keywords)):
        raise ValueError(
            f"{strange} cannot be said of {path}; expected {keywords or 'nothing more'}."
        )
    if "standardised" in keywords:
        said = {"standardised": UNKNOWN} | said
    return reader(path, n_train=n_train, n_test=n_test, **said)


def score_reader(path: Path) -> tuple:
    """The function that reads a file, and what a user can tell it."""
    kronfluence = read_kronfluence, ("orientation", "positive_means")
    if path.is_dir() or path.suffix == ".mmap":
        return read_trak, ("orientation", "finalized")
    if path.suffix == ".npy":
        return read_npy, ("orientation", "positive_means", "standardised", "alpha")
    if path.suffix == ".safetensors":
        return (_read_own, ()) if "method" in read_metadata(path) else kronfluence
    if path.suffix not in (".pt", ".pth"):
        raise ValueError(
            f"{path} ends in {path.suffix!r}; expected .pt or .pth (ModelDiff, datamodels), .mmap "
            "(TRAK), .safetensors (kronfluence, or datamodels of this package) or .npy."
        )
    if "all_modules" in read_tensors(path):
        return kronfluence
    return read_pt, ("orientation", "standardised", "alpha")


def read_pt(
    path: str | Path,
    *,
    standardised: bool | str | None = None,
    alpha: float | np.ndarray | None = None,
    orientation: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Datamodels:
    """Read ``weight``, ``bias`` and ``lam`` as ModelDiff and the datamodels release keep them.

    Parameters
    ----------
    path : str or Path
        A dictionary of tensors, ``weight`` of shape (n_train, n_test).
    standardised : bool or "unknown", optional
        Whether masks were scaled to mean 0 and variance 1 for the fit, as fast_l1 does and leaves.
        Files of `mdhelpers.command.export.export_pt` say it themselves.
    alpha : float or ndarray, shape (n_train,), optional
        Share of the training set in a mask, needed to un-standardise; or, more exactly, the share
        of the models that saw each training example.
    orientation : {"train_test", "test_train"}, optional
        What a row and a column are, where the file is square or was turned.
    n_train, n_test : int, optional
        Sizes that the scores should have.

    Returns
    -------
    Datamodels
        In raw 0/1 mask units; zero ``bias`` and NaN ``lam`` where the file has none.

    Raises
    ------
    ValueError
        If the file holds code or no ``weight``, units or orientation cannot be told, its shape is
        not of the sizes given, or a score is not finite.
    """
    path = Path(path)
    content = read_tensors(path)
    if "weight" not in content:
        raise ValueError(
            f"{path} holds {sorted(map(str, content))}; expected a dictionary with the key "
            "'weight', a tensor of shape (n_train, n_test)."
        )
    standardised = _agreed(path, content, "standardised", standardised)
    alpha = _agreed(path, content, "alpha", alpha)
    matrix = to_matrix(path, "weight", content["weight"])
    said = orientation or ("train_test" if _noted(path, content, "train_test") else None)
    told = resolve_orientation(
        path, matrix.shape, maker="train_test", said=said, n_train=n_train, n_test=n_test
    )
    weights, note = turned(path, matrix, told)
    bias, lam = (_vector(path, content, name, len(weights)) for name in ("bias", "lam"))
    weights, bias, units = _to_raw_units(path, weights, bias, standardised, alpha)
    words = f"{HELPS}, as the maker writes it", "output: correct-class margin, as the maker says"
    return imported(weights, note, units, *words, bias=bias, lam=lam)


def read_npy(
    path: str | Path,
    *,
    positive_means: str | None = None,
    standardised: bool | str | None = None,
    alpha: float | np.ndarray | None = None,
    orientation: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Datamodels:
    """Read a matrix of scores that says nothing of itself, as `export_weights` writes.

    ``positive_means`` is "helps" or "hurts", the rest as for :func:`read_pt`; the orientation must
    be given, or follow from the sizes.
    """
    path = Path(path)
    matrix = open_npy(path, ("n_test", "n_train"))
    told = resolve_orientation(path, matrix.shape, said=orientation, n_train=n_train, n_test=n_test)
    sign, signed = sign_of(path, positive_means)
    weights, note = turned(path, matrix, told)
    weights *= sign
    weights, bias, units = _to_raw_units(path, weights, None, standardised, alpha)
    return imported(weights, note, units, signed, "output: not known", bias=bias)


def read_trak(
    path: str | Path,
    *,
    finalized: bool = False,
    orientation: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Datamodels:
    """Read TRAK's scores (Park et al., 2023), ``scores/<experiment>.mmap`` of its ``save_dir``.

    They estimate influence on the label's logit less the logsumexp of the others, where margins of
    this package take the largest other. Unfinished scores are refused, and those of other sizes
    than noted.

    Parameters
    ----------
    path : str or Path
        The ``.mmap`` file, or the ``save_dir`` where it holds one experiment.
    finalized : bool
        The user's word that ``finalize_scores`` of TRAK 0.2.1 or later ended. From 0.3.0 on,
        ``experiments.json`` says so itself.
    orientation : {"train_test", "test_train"}, optional
        Needed where the matrix is square; TRAK writes "train_test".
    n_train, n_test : int, optional
        Sizes that the scores should have.
    """
    path = _trak_file(Path(path))
    matrix = open_npy(path, ("n_train", "n_targets"))
    noted = _trak_record(path, matrix.shape, finalized)
    told = resolve_orientation(
        path, matrix.shape, maker="train_test", said=orientation, n_train=n_train, n_test=n_test
    )
    weights, note = turned(path, matrix, told)
    scored = weights.any(axis=1)
    if not scored.all():
        raise ValueError(
            f"{path} has no score but 0 for {(~scored).sum()} of {len(scored)} targets, the first "
            f"being {np.argmin(scored)}: TRAK leaves zeros where it did not score. Score every "
            "target and call finalize_scores; its projector may have failed, see its log."
        )
    output = "output: the label's logit less the logsumexp of the others, not the largest other"
    return imported(weights, note, noted, f"{HELPS}, as TRAK writes it", output)


def _trak_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    found = sorted(path.glob("scores/*.mmap"))
    if len(found) != 1:
        raise ValueError(
            f"{path} holds {[f.name for f in found]} in scores/; expected one experiment. Give "
            "the path of its .mmap file."
        )
    return found[0]


def _trak_record(path: Path, shape: tuple[int, int], finalized: bool) -> str:
    """Hold the matrix against what TRAK noted beside it; what is known of its end, as a note."""
    folder = path.parent.parent
    experiment = read_record(folder / "experiments.json").get(path.stem)
    n_train = read_record(folder / "metadata.json").get("train set size")
    if not isinstance(experiment, dict):
        return f"units: influence, of any scale; no experiments.json tells if {path.name} is whole"
    noted = (n_train, experiment.get("num_targets"))
    if any(size not in (None, found) for size, found in zip(noted, shape, strict=True)):
        raise ValueError(
            f"{path} has shape {shape}, but TRAK noted (train set size, num_targets) = {noted} "
            "beside it. Is it of another experiment, or turned?"
        )
    if not (experiment.get("scores_finalized") or finalized):
        raise ValueError(
            f"{path} is not finalized, says experiments.json: finalize_scores did not end, or TRAK "
            "is older than 0.3.0, which never noted it (0.2.0 also left the weighting by 1 - p "
            "out of the file). If TRAK 0.2.1 or later ended, say finalized=True."
        )
    return "units: influence averaged over checkpoints, of any scale; no bias"


def read_kronfluence(
    path: str | Path,
    *,
    positive_means: str | None = None,
    orientation: str | None = None,
    n_train: int | None = None,
    n_test: int | None = None,
) -> Datamodels:
    """Read kronfluence's pairwise scores, (n_query, n_train); scores by module are summed.

    Scores of a part of the data, summed over examples, by token or of training examples on
    themselves are refused.

    Parameters
    ----------
    path : str or Path
        ``pairwise_scores.safetensors``, or its dictionary of tensors in a ``.pt``.
    positive_means : {"helps", "hurts"}
        It depends on what ``Task.compute_measurement`` returned: with the loss or a negative
        margin (as in kronfluence's examples) a positive score helps; with a margin or a
        log-probability it hurts.
    orientation : {"train_test", "test_train"}, optional
        Needed where the matrix is square; kronfluence writes "test_train".
    n_train, n_test : int, optional
        Sizes that the scores should have.
    """
    path = Path(path)
    matrix = _pairwise_scores(path)
    told = resolve_orientation(
        path, matrix.shape, maker="test_train", said=orientation, n_train=n_train, n_test=n_test
    )
    _check_datasets(path, matrix.shape if told == "test_train" else matrix.shape[::-1])
    sign, signed = sign_of(path, positive_means)
    weights, note = turned(path, matrix, told)
    weights *= sign
    units = "units: influence, of any scale; no bias"
    return imported(weights, note, units, signed, "output: what the task's measurement was")


def _pairwise_scores(path: Path) -> np.ndarray:
    is_safe = path.suffix == ".safetensors"
    tensors, said = read_safetensors(path) if is_safe else (read_tensors(path), {})
    if "_partition" in path.name or path.name.startswith("self_scores"):
        raise ValueError(
            f"{path} holds {'one partition' if '_partition' in path.name else 'self-influence'}; "
            "expected pairwise scores of all the data. Aggregate the partitions with "
            "analyzer.aggregate_pairwise_scores, or compute pairwise scores."
        )
    if summed := [name for name in _SUMMED if said.get(name) == "True"]:
        raise ValueError(
            f"{path} was made with {summed[0]}=True, which sums examples; expected one score for "
            "each test and training example. Compute it without."
        )
    if not tensors or len({getattr(tensor, "shape", None) for tensor in tensors.values()}) != 1:
        raise ValueError(
            f"{path} holds {sorted(map(str, tensors))}; expected kronfluence's 'all_modules', or "
            "scores of one shape for each module."
        )
    return sum(to_matrix(path, name, tensor) for name, tensor in tensors.items())


def _check_datasets(path: Path, shape: tuple[int, int]) -> None:
    """Hold (n_query, n_train) against the records that kronfluence leaves beside its scores."""
    for name, found in zip(("query", "train"), shape, strict=True):
        record = read_record(path.parent / f"{name}_dataset_metadata.json")
        indices = record.get("indices")
        listed = isinstance(indices, list)
        noted = len(indices) if listed else record.get("dataset_size")
        if noted not in (None, found):
            raise ValueError(
                f"{path} has {found} {name} examples, but kronfluence noted {noted} beside it. "
                "Are rows and columns swapped, or is it of another analysis?"
            )


def _read_own(path: Path, *, n_train: int | None, n_test: int | None) -> Datamodels:
    shape = _own_shape(path)  # before the weights, which a few bytes can claim to fill a disk
    if n_test not in (None, shape[0]) or n_train not in (None, shape[1]):
        raise ValueError(
            f"{path} holds datamodels of shape {shape}; expected (n_test, n_train) = "
            f"({n_test}, {n_train}). Are they of other data?"
        )
    try:
        datamodels = load_datamodels(path)
    except ODD as error:
        named = str(error) if str(path) in str(error) else f"{path} is damaged ({error})"
        raise ValueError(named) from error
    if datamodels.weights.shape != shape:
        raise ValueError(f"{path} says {shape} and holds weights of {datamodels.weights.shape}")
    check_finite(path, datamodels.weights)
    return datamodels


def _own_shape(path: Path) -> tuple[int, ...]:
    """The shape that a file of this package gives its weights, (n_test, n_train)."""
    shapes = read_shapes(path, "weights", "weights_shape")
    if "weights" not in shapes and shapes.get("weights_shape") == (2,):
        shapes["weights"] = tuple(read_safetensors(path)[0]["weights_shape"].tolist())
    if len(shapes.get("weights", ())) != 2:
        raise ValueError(f"{path} holds no weights of two dimensions; expected datamodels.")
    return shapes["weights"]


def _noted(path: Path, content: dict, name: str):
    """A number or flag that the file notes of itself, or None."""
    if content.get(name) is None:
        return None
    value = to_array(path, name, content[name])
    return value.item() if value.size == 1 else value


def _agreed(path: Path, content: dict, name: str, said):
    """What the user says and the file notes, which must not contradict each other."""
    noted = _noted(path, content, name)
    if noted is None or said == UNKNOWN:
        return said if noted is None else noted
    if said is not None and not np.allclose(noted, said):
        raise ValueError(f"{path} notes {name}={noted}, but you say {said}. Leave it out.")
    return noted


def _to_raw_units(path: Path, weights, bias, standardised, alpha) -> tuple:
    """Weights and bias in raw 0/1 mask units, and a note of what was done for it."""
    if standardised is None:
        raise ValueError(
            f"nobody can tell from {path} whether its weights were fitted on standardised "
            "masks. Say standardised=True and alpha (the share of the training set in a mask) "
            "where they come from fast_l1, as those of the datamodels release may; False where "
            "they are in raw 0/1 units; 'unknown' where only directions matter."
        )
    if (alpha is None) == (standardised in (1, True)):
        raise ValueError(
            f"{path} was read with standardised={standardised} and alpha={alpha}; expected "
            "alpha, the share of the training set in a mask (or of the models that saw each "
            "training example), with standardised=True and only there."
        )
    if standardised == UNKNOWN:
        note = "units unknown, since nobody said if masks were standardised: bias is left out"
        return weights, np.full(len(weights), np.nan, np.float32), note
    if not standardised:
        return weights, bias, "units: raw 0/1 masks"
    raw, raw_bias = un_standardise(weights, 0 if bias is None else bias, alpha)
    spread = np.sqrt(np.mean(alpha) * (1 - np.mean(alpha)))
    units = f"units: raw 0/1 masks, after division by {spread:.3g}"
    return raw, *((None, units) if bias is None else (raw_bias, f"{units}; bias corrected"))


def _vector(path: Path, content: dict, name: str, n_test: int) -> np.ndarray | None:
    if content.get(name) is None:
        return None
    values = to_array(path, name, content[name]).reshape(-1)
    if len(values) != n_test:
        raise ValueError(
            f"{name!r} in {path} has {len(values)} values; expected one for each of the {n_test} "
            "test examples. Are rows and columns of 'weight' swapped?"
        )
    return values.copy()


def imported(
    weights: np.ndarray,
    *notes: str,
    bias: np.ndarray | None = None,
    lam: np.ndarray | None = None,
) -> Datamodels:
    """Datamodels of weights made elsewhere."""
    n_test = len(weights)
    return Datamodels(
        weights=weights,
        bias=np.zeros(n_test, np.float32) if bias is None else bias,
        lam=np.full(n_test, np.nan, np.float32) if lam is None else lam,
        lam_at_edge=np.zeros(n_test, dtype=bool),
        slot_ids=np.zeros(0, dtype=np.int64),
        slot_effects=np.zeros((0, n_test), dtype=np.float32),
        method="imported",
        notes=notes,
    )


def turned(path: Path, matrix: np.ndarray, orientation: str) -> tuple[np.ndarray, str]:
    """Scores as a new float32 array of shape (n_test, n_train), checked, and a note of how."""
    transpose = orientation == "train_test"
    weights = np.empty(matrix.shape[::-1] if transpose else matrix.shape, np.float32)
    view = weights.T if transpose else weights
    for rows in row_blocks(matrix):
        view[rows] = matrix[rows]
    check_finite(path, weights)
    how = "transposed from (n_train, n_test) to" if transpose else "already"
    return weights, f"read from {path.name}, {how} (n_test, n_train) = {weights.shape}"


def sign_of(path: Path, positive_means: str | None) -> tuple[int, str]:
    """1 or -1 by the user's word, and a note of it."""
    if positive_means not in _SIGNS:
        raise ValueError(
            f"nobody can tell the sign of {path} from its numbers (positive_means is "
            f"{positive_means!r}). Say positive_means='helps' where a training example with a "
            "positive score raises the correct-class output (or lowers the loss), 'hurts' where "
            "it is the other way; check_planted or check_against_models then check it."
        )
    was = "" if positive_means == "helps" else ", reversed here since positive scores hurt"
    return _SIGNS[positive_means], f"{HELPS}{was}, as the user says"


def read_tensors(path: Path) -> dict:
    """The dictionary of a ``.pt`` file, of which only tensors are opened.

    Raises
    ------
    ValueError
        If the file is damaged, no dictionary, or holds anything that could run code.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a file; expected attribution scores. Check the path.")
    content = load_pickled(path)
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds {type(content).__name__}; expected a dictionary with the key 'weight', "
            "a tensor of shape (n_train, n_test)."
        )
    return content


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, or a ValueError if it is none."""

    def all_of(file: Any) -> tuple:
        return {name: file.get_tensor(name) for name in file.keys()}, _said(file)  # noqa: SIM118

    return _opened(path, all_of)


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, or a ValueError if it is none."""
    return _opened(path, _said)


def read_shapes(path: Path, *names: str) -> dict[str, tuple[int, ...]]:
    """Shapes of tensors of a safetensors file, as far as it has them; they are not read."""
    return _opened(
        path,
        lambda file: {n: tuple(file.get_slice(n).get_shape()) for n in names if n in file.keys()},  # noqa: SIM118
    )


def _said(file: Any) -> dict[str, str]:
    return file.metadata() or {}


def _opened(path: Path, read: Callable[[Any], Any]) -> Any:
    """What ``read`` finds in a safetensors file."""
    try:
        with safe_open(str(path), framework="pt") as file:
            return read(file)
    except (SafetensorError, FileNotFoundError, *ODD) as error:
        raise ValueError(f"{path} is no safetensors file ({error}). Check the path.") from error


def read_record(path: Path) -> dict:
    """A JSON file of another tool's; an empty mapping where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Restore it, or move it away.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path} holds {type(record).__name__}; expected a JSON object.")
    return record


def to_matrix(path: Path, name: str, value: object) -> np.ndarray:
    """A tensor of a file as a float32 array of two dimensions."""
    array = to_array(path, name, value)
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"{name!r} in {path} has shape {array.shape}; expected two dimensions, one for "
            "training and one for test examples."
        )
    return array


def to_array(path: Path, name: str, value: object) -> np.ndarray:
    """A tensor of a file as a float32 array."""
    if not isinstance(value, torch.Tensor) or value.is_complex() or value.is_sparse:
        raise ValueError(
            f"{name!r} in {path} is a {type(value).__name__}; expected a dense tensor of numbers."
        )
    if value.numel() > FEW and value.numel() * value.itemsize > value.untyped_storage().nbytes():
        raise ValueError(
            f"{name!r} in {path} claims {value.numel()} numbers and stores fewer; expected a "
            "tensor of its own (save weight.contiguous().clone())."
        )
    try:
        return value.detach().to(torch.float32).numpy()
    except ODD as error:
        raise ValueError(
            f"{name!r} in {path} cannot be read as numbers ({error}); expected a dense tensor."
        ) from error
