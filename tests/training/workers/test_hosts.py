import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mdhelpers.base.specs import validate
from mdhelpers.training.workers.hosts import (
    ClusterSpec,
    Expectations,
    UnfitWorker,
    certificate,
    deciding_versions,
    find_faults,
    jobqueue_options,
    take_gpu,
    warn_of_open_scheduler,
)
from mdhelpers.training.workers.schedulers import run_tasks
from tests.training.workers.test_schedulers import (
    TASKS,
    always_raise,
    marks,
    named,
    note,
    small_plan,
    wait_for,
)

distributed = pytest.importorskip("distributed")
ROOT = Path(__file__).parents[3]


def shared_plan(folder, **changes):
    (folder / "data").mkdir()
    (folder / "data" / "dataset.json").write_text(json.dumps({"fingerprint": "none"}))
    return small_plan(folder, **changes)


@pytest.fixture(scope="module")
def address():
    import dask

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    few = {"distributed.scheduler.allowed-failures": 1}
    with dask.config.set(few), distributed.LocalCluster(**options) as cluster:
        yield cluster.scheduler_address


def die_once(plan, algorithm, task) -> dict:
    if task == 3 and not (plan.folder / "died").exists():
        (plan.folder / "died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return note(plan, algorithm, task)


def die_at_3(plan, algorithm, task) -> dict:
    if task == 3:
        os._exit(7)
    return note(plan, algorithm, task)


def lose_gpu_once(plan, algorithm, task) -> dict:
    report = note(plan, algorithm, task)
    if task == 0 and not (plan.folder / "lost").exists():
        (plan.folder / "lost").touch()
        raise RuntimeError("CUDA error: an illegal memory access was encountered")
    return report


def test_every_task_runs_once_in_the_cluster_s_processes(tmp_path, address):
    reports = list(run_tasks(shared_plan(tmp_path), TASKS, address, run=note))
    assert named(reports) == marks(tmp_path) == TASKS
    processes = {line.split()[2] for line in (tmp_path / "marks").read_text().splitlines()}
    assert str(os.getpid()) not in processes
    assert all(report["host"] and "worker" not in report for report in reports)
    assert not list(tmp_path.glob(".seen-*"))


def test_a_killed_worker_costs_no_task(tmp_path, address):
    reports = list(run_tasks(shared_plan(tmp_path), TASKS, address, run=die_once))
    assert named(reports) == TASKS
    assert not any("failed" in report for report in reports)


@pytest.mark.slow
def test_a_task_that_always_kills_its_workers_is_named_alone(tmp_path, address):
    """dask blames what waited at a dead worker too: only a task tried alone is found guilty."""
    reports = list(run_tasks(shared_plan(tmp_path), TASKS, address, run=die_at_3))
    assert named(reports) == TASKS
    (guilty,) = (report for report in reports if "failed" in report)
    assert (guilty["task"], guilty["died"]) == (3, True)
    assert "2 workers died at it" in guilty["failed"]


def test_where_everything_fails_the_rest_is_not_tried(tmp_path, address):
    tasks = [(1, task) for task in range(20)]
    reports = list(run_tasks(shared_plan(tmp_path), tasks, address, run=always_raise))
    assert [report["failed"] for report in reports] == 3 * ["FloatingPointError: diverged"]
    assert len(marks(tmp_path)) < 20


def test_a_worker_that_lost_its_gpu_is_started_again(tmp_path, address):
    reports = list(run_tasks(shared_plan(tmp_path), TASKS, address, run=lose_gpu_once))
    assert [report["task"] for report in reports if "failed" in report] == [0]
    lines = [line.split() for line in (tmp_path / "marks").read_text().splitlines()]
    poisoned = next(pid for _, task, pid in lines if task == "0")  # dask may run it once more
    with distributed.Client(address) as client:
        assert int(poisoned) not in client.run(os.getpid).values()


def test_workers_without_the_gpu_tag_are_refused_at_once(tmp_path, address):
    start = time.monotonic()
    with pytest.raises(UnfitWorker, match=r"dask worker tcp://.* --nthreads 1 --resources GPU=1`"):
        list(run_tasks(shared_plan(tmp_path, device="cuda"), TASKS, address, run=note))
    assert time.monotonic() - start < 10
    assert not (tmp_path / "marks").exists()


def test_workers_that_see_other_images_are_refused_by_host(tmp_path, address):
    plan = shared_plan(tmp_path, fingerprint="other")
    with pytest.raises(UnfitWorker, match=r"the worker on 127.0.0.1 has other images in .*/data"):
        list(run_tasks(plan, TASKS, address, run=note))


def test_a_worker_is_told_all_that_it_lacks(tmp_path):
    def faults(**changes) -> str:
        options = {
            "folder": tmp_path,
            "data_folder": tmp_path / "data",
            "fingerprint": "none",
            "token": "token",
            "versions": tuple(deciding_versions().items()),
            "device": "cpu",
        }
        return "; ".join(find_faults(Expectations(**(options | changes))))

    assert "must be on a shared file system" in faults()
    shared_plan(tmp_path)
    assert "sees another folder" in faults()
    (tmp_path / "token").touch()
    assert faults() == ""
    assert "has torch 2." in faults(versions=(("torch", "1.0"),))
    assert "1.0 is needed" in faults(versions=(("torch", "1.0"),))
    import torch

    if not torch.cuda.is_available():
        assert "has no GPU" in faults(device="cuda")


def test_workers_with_several_threads_are_refused(tmp_path):
    options = {"n_workers": 1, "threads_per_worker": 2, "processes": False}
    with (
        distributed.LocalCluster(**options, dashboard_address=":0") as cluster,
        pytest.raises(UnfitWorker, match=r"has 2 threads.*--nthreads 1 --nworkers 2"),
    ):
        list(run_tasks(shared_plan(tmp_path), TASKS, cluster.scheduler_address, run=note))


def test_without_workers_it_waits_and_says_so_and_gives_up(tmp_path, capsys):
    plan = shared_plan(tmp_path)
    with distributed.LocalCluster(n_workers=0, dashboard_address=":0") as cluster:
        tasks = run_tasks(plan, TASKS, cluster.scheduler_address, 1, {"patience": 1}, run=note)
        with pytest.raises(RuntimeError, match=r"no worker came to tcp://.* in 1 s.*`dask worker"):
            list(tasks)
    assert "waiting for workers of tcp://" in capsys.readouterr().err


def test_no_scheduler_at_the_address_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("mdhelpers.training.workers.hosts.CONNECT", 1)
    with pytest.raises(
        RuntimeError, match=r"no dask scheduler answers at tcp://127.0.0.1:9 .*Start"
    ):
        list(run_tasks(shared_plan(tmp_path), TASKS, "tcp://127.0.0.1:9", run=note))


@pytest.fixture
def started():
    """Start ``dask`` as a user does; all that was started ends with the test."""
    processes = []

    def start(*words: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dask", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        processes.append(
            subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def take_a_while(plan, algorithm, task) -> dict:
    time.sleep(0.5)
    return note(plan, algorithm, task)


@pytest.mark.slow
def test_a_lost_scheduler_is_said_and_what_is_done_is_kept(tmp_path, started):
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = started("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard")
    started("worker", address, "--nthreads", "1", "--no-dashboard")
    reports = run_tasks(shared_plan(tmp_path), TASKS, address, run=take_a_while)
    next(reports)
    scheduler.kill()
    with pytest.raises(RuntimeError, match=r"lost the dask scheduler at tcp://.*same command"):
        list(reports)
    assert marks(tmp_path)


SBATCH = """#!/bin/bash
cp "$1" {folder}/job.sh
setsid bash {folder}/job.sh > {folder}/job.log 2>&1 &
echo $! >> {folder}/jobs
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
kill -- -"$1"
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """A queue that runs every job at once, with the commands that dask-jobqueue calls."""
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name, text in {"sbatch": SBATCH, "scancel": SCANCEL}.items():
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    yield folder
    for job in (folder / "jobs").read_text().split() if (folder / "jobs").exists() else []:
        with suppress(ProcessLookupError):
            os.killpg(int(job), signal.SIGKILL)


@pytest.mark.slow
def test_slurm_jobs_are_asked_for_and_asked_for_again(tmp_path, queue):
    folder = tmp_path / "a run's {folder}"
    folder.mkdir()
    plan = shared_plan(folder)
    cluster = {"queue": "short", "cores": 1, "memory": "1GB", "patience": 60, "account": "us"}
    reports = run_tasks(plan, TASKS, "slurm", 1, cluster, run=take_a_while)
    first = next(reports)
    (job,) = (queue / "jobs").read_text().split()
    os.killpg(int(job), signal.SIGKILL)  # the queue ends a job, at its wall time say
    assert named([first, *reports]) == TASKS
    assert len((queue / "jobs").read_text().split()) > 1
    script = (queue / "job.sh").read_text()
    assert " tls://" in script
    assert "tcp://" not in script
    assert "--no-dashboard" in script
    assert not list(folder.glob(".tls*"))
    for line in ("-p short", "-A us", "-J mdhelpers", "--cpus-per-task=1", "-t 04:00:00"):
        assert f"#SBATCH {line}" in script
    pids = [int(job) for job in (queue / "jobs").read_text().split()]
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds=20)


def test_a_job_for_gpus_has_a_worker_for_each_of_them():
    jobqueue = pytest.importorskip("dask_jobqueue")
    spec = ClusterSpec(
        gpus=2, cores=16, memory="64GB", prologue=["module load cuda"], directives=["--exclusive"]
    )
    with jobqueue.SLURMCluster(**jobqueue_options(spec)) as cluster:
        script = cluster.job_script()
    assert "#SBATCH --gres=gpu:2" in script
    assert "#SBATCH --exclusive" in script
    assert "#SBATCH --cpus-per-task=16" in script
    assert "\nmodule load cuda\n" in script
    assert "--nthreads 1 " in script
    assert "--nworkers 2" in script
    assert "--resources GPU=1" in script


def test_each_worker_of_a_job_takes_another_gpu(monkeypatch):
    for name, gpu in (("SLURMCluster-0-0", "4"), ("SLURMCluster-0-1", "6"), ("tcp://a:80", "4,6")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
        take_gpu(name)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == gpu


def test_slurm_without_sbatch_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("dask_jobqueue")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="`sbatch`, which is not on the PATH"):
        list(run_tasks(shared_plan(tmp_path), TASKS, "slurm"))


def test_a_plan_on_gpus_needs_jobs_with_gpus(tmp_path, queue):
    pytest.importorskip("dask_jobqueue")
    with pytest.raises(ValueError, match=r"trained on cuda and cluster.gpus is 0: give gpus"):
        list(run_tasks(shared_plan(tmp_path, device="cuda"), TASKS, "slurm"))
    assert not (queue / "jobs").exists()


def test_a_missing_extra_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(ValueError, match=r"pip install 'mdhelpers\[slurm\]'"):
        list(run_tasks(shared_plan(tmp_path), TASKS, "slurm"))


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"que": "short"}, "unknown key 'que'; did you mean 'queue'"),
        ({"walltime": "4h"}, "cluster.walltime"),
        ({"gpus": -1}, "cluster.gpus"),
    ],
)
def test_unknown_wishes_are_refused(cluster, message):
    with pytest.raises(ValueError, match=message):
        validate(ClusterSpec, cluster, "cluster")


WORDS = (
    "x\ntouch sprung",
    "x\r",
    "x;y",
    "x`y`",
    "$(y)",
    'x"y',
    "x'y",
    "x\x00",
    "x\x1b[0m",
    "x|y",
    "#x",
)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(
    "key", ["queue", "account", "memory", "walltime", "interface", "python", "logs", "directives"]
)
def test_no_parameter_extends_a_job_s_script(key, word):
    value = [f"--nice={word}"] if key == "directives" else word
    with pytest.raises(ValueError, match=rf"cluster\.{key}"):
        validate(ClusterSpec, {key: value}, "cluster")


def test_plain_words_are_taken():
    plain = {"queue": "gpu,long", "account": "lab@x", "memory": "1.5 GiB", "interface": "ib0:1"}
    plain |= {"walltime": "1-04:00:00", "python": "~/an env/bin/python", "logs": "~/logs"}
    plain |= {"directives": ["--nice=100", "--exclusive", "-C gpu", "--mail-user=a@b.c"]}
    assert validate(ClusterSpec, plain | {"trusted": True}, "cluster").trusted
    for odd in ("nice=100", "--a=1 --b=2", "--wrap='x'", "- x", ""):
        with pytest.raises(ValueError, match=r"cluster\.directives"):
            validate(ClusterSpec, {"directives": [odd]}, "cluster")


def test_logs_are_a_path_as_all_are(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert jobqueue_options(ClusterSpec(logs="~/logs"))["log_directory"] == f"{tmp_path}/logs"
    with pytest.raises(ValueError, match=r"cluster\.logs is .* no path with spaces"):
        jobqueue_options(ClusterSpec(logs="/a b"))
    assert jobqueue_options(ClusterSpec(python="~/a b"))["python"] == "~/'a b'"


@pytest.mark.parametrize(
    ("address", "trusted", "warned"),
    [
        ("tcp://head:8786", False, True),
        ("ws://10.0.0.1:1", False, True),
        ("tcp://head:8786", True, False),
        ("tls://head:8786", False, False),
        ("tcp://127.0.0.1:8786", False, False),
        ("tcp://[::1]:8786", False, False),
    ],
)
def test_a_scheduler_that_asks_nobody_is_spoken_of(address, trusted, warned, capsys):
    warn_of_open_scheduler(address, trusted=trusted)
    said = capsys.readouterr().err
    assert ("whoever reaches it runs code as you" in said) == ("tls://" in said) == warned


def test_a_tls_scheduler_is_reached_by_dask_s_own_configuration(tmp_path):
    import dask

    pytest.importorskip("cryptography")
    plan = shared_plan(tmp_path)
    with (
        certificate(tmp_path) as (security, arguments),
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", security=security
        ) as cluster,
    ):
        address = cluster.scheduler_address
        assert address.startswith("tls://")
        with pytest.raises(ValueError, match=r"needs certificates.*distributed\.comm\.tls"):
            list(run_tasks(plan, TASKS, address, run=note))
        ca, cert, key = (shlex.split(word)[0] for word in arguments[1::2])
        assert all(stat.S_IMODE(os.stat(name).st_mode) == 0o600 for name in (ca, cert, key))
        mine = {"ca-file": ca, "client.cert": cert, "client.key": key}
        with dask.config.set({f"distributed.comm.tls.{key}": file for key, file in mine.items()}):
            assert named(list(run_tasks(plan, TASKS, address, run=note))) == TASKS
    assert not list(tmp_path.glob(".tls*"))


def test_a_given_scheduler_is_asked_for_no_jobs(tmp_path):
    plan = shared_plan(tmp_path)
    with pytest.raises(ValueError, match=r"cluster: queue, jobs would be asked of SLURM"):
        list(run_tasks(plan, TASKS, "tcp://127.0.0.1:9", 1, {"queue": "short", "jobs": 2}))


@pytest.mark.slow
def test_a_cluster_gives_the_same_stores_as_one_worker(tmp_path, address):
    from mdhelpers.training.mask_training import train_all
    from tests.training.test_mask_training import files_of, make_plan

    for name, scheduler in (("local", "local"), ("dask", address)):
        (tmp_path / name).mkdir()
        plan = make_plan(tmp_path / name)
        done = train_all(plan, workers=1, scheduler=scheduler, progress=False)
        assert done["models"] == 32
    assert files_of(tmp_path / "dask") == files_of(tmp_path / "local")
