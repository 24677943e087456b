"""Tasks on many hosts: the workers of a dask scheduler, found at an address or asked of SLURM.

First what to ask of a SLURM queue, and the cluster made of what it gives; then what runs on its
workers, tasks and the check that a worker is fit for them; then `DaskPool`, which hands tasks
out. Every worker must see the run's folder, hold the same versions, and train one task at a time;
all of it is checked before the first task is sent, and by every worker that joins later.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit
from uuid import uuid4

import torch
from pydantic import AfterValidator, Field

from mdhelpers.base.places import resolve, versions
from mdhelpers.base.records import unfinished_name
from mdhelpers.base.specs import Count, Positive, Spec, validate
from mdhelpers.base.threads import one_thread
from mdhelpers.training.tasks import TrainingPlan
from mdhelpers.training.workers.processes import attempt, is_poisoned

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster


DIRECTIVE = r"^(-[A-Za-z]|--[a-z][a-z0-9-]*)([= ]?[\w.,:@+=/%~\[\]-]+)?$"
LETTERS_OF_SHELLS = "\"'`$\\;&|<>(){}*?!#\n\r"


def _one_word(text: str) -> str:
    """Refuse what could begin another line or command of a job's script."""
    odd = [each for each in text if each in LETTERS_OF_SHELLS or not each.isprintable()]
    if odd:
        raise ValueError(
            f"it holds {odd[0]!r}, by which a job's script could be extended. Write a plain name "
            "or path; lines of shell belong into prologue"
        )
    return text


Name = Annotated[str, Field(pattern=r"^[\w.,:@+=/%-]*$")]
Plain = Annotated[str, AfterValidator(_one_word)]


class ClusterSpec(Spec):
    """What to ask of SLURM for ``scheduler: slurm``, and how long to wait for workers.

    Every job has ``cores`` and ``memory`` for ``walltime`` (``hh:mm:ss``), in a ``queue`` (SLURM's
    partition) on an ``account``; ``jobs`` of them are kept running: for one that ends, another is
    asked for. With ``gpus``, a job has that many and a worker for each; without, a worker for each
    core. ``prologue`` are lines of shell, run as they stand before the workers start
    (``module load …``): all other keys are words that no shell reads. ``directives`` are further
    ``#SBATCH`` options, one ``--option=value`` each, ``interface`` the network device by which
    hosts reach one another, ``python`` the interpreter on the hosts, ``logs`` a folder for the
    jobs' output.

    ``patience`` is how many seconds to wait while there is no worker at all. ``trusted`` says that
    everyone who reaches an unencrypted scheduler may run code as you. These two are the only keys
    for a scheduler given by its address.
    """

    queue: Name = ""
    account: Name = ""
    cores: Count = 1
    memory: Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?[kKMGT]?i?B?$")] = "4GB"
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d+:\d\d:\d\d$")] = "04:00:00"
    jobs: Count = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    prologue: list[str] = Field([])
    directives: list[Annotated[str, Field(pattern=DIRECTIVE)]] = Field([])
    interface: Name = ""
    python: Plain = ""
    logs: Plain = ""
    patience: Positive = 3600.0
    trusted: bool = False

    @property
    def workers_per_job(self) -> int:
        return self.gpus or self.cores


def import_extra(module: str, extra: str) -> ModuleType:
    """A module of an optional extra.

    Raises
    ------
    ValueError
        Says how to install it.

    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"this scheduler needs {module}, which cannot be imported ({error}); install it with "
            f"`pip install 'mdhelpers[{extra}]'`, or use scheduler: local"
        ) from None


@contextmanager
def slurm_cluster(spec: ClusterSpec, plan: TrainingPlan) -> Iterator[SLURMCluster]:
    """A dask scheduler in this process, whose workers SLURM will start.

    Who reaches a dask scheduler runs code as its user, and this one must listen to other hosts. So
    it speaks TLS alone, and only with who has this run's certificate: it lies in the run's folder
    while the context lasts, to be read by its user.

    Raises
    ------
    ValueError
        Without ``sbatch``, dask-jobqueue or cryptography, or for a plan on GPUs that asks for none.

    """
    jobqueue = import_extra("dask_jobqueue", "slurm")
    import_extra("cryptography", "slurm")
    if shutil.which("sbatch") is None:
        raise ValueError(
            "scheduler: slurm submits jobs by `sbatch`, which is not on the PATH. Run this on a "
            "host from which jobs can be submitted, a login node as a rule."
        )
    if (plan.device != "cpu") != bool(spec.gpus):
        raise ValueError(
            f"the models are trained on {plan.device} and cluster.gpus is {spec.gpus}: give gpus, "
            "the number in a job, for device: cuda, and none for device: cpu"
        )

    class OverTLS(jobqueue.SLURMCluster):
        """Leaves the workers' security to their own options, whose paths are quoted."""

        def _get_worker_security(self, security):  # noqa: ARG002
            return None

    with certificate(plan.folder) as (security, arguments):
        options = jobqueue_options(spec)
        options["worker_extra_args"] = [*options["worker_extra_args"], *arguments]
        with OverTLS(security=security, protocol="tls://", **options) as cluster:
            yield cluster


@contextmanager
def certificate(folder: Path) -> Iterator[tuple]:
    """A certificate made for this moment: dask's security, and the options of its workers."""
    from distributed.security import Security

    security = Security.temporary()
    said = security.get_tls_config_for_role("worker")
    place = unfinished_name(folder.resolve() / "tls")
    place.mkdir(mode=0o700)
    try:
        arguments = []
        for name in ("ca_file", "cert", "key"):
            handle = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(said[name])
            arguments += [f"--tls-{name.replace('_', '-')}", shlex.quote(str(place / name))]
        yield security, arguments
    finally:
        shutil.rmtree(place, ignore_errors=True)


def jobqueue_options(spec: ClusterSpec) -> dict:
    """The arguments of `dask_jobqueue.SLURMCluster` that ``spec`` stands for.

    Raises
    ------
    ValueError
        For a folder of logs that no ``#SBATCH`` line can name.

    """
    logs = str(resolve(spec.logs)) if spec.logs else ""
    if len(logs.split()) > 1 or _one_word(logs) != logs:
        raise ValueError(f"cluster.logs is {logs!r}: #SBATCH takes no path with spaces")
    gpus = [f"--gres=gpu:{spec.gpus}"] if spec.gpus else []
    resources = ["--resources", "GPU=1"] if spec.gpus else []
    return {
        "queue": spec.queue or None,
        "account": spec.account or None,
        "cores": spec.workers_per_job,  # dask's: threads of all the job's workers, one each
        "processes": spec.workers_per_job,
        "job_cpu": spec.cores,
        "memory": spec.memory,
        "walltime": spec.walltime,
        "job_extra_directives": [*gpus, *spec.directives],
        "job_script_prologue": [*spec.prologue],
        "worker_extra_args": [*resources, "--no-dashboard"],
        "interface": spec.interface or None,
        "python": _quoted(spec.python) if spec.python else None,
        "log_directory": logs or None,
        "job_name": "mdhelpers",
        "scheduler_options": {"dashboard": False, "dashboard_address": "127.0.0.1:0"},
    }


def _quoted(path: str) -> str:
    """A path as one word of a shell, which still puts the home in the place of '~'."""
    home, rest = ("~/", path[2:]) if path.startswith("~/") else ("", path)
    return home + shlex.quote(rest)


def refuse_slurm_keys(spec: ClusterSpec, scheduler: str) -> None:
    """A scheduler that is there already is asked for nothing."""
    given = [key for key in ClusterSpec.model_fields if key in spec.model_fields_set]
    needless = [key for key in given if key not in ("patience", "trusted")]
    if needless:
        raise ValueError(
            f"cluster: {', '.join(needless)} would be asked of SLURM, but the scheduler is "
            f"{scheduler}; leave them out, or use scheduler: slurm"
        )


def take_gpu(worker_name: str) -> None:
    """Leave this worker one of its job's GPUs: the one of its number, which ends its name."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    number = worker_name.rpartition("-")[2]
    if len(visible) > 1 and number.isdigit():
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[int(number) % len(visible)]


ONE_TASK = threading.Lock()  # a process holds one seeded generator, and one set of threads


@dataclass(frozen=True)
class Expectations:
    """What a worker must find; hashable, it travels with every task."""

    folder: Path
    data_folder: Path
    fingerprint: str
    token: str
    versions: tuple[tuple[str, str], ...]
    device: str


class UnfitWorker(RuntimeError):
    """A worker lacks what a task needs."""


def train_on_worker(
    expected: Expectations, run: Callable, plan: TrainingPlan, algorithm: int, task: int
) -> dict:
    """What a worker runs: a task on one thread, once it is sure that it is fit for it."""
    from distributed import get_worker

    faults = faults_of_process(expected)
    if faults:
        raise UnfitWorker(unfit(socket.gethostname(), faults))
    with ONE_TASK, one_thread():
        report = attempt(run, plan, algorithm, task)
    return {"host": socket.gethostname(), **report, "worker": get_worker().address}


def find_faults(expected: Expectations) -> list[str]:
    """What this process lacks to train a plan's models: empty where it is fit."""
    faults = []
    found = deciding_versions()
    for name, version in expected.versions:
        if found.get(name) != version:
            faults.append(f"has {name} {found.get(name)}, and {version} is needed")
    about = expected.data_folder / "dataset.json"
    if not about.exists():
        faults.append(f"does not see {about}; the run's folder must be on a shared file system")
    elif json.loads(about.read_text(encoding="utf-8"))["fingerprint"] != expected.fingerprint:
        faults.append(f"has other images in {about.parent}")
    elif expected.token and not (expected.folder / expected.token).exists():
        faults.append(
            f"sees another folder at {expected.folder}; it must be the same one, on a shared "
            "file system, or models_url must say where all hosts write"
        )
    if expected.device != "cpu" and not torch.cuda.is_available():
        faults.append("has no GPU that torch sees")
    return faults


@lru_cache(maxsize=1)
def faults_of_process(expected: Expectations) -> list[str]:
    """`find_faults`, once in a worker's life, after it has chosen its GPU."""
    from distributed import get_worker

    if expected.device == "cuda":
        take_gpu(str(get_worker().name))
    return find_faults(expected)


def unfit(host: str, faults: list[str]) -> str:
    return f"the worker on {host} {'; it '.join(faults)}. What is finished is kept."


def deciding_versions() -> dict[str, str]:
    """The versions that must be equal on all hosts, since bits hang on them."""
    found = versions()
    return {name: found[name] for name in ("mdhelpers", "torch", "numpy", "zarr")}


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
        client, no_certificate, why = None, False, ""
        try:
            client = distributed.Client(
                jobs if scheduler == "slurm" else scheduler, timeout=CONNECT
            )
        except (TypeError, OSError) as error:  # the former where dask's configuration names none
            no_certificate, why = isinstance(error, TypeError), str(error)
        if client is None:
            # What is left of the failed client is collected here: in the thread that starts the
            # next one's loop, it would wait for a lock that the next one holds.
            gc.collect()
            raise unreachable(scheduler, plan, why, no_certificate=no_certificate)
        stack.enter_context(client)
        plan = replace(plan, folder=plan.folder.resolve())
        token = stack.enter_context(token_in(plan.folder))
        yield DaskPool(plan, run, client, token=token, patience=spec.patience)


def unreachable(
    scheduler: str, plan: TrainingPlan, why: str, *, no_certificate: bool
) -> ValueError | RuntimeError:
    """What to raise where a scheduler does not answer, or asks for certificates."""
    if no_certificate:
        return ValueError(
            f"{scheduler} needs certificates ({why}). Name them in dask's configuration: "
            "distributed.comm.tls, ca-file and the client's cert and key; see book/scaling.md"
        )
    return RuntimeError(
        f"no dask scheduler answers at {scheduler} ({why}). Start one with `dask "
        f"scheduler --port 8786`, and workers with `{worker_command(plan, scheduler)}`."
    )


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
    """The workers of a dask scheduler.

    See `mdhelpers.training.workers.processes.ProcessPool` for what a pool does.

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
