"""Tasks on many hosts: the workers of a dask scheduler, found at an address or asked of SLURM.

Every worker must see the run's folder, hold the same versions, and train one task at a time; all
of it is checked before the first task is sent, and by every worker that joins later.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from mdhelpers.cluster_workers import (
    Expectations,
    UnfitWorker,
    deciding_versions,
    faults_of_process,
    train_on_worker,
    unfit,
)
from mdhelpers.plans import TrainingPlan
from mdhelpers.processes import is_poisoned
from mdhelpers.records import unfinished_name
from mdhelpers.slurm import (
    ClusterSpec,
    import_extra,
    refuse_slurm_keys,
    slurm_cluster,
)
from mdhelpers.specs import validate

CONNECT = 20  # seconds to reach a scheduler
UNDER_WAY = 4  # tasks sent a worker, one of which it is at


@contextmanager
def open_cluster(
    plan: TrainingPlan, scheduler: str, cluster: dict, run: Callable
) -> Iterator[DaskPool]:
    """Workers that are there and fit, for as long as the context lasts.

    Raises
    ------
    ValueError
        For an unknown key of ``cluster``, a package or command that is not there.
    RuntimeError
        When no scheduler answers, no worker comes, or a worker is unfit.

    """
    spec = validate(ClusterSpec, cluster, "cluster")
    distributed = import_extra("distributed", "cluster")
    with ExitStack() as stack:
        if scheduler == "slurm":
            jobs = stack.enter_context(slurm_cluster(spec, plan))
            jobs.adapt(minimum_jobs=spec.jobs, maximum_jobs=spec.jobs)
        else:
            refuse_slurm_keys(spec, scheduler)
            warn_of_open_scheduler(scheduler, trusted=spec.trusted)
        try:
            client = distributed.Client(
                jobs if scheduler == "slurm" else scheduler, timeout=CONNECT
            )
        except TypeError as error:  # of dask, where its configuration names no certificate
            raise ValueError(
                f"{scheduler} needs certificates ({error}). Name them in dask's configuration: "
                "distributed.comm.tls, ca-file and the client's cert and key; see book/scaling.md"
            ) from None
        except OSError as error:
            raise RuntimeError(
                f"no dask scheduler answers at {scheduler} ({error}). Start one with `dask "
                f"scheduler --port 8786`, and workers with `{worker_command(plan, scheduler)}`."
            ) from None
        stack.enter_context(client)
        plan = replace(plan, folder=plan.folder.resolve())
        token = stack.enter_context(token_in(plan.folder))
        yield DaskPool(plan, run, client, token=token, patience=spec.patience)


def warn_of_open_scheduler(address: str, *, trusted: bool) -> None:
    """Say that a scheduler which speaks in the clear lets all who reach it run code."""
    parts = urlsplit(address)
    loopback = parts.hostname in ("localhost", "::1") or (parts.hostname or "").startswith("127.")
    if parts.scheme in ("tcp", "ws") and not loopback and not trusted:
        print(
            f"{address} asks nobody who they are: whoever reaches it runs code as you, here and on "
            "all workers. Use tls://… with certificates of dask, or say cluster: {trusted: true} "
            "where only people whom you trust reach it.",
            file=sys.stderr,
        )


@contextmanager
def token_in(folder: Path) -> Iterator[str]:
    """The name of a file that is in ``folder`` for a while: who sees it sees this very folder."""
    token = unfinished_name(folder / "seen")  # so that one that a killed process left is removed
    token.touch()
    try:
        yield token.name
    finally:
        token.unlink(missing_ok=True)


class DaskPool:
    """The workers of a dask scheduler; see `mdhelpers.processes.ProcessPool` for what a pool does.

    dask itself repeats the tasks of a worker that died, and gives a task up after its
    ``allowed-failures``. Tasks are idempotent and write to the store: their results are reports.
    """

    attempts_alone = 1

    def __init__(self, plan: TrainingPlan, run: Callable, client, *, token: str, patience: float):
        self.plan, self.run, self.client, self.patience = plan, run, client, patience
        self.address = client.scheduler.address
        self.expected = Expectations(
            plan.folder,
            plan.data_folder.resolve(),
            plan.fingerprint,
            "" if plan.models_url else token,
            tuple(sorted(deciding_versions().items())),
            plan.device,
        )
        self.wait_for_workers()
        self.check_workers()

    @property
    def workers(self) -> dict[str, dict]:
        """What the scheduler knows about its workers, by address."""
        self.check_connection()
        try:
            return self.client.scheduler_info(n_workers=-1)["workers"]
        except OSError:
            raise self.lost() from None

    @property
    def n_workers(self) -> int:
        return max(1, len(self.workers))

    def wait_for_workers(self) -> None:
        """Wait, with a message, until there is a worker, or patience ends."""
        deadline, said = time.monotonic() + self.patience, False
        while not self.workers:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"no worker came to {self.address} in {self.patience:g} s. What is finished "
                    f"is kept. Start workers with `{worker_command(self.plan, self.address)}`, "
                    "or raise cluster: {patience: …}, and run the same command again."
                )
            if not said:
                print(f"waiting for workers of {self.address} …", file=sys.stderr)
            said = True
            time.sleep(0.2)

    def check_workers(self) -> None:
        """Refuse to send tasks to workers that would never run them, or not rightly."""
        workers, command = self.workers, worker_command(self.plan, self.address)
        many = [about for about in workers.values() if about["nthreads"] > 1]
        if many:
            raise UnfitWorker(
                f"the worker on {many[0]['host']} has {many[0]['nthreads']} threads, but a process "
                f"trains one task at a time. Start it with `{command} --nworkers "
                f"{many[0]['nthreads']}`."
            )
        if self.plan.device != "cpu" and not any(
            about["resources"].get("GPU", 0) >= 1 for about in workers.values()
        ):
            raise UnfitWorker(
                f"none of the {len(workers)} workers of {self.address} offers a GPU, and tasks "
                f"would wait for ever. Start one for each GPU with `{command}`."
            )
        found = self.client.run(faults_of_process, self.expected, on_error="return")
        for address, faults in found.items():
            if isinstance(faults, BaseException):
                faults = [f"cannot run mdhelpers ({type(faults).__name__}: {faults})"]
            if faults:
                raise UnfitWorker(unfit(workers[address]["host"], faults))

    def results(self, tasks: list[tuple[int, int]]) -> Iterator[dict]:
        """Reports in the order in which tasks end; ``died`` marks one that killed its workers."""
        import distributed

        # with_results: a report is fetched the moment that it is there, since it is lost, and its
        # task runs again, when its worker dies first
        ending = distributed.as_completed(loop=self.client.loop, with_results=True)
        waiting, under_way = iter(tasks), {}
        try:
            while True:
                for task in islice(waiting, max(0, UNDER_WAY * self.n_workers - len(under_way))):
                    future = self.submit(task)
                    under_way[future] = task
                    ending.add(future)
                if not under_way:
                    return
                ended = self.next_ended(ending)
                for future, _ in ended:  # else dask would keep what it gave, and make it again
                    future.release()
                for future, result in ended:
                    yield self.hear(under_way.pop(future), result)
        finally:
            with suppress(OSError):
                self.client.cancel(list(under_way))

    def submit(self, task: tuple[int, int]):
        algorithm, index = task
        return self.client.submit(
            train_on_worker,
            self.expected,
            self.run,
            self.plan,
            *task,
            key=f"algorithm_{algorithm}-{index}-{uuid4().hex[:8]}",
            pure=False,
            retries=2,
            resources={"GPU": 1} if self.plan.device != "cpu" else None,
        )

    def next_ended(self, ending) -> list[tuple]:
        """The next futures that are done, whatever befalls scheduler and workers meanwhile."""
        looked = time.monotonic()
        while not ending.has_ready():
            time.sleep(0.02)
            if time.monotonic() > looked + 1:
                self.wait_for_workers()
                looked = time.monotonic()
        return ending.next_batch(block=False)

    def hear(self, task: tuple[int, int], result: Any) -> dict:
        """The report of a task from what its future gave: a report, or dask's own exception."""
        if isinstance(result, dict):
            address = result.pop("worker")
            if is_poisoned(result):
                self.client.restart_workers([address], raise_for_error=False)
            return result
        if not isinstance(result, tuple):  # cancelled, which nobody but a scheduler's end does
            raise self.lost()
        _, error, _ = result
        if isinstance(error, UnfitWorker):
            raise error
        report = dict(zip(("algorithm", "task"), task, strict=True))
        if type(error).__name__ == "KilledWorker":
            n_deaths, last = error.allowed_failures + 1, error.last_worker
            how = f"{n_deaths} workers died at it, the last at {last.address}; see their logs"
            return report | {"failed": how, "died": True}
        return report | {"failed": f"{type(error).__name__}: {error}"}

    def check_connection(self) -> None:
        if self.client.status != "running":
            raise self.lost()

    def lost(self) -> RuntimeError:
        return RuntimeError(
            f"lost the dask scheduler at {self.address}. What is finished is kept. Start it and "
            "its workers again, and run the same command: it goes on with what is left."
        )

    def close(self) -> None:
        """Nothing is held between tasks."""


def worker_command(plan: TrainingPlan, address: str) -> str:
    gpu = " --resources GPU=1" if plan.device != "cpu" else ""
    return f"dask worker {address} --nthreads 1{gpu}"
