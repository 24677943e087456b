"""Stage 07 on a tiny run: models of all data, effects, verdicts, and what is called a finding."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mdhelpers.data.scenes import make_scenes
from mdhelpers.data.transforms import (
    Around,
    parse_transformation,
    placebo_images,
    transform_images,
)
from mdhelpers.method.effects import difference, treatment_effect
from mdhelpers.runs.run import Run, StudyError
from mdhelpers.runs.stage import EFFECTS
from mdhelpers.stages import (
    captions,
    comparison,
    effect_cases,
    effect_models,
    subpopulations,
)
from mdhelpers.stages import effects as stage
from mdhelpers.stages.study import Hypothesis, Placebo
from mdhelpers.training.learners import TrainedModels
from tests.stages.test_models import compared

TAG = {"transformation": "tag", "intensities": [3, 5], "target_class": "boat", "uses": 1}


def hypothesis(name: str = "tag", **more) -> Hypothesis:
    return Hypothesis(**TAG | {"name": name} | more)


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
    """Two algorithms with five models in stacks of three; those of the second retrain."""
    return {
        a: [Brightness(slopes, retrains=a == 2) for slopes in ([a, 2.0, 3.0], [4.0, 5.0, -9.0])]
        for a in (1, 2)
    }


@pytest.fixture
def few(kept) -> SimpleNamespace:
    return SimpleNamespace(
        kept=lambda algorithm: kept[algorithm],
        n_models=5,
        slots=lambda _: None,
        dataset=make_scenes(n_train=12, n_test=15, size=16, seed=0),
        names=("p", "q"),
    )


def cases(few, *wanted: Hypothesis) -> list[effect_cases.Case]:
    none = pd.DataFrame(columns=["transformation", "class_name"])
    return effect_cases.cases_of(list(wanted), none, {}, len(few.dataset.test), 3)


def measured(few, *wanted, placebo=None):
    return effect_cases.measure(few, cases(few, *wanted), placebo or Placebo(), 5.0, 10.0, 3)


def confidences(stacks, images) -> np.ndarray:
    return torch.cat([m.logits(images) for m in stacks])[:5].softmax(-1).numpy()


def test_effects_are_those_of_each_change_by_itself(few, kept):
    test, classes = few.dataset.test, few.dataset.class_names
    table, _ = measured(few, hypothesis(), hypothesis("twice", target_class="fish"))
    assert len(table) == 2 * (2 + 2) * 3 * 3
    assert set(table["class_name"]) == set(classes)
    around = Around(test.foreground, test.labels)
    for row in table.itertuples():
        images = transform_images("tag", test.images, row.intensity, seed=3, around=around)
        if row.kind == "placebo":
            images = placebo_images(test.images, images, labels=test.labels, seed=3)
        label = classes.index(row.class_name)
        pairs = [
            tuple(confidences(kept[a], x)[..., label] for x in (test.images, images))
            for a in (1, 2)
        ]
        wanted = difference(*pairs[0], *pairs[1])
        if row.algorithm:
            wanted = treatment_effect(*pairs[row.algorithm - 1])
        found = [row.effect, row.low, row.high]
        np.testing.assert_allclose(found, [wanted.mean, wanted.low, wanted.high], atol=1e-3)


def test_a_change_that_changes_nothing_has_no_effect(few):
    dark = few.dataset.test.images
    dark[:] = dark.mean((1, 2), keepdims=True).astype(np.uint8)
    table, verdicts = measured(few, hypothesis(transformation="mirror", intensities=[100]))
    assert (table[["effect", "low", "high"]] == 0).all(axis=None)
    assert verdicts["outcome"].item() == "neither"


def test_a_placebo_of_ones_own_is_tested_at_its_intensities(few):
    own = Placebo(transformation="scrambled_square", intensities=[4])
    table, _ = measured(few, hypothesis(), placebo=own)
    rows = table[table["kind"] == "placebo"]
    assert set(rows["transformation"]) == {"scrambled_square"}
    assert set(rows["intensity"]) == {4}


def test_what_trains_anew_is_asked_once_for_everything(few, kept):
    measured(few, hypothesis(), hypothesis("twice", target_class="fish"))
    changes = 2 + 2  # two tags and their placebos; hypotheses share them
    assert [stack.asked for stack in kept[1]] == [[15] * (1 + changes)] * 2
    assert [stack.asked for stack in kept[2]] == [[15, 15 * changes]] * 2


def test_without_hypotheses_no_model_is_asked(few, kept):
    table, verdicts = measured(few)
    assert not len(table)
    assert not len(verdicts)
    assert kept[1][0].asked == kept[2][0].asked == []


def test_what_is_proposed_is_tested_on_the_other_half_and_only_once():
    tag = parse_transformation("tag")
    chosen = pd.DataFrame(
        {"transformation": ["tag", "tag", "tag"], "class_name": ["boat", "fish", "fish"]}
    )
    found = effect_cases.cases_of([hypothesis()], chosen, {"tag": (tag, 5.0)}, 15, 3)
    assert [case.name for case in found] == ["tag", "tag → fish"]
    proposing, testing = stage.proposals.halves(15, 3)
    assert sorted([*proposing, *testing]) == list(range(15))
    assert found[1].rows.tolist() == testing.tolist()
    assert found[1].intensities == (3.0, 4.0, 5.0)


@pytest.mark.parametrize(
    ("uses", "outcome", "expected"),
    [
        (1, "only_1", "as expected"),
        (1, "more_1", "as expected"),
        (1, "more_2", "not as expected"),
        (1, "alike", "not as expected"),
        (0, "alike", "as expected"),
        (0, "neither", "as expected"),
        (0, "only_2", "not as expected"),
        (2, "undecided", "undecided"),
        (np.nan, "more_1", ""),
    ],
)
def test_an_expectation_is_held_against_the_outcome(uses, outcome, expected):
    assert stage.as_expected(uses, outcome) == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = compared(tmp_path_factory.mktemp("runs"))
    subpopulations.inspect_subpopulations(run, top_k=12)
    captions.caption_directions(run, {"model": "none"})
    effect_models.train_on_all(run, n_effect_models=3, workers=1)
    return run


def test_models_of_all_data_saw_every_training_image_from_seeds_of_their_own(run):
    found = effect_models.read_effect_models(run)
    assert found.n_models == 3
    plan = found.plans[0]
    assert plan.masks(slice(0, 3)).all()
    assert not set(plan.keys(slice(0, 3))) & set(range(100))
    logits = found.logits(1, found.dataset.test.images)
    assert logits.shape == (3, len(found.dataset.test), 3)
    assert not torch.equal(logits[0], logits[1])
    assert run.results[EFFECTS]["n_models"] == 3


def test_a_second_call_trains_nothing(run, monkeypatch):
    monkeypatch.setattr(effect_models, "retrain", None)
    assert effect_models.train_on_all(run, n_effect_models=3).n_models == 3


def test_a_damaged_model_is_trained_again(run):
    (path,) = sorted(run.folder.glob("retrained/effects_1-*/checkpoints_1/00000.safetensors"))
    before = path.read_bytes()
    path.write_bytes(before[:-8] + b"damaged!")
    with pytest.raises(StudyError, match="changed"):
        effect_models.read_effect_models(run).logits(1, np.zeros((1, 16, 16, 3), np.uint8))
    effect_models.train_on_all(run, n_effect_models=3, workers=1)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def found(run) -> stage.StudyEffects:
    return stage.verify_hypotheses(run, [TAG], epsilon=8)


def test_every_hypothesis_has_a_verdict_with_its_figures(run, found):
    row = found.verdicts.iloc[0]
    assert (row["hypothesis"], row["source"], row["class_name"]) == ("tag", "study", "boat")
    at = found.effects.query("hypothesis == 'tag' and kind == 'feature' and class_name == 'boat'")
    at = at[at["intensity"] == row["intensity"]].set_index("algorithm")["effect"]
    assert row["difference"] == pytest.approx(at[1] - at[2])
    assert row["difference"] == pytest.approx(at[0])
    figures = run.results[EFFECTS]["tag"]
    assert figures["outcome"] == row["outcome"]
    assert figures["expected"] == stage.as_expected(1, row["outcome"])


def test_only_a_called_direction_that_is_matched_and_borne_out_is_a_finding(
    run, found, monkeypatch
):
    monkeypatch.setattr(stage.proposals, "_FEWEST", 1)
    assert stage.read_findings(run)["finding"].dtype == bool
    called = comparison.read_comparison(run)
    every = comparison.StudyComparison(
        called.comparison, called.gaps.assign(q=0.01, confirmed="confirmed"), None, None,
        called.datamodels,
    )  # fmt: skip
    monkeypatch.setattr(stage, "read_comparison", lambda _: every)
    first = stage.read_findings(run).iloc[0]
    row = {key: first[key] for key in stage.FINDING_KEYS} | {"class_name": first["class_name"]}
    row |= {"n": 12, "transformation": "tag", "match": 0.9, "p": 0.001, "q": 0.01, "moved": 0.5}
    proposals = pd.DataFrame([row])
    side = 1 if first["comparison"] == "1_minus_2" else 2
    for outcome, confirmed, wanted in (
        (f"only_{side}", "confirmed", True),
        (f"more_{side}", "not tested", True),
        (f"more_{side}", "not confirmed", False),
        (f"only_{3 - side}", "confirmed", False),
        ("alike", "confirmed", False),
        ("undecided", "confirmed", False),
    ):
        verdicts = found.verdicts.head(1).assign(outcome=outcome, class_name=first["class_name"])
        given = stage.StudyEffects(found.effects, verdicts, proposals)
        gaps = every.gaps.assign(confirmed=confirmed)
        monkeypatch.setattr(stage, "read_effects", lambda _, given=given: given)
        monkeypatch.setattr(
            stage,
            "read_comparison",
            lambda _, gaps=gaps: comparison.StudyComparison(
                every.comparison, gaps, None, None, every.datamodels
            ),
        )
        assert stage.read_findings(run)["finding"].sum() == wanted, (outcome, confirmed)


def test_a_class_that_is_not_there_is_refused(run):
    with pytest.raises(ValueError, match="unknown class 'boot'"):
        stage.verify_hypotheses(run, [TAG | {"target_class": "boot"}])


def test_planted_features_are_graded_by_what_is_called_a_finding(few):
    verdicts = pd.DataFrame(
        [
            ("study", "tag", "boat", "only_1"),
            ("study", "ring", "fish", "more_2"),
            ("study", "stripes", "house", "alike"),
            ("proposed", "tag", "fish", "only_1"),
        ],
        columns=["source", "transformation", "class_name", "outcome"],
    )
    findings = pd.DataFrame(
        [
            ("1_minus_2", 3, "top", "boat", "tag", True),
            ("2_minus_1", 1, "top", "fish", "ring", False),
            ("1_minus_2", 5, "bottom", "house", "stripes", True),
        ],
        columns=[*stage.FINDING_KEYS, "class_name", "transformation", "finding"],
    )
    table = stage.recovery_of(findings, verdicts, few.dataset).set_index("feature")
    assert table["grade"].to_dict() == {"tag": "right", "ring": "missed", "stripes": "wrong"}
    assert table["found_by"]["tag"] == "1_minus_2 3 top"
    unsure = verdicts.assign(outcome="undecided")
    assert set(stage.recovery_of(findings, unsure, few.dataset)["grade"]) == {"undecided"}
    nothing = findings.assign(finding=False)
    grades = stage.recovery_of(nothing, verdicts, few.dataset).set_index("feature")["grade"]
    assert grades.to_dict() == {"tag": "missed", "ring": "missed", "stripes": "right"}
    assert stage.recovery_of(findings, verdicts.head(0), few.dataset).empty


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tag", "Adding a tag"),
        ("square (255, 0, 0)", "Adding a red square"),
        ("square (255, 165, 0)", "Adding an orange square"),
        ("square (1, 2, 3)", "Adding a #010203 square"),
        ("ring %", "Applying ring %"),
        ("low_pass", "Applying low pass"),
        ("grayscale + web", "Applying grayscale + web"),
    ],
)
def test_a_transformation_is_said_as_one_does_it(name, said):
    assert stage.applied(name) == said
