"""Training killed at random: is what it leaves, once finished, the same to the last byte?

A small study is trained without disturbance by one worker, and by three. Then it is trained again
and again, and each time one to three processes are killed with signal 9 at random moments: a
worker, the parent, a worker of a dask cluster, or its scheduler. A run that was stopped is started
again as a user would, by the same command, until it ends well. Every array but the wall times, and
every checkpoint, is compared byte by byte with the first run.

    python benchmarks/interruptions.py --quick --out interruptions.json
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mdhelpers.base.places import machine
from mdhelpers.data.datasets import read_dataset, save_dataset
from mdhelpers.data.scenes import make_scenes
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.mask_training import train_all
from mdhelpers.training.tasks import TrainingPlan

VICTIMS = ("worker", "parent", "dask worker", "dask scheduler")
N_MODELS, STACK = 96, 4
STARTS = 8  # of one run, before it is given up
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def study(folder: Path) -> TrainingPlan:
    """About six seconds of training; half of the models are kept as checkpoints."""
    data = read_dataset(folder / "data", mmap=True)
    plain = {"epochs": 16, "width": 8, "batch_size": 20}
    return TrainingPlan(
        folder=folder,
        algorithms=(
            NetworkSpec(name="plain", **plain),
            NetworkSpec(name="shifted", **plain, augmentation={"shift": 2, "flip": True}),
        ),
        fingerprint=data.fingerprint,
        n_train=len(data.train),
        n_test=len(data.test),
        seed=0,
        alpha=0.5,
        n_models=N_MODELS,
        n_keep=N_MODELS // 2,
        n_slots=4,
        stack=STACK,
        device="cpu",
    )


def contents(folder: Path) -> dict[str, bytes]:
    """All that training left, but for wall times."""
    paths = [*folder.glob("models_*.zarr/**/*"), *folder.glob("checkpoints_*/*")]
    kept = (p for p in paths if p.is_file() and "seconds" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


@dataclass
class Session:
    """A run of the study under way: the processes that a user would have started."""

    folder: Path
    scheduler: str = "local"
    processes: list[subprocess.Popen] = field(default_factory=list)
    parent: subprocess.Popen | None = None
    starts: int = 0

    def start(self) -> None:
        """Start what does not run: the cluster, where there is one, and training."""
        if self.scheduler != "local" and not self.cluster_runs:
            self.stop()
            port = self.scheduler.rpartition(":")[2]
            dask = [sys.executable, "-m", "dask"]
            options = ["--host", "127.0.0.1", "--port", port, "--no-dashboard"]
            self.processes = [
                subprocess.Popen([*dask, "scheduler", *options], **QUIET),
                subprocess.Popen(
                    [*dask, "worker", self.scheduler, "--nthreads", "1", "--nworkers", "2"],
                    **QUIET,
                ),
            ]
        command = [sys.executable, __file__, "--train", self.folder, "--scheduler", self.scheduler]
        self.parent = subprocess.Popen(command, **QUIET)
        self.starts += 1

    @property
    def cluster_runs(self) -> bool:
        return bool(self.processes) and all(p.poll() is None for p in self.processes)

    def victim(self, kind: str) -> psutil.Process | None:
        """A process of that kind, if there is one at this moment."""
        if kind == "parent":
            return psutil.Process(self.parent.pid)
        if kind == "dask scheduler":
            return psutil.Process(self.processes[0].pid)
        top = self.parent if kind == "worker" else self.processes[1]
        found = psutil.Process(top.pid).children(recursive=True)
        busy = [p for p in found if p.is_running() and p.cpu_percent(0.05) > 0]
        return random.choice(busy) if busy else None

    def done(self) -> int:
        log = self.folder / "training.jsonl"
        return log.read_text().count('"accuracy"') if log.exists() else 0

    def stop(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
            process.wait()


def interrupted_run(folder: Path, kind: str, moments: list[float]) -> int:
    """Train with a kill at each of ``moments``, shares of all tasks done; returns the kills."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    session = Session(folder, address if kind.startswith("dask") else "local")
    kills, n_tasks = 0, 2 * N_MODELS // STACK
    try:
        session.start()
        while session.starts <= STARTS:
            if session.parent.poll() == 0:
                return kills
            if session.parent.poll() is not None:
                session.start()
            if moments and session.done() >= moments[0] * n_tasks:
                time.sleep(random.uniform(0, 0.3))
                if kill(session, kind):
                    kills += 1
                    moments = moments[1:]
            time.sleep(0.01)
        raise RuntimeError(f"a run with a killed {kind} did not end in {STARTS} starts")
    finally:
        if session.parent.poll() is None:
            session.parent.kill()
        session.stop()


def kill(session: Session, kind: str) -> bool:
    try:
        victim = session.victim(kind)
        if victim is not None:
            victim.kill()
    except psutil.NoSuchProcess:
        return False
    return victim is not None


def prepare(folder: Path, data) -> Path:
    folder.mkdir()
    save_dataset(data, folder / "data")
    return folder


def undisturbed(folder: Path, workers: int) -> dict[str, bytes]:
    train_all(study(folder), workers=workers, progress=False)
    return contents(folder)


def rows_of(options, root: Path) -> list[dict]:
    data = make_scenes(n_train=120, n_test=60, size=16, seed=0)
    reference = undisturbed(prepare(root / "one", data), 1)
    start = time.perf_counter()
    equal = undisturbed(prepare(root / "three", data), 3) == reference
    rows = [{"victim": "none, 3 workers", "kills": 0, "equal": equal}]
    rows[0]["seconds"] = time.perf_counter() - start
    tell(rows[0], len(reference))
    for number in range(options.runs):
        kind, start = VICTIMS[number % len(VICTIMS)], time.perf_counter()
        moments = sorted(random.uniform(0, 0.85) for _ in range(random.randint(1, 3)))
        folder = prepare(root / f"run_{number}", data)
        kills = interrupted_run(folder, kind, moments)
        equal = contents(folder) == reference
        rows.append({"victim": kind, "kills": kills, "equal": equal})
        rows[-1]["seconds"] = time.perf_counter() - start
        tell(rows[-1], len(reference))
    return rows


def tell(row: dict, n_files: int) -> None:
    found = f"equal in {n_files} files" if row["equal"] else "DIFFERENT"
    print(f"{row['victim']:16} {row['kills']} kills  {row['seconds']:5.0f} s  {found}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="interrupted runs")
    parser.add_argument("--quick", action="store_true", help="four runs, one per kind of victim")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--scheduler", default="local", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train_all(study(options.train), workers=2, scheduler=options.scheduler, progress=False)
        return
    options.runs = 4 if options.quick else options.runs
    random.seed(options.seed)
    with tempfile.TemporaryDirectory() as root:
        rows = rows_of(options, Path(root))
    equal = sum(row["equal"] for row in rows)
    kills = sum(row["kills"] for row in rows)
    what = f"stores equal to the undisturbed run's, of {len(rows)} ({kills} kills)"
    bar = {"what": what, "value": equal, "aim": len(rows), "met": equal == len(rows)}
    print(f"{what}: {equal}")
    if options.out:
        options.out.write_text(json.dumps({"machine": machine(), "rows": rows, "bars": [bar]}))


if __name__ == "__main__":
    main()
