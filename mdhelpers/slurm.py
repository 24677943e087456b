"""What to ask of a SLURM queue, and a dask cluster made of what it gives."""

from __future__ import annotations

import importlib
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator, Field

from mdhelpers.paths import resolve
from mdhelpers.plans import TrainingPlan
from mdhelpers.records import unfinished_name
from mdhelpers.specs import Count, Positive, Spec

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
