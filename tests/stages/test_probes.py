from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from mdhelpers.base.threads import one_thread
from mdhelpers.data.scenes import crossed_factors, factor_levels, redraw, with_level
from mdhelpers.method.effects import difference, treatment_effect
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import ALL_DATA, EFFECTS, PROBES
from mdhelpers.stages import data, models, probes
from mdhelpers.stages.effect_models import read_effect_models, train_on_all
from mdhelpers.stages.effects import StudyEffects
from mdhelpers.stages.probes import TABLES, StudyProbes, probe_algorithms
from mdhelpers.stages.proposals import few_of_each, halves
from tests.stages.test_models import DATA, MODELS

BUDGET = {"patch_size": 4, "patch_steps": 6, "n_swept": 12, "n_levels": 2, "n_crossed": 150}


def known() -> dict[str, pd.DataFrame]:
    """What stage 07 would have found: two features, one of them tested on two classes."""
    verdicts = pd.DataFrame(
        [
            ("tag", "study", "tag", "boat", 1, 4.0),
            ("ring", "study", "ring", "house", 2, 9.0),
            ("tag → house", "proposed", "tag", "house", 0, 5.0),
        ],
        columns=["hypothesis", "source", "transformation", "class_name", "uses", "intensity"],
    )
    rows = [
        (h, kind, t, x, name, a, 10.0 * x + a, 0.0, 99.0, 0.5)
        for h, t, doses in (("tag", "tag", (3.0, 4.0)), ("ring", "ring", (9.0,)),
                            ("tag → house", "tag", (5.0,)))
        for x in doses
        for kind in ("feature", "placebo")
        for name in ("boat", "fish", "house")
        for a in (1, 2, 0)
    ]  # fmt: skip
    columns = ["hypothesis", "kind", "transformation", "intensity", "class_name", "algorithm"]
    table = pd.DataFrame(rows, columns=[*columns, "effect", "low", "high", "p"])
    return {"effects": table, "verdicts": verdicts, "proposals": pd.DataFrame({"q": []})}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    run = Run("s", runs_dir=tmp_path_factory.mktemp("runs"))
    data.prepare_data(run, DATA)
    models.train_models(run, **MODELS, workers=1)
    train_on_all(run, n_effect_models=3, workers=1)
    stage = run.stage(EFFECTS, {}, after=[ALL_DATA])
    with stage.working():
        stage.keep(tables=known())
    return run


@pytest.fixture(scope="module")
def found(run) -> StudyProbes:
    return probe_algorithms(run, **BUDGET, device="cpu")


@pytest.fixture(scope="module")
def trained(run):
    return read_effect_models(run, device="cpu")


def softmax(trained, algorithm, images):
    return trained.logits(algorithm, images).softmax(-1).numpy()


def test_every_table_has_its_columns(found):
    for name, columns in TABLES.items():
        table = getattr(found, name)
        assert list(table) == list(columns)
        assert len(table)


def test_patches_are_proposed_for_the_classes_of_the_first_hypotheses(found):
    named = found.patch_effects.groupby("side")["class_name"].unique()
    assert named[1].tolist() == ["boat"]
    assert named[2].tolist() == ["house"]
    assert set(found.patches) == {(a, w) for a in (1, 2) for w in ("anywhere", "one place")}
    for (_, where), each in found.patches.items():
        assert each.patch.shape == (4, 4, 3)
        assert len(each.objective) == 6
        assert (each.place is None) == (where == "anywhere")


def test_effects_of_patches_are_of_other_models_on_the_other_half(found, trained):
    test = trained.dataset.test
    _, rows = halves(30, 0)
    for (side, _), each in found.patches.items():
        where = "anywhere" if each.place is None else "one place"  # noqa: F841
        top, left = probes.judged_places(test.images[rows], each, 0)
        after = test.images[rows].copy()
        for i in range(len(rows)):
            after[i, top[i] : top[i] + 4, left[i] : left[i] + 4] = each.patch
        label = {1: 0, 2: 2}[side]
        pairs = [
            [softmax(trained, a, x)[..., label] for x in (test.images[rows], after)] for a in (1, 2)
        ]
        wanted = [treatment_effect(*pair) for pair in pairs] + [difference(*pairs[0], *pairs[1])]
        table = found.patch_effects.query(
            "side == @side and where == @where and kind == 'patch'"
        ).set_index("algorithm")
        for a, effect in zip((1, 2, 0), wanted, strict=True):
            got = table.loc[a, ["effect", "low", "high", "p"]].astype(float)
            told = [effect.mean, effect.low, effect.high, effect.p]
            np.testing.assert_allclose(got, told, atol=1e-3)


def test_features_of_stage_07_stand_beside_at_their_verdicts_intensity(found):
    rows = found.patch_effects.query("kind == 'feature' and algorithm == 0")
    got = rows[["side", "name", "intensity", "effect"]].to_numpy().tolist()
    assert [1, "tag", 4.0, 40.0] in got
    assert [2, "tag", 5.0, 50.0] in got  # tested on the side's own class
    assert [2, "ring", 9.0, 90.0] in got
    assert len(got) == 4


def test_patches_are_the_same_bits_again(found, trained):
    targets = probes.sides(known()["verdicts"], trained.dataset.class_names, "")
    cases = [probes.PatchCase(*side, "anywhere") for side in targets.items()]
    with one_thread():
        again = probes.propose_patches(trained, cases, 4, 6, 0)
    for case, each in again.items():
        first = found.patches[case.side, case.where]
        assert np.array_equal(each.patch, first.patch)
        assert np.array_equal(each.objective, first.objective)


def test_sweeps_are_of_the_same_scenes_with_one_factor_changed(found, trained):
    test = trained.dataset.test
    rows = few_of_each(test.labels, np.arange(30), 4, 0)
    scenes = test.metadata.iloc[rows].reset_index(drop=True)
    levels = factor_levels(2)
    assert found.sweeps["factor"].unique().tolist() == list(levels)
    for name, place in (("tag_corner", 2), ("contrast", 1), ("feature_ring", 1)):
        images = redraw(with_level(scenes, name, levels[name][place]), 16, seed=0).images
        each = found.sweeps.query("factor == @name and place == @place and class_name == ''")
        for a in (1, 2):
            p = softmax(trained, a, images)[:, np.arange(12), test.labels[rows]]
            got = each.set_index("algorithm").loc[a, "confidence"]
            assert got == pytest.approx(100 * p.mean(), abs=1e-3)
    assert len(found.sweeps) == sum(map(len, levels.values())) * 4 * 2


def test_swings_are_measured_on_scenes_that_did_not_choose_their_levels(trained):
    rng = np.random.default_rng(0)
    chosen = [rng.random((3, 4, 10)) for _ in range(2)]
    first, last, *numbers, _ = probes.swing(trained, chosen, list("abcd"))
    gap = chosen[0][:, :, ::2].mean((0, 2)) - chosen[1][:, :, ::2].mean((0, 2))
    assert {first, last} == {"abcd"[gap.argmin()], "abcd"[gap.argmax()]}
    low, high = ("abcd".index(level) for level in (first, last))
    change = [100 * (c[:, high, 1::2] - c[:, low, 1::2]).mean() for c in chosen]
    np.testing.assert_allclose(numbers[::3], [*change, change[0] - change[1]])


def test_confidences_in_crossed_scenes_are_means_over_models(found, trained):
    crossed = crossed_factors(150, features=["ring", "stripes", "tag"], seed=0)
    images = redraw(crossed, 16, seed=1).images
    means = [
        100 * softmax(trained, a, images)[:, np.arange(150), crossed["label"]].mean(0)
        for a in (1, 2)
    ]
    for a, mean in enumerate((means[0] - means[1], *means)):
        np.testing.assert_allclose(found.crossed[f"confidence_{a}"], mean, atol=1e-3)


def test_a_planted_pair_of_factors_is_named_and_no_other():
    crossed = crossed_factors(1500, features=["ring", "tag"], seed=3)
    noise = np.random.default_rng(0).normal(0, 10, (3, 1500))
    both = crossed["feature_ring"] & (crossed["class_name"] == "fish")
    planted = {f"confidence_{a}": 50 + 8 * crossed["feature_ring"] + noise[a] for a in (0, 1, 2)}
    planted["confidence_2"] = planted["confidence_2"] + 30 * both
    table = probes.pair_table(crossed.assign(**planted))
    sure = table[table["p_corrected"] < 0.05]
    got = sure[["algorithm", "factor_1", "factor_2"]].to_numpy().tolist()
    assert got == [[2, "class_name", "feature_ring"]]
    assert "feature_stripes" not in set(table["factor_1"])  # which no scene has


def test_levels_of_crossed_scenes_have_words():
    crossed = crossed_factors(300, features=["ring", "tag"], seed=0)
    names = {name: probes.level_names(crossed[name]) for name in crossed}
    assert names["contrast"].cat.categories.tolist() == ["low", "middle", "high"]
    low = crossed["contrast"][names["contrast"] == "low"]
    assert low.max() <= crossed["contrast"][names["contrast"] == "middle"].min()
    assert names["feature_ring"].map({"yes": True, "no": False}).eq(crossed["feature_ring"]).all()
    assert (names["tag_corner"] == "none").eq(crossed["tag_corner"] == "").all()


def test_the_gap_is_that_of_accuracies_on_exchanged_backgrounds(found, trained):
    table = found.backgrounds.set_index(["images", "algorithm"])["accuracy"]
    test = trained.dataset.test
    for a in (1, 2):
        right = trained.logits(a, test.images).argmax(-1).numpy() == test.labels
        assert table["original", a] == pytest.approx(100 * right.mean())
        assert table[probes.GAP, a] == pytest.approx(
            table["mixed same", a] - table["mixed rand", a]
        )
    for name in ("original", probes.GAP):
        assert table[name, 0] == pytest.approx(table[name, 1] - table[name, 2])


def test_backgrounds_come_from_where_they_are_said_to_come(trained):
    test = trained.dataset.test
    inside = test.foreground[..., None]
    for name, kind in probes.SWAPPED.items():
        images = probes.swapped_images(test, kind, 0)
        assert (images == test.images)[np.broadcast_to(inside, images.shape)].all()
        assert (name == "original") == np.array_equal(images, test.images)


def test_it_is_read_when_it_is_done(run, found, monkeypatch):
    monkeypatch.setattr(probes, "confidences", None)
    again = probe_algorithms(run, **BUDGET, device="cpu")
    assert again.patch_effects.equals(found.patch_effects)
    assert again.patches.keys() == found.patches.keys()


def test_figures_tell_the_strongest_of_each(run, found):
    figures = run.results[PROBES]
    assert figures["n_models"] == 3
    rows = found.patch_effects.query("side == 2 and algorithm == 0")
    patch = rows.query("kind == 'patch' and where == 'one place'")["effect"].item()
    told = figures["patches"]["side_2"]
    assert told["one_place"]["effect"] == pytest.approx(patch)
    assert told["feature"]["name"] == "tag"  # +50 and +90: the least against algorithm 2
    gap = found.backgrounds.query("images == @probes.GAP and algorithm == 0")["accuracy"].item()
    assert figures["background_gap"]["0"]["accuracy"] == pytest.approx(gap)


def other(run, **changes):
    return probe_algorithms(Run("s", runs_dir=run.path.parent), **BUDGET | changes, device="cpu")


def test_without_networks_no_patch_is_made(run, monkeypatch):
    monkeypatch.setattr(probes, "some_networks", lambda *_: iter(()))
    found = other(run, seed=5)
    assert found.patches == {}
    assert found.patch_effects.empty
    assert list(found.patch_steps) == list(TABLES["patch_steps"])
    assert len(found.backgrounds)


def test_without_factors_or_masks_there_is_nothing_to_sweep_or_swap(trained):
    test = replace(trained.dataset.test, foreground=None)
    folder = replace(trained.dataset, name="folder", test=test)
    given = SimpleNamespace(dataset=folder)
    scenes = {"n_swept": 12, "n_levels": 2, "n_crossed": 150, "seed": 0}
    assert probes.probe_scenes(given, **scenes) == {}
    assert probes.probe_backgrounds(given, 0).empty


def test_models_that_were_trained_elsewhere_are_not_asked(run, monkeypatch):
    monkeypatch.setattr(models.StudyModels, "made_elsewhere", property(lambda _: True))
    monkeypatch.setattr(probes, "confidences", None)
    found = other(run, seed=6)
    assert found.patches == {}
    assert all(getattr(found, name).empty for name in (*TABLES, "crossed"))


@pytest.mark.parametrize(
    ("wanted", "uses", "classes"),
    [
        ("", [1, 2], {1: "a", 2: "b"}),
        ("", [0, 2], {1: "z", 2: "b"}),
        ("", [0, 0], {1: "z", 2: "z"}),
        ("b", [1, 2], {1: "b", 2: "b"}),
    ],
)
def test_a_side_s_class_is_that_of_its_first_hypothesis(wanted, uses, classes):
    verdicts = pd.DataFrame({"source": "study", "uses": uses, "class_name": ["a", "b"]})
    assert probes.sides(verdicts, ("z", "a", "b"), wanted) == classes


def test_an_unknown_class_is_refused(run):
    with pytest.raises(ValueError, match=r"patch_class: unknown class 'boot'; did you mean 'boat'"):
        other(run, patch_class="boot", seed=7)


def test_what_trains_anew_is_asked_once_for_all():
    asked = []

    def models_of(retrains):
        def logits(images):
            asked.append(len(images))
            means = torch.from_numpy(images).double().mean((1, 2))[None].float()
            return torch.cat([means, 2 * means])

        return [SimpleNamespace(retrains=retrains, stateless=True, logits=logits)]

    images = {name: np.full((n, 4, 4, 3), n, np.uint8) for name, n in (("a", 2), ("b", 5))}
    parts = {name: lambda x=x: x for name, x in images.items()}
    results = []
    for retrains in (True, False):
        kept = {1: models_of(retrains), 2: models_of(False)}
        given = SimpleNamespace(kept=kept.get, n_models=2)
        results.append(probes.confidences(given, parts))
    assert asked == [7, 7, 2, 2, 5, 5]
    for name, each in images.items():
        for one, two in zip(*(r[name] for r in results), strict=True):
            assert one.shape == (2, len(each), 3)
            np.testing.assert_array_equal(one, two)


def test_natural_rows_of_no_verdicts_are_none():
    tables = known()
    nothing = StudyEffects(*(tables[name].head(0) for name in ("effects", "verdicts", "proposals")))
    assert probes.natural_rows(nothing, 1, "boat") == []
