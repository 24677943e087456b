"""Models a minute: mdhelpers against the script that most people would write, in one run.

The script trains one model after the other with a Dataset, a DataLoader, torchvision's
transforms and torch's default threads. Both train the same network with the same recipe on the
same subsets of the same generated scenes, and are judged on the same test images.

    python benchmarks/training.py --quick --out training.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.datasets import save_dataset
from mdhelpers.machine import cores, machine
from mdhelpers.mask_training import train_all
from mdhelpers.plans import TrainingPlan, draw_mask
from mdhelpers.scenes import make_scenes
from mdhelpers.store import ModelStore
from mdhelpers.training import learning_rates

AIM = 5.0
SPECS = (
    NetworkSpec(name="plain", epochs=20, lr=0.03),
    NetworkSpec(
        name="augmented",
        epochs=40,
        lr=0.05,
        augmentation={"crop": 0.35, "flip": True, "shift": 2},
    ),
)


class Pictures(Dataset):
    def __init__(self, images, labels, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def usual_transform(spec: NetworkSpec, size: int):
    steps, augmentation = [], spec.augmentation
    if augmentation.shift:
        steps.append(transforms.RandomCrop(size, augmentation.shift, padding_mode="edge"))
    if augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if augmentation.crop:
        steps.append(transforms.RandomResizedCrop(size, (augmentation.crop, 1)))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])


def usual_model(width: int, size: int, n_classes: int) -> nn.Module:
    side = size // 8
    model = nn.Sequential(
        nn.Conv2d(3, width, 5, 2, 2),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(2 * width, 2 * width, 3, 1, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, n_classes),
    )
    for layer in model:  # as mdhelpers initialises, so that both train the same models
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    nn.init.normal_(model[-1].weight, std=model[-1].in_features ** -0.5)
    nn.init.zeros_(model[-1].bias)
    return model


def usual_script(data, spec: NetworkSpec, subset: np.ndarray) -> float:
    """Train one model in the usual way; returns its test accuracy."""
    size, n_classes = data.size[0], len(data.class_names)
    images, labels = data.train.images[subset], data.train.labels[subset]
    loader = DataLoader(
        Pictures(images, labels, usual_transform(spec, size)), spec.batch_size, shuffle=True
    )
    model = usual_model(spec.channels, size, n_classes)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=spec.momentum, weight_decay=spec.weight_decay
    )
    rates = learning_rates(spec, len(loader))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rates[min(step, len(rates) - 1)]
    )
    for _ in range(spec.epochs):
        for batch, target in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch), target).backward()
            optimizer.step()
            schedule.step()
    plain = usual_transform(NetworkSpec(name="test"), size)
    test = DataLoader(Pictures(data.test.images, data.test.labels, plain), 256)
    with torch.no_grad():
        right = sum((model(batch).argmax(1) == target).sum().item() for batch, target in test)
    return right / len(data.test)


def time_usual(data, n_models: int) -> list[dict]:
    rows = []
    for number, spec in enumerate(SPECS, 1):
        start = time.perf_counter()
        accuracy = [
            usual_script(data, spec, np.flatnonzero(draw_mask(0, i, len(data.train), 0.5)))
            for i in range(n_models)
        ]
        seconds = time.perf_counter() - start
        rows.append(row("usual script", number, n_models, seconds, accuracy))
    return rows


def time_mdhelpers(data, n_models: int) -> list[dict]:
    """Both algorithms in turn, each as a study of its own, start of the workers included."""
    rows = []
    for number, spec in enumerate(SPECS, 1):
        with tempfile.TemporaryDirectory() as folder:
            save_dataset(data, Path(folder) / "data")
            plan = TrainingPlan(
                folder=Path(folder),
                algorithms=(spec, spec),
                fingerprint=data.fingerprint,
                n_train=len(data.train),
                n_test=len(data.test),
                seed=0,
                alpha=0.5,
                n_models=n_models // 2,
                n_keep=0,
                n_slots=0,
                stack=8,
                device="cpu",
            )
            seconds = train_all(plan, progress=False)["seconds"]
            stores = [ModelStore.open(plan.store_path(a)).read() for a in (1, 2)]
        accuracy = np.concatenate([store.accuracy for store in stores])
        rows.append(row("mdhelpers", number, n_models, seconds, accuracy))
    return rows


def row(way: str, number: int, n_models: int, seconds: float, accuracy) -> dict:
    return {
        "way": way,
        "algorithm": SPECS[number - 1].name,
        "models": n_models,
        "models a minute": 60 * n_models / seconds,
        "accuracy": float(np.mean(accuracy)),
        "accuracy, standard error": float(np.std(accuracy) / np.sqrt(len(accuracy))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer models, under five minutes")
    parser.add_argument("--out", type=Path, help="write rows and bars as JSON")
    options = parser.parse_args()
    usual, ours = (6, 128) if options.quick else (24, 512)
    data = make_scenes(n_train=240, n_test=600, seed=0)
    rows = time_usual(data, usual) + time_mdhelpers(data, ours)
    print(f"{cores()} cores, torch {torch.__version__}")
    for r in rows:
        print(
            f"{r['way']:13} {r['algorithm']:10} {r['models']:4d} models "
            f"{r['models a minute']:8.1f} a minute   accuracy {r['accuracy']:.3f} "
            f"± {r['accuracy, standard error']:.3f}"
        )
    bars = []
    for spec in SPECS:
        slow, fast = (r["models a minute"] for r in rows if r["algorithm"] == spec.name)
        met = fast / slow >= AIM
        what = f"models a minute, {spec.name}, mdhelpers over the usual script"
        bars.append({"what": what, "value": fast / slow, "aim": AIM, "met": met})
        print(f"{what}: {fast / slow:.1f}× (aim {AIM:g}×)")
    if options.out:
        found = {"machine": machine(), "rows": rows, "bars": bars}
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
