import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mdhelpers.data.datasets import read_dataset, save_dataset
from mdhelpers.data.scenes import make_scenes
from mdhelpers.method.margins import correct_class_margins
from mdhelpers.training import mask_training
from mdhelpers.training.algorithms import NetworkSpec, PythonSpec
from mdhelpers.training.loading import ffcv_problem, write_beton
from mdhelpers.training.mask_training import failed_last, retrain, retraining, train_all
from mdhelpers.training.store import ModelStore
from mdhelpers.training.tasks import (
    TrainingPlan,
    derived_seed,
    draw_mask,
    load_kept,
    unfinished_tasks,
)


def make_plan(folder, **changes) -> TrainingPlan:
    data = make_scenes(n_train=24, n_test=12, size=16, seed=0)
    if not (folder / "data").exists():
        save_dataset(data, folder / "data")
    algorithms = (
        NetworkSpec(name="a", epochs=2, batch_size=6, width=4),
        NetworkSpec(name="b", epochs=2, batch_size=6, width=4, augmentation={"shift": 1}),
    )
    options = {
        "folder": folder,
        "algorithms": algorithms,
        "fingerprint": data.fingerprint,
        "n_train": 24,
        "n_test": 12,
        "seed": 0,
        "alpha": 0.5,
        "n_models": 16,
        "n_keep": 4,
        "n_slots": 4,
        "stack": 4,
        "device": "cpu",
    }
    return TrainingPlan(**(options | changes))


def files_of(folder) -> dict:
    """All bytes that training leaves, but for wall times."""
    paths = [p for a in (1, 2) for p in (folder / f"models_{a}.zarr").rglob("*") if p.is_file()]
    paths += [p for a in (1, 2) for p in (folder / f"checkpoints_{a}").glob("*")]
    kept = [p for p in paths if "seconds" not in p.parts]
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_worker")
    train_all(make_plan(folder), workers=1, progress=False)
    return folder


def test_both_algorithms_see_the_same_masks_of_the_size_asked_for(finished):
    one, two = (ModelStore.open(finished / f"models_{a}.zarr").read() for a in (1, 2))
    assert np.array_equal(one.masks, two.masks)
    assert (one.masks.sum(axis=1) == 12).all()
    assert len(np.unique(one.masks, axis=0)) == 16
    assert np.array_equal(one.masks[5], draw_mask(0, 5, 24, 0.5))
    assert not np.array_equal(one.margins, two.margins)


@pytest.mark.slow
@pytest.mark.skipif(bool(ffcv_problem()), reason=ffcv_problem() or "-")
def test_images_read_by_ffcv_give_the_same_bits(finished, tmp_path):
    plan = make_plan(tmp_path, loader="ffcv")
    write_beton(read_dataset(tmp_path / "data").train, tmp_path / "data" / "train.beton")
    train_all(plan, workers=1, progress=False)
    assert files_of(tmp_path) == files_of(finished)


def test_ffcv_without_its_file_is_refused_by_name(tmp_path):
    with pytest.raises((OSError, RuntimeError), match=r"no train\.beton|ffcv cannot be imported"):
        train_all(make_plan(tmp_path, loader="ffcv"), workers=1, progress=False)


@pytest.mark.parametrize("workers", [2, 4])
def test_any_number_of_workers_gives_the_same_bits(finished, tmp_path, workers):
    assert train_all(make_plan(tmp_path), workers=workers, progress=False)["workers"] == workers
    assert files_of(tmp_path) == files_of(finished)


def test_what_is_done_is_not_done_again(finished):
    plan = make_plan(finished)
    assert unfinished_tasks(plan) == []
    assert train_all(plan, workers=1, progress=False)["models"] == 0


def test_more_models_keep_the_old_ones(finished, tmp_path):
    train_all(make_plan(tmp_path, n_models=8), workers=1, progress=False)
    assert len(unfinished_tasks(make_plan(tmp_path))) == 4
    train_all(make_plan(tmp_path), workers=1, progress=False)
    assert files_of(tmp_path) == files_of(finished)


SCRIPT = """
import sys
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {tests!r})
from tests.training.test_mask_training import make_plan
from mdhelpers.training.mask_training import failed_last, train_all
if __name__ == "__main__":
    train_all(make_plan(Path({folder!r}), n_models=64), workers=2, progress=False)
"""


@pytest.mark.slow
def test_kill_9_three_times_then_finishing_gives_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    train_all(make_plan(whole, n_models=64), workers=1, progress=False)
    make_plan(killed)
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), folder=str(killed)))
    for n_lines in (2, 6, 12):
        kill_after(script, killed / "training.jsonl", n_lines)
    assert unfinished_tasks(make_plan(killed, n_models=64))
    train_all(make_plan(killed, n_models=64), workers=2, progress=False)
    assert files_of(killed) == files_of(whole)


def kill_after(script, log, n_lines: int) -> None:
    """Start training and kill -9 it when the log has ``n_lines`` lines."""
    process = subprocess.Popen([sys.executable, str(script)])
    wait_for_lines(log, n_lines, process)
    process.send_signal(signal.SIGKILL)
    process.wait()


def wait_for_lines(log, n_lines: int, process: subprocess.Popen) -> None:
    while not (log.exists() and len(log.read_text().splitlines()) >= n_lines):
        assert process.poll() is None, "training ended before it was killed"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_killed_worker_changes_no_bit(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
    train_all(make_plan(whole, n_models=64), workers=1, progress=False)
    plan, log = make_plan(killed, n_models=64), killed / "training.jsonl"
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), folder=str(killed)))
    process = subprocess.Popen([sys.executable, str(script)])
    victims = []
    for n_lines in (2, 10):
        wait_for_lines(log, n_lines, process)
        victims.append(json.loads(log.read_text().splitlines()[-1])["process"])
        os.kill(victims[-1], signal.SIGKILL)
    assert process.wait() == 0
    assert unfinished_tasks(plan) == []
    assert files_of(killed) == files_of(whole)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len({line["process"] for line in lines}) > 2
    assert not any("failed" in line for line in lines)


def test_checkpoints_hold_the_models_whose_margins_are_stored(finished):
    plan = make_plan(finished)
    (models,) = load_kept(plan, 1, 4)
    test = make_scenes(n_train=24, n_test=12, size=16, seed=0).test
    margins = correct_class_margins(models.logits(test.images), torch.tensor(test.labels)).numpy()
    stored = ModelStore.open(finished / "models_1.zarr").read().margins[:4]
    np.testing.assert_allclose(margins, stored, atol=1e-5)


def test_the_log_tells_what_each_task_took(finished):
    lines = [json.loads(s) for s in (finished / "training.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert sum(line["models"] for line in lines) == 32
    assert {line["host"] for line in lines} == {socket.gethostname()}
    assert time.time() - 3600 < lines[0]["at"] <= lines[-1]["at"] <= time.time()


def test_the_plan_is_written_for_those_who_look_on(finished):
    about = json.loads((finished / "plan.json").read_text())
    assert (about["n_models"], about["stack"], about["device"]) == (16, 4, "cpu")
    assert about["names"] == ["a", "b"]
    assert about["models_url"] == ""  # then they are in the folder, wherever it is moved
    assert str(finished) not in json.dumps(about)
    assert sorted(p.name for p in finished.glob("plan*")) == ["plan.json"]


def test_initialisations_are_shared_in_slots(finished):
    seeds = ModelStore.open(finished / "models_1.zarr").read_array("seeds")
    slots = ModelStore.open(finished / "models_1.zarr").read().slots
    assert slots.tolist() == [i % 4 for i in range(16)]
    assert len(np.unique(seeds[:, 0])) == 16
    assert np.array_equal(seeds[:4, 1], seeds[4:8, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"alpha": 0.01}, "alpha = 0.01 of 24 training images is a subset of 0"),
        ({"alpha": 0.99}, "at least one left out"),
        ({"n_models": 15}, "do not make whole stacks of 4"),
        ({"n_keep": 20}, "only 16 are trained"),
    ],
)
def test_impossible_plans_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        make_plan(tmp_path, **changes)


def test_a_model_that_diverges_is_named(tmp_path):
    wild = NetworkSpec(name="wild", epochs=8, batch_size=6, width=4, lr=1e9)
    plan = make_plan(tmp_path, algorithms=(wild, wild))
    with pytest.raises(RuntimeError, match=r"(?s)algorithm 1 \(wild\).*diverged.*lr.*not tried"):
        train_all(plan, workers=1, progress=False)
    (line, *_) = map(json.loads, (tmp_path / "training.jsonl").read_text().splitlines())
    assert line["failed"].startswith("FloatingPointError: algorithm 1 (wild): model 0 diverged")
    assert line["at"] <= time.time()


def test_other_data_under_the_same_run_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="run 01_data_prep again"):
        train_all(make_plan(tmp_path, fingerprint="other"), workers=1, progress=False)


def test_no_disk_space_is_said_before_training(tmp_path, monkeypatch):
    import shutil

    plan = make_plan(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("mdhelpers.training.mask_training.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="no disk space"):
        train_all(plan, workers=1, progress=False)


LETHAL = """
import os
import numpy as np

def train(images, labels, test_images, *, n_classes, seed, lethal, how):
    if seed == lethal:
        os._exit(5) if how == "dies" else 1 / 0
    counts = np.bincount(labels, minlength=n_classes)
    return np.tile(np.log1p(counts), (len(test_images), 1))
"""


@pytest.mark.parametrize(
    ("how", "told"),
    [("dies", "its worker ended with exit code 5"), ("raises", "ZeroDivisionError")],
)
def test_a_model_that_always_fails_is_named_and_all_others_are_kept(
    tmp_path, monkeypatch, how, told
):
    (tmp_path / "lethal_function.py").write_text(LETHAL)
    monkeypatch.syspath_prepend(tmp_path)
    plan = make_plan(tmp_path)
    lethal = derived_seed(0, 2, 2, 6)  # the seed of algorithm 2's model 6
    options = {"lethal": lethal, "how": how}
    wild = PythonSpec(kind="python", name="wild", function="lethal_function:train", options=options)
    plan = make_plan(tmp_path, algorithms=(plan.algorithms[0], wild))
    with pytest.raises(RuntimeError, match=r"(?s)1 tasks failed.*kept.*run the same") as failure:
        train_all(plan, workers=2, progress=False)
    assert "algorithm 2 (wild), task 1 (models 4 to 7): " in str(failure.value)
    assert told in str(failure.value)
    assert unfinished_tasks(plan) == [(2, 1)]


def test_tasks_that_failed_before_come_last(tmp_path):
    log = tmp_path / "training.jsonl"
    tasks = [(1, 0), (2, 0), (1, 1), (2, 1)]
    assert failed_last(tasks, log) == tasks
    failed = json.dumps({"algorithm": 1, "task": 0, "failed": "diverged"})
    log.write_text(f'{failed}\n{{"algorithm": 2, "task": 0}}\n{{"algo')
    assert failed_last(tasks, log) == [(2, 0), (1, 1), (2, 1), (1, 0)]


def test_source_models_are_trained_before_those_that_start_from_them(tmp_path):
    small = {"epochs": 2, "batch_size": 6, "width": 4}
    source = {
        "dataset": {"kind": "scenes", "n_train": 24, "n_test": 12, "size": 16, "seed": 1},
        "algorithm": {"name": "source", **small},
        "n_models": 2,
    }
    started = NetworkSpec(
        name="b", **small, initialisation={"kind": "pretraining", "source": source}
    )
    plan = make_plan(tmp_path)
    plan = make_plan(tmp_path, algorithms=(plan.algorithms[0], started), n_models=8)
    train_all(plan, workers=2, progress=False)
    assert unfinished_tasks(plan) == []
    lines = [json.loads(s) for s in (tmp_path / "training.jsonl").read_text().splitlines()]
    assert sorted(line["source"] for line in lines[:2]) == [0, 1]
    assert all("source" not in line for line in lines[2:])


# Training anew on given subsets


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
    stack, order = mask_training._in_stacks(np.array([12] * 8 + [10] * 8), 8)
    assert stack == 8
    assert order.tolist() == [*range(8, 16), *range(8)]
    stack, order = mask_training._in_stacks(np.array([3, 3, 3, 5]), 4)
    assert stack == 1
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    stack, order = mask_training._in_stacks(np.array([3] * 7), 8)
    assert (stack, len(order)) == (8, 8)


@pytest.mark.parametrize(
    ("algorithm", "masks", "keys", "message"),
    [
        (3, np.ones((2, 24), bool), [0, 1], "give a number from 1 to 2"),
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


def test_a_model_that_fills_a_stack_up_is_read_where_it_comes_first(plan, monkeypatch):
    """As `load_kept` and what reads a store from its start do: its second training may differ."""
    rows = SimpleNamespace(read=lambda: SimpleNamespace(rows=lambda place: place.tolist()))
    monkeypatch.setattr(mask_training.ModelStore, "open", lambda *_, **__: rows)
    monkeypatch.setattr(mask_training, "train_all", lambda *_, **__: None)
    masks = draw_masks_of_one_size(7, plan.n_train)
    assert len(retraining(plan, 1, masks, np.arange(7), name="filled")[1]) == 8
    assert retrain(plan, 1, masks, np.arange(7), name="filled", **QUIET) == list(range(7))


def draw_masks_of_one_size(n: int, n_train: int) -> np.ndarray:
    return np.random.default_rng(0).permuted(np.tile(np.arange(n_train) % 2 > 0, (n, 1)), axis=1)


def test_a_folder_that_no_retraining_made_stays(plan):
    own = own_models(plan, 1)
    theirs = plan.folder / "retrained" / "mine_1-notes"
    theirs.mkdir(parents=True)
    (theirs / "notes.txt").write_text("x")
    retrain(plan, 1, own.masks[:4], np.arange(4), name="mine", **QUIET)
    assert (theirs / "notes.txt").exists()
