"""Scores of tools that estimate influence from gradients: TRAK and kronfluence.

They are no regression weights: there is no bias, and predictions from them are right up to a shift
and a scale, which correlations and the comparison of directions do not mind.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mdhelpers.datamodels import Datamodels
from mdhelpers.npy_files import open_npy
from mdhelpers.score_checks import resolve_orientation
from mdhelpers.score_files import (
    HELPS,
    imported,
    read_record,
    read_safetensors,
    read_tensors,
    sign_of,
    to_matrix,
    turned,
)

__all__ = ["read_kronfluence", "read_trak"]

_SUMMED = ("aggregate_query_gradients", "aggregate_train_gradients")


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
    this package take the largest other.

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

    Raises
    ------
    ValueError
        If scores are unfinished, not of the sizes that TRAK noted or that are given, all zero for
        a target, or not finite (float16 ends at 65504).
    """
    path = _trak_file(Path(path))
    matrix = open_npy(path, ("n_train", "n_targets"))
    noted = _trak_record(path, matrix.shape, finalized)
    sizes = {"n_train": n_train, "n_test": n_test}
    told = resolve_orientation(path, matrix.shape, maker="train_test", said=orientation, **sizes)
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

    Raises
    ------
    ValueError
        If the sign is not told; if scores are of a part of the data, summed over examples, by
        token or of training examples on themselves; or if sizes disagree with the arguments or
        with what kronfluence noted.
    """
    path = Path(path)
    matrix = _pairwise_scores(path)
    sizes = {"n_train": n_train, "n_test": n_test}
    told = resolve_orientation(path, matrix.shape, maker="test_train", said=orientation, **sizes)
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
