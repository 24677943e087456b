"""Architectures: one model as an ordinary module, and many of them in one network.

A registry of what a study may name (`ARCHITECTURES`), and `StackedNetwork`: G plain models side by
side in grouped convolutions. Tensors between its layers hold the G models' channels one model
after the other, (b, G C, h, w), and model g reads and writes only its own, so that the stack's
gradients are exactly the G separate ones. Every parameter and buffer is the G models' own, joined
along their first dimension (batch norm's step counters are shared), so that one model is a block
of rows.

On a GPU, which one small model cannot fill, this is what makes training many models fast; on a CPU
core a stack of 8 small networks trains 1.2 to 1.7 times as fast as one alone, and a ResNet gains
nothing (``benchmarks/training.py``).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from torch.nn import functional as F

from mdhelpers.training.algorithms import NetworkSpec, Normalisation
from mdhelpers.training.efficientnet import efficientnet_lite0
from mdhelpers.training.weights import weight_faults

SMALLEST_SIDE = 16
LOGIT_SCALE = 0.2


def make_model(spec: NetworkSpec, size: tuple[int, int], n_classes: int) -> nn.Module:
    """One model of an algorithm, its weights drawn from torch's global generator.

    Parameters
    ----------
    spec
        Names the architecture, its ``width`` and the ``initialisation``: its ``scheme``, and what
        inputs the weights that it starts from expect.
    size
        (height, width) of the images in pixels, at least 16.
    n_classes
        Number of logits.

    Returns
    -------
    A module from images (b, 3, height, width) in [-1, 1] to logits (b, n_classes).

    Raises
    ------
    ValueError
        For an unknown architecture, and for images under 16 pixels.

    """
    design = spec.design
    if min(size) < SMALLEST_SIDE:
        raise ValueError(
            f"{spec.architecture} takes images of at least {SMALLEST_SIDE} × {SMALLEST_SIDE} "
            f"pixels, got {size[0]} × {size[1]}; resize them"
        )
    model = design.make(spec.width or design.width, tuple(size), n_classes)
    if spec.initialisation.scheme == "torch":
        for layer in model.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    if expected := spec.initialisation.expected_inputs:
        model.__class__ = of_scaled_inputs(type(model))
        model.input_scale = InputScale(expected)
    return model


@lru_cache
def of_scaled_inputs(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class of networks, whose ``input_scale`` is applied to images before they enter.

    A class, since a layer more would change the names of weights, and `torch.compile` takes
    networks with a hook for ones without.
    """

    def forward(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return kind.forward(self, self.input_scale(images))

    return type(kind.__name__, (kind,), {"forward": forward})


class InputScale:
    """Takes images in [-1, 1], (b, 3 G, h, w) of G models or of one, to what weights expect."""

    def __init__(self, expected: Normalisation):
        pairs = list(zip(expected.mean, expected.std, strict=True))
        self.factors = [0.5 / std for _, std in pairs]
        self.shifts = [(0.5 - mean) / std for mean, std in pairs]

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        factors, shifts = (self.of_channels(v, images) for v in (self.factors, self.shifts))
        return torch.addcmul(shifts, images, factors)

    def of_channels(self, values: list[float], images: torch.Tensor) -> torch.Tensor:
        """One value for each channel, made where the images are, so that nobody waits for it."""
        one = [images.new_full((1, 1, 1, 1), value) for value in values]
        return torch.cat(one * (images.shape[1] // len(values)), dim=1)


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


def of_torchvision(name: str) -> Callable[..., nn.Module]:
    """What makes torchvision's network of that name, with its own widths and names.

    Small images keep the usual stem of its ResNets, which divides their sides by four before the
    first block: at 32 pixels the last block sees a single position. For such images `resnet9` is
    the better model.
    """

    def make(_channels: None, _size: tuple[int, int], n_classes: int) -> nn.Module:
        from torchvision.models import get_model

        return get_model(name, weights=None, num_classes=n_classes)

    return make


@dataclass(frozen=True)
class Architecture:
    """What a study may name as an ``architecture``.

    Attributes
    ----------
    make
        ``make(channels, (height, width), n_classes)`` gives one plain model that `StackedNetwork`
        can stack, from images (b, 3, height, width) to logits, its weights drawn from torch's
        global generator.
    width
        The usual channels of its first convolution; None where it has its own.
    stack_cpu, stack_cuda
        Models a task where a study leaves it open. On a GPU a stack goes as far as its
        activations are sure to fit in 16 GB; ``benchmarks/training_gpu.py`` measures
        how near the chosen ones come to the best rate.
    torchvision
        Whether torchvision has ImageNet weights of it, under the same name.

    """

    make: Callable[[int | None, tuple[int, int], int], nn.Module]
    width: int | None = None
    stack_cpu: int = 1
    stack_cuda: int = 1
    torchvision: bool = False

    @property
    def stacks(self) -> dict[str, int]:
        return {"cpu": self.stack_cpu, "cuda": self.stack_cuda}


ARCHITECTURES = {
    "cnn": Architecture(cnn, width=16, stack_cpu=8, stack_cuda=128),
    "resnet9": Architecture(resnet9, width=64, stack_cuda=8),
    "resnet18": Architecture(of_torchvision("resnet18"), stack_cuda=4, torchvision=True),
    "resnet50": Architecture(of_torchvision("resnet50"), torchvision=True),
    "efficientnet_lite0": Architecture(efficientnet_lite0, stack_cuda=4),
}

# They treat every channel alike and by itself, so that a stack needs no other.
PER_CHANNEL = (
    *(nn.Identity, nn.Flatten, nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ReLU, nn.ReLU6),
    *(nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Tanh),
    *(nn.Sigmoid, nn.LogSigmoid, nn.Softsign, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
    *(nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d, nn.ConstantPad2d, nn.Upsample),
)


class StackedNetwork(nn.Module):
    """G models of one architecture side by side.

    It starts as G copies of one model; `initialise` or `load_model` tells them apart.

    Parameters
    ----------
    make_one
        Makes one plain model, from images (b, 3, h, w) to logits (b, n_classes), its weights
        drawn from torch's global generator. Its layers are convolutions, batch norm, linear
        layers, and modules that treat every channel by itself. What its ``forward`` does besides
        must do so too: sums, ``flatten(1)`` and the like, but no concatenation of channels.
    n_models
        G.

    Raises
    ------
    ValueError
        Names a module of the plain model that would mix the models of a stack, or is not known.

    """

    def __init__(self, make_one: Callable[[], nn.Module], n_models: int):
        super().__init__()
        if n_models < 1:
            raise ValueError(f"a stack holds at least one model, got n_models={n_models}")
        self.make_one, self.n_models = make_one, n_models
        self.network = stacked(seeded(make_one, 0), n_models)
        self.n_classes = self._head().out_features
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (b, G, n_classes).

        Images are (b, 3 G, h, w), model after model, or (b, 3, h, w), shared by all models.
        """
        return self.network(images).unflatten(1, (self.n_models, self.n_classes))

    def initialise(self, seeds: list[int]) -> None:
        """Draw model g's weights from its own seed alone, on the CPU.

        Raises
        ------
        ValueError
            Unless there is one seed a model.

        """
        if len(seeds) != self.n_models:
            raise ValueError(f"{self.n_models} models need as many seeds, got {len(seeds)}")
        for g, seed in enumerate(seeds):
            self.load_model(g, seeded(self.make_one, int(seed)).state_dict())

    @torch.no_grad()
    def load_model(self, g: int, state: dict[str, torch.Tensor]) -> None:
        """Put a plain model's state into place ``g``.

        Raises
        ------
        ValueError
            For keys or shapes that are not the plain model's.

        """
        places = dict(self._places(g))
        if faults := weight_faults(places, state):
            raise ValueError(f"not the weights of this stack's models: {faults}")
        for name, place in places.items():
            place.copy_(state[name])

    def model_state(self, g: int) -> dict[str, torch.Tensor]:
        """A copy of model ``g`` under the plain model's names, on the same device."""
        return {
            name: place.clone(memory_format=torch.contiguous_format)
            for name, place in self._places(g)
        }

    def head_parameters(self) -> list[nn.Parameter]:
        """The parameters of the last linear layer."""
        return list(self._head().parameters())

    def _head(self) -> StackedLinear:
        linear = [m for m in self.network.modules() if isinstance(m, StackedLinear)]
        if not linear:
            raise ValueError("a stack needs models that end in a linear layer; this one has none")
        return linear[-1]

    def _places(self, g: int) -> Iterator[tuple[str, torch.Tensor]]:
        """Names of the plain model, each with the part of the stack's tensor that is model g's."""
        if not 0 <= g < self.n_models:
            raise ValueError(f"model {g} of a stack of {self.n_models}")
        for name, tensor in self.network.state_dict().items():
            yield name, tensor.unflatten(0, (self.n_models, -1))[g] if tensor.ndim else tensor


def make_stack(
    spec: NetworkSpec, n_models: int, size: tuple[int, int], n_classes: int
) -> StackedNetwork:
    """A stack of an algorithm's models, to be initialised; see `make_model`."""
    return StackedNetwork(lambda: make_model(spec, size, n_classes), n_models)


def seeded(make_one: Callable[[], nn.Module], seed: int) -> nn.Module:
    """A plain model on the CPU, drawn from ``seed``; the caller's generator stays as it was."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        # `torch.manual_seed` would seed the GPUs as well, which `fork_rng` does not restore.
        torch.default_generator.manual_seed(seed)
        return make_one()


def stacked(module: nn.Module, n_models: int, name: str = "", done: dict | None = None):
    """The stack of ``n_models`` copies of a plain module, made in place where it has parts."""
    done = {} if done is None else done
    if id(module) not in done:
        if type(module) in STACKED:
            new = STACKED[type(module)](module, n_models)
            copy_tensors(module, new, n_models)
        else:
            refuse_mixing(module, name or "the model")
            # `named_children` would leave out a module's second name
            for key, child in module._modules.items():
                if child is not None:
                    part = stacked(child, n_models, f"{name}.{key}".lstrip("."), done)
                    module._modules[key] = part
            new = module
        done[id(module)] = (new, module)  # the plain one too: a freed one's id is used again
    return done[id(module)][0]


def copy_tensors(plain: nn.Module, new: nn.Module, n_models: int) -> None:
    """Give ``new`` every tensor of ``plain``, ``n_models`` times along the first dimension."""
    for name, tensor in plain.named_parameters(recurse=False):
        copies = tensor.detach().repeat(n_models, *[1] * (tensor.ndim - 1))
        setattr(new, name, nn.Parameter(copies, requires_grad=tensor.requires_grad))
    for name, tensor in plain.named_buffers(recurse=False):
        sizes = [n_models, *[1] * (tensor.ndim - 1)] if tensor.ndim else []
        setattr(new, name, tensor.repeat(sizes))
    new.train(plain.training)


def refuse_mixing(module: nn.Module, name: str) -> None:
    """ValueError for a module that would mix models, or that might."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    base = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn"))
    foreign = base is not nn.Module and base not in PER_CHANNEL
    from_batch = isinstance(module, nn.Flatten) and module.start_dim != 1
    if own or foreign or from_batch:
        raise ValueError(
            f"{name} is a {type(module).__name__}, which cannot be stacked: it would mix the "
            "models, or how to keep them apart is not known; use Conv2d, BatchNorm2d, Linear and "
            "modules that treat every channel by itself"
        )


def spread(maps: torch.Tensor, n_features: int, n_models: int) -> torch.Tensor:
    """``maps`` (b, G n_features, …), repeated for every model where they come once for all."""
    if maps.shape[1] == n_models * n_features:
        return maps
    if maps.shape[1] == n_features:
        return maps.repeat(1, n_models, *[1] * (maps.ndim - 2))
    raise ValueError(
        f"expected {n_models} × {n_features} channels, or {n_features} that all models share; "
        f"got {tuple(maps.shape)}"
    )


class StackedConv2d(nn.Conv2d):
    """G convolutions: one grouped convolution from (b, G in, h, w) to (b, G out, h, w)."""

    def __init__(self, plain: nn.Conv2d, n_models: int):
        super().__init__(
            plain.in_channels * n_models,
            plain.out_channels * n_models,
            plain.kernel_size,
            plain.stride,
            plain.padding,
            plain.dilation,
            plain.groups * n_models,
            plain.bias is not None,
            plain.padding_mode,
            device="meta",
        )
        self.n_models, self.n_in = n_models, plain.in_channels
        self.joins_shared = plain.groups == 1 and plain.padding_mode == "zeros"

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.shape[1] == self.n_in and self.joins_shared:
            place = (self.stride, self.padding, self.dilation)
            return F.conv2d(maps, self.weight, self.bias, *place)
        return super().forward(spread(maps, self.n_in, self.n_models))


class StackedBatchNorm2d(nn.BatchNorm2d):
    """G batch norms: channels are normalised by themselves, so one over G C channels."""

    def __init__(self, plain: nn.BatchNorm2d, n_models: int):
        if plain.momentum is None:
            raise ValueError(
                "batch norm with momentum=None averages over a count that models share; give it one"
            )
        options = (plain.eps, plain.momentum, plain.affine, plain.track_running_stats)
        super().__init__(plain.num_features * n_models, *options, device="meta")
        self.n_models, self.n_in = n_models, plain.num_features

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return super().forward(spread(maps, self.n_in, self.n_models))


class StackedLinear(nn.Module):
    """G linear layers from (b, G in) to (b, G out), weights (G out, in)."""

    def __init__(self, plain: nn.Linear, n_models: int):
        super().__init__()
        self.n_models = n_models
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if features.ndim != 2:
            raise ValueError(
                f"a stacked linear layer takes (b, features), got {tuple(features.shape)}; "
                "flatten(1) before it"
            )
        features = spread(features, self.in_features, self.n_models)
        rows = features.unflatten(1, (self.n_models, -1)).transpose(0, 1)
        weight = self.weight.unflatten(0, (self.n_models, -1)).transpose(1, 2)
        if self.bias is None:
            logits = torch.bmm(rows, weight)
        else:
            logits = torch.baddbmm(self.bias.view(self.n_models, 1, -1), rows, weight)
        return logits.transpose(0, 1).flatten(1)


STACKED = {
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm2d: StackedBatchNorm2d,
    nn.Linear: StackedLinear,
}
