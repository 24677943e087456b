"""A workbench for transformations of one's own: try one, see its effect, take its line along.

It works where there is a kernel; a built page shows it as it was last.
"""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import yaml

from mdhelpers.data.transforms import Around, parse_transformation, transform_images
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import EFFECTS
from mdhelpers.show.gallery import image_rows
from mdhelpers.stages import effect_cases, effects, proposals
from mdhelpers.stages.effect_models import EffectModels, read_effect_models
from mdhelpers.stages.study import Placebo

N_IMAGES = 200  # test images that an effect is measured on
N_SHOWN = 6


def tried(
    models: EffectModels,
    transformation: Any,
    intensity: float,
    target: str,
    *,
    epsilon: float,
    delta: float,
    seed: int = 0,
) -> dict[str, Any]:
    """The verdict on a transformation at one intensity, on a part of the test images.

    Parameters
    ----------
    models
        Those of page 7.
    transformation, intensity, target
        What is tried, how strongly, and the class whose confidence is watched.
    epsilon, delta
        Percentage points, as of page 7.
    seed
        Of the images, and of the transformation.

    Returns
    -------
    dict
        A row of `mdhelpers.stages.effects.StudyEffects.verdicts`.
    """
    kind = parse_transformation(transformation)
    order = np.random.default_rng([seed, 16]).permutation(len(models.dataset.test))
    rows = np.sort(order[:N_IMAGES])
    case = effect_cases.Case(kind.name, "study", kind, (float(intensity),), target, rows)
    _, verdicts = effect_cases.measure(models, [case], Placebo(), epsilon, delta, seed)
    return verdicts.iloc[0].to_dict()


def workbench(
    models: EffectModels, hypotheses: Sequence[dict], *, epsilon: float, delta: float, seed: int = 0
) -> ipywidgets.Widget:
    """Choose or write a transformation, its intensity and a class; see what it does.

    Below stands the line that a parameters file takes.
    """
    if not models.n_models:
        return ipywidgets.HTML("Models made elsewhere cannot be asked: there is nothing to try.")
    bench = _Bench(models, hypotheses, {"epsilon": epsilon, "delta": delta, "seed": seed})
    bench.test()
    return bench.box


def workbench_of(run: Run) -> ipywidgets.Widget:
    """The workbench on the models of a finished page 7, with that page's hypotheses."""
    given = run.manifest(EFFECTS)["parameters"]
    about = {key: given[key] for key in ("epsilon", "delta", "seed")}
    return workbench(read_effect_models(run), given["hypotheses"], **about)


class _Bench:
    def __init__(self, models: EffectModels, hypotheses: Sequence[dict], how: dict[str, float]):
        self.models, self.how = models, how
        words = list(proposals.library(models.dataset.test))
        first = (list(hypotheses) or [{"transformation": words[0]}])[0]
        kind = parse_transformation(first["transformation"])
        dose = max(first.get("intensities", [kind.default]))
        wide = {"layout": ipywidgets.Layout(width="95%"), "style": {"description_width": "7em"}}
        self.word = ipywidgets.Dropdown(options=words, description="kind", **wide)
        self.own = ipywidgets.Text(
            description="or written", placeholder="{kind: square, color: red, unit: '%'}", **wide
        )
        self.dose = ipywidgets.FloatText(value=dose, description="intensity", **wide)
        self.target = ipywidgets.Dropdown(
            options=list(models.dataset.class_names), description="class", **wide
        )
        self.target.value = first.get("target_class", self.target.value)
        if kind.name in words:
            self.word.value = kind.name
        self.word.observe(self._usual, "value")
        button = ipywidgets.Button(description="Test", button_style="primary")
        button.on_click(lambda _: self.test())
        self.said, self.picture = ipywidgets.HTML(), ipywidgets.Image(format="png")
        parts = self.word, self.own, self.dose, self.target, button, self.said, self.picture
        self.box = ipywidgets.VBox(parts)

    def _usual(self, change: dict) -> None:
        self.dose.value = parse_transformation(change["new"]).default

    def test(self) -> None:
        """Try what the fields say; what cannot be is told in words."""
        try:
            given = yaml.safe_load(self.own.value) if self.own.value.strip() else self.word.value
            kind, dose = parse_transformation(given), self.dose.value
            row = tried(self.models, kind, dose, self.target.value, **self.how)
        except (ValueError, OSError, yaml.YAMLError) as error:
            self.said.value, self.picture.value = f"<b>{html.escape(str(error))}</b>", b""
            return
        line = {"transformation": given, "intensities": [dose], "target_class": self.target.value}
        written = yaml.safe_dump([line], default_flow_style=True, width=1000).strip()[1:-1]
        said = effects.sentence(row, self.models.names)
        placebo = effects.word_of(row["placebo"], self.models.names)
        texts = [said, f"Its placebo: {placebo}.", f"hypotheses: - {written}"]
        self.said.value = "".join(f"<p>{html.escape(text)}</p>" for text in texts)
        self.picture.value = self._drawn(kind, dose)

    def _drawn(self, kind, dose: float) -> bytes:
        some = self.models.dataset.test.some(N_SHOWN)
        before, about = some.images, Around(some.foreground, some.labels)
        after = transform_images(kind, before, dose, seed=self.how["seed"], around=about)
        fig, ax = plt.subplots(figsize=(7, 2.6))
        image_rows(ax, {"as it is": before, "changed": after})
        with io.BytesIO() as file:
            fig.savefig(file, format="png")
            plt.close(fig)
            return file.getvalue()
