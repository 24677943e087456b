"""All that a GPU is needed for, in one command of eight minutes at most; one JSON, one table.

Whoever has a GPU runs this first. The tests marked `gpu`; models an hour of a ResNet-9 against a
plain loop in PyTorch; scores from gradients, and regression, at the paper's size, and fast_l1
beside it where it is installed; a small study through all notebooks. Each step is a process of its
own with a time limit: one that fails or takes too long leaves what it has measured, and the next
one begins. The JSON is written after every step. Without a GPU the same code runs at sizes of a
minute or two, and what needs a GPU is marked as not measured.

    python benchmarks/on_gpu.py --out on_gpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from regression_gpu import beside_fast_l1
from regression_gpu import measure as measure_lasso
from tiny_study import write_study
from torch.nn import functional as F
from training_gpu import make_task

from mdhelpers.base.places import machine
from mdhelpers.method.margins import correct_class_margins
from mdhelpers.method.trak import Look, model_scores
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.gradients import DIMENSION, Gradients, plain_network, trained_names
from mdhelpers.training.networks import make_model, make_stack
from mdhelpers.training.recipe import TrainingData, train_stack

ROOT = Path(__file__).resolve().parents[1]
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
NETWORK = NetworkSpec(
    name="resnet9",
    architecture="resnet9",
    width=64 if GPU else 8,
    epochs=1,
    lr=0.1,
    batch_size=512 if GPU else 64,
    precision="bf16" if GPU else "fp32",
)
IMAGES = 20_000 if GPU else 256  # of which a model sees half
OF_A_MODEL = 100 * 25_000  # images that a model of the paper's CIFAR-10 study sees
SIZES = ((20_000, 20_000, 2048), (50_000, 50_000, 512)) if GPU else ((400, 400, 64),)
BESIDE = (2_000, 1_000)  # models and training images, of fast_l1
ROWS = 8192 if GPU else 512  # of an eigendecomposition
Row = tuple[str, float | None, str]  # what, how much (None: not measured), unit


def training() -> Iterator[Row]:
    """Images a second and models an hour, as one stack and as a plain script has it."""
    rates = {}
    for name, rate in (("stack", stack_rate), ("plain loop", plain_rate)):
        rates[name] = rate()
        yield f"ResNet-9, {name}", rates[name], "images/s"
        yield f"ResNet-9, {name}", 3600 * rates[name] / OF_A_MODEL, "models/h"
    yield "stack over plain loop", rates["stack"] / rates["plain loop"], ""


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randint(0, 255, (IMAGES, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    return images, torch.arange(IMAGES, device=DEVICE) % 10


def stack_rate() -> float:
    stack = NETWORK.most_in_a_stack(DEVICE)
    task, data = make_task(NETWORK, stack, IMAGES), TrainingData(*pictures(), 10)
    return stack * IMAGES / 2 / timed(lambda: train_stack(task, data))


def plain_rate() -> float:
    """One model, as one would write it: a batch, a loss, a step."""
    images, labels = pictures()
    net = make_model(NETWORK, (32, 32), 10).to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def epoch() -> None:
        for rows in torch.randperm(IMAGES, device=DEVICE)[: IMAGES // 2].split(NETWORK.batch_size):
            batch = images[rows].permute(0, 3, 1, 2).float() / 127.5 - 1
            with torch.autocast(DEVICE, torch.bfloat16, enabled=GPU):
                loss = F.cross_entropy(net(batch), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return IMAGES / 2 / timed(epoch)


def timed(work: Callable[[], object]) -> float:
    """Seconds, the second time."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if GPU:
            torch.cuda.synchronize()
    return time.perf_counter() - start


def scores() -> Iterator[Row]:
    """Gradients of single images, and one model's scores of them at the size of CIFAR-10."""
    n_train, n_test, r = (50_000, 10_000, DIMENSION) if GPU else (1000, 200, 128)
    n = 512 if GPU else 8
    images, labels = pictures()
    net = plain_network(make_stack(NETWORK, 1, (32, 32), 10), 0).to(DEVICE)
    gradients = Gradients(net, trained_names(net, NETWORK), r, 0)
    batch = images[:n].permute(0, 3, 1, 2).float() / 127.5 - 1
    seconds = timed(lambda: list(gradients(batch, labels[:n], correct_class_margins)))
    yield "gradients of single images, ResNet-9", n / seconds, "images/s"
    rng = np.random.default_rng(0)
    shapes = (n_test, r), (n_train, r), (r,)
    look = Look(*(np.abs(rng.standard_normal(shape, np.float32)) for shape in shapes))
    seconds = timed(lambda: model_scores([look], 0.1, device=DEVICE))
    yield f"scores of a look, {n_train:,} x {n_test:,}", seconds, "s"
    if GPU:
        yield "memory on the card", torch.cuda.max_memory_allocated() / 1e9, "GB"


def regression() -> Iterator[Row]:
    """The lasso at size, and the rate of an eigendecomposition, which ridge regression takes."""
    measure_lasso((200, 200, 64), DEVICE)
    for size in SIZES:
        found = measure_lasso(size, DEVICE)
        name = "lasso, {:,} models, {:,} training and {:,} test images".format(*size)
        yield name, found["seconds"], "s"
        yield name, found["operations"] / found["seconds"] / 1e12, "TFLOP/s"
        if GPU:
            yield name, found["peak GB"], "GB"
    left = torch.randn(ROWS, ROWS, dtype=torch.float64, device=DEVICE)
    seconds = timed(lambda: torch.linalg.eigh(left @ left.T))
    yield f"eigendecomposition, {ROWS:,} rows", 9 * ROWS**3 / seconds / 1e12, "TFLOP/s"


def fast_l1() -> Iterator[Row]:
    """Its seconds over ours, where it is installed."""
    found = beside_fast_l1((*BESIDE, 0), DEVICE)
    name = "fast_l1 over lasso, {:,} models and {:,} training images".format(*BESIDE)
    yield name, found and found["ratio"], ""


def study() -> Iterator[Row]:
    """A small study through all notebooks on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_study(Path(folder), device=DEVICE, method="trak+ridge")
        command = [sys.executable, "-m", "mdhelpers.command.cli", "run", str(file)]
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=ROOT)
        yield "a small study, all notebooks", time.perf_counter() - start, "s"


def tests() -> Iterator[Row]:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT)
    yield "tests marked gpu", time.perf_counter() - start, "s"
    if done.returncode:
        raise SystemExit(f"pytest ended with {done.returncode}")


@dataclass(frozen=True)
class Step:
    """A part of the whole: its seconds at most, and whether it tells nothing without a GPU."""

    name: str
    limit: float
    needs_gpu: bool = False


STEPS = (
    Step("training", 50),
    Step("scores", 50),
    Step("regression", 110),
    Step("tests", 80, needs_gpu=True),
    Step("study", 130, needs_gpu=True),
    Step("fast_l1", 60, needs_gpu=True),
)
MEASURES = {each.__name__: each for each in (training, scores, regression, tests, study, fast_l1)}


def child(name: str, out: Path) -> None:
    """One step in this process; its rows are written one after the other."""
    rows = []
    for row in MEASURES[name]():
        rows.append(dict(zip(("what", "value", "unit"), row, strict=True)))
        out.write_text(json.dumps(rows))


def this_file(name: str, out: Path) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), "--step", name, "--out", str(out)]


def carried_out(step: Step, command: Sequence[str], out: Path) -> dict:
    """A step in a process group of its own: how it ended, its seconds, its rows."""
    start = time.perf_counter()
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(step.limit)
        ended = "done" if code == 0 else f"failed with {code}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        ended = f"over {step.limit:g} s"
    rows = json.loads(out.read_text()) if out.exists() else []
    return {"step": step.name, "ended": ended, "seconds": time.perf_counter() - start, "rows": rows}


def carry_out(
    steps: Sequence[Step],
    file: Path,
    *,
    gpu: bool = GPU,
    command: Callable[[str, Path], Sequence[str]] = this_file,
) -> list[dict]:
    """Each step in turn, whatever became of the others; the file is written after every one."""
    found = []
    for step in steps:
        if step.needs_gpu and not gpu:
            found.append({"step": step.name, "ended": "not measured", "seconds": 0.0, "rows": []})
        else:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "rows.json"
                found.append(carried_out(step, command(step.name, out), out))
        file.write_text(json.dumps({"machine": machine(), "gpu": gpu, "steps": found}, indent=2))
    return found


def table(found: Sequence[dict]) -> str:
    """A line a step, and one for each row."""
    lines = []
    for step in found:
        lines.append(f"{step['step']:<12} {step['ended']:<16} {step['seconds']:6.0f} s")
        for row in step["rows"]:
            value = "not measured" if row["value"] is None else f"{row['value']:.4g} {row['unit']}"
            lines.append(f"    {row['what']:<66} {value}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("on_gpu.json"), help="write JSON here")
    parser.add_argument("--step", choices=MEASURES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        child(options.step, options.out)
    else:
        print(table(carry_out(STEPS, options.out)))


if __name__ == "__main__":
    main()
