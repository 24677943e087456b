"""Stage 06 of a run: captions of every subpopulation. Apart, since importing a CLIP takes time."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from mdhelpers import inputs
from mdhelpers.captions import caption_bank, caption_subpopulations, load_clip
from mdhelpers.encoders import Encoder, embed_images, embed_texts
from mdhelpers.findings import SUBPOPULATIONS, read_subpopulations
from mdhelpers.plans import resolve_device
from mdhelpers.records import written
from mdhelpers.runs import Run, read_tables, write_tables
from mdhelpers.small_clip import Training, file_name
from mdhelpers.specs import validate
from mdhelpers.stages import DATA, read_data
from mdhelpers.studies import CaptionSpec

CAPTIONS = "06_clip_captioning"


def caption_directions(
    run: Run, captions: dict, *, steps: int = 1000, seed: int = 0, device: str = "auto"
) -> pd.DataFrame | None:
    """Stage 06: words of a CLIP that set each subpopulation apart (App. F.5).

    Returns None where the study switches captions off (``model: none``, and ``auto`` on data that
    the small CLIP does not know).
    """
    spec = spec_of(run, captions)
    parameters = {"captions": spec.model_dump(), "seed": seed} | inputs.captions(spec)
    if spec.model == "small":
        parameters["caption_steps"] = steps
    stage = run.stage(CAPTIONS, parameters, after=[SUBPOPULATIONS])
    with stage.working() as needed:
        if needed and spec.model == "none":
            stage.withdraw()
            stage.finish([], figures={"model": "none"})
        elif needed:
            data, bank = read_data(run), caption_bank(spec)
            encoder = encoder_of(run, spec, data.size[0], steps=steps, seed=seed, device=device)
            table = caption_subpopulations(
                encoder,
                data.test.images,
                read_subpopulations(run),
                bank,
                labels=data.test.labels,
                top=spec.top,
            )
            stage.withdraw()
            outputs = write_tables(run.path, {"captions": table})
            if spec.model == "small":
                outputs.append(own_clip(run, size=data.size[0], seed=seed, steps=steps))
            figures = {"model": spec.model, "n_captions": len(bank), "clip": encoder.report}
            stage.finish(outputs, figures=figures)
    return read_tables(run, CAPTIONS).get("captions")


def spec_of(run: Run, captions: dict) -> CaptionSpec:
    """The study's choice of a CLIP, for the data that the run has."""
    kind = run.manifest(DATA).get("figures", {}).get("kind", "scenes")
    return validate(CaptionSpec, captions, "captions").for_data(kind)


def encoder_of(
    run: Run, spec: CaptionSpec, size: int, *, steps: int, seed: int, device: str = "auto"
) -> Encoder:
    """The study's CLIP.

    The small one is trained once for all runs beside this one, and each keeps a copy, so that it is
    whole wherever it is taken.
    """
    options = {"size": size, "seed": seed, "steps": steps}
    if spec.model == "small" and not (own := own_clip(run, **options)).is_file():
        shared = run.path.parent / ".clip"
        load_clip(spec, cache_dir=shared, **options)
        own.parent.mkdir(exist_ok=True)
        with written(own) as unfinished:
            shutil.copyfile(shared / own.name, unfinished)
    return load_clip(spec, cache_dir=run.path / "clip", **options, device=resolve_device(device))


def own_clip(run: Run, *, size: int, seed: int, steps: int) -> Path:
    """Where a run keeps its copy of the small CLIP."""
    return run.path / "clip" / file_name(Training(size=size, seed=seed, steps=steps))


def embeddings_of(
    run: Run, captions: dict, table: pd.DataFrame | None, *, steps: int = 1000, seed: int = 0
):
    """The table's best caption, the test images and the caption embedded anew, its members."""
    if table is None:
        return None
    spec = spec_of(run, captions)
    data = read_data(run)
    run.outputs(CAPTIONS)  # the CLIP is among them
    encoder = encoder_of(run, spec, data.size[0], steps=steps, seed=seed)
    row = table[table["reference"] == "all"].nlargest(1, "score").iloc[0]
    members = read_subpopulations(run)
    same = [members[key] == row[key] for key in ("comparison", "direction", "end")]
    inside = members.loc[same[0] & same[1] & same[2], "index"].to_numpy()
    text = embed_texts(encoder, [row["caption"]])[0]
    return row, embed_images(encoder, data.test.images), text, inside
