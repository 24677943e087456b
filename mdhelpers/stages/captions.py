"""Stage 06: captions that set each subpopulation apart, from a CLIP (App. F.5).

The study names the CLIP: the small one, which is trained here on generated scenes and kept in the
run; a model of open_clip with its weights; or none, and then there are no captions.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from mdhelpers.base.records import written
from mdhelpers.base.specs import validate
from mdhelpers.clip import small_clip
from mdhelpers.clip.embeddings import embeddings
from mdhelpers.clip.encoders import Encoder, load_named
from mdhelpers.clip.words import CaptionSpec, caption_bank
from mdhelpers.method.captions import distinguishing_captions
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import CAPTIONS, DATA, SUBPOPULATIONS
from mdhelpers.stages.data import read_data
from mdhelpers.stages.outside import captions_from_outside
from mdhelpers.stages.subpopulations import read_subpopulations
from mdhelpers.training.tasks import device_here

COLUMNS = {"comparison": str, "direction": int, "end": str, "reference": str, "rank": int}
COLUMNS |= {"caption": str, "auc": float, "auc_low": float, "auc_high": float}
COLUMNS |= {"score": float, "z": float, "stability": float}
RANKED_BY = "z, with AUC and stability"


def caption_directions(
    run: Run, captions: dict, *, steps: int = 1000, seed: int = 0, device: str = "auto"
) -> pd.DataFrame:
    """Stage 06: words of a CLIP that set each subpopulation apart (App. F.5).

    The table has no rows where the study switches captions off (``model: none``, and ``auto`` on
    data that the small CLIP does not know).
    """
    spec = spec_of(run, captions)
    parameters = {"captions": spec.model_dump(), "seed": seed, "ranked_by": RANKED_BY}
    parameters |= captions_from_outside(spec)
    if spec.model == "small":
        parameters["caption_steps"] = steps
    stage = run.stage(CAPTIONS, parameters, after=[SUBPOPULATIONS])
    with stage.working() as needed:
        if needed and spec.model == "none":
            stage.keep(figures={"model": "none"})
        elif needed:
            data, bank = read_data(run), caption_bank(spec)
            encoder = encoder_of(
                run.path, spec, data.size[0], steps=steps, seed=seed, device=device
            )
            table = caption_subpopulations(
                *embeddings(encoder, data.test.images, bank, folder=shared_folder(run.path)),
                bank,
                read_subpopulations(run),
                labels=data.test.labels,
                top=spec.top,
                seed=seed,
            )
            made = []
            if spec.model == "small":
                made.append(own_clip(run.path, size=data.size[0], seed=seed, steps=steps))
            figures = {"model": spec.model, "n_captions": len(bank), "clip": encoder.report}
            stage.keep(tables={"captions": table}, made=made, figures=figures)
    none = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    return run.kept(CAPTIONS).get("captions", none)


def spec_of(run: Run, captions: dict) -> CaptionSpec:
    """The study's choice of a CLIP, for the data that the run has."""
    kind = run.manifest(DATA).get("figures", {}).get("kind", "scenes")
    return validate(CaptionSpec, captions, "captions").for_data(kind)


def encoder_of(
    folder: Path, spec: CaptionSpec, size: int, *, steps: int, seed: int, device: str = "auto"
) -> Encoder:
    """The study's CLIP.

    The small one is trained once for all runs beside this one, and each keeps a copy, so that it is
    whole wherever it is taken.
    """
    clips = folder / "clip"
    if spec.model == "small":
        own = own_clip(folder, size=size, seed=seed, steps=steps)
        if not own.is_file():
            shared = shared_folder(folder)
            load_clip(spec, cache_dir=shared, size=size, seed=seed, steps=steps)
            clips.mkdir(exist_ok=True)
            with written(own) as unfinished:
                shutil.copyfile(shared / own.name, unfinished)
    device = device_here(device)
    return load_clip(spec, cache_dir=clips, size=size, seed=seed, steps=steps, device=device)


def shared_folder(folder: Path) -> Path:
    """Where a run and all beside it keep what their CLIPs have in common."""
    return folder.parent / ".clip"


def own_clip(folder: Path, *, size: int, seed: int, steps: int) -> Path:
    """Where a run keeps its copy of the small CLIP."""
    return (
        folder
        / "clip"
        / small_clip.file_name(small_clip.Training(size=size, seed=seed, steps=steps))
    )


def embeddings_of(
    run: Run, captions: dict, *, steps: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The test images and a bank of captions, embedded by the study's CLIP.

    Returns
    -------
    images : (n_test, width) float32
    texts : (n_captions, width) float32
    bank
        The captions; none where they are switched off.

    """
    spec, data = spec_of(run, captions), read_data(run)
    if spec.model == "none":
        return np.ones((len(data.test), 1), np.float32), np.ones((0, 1), np.float32), []
    kept = run.outputs(CAPTIONS, "clip/*.safetensors")
    if kept:  # the small CLIP that the captions were made with, whatever it would be named today
        encoder = small_clip.load(kept[0])
    else:
        encoder = encoder_of(run.path, spec, data.size[0], steps=steps, seed=seed)
    bank = caption_bank(spec)
    folder = shared_folder(run.path)
    return *embeddings(encoder, data.test.images, bank, folder=folder), bank


def load_clip(
    spec: CaptionSpec,
    *,
    cache_dir: Path | str,
    size: int = 24,
    seed: int = 0,
    steps: int = 1000,
    device: str = "cpu",
) -> Encoder | None:
    """The encoder that a study asks for; None where its captions are off (``model: none``).

    The small CLIP, of images of ``size`` pixels, is kept in ``cache_dir`` and stays on the CPU.
    """
    if spec.model == "none":
        return None
    if spec.model == "small":
        if spec.pretrained:
            raise ValueError(
                f"captions.pretrained is {spec.pretrained!r}, but the small CLIP is trained here; "
                "leave it empty or name an open_clip model as captions.model"
            )
        return small_clip.load_or_train(cache_dir, size=size, seed=seed, steps=steps)
    return load_named(spec.model, spec.pretrained, device=device)


def caption_subpopulations(
    images: np.ndarray,
    texts: np.ndarray,
    bank: list[str],
    subpopulations: pd.DataFrame,
    *,
    labels: np.ndarray | None = None,
    top: int = 10,
    seed: int = 0,
) -> pd.DataFrame:
    """The ``top`` distinguishing captions of every subpopulation, against each reference.

    Parameters
    ----------
    images, texts
        (n, width) and (n_captions, width) float32 of unit length: embeddings.
    bank
        The n_captions captions.
    subpopulations
        A row per member: ``comparison, direction, end, index``, the last of ``images``.
    labels
        (n,) int, or None where images have no classes.
    top
        Captions of each.
    seed
        Of the halvings that say how stable they are.

    Returns
    -------
    DataFrame
        ``comparison, direction, end, reference`` and the columns of
        `mdhelpers.method.captions.distinguishing_captions`. The reference is "all" images, those
        of the same "class" where there are labels, or the other "end" of the same direction.

    """
    parts, keys = [], ["comparison", "direction", "end"]
    ends = {
        key: rows["index"].to_numpy()
        for key, rows in subpopulations.groupby(keys, sort=False, observed=True)
    }
    for key, members in ends.items():
        references = {"all": {}} | ({} if labels is None else {"class": {"labels": labels}})
        for other in ends:
            if other[:2] == key[:2] and other != key:
                references["end"] = {"others": ends[other]}
        for reference, given in references.items():
            named = distinguishing_captions(
                images, texts, bank, members, **given, top=top, seed=seed
            )
            where = dict(zip(keys, key, strict=True)) | {"reference": reference}
            parts.append(named.assign(**where)[[*where, *named.columns]])
    return pd.concat(parts, ignore_index=True)
