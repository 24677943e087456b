"""What to ask of a SLURM queue, and a dask cluster made of what it gives."""

from __future__ import annotations

import importlib
import os
import shutil
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mdhelpers.plans import TrainingPlan
from mdhelpers.specs import Count, Positive, Spec

if TYPE_CHECKING:
    from dask_jobqueue import SLURMCluster


class ClusterSpec(Spec):
    """What to ask of SLURM for ``scheduler: slurm``, and how long to wait for workers.

    Every job has ``cores`` and ``memory`` for ``walltime`` (``hh:mm:ss``), in a ``queue`` (SLURM's
    partition) on an ``account``; ``jobs`` of them are kept running: for one that ends, another is
    asked for. With ``gpus``, a job has that many and a worker for each; without, a worker for each
    core. ``prologue`` are shell lines before the workers start (``module load …``), ``directives``
    further ``#SBATCH`` options, ``interface`` the network device by which hosts reach one another,
    ``python`` the interpreter on the hosts, ``logs`` a folder for the jobs' output.

    ``patience`` is how many seconds to wait while there is no worker at all. It is the only key
    for a scheduler given by its address.
    """

    queue: str = ""
    account: str = ""
    cores: Count = 1
    memory: str = "4GB"
    walltime: Annotated[str, Field(pattern=r"^(\d+-)?\d+:\d\d:\d\d$")] = "04:00:00"
    jobs: Count = 1
    gpus: Annotated[int, Field(ge=0)] = 0
    prologue: list[str] = Field([])
    directives: list[str] = Field([])
    interface: str = ""
    python: str = ""
    logs: str = ""
    patience: Positive = 3600.0

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


def slurm_cluster(spec: ClusterSpec, plan: TrainingPlan) -> SLURMCluster:
    """A dask scheduler in this process, whose workers SLURM will start.

    Raises
    ------
    ValueError
        Without ``sbatch`` or dask-jobqueue, or for a plan on GPUs that asks for none.

    """
    jobqueue = import_extra("dask_jobqueue", "slurm")
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
    return jobqueue.SLURMCluster(**jobqueue_options(spec))


def jobqueue_options(spec: ClusterSpec) -> dict:
    """The arguments of `dask_jobqueue.SLURMCluster` that ``spec`` stands for."""
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
        "worker_extra_args": resources,
        "interface": spec.interface or None,
        "python": spec.python or None,
        "log_directory": spec.logs or None,
        "job_name": "mdhelpers",
        "scheduler_options": {"dashboard_address": ":0"},
    }


def refuse_slurm_keys(spec: ClusterSpec, scheduler: str) -> None:
    """A scheduler that is there already is asked for nothing."""
    given = [key for key in ClusterSpec.model_fields if key in spec.model_fields_set]
    needless = [key for key in given if key != "patience"]
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
