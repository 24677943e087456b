"""Models a minute on a GPU, by how many train as one stack; and how like the CPU's they are.

The networks and recipes of the book's default study and a ResNet-9, each in stacks of growing
size; a stack of one is the usual script's way. Ratios are against it. The accuracy of the models
stands beside, and for the smallest stack that of the same models trained on the CPU.

    python benchmarks/training_gpu.py --quick --out training_gpu.json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from mdhelpers.base.places import machine
from mdhelpers.data.scenes import make_scenes
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.recipe import Task, TrainingData, stack_logits, train_stack
from mdhelpers.training.tasks import derived_seed, draw_mask

AUGMENTED = {"crop": 0.35, "flip": True, "shift": 2}
SPECS = {
    "plain": (NetworkSpec(name="plain", epochs=20, lr=0.03), (1, 8, 32, 128, 512)),
    "augmented": (
        NetworkSpec(name="augmented", epochs=40, lr=0.05, augmentation=AUGMENTED),
        (1, 8, 32, 128),
    ),
    "resnet9": (
        NetworkSpec(name="resnet9", architecture="resnet9", epochs=10, lr=0.05, batch_size=60),
        (1, 8, 32),
    ),
    "resnet9, bf16": (
        NetworkSpec(
            name="half",
            architecture="resnet9",
            epochs=10,
            lr=0.05,
            batch_size=60,
            precision="bf16",
        ),
        (1, 8, 32),
    ),
}
ON_CPU = ("plain",)


def make_task(spec: NetworkSpec, stack: int, n_train: int) -> Task:
    masks = np.stack([draw_mask(0, i, n_train, 0.5) for i in range(stack)])
    orders, starts = ([derived_seed(0, kind, i) for i in range(stack)] for kind in (2, 3))
    return Task(spec, masks, orders, starts)


def measure(spec: NetworkSpec, stack: int, dataset, device: str) -> dict:
    """Train one stack twice, the first time to warm up; models a minute, memory, accuracy."""
    images, labels = (
        torch.tensor(a, device=device) for a in (dataset.train.images, dataset.train.labels)
    )
    data = TrainingData(images, labels, len(dataset.class_names))
    test = torch.from_numpy(dataset.test.images).to(device)
    short = spec.model_copy(update={"epochs": 1})
    train_stack(make_task(short, stack, len(labels)), data)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    network, losses = train_stack(make_task(spec, stack, len(labels)), data)
    logits = stack_logits(network, test).float().cpu().numpy()
    seconds = time.perf_counter() - start
    right = (logits.argmax(-1) == dataset.test.labels).mean(-1)
    row = {"network": spec.name, "device": device, "stack": stack, "seconds": seconds}
    row |= {"models a minute": 60 * stack / seconds, "accuracy": float(right.mean())}
    row["last loss"] = float(losses[-1].mean())
    row["GB"] = torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else np.nan
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the epochs")
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dataset, rows, bars = make_scenes(size=24, n_train=240, n_test=600, share=0.25, seed=0), [], []
    for name, (spec, stacks) in SPECS.items():
        if options.quick:
            spec = spec.model_copy(update={"epochs": max(1, spec.epochs // 10)})
        found = []
        for stack in stacks if device == "cuda" else stacks[:2]:
            found.append(measure(spec, stack, dataset, device))
            found[-1]["ratio"] = found[-1]["models a minute"] / found[0]["models a minute"]
            print(
                {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found[-1].items()},
                flush=True,
            )
        if name in ON_CPU and device == "cuda":
            found.append(measure(spec, 8, dataset, "cpu"))
            print(found[-1], flush=True)
        rows += found
        rates = {row["stack"]: row["models a minute"] for row in found if row["device"] == device}
        chosen = min(rates, key=lambda stack: abs(stack - spec.most_in_a_stack(device)))
        share = rates[chosen] / max(rates.values())
        what = f"{name}: stack of {chosen}, which is chosen, over the best"
        bars.append({"what": what, "value": share, "aim": 0.8, "met": share >= 0.8})
    print(json.dumps(bars, indent=2))
    if options.out:
        options.out.write_text(
            json.dumps({"machine": machine(), "rows": rows, "bars": bars}, indent=2)
        )


if __name__ == "__main__":
    main()
