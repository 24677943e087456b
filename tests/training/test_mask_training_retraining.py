import numpy as np
import pytest

from mdhelpers.training import mask_training as retraining
from mdhelpers.training.mask_training import retrain, train_all
from mdhelpers.training.store import ModelStore
from tests.training.test_mask_training import make_plan

QUIET = {"workers": 1, "progress": False}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    plan = make_plan(tmp_path_factory.mktemp("study"))
    train_all(plan, **QUIET)
    return plan


def own_models(plan, algorithm):
    return ModelStore.open(plan.store_path(algorithm)).read()


@pytest.mark.parametrize("algorithm", [1, 2])
def test_the_studys_own_masks_and_rows_give_the_studys_own_models(plan, algorithm):
    own = own_models(plan, algorithm)
    again = retrain(plan, algorithm, own.masks[4:12], np.arange(4, 12), name="again", **QUIET)
    assert np.array_equal(again.margins, own.margins[4:12])
    assert np.array_equal(again.slots, own.slots[4:12])
    assert np.array_equal(again.masks, own.masks[4:12])


def test_models_come_in_the_order_asked_for_whatever_their_sizes(plan):
    own = own_models(plan, 1)
    masks = own.masks[:6].copy()
    masks[1, :] = True
    masks[3] = np.arange(24) < 7
    masks[4] = np.arange(24) >= 17
    keys = np.array([0, 9, 2, 7, 7, 5])
    found = retrain(plan, 1, masks, keys, name="sizes", **QUIET)
    assert np.array_equal(found.masks, masks)
    assert np.array_equal(found.slots, keys % 4)
    alone = retrain(plan, 1, masks[3:4], keys[3:4], name="alone", **QUIET)
    np.testing.assert_allclose(found.margins[3], alone.margins[0], atol=1e-3)
    assert np.abs(found.margins[3] - found.margins[4]).max() > 0.01


def test_finished_models_are_read_and_others_of_the_name_are_removed(plan, monkeypatch):
    own = own_models(plan, 1)
    first = retrain(plan, 1, own.masks[:4], np.arange(4), name="twice", **QUIET)
    monkeypatch.setattr("mdhelpers.training.tasks.learn", None)  # training would fail
    monkeypatch.setattr("mdhelpers.training.workers.schedulers.open_pool", None)
    again = retrain(plan, 1, own.masks[:4], np.arange(4), name="twice", **QUIET)
    assert np.array_equal(first.margins, again.margins)
    monkeypatch.undo()
    retrain(plan, 1, own.masks[:4], np.arange(1, 5), name="twice", **QUIET)
    assert len(list((plan.folder / "retrained").glob("twice_1-*"))) == 1


def test_sizes_fill_whole_stacks_with_little_waste():
    stack, order = retraining._in_stacks(np.array([12] * 8 + [10] * 8), 8)
    assert stack == 8
    assert order.tolist() == [*range(8, 16), *range(8)]
    stack, order = retraining._in_stacks(np.array([3, 3, 3, 5]), 4)
    assert stack == 1
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    stack, order = retraining._in_stacks(np.array([3] * 7), 8)
    assert (stack, len(order)) == (8, 8)


@pytest.mark.parametrize(
    ("algorithm", "masks", "keys", "message"),
    [
        (3, np.ones((2, 24), bool), [0, 1], "give 1 or 2"),
        (1, np.ones((2, 23), bool), [0, 1], "expected"),
        (1, np.ones((2, 24)), [0, 1], "dtype float64"),
        (1, np.eye(2, 24, -1, dtype=bool), [0, 1], "mask 0 is empty"),
        (1, np.ones((2, 24), bool), [0], "keys have shape"),
        (1, np.ones((2, 24), bool), [0, -1], "from 0 on"),
    ],
)
def test_what_cannot_be_trained_is_refused(plan, algorithm, masks, keys, message):
    with pytest.raises(ValueError, match=message):
        retrain(plan, algorithm, masks, np.array(keys), name="wrong", **QUIET)


@pytest.mark.parametrize("name", ["request.npz", "models_1.zarr/margins/c/0/0"])
def test_what_was_damaged_meanwhile_is_made_anew(plan, name):
    own = own_models(plan, 1)
    first = retrain(plan, 1, own.masks[:4], np.arange(4), name="harmed", **QUIET)
    (folder,) = (plan.folder / "retrained").glob("harmed_1-*")
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 4
    (folder / name).write_bytes(content)
    again = retrain(plan, 1, own.masks[:4], np.arange(4), name="harmed", **QUIET)
    assert np.array_equal(again.margins, first.margins)
    assert np.array_equal(again.masks, first.masks)


def test_a_folder_that_no_retraining_made_stays(plan):
    own = own_models(plan, 1)
    theirs = plan.folder / "retrained" / "mine_1-notes"
    theirs.mkdir(parents=True)
    (theirs / "notes.txt").write_text("x")
    retrain(plan, 1, own.masks[:4], np.arange(4), name="mine", **QUIET)
    assert (theirs / "notes.txt").exists()
