"""Gradients of trained models, against slow loops, and their way through tasks."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mdhelpers.data.datasets import DatasetSpec, save_dataset
from mdhelpers.data.sources import load_dataset
from mdhelpers.method.margins import correct_class_margins
from mdhelpers.training import gradients as module
from mdhelpers.training.algorithms import parse_algorithm
from mdhelpers.training.augmentation import Augmenter, normalise
from mdhelpers.training.gradients import (
    GradientPlan,
    Gradients,
    plain_network,
    reduced,
    run_gradients,
    trained_names,
    training_views,
    unfinished,
)
from mdhelpers.training.networks import make_stack
from mdhelpers.training.recipe import TrainingData
from mdhelpers.training.tasks import TrainingPlan, load_kept, run_task

N_TRAIN, N_TEST, SIZE = 20, 12, 16


def spec_of(**options):
    given = {"name": "net", "kind": "network", "width": 4, "epochs": 2, "batch_size": 5}
    return parse_algorithm(given | options)


def network(spec, dtype=torch.float64, n_classes=3):
    stack = make_stack(spec, 2, (SIZE, SIZE), n_classes)
    stack.initialise([3, 4])
    return plain_network(stack, 1).to(dtype)


def pictures(rng, n=N_TRAIN):
    images = torch.from_numpy(rng.integers(0, 256, (n, SIZE, SIZE, 3), dtype=np.uint8))
    return images, torch.from_numpy(rng.integers(0, 3, n))


def slow(net, names, image, measure):
    """One image's gradient by torch's own tape."""
    weights = [p for name, p in net.named_parameters() if name in names]
    found = torch.autograd.grad(measure(net(image[None])[0]), weights)
    return torch.cat([g.flatten() for g in found])


NORMALISED = {"initialisation": {"kind": "checkpoint", "path": "w.pt", "normalisation": "imagenet"}}


@pytest.mark.parametrize(
    "options", [{}, {"architecture": "resnet9"}, {"trainable": "head"}, NORMALISED]
)
def test_gradients_are_those_of_a_loop(options):
    spec, rng = spec_of(label_smoothing=0.1, **options), np.random.default_rng(0)
    net, (images, labels) = network(spec), pictures(rng)
    names = trained_names(net, spec)
    gradients = Gradients(net, names)
    ready = normalise(images).permute(0, 3, 1, 2).double()
    train = gradients.of_training(iter([iter([(ready, labels)])]), N_TRAIN, 3, spec)
    test = torch.cat(list(gradients.of_outputs(images, labels, spec)))
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    for i in range(N_TRAIN):
        want = slow(net, names, ready[i], lambda z, i=i: -loss(z[None], labels[i : i + 1]))
        torch.testing.assert_close(train[i], want, rtol=1e-6, atol=1e-9)
        want = slow(net, names, ready[i], lambda z, i=i: correct_class_margins(z, labels[i]))
        torch.testing.assert_close(test[i], want, rtol=1e-6, atol=1e-9)
    if "trainable" in options:
        assert train.shape[1] == sum(p.numel() for p in net[-1].parameters())


def test_chunks_change_nothing(monkeypatch):
    spec, rng = spec_of(), np.random.default_rng(1)
    net, (images, labels) = network(spec), pictures(rng)
    whole = torch.cat(
        list(Gradients(net, trained_names(net, spec)).of_outputs(images, labels, spec))
    )
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)
    parts = list(Gradients(net, trained_names(net, spec)).of_outputs(images, labels, spec))
    assert len(parts) == N_TRAIN
    torch.testing.assert_close(torch.cat(parts), whole)


def test_views_are_averaged():
    spec = spec_of(augmentation={"flip": True, "shift": 2})
    rng = np.random.default_rng(2)
    net, (images, labels) = network(spec, torch.float32), pictures(rng)
    data = TrainingData(images, labels, 3)
    gradients = Gradients(net, trained_names(net, spec))

    def mean(views):
        return gradients.of_training(training_views(spec, data, views, 5), N_TRAIN, 3, spec)

    augmenter, drawn, each = (
        Augmenter(spec.augmentation, (SIZE, SIZE)),
        np.random.default_rng(5),
        [],
    )
    for _ in range(3):
        draws = {k: torch.from_numpy(v) for k, v in augmenter.draw(N_TRAIN, drawn).items()}
        view = iter([iter([(augmenter.stacked(images, draws), labels)])])
        each.append(gradients.of_training(view, N_TRAIN, 3, spec))
    torch.testing.assert_close(mean(3), torch.stack(each).mean(0))
    plain = spec_of()
    assert len(list(training_views(plain, data, 4, 5))) == 1  # nothing to draw


@pytest.mark.parametrize(("n_train", "n"), [(9, 40), (40, 9)])
def test_reduced_gradients_give_the_scores_of_whole_ones(n_train, n):
    rng = np.random.default_rng(3)
    train, test = (torch.from_numpy(rng.normal(size=(rows, n))) for rows in (n_train, 6))
    rows, columns, values = reduced(train, iter([test[:4], test[4:]]))
    assert len(values) == min(n_train, n)
    for c in (0.1, 10.0):
        want = test @ train.T @ torch.linalg.inv(train @ train.T + c * torch.eye(n_train))
        torch.testing.assert_close(rows / (values + c) @ columns.T, want, rtol=1e-6, atol=1e-9)


def test_folded_gradients_keep_inner_products_the_better_the_more_numbers():
    rng = np.random.default_rng(4)
    vectors = torch.from_numpy(rng.normal(size=(30, 3)) @ rng.normal(size=(3, 5000)))
    exact, errors = vectors @ vectors.T, []
    net = nn.Linear(4999, 1).double()
    for dimension in (50, 500, 2500):
        folded = Gradients(net, ["weight", "bias"], dimension, seed=1).folded(vectors)
        assert folded.shape == (30, dimension)
        errors.append(((folded @ folded.T - exact).square().mean() / exact.square().mean()).sqrt())
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert errors[2] < 0.05
    same = Gradients(net, ["weight", "bias"], 50, seed=1).folded(vectors)
    torch.testing.assert_close(same, Gradients(net, ["weight", "bias"], 50, seed=1).folded(vectors))


@pytest.fixture
def plan(small_run):
    own = {field.name: getattr(small_run, field.name) for field in fields(TrainingPlan)}
    return GradientPlan(
        **own | {"folder": small_run.folder / "gradients", "run_folder": small_run.folder},
        rows=(2, 7),
        at=(0.5, 1.0),
        views=2,
        dimension=0,
    )


@pytest.fixture
def small_run(tmp_path):
    dataset = load_dataset(DatasetSpec(kind="scenes", size=16, n_train=24, n_test=12))
    save_dataset(dataset, tmp_path / "data")
    augmented = spec_of(augmentation={"flip": True})
    return TrainingPlan(
        tmp_path, (spec_of(), augmented), dataset.fingerprint, 24, 12, 0, 0.5, 8, 8, 0, 4, "cpu"
    )  # fmt: skip


def test_a_task_looks_at_the_very_models_of_training(plan, small_run):
    assert unfinished(plan) == [(1, 0), (2, 0), (1, 1), (2, 1)]
    report = run_gradients(plan, 1, 1)
    assert (report["algorithm"], report["task"], report["models"]) == (1, 1, 4)
    assert unfinished(plan) == [(1, 0), (2, 0), (2, 1)]
    first = plan.path(1, 1).read_bytes()
    plan.path(1, 1).unlink()
    run_gradients(plan, 1, 1)
    assert plan.path(1, 1).read_bytes() == first
    run_task(small_run, 1, 1)
    run_task(small_run, 1, 0)
    found, kept = load_file(plan.path(1, 1)), load_kept(small_run, 1, 8)[1].stack
    assert set(found) == {
        f"{part}@{at}" for part in ("test", "train", "values") for at in ("0.5", "1")
    }
    data, images, labels = module.resident_data(small_run)
    net = plain_network(kept, 2)
    gradients = Gradients(net, trained_names(net, spec_of()))
    views = training_views(spec_of(), data, 1, 0)
    train = gradients.of_training(views, 24, data.n_classes, spec_of())
    want = torch.cat(list(gradients.of_outputs(images, labels, spec_of()))) @ train.T
    rows, columns, values = (found[f"{part}@1"][2] for part in ("test", "train", "values"))
    np.testing.assert_allclose(rows @ columns.T, want, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(columns * values @ columns.T, train @ train.T, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found["test@0.5"], found["test@1"])


OWN = """
import torch

def train(images, labels, test_images, *, n_classes, seed):
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, n_classes))
    net[1].bias.requires_grad = False
    return net
"""


def test_networks_of_a_users_function_are_looked_at_as_they_ended(plan, tmp_path, monkeypatch):
    """Gradients of the loss of a linear network are images times errors."""
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = {"kind": "python", "name": "p", "function": "own_network:train", "returns": "network"}
    spec = parse_algorithm(own)
    plan = replace(plan, algorithms=(spec, plan.algorithms[1]))
    run_gradients(plan, 1, 0)
    found = load_file(plan.path(1, 0))
    assert set(found) == {"test@1", "train@1", "values@1"}
    data, *_ = module.resident_data(plan)
    task, _ = module.prepare_task(plan, 1, slice(0, 4))
    net = spec.train(task, data).models[1]
    x = normalise(data.source.gather(torch.arange(24))).permute(0, 3, 1, 2)
    errors = torch.nn.functional.one_hot(data.labels, 3) - net(x).softmax(1)
    train = torch.einsum("bi,bj->bij", errors, x.flatten(1)).flatten(1).detach()
    columns, values = found["train@1"][1], found["values@1"][1]
    np.testing.assert_allclose(columns * values @ columns.T, train @ train.T, rtol=1e-3, atol=1e-3)


def test_what_decides_gradients_is_in_the_names_of_their_files(plan):
    changes = {"at": (1.0,), "views": 3, "dimension": 64, "seed": 1}
    others = {replace(plan, **{key: value}).digest for key, value in changes.items()}
    assert len(others | {plan.digest}) == 5
    assert replace(plan, rows=(0, 8)).digest == plan.digest


def test_large_gradients_are_folded(monkeypatch, plan):
    spec, data = plan.algorithms[0], TrainingData(*pictures(np.random.default_rng(5)), 3)
    net = network(spec)
    recorder = module.Recorder(plan, 1, [0], data, *pictures(np.random.default_rng(6)))
    names = trained_names(net, spec)
    assert recorder.folded_to(net, names) == 0
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    assert recorder.folded_to(net, names) == 0  # of fewer weights than that
    monkeypatch.setattr(module, "DIMENSION", 50)
    assert recorder.folded_to(net, names) == 50
