"""The workbench tests what it is given, and tells what cannot be."""

from types import SimpleNamespace

import pytest
import torch
import yaml

from mdhelpers.data.scenes import make_scenes
from mdhelpers.show import workbench as show
from mdhelpers.stages.study import Hypothesis
from mdhelpers.training.learners import TrainedModels

HYPOTHESES = [{"transformation": "tag", "intensities": [3, 5], "target_class": "fish"}]


class Brightness(TrainedModels):
    """Models that see how bright the top left corner is, each as much as its number says."""

    def __init__(self, *slopes):
        self.slopes = torch.tensor(slopes)

    def logits(self, images):
        bright = torch.from_numpy(images[:, :6, :6]).float().mean((1, 2, 3)) / 20 - 6
        return self.slopes[:, None, None] * bright[:, None] * torch.tensor([0.0, 1.0, 0.0])


@pytest.fixture
def models():
    kept = {1: [Brightness(1.0, 1.1, 1.05)], 2: [Brightness(0.0, 0.01, -0.01)]}
    return SimpleNamespace(
        kept=lambda a: kept[a], n_models=3, slots=lambda _: None, names=("p", "q"),
        dataset=make_scenes(n_train=6, n_test=60, size=24, seed=0),
    )  # fmt: skip


def test_what_is_tried_has_the_verdict_of_page_7(models):
    row = show.tried(models, "tag", 6, "fish", epsilon=5, delta=10)
    assert row["outcome"] in ("only_1", "more_1")
    assert row["difference"] == pytest.approx(row["effect_1"] - row["effect_2"])
    assert show.tried(models, "tag", 6, "fish", epsilon=5, delta=10) == row


def test_the_bench_begins_with_the_first_hypothesis_and_gives_its_line(models):
    box = show.workbench(models, HYPOTHESES, epsilon=5, delta=10)
    kind, own, dose, target, button, said, picture = box.children
    assert (kind.value, dose.value, target.value) == ("tag", 5, "fish")
    assert "p responds" in said.value
    assert bytes(picture.value).startswith(b"\x89PNG")
    kind.value = "ring"
    assert dose.value == 9
    own.value = "{kind: square, color: red, where: top left}"
    dose.value = 4
    button.click()
    line = said.value.split("hypotheses: - ")[1].split("</p>")[0]
    given = Hypothesis.model_validate(yaml.safe_load(line))
    assert given.transformation.color == (255, 0, 0)
    assert given.intensities == [4]


def test_what_cannot_be_is_told(models):
    _, own, _, _, button, said, picture = show.workbench(models, [], epsilon=5, delta=10).children
    own.value = "{kind: squre}"
    button.click()
    assert "Did you mean &#x27;square&#x27;" in said.value
    assert bytes(picture.value) == b""


def test_without_models_there_is_nothing_to_try(models):
    models.n_models = 0
    assert "nothing to try" in show.workbench(models, [], epsilon=5, delta=10).value
