"""Stage 06 of a run: captions of every subpopulation. Apart, since importing a CLIP takes time."""

from __future__ import annotations

import pandas as pd

from mdhelpers.captions import caption_bank, caption_subpopulations, load_clip
from mdhelpers.encoders import embed_images, embed_texts
from mdhelpers.findings import SUBPOPULATIONS, read_subpopulations
from mdhelpers.runs import Run
from mdhelpers.specs import validate
from mdhelpers.stages import read_models
from mdhelpers.studies import CaptionSpec

CAPTIONS = "06_clip_captioning"


def caption_directions(
    run: Run, captions: dict, *, steps: int = 1000, seed: int = 0, device: str = "auto"
) -> pd.DataFrame | None:
    """Stage 06: words of a CLIP that set each subpopulation apart (App. F.5).

    Returns None where the study switches captions off (``model: none``).
    """
    spec = validate(CaptionSpec, captions, "captions")
    stage = run.stage(
        CAPTIONS, {"captions": spec.model_dump(), "seed": seed}, after=[SUBPOPULATIONS]
    )
    stage.say()
    path = run.path / "captions.parquet"
    if spec.model == "none":
        path.unlink(missing_ok=True)
        stage.finish([], figures={"model": "none"})
        return None
    if not stage.is_current:
        models = read_models(run, device=device)
        test = models.dataset.test
        encoder = load_clip(
            spec,
            cache_dir=run.path.parent / "clip",
            size=models.dataset.size[0],
            seed=seed,
            steps=steps,
            device=models.plan.device,
        )
        bank = caption_bank(spec)
        members = read_subpopulations(run)
        table = caption_subpopulations(
            encoder, test.images, members, bank, labels=test.labels, top=spec.top
        )
        table.to_parquet(path)
        figures = {"model": spec.model, "n_captions": len(bank), "clip": encoder.report}
        stage.finish([path], figures=figures)
    return pd.read_parquet(path)


def embeddings_of(
    run: Run, captions: dict, table: pd.DataFrame | None, *, steps: int = 1000, seed: int = 0
):
    """The table's best caption, the test images and the caption embedded anew, its members."""
    if table is None:
        return None
    spec = validate(CaptionSpec, captions, "captions")
    data = read_models(run).dataset
    cache, size = run.path.parent / "clip", data.size[0]
    encoder = load_clip(spec, cache_dir=cache, size=size, seed=seed, steps=steps)
    row = table[table["reference"] == "all"].nlargest(1, "score").iloc[0]
    members = read_subpopulations(run)
    same = [members[key] == row[key] for key in ("comparison", "direction", "end")]
    inside = members.loc[same[0] & same[1] & same[2], "index"].to_numpy()
    text = embed_texts(encoder, [row["caption"]])[0]
    return row, embed_images(encoder, data.test.images), text, inside
