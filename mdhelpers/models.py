"""Architectures, each able to hold many models at once in grouped convolutions.

A stack of G models is one network whose convolutions have G groups: model g reads and writes
only its own channels, so that the stack's gradients are exactly the G separate ones. On a GPU,
which one small model cannot fill, this is what makes training many models fast; on a CPU core it
gains about a fifth at small batches (``benchmarks/``).
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F


class StackedCNN(nn.Module):
    """G small convolutional networks side by side: three convolutions and a linear layer.

    Parameters
    ----------
    n_models
        G.
    size
        (height, width) of the images in pixels, at least 16.
    n_classes
        Number of logits a model.
    width
        Channels of the first convolution; the others have twice as many.

    """

    def __init__(self, n_models: int, size: tuple[int, int], n_classes: int, *, width: int = 16):
        super().__init__()
        self.n_models, self.n_classes = n_models, n_classes
        wide, groups = 2 * width, n_models
        self.conv1 = nn.Conv2d(3 * groups, width * groups, 5, 2, 2, groups=groups)
        self.conv2 = nn.Conv2d(width * groups, wide * groups, 3, 2, 1, groups=groups)
        self.conv3 = nn.Conv2d(wide * groups, wide * groups, 3, 1, 1, groups=groups)
        height, width_out = (math.ceil(math.ceil(side / 2) / 2) // 2 for side in size)
        n_features = wide * height * width_out
        self.weight = nn.Parameter(torch.zeros(groups, n_features, n_classes))
        self.bias = nn.Parameter(torch.zeros(groups, n_classes))
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, G, n_classes) of images (batch, 3 G, height, width)."""
        return self.head(F.relu(self.conv1(images)))

    def forward_shared(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (batch, G, n_classes) of images (batch, 3, height, width) seen by all models."""
        first = F.conv2d(images, self.conv1.weight, self.conv1.bias, stride=2, padding=2)
        return self.head(F.relu(first))

    def head(self, maps: torch.Tensor) -> torch.Tensor:
        maps = F.relu(self.conv2(maps))
        maps = F.max_pool2d(F.relu(self.conv3(maps)), 2)
        features = maps.reshape(len(maps), self.n_models, -1).transpose(0, 1)
        return (torch.bmm(features, self.weight) + self.bias[:, None]).transpose(0, 1)

    @torch.no_grad()
    def initialise(self, seeds: list[int]) -> None:
        """Draw model g's weights from its own seed: He's normal initialisation, zero biases."""
        for group, seed in enumerate(seeds):
            generator = torch.Generator().manual_seed(seed)
            for conv in (self.conv1, self.conv2, self.conv3):
                n_out = conv.out_channels // self.n_models
                shape = (n_out, *conv.weight.shape[1:])
                draw = torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:]))
                rows = slice(group * n_out, (group + 1) * n_out)
                conv.weight[rows] = draw.to(conv.weight)
                conv.bias[rows] = 0
            shape = self.weight.shape[1:]
            draw = torch.randn(shape, generator=generator) / math.sqrt(shape[0])
            self.weight[group] = draw.to(self.weight)
            self.bias[group] = 0


ARCHITECTURES = {"cnn": StackedCNN}
