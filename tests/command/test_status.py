import json
import math
import uuid

import fsspec
import numpy as np
import pytest

from mdhelpers.command import status as module
from mdhelpers.command.status import (
    check_run,
    check_text,
    mend,
    models_a_minute,
    seconds_covered,
    status,
    status_text,
    watch,
)
from mdhelpers.runs.run import Run, store_in
from mdhelpers.training.store import ModelStore
from mdhelpers.training.store_files import ARRAYS

SHAPES = {"n_models": 24, "n_train": 11, "n_test": 5, "n_epochs": 2, "rows": 4}
NAMES = ("plain", "augmented")
NOW = 1_800_000_000.0


def task_arrays(accuracy: float) -> dict:
    rng = np.random.default_rng(0)
    return {
        "masks": rng.random((4, 11)) < 0.5,
        "margins": rng.normal(size=(4, 5)).astype(np.float32),
        "accuracy": np.full(4, accuracy, np.float32),
        "losses": rng.random((4, 2)).astype(np.float32),
        "seeds": rng.integers(0, 99, (4, 2)).astype(np.uint64),
        "slots": np.arange(4, dtype=np.int32),
        "seconds": rng.random(4).astype(np.float32),
    }


class FakeRun:
    """A run's folder as training leaves it, without training."""

    def __init__(self, folder, url=""):
        self.folder, self.url = folder, url
        self.stores = [store_in(url or folder, f"models_{a}.zarr") for a in (1, 2)]
        folder.mkdir(exist_ok=True)
        self.log = folder / "training.jsonl"

    def plan(self):
        plan = {"n_models": 24, "stack": 4, "names": NAMES, "models_url": self.url, "device": "cpu"}
        (self.folder / "plan.json").write_text(json.dumps(plan))
        return self

    def train(self, algorithm, task, *, ago=0.0, seconds=10.0, accuracy=0.75, logged=True):
        identity = {"algorithm": {"name": NAMES[algorithm - 1]}, "data": "abc"}
        store = ModelStore.create(self.stores[algorithm - 1], identity, SHAPES)
        store.write_task(task, task_arrays(accuracy))
        if logged:
            self.say(algorithm, task, models=4, accuracy=accuracy, seconds=seconds, at=NOW - ago)

    def say(self, algorithm, task, **facts):
        with self.log.open("a") as file:
            file.write(json.dumps({"algorithm": algorithm, "task": task, **facts}) + "\n")

    @property
    def status(self):
        return status(self.folder, now=NOW)


@pytest.fixture
def run(tmp_path):
    return FakeRun(tmp_path / "study").plan()


def finish(run):
    for task in range(6):
        for algorithm in (1, 2):
            run.train(algorithm, task, ago=120 - 20 * task - 10 * (algorithm - 1))


# What is done


def test_before_it_began_it_says_so(tmp_path):
    found = status(tmp_path / "none")
    assert found.algorithms == ()
    assert not found.finished
    assert "training has not begun" in status_text(found)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_without_models_has_none_done(run):
    assert [(a.name, a.done, a.total, a.size) for a in run.status.algorithms] == [
        ("plain", 0, 24, 0),
        ("augmented", 0, 24, 0),
    ]
    assert math.isnan(run.status.seconds_left)
    assert "0 of 48 models.\n" in status_text(run.status)
    assert not (run.folder / "models_1.zarr").exists()


def test_done_is_what_the_stores_hold(run):
    for task in (0, 1, 5):
        run.train(1, task)
    run.train(2, 3)
    run.say(2, 4, models=4, accuracy=0.1, seconds=1.0, at=NOW)  # killed before it wrote
    one, two = run.status.algorithms
    assert (one.done, two.done, one.total) == (12, 4, 24)
    assert two.accuracy == 0.75
    files = [path for path in run.stores[0].rglob("*") if path.is_file()]
    assert one.size == sum(path.stat().st_size for path in files)


def test_a_finished_run(run):
    finish(run)
    assert run.status.finished
    assert run.status.seconds_left == 0
    assert "study: all 48 models are trained." in status_text(run.status)


def test_without_a_plan_the_stores_tell(tmp_path):
    run = FakeRun(tmp_path)
    run.train(1, 0, logged=False, accuracy=0.5)
    run.train(1, 2, logged=False, accuracy=0.75)
    (only,) = run.status.algorithms
    assert (only.name, only.done, only.total, only.accuracy) == ("plain", 8, 24, 0.625)
    assert math.isnan(only.rate)


def test_stores_under_a_url(tmp_path):
    bucket = f"memory://{uuid.uuid4().hex}"
    run = FakeRun(tmp_path, bucket).plan()
    run.train(2, 1)
    assert [a.done for a in run.status.algorithms] == [0, 4]
    assert run.status.algorithms[1].size > 1000
    assert check_text(check_run(tmp_path)) == "models_2.zarr: 1 tasks checked, no damaged chunks"
    fsspec.filesystem("memory").rm(bucket, recursive=True)


def test_accuracy_of_the_last_time_a_task_was_done(run):
    run.train(1, 0, accuracy=0.5)
    run.train(1, 0, accuracy=0.75)
    run.train(1, 1, accuracy=0.25)
    assert run.status.algorithms[0].accuracy == 0.5


def test_a_store_that_cannot_be_read_is_told(run):
    ModelStore.create(run.stores[0], {}, SHAPES)
    about = run.stores[0] / "zarr.json"
    about.write_text(about.read_text().replace('"format": 2', '"format": 1'))
    run.train(2, 0)
    found = run.status
    assert "has format 1" in found.algorithms[0].problem
    assert found.algorithms[1].done == 4
    assert not found.finished
    assert "its models cannot be read" in status_text(found)


# Rates


def test_rates_by_hand(run):
    """One worker, the two in turn, 10 s a task of 4 models: 12 models a minute each."""
    for task in range(2):
        for algorithm in (1, 2):
            run.train(algorithm, task, ago=30 - 20 * task - 10 * (algorithm - 1))
    one, two = run.status.algorithms
    assert one.rate == two.rate == one.rate_lately == pytest.approx(12)
    assert one.seconds_left == pytest.approx(16 / 12 * 60)
    assert run.status.seconds_left == pytest.approx(80)
    assert run.status.quiet == 0


def test_pauses_do_not_count_and_lately_is_lately(run):
    run.train(1, 0, ago=50_000, seconds=60.0)  # a night ago: 4 a minute
    run.train(1, 1, ago=20, seconds=20.0)
    run.train(1, 2, ago=0, seconds=20.0)  # now: 12 a minute
    (one, _) = run.status.algorithms
    assert one.rate == pytest.approx(60 * 12 / 100)
    assert one.rate_lately == pytest.approx(12)


def test_two_workers_at_once():
    lines = [
        {"models": 4, "seconds": 10.0, "at": at, "algorithm": 1, "task": i}
        for i, at in enumerate((10.0, 12.0, 20.0, 22.0))
    ]
    assert seconds_covered([(0, 10), (2, 12), (10, 20), (30, 31)]) == 21
    assert models_a_minute(lines, lines) == pytest.approx(60 * 16 / 22)


def test_a_long_task_counts_by_its_part():
    line = {"models": 60, "seconds": 3600.0, "at": 7200.0, "algorithm": 1, "task": 0}
    assert models_a_minute([line], [line], since=6900.0) == pytest.approx(1.0)
    assert math.isnan(models_a_minute([line], [line], since=7200.0))


def test_a_run_that_stopped_is_told(run):
    run.train(1, 0, ago=7500)
    assert run.status.quiet == 7500
    assert "No task has ended for 2 h 5 min" in status_text(run.status)
    assert math.isnan(run.status.algorithms[0].rate_lately)
    run.say(1, 1, models=4, accuracy=0.5, seconds=4000.0, at=NOW - 7000)
    assert run.status.quiet == 0


def test_lines_of_an_older_log_and_half_lines_are_passed_over(run):
    run.train(1, 0, logged=False)
    run.say(1, 0, models=4, accuracy=0.5, seconds=3.0)
    with run.log.open("a") as file:
        file.write('{"algorithm": 1, "task"')
    assert run.status.algorithms[0].accuracy == 0.5
    assert math.isnan(run.status.algorithms[0].rate)


# Failures


def test_failed_tasks_are_named_until_they_are_done(run):
    run.train(1, 0)
    for task, text in ((1, "model 5 diverged"), (2, "out of memory"), (0, "an earlier failure")):
        run.say(1, task, failed=text, at=NOW)
    assert run.status.algorithms[0].failed == ((1, "model 5 diverged"), (2, "out of memory"))
    text = status_text(run.status)
    assert "plain, failed and not trained since: task 1: model 5 diverged; task 2: out of" in text
    run.train(1, 1)
    assert run.status.algorithms[0].failed == ((2, "out of memory"),)


# In words


def test_the_table_is_80_columns_wide(run):
    run.train(1, 0)
    run.say(2, 1, failed="the model diverged " * 20, at=NOW)
    (run.folder / "plan.json").write_text(
        (run.folder / "plan.json").read_text().replace("augmented", "with_random_crops_and_jitter")
    )
    lines = status_text(run.status).splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert lines[0].endswith("study: 4 of 48 models.")
    head, plain, other = lines[1:4]
    assert head.split()[:4] == ["algorithm", "done/total", "failed", "per"]
    assert plain.split()[:8] == ["plain", "4/24", "0", "24.0", "24.0", "0.750", "50", "s"]
    assert other.split()[:6] == ["with_random_c…", "0/24", "1", "-", "-", "-"]


def test_watch_prints_until_it_is_finished(run, capsys, monkeypatch):
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        finish(run)

    monkeypatch.setattr(module.time, "sleep", sleep)
    watch(run.folder, 5)
    assert slept == [5]
    out = capsys.readouterr().out
    assert out.index("0 of 48 models") < out.index("all 48 models are trained")
    assert "\033" not in out


# Damage


def spoil(run, algorithm, name, task):
    store = ModelStore.open(run.stores[algorithm - 1])
    path = store.path / store.chunk_key(name, task)
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


def test_check_names_and_mend_forgets_exactly_the_damaged(run):
    finish(run)
    (run.folder / "stages").mkdir()
    manifest = run.folder / "stages" / "02_mask_training.json"
    manifest.write_text("{}")
    assert mend(run.folder, check_run(run.folder)) == 0
    assert manifest.exists()
    for damaged in ((1, "masks", 3), (1, "margins", 3), (2, "seconds", 0)):
        spoil(run, *damaged)
    checked = check_run(run.folder)
    assert check_text(checked).splitlines() == [
        "models_1.zarr: 6 tasks checked, 2 damaged chunks",
        "  masks of task 3 (models 12 to 15)",
        "  margins of task 3 (models 12 to 15)",
        "models_2.zarr: 6 tasks checked, 1 damaged chunks",
        "  seconds of task 0 (models 0 to 3)",
    ]
    assert mend(run.folder, checked) == 8
    assert not manifest.exists()
    done = [ModelStore.open(store).done_tasks() for store in run.stores]
    assert done == [{0, 1, 2, 4, 5}, {1, 2, 3, 4, 5}]
    assert not any((run.stores[0] / name / "c" / "3").is_file() for name in ARRAYS)
    assert [bad for _, bad in check_run(run.folder)] == [[], []]


def test_nothing_to_check_is_said(tmp_path):
    assert check_text(check_run(tmp_path)) == "No models to check."


def test_of_a_name_that_no_run_has_those_that_there_are_are_told(tmp_path):
    assert Run("pets", runs_dir=tmp_path).path.is_dir()
    assert "there is no such run. Beside it are pets (" in status_text(status(tmp_path / "pest"))
    assert status_text(status(tmp_path / "pets")).endswith("no plan and no models there).")
