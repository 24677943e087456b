from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mdhelpers.data.scenes import make_scenes
from mdhelpers.data.transforms import transform_images
from mdhelpers.method.effects import treatment_effect
from mdhelpers.stages.effects import EFFECT_COLUMNS, judge, largest, measure_effects
from mdhelpers.stages.study import Hypothesis, Placebo
from mdhelpers.training.learners import TrainedModels


def table(rows) -> pd.DataFrame:
    full = [
        ("h", "feature", "tag", intensity, "boat", algorithm, effect, effect - 1, effect + 1)
        for intensity, algorithm, effect in rows
    ]
    return pd.DataFrame(full, columns=EFFECT_COLUMNS)


def hypothesis(uses: int) -> Hypothesis:
    return Hypothesis(
        name="h", transformation="tag", intensities=[3, 5], target_class="boat", uses=uses
    )


@pytest.mark.parametrize(
    ("effects", "uses", "outcome"),
    [
        ((30, 1), 1, "distinguishing"),
        ((1, 30), 1, "opposite"),
        ((1, 30), 2, "distinguishing"),
        ((30, 12), 1, "not shown"),
        ((30, 30), 0, "control"),
    ],
)
def test_the_verdict_is_given_at_the_largest_intensity(effects, uses, outcome):
    measured = table([(3, 1, 0), (3, 2, 0), (5, 1, effects[0]), (5, 2, effects[1])])
    verdict = judge(measured, [hypothesis(uses)], ("p", "q"), epsilon=5, delta=10)
    assert verdict["outcome"].item() == outcome
    assert set(largest(measured, "h", "feature")["intensity"]) == {5}


def test_no_hypothesis_gives_an_empty_table():
    assert not len(judge(table([]), [], ("p", "q"), epsilon=5, delta=10))


class Brightness(TrainedModels):
    """Models whose logits are an image's mean, brighter to the right, times a number each."""

    def __init__(self, slopes, *, retrains: bool):
        self.slopes, self.retrains, self.asked = torch.tensor(slopes), retrains, []

    def logits(self, images):
        self.asked.append(len(images))
        places = torch.linspace(0, 2, images.shape[2]).square()[:, None]
        mean = (torch.from_numpy(images) * places).double().mean((1, 2, 3)) / 50
        return (self.slopes[:, None, None] * mean[:, None] * torch.tensor([1.0, 0, -1])).float()


@pytest.fixture
def kept():
    """Two algorithms with five kept models in stacks of three; those of the second retrain."""
    return {
        a: [Brightness(slopes, retrains=a == 2) for slopes in ([a, 2.0, 3.0], [4.0, 5.0, -9.0])]
        for a in (1, 2)
    }


@pytest.fixture
def models(kept) -> SimpleNamespace:
    return SimpleNamespace(
        kept=lambda algorithm, _=None: kept[algorithm],
        plan=SimpleNamespace(n_keep=5),
        kept_slots=lambda: None,
        dataset=make_scenes(n_train=12, n_test=15, size=16, seed=0),
        names=("p", "q"),
    )


def test_effects_are_those_of_each_change_by_itself(models, kept):
    images = models.dataset.test.images
    tested = [hypothesis(1), hypothesis(2).model_copy(update={"name": "twice"})]
    found = measure_effects(models, tested, Placebo(intensities=[4]), seed=3)
    assert len(found) == 2 * (2 + 1) * 3
    for row in found[found["algorithm"] > 0].itertuples():
        changed = transform_images(row.transformation, images, row.intensity, seed=3)
        before, after = (
            torch.cat([m.logits(x) for m in kept[row.algorithm]])[:5].softmax(-1)[..., 0].numpy()
            for x in (images, changed)
        )
        wanted = treatment_effect(before, after)
        np.testing.assert_allclose(
            [row.effect, row.low, row.high], [wanted.mean, wanted.low, wanted.high], atol=1e-4
        )


def test_what_trains_anew_is_asked_once_for_everything(models, kept):
    tested = [hypothesis(1), hypothesis(2).model_copy(update={"name": "twice"})]
    measure_effects(models, tested, Placebo(intensities=[4]), seed=0)
    changes = 1 + 2 + 1  # as they are, two tags, a placebo; hypotheses share them
    assert [stack.asked for stack in kept[1]] == [[15] * changes] * 2
    assert [stack.asked for stack in kept[2]] == [[15 * changes]] * 2


def test_without_hypotheses_no_model_is_asked(models, kept):
    assert not len(measure_effects(models, [], Placebo(), seed=0))
    assert kept[1][0].asked == kept[2][0].asked == []
