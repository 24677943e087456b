import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.datasets import save_dataset
from mdhelpers.mask_training import train_all
from mdhelpers.outputs import correct_class_margins
from mdhelpers.plans import TrainingPlan, draw_mask
from mdhelpers.scenes import make_scenes
from mdhelpers.store import ModelStore
from mdhelpers.tasks import load_checkpoints, unfinished_tasks
from mdhelpers.training import stack_logits


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
    paths = [p for a in (1, 2) for p in (folder / f"models_{a}.zarr").rglob("*") if p.is_file()]
    paths += [p for a in (1, 2) for p in (folder / f"checkpoints_{a}").glob("*")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


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


def test_any_number_of_workers_gives_the_same_bits(finished, tmp_path):
    train_all(make_plan(tmp_path), workers=2, progress=False)
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
sys.path.insert(0, {tests!r})
from test_mask_training import make_plan
from mdhelpers.mask_training import train_all
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
    script.write_text(SCRIPT.format(tests=os.path.dirname(__file__), folder=str(killed)))
    for n_lines in (2, 6, 12):
        kill_after(script, killed / "training.jsonl", n_lines)
    assert unfinished_tasks(make_plan(killed, n_models=64))
    train_all(make_plan(killed, n_models=64), workers=2, progress=False)
    assert files_of(killed) == files_of(whole)


def kill_after(script, log, n_lines: int) -> None:
    """Start training and kill -9 it when the log has ``n_lines`` lines."""
    process = subprocess.Popen([sys.executable, str(script)])
    while not (log.exists() and len(log.read_text().splitlines()) >= n_lines):
        assert process.poll() is None, "training ended before it was killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_checkpoints_hold_the_models_whose_margins_are_stored(finished):
    plan = make_plan(finished)
    (stack,) = load_checkpoints(plan, 1, 4)
    test = make_scenes(n_train=24, n_test=12, size=16, seed=0).test
    logits = stack_logits(stack, torch.tensor(test.images))
    margins = correct_class_margins(logits, torch.tensor(test.labels)).numpy()
    stored = ModelStore.open(finished / "models_1.zarr").read().margins[:4]
    np.testing.assert_allclose(margins, stored, atol=1e-5)


def test_the_log_tells_what_each_task_took(finished):
    lines = (finished / "training.jsonl").read_text().splitlines()
    assert len(lines) == 8
    assert sum(json.loads(line)["models"] for line in lines) == 32


def test_initialisations_are_shared_in_slots(finished):
    seeds = ModelStore.open(finished / "models_1.zarr").group["seeds"][:]
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
    with pytest.raises(FloatingPointError, match=r"algorithm 1 \(wild\).*diverged.*lr"):
        train_all(plan, workers=1, progress=False)


def test_other_data_under_the_same_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run 01_data_prep again"):
        train_all(make_plan(tmp_path, fingerprint="other"), workers=1, progress=False)


def test_no_disk_space_is_said_before_training(tmp_path, monkeypatch):
    import shutil

    plan = make_plan(tmp_path)
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr("mdhelpers.mask_training.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="no disk space"):
        train_all(plan, workers=1, progress=False)
