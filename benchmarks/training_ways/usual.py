"""The script that most people would write: Dataset, DataLoader, torchvision's transforms."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mdhelpers.training.algorithms import AugmentationSpec, NetworkSpec
from mdhelpers.training.networks import make_model
from mdhelpers.training.recipe import learning_rates
from training_ways.worker import DATA


class Pictures(Dataset):
    def __init__(self, images: np.ndarray, labels: np.ndarray, transform):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def usual_transform(augmentation: AugmentationSpec, size: tuple[int, int]):
    steps = []
    if augmentation.shift:
        steps.append(transforms.RandomCrop(size, augmentation.shift, padding_mode="edge"))
    if augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if augmentation.crop:
        steps.append(transforms.RandomResizedCrop(size, (augmentation.crop, 1)))
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(0.5, 0.5)])


def usual_model(spec: NetworkSpec, rows: np.ndarray, seed: int) -> float:
    """Train one model on images ``rows``; returns its test accuracy."""
    torch.manual_seed(seed)
    (images, labels), test = DATA
    size = images.shape[1:3]
    train = Pictures(images[rows], labels[rows], usual_transform(spec.augmentation, size))
    loader = DataLoader(train, spec.batch_size, shuffle=True)
    model = make_model(spec, size, labels.max() + 1)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1.0, momentum=spec.momentum, weight_decay=spec.weight_decay
    )
    rates = [*learning_rates(spec, len(loader)), 0.0]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[step])
    for _ in range(spec.epochs):
        for batch, target in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(batch), target).backward()
            optimizer.step()
            schedule.step()
    pictures = Pictures(*test, usual_transform(AugmentationSpec(), size))
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(pictures, 200))
    return right / len(pictures)
