"""What the stages read from outside of a run: digests, so that a changed file is noticed.

A stage takes them among its parameters, and `mdhelpers run` before it decides what to skip. They
are of contents, and never of times or places: a copy of the same files is the same input.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mdhelpers.base.places import resolve
from mdhelpers.base.records import content_digest, digest, file_digest
from mdhelpers.clip.encoders import looks_like_path
from mdhelpers.clip.words import CaptionSpec, caption_bank
from mdhelpers.data.sources import data_digest
from mdhelpers.data.transforms import (
    contents_of,
)
from mdhelpers.formats.models import given_models, origins
from mdhelpers.runs.stage import CAPTIONS, COMPARISON, DATA, EFFECTS, MODELS, SEVERAL
from mdhelpers.stages.data import data_from_outside
from mdhelpers.stages.study import Hypothesis, Placebo, Study
from mdhelpers.training.algorithms import AlgorithmSpec


def of_study(study: Study) -> dict[str, dict[str, Any]]:
    """Return what each stage of a study reads from outside, by the stage's name."""
    given = given_models(study.model_dump())
    models = {"origins": origins(given)} if given else {}
    scores = [path for path in (study.datamodels_1_path, study.datamodels_2_path) if path]
    return {
        DATA: data_from_outside(study.dataset),
        MODELS: models or algorithms_from_outside(study.algorithm_1, study.algorithm_2),
        COMPARISON: {"scores": [scores_digest(resolve(path)) for path in scores]},
        CAPTIONS: captions_from_outside(study.captions.for_data(study.dataset.kind)),
        EFFECTS: transformations_from_outside(study.hypotheses, study.placebo),
        SEVERAL: algorithms_from_outside(*study.algorithms),
    }


def algorithms_from_outside(*specs: AlgorithmSpec) -> dict[str, Any]:
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
    found, start = {"made_with": spec.made_with()}, spec.start
    if start.path:
        found["checkpoint"] = file_content(start.path, f"{spec.name}: initialisation.path")
    if start.source:
        found["pictures"] = data_digest(start.source.dataset)
    return {name: value for name, value in found.items() if value}


def captions_from_outside(spec: CaptionSpec) -> dict[str, Any]:
    """Return what stage 06 reads beside its parameters: weights of a CLIP, a bank of captions."""
    found = {}
    if spec.model not in ("small", "none") and spec.pretrained and looks_like_path(spec.pretrained):
        found["pretrained"] = file_content(spec.pretrained, "captions.pretrained")
    if spec.model != "none" and isinstance(spec.bank, str) and spec.bank:
        found["bank"] = file_content(spec.bank, "captions.bank")
    if spec.model not in ("small", "none") and not spec.bank:  # a package's list of words
        found["bank"] = digest(caption_bank(spec))[:16]
    return {"reads": found} if found else {}


def transformations_from_outside(
    hypotheses: Sequence[Hypothesis], placebo: Placebo
) -> dict[str, Any]:
    """Return what stage 07 reads beside its parameters: pictures that transformations paste."""
    used = [spec.transformation for spec in (*hypotheses, placebo) if spec.transformation]
    found = contents_of(used)
    return {"reads": found} if found else {}


def file_content(path: str, key: str) -> str:
    """Return the first digits of a file's sha256; FileNotFoundError names the key that names it."""
    file = Path(resolve(path))
    if not file.is_file():
        raise FileNotFoundError(f"{key}: there is no file {file}")
    return content_digest(file)[:16]


def scores_digest(path: Path) -> str:
    """A digest of a file, or of all scores in a folder."""
    files = sorted(path.rglob("*.mmap")) if path.is_dir() else [path]
    return " ".join(file_digest(file) for file in files)
