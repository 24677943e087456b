"""Stacked training against the plain loop that most people would write."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler

from mdhelpers.training import recipe
from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.augmentation import normalise
from mdhelpers.training.gradients import plain_network, training_views
from mdhelpers.training.networks import make_model, make_stack
from mdhelpers.training.recipe import (
    Batches,
    Stepper,
    Task,
    TrainingData,
    learning_rates,
    make_optimizer,
    stack_logits,
    train_stack,
)
from mdhelpers.training.weights import read_weights

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


def first_model(task: Task, group: int) -> nn.Module:
    model = make_model(task.algorithm, (SIZE, SIZE), 3)
    stack = make_stack(task.algorithm, len(task.masks), (SIZE, SIZE), 3)
    stack.initialise(task.init_seeds)
    model.load_state_dict(stack.model_state(group))
    return model


def alone(task: Task, group: int) -> Task:
    return Task(task.algorithm, task.masks[[group]], [task.data_seeds[group]], [0])


def plain_optimizer(spec: NetworkSpec, model: nn.Module):
    options = {"lr": 1, "weight_decay": spec.weight_decay}
    if spec.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **options)
    return torch.optim.SGD(
        model.parameters(), momentum=spec.momentum, nesterov=spec.nesterov, **options
    )


def train_plainly(task: Task, group: int, data: TrainingData, after_epoch=None) -> nn.Module:
    spec, model = task.algorithm, first_model(task, group)
    optimizer = plain_optimizer(spec, model)
    batches = Batches(alone(task, group), data)
    rates = iter(learning_rates(spec, batches.steps_per_epoch))
    for _ in range(spec.epochs):
        model.train()
        losses = []
        for images, labels in batches.epoch():
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.zero_grad()
            loss = F.cross_entropy(
                model(images), labels[:, 0], label_smoothing=spec.label_smoothing
            )
            loss.backward()
            optimizer.step()
            losses.append(loss.item() * len(images) / batches.n_subset)
        if after_epoch and after_epoch(model, sum(losses), batches):
            break
    return model.eval()


def as_input(images: torch.Tensor) -> torch.Tensor:
    return images.float().mul(2 / 255).sub(1).permute(0, 3, 1, 2)


def assert_equal_logits(stack, group: int, plain: nn.Module, data: TrainingData) -> None:
    logits = stack_logits(stack, data.source.images)[group]
    expected = plain(as_input(data.source.images)).detach()
    torch.testing.assert_close(logits, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augmentation": {"shift": 2, "flip": True, "crop": 0.4}, "label_smoothing": 0.1},
        {"schedule": "cosine", "batch_size": 5},
        {"optimizer": "adamw", "lr": 0.003, "warmup_epochs": 1},
        {"nesterov": True, "augmentation": {"jitter": 0.3, "cutout": 5}},
        {"architecture": "resnet9", "width": 4, "lr": 0.01},
    ],
)
def test_a_stack_trains_each_model_as_if_alone(data, options):
    spec = NetworkSpec(**{"name": "a", "epochs": 3, "batch_size": 4} | options)
    task = make_task(spec)
    stack, _ = train_stack(task, data)
    for group in range(3):
        assert_equal_logits(stack, group, train_plainly(task, group, data), data)


def test_models_stop_at_their_own_loss(data):
    free = NetworkSpec(name="a", epochs=12, batch_size=4, lr=0.05, schedule="constant")
    _, losses = train_stack(make_task(free), data)
    limit = float(np.median(losses.min(axis=0)))
    spec = free.model_copy(update={"stop_at_loss": limit})
    stack, stopped = train_stack(make_task(spec), data)
    below = np.isnan(stopped).any(axis=0)
    assert below.any()
    assert not below.all()
    for group in range(3):
        plain = train_plainly(
            make_task(spec), group, data, lambda _model, loss, _batches: loss < limit
        )
        assert_equal_logits(stack, group, plain, data)


def test_validation_keeps_the_best_epoch_of_each_model(data):
    spec = NetworkSpec(name="a", epochs=6, batch_size=4, lr=0.05, validation_share=0.34)
    task = make_task(spec)
    stack, _ = train_stack(task, data)
    used = spec.trained_on(task)
    assert (used.sum(1) == task.masks.sum(1) - 4).all()
    for group in range(3):
        best = {"accuracy": -1.0}

        def remember(model, _loss, batches, best=best, group=group):
            rows = batches.validation[:, 0]
            assert len(rows) == 4
            assert task.masks[group][rows].all()
            assert not used[group][rows].any()  # the mask says what was trained on
            model.eval()
            right = model(as_input(data.source.images[rows])).argmax(1) == data.labels[rows]
            if right.float().mean() > best["accuracy"]:
                copied = {k: v.clone() for k, v in model.state_dict().items()}
                best.update(accuracy=right.float().mean(), state=copied)

        plain = train_plainly(task, group, data, remember)
        plain.load_state_dict(best["state"])
        assert_equal_logits(stack, group, plain, data)


def test_weights_are_averaged_over_the_last_steps(data):
    spec = NetworkSpec(name="a", epochs=4, batch_size=4, lr=0.05, average_last=0.5)
    task = make_task(spec, 1)
    stack, _ = train_stack(task, data)
    short = spec.model_copy(update={"average_last": 0.0})
    batches, seen = Batches(task, data), []
    plain = make_stack(short, 1, (SIZE, SIZE), 3)
    plain.initialise(task.init_seeds)
    stepper = Stepper(short, plain, batches.steps_per_epoch)
    for _ in range(spec.epochs):
        for images, labels in batches.epoch():
            stepper.step(images, labels)
            seen.append(plain.model_state(0))
    last = seen[len(seen) // 2 - 1 :]
    for name, weight in stack.model_state(0).items():
        mean = torch.stack([state[name] for state in last]).mean(0)
        torch.testing.assert_close(weight, mean)


def test_fixed_features_train_the_head_only(data):
    spec = NetworkSpec(name="a", epochs=3, architecture="resnet9", width=4, trainable="head")
    task = make_task(spec)
    stack, _ = train_stack(task, data)
    before, after = first_model(task, 1).state_dict(), stack.model_state(1)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 1
    assert after[changed[0]].shape[0] == 3


def test_models_start_from_given_weights(data):
    spec = NetworkSpec(name="a", epochs=2, batch_size=4)
    donor = {k: v + 0.01 for k, v in make_model(spec, (SIZE, SIZE), 5).state_dict().items()}
    task = make_task(spec)
    started = Task(spec, task.masks, task.data_seeds, task.init_seeds, (donor,) * 3)
    from mdhelpers.training.recipe import first_stack

    state = first_stack(started, data).model_state(2)
    torch.testing.assert_close(state["conv1.weight"], donor["conv1.weight"])
    torch.testing.assert_close(state["linear.weight"], first_model(task, 2).linear.weight.data)


def test_crops_are_cut_from_larger_images_and_nothing_else_is(data):
    """Larger images of one colour each are told apart from the usual ones, which are black."""
    larger = torch.full((N_TRAIN, 40, 40, 3), 255, dtype=torch.uint8)
    black = torch.zeros(N_TRAIN, SIZE, SIZE, 3, dtype=torch.uint8)
    both = TrainingData(black, data.labels, 3, larger)
    for augmentation, seen in (({"crop": 0.5, "flip": True}, 1), ({"flip": True, "shift": 1}, -1)):
        spec = NetworkSpec(name="a", batch_size=6, augmentation=augmentation, validation_share=0.25)
        batches = Batches(make_task(spec), both)
        for images, _ in batches.epoch():
            assert images.shape[1:] == (9, SIZE, SIZE)
            torch.testing.assert_close(images, torch.full_like(images, seen))
        stack = make_stack(spec, 3, (SIZE, SIZE), 3)
        assert batches.validation_accuracy(stack).shape == (3,)
        ((view, _),) = next(training_views(spec, both, 1, 0))
        torch.testing.assert_close(view, torch.full_like(view, seen))


def test_equal_data_seeds_treat_shared_images_alike(data):
    spec = NetworkSpec(name="a", batch_size=12, augmentation={"shift": 2, "crop": 0.5})
    masks = make_task(spec, 2).masks
    batches = Batches(Task(spec, masks, [7, 7], [0, 1]), data)
    ((images, _),) = batches.epoch()
    one, two = images[:, :3].flatten(1), images[:, 3:].flatten(1)
    shared = int((masks[0] & masks[1]).sum())
    assert 0 < shared < 12
    assert int((one[:, None] == two[None]).all(-1).sum()) == shared


NORMALISED = {"kind": "checkpoint", "path": "w.pt", "normalisation": "imagenet"}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize("options", [{"precision": "bf16"}, {"compile": True}])
@pytest.mark.parametrize("start", ["random", NORMALISED])
def test_other_arithmetic_gives_nearly_the_same_models(data, options, start):
    spec = NetworkSpec(name="a", epochs=2, batch_size=4, lr=0.01, initialisation=start)
    exact, _ = train_stack(make_task(spec), data)
    close, _ = train_stack(make_task(spec.model_copy(update=options)), data)
    torch.testing.assert_close(
        stack_logits(exact, data.source.images),
        stack_logits(close, data.source.images),
        atol=0.05,
        rtol=0.05,
    )


def test_out_of_memory_halves_the_batch_and_changes_no_gradient(data):
    spec = NetworkSpec(name="a", epochs=1, batch_size=12, lr=0.01)
    task = make_task(spec)
    stacks = []
    for largest in (12, 4):
        stack = make_stack(spec, 3, (SIZE, SIZE), 3)
        stack.initialise(task.init_seeds)
        batches = Batches(task, data)
        stepper = Stepper(spec, stack, batches.steps_per_epoch)
        stepper.forward = limited(stack, largest)
        ((images, labels),) = batches.epoch()
        if largest == 4:
            with pytest.warns(UserWarning, match="in [24] parts") as said:
                losses = stepper.step(images, labels)
            assert len(said) == 2
        else:
            losses = stepper.step(images, labels)
        stacks.append((stack, losses))
    torch.testing.assert_close(stacks[0][1], stacks[1][1])
    for a, b in zip(stacks[0][0].parameters(), stacks[1][0].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def limited(stack, largest: int):
    def forward(images):
        if len(images) > largest:
            raise torch.OutOfMemoryError("no room")
        return stack(images)

    return forward


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
        own = data.source.images[torch.from_numpy(task.masks[group])].float().mul(2 / 255).sub(1)
        torch.testing.assert_close(got, own.mean((1, 2, 3)).sort().values)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_trains_the_same_models(data):
    spec = NetworkSpec(name="a", epochs=2, batch_size=4)
    on_cpu, _ = train_stack(make_task(spec), data)
    there = TrainingData(data.source.images.cuda(), data.labels.cuda(), 3)
    on_gpu, _ = train_stack(make_task(spec), there)
    torch.testing.assert_close(
        stack_logits(on_cpu, data.source.images),
        stack_logits(on_gpu, there.source.images),
        atol=5e-2,
        rtol=5e-2,
    )


# Schedules and optimisers


PER_EPOCH = 5


def rates_of(**options) -> np.ndarray:
    return learning_rates(NetworkSpec(name="a", lr=0.4, **options), PER_EPOCH)


def torch_rates(make, n: int) -> np.ndarray:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule, found = make(optimizer), []
    for _ in range(n):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return np.array(found)


def test_steps_as_in_torch():
    ours = rates_of(schedule="step", epochs=7, step_epochs=2, step_factor=0.3)
    theirs = torch_rates(lambda o: lr_scheduler.StepLR(o, 2 * PER_EPOCH, 0.3), 7 * PER_EPOCH)
    np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("cosine", lambda n: lambda o: lr_scheduler.CosineAnnealingLR(o, n)),
        ("linear", lambda n: lambda o: lr_scheduler.LinearLR(o, 1.0, 0.0, n)),
    ],
)
def test_falling_schedules_lie_half_a_step_from_torchs(name, make):
    n = 8 * PER_EPOCH
    ours, theirs = rates_of(schedule=name, epochs=8), torch_rates(make(n), n + 1)
    middle = (theirs[1:] + theirs[:-1]) / 2
    np.testing.assert_allclose(ours, middle, atol=1e-3)


@pytest.mark.parametrize("name", ["triangular", "one_cycle"])
def test_cycles_rise_to_the_peak_and_fall_to_nothing(name):
    rates = rates_of(schedule=name, epochs=25, peak=0.48)
    assert rates.argmax() / PER_EPOCH == pytest.approx(12, abs=0.5)
    assert rates.max() == pytest.approx(0.4, rel=0.02)
    assert max(rates[0], rates[-1]) < 0.01
    assert (np.diff(rates[:60]) > 0).all()
    assert (np.diff(rates[61:]) < 0).all()


def test_warm_up_rises_to_the_schedules_start():
    rates = rates_of(schedule="constant", epochs=4, warmup_epochs=2)
    assert len(rates) == 20
    np.testing.assert_allclose(rates[:10], 0.4 * (np.arange(10) + 0.5) / 10)
    np.testing.assert_allclose(rates[10:], 0.4)


def test_optimisers_are_those_of_the_recipe():
    weights = [torch.nn.Parameter(torch.zeros(2))]
    sgd = make_optimizer(NetworkSpec(name="a", nesterov=True, weight_decay=0.1), weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"]
    assert sgd.defaults["weight_decay"] == 0.1
    adamw = make_optimizer(NetworkSpec(name="a", optimizer="adamw"), weights)
    assert isinstance(adamw, torch.optim.AdamW)


def gratings(n, seed):
    """Faint stripes of 16 orientations in noise, on any colour: (n, 16, 16, 3) and which."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:16, :16] - 8
    kind = np.arange(n) % 16
    angles = np.pi * kind[:, None, None] / 16
    phases = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    waves = np.cos(1.2 * (np.cos(angles) * rows + np.sin(angles) * columns) + phases)
    images = rng.uniform(80, 175, (n, 1, 1, 3)) + rng.normal(0, 20, (n, 16, 16, 3))
    images += rng.uniform(8, 16, (n, 1, 1, 1)) * waves[..., None]
    return torch.from_numpy(images.clip(0, 255).astype(np.uint8)), torch.from_numpy(kind)


def trained_on(images, labels, start, **changes):
    spec = NetworkSpec(
        name="a", architecture="resnet9", width=8, batch_size=40, initialisation=start, **changes
    )
    everything, n_classes = np.ones((1, len(labels)), bool), int(labels.max()) + 1
    starts = (read_weights(start["path"]),) if "trainable" in changes else ()
    task = Task(spec, everything, [0], [0], starts)
    return train_stack(task, TrainingData(images, labels, n_classes))[0]


def test_fixed_features_tell_more_with_the_normalisation_of_their_weights(tmp_path):
    """A network is trained on stripes normalised as ImageNet's pictures; a new last layer then
    learns another question from few of them, with that normalisation and with [-1, 1]."""
    start = NORMALISED | {"path": str(tmp_path / "w.pt")}
    source = trained_on(*gratings(1280, 0), start, epochs=6, lr=0.05)
    torch.save(source.model_state(0), start["path"])
    (few, kind), (images, asked) = gratings(160, 1), gratings(480, 2)
    accuracy = {}
    for said in ("imagenet", None):
        given = start | {"normalisation": said}
        head = trained_on(few, kind // 2, given, epochs=15, lr=0.02, trainable="head")
        right = stack_logits(head, images)[0].argmax(-1) == asked // 2
        accuracy[said] = right.float().mean().item()
    assert accuracy["imagenet"] > accuracy[None] + 0.1


def test_models_that_were_kept_are_normalised_as_they_were_in_training(data):
    spec = NetworkSpec(name="a", epochs=1, initialisation=NORMALISED)
    stack, _ = train_stack(make_task(spec), data)
    kept = spec.restore(stack.state_dict(), 3, (SIZE, SIZE), 3)
    images = data.source.images
    assert torch.equal(kept.logits(images), stack_logits(stack, images))
    alone = plain_network(stack, 1)(normalise(images).permute(0, 3, 1, 2))
    torch.testing.assert_close(alone, kept.logits(images)[1])


@pytest.mark.parametrize(
    ("device", "has", "expected"),
    [("cuda", True, "bf16"), ("cuda", False, None), ("cpu", True, None)],
)
def test_auto_is_bf16_on_a_gpu_that_has_it(monkeypatch, device, has, expected):
    monkeypatch.setattr(recipe, "has_bf16", lambda: has)
    made = []
    monkeypatch.setattr(recipe.torch, "autocast", lambda *about: made.append(about))
    recipe.precision(NetworkSpec(name="a", precision="auto"), torch.device(device))
    assert made == ([(device, recipe.DTYPES[expected])] if expected else [])


def test_auto_on_a_cpu_is_fp32_to_the_bit(data):
    spec = NetworkSpec(name="a", epochs=1, batch_size=4)
    exact, same = (
        stack_logits(train_stack(make_task(s), data)[0], data.source.images)
        for s in (spec, spec.model_copy(update={"precision": "auto"}))
    )
    assert torch.equal(exact, same)
