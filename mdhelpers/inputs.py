"""What a study reads from outside of its run: digests, so that a changed file is noticed.

A stage takes them among its parameters, and `mdhelpers run` before it decides what to skip. They
are of contents, and never of times or places: a copy of the same files is the same input.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdhelpers.encoders import looks_like_path
from mdhelpers.image_folders import dataset_files
from mdhelpers.integrity import content_digest
from mdhelpers.paths import resolve
from mdhelpers.records import digest

if TYPE_CHECKING:
    from mdhelpers.algorithms import AlgorithmSpec
    from mdhelpers.datasets import DatasetSpec
    from mdhelpers.studies import CaptionSpec, Study


def data_digest(spec: DatasetSpec) -> str:
    """Return a digest of all pictures that a data set reads from a folder; "" for other kinds."""
    files = dataset_files(spec)
    return digest([(name, content_digest(path)) for name, path in files])[:16] if files else ""


def data(spec: DatasetSpec) -> dict[str, Any]:
    """Return what stage 01 reads beside its parameters."""
    pictures = data_digest(spec)
    return {"pictures": pictures} if pictures else {}


def algorithms(*specs: AlgorithmSpec) -> dict[str, Any]:
    """Return what stage 02 reads beside its parameters: code, checkpoints, pictures to learn from.

    Raises
    ------
    FileNotFoundError
        If a checkpoint is not there.
    ValueError
        If there is no such function.
    """
    found = {f"algorithm_{a}": _algorithm(spec) for a, spec in enumerate(specs, 1)}
    found = {name: read for name, read in found.items() if read}
    return {"reads": found} if found else {}


def _algorithm(spec: AlgorithmSpec) -> dict[str, str]:
    from mdhelpers.learners import made_with

    found = {"made_with": made_with(spec)}
    if start := getattr(spec, "initialisation", None):
        if start.path:
            found["checkpoint"] = file_content(start.path, f"{spec.name}: initialisation.path")
        if start.source:
            found["pictures"] = data_digest(start.source.dataset)
    return {name: value for name, value in found.items() if value}


def captions(spec: CaptionSpec) -> dict[str, Any]:
    """Return what stage 06 reads beside its parameters: weights of a CLIP, a bank of captions."""
    found = {}
    if spec.model not in ("small", "none") and spec.pretrained and looks_like_path(spec.pretrained):
        found["pretrained"] = file_content(spec.pretrained, "captions.pretrained")
    if spec.model != "none" and isinstance(spec.bank, str) and spec.bank:
        found["bank"] = file_content(spec.bank, "captions.bank")
    return {"reads": found} if found else {}


def file_content(path: str, key: str) -> str:
    """Return the first digits of a file's sha256; FileNotFoundError names the key that names it."""
    file = Path(resolve(path))
    if not file.is_file():
        raise FileNotFoundError(f"{key}: there is no file {file}")
    return content_digest(file)[:16]


def of_study(study: Study) -> dict[str, dict[str, Any]]:
    """Return what each stage of a study reads from outside, by the stage's name."""
    from mdhelpers.findings import scores_digest
    from mdhelpers.imported_models import given_models, origins

    given = given_models(study.model_dump())
    models = {"origins": origins(given)} if given else {}
    scores = [path for path in (study.datamodels_1_path, study.datamodels_2_path) if path]
    return {
        "01_data_prep": data(study.dataset),
        "02_mask_training": models or algorithms(study.algorithm_1, study.algorithm_2),
        "04_residual_pca": {"scores": [scores_digest(resolve(path)) for path in scores]},
        "06_clip_captioning": captions(study.captions.for_data(study.dataset.kind)),
    }
