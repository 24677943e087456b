"""Memory and time of stages 03 to 05 on a large study, and what `--dry-run` says of them.

Masks and margins of models that were trained elsewhere are invented, at the sizes of the aim
(20,000 training images, 5,000 test images, 5,000 models), and taken through stages 01 to 05. Each
stage is a process of its own; its largest memory is the system's count.

    python benchmarks/memory.py --quick --out memory.json

Or the memory that the gradients of a large network take, one model's, beside what they would take
unfolded:

    python benchmarks/memory.py --gradients 400 --out gradient_memory.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from mdhelpers.base.places import machine
from mdhelpers.base.specs import validate
from mdhelpers.command.estimates import memory_needed
from mdhelpers.runs.run import Run
from mdhelpers.stages import comparison, data, datamodels, models, subpopulations
from mdhelpers.stages.study import Study
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.gradients import GradientPlan, Recorder, plain_network, trained_names
from mdhelpers.training.networks import make_stack
from mdhelpers.training.recipe import TrainingData

SIZES = {"n_train": 20_000, "n_test": 5_000, "n_models": 5_000}
QUICK = {"n_train": 4_000, "n_test": 1_000, "n_models": 1_000}
N_HELDOUT = 128
STAGES = ("01", "02", "03", "04", "05")


def invent(folder: Path, sizes: dict[str, int]) -> None:
    """Masks, and margins that are linear in them, of a tenth of the images, with noise."""
    rng, n_models = np.random.default_rng(0), sizes["n_models"] + N_HELDOUT
    masks = np.lib.format.open_memmap(
        folder / "masks.npy", mode="w+", dtype=bool, shape=(n_models, sizes["n_train"])
    )
    shape = (sizes["n_test"], sizes["n_train"])
    weights = rng.normal(size=shape).astype(np.float32) * (rng.random(shape) < 0.02)
    margins = np.empty((n_models, sizes["n_test"]), np.float32)
    for start in range(0, n_models, 256):
        rows = slice(start, min(start + 256, n_models))
        masks[rows] = rng.random((rows.stop - start, sizes["n_train"])) < 0.5
        margins[rows] = masks[rows].astype(np.float32) @ weights.T
    margins += rng.normal(size=margins.shape).astype(np.float32) * margins.std()
    np.save(folder / "margins.npy", margins)


def parameters(folder: Path, sizes: dict[str, int]) -> dict:
    given = {name: str(folder / f"{name}.npy") for name in ("masks", "margins")}
    network = {"name": "one", "epochs": 1}
    return {
        "study": "large",
        "dataset": {"kind": "scenes", "size": 16, **{k: sizes[k] for k in ("n_train", "n_test")}},
        "algorithm_1": network,
        "algorithm_2": network | {"name": "two"},
        "n_models": sizes["n_models"],
        "n_heldout": N_HELDOUT,
        "n_kept": 1,
        "n_slots": 0,
        "models_1_given": given,
        "models_2_given": given,
        "method": "ridge",
    }


def carry_out(stage: str, folder: Path, sizes: dict[str, int]) -> None:
    """One stage in this process."""
    run, given = Run("large", runs_dir=folder / "runs"), parameters(folder, sizes)
    if stage == "01":
        data.prepare_data(run, given["dataset"])
    if stage == "02":
        names = ("algorithm_1", "algorithm_2", "n_models", "n_heldout", "n_kept")
        names += ("n_slots", "models_1_given", "models_2_given")
        models.train_models(run, **{k: given[k] for k in names})
    if stage == "03":
        datamodels.fit_datamodels(run, method="ridge")
    if stage == "04":
        comparison.compare_algorithms(run, n_splits=1, n_null_splits=1)
    if stage == "05":
        subpopulations.inspect_subpopulations(run)


def take_gradients(n_train: int) -> dict:
    """Gradients of an untrained ResNet-18 on noise, in this process, and its largest memory."""
    torch.set_num_threads(1)
    spec = NetworkSpec(name="large", kind="network", architecture="resnet18")
    rng, n_test = np.random.default_rng(0), n_train // 4
    pictures = torch.from_numpy(rng.integers(0, 256, (n_train + n_test, 32, 32, 3), dtype=np.uint8))
    labels = torch.from_numpy(rng.integers(0, 10, n_train + n_test))
    plan = GradientPlan(
        folder=Path(), algorithms=(spec, spec), fingerprint="", n_train=n_train, n_test=n_test,
        seed=0, alpha=0.5, n_models=1, n_keep=0, n_slots=0, stack=1, device="cpu",
        rows=(0, 1), at=(1.0,), views=1, dimension=0,
    )  # fmt: skip
    stack = make_stack(spec, 1, (32, 32), 10)
    stack.initialise([1])
    net = plain_network(stack, 0)
    before, began = most_bytes(), time.process_time()
    train = TrainingData(pictures[:n_train], labels[:n_train], 10)
    recorder = Recorder(plan, 1, [0], train, pictures[n_train:], labels[n_train:])
    recorder.features(net, 0)
    n_weights = sum(weight.numel() for weight in net.parameters())
    return {
        "weights": n_weights,
        "n_train": n_train,
        "n_test": n_test,
        "folded_to": recorder.folded_to(net, trained_names(net, spec)),
        "whole": 4e-9 * n_weights * n_train,
        "before": before / 1e9,
        "most": most_bytes() / 1e9,
        "seconds": time.process_time() - began,
    }


def most_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measured(stage: str, folder: Path, sizes: dict[str, int]) -> dict:
    words = [sys.executable, __file__, "--stage", stage, "--folder", str(folder)]
    began = time.perf_counter()
    done = subprocess.run([*words, "--sizes", json.dumps(sizes)], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode())
    used = json.loads(done.stdout.splitlines()[-1])
    return {"stage": stage, "seconds": time.perf_counter() - began, **used}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of every size")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    parser.add_argument("--gradients", type=int, help="training images, of a ResNet-18")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        carry_out(options.stage, options.folder, options.sizes)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        print()
        print(json.dumps({"bytes": 1024 * usage.ru_maxrss, "cpu_seconds": usage.ru_utime}))
        return
    if options.gradients:
        row = take_gradients(options.gradients)
        print(row)
        if options.out:
            content = {"machine": machine(), "rows": [row]}
            options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")
        return
    sizes = QUICK if options.quick else SIZES
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        invent(folder, sizes)
        said = memory_needed(validate(Study, parameters(folder, sizes)))
        rows = []
        for stage in STAGES:
            rows.append(measured(stage, folder, sizes))
            row = rows[-1]
            told = f"{row['bytes'] / 1e9:6.2f} GB  {row['seconds']:7.1f} s"
            print(f"stage {stage}  {told}  {row['cpu_seconds']:7.1f} CPU-s", flush=True)
    most = max(row["bytes"] for row in rows)
    bars = [
        {"what": "GB at most, of those that --dry-run says", "value": round(most / 1e9, 2)}
        | {"aim": round(said / 1e9, 2), "met": most <= said}
    ]
    print(f"--dry-run says {said / 1e9:.2f} GB; the most was {most / 1e9:.2f} GB")
    if options.out:
        content = {"machine": machine(), "sizes": sizes, "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
