"""The comparison computed in the reader's own browser, from datamodels of parts of the models."""

from __future__ import annotations

import base64

import anywidget
import numpy as np
import traitlets

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import FURTHER, MODELS
from mdhelpers.show.play import tiles
from mdhelpers.show.views import CSS, esm
from mdhelpers.stages.analyses import PARTS
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.data import read_data

WHOLE = "all"


class Recompute(anywidget.AnyWidget):
    """The view; make it with `recompute`.

    Attributes
    ----------
    pair : {"12", "21", "11", "22"}
        Which algorithm is compared with which.
    size : int
        How many models of each: 1 for all of them, 2 for a half, 4 for a quarter.
    part : int
        Which half or quarter finds the directions.
    direction : int
        Which direction's images are shown, from 0.
    """

    _esm = esm("recompute")
    _css = CSS

    pair = traitlets.Enum(("12", "21", "11", "22"), "12").tag(sync=True)
    size = traitlets.Int(1).tag(sync=True)
    part = traitlets.Int(0).tag(sync=True)
    direction = traitlets.Int(0).tag(sync=True)
    names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    class_names = traitlets.List(traitlets.Unicode()).tag(sync=True)
    n_models = traitlets.Int().tag(sync=True)
    shape = traitlets.List(traitlets.Int()).tag(sync=True)
    fits = traitlets.Dict().tag(sync=True)
    reference = traitlets.Dict().tag(sync=True)
    test = traitlets.Dict().tag(sync=True)


def recompute(run: Run) -> Recompute | str:
    """The page that recomputes, for a finished run of stage 13; a sentence where it cannot be."""
    if f"{PARTS}.safetensors" not in run.manifest(FURTHER)["outputs"]:
        return "There are no models to take apart here, or too many images for a page."
    parts = run.kept_arrays(FURTHER, PARTS)
    compared, data = read_comparison(run), read_data(run)
    fits = {
        f"{WHOLE}_{a}": rows(np.asarray(d.weights), 8) for a, d in enumerate(compared.datamodels, 1)
    }
    fits |= {name: rows(np.asarray(weights), 8) for name, weights in parts.items()}
    found = compared.comparison.one_minus_two
    turned = compared.comparison.rotation != "none"
    reference = {} if turned else {"directions": rows(found.directions, 16)}
    return Recompute(
        names=list(run.names),
        class_names=list(data.class_names),
        n_models=run.results[MODELS]["n_models"],
        shape=list(compared.datamodels[0].weights.shape),
        fits=fits,
        reference=reference,
        test=tiles(data.test, range(len(data.test))),
    )


def rows(values: np.ndarray, bits: int) -> dict:
    """Rows as whole numbers of 8 or 16 bits, each with a scale of its own."""
    most = 2 ** (bits - 1) - 1
    scale = np.abs(values).max(axis=1, keepdims=True) / most
    scaled = np.divide(values, scale, out=np.zeros_like(values, float), where=scale > 0)
    whole = np.rint(scaled).astype(np.dtype(f"int{bits}").newbyteorder("<"))
    return {"bits": bits, "data": base64.b64encode(whole.tobytes()).decode()}
