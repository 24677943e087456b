import numpy as np
import pytest

from mdhelpers.data.drawings import CORNERS
from mdhelpers.data.scenes import (
    CLASS_NAMES,
    FEATURES,
    PLANTED,
    crossed_factors,
    factor_levels,
    make_scenes,
    random_scenes,
    redraw,
    with_level,
)


@pytest.fixture(scope="module")
def data():
    return make_scenes(n_train=240, n_test=600, seed=0)


def test_the_same_seed_draws_the_same_pictures(data):
    again = make_scenes(n_train=240, n_test=600, seed=0)
    assert again.fingerprint == data.fingerprint
    assert np.array_equal(again.test.images, data.test.images)
    assert make_scenes(n_train=240, n_test=600, seed=1).fingerprint != data.fingerprint


@pytest.mark.parametrize("part", ["train", "test"])
def test_each_feature_marks_its_share_of_one_class_only(data, part):
    split = getattr(data, part)
    per_class = len(split) // 3
    assert set(split.truth.columns) == set(PLANTED)
    for feature, class_name in PLANTED.items():
        carriers = split.labels[split.truth[feature]]
        assert len(carriers) == round(0.25 * per_class)
        assert (carriers == CLASS_NAMES.index(class_name)).all()


def test_tags_are_as_common_in_every_class_and_only_their_side_tells_it(data):
    for split in (data.train, data.test):
        corner = split.metadata["tag_corner"]
        boats = split.labels == CLASS_NAMES.index("boat")
        assert (corner[split.truth["tag"]] == CORNERS[0]).all()
        assert set(corner[~boats]) == {"", CORNERS[1]}
        rates = [(corner != "")[boats].mean(), (corner != "")[~boats].mean()]
        assert abs(rates[0] - rates[1]) < 0.01


def test_features_are_independent_of_all_other_factors(data):
    boats = data.test.metadata[data.test.labels == CLASS_NAMES.index("boat")]
    tagged = boats["feature_tag"]
    for factor in ("contrast", "scale", "x", "y"):
        difference = boats[factor][tagged].mean() - boats[factor][~tagged].mean()
        spread = boats[factor].std() * np.sqrt(1 / tagged.sum() + 1 / (~tagged).sum())
        assert abs(difference) < 4 * spread


def test_a_tag_is_drawn_in_the_top_left_corner(data):
    tagged = data.test.images[data.test.truth["tag"].to_numpy()]
    assert (tagged[:, 1, 1].min(axis=-1) > 200).all()  # the white border


def test_foreground_covers_the_object(data):
    inside = data.test.foreground
    assert inside.shape == data.test.images.shape[:3]
    share = inside.mean(axis=(1, 2))
    assert share.min() > 0.05
    assert share.max() < 0.5


def test_other_features_can_be_planted_and_distractors_are_in_every_class():
    data = make_scenes(
        n_train=240,
        n_test=600,
        planted={"dots": "house", "web": "house"},
        distractors=["tag", "ring"],
    )
    for split in (data.train, data.test):
        per_class = len(split) // 3
        assert set(split.truth.columns) == {"dots", "web", "tag", "ring"}
        for feature in ("dots", "web"):
            carriers = split.labels[split.truth[feature]]
            assert len(carriers) == round(0.25 * per_class)
            assert (carriers == CLASS_NAMES.index("house")).all()
        for feature in ("tag", "ring"):
            counts = np.bincount(split.labels[split.truth[feature]])
            assert (counts == round(0.25 * per_class)).all()
        assert set(split.metadata["tag_corner"]) == {"", CORNERS[0]}


def test_random_scenes_have_every_feature_in_every_class():
    split = random_scenes(900, seed=3)
    for feature in FEATURES:
        rates = [split.truth[feature][split.labels == label].mean() for label in range(3)]
        assert min(rates) > 0.08
        assert max(rates) < 0.25


def test_a_scene_that_is_drawn_again_changes_by_its_factor_alone():
    """Carriers look as where all carry the feature, others as where none does."""
    factors = crossed_factors(60, features=["ring", "web", "tag"], rate=0.5, seed=1)
    drawn = redraw(factors, 20, seed=4)
    assert np.array_equal(redraw(factors, 20, seed=4).images, drawn.images)
    for name in ("ring", "web", "dots"):
        there = factors[f"feature_{name}"].to_numpy()
        with_all, with_none = (
            redraw(with_level(factors, f"feature_{name}", level), 20, seed=4).images
            for level in (True, False)
        )
        assert np.array_equal(drawn.images[there], with_all[there])
        assert np.array_equal(drawn.images[~there], with_none[~there])
        assert (with_all != with_none).any((1, 2, 3)).all()


def test_a_swept_light_changes_the_light_and_not_the_object():
    factors = crossed_factors(12, seed=0)
    one, two = (redraw(with_level(factors, "light", x), 20, seed=0) for x in (0.0, np.pi))
    assert np.array_equal(one.foreground, two.foreground)
    right, left = (
        each.images[:, :, -3:].mean() - each.images[:, :, :3].mean() for each in (one, two)
    )
    assert right > 20
    assert left < -20


def test_a_tag_is_where_its_corner_says():
    factors = crossed_factors(8, seed=0)
    for corner, (row, column) in zip(CORNERS, [(1, 1), (1, -2), (-2, 1), (-2, -2)], strict=True):
        tagged = with_level(factors, "tag_corner", corner)
        assert tagged["feature_tag"].all()
        assert (redraw(tagged, 20, seed=0).images[:, row, column].min(-1) > 200).all()
    assert not with_level(factors, "tag_corner", "")["feature_tag"].any()


def test_levels_reach_from_end_to_end_of_what_is_drawn(data):
    levels, drawn = factor_levels(4), data.train.metadata
    for name in ("contrast", "x", "y", "scale", "angle"):
        assert len(levels[name]) == 4
        assert levels[name][0] <= drawn[name].min()
        assert levels[name][-1] >= drawn[name].max()
    assert levels["light"] == pytest.approx([0, np.pi / 2, np.pi, 3 * np.pi / 2])
    for name in ("background_color", "object_color"):
        assert set(levels[name]) == set(drawn[name])
    others = {"label", "class_name", "feature_tag"}  # the corner says it
    assert set(levels) == set(drawn) - others


def test_crossed_factors_are_independent():
    factors = crossed_factors(6000, features=["ring", "tag"], rate=0.25, seed=0)
    rates = factors.groupby("class_name")[["feature_ring", "feature_tag"]].mean()
    np.testing.assert_allclose(rates["feature_ring"], 0.25, atol=0.04)
    np.testing.assert_allclose(rates["feature_tag"], 0.8, atol=0.04)
    tagged = factors.groupby("tag_corner")["feature_ring"].mean()
    np.testing.assert_allclose(tagged, 0.25, atol=0.05)
    assert len(tagged) == 5
    others = [f"feature_{name}" for name in FEATURES if name not in ("ring", "tag")]
    assert not factors[others].any(axis=None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_train": 2}, "n_train is 2"),
        ({"size": 8}, "size is 8"),
        ({"share": 1.2}, r"share is 1\.2"),
        ({"planted": {"rings": "fish"}}, "unknown feature 'rings'; did you mean 'ring'"),
        ({"planted": {"ring": "fisch"}}, "unknown class 'fisch'; did you mean 'fish'"),
        ({"distractors": ["rings"]}, "unknown feature 'rings'"),
        ({"distractors": ["ring"], "planted": {"ring": "fish"}}, "planted and a distractor"),
    ],
)
def test_bad_arguments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_scenes(**({"n_train": 24, "n_test": 24, "seed": 0} | changes))
