from collections import Counter

import numpy as np
import pytest
from scipy.special import softmax

from mdhelpers.analyses.similarity import directions_without, most_common_predictions, usually_right
from mdhelpers.method.comparison import compare


def draw(n_test=200, n_train=60, seed=0):
    """A difference on the first 20 test examples, and one spread over all."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, 4)) @ rng.normal(size=(4, n_train))
    first, second = (shared + 0.2 * rng.normal(size=shared.shape) for _ in range(2))
    first[:20, :6] += 5
    first += rng.normal(size=(n_test, 1)) * np.r_[np.zeros(30), np.ones(10), np.zeros(20)]
    return first, second


def test_the_most_common_outcome():
    margins = np.array([[1.0, -1.0, 0.5], [2.0, -1.0, -0.5], [-1.0, 3.0, -0.5]])
    assert usually_right(margins).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="expected"):
        usually_right(margins[0])


def test_the_most_common_prediction_is_counted_one_by_one():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(16, 50, 5)).round(1)  # ties of scores, and of sixteen votes
    chosen = [[list(scores).index(max(scores)) for scores in model] for model in logits]
    counted, n_ties = [], 0
    for votes in map(Counter, zip(*chosen, strict=True)):
        winners = [c for c in range(5) if votes[c] == max(votes.values())]
        counted.append(min(winners))
        n_ties += len(winners) > 1
    assert n_ties > 5
    assert most_common_predictions(logits).tolist() == counted
    assert most_common_predictions(logits.astype(np.float32)).tolist() == counted
    assert most_common_predictions(np.array(chosen, np.uint8)).tolist() == counted
    assert most_common_predictions(np.array(chosen)[::-1]).tolist() == counted
    clear = rng.normal(size=(16, 50, 5))
    of_probabilities = most_common_predictions(softmax(clear, axis=-1))
    assert of_probabilities.tolist() == most_common_predictions(clear).tolist()


def test_ties_go_to_the_smaller_class():
    assert most_common_predictions(np.array([[2, 0], [1, 3], [1, 3], [2, 0]])).tolist() == [1, 0]
    assert most_common_predictions(np.array([[[0.2, 0.4, 0.4]]])).tolist() == [1]


def test_two_wrong_predictions_differ_where_margins_agree():
    labels, first, second = np.array([0, 0]), np.array([[1, 0]] * 3), np.array([[2, 0]] * 3)
    right = [usually_right(np.where(chosen == labels, 1, -1)) for chosen in (first, second)]
    assert (right[0] == right[1]).all()
    agree = most_common_predictions(first) == most_common_predictions(second)
    assert agree.tolist() == [False, True]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (np.ones((4, 5)), "of an integer one"),  # margins, not classes
        (np.ones((4, 5), bool), "of an integer one"),  # right or wrong
        (np.ones((4, 5, 3), int), r"shape \(4, 5, 3\)"),
        (np.ones((0, 5), int), r"shape \(0, 5\)"),
        (np.full((4, 5, 3), np.nan), "NaN"),
        (np.full((4, 5), -1), "negative"),
    ],
)
def test_what_is_no_prediction_is_refused(predictions, message):
    with pytest.raises(ValueError, match=message):
        most_common_predictions(predictions)


def test_a_difference_on_what_is_left_out_is_lost_and_the_other_stays():
    first, second = draw()
    comparison = compare(first, second, n_directions=2)
    directions = comparison["1_minus_2"].directions
    of_block = np.abs(directions[:, :6]).sum(1).argmax()
    of_all = np.abs(directions[:, 30:40]).sum(1).argmax()
    assert of_block != of_all
    kept = np.arange(200) >= 20
    table = directions_without(first, second, kept, comparison)
    rows = table[table["comparison"] == "1_minus_2"].reset_index()
    assert rows.loc[of_block, "cosine"] < 0.5
    assert rows.loc[of_all, "cosine"] > 0.97
    assert rows.loc[of_all, "gap_kept"] > 0.05
    assert (rows["random"] > 0.97).all()  # twenty at random take two of the block's away


def test_agrees_with_a_comparison_of_the_rest():
    first, second = draw()
    comparison = compare(first, second, n_directions=3)
    kept = np.random.default_rng(1).random(200) < 0.6
    table = directions_without(first, second, kept, comparison, n_random=0)
    rest = compare(first[kept], second[kept], n_directions=3)["2_minus_1"]
    cosines = np.abs(comparison["2_minus_1"].directions @ rest.directions.T)
    rows = table[table["comparison"] == "2_minus_1"]
    np.testing.assert_allclose(rows["cosine"], cosines.max(1))
    assert rows["found_as"].tolist() == (cosines.argmax(1) + 1).tolist()
    np.testing.assert_allclose(rows["gap_kept"], rest.naive_gap[cosines.argmax(1)])
    assert rows["random"].isna().all()


def test_leaving_nothing_out_changes_nothing():
    first, second = draw()
    comparison = compare(first, second, n_directions=4)
    table = directions_without(first, second, np.ones(200, bool), comparison)
    np.testing.assert_allclose(table[["cosine", "random"]], 1, atol=1e-5)
    assert table["found_as"].tolist() == 2 * [1, 2, 3, 4]


def test_refuses():
    first, second = draw()
    comparison = compare(first, second, n_directions=4)
    with pytest.raises(ValueError, match="expected 200 bools"):
        directions_without(first, second, np.ones(200), comparison)
    with pytest.raises(ValueError, match="3 test examples stay"):
        directions_without(first, second, np.arange(200) < 3, comparison)
