"""Stacked training against the plain loop that most people would write."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mdhelpers.algorithms import NetworkSpec
from mdhelpers.models import StackedCNN
from mdhelpers.training import (
    Batches,
    Task,
    TrainingData,
    learning_rates,
    stack_logits,
    train_stack,
)

N_TRAIN, SIZE = 24, 16


@pytest.fixture
def data() -> TrainingData:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 255, (N_TRAIN, SIZE, SIZE, 3), dtype=np.uint8))
    return TrainingData(images, torch.arange(N_TRAIN) % 3, 3)


def make_task(spec: NetworkSpec, n_models: int = 3) -> Task:
    masks = np.zeros((n_models, N_TRAIN), bool)
    for g in range(n_models):
        masks[g, np.random.default_rng(g).permutation(N_TRAIN)[:12]] = True
    return Task(spec, masks, list(range(n_models)), list(range(10, 10 + n_models)))


class PlainCNN(nn.Module):
    """One model of the stack as an ordinary network."""

    def __init__(self, stack: StackedCNN, group: int):
        super().__init__()
        self.convs = nn.ModuleList()
        for conv in (stack.conv1, stack.conv2, stack.conv3):
            n_out, n_in = conv.out_channels // stack.n_models, conv.in_channels // stack.n_models
            own = nn.Conv2d(n_in, n_out, conv.kernel_size, conv.stride, conv.padding)
            rows = slice(group * n_out, (group + 1) * n_out)
            own.weight.data, own.bias.data = conv.weight[rows].clone(), conv.bias[rows].clone()
            self.convs.append(own)
        self.linear = nn.Linear(stack.weight.shape[1], stack.n_classes)
        self.linear.weight.data = stack.weight[group].T.clone()
        self.linear.bias.data = stack.bias[group].clone()

    def forward(self, images):
        for conv in self.convs:
            images = F.relu(conv(images))
        return self.linear(F.max_pool2d(images, 2).flatten(1))


def train_plainly(task: Task, group: int, data: TrainingData) -> nn.Module:
    spec = task.algorithm
    stack = StackedCNN(len(task.masks), (SIZE, SIZE), 3, width=spec.channels)
    stack.initialise(task.init_seeds)
    model = PlainCNN(stack, group)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=1, momentum=spec.momentum, weight_decay=spec.weight_decay
    )
    alone = Task(spec, task.masks[[group]], [task.data_seeds[group]], [0])
    batches = Batches(alone, data)
    rates = iter(learning_rates(spec, batches.steps_per_epoch))
    for _ in range(spec.epochs):
        for images, labels in batches.epoch():
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            F.cross_entropy(
                model(images), labels[:, 0], label_smoothing=spec.label_smoothing
            ).backward()
            optimizer.step()
    return model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augmentation": {"shift": 2, "flip": True, "crop": 0.4}, "label_smoothing": 0.1},
        {"schedule": "cosine", "batch_size": 5},
    ],
)
def test_a_stack_trains_each_model_as_if_alone(data, options):
    spec = NetworkSpec(name="a", epochs=3, batch_size=options.pop("batch_size", 4), **options)
    task = make_task(spec)
    stack, _ = train_stack(task, data)
    logits = stack_logits(stack, data.images)
    for group in range(3):
        plain = train_plainly(task, group, data)
        images = data.images.float().mul(2 / 255).sub(1).permute(0, 3, 1, 2)
        torch.testing.assert_close(logits[group], plain(images).detach(), atol=2e-4, rtol=1e-3)


def test_the_same_seeds_give_the_same_bits(data):
    spec = NetworkSpec(name="a", epochs=2, batch_size=4, augmentation={"crop": 0.5})
    runs = [train_stack(make_task(spec), data) for _ in range(2)]
    for a, b in zip(runs[0][0].parameters(), runs[1][0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert np.array_equal(runs[0][1], runs[1][1])


def test_loss_falls_on_data_that_can_be_learnt():
    images = torch.zeros(N_TRAIN, SIZE, SIZE, 3, dtype=torch.uint8)
    labels = torch.arange(N_TRAIN) % 3
    images[labels == 1] = 128
    images[labels == 2] = 255
    spec = NetworkSpec(name="a", epochs=40, batch_size=6, lr=0.03)
    _, losses = train_stack(make_task(spec), TrainingData(images, labels, 3))
    assert losses.shape == (40, 3)
    assert (losses[-1] < 0.2).all()


def test_every_model_sees_its_subset_once_an_epoch(data):
    task = make_task(NetworkSpec(name="a", batch_size=5))
    batches = Batches(task, data)
    seen = torch.cat([images for images, _ in batches.epoch()])
    for group in range(3):
        got = seen[:, 3 * group : 3 * group + 3].mean((1, 2, 3)).sort().values
        own = data.images[torch.from_numpy(task.masks[group])].float().mul(2 / 255).sub(1)
        torch.testing.assert_close(got, own.mean((1, 2, 3)).sort().values)


def test_triangular_schedule_rises_then_falls():
    rates = learning_rates(NetworkSpec(name="a", epochs=10, lr=0.5), 10)
    assert len(rates) == 100
    assert rates.argmax() in (19, 20)
    assert rates.max() <= 0.5
    assert rates[-1] < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_trains_the_same_models(data):
    spec = NetworkSpec(name="a", epochs=2, batch_size=4)
    on_cpu, _ = train_stack(make_task(spec), data)
    there = TrainingData(data.images.cuda(), data.labels.cuda(), 3)
    on_gpu, _ = train_stack(make_task(spec), there)
    torch.testing.assert_close(
        stack_logits(on_cpu, data.images), stack_logits(on_gpu, there.images), atol=5e-2, rtol=5e-2
    )
