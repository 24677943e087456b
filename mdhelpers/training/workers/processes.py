"""Worker processes of this machine, each known by the task that it is at.

A pool that loses all its tasks when one worker dies would not do: here a death costs the task that
was under way, and tells which one it was.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, util
from pathlib import Path

import torch

from mdhelpers.base.places import is_disk_full
from mdhelpers.base.threads import THREADS, environment, one_thread
from mdhelpers.training.tasks import TrainingPlan

LONGEST_FOLDER = 103 - len("/pymp-12345678/listener-12345678")  # what sockets' names leave
FALSE_STARTS = 3  # workers in a row that die before they take a task


@dataclass(eq=False)
class Worker:
    """A process, our end of its channel, and the task that it is at."""

    process: multiprocessing.process.BaseProcess
    channel: connection.Connection
    slot: int
    task: tuple[int, int] | None = None
    ready: bool = False


class ProcessPool:
    """Up to ``n_workers`` processes that run tasks, each on one thread and on its own GPU in turn.

    Parameters
    ----------
    plan
        What to train.
    run
        ``run(plan, algorithm, task) -> dict``, a function of an importable module.
    n_workers
        Processes.

    """

    attempts_alone = 2

    def __init__(self, plan: TrainingPlan, run: Callable, n_workers: int):
        self.plan, self.run, self.n_workers = plan, run, n_workers
        self.gpus = visible_gpus() if plan.device == "cuda" else []
        self.context = worker_context()
        self.workers: list[Worker] = []
        self.false_starts = 0

    def results(self, tasks: list[tuple[int, int]]) -> Iterator[dict]:
        """Reports in the order in which tasks end; ``died`` marks one whose worker died at it."""
        waiting = deque(tasks)
        while waiting or any(worker.task for worker in self.workers):
            self.hire(len(waiting))
            self.hand_out(waiting)
            for worker in self.stirring():
                report = self.hear(worker)
                if report:
                    yield report

    def hire(self, n_waiting: int) -> None:
        n_busy = sum(worker.task is not None for worker in self.workers)
        while len(self.workers) < min(self.n_workers, n_busy + n_waiting):
            try:
                self.workers.append(self.start())
            except (EOFError, ConnectionError) as error:  # the server that forks was killed
                self.count_false_start(f"{type(error).__name__} {error}")

    def start(self) -> Worker:
        slot = min(set(range(self.n_workers)) - {worker.slot for worker in self.workers})
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else ""
        ours, theirs = self.context.Pipe()
        process = self.context.Process(target=serve, args=(theirs, gpu, self.plan, self.run))
        try:
            with environment(dict.fromkeys(THREADS, "1")):
                process.start()
        finally:
            theirs.close()
        return Worker(process, ours, slot)

    def hand_out(self, waiting: deque) -> None:
        for worker in self.workers:
            if waiting and worker.ready and worker.task is None:
                with suppress(OSError):  # it died while idle, and stirs next
                    worker.channel.send(waiting[0])
                    worker.task = waiting.popleft()

    def stirring(self) -> list[Worker]:
        """Wait until workers speak or die."""
        ends = {end: w for w in self.workers for end in (w.channel, w.process.sentinel)}
        return list(dict.fromkeys(ends[end] for end in connection.wait(list(ends))))

    def hear(self, worker: Worker) -> dict | None:
        try:
            if not worker.channel.poll():
                return self.bury(worker)
            message = worker.channel.recv()
        except (EOFError, OSError):
            return self.bury(worker)
        if message == "ready":
            worker.ready, self.false_starts = True, 0
            return None
        worker.task = None
        if is_poisoned(message):
            self.dismiss(worker)
        return message

    def bury(self, worker: Worker) -> dict | None:
        """Forget a dead worker; returns the report of its task, if it had one."""
        self.dismiss(worker)
        how = how_it_died(worker.process.exitcode)
        if not worker.ready:
            self.count_false_start(f"the last one {how}")
        if worker.task is None:
            return None
        algorithm, task = worker.task
        failed = f"its worker {how}"
        return {"algorithm": algorithm, "task": task, "failed": failed, "died": True}

    def count_false_start(self, how: str) -> None:
        self.false_starts += 1
        if self.false_starts >= FALSE_STARTS:
            raise RuntimeError(
                f"{FALSE_STARTS} worker processes in a row ended before they took a task: {how}. "
                "Their own messages are above. A script must start training under "
                '`if __name__ == "__main__":`, since workers import it.'
            )

    def dismiss(self, worker: Worker) -> None:
        self.workers.remove(worker)
        worker.process.kill()
        worker.process.join()
        worker.channel.close()

    def close(self) -> None:
        """End all workers, whatever they are at; a later call of `results` starts new ones."""
        for worker in list(self.workers):
            self.dismiss(worker)


def worker_context() -> multiprocessing.context.BaseContext:
    """How processes are started: on Linux forked from a server that has imported what tasks need.

    So the imports, seconds of them, are paid once and not by every worker. The server runs no
    thread and touches no GPU, which is what makes forking it safe; elsewhere than on Linux system
    libraries start threads of their own, and every worker imports for itself.
    """
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    keep_sockets_short()
    context = multiprocessing.get_context("forkserver")
    # torch imports its compiler, 2 to 4 s of work, when the first optimiser is made
    context.set_forkserver_preload([TrainingPlan.__module__, __name__, "torch._dynamo"])
    return context


def keep_sockets_short() -> None:
    """Have multiprocessing lay its sockets where their names, of 104 bytes at most, are not cut.

    Raises
    ------
    RuntimeError
        Where the folder for temporary files has too long a name, and no other can be written.

    """
    config = multiprocessing.process.current_process()._config
    used = Path(config["tempdir"]).parent if config.get("tempdir") else tempfile.gettempdir()
    if len(os.fsencode(used)) <= LONGEST_FOLDER:
        return
    short = ("/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR", ""))
    place = next((at for at in short if is_usable(at)), None)
    if place is None:
        raise RuntimeError(
            f"TMPDIR is {used}, of {len(os.fsencode(used))} bytes; the sockets of worker processes "
            f"lie there, and must be named in {LONGEST_FOLDER}. Set TMPDIR to a shorter folder."
        )
    before, config["tempdir"] = tempfile.tempdir, None
    try:
        tempfile.tempdir = place
        util.get_temp_dir()  # made now, it is used from now on, and removed at the end
    finally:
        tempfile.tempdir = before


def is_usable(folder: str) -> bool:
    """Whether files can be made in a folder with a name short enough for sockets."""
    return 0 < len(folder) <= LONGEST_FOLDER and os.access(folder, os.W_OK | os.X_OK)


def serve(channel: connection.Connection, gpu: str, plan: TrainingPlan, run: Callable) -> None:
    """What a worker does: receive a task, run it, send its report, until it is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is interrupted, and ends its workers
    threading.Thread(target=end_with_parent, daemon=True).start()
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    with one_thread(), suppress(EOFError, OSError):
        channel.send("ready")
        while True:
            channel.send(attempt(run, plan, *channel.recv()))


def end_with_parent() -> None:
    """End this process when its parent is gone, even if that was killed."""
    parent, starter = multiprocessing.parent_process(), os.getppid()
    while parent.is_alive() and os.getppid() == starter:
        time.sleep(0.5)
    os._exit(1)


def attempt(run: Callable, plan: TrainingPlan, algorithm: int, task: int) -> dict:
    """Run a task; an exception becomes a report, which can travel where exceptions cannot.

    ``stop`` marks what would befall every other task too: a full disk, an unreadable file.
    """
    try:
        return run(plan, algorithm, task)
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        return {
            "algorithm": algorithm,
            "task": task,
            "failed": message,
            "traceback": traceback.format_exc(),
            "stop": isinstance(error, OSError) or is_disk_full(error),
        }


def is_poisoned(report: dict) -> bool:
    """Whether the process that sent ``report`` can use its GPU no more."""
    return "CUDA error" in report.get("failed", "")


def how_it_died(code: int) -> str:
    """A process's end in words."""
    if code == -signal.SIGKILL:
        return "was killed by signal 9 (SIGKILL), as the system does when memory runs out"
    if code < 0:
        return f"was killed by signal {-code} ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


def visible_gpus() -> list[str]:
    """The GPUs of this machine as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    return given.split(",") if given else [str(i) for i in range(torch.cuda.device_count())]
