import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from mdhelpers.method.comparison import DirectionSet, compare
from mdhelpers.method.subpopulations import (
    best_at_random,
    class_shares,
    grade,
    grade_scores,
    influence_on_tests,
    influence_table,
    match_features,
    most_influenced,
    random_same_class,
    relative_influence,
    shows,
    subpopulations,
    used_by,
)


def directions_with(projections):
    n_directions = projections.shape[1]
    return DirectionSet(
        name="1_minus_2",
        directions=np.eye(n_directions, 9, dtype=np.float32),
        projections=projections.astype(np.float32),
        explained_variance=np.zeros((n_directions, 2), dtype=np.float32),
        component=np.array([4, 1, 7][:n_directions]),
    )


def draw():
    rng = np.random.default_rng(0)
    projections = np.round(rng.normal(size=(60, 3)), 1)  # ties
    labels = np.arange(60) % 3
    truth = pd.DataFrame({"tag": (labels == 2) & (rng.random(60) < 0.4), "ring": labels > 5})
    return directions_with(projections), labels, truth


def test_both_ends_in_order():
    direction_set, _, _ = draw()
    table = subpopulations(direction_set, top_k=5)
    assert list(table) == ["comparison", "direction", "end", "rank", "index", "projection"]
    assert len(table) == 3 * 2 * 5
    for position, component in enumerate([4, 1, 7]):
        projections = direction_set.projections[:, position]
        rows = table[table["direction"] == component]
        top, bottom = rows[rows["end"] == "top"], rows[rows["end"] == "bottom"]
        np.testing.assert_array_equal(top["projection"], np.sort(projections)[::-1][:5])
        np.testing.assert_array_equal(bottom["projection"], np.sort(projections)[:5])
        np.testing.assert_array_equal(projections[top["index"]], top["projection"])
        assert top["rank"].tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("top_k", [0, 31])
def test_refuses_ends_that_overlap(top_k):
    with pytest.raises(ValueError, match="expected 1 to 30"):
        subpopulations(draw()[0], top_k=top_k)


def test_grades_agree_with_scikit_learn():
    direction_set, labels, truth = draw()
    table = grade(direction_set, labels, truth).query("feature == 'tag'")
    carries, in_class = truth["tag"].to_numpy(), labels == 2
    assert len(table) == 6
    for row in table.itertuples():
        position = list(direction_set.component).index(row.direction)
        sign = 1 if row.end == "top" else -1
        scores = sign * direction_set.projections[:, position]
        assert row.auc == pytest.approx(roc_auc_score(carries, scores))
        within = roc_auc_score(carries[in_class], scores[in_class])
        assert row.auc_within_class == pytest.approx(within)
        assert row.n == carries.sum()
        outermost = np.argsort(-scores, kind="stable")[: carries.sum()]
        assert row.precision_at_k == pytest.approx(carries[outermost].mean())


def test_finding_only_the_class_earns_one_half():
    labels = np.arange(60) % 3
    truth = pd.DataFrame({"tag": (labels == 2) & (np.arange(60) < 30)})
    table = grade(directions_with((labels == 2)[:, None].astype(float)), labels, truth)
    top = table.query("end == 'top'").iloc[0]
    assert top["auc_within_class"] == pytest.approx(0.5)
    assert top["auc"] > 0.8


def test_a_feature_nobody_carries_has_no_grade():
    table = grade(*draw()).query("feature == 'ring'")
    assert table[["auc_within_class", "auc", "precision_at_k"]].isna().all(axis=None)
    assert (table["n"] == 0).all()


def test_scores_are_graded_as_projections_are():
    direction_set, labels, truth = draw()
    table = grade_scores(direction_set.projections, labels, truth)
    whole = grade(direction_set, labels, truth)
    assert list(direction_set.component[table["score"]]) == list(whole["direction"])
    shared = ["end", "feature", "auc_within_class", "auc", "precision_at_k", "n"]
    pd.testing.assert_frame_equal(table[shared], whole[shared])


def test_each_end_matches_the_feature_that_lies_there():
    """Tags at the top and rings at the bottom of one direction, nothing along the other."""
    rng = np.random.default_rng(1)
    labels = np.arange(120) % 2
    truth = pd.DataFrame({"tag": (labels == 0) & (np.arange(120) < 40)})
    truth["ring"] = (labels == 1) & (np.arange(120) > 80)
    truth["nobody"] = False
    planted = 4.0 * truth["tag"] - 4.0 * truth["ring"] + 0.1 * rng.normal(size=120)
    projections = np.stack([rng.normal(size=120), planted], axis=1)
    graded = grade(directions_with(projections), labels, truth).assign(random=0.9)
    table = match_features(graded)
    assert table["direction"].tolist() == [4, 4, 1, 1]
    assert table["end"].tolist() == ["top", "bottom"] * 2
    assert table["matched"].tolist() == [False, False, True, True]
    assert table["feature"].tolist()[2:] == ["tag", "ring"]
    assert (table.loc[table["matched"], "precision_at_k"] == 1).all()


def test_an_end_shows_a_feature_above_random_directions_or_as_good_as_wholly():
    """Random directions may show a feature that is used much as wholly: no AUC lies above that."""
    auc = np.array([0.95, 0.95, 0.985, 0.995, 0.995])
    random = np.array([0.90, 0.97, 1.00, 1.00, 0.996])
    assert shows(auc, random).tolist() == [True, False, False, True, True]


def test_the_best_of_random_directions_is_good_by_chance():
    """The more directions are drawn, the better the best of them; and the more a feature shows."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 2
    truth = pd.DataFrame({"tag": (labels == 0) & (np.arange(120) < 40), "nobody": False})
    one, two = rng.normal(size=(2, 120, 30))
    given = {"labels": labels, "truth": truth}
    few, many = (
        best_at_random("1_minus_2", one, two, **given, n_directions=n)["tag"] for n in (1, 16)
    )
    assert 0.5 < few < many < 0.9
    one[truth["tag"], :6] += 2
    shown = best_at_random("1_minus_2", one, two, **given, n_directions=16)
    assert set(shown) == {"tag"}
    assert shown["tag"] > many
    turned = best_at_random("2_minus_1", two, one, **given, n_directions=16)
    assert turned == shown


def test_the_share_that_random_ends_hold_grows_with_what_carriers_have_in_common():
    rng = np.random.default_rng(1)
    labels, truth = np.arange(120) % 2, pd.DataFrame({"tag": np.arange(120) % 12 == 0})
    one, two = rng.normal(size=(2, 120, 30))
    about = {"n_directions": 8, "measure": "precision_at_k"}
    by_chance = best_at_random("1_minus_2", one, two, labels, truth, **about)["tag"]
    assert 0.1 < by_chance < 0.6  # a tenth carry it, and the best of sixteen ends is counted
    one[truth["tag"]] += 8 * rng.normal(size=30)
    shown = best_at_random("1_minus_2", one, two, labels, truth, **about)["tag"]
    assert shown > by_chance + 0.3


def test_grade_refuses():
    direction_set, labels, truth = draw()
    with pytest.raises(ValueError, match="59 labels"):
        grade(direction_set, labels[:59], truth)
    with pytest.raises(ValueError, match=r"\['size'\] are not bool"):
        grade(direction_set, labels, truth.assign(size=1.5))


def test_relative_influence_shows_whose_training_examples_they_are():
    rng = np.random.default_rng(0)
    first, second = (0.1 * rng.normal(size=(50, 30)) for _ in range(2))
    first[:10, :4] += 1
    second[:10, 4:8] -= 1
    influence = relative_influence(first, second, np.arange(10))
    assert set(np.argsort(-influence)[:4]) == {0, 1, 2, 3}
    assert set(np.argsort(influence)[:4]) == {4, 5, 6, 7}
    np.testing.assert_allclose(influence, -relative_influence(second, first, np.arange(10)))
    scale = rng.uniform(0.1, 10, size=(50, 1))
    np.testing.assert_allclose(influence, relative_influence(first * scale, second, np.arange(10)))


def test_random_examples_have_the_classes_of_the_subpopulation():
    labels = np.arange(300) % 3
    subpopulation = np.array([2, 5, 8, 11, 14, 17, 0, 3])
    chosen = random_same_class(labels, subpopulation, 16, seed=1)
    assert len(set(chosen)) == 16
    assert not np.isin(chosen, subpopulation).any()
    assert np.bincount(labels[chosen], minlength=3).tolist() == [4, 0, 12]
    np.testing.assert_array_equal(chosen, random_same_class(labels, subpopulation, 16, seed=1))


def test_random_examples_run_out():
    assert random_same_class(np.array([0, 0, 0, 1]), np.array([0]), 10).tolist() in ([1, 2], [2, 1])


def test_takes_what_compare_gives():
    rng = np.random.default_rng(0)
    comparison = compare(rng.normal(size=(40, 20)), rng.normal(size=(40, 20)), n_directions=3)
    tables = [subpopulations(direction_set, top_k=4) for direction_set in comparison]
    assert pd.concat(tables)["comparison"].value_counts().tolist() == [24, 24]


def two_users(seed=0, n_test=150, n_train=60):
    """Algorithm 1 decides tests 0-19 by training examples 0-5; 2 tests 40-59 by 10-15."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, 4)) @ rng.normal(size=(4, n_train))
    both = [shared + 0.3 * rng.normal(size=shared.shape) for _ in range(2)]
    both[0][:20, :6] += 5
    both[1][40:60, 10:16] += 5
    return [d.astype(np.float32) for d in both]


def test_training_examples_of_the_algorithm_that_uses_them():
    both = two_users()
    assert set(used_by(1, *both, np.arange(20), n=6)) == set(range(6))
    assert set(used_by(2, *both, np.arange(40, 60), n=6)) == set(range(10, 16))
    with pytest.raises(ValueError, match="expected 1 or 2"):
        used_by(0, *both, np.arange(20))


def test_they_influence_the_subpopulation_under_that_algorithm_only():
    first, second = two_users()
    assert set(most_influenced(first, np.arange(6), n=20)) == set(range(20))
    assert np.isin(most_influenced(second, np.arange(6), n=20), np.arange(20)).mean() < 0.4
    unit = first / np.linalg.norm(first, axis=1, keepdims=True)
    expected = [sum(abs(row[k]) for k in range(6)) for row in unit]
    np.testing.assert_allclose(influence_on_tests(first, np.arange(6)), expected, rtol=1e-5)


def test_a_zero_datamodel_is_not_influenced():
    first, _ = two_users()
    first[3] = 0
    assert influence_on_tests(first, np.arange(6))[3] == 0


def test_the_table_shows_the_planted_ends():
    both = two_users()
    comparison = compare(*both, n_directions=3)
    table = influence_table(comparison, *both, top_k=20, n_train=6, n_directions=2)
    assert len(table) == 2 * 2 * 2
    for name, own, other in (("1_minus_2", "1", "2"), ("2_minus_1", "2", "1")):
        best = table[table["comparison"] == name].nlargest(1, f"influence_{own}").iloc[0]
        assert best[f"influence_{own}"] > 2 * best[f"influence_{other}"]
        assert best[f"in_{own}"] > 0.9
        assert best[f"in_{other}"] < 0.5
        assert best["in_both"] < 0.5


def test_classes_of_subpopulations():
    labels = np.arange(60) % 3
    ends = [("top", np.r_[0:27:3, 1]), ("bottom", np.arange(10))]
    members = pd.concat(
        pd.DataFrame({"comparison": "1_minus_2", "direction": 4, "end": end, "index": index})
        for end, index in ends
    )
    table = class_shares(members, labels).set_index("end")
    assert table.loc["top", ["label", "share"]].tolist() == [0, 0.9]
    assert table.loc["bottom", ["label", "share"]].tolist() == [0, 0.4]
    assert table["expected"].tolist() == pytest.approx([1 / 3, 1 / 3])
