import numpy as np
import pytest

from mdhelpers.data.drawings import CORNERS
from mdhelpers.data.scenes import CLASS_NAMES, FEATURES, PLANTED, make_scenes, random_scenes


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
