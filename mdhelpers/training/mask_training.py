"""Train every model of both algorithms on random subsets, with a progress bar; resumable.

A killed run loses only the tasks under way: see `mdhelpers.training.tasks` for what a task is and
`mdhelpers.training.workers.schedulers` for who runs it.

`retrain` trains models of a finished study anew, on subsets that are given and not drawn. What
datamodels predict (the effect of leaving images out, of choosing a subset, of drawing images with
other probabilities) is verified by training on exactly those subsets, by the same tasks and over
the same processes or hosts, and a killed call resumes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import time
import zipfile
from contextlib import closing, suppress
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mdhelpers.base.places import cores
from mdhelpers.base.records import remove_unfinished, write_json, written
from mdhelpers.training.store import ModelStore
from mdhelpers.training.store_files import Trained
from mdhelpers.training.tasks import TrainingPlan, run_source, unfinished_sources, unfinished_tasks
from mdhelpers.training.workers.processes import visible_gpus
from mdhelpers.training.workers.schedulers import check_scheduler, failure_message, run_tasks


def train_all(
    plan: TrainingPlan,
    *,
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict | None = None,
    progress: bool = True,
) -> dict:
    """Train what is not trained yet.

    Parameters
    ----------
    plan
        What to train.
    workers
        Processes of the local scheduler, each single-threaded; 0: one per core, or one per GPU. The
        result does not depend on it.
    scheduler, cluster
        Who trains: see `mdhelpers.training.workers.schedulers.run_tasks`.
    progress
        Show a bar with models a minute, the accuracy so far and the time left.

    Returns
    -------
    dict
        ``models`` trained now, ``seconds``, ``workers`` (processes that trained).

    Raises
    ------
    RuntimeError
        When tasks failed, after all others are finished; it names them. What is done is kept.
    OSError
        When the disk is full, or would be.

    """
    check_scheduler(scheduler)
    forget_damaged(plan)
    log, start = plan.folder / "training.jsonl", time.perf_counter()
    tasks = failed_last(unfinished_tasks(plan), log)
    check_disk(plan, len(tasks))
    describe_plan(plan)
    workers = workers or default_workers(plan, len(tasks))
    train_sources(plan, scheduler, workers, cluster)
    trained, failures = Progress(plan, len(tasks), progress), []
    with trained.bar, closing(run_tasks(plan, tasks, scheduler, workers, cluster)) as reports:
        for report in reports:
            log_report(log, report)
            if "failed" in report:
                failures.append(report)
            else:
                trained.add(report)
    if failures:
        n_untried = len(tasks) - trained.n_tasks - len(failures)
        raise RuntimeError(failure_message(plan, failures, n_untried, workers))
    remove_leftovers(plan)
    workers = workers if scheduler == "local" else len(trained.processes)
    return {"models": trained.models, "seconds": time.perf_counter() - start, "workers": workers}


def forget_damaged(plan: TrainingPlan) -> None:
    """Have what fails its checksum by now trained again."""
    for algorithm in plan.numbers:
        with suppress(FileNotFoundError):
            store = ModelStore.open(plan.store_path(algorithm))
            for task in sorted({task for _, task in store.check()}):
                store.forget(task)


def train_sources(plan: TrainingPlan, scheduler: str, workers: int, cluster: dict | None) -> None:
    """Train the source models that others start from, before any of those."""
    sources = unfinished_sources(plan)
    with closing(run_tasks(plan, sources, scheduler, workers, cluster, run=run_source)) as reports:
        for report in reports:
            number = report.pop("task", report.get("source"))
            log_report(plan.folder / "training.jsonl", {**report, "source": number})
            if "failed" in report:
                raise RuntimeError(
                    f"source model {number} of algorithm {report['algorithm']}, from which its "
                    f"models start: {report['failed']}. What is finished is kept: mend the cause "
                    "and run the same command again."
                )


class Progress:
    """What has been trained so far, and the bar that shows it."""

    def __init__(self, plan: TrainingPlan, n_tasks: int, progress: bool):
        self.n_tasks = self.models = 0
        self.accuracy: dict[int, list[float]] = {a: [] for a in plan.numbers}
        self.processes: set[tuple[str, int]] = set()
        self.start = time.perf_counter()
        self.bar = tqdm(
            total=len(plan.numbers) * plan.n_models,
            initial=len(plan.numbers) * plan.n_models - n_tasks * plan.stack,
            unit="model",
            disable=not progress,
            mininterval=2.0,
            smoothing=0.05,
        )

    def add(self, report: dict) -> None:
        self.n_tasks += 1
        self.models += report["models"]
        self.processes.add((report.get("host", ""), report.get("process", 0)))
        self.accuracy[report["algorithm"]].append(report["accuracy"])
        shown = " / ".join(f"{np.mean(a):.3f}" if a else "…" for a in self.accuracy.values())
        rate = 60 * self.models / (time.perf_counter() - self.start)
        self.bar.set_postfix_str(f"{rate:.0f} models/min, accuracy {shown}", refresh=False)
        self.bar.update(report["models"])


def default_workers(plan: TrainingPlan, n_tasks: int) -> int:
    """One process per core, or a GPU; no more than there are tasks."""
    if plan.device == "cpu":
        return max(1, min(cores(), n_tasks))
    return max(1, min(len(visible_gpus()), n_tasks)) if plan.device == "cuda" else 1


def failed_last(tasks: list[tuple[int, int]], log: Path) -> list[tuple[int, int]]:
    """``tasks`` with those that failed before put last, so that they keep none from running."""
    failed = set()
    for report in read_log(log):
        if "failed" in report:
            failed.add((report["algorithm"], report["task"]))
    return sorted(tasks, key=lambda task: task in failed)


def log_report(path: Path, report: dict) -> None:
    """Append a report to the run's log, with the time and the host where it names none."""
    shown = {key: value for key, value in report.items() if key not in ("stop", "again", "last")}
    line = {"host": socket.gethostname(), **shown, "at": time.time()}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def describe_plan(plan: TrainingPlan) -> None:
    """Write ``plan.json``, from which `mdhelpers status` knows what is to be done."""
    about = {
        "n_models": plan.n_models,
        "stack": plan.stack,
        "names": [spec.name for spec in plan.algorithms],
        "models_url": plan.models_url,
        "device": plan.device,
    }
    write_json(plan.folder / "plan.json", about)


def remove_leftovers(plan: TrainingPlan) -> None:
    """Remove what killed processes had begun to write."""
    checkpoints = (f"checkpoints_{algorithm}" for algorithm in plan.numbers)
    for folder in (".", *checkpoints, "sources"):
        remove_unfinished(plan.folder / folder)


def check_disk(plan: TrainingPlan, n_tasks: int) -> None:
    """Refuse to start where the margins and checkpoints would not fit."""
    if plan.models_url:
        return
    width = np.dtype(plan.margins_dtype).itemsize
    need = int(1.2 * n_tasks * plan.stack * (width * plan.n_test + plan.n_train / 8 + 4096))
    free = shutil.disk_usage(plan.folder).free
    if free < need:
        raise OSError(
            f"no disk space: {plan.folder} has {free / 1e6:.0f} MB free and the models need "
            f"about {need / 1e6:.0f} MB"
        )


_WASTE = 1.25  # models trained over models asked for, at most, where sizes do not fill stacks


@dataclass(frozen=True)
class RetrainingPlan(TrainingPlan):
    """A plan whose masks and keys lie in a file; images and source models are the study's.

    ``digest`` is of the masks and keys.
    """

    digest: str = ""

    @property
    def request(self) -> Path:
        """The file of masks and keys."""
        return self.folder / "request.npz"

    def keys(self, rows: slice) -> list[int]:
        """What each model's randomness is drawn from, as it was asked for."""
        return _read_request(self.request)[1][rows].tolist()

    def masks(self, rows: slice) -> np.ndarray:
        """The subsets of models ``rows``, as they were asked for."""
        return _read_request(self.request)[0][rows]

    def identity(self, algorithm: int) -> dict:
        """What decides the bits of a model, the request included."""
        return super().identity(algorithm) | {"request": self.digest}


def retrain(
    plan: TrainingPlan,
    algorithm: int,
    masks: np.ndarray,
    keys: np.ndarray,
    *,
    name: str,
    keep: bool = False,
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict | None = None,
    progress: bool = True,
) -> Trained:
    """Train models on given masks, or read them where that is done.

    Two models with equal ``keys`` start from the same weights, and put the images that they share
    in the same order, augmented alike: what differs between them is what their masks did.

    Parameters
    ----------
    plan : TrainingPlan
        Of a finished study: `mdhelpers.stages.models.read_models(run).plan`.
    algorithm : int
        Its number, 1 or 2 of a study of two.
    masks : ndarray, shape (n_models, n_train), bool
        Subsets of any sizes; all training images are one too. Sizes that occur in multiples of
        ``plan.stack`` train fastest.
    keys : ndarray, shape (n_models,), int
        What initialisation, order and augmentation are drawn from. The study's own models have
        their rows as keys; with common initialisations, a model's slot is its key modulo their
        number.
    name : str
        What the models are for; they are kept under ``retrained/<name>-<digest>`` in the run's
        folder, and those of the same name and algorithm that were trained on other masks go.
    keep : bool
        Whether the models are kept whole, for `mdhelpers.training.tasks.load_kept` with the plan
        that `retraining` gives. Their masks must be of one size.
    workers, scheduler, cluster, progress
        See `train_all`.

    Returns
    -------
    Trained
        The models in the order of ``masks``.

    Raises
    ------
    ValueError
        If shapes or kinds are not as said, a mask is empty, or a key is negative.
    """
    ours, order = retraining(plan, algorithm, masks, keys, name=name, keep=keep)
    train_all(ours, workers=workers, scheduler=scheduler, cluster=cluster, progress=progress)
    _remove_others(ours.folder, f"{name}_{algorithm}-")
    place = np.unique(order, return_index=True)[1]  # a repeated model counts by its first place
    return ModelStore.open(ours.store_path(algorithm), read_only=True).read().rows(place)


def retraining(
    plan: TrainingPlan,
    algorithm: int,
    masks: np.ndarray,
    keys: np.ndarray,
    *,
    name: str,
    keep: bool = False,
) -> tuple[RetrainingPlan, np.ndarray]:
    """The plan by which `retrain` trains, and which of ``masks`` each of its models has.

    Parameters and errors are those of `retrain`. What is to be trained is written down.
    """
    masks, keys = _checked(plan, algorithm, masks, keys)
    if keep and len(np.unique(masks.sum(1))) > 1:
        raise ValueError("only models whose masks are of one size can be kept whole")
    stack, order = _in_stacks(masks.sum(1), plan.stack)
    digest = hashlib.sha256(np.packbits(masks[order]).tobytes() + keys[order].tobytes())
    digest = digest.hexdigest()[:12]
    folder = plan.folder / "retrained" / f"{name}_{algorithm}-{digest}"
    own = {field.name: getattr(plan, field.name) for field in fields(TrainingPlan)}
    ours = replace(
        RetrainingPlan(**own | {"run_folder": plan.run_folder or plan.folder}, digest=digest),
        folder=folder,
        n_models=len(order),
        n_keep=len(masks) if keep else 0,
        stack=stack,
        models_url=f"{plan.models_url.rstrip('/')}/{folder.name}" if plan.models_url else "",
        numbers=(algorithm,),
    )
    _write_request(ours.request, masks[order], keys[order])
    return ours, order


def _in_stacks(sizes: np.ndarray, limit: int) -> tuple[int, np.ndarray]:
    """Models a stack, and the order in which models of equal size fill whole stacks.

    The last stack of a size is filled up with its last model, trained again; the stack is the
    largest with little of that.
    """
    by_size = [np.flatnonzero(sizes == size) for size in np.unique(sizes)]

    def filled(stack: int) -> np.ndarray:
        ends = [np.repeat(rows[-1:], -len(rows) % stack) for rows in by_size]
        return np.concatenate([r for pair in zip(by_size, ends, strict=True) for r in pair])

    stacks = range(1, limit + 1)
    stack = max(s for s in stacks if len(filled(s)) <= max(_WASTE * len(sizes), len(sizes)))
    return stack, filled(stack)


def _checked(plan: TrainingPlan, algorithm: int, masks, keys) -> tuple[np.ndarray, np.ndarray]:
    masks, keys = np.asarray(masks), np.asarray(keys)
    if algorithm not in range(1, len(plan.algorithms) + 1):
        raise ValueError(
            f"algorithm is {algorithm!r}; give a number from 1 to {len(plan.algorithms)}."
        )
    if masks.ndim != 2 or masks.shape[1] != plan.n_train or masks.dtype != bool or not len(masks):
        raise ValueError(
            f"masks have shape {masks.shape} and dtype {masks.dtype}; expected (n_models, "
            f"{plan.n_train}) of bool, a column for each training image."
        )
    if not masks.any(1).all():
        raise ValueError(
            f"mask {int(np.argmin(masks.any(1)))} is empty; a model needs at least one image."
        )
    if keys.shape != (len(masks),) or not np.issubdtype(keys.dtype, np.integer) or keys.min() < 0:
        raise ValueError(
            f"keys have shape {keys.shape} and dtype {keys.dtype}; expected one integer from 0 on "
            f"for each of the {len(masks)} models."
        )
    return masks, keys.astype(np.int64)


def _write_request(path: Path, masks: np.ndarray, keys: np.ndarray) -> None:
    _read_request.cache_clear()
    with suppress(FileNotFoundError, ValueError, KeyError, OSError, zipfile.BadZipFile):
        there = _read_request(path)
        if np.array_equal(there[0], masks) and np.array_equal(there[1], keys):
            return
    _read_request.cache_clear()  # it was damaged
    path.parent.mkdir(parents=True, exist_ok=True)
    with written(path) as unfinished, unfinished.open("wb") as file:
        np.savez(file, masks=np.packbits(masks, axis=1), n_train=masks.shape[1], keys=keys)


@lru_cache(maxsize=2)
def _read_request(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Masks and keys; a path holds the same for ever, since their digest is part of it."""
    with np.load(path, allow_pickle=False) as file:
        masks = np.unpackbits(file["masks"], axis=1, count=int(file["n_train"])).view(bool)
        return masks, file["keys"]


def _remove_others(folder: Path, prefix: str) -> None:
    """Remove what was trained for the same end on other masks: folders that `retrain` made."""
    for other in folder.parent.glob(f"{prefix}*"):
        if other != folder and not other.is_symlink() and (other / "request.npz").is_file():
            shutil.rmtree(other, ignore_errors=True)


def read_log(path: Path) -> list[dict]:
    """The log's lines; one that is half written is passed over."""
    lines = []
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for each in text.splitlines():
        try:
            line = json.loads(each)
        except ValueError:
            continue
        if isinstance(line, dict) and {"algorithm", "task"} <= set(line):
            lines.append(line)
    return lines
