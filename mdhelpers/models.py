"""Architectures, one model as an ordinary module; `stacking` holds many of them in one network."""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import nn

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.specs import unknown_word

SMALLEST_SIDE = 16
LOGIT_SCALE = 0.2


def make_model(spec: NetworkSpec, size: tuple[int, int], n_classes: int) -> nn.Module:
    """One model of an algorithm, its weights drawn from torch's global generator.

    Parameters
    ----------
    spec
        Names the architecture, its ``channels`` and the ``initialisation.scheme``.
    size
        (height, width) of the images in pixels, at least 16.
    n_classes
        Number of logits.

    Returns
    -------
    A module from images (b, 3, height, width) to logits (b, n_classes).

    Raises
    ------
    ValueError
        For an unknown architecture, and for images under 16 pixels.

    """
    if spec.architecture not in ARCHITECTURES:
        raise ValueError(unknown_word(spec.architecture, ARCHITECTURES, "architecture"))
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"{spec.architecture} takes images of at least {SMALLEST_SIDE} × {SMALLEST_SIDE} "
            f"pixels, got {size[0]} × {size[1]}; resize them"
        )
    model = ARCHITECTURES[spec.architecture](spec.channels, tuple(size), n_classes)
    if spec.initialisation.scheme == "torch":
        for layer in model.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return model


def cnn(channels: int, size: tuple[int, int], n_classes: int) -> nn.Module:
    """Three convolutions and a linear layer; He's normal initialisation, zero biases.

    The first convolution has ``channels`` channels, the others twice as many.
    """
    wide = 2 * channels
    height, width = (math.ceil(math.ceil(side / 2) / 2) // 2 for side in size)
    layers = OrderedDict(
        conv1=nn.Conv2d(3, channels, 5, stride=2, padding=2),
        relu1=nn.ReLU(inplace=True),
        conv2=nn.Conv2d(channels, wide, 3, stride=2, padding=1),
        relu2=nn.ReLU(inplace=True),
        conv3=nn.Conv2d(wide, wide, 3, padding=1),
        relu3=nn.ReLU(inplace=True),
        pool=MaxPool(2),
        flatten=nn.Flatten(),
        linear=nn.Linear(wide * height * width, n_classes),
    )
    for layer in (layers["conv1"], layers["conv2"], layers["conv3"]):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    nn.init.normal_(layers["linear"].weight, std=layers["linear"].in_features ** -0.5)
    nn.init.zeros_(layers["linear"].bias)
    return nn.Sequential(layers)


def resnet9(channels: int, size: tuple[int, int], n_classes: int) -> nn.Module:  # noqa: ARG001
    """Kakao Brain's ResNet-9 for CIFAR-10 as FFCV trains it, which is the paper's.

    The first convolution has ``channels`` channels (64 in the original) and the logits are
    multiplied by 0.2. The maximum at the end lets images of any size in.
    """
    return nn.Sequential(
        convolution(3, channels),
        convolution(channels, 2 * channels, kernel=5, stride=2, padding=2),
        Residual(convolution(2 * channels, 2 * channels), convolution(2 * channels, 2 * channels)),
        convolution(2 * channels, 4 * channels),
        MaxPool(2),
        Residual(convolution(4 * channels, 4 * channels), convolution(4 * channels, 4 * channels)),
        convolution(4 * channels, 2 * channels, padding=0),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, n_classes, bias=False),
        Scale(LOGIT_SCALE),
    )


def convolution(
    wide_in: int, wide_out: int, *, kernel: int = 3, stride: int = 1, padding: int = 1
) -> nn.Sequential:
    """A convolution without bias, batch norm and a rectifier."""
    return nn.Sequential(
        nn.Conv2d(wide_in, wide_out, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(wide_out),
        nn.ReLU(inplace=True),
    )


class MaxPool(nn.MaxPool2d):
    """The maximum over squares, whose gradient keeps the memory format of its input.

    On the CPU torch's own gives a channels-first gradient, which every layer before it then has to
    convert: a tenth of the time of a step.
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.device.type == "cpu" and maps.requires_grad and not torch.compiler.is_compiling():
            return _MaxPool.apply(maps, self.kernel_size)
        return super().forward(maps)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps: torch.Tensor, side: int) -> torch.Tensor:
        pooled, places = torch.ops.aten.max_pool2d_with_indices(maps, [side, side])
        ctx.save_for_backward(maps, places)
        ctx.side = side
        return pooled

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        maps, places = ctx.saved_tensors
        square = [ctx.side, ctx.side]
        gradient = torch.ops.aten.max_pool2d_with_indices_backward.grad_input(
            gradient.contiguous(memory_format=torch.channels_last),
            maps,
            *(square, square, [0, 0], [1, 1], False),
            places,
            grad_input=torch.empty_like(maps),
        )
        return gradient, None


class Residual(nn.Sequential):
    """Adds to its input what its layers make of it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + super().forward(images)


class Scale(nn.Module):
    """Multiplies by a constant."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits * self.by


def resnet18(channels: int, size: tuple[int, int], n_classes: int) -> nn.Module:  # noqa: ARG001
    """torchvision's ResNet-18 with its own widths and names.

    Small images keep its usual stem, which divides their sides by four before the first block: at
    32 pixels the last block sees a single position. For such images `resnet9` is the better model.
    """
    from torchvision.models import resnet18 as make

    return make(weights=None, num_classes=n_classes)


def resnet50(channels: int, size: tuple[int, int], n_classes: int) -> nn.Module:  # noqa: ARG001
    """torchvision's ResNet-50; see `resnet18`."""
    from torchvision.models import resnet50 as make

    return make(weights=None, num_classes=n_classes)


ARCHITECTURES = {"cnn": cnn, "resnet9": resnet9, "resnet18": resnet18, "resnet50": resnet50}
