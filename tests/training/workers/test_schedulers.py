"""The rules of every scheduler, shown on the local one with tasks that train nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mdhelpers.base.threads import one_thread
from mdhelpers.training.tasks import TrainingPlan
from mdhelpers.training.workers.processes import attempt, how_it_died
from mdhelpers.training.workers.schedulers import failure_message, run_tasks, until_hopeless


def small_plan(folder, **changes) -> TrainingPlan:
    from mdhelpers.training.algorithms import NetworkSpec

    options = {
        "folder": folder,
        "algorithms": (NetworkSpec(name="plain"), NetworkSpec(name="shifted")),
        "fingerprint": "none",
        "n_train": 8,
        "n_test": 4,
        "seed": 0,
        "alpha": 0.5,
        "n_models": 80,
        "n_keep": 0,
        "n_slots": 0,
        "stack": 4,
        "device": "cpu",
    }
    return TrainingPlan(**(options | changes))


def note(plan, algorithm, task) -> dict:
    """A task that only leaves a mark of its run."""
    with (plan.folder / "marks").open("a") as file:
        file.write(f"{algorithm} {task} {os.getpid()}\n")
    return {"algorithm": algorithm, "task": task, "models": plan.stack, "accuracy": 1.0}


def note_and_die_once(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    if task == 3 and not (plan.folder / "died").exists():
        (plan.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"algorithm": algorithm, "task": task}


def note_or_die(plan, algorithm, task) -> dict:
    if task == 3:
        os._exit(7)
    return note(plan, algorithm, task)


def note_or_raise(plan, algorithm, task) -> dict:
    if task in (1, 4):
        raise FloatingPointError(f"model {task} diverged")
    return note(plan, algorithm, task)


def always_raise(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    raise FloatingPointError("diverged")


def always_die(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    os._exit(7)


def fill_disk(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    raise OSError(28, "No space left on device")


def use_broken_gpu_once(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    if task == 0:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return {"algorithm": algorithm, "task": task}


def what_it_has(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    return {
        "algorithm": algorithm,
        "task": task,
        "threads": torch.get_num_threads(),
        "openmp": os.environ.get("OMP_NUM_THREADS"),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "distributed": "distributed" in sys.modules,
    }


def marks(folder) -> list[tuple[int, int]]:
    lines = (folder / "marks").read_text().splitlines()
    return sorted(tuple(int(word) for word in line.split()[:2]) for line in lines)


def named(reports) -> list[tuple[int, int]]:
    return sorted((report["algorithm"], report["task"]) for report in reports)


TASKS = [(1, task) for task in range(8)]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_task_runs_once(tmp_path, workers):
    reports = list(run_tasks(small_plan(tmp_path), TASKS, workers=workers, run=note))
    assert named(reports) == marks(tmp_path) == TASKS
    processes = {line.split()[2] for line in (tmp_path / "marks").read_text().splitlines()}
    assert len(processes) <= workers
    assert str(os.getpid()) not in processes


def test_nothing_starts_where_nothing_is_to_do(tmp_path):
    assert list(run_tasks(small_plan(tmp_path), [], "tcp://nowhere:1")) == []


def test_a_killed_worker_costs_only_the_task_under_way(tmp_path):
    plan = small_plan(tmp_path)
    reports = list(run_tasks(plan, TASKS, workers=2, run=note_and_die_once))
    assert named(reports) == TASKS
    assert not any("failed" in report for report in reports)
    assert marks(tmp_path) == sorted([*TASKS, (1, 3)])


def test_a_task_that_always_dies_is_named_and_the_others_are_finished_first(tmp_path):
    plan = small_plan(tmp_path)
    *others, last = run_tasks(plan, TASKS, workers=2, run=note_or_die)
    assert named(others) == marks(tmp_path) == [task for task in TASKS if task != (1, 3)]
    assert last["died"]
    message = failure_message(plan, [last], 0, 2)
    assert "algorithm 1 (plain), task 3 (models 12 to 15): its worker ended with exit code 7" in (
        message
    )
    assert "fewer workers (now 2)" in message
    assert "run the same command again" in message


def test_an_exception_stops_no_other_task(tmp_path):
    reports = list(run_tasks(small_plan(tmp_path), TASKS, workers=2, run=note_or_raise))
    failed = [report for report in reports if "failed" in report]
    assert named(failed) == [(1, 1), (1, 4)]
    assert failed[0]["failed"].startswith("FloatingPointError: model ")
    assert "note_or_raise" in failed[0]["traceback"]
    assert marks(tmp_path) == [task for task in TASKS if task[1] not in (1, 4)]


@pytest.mark.parametrize(("run", "most"), [(always_raise, 4), (always_die, 8)])
def test_where_everything_fails_the_rest_is_not_tried(tmp_path, run, most):
    tasks = [(1, task) for task in range(20)]
    reports = list(run_tasks(small_plan(tmp_path), tasks, workers=2, run=run))
    assert all("failed" in report for report in reports)
    assert len(marks(tmp_path)) <= most


def test_one_algorithm_that_always_fails_is_seen_beside_one_that_does_not():
    class Pool:
        n_workers = 1

    reports = [
        {"algorithm": 1 + i % 2, "task": i // 2} | ({"failed": "diverged"} if i % 2 else {})
        for i in range(100)
    ]
    assert len(list(until_hopeless(iter(reports), Pool))) == 6


def test_a_full_disk_stops_at_once_and_says_what_to_do(tmp_path):
    with pytest.raises(OSError, match=r"task 0 .*No space left.*make room.*run the same command"):
        list(run_tasks(small_plan(tmp_path), TASKS, workers=1, run=fill_disk))
    assert marks(tmp_path) == [(1, 0)]


def test_a_full_disk_is_known_by_other_exceptions_too():
    def save(*_):
        raise RuntimeError('I/O error: Os { code: 28, kind: StorageFull, message: "No space" }')

    assert attempt(save, None, 1, 0)["stop"]


def test_a_process_that_lost_its_gpu_gets_no_further_task(tmp_path):
    reports = list(run_tasks(small_plan(tmp_path), TASKS, workers=1, run=use_broken_gpu_once))
    assert [report["task"] for report in reports if "failed" in report] == [0]
    lines = [line.split() for line in (tmp_path / "marks").read_text().splitlines()]
    assert len({pid for *_, pid in lines}) == 2


def test_workers_compute_on_one_thread_and_know_nothing_of_clusters(tmp_path):
    (report,) = run_tasks(small_plan(tmp_path), [(1, 0)], workers=1, run=what_it_has)
    assert (report["threads"], report["openmp"], report["distributed"]) == (1, "1", False)


def test_every_worker_has_its_gpu(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    plan = small_plan(tmp_path, device="cuda")
    reports = list(run_tasks(plan, TASKS[:2], workers=2, run=what_it_has))
    assert {report["gpu"] for report in reports} <= {"2", "5"}
    (report,) = run_tasks(small_plan(tmp_path, device="cuda:1"), [(1, 0)], run=what_it_has)
    assert report["gpu"] != "2"


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_how_a_process_ended_in_words():
    assert "SIGKILL" in how_it_died(-9)
    assert "memory runs out" in how_it_died(-9)
    assert "11 (SIGSEGV)" in how_it_died(-11)
    assert how_it_died(3) == "ended with exit code 3"


def test_an_unknown_scheduler_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"unknown word 'locl'; did you mean 'local'"):
        list(run_tasks(small_plan(tmp_path), TASKS, "locl"))


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.training.workers.test_schedulers import TASKS, small_plan, {run}
from mdhelpers.training.workers.schedulers import run_tasks
{guard}
    for report in run_tasks(small_plan(Path({folder!r})), TASKS, workers=2, run={run}):
        print(report["task"], flush=True)
"""


def write_script(folder: Path, run: str, guard: str = 'if __name__ == "__main__":') -> Path:
    values = {"tests": str(Path(__file__).parents[3]), "folder": str(folder), "run": run}
    (folder / "script.py").write_text(SCRIPT.format(guard=guard, **values))
    return folder / "script.py"


def sleep_long(plan, algorithm, task) -> dict:
    note(plan, algorithm, task)
    time.sleep(60)
    return {"algorithm": algorithm, "task": task}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = write_script(tmp_path, "sleep_long")
    process = subprocess.Popen([sys.executable, str(script)])
    wait_for(lambda: (tmp_path / "marks").exists() and len(marks(tmp_path)) == 2)
    process.kill()
    process.wait()
    pids = [int(line.split()[2]) for line in (tmp_path / "marks").read_text().splitlines()]
    wait_for(lambda: not any(map(is_running, pids)), seconds=5)


def wait_for(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_script_without_guard_is_told_so(tmp_path):
    script = write_script(tmp_path, "note", guard="if True:")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1
    assert '`if __name__ == "__main__":`' in done.stderr


@pytest.mark.slow
def test_it_works_in_a_notebook_kernel(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    script = write_script(tmp_path, "note", guard="if True:").read_text()
    code = nbformat.v4.new_code_cell(script)
    notebook = nbformat.v4.new_notebook(cells=[code])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    assert marks(tmp_path) == TASKS
    printed = "".join(output.get("text", "") for output in code.outputs)
    assert sorted(map(int, printed.split())) == list(range(8))


def test_local_training_imports_no_dask():
    code = "import mdhelpers.training.mask_training, sys; print('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.lower()) is False
