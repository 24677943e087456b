import copy
import math

import pytest
import torch
from torch import nn

from mdhelpers.training.algorithms import NetworkSpec, parse_algorithm
from mdhelpers.training.networks import MaxPool, StackedNetwork, make_model, make_stack

G, CLASSES, SEEDS = 3, 4, [11, 12, 13]
SIZES = {"cnn": (20, 24), "resnet9": (16, 16), "resnet18": (32, 32)}
each_architecture = pytest.mark.parametrize("architecture", list(SIZES))


def spec_of(architecture):
    width = None if architecture == "resnet18" else 4
    return NetworkSpec(name="a", architecture=architecture, width=width)


def stack_of(architecture, seeds=SEEDS):
    stack = make_stack(spec_of(architecture), len(seeds), SIZES[architecture], CLASSES)
    stack.initialise(seeds)
    return stack


def plain_models(architecture):
    """What the stack should be: each model by itself, drawn by torch from its seed."""
    models = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        models.append(make_model(spec_of(architecture), SIZES[architecture], CLASSES))
    return models


def images_of(architecture, n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, G, 3, *SIZES[architecture], generator=generator, dtype=torch.float64)
    return images, torch.randint(CLASSES, (n, G), generator=generator)


def step(model, logits, labels):
    """One step of gradient descent on the mean loss; returns logits and gradients."""
    model.zero_grad()
    n_models = 1 if labels.ndim == 1 else labels.shape[1]
    loss = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten()) * n_models
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.05 * parameter.grad
    return logits.detach(), gradients


def part(tensor, g):
    return tensor.unflatten(0, (G, -1))[g]


@each_architecture
def test_a_stack_trains_as_its_models_do_alone(architecture):
    stack = stack_of(architecture).double()
    models = [model.double() for model in plain_models(architecture)]
    for seed in range(2):
        images, labels = images_of(architecture, seed=seed)
        logits, gradients = step(stack, stack(images.flatten(1, 2)), labels)
        for g, model in enumerate(models):
            alone, own = step(model, model(images[:, g]), labels[:, g])
            torch.testing.assert_close(logits[:, g], alone)
            for name, gradient in own.items():
                torch.testing.assert_close(part(gradients[f"network.{name}"], g), gradient)
    images, _ = images_of(architecture, seed=9)
    logits = stack.eval()(images.flatten(1, 2))
    for g, model in enumerate(models):
        torch.testing.assert_close(logits[:, g], model.eval()(images[:, g]))


@each_architecture
def test_shared_images_equal_repeated_ones_and_so_do_their_gradients(architecture):
    one, two = stack_of(architecture).double(), stack_of(architecture).double()
    images, labels = images_of(architecture)
    images = images[:, 0]
    logits, gradients = step(one, one(images), labels)
    repeated, others = step(two, two(images.repeat(1, G, 1, 1)), labels)
    torch.testing.assert_close(logits, repeated)
    torch.testing.assert_close(gradients, others)


@each_architecture
def test_a_plain_models_weights_go_in_and_come_out(architecture):
    stack, (first, second, third) = stack_of(architecture), plain_models(architecture)
    for g, model in enumerate((third, first, second)):
        stack.load_model(g, model.state_dict())
    for g, model in enumerate((third, first, second)):
        found, expected = stack.model_state(g), model.state_dict()
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert all(tensor.is_contiguous() for tensor in found.values())
        copy.deepcopy(first).load_state_dict(found)


def test_model_states_are_copies():
    stack = stack_of("cnn")
    stack.model_state(1)["conv1.weight"].zero_()
    assert stack.model_state(1)["conv1.weight"].abs().min() > 0


@each_architecture
def test_a_seed_gives_the_same_bits_anywhere_in_any_stack(architecture):
    one, two = stack_of(architecture), stack_of(architecture, [5, 13])
    expected, found = one.model_state(2), two.model_state(1)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_initialisation_leaves_the_callers_generator_alone():
    torch.manual_seed(3)
    expected = torch.randn(4)
    torch.manual_seed(3)
    stack_of("cnn")
    assert torch.equal(torch.randn(4), expected)


def test_initialisation_wants_a_seed_a_model():
    with pytest.raises(ValueError, match="3 models need as many seeds, got 2"):
        stack_of("cnn").initialise([1, 2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv2.bias"), "conv2.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is unknown"),
        (lambda s: s.update({"linear.bias": torch.zeros(9)}), r"shape \(9,\), expected \(4,\)"),
    ],
)
def test_weights_of_another_model_are_refused(change, message):
    stack = stack_of("cnn")
    state = stack.model_state(0)
    change(state)
    with pytest.raises(ValueError, match=message):
        stack.load_model(1, state)


@pytest.mark.parametrize("g", [-1, 3])
def test_a_place_outside_the_stack_is_refused(g):
    with pytest.raises(ValueError, match="of a stack of 3"):
        stack_of("cnn").model_state(g)


@each_architecture
def test_head_parameters_are_the_last_layers(architecture):
    stack = stack_of(architecture)
    last = {"cnn": "linear", "resnet9": "9", "resnet18": "fc"}[architecture]
    expected = [p for name, p in stack.named_parameters() if name.split(".")[1] == last]
    found = stack.head_parameters()
    assert len(found) == len(expected) == (1 if architecture == "resnet9" else 2)
    assert all(one is two for one, two in zip(found, expected, strict=True))


def test_a_stacks_state_loads_into_a_fresh_stack():
    stack = stack_of("resnet9")
    stack(torch.randn(4, 3 * G, 16, 16))
    other = make_stack(spec_of("resnet9"), G, SIZES["resnet9"], CLASSES)
    other.load_state_dict(stack.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(stack.eval()(images), other.eval()(images))


def test_convolutions_keep_channels_last_memory():
    stack = stack_of("resnet9")
    weights = [p for p in stack.parameters() if p.ndim == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


class Odd(nn.Module):
    """Every turn that a plain model may take: groups, padding, one module used twice, sums."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, padding_mode="reflect", groups=3)
        self.again = nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.same = self.again
        self.hidden = nn.Linear(6 * 16, 5)
        self.last = nn.Linear(5, 2)

    def forward(self, images):
        maps = nn.functional.gelu(self.first(images))
        maps = maps + self.same(self.norm(self.again(maps)))
        maps = nn.functional.adaptive_avg_pool2d(maps, 4)
        return self.last(self.hidden(torch.flatten(maps, 1)).tanh())


@pytest.mark.parametrize("shared", [False, True])
def test_a_model_of_many_turns_is_stacked(shared):
    stack, models = StackedNetwork(Odd, G).double(), []
    stack.initialise(SEEDS)
    for seed in SEEDS:
        torch.manual_seed(seed)
        models.append(Odd().double())
    images = torch.randn(5, G, 3, 8, 8, dtype=torch.float64)
    if shared:
        images = images[:, :1].expand(-1, G, -1, -1, -1)
    found = stack(images[:, 0] if shared else images.flatten(1, 2))
    expected = torch.stack([model(images[:, g]) for g, model in enumerate(models)], 1)
    torch.testing.assert_close(found, expected)
    assert stack.network.same is stack.network.again


class Foreign(nn.LayerNorm):
    pass


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (lambda: nn.LayerNorm(8), "LayerNorm"),
        (lambda: nn.LayerNorm(8, elementwise_affine=False), "LayerNorm"),
        (lambda: Foreign(8, elementwise_affine=False), "Foreign"),
        (lambda: nn.GroupNorm(2, 4), "GroupNorm"),
        (lambda: nn.BatchNorm1d(8), "BatchNorm1d"),
        (lambda: nn.Softmax(1), "Softmax"),
        (lambda: nn.PReLU(), "PReLU"),
        (lambda: nn.Flatten(0), "Flatten"),
    ],
)
def test_modules_that_would_mix_models_are_refused_by_name(layer, kind):
    def make_one():
        return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), layer()), nn.Linear(8, 2))

    with pytest.raises(ValueError, match=rf"^0\.1 is a {kind}, which cannot be stacked"):
        StackedNetwork(make_one, 2)


def test_a_parameter_of_ones_own_is_refused():
    class Scaled(nn.Linear):
        def forward(self, features):
            return 2 * super().forward(features)

    with pytest.raises(ValueError, match=r"the model is a Scaled"):
        StackedNetwork(lambda: Scaled(3, 2), 2)


def test_batch_norm_by_count_is_refused():
    with pytest.raises(ValueError, match="momentum=None"):
        StackedNetwork(lambda: nn.Sequential(nn.BatchNorm2d(3, momentum=None)), 2)


def test_images_for_another_number_of_models_are_refused():
    with pytest.raises(ValueError, match="expected 3 × 3 channels, or 3 that all models share"):
        stack_of("cnn")(torch.randn(2, 6, 20, 24))


def test_models_without_a_linear_layer_are_refused():
    with pytest.raises(ValueError, match="end in a linear layer"):
        StackedNetwork(lambda: nn.Conv2d(3, 4, 3), 2)


def test_a_stack_of_none_is_refused():
    with pytest.raises(ValueError, match="at least one model"):
        make_stack(spec_of("cnn"), 0, (16, 16), 2)


def test_mixed_precision_stays_near_single():
    stack = stack_of("resnet9").eval()
    images = torch.randn(3, 3 * G, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        logits = stack(images)
    torch.testing.assert_close(logits.float(), stack(images), rtol=0.1, atol=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@each_architecture
def test_a_stack_on_the_gpu_equals_one_on_the_cpu(architecture):
    stack = stack_of(architecture).double()
    images, labels = images_of(architecture)
    logits, gradients = step(stack, stack(images.flatten(1, 2)), labels)
    other = stack_of(architecture).double().to("cuda")
    found, own = step(other, other(images.flatten(1, 2).cuda()), labels.cuda())
    torch.testing.assert_close(found.cpu(), logits)
    for name, gradient in gradients.items():
        torch.testing.assert_close(own[name].cpu(), gradient)


# Architectures


def model_of(architecture, size=(32, 32), n_classes=10, **changes):
    torch.manual_seed(0)
    return make_model(NetworkSpec(name="a", architecture=architecture, **changes), size, n_classes)


def n_weights(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ["cnn", "resnet9"])
@pytest.mark.parametrize("size", [(16, 16), (17, 23), (24, 24), (32, 40)])
def test_models_take_images_of_any_size_from_16_pixels(architecture, size):
    model = model_of(architecture, size, 7, width=4)
    assert model(torch.randn(3, 3, *size)).shape == (3, 7)


@pytest.mark.parametrize("architecture", ["cnn", "resnet9", "resnet18"])
def test_smaller_images_are_refused(architecture):
    with pytest.raises(ValueError, match="at least 16 × 16 pixels, got 15 × 40"):
        model_of(architecture, (15, 40))


def test_an_unknown_architecture_is_refused_with_the_nearest():
    spec = NetworkSpec(name="a").model_copy(update={"architecture": "resnet-50"})
    with pytest.raises(ValueError, match="did you mean 'resnet50'"):
        make_model(spec, (32, 32), 3)
    with pytest.raises(ValueError, match="unknown architecture 'resnet-50'; did you mean"):
        NetworkSpec(name="a", architecture="resnet-50")


def test_the_cnn_equals_its_formula():
    model = model_of("cnn", (21, 18), 4, width=4)
    images, state = torch.randn(2, 3, 21, 18), model.state_dict()
    maps = images
    for name, stride, padding in (("conv1", 2, 2), ("conv2", 2, 1), ("conv3", 1, 1)):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        maps = nn.functional.conv2d(maps, weight, bias, stride, padding).clamp(min=0)
    maps = nn.functional.max_pool2d(maps, 2).reshape(2, -1)
    expected = maps @ state["linear.weight"].T + state["linear.bias"]
    torch.testing.assert_close(model(images), expected)


def test_the_cnn_starts_as_he_proposed():
    state = model_of("cnn", (32, 32), 100, width=32).state_dict()
    for name, fan_in, gain in (("conv1", 75, 2), ("conv2", 288, 2), ("conv3", 576, 2)):
        weight = state[f"{name}.weight"]
        assert weight.std() == pytest.approx(math.sqrt(gain / fan_in), rel=0.06)
        assert state[f"{name}.bias"].abs().max() == 0
    fan_in = state["linear.weight"].shape[1]
    assert state["linear.weight"].std() == pytest.approx(fan_in**-0.5, rel=0.02)
    assert state["linear.bias"].abs().max() == 0


def test_resnet9_has_the_published_number_of_weights():
    convolutions = 9 * (3 * 64 + 2 * 128**2 + 128 * 256 + 2 * 256**2 + 256 * 128) + 25 * 64 * 128
    norms = 2 * (64 + 3 * 128 + 3 * 256 + 128)
    assert n_weights(model_of("resnet9")) == convolutions + norms + 128 * 10


def test_resnet9_scales_its_logits_by_a_fifth():
    model = model_of("resnet9", width=4).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), 0.2 * model[:-1](images))


@pytest.mark.parametrize(("architecture", "n"), [("resnet18", 11689512), ("resnet50", 25557032)])
def test_torchvisions_models_have_its_published_number_of_weights(architecture, n):
    with torch.device("meta"):
        assert n_weights(model_of(architecture, n_classes=1000)) == n


@pytest.mark.parametrize("format", [torch.channels_last, torch.contiguous_format])
def test_max_pool_has_torchs_values_and_gradients_in_its_inputs_format(format):
    maps = torch.randn(4, 6, 7, 8).to(memory_format=format)
    results = []
    for pool in (MaxPool(2), nn.MaxPool2d(2)):
        leaf = maps.clone(memory_format=torch.preserve_format).requires_grad_()
        pooled = pool(leaf)
        pooled.square().sum().backward()
        results.append((pooled.detach(), leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert results[0][1].is_contiguous(memory_format=format)


def test_torch_s_own_scheme_draws_each_layer_as_torch_does():
    model = model_of("cnn", (24, 24), 3, initialisation={"scheme": "torch"})
    for name in ("conv1", "conv2", "conv3", "linear"):
        layer = getattr(model, name)
        fan_in = layer.weight[0].numel()
        assert layer.weight.abs().max() <= fan_in**-0.5
        assert layer.weight.std().item() == pytest.approx((3 * fan_in) ** -0.5, rel=0.1)
        assert layer.bias.abs().max() > 0
    assert model_of("cnn", (24, 24), 3).conv1.bias.abs().max() == 0


def test_a_scheme_that_is_not_chosen_leaves_the_specification_as_it_was():
    assert "scheme" not in NetworkSpec(name="a").model_dump()["initialisation"]
    chosen = NetworkSpec(name="a", initialisation={"scheme": "torch"})
    assert chosen.model_dump()["initialisation"]["scheme"] == "torch"


IMAGENET = {"kind": "checkpoint", "path": "w.safetensors", "normalisation": "imagenet"}


def test_weights_of_imagenet_see_the_colours_that_they_expect():
    """White is 2.249 and black -2.118 in red; other weights see [-1, 1] as ever."""
    seen = []
    for start in (IMAGENET, "torchvision", "random"):
        spec = NetworkSpec(name="a", architecture="resnet18", initialisation=start)
        model = make_model(spec, (32, 32), 3)
        assert type(model).__name__ == "ResNet"
        model.conv1.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        model(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1).expand(2, 3, 32, 32))
    white, black = ([(c - m) / s for m, s in zip(MEAN, STD, strict=True)] for c in (1, 0))
    for images in seen[:2]:
        torch.testing.assert_close(images[:, :, 3, 4], torch.tensor([white, black]))
    assert white[0] == pytest.approx(2.249, abs=1e-3)
    assert torch.equal(seen[2][:, 0, 0, 0], torch.tensor([1.0, -1.0]))


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # torchvision's documentation


@pytest.mark.parametrize("architecture", ["cnn", "resnet18"])
@pytest.mark.parametrize("shared", [True, False])
def test_normalisation_changes_the_inputs_alone(architecture, shared):
    """No name of a weight, nor its draw; and a stack's images are normalised model by model."""
    start = {**IMAGENET, "normalisation": {"mean": [0, 0.1, 0.2], "std": [0.5, 0.25, 0.2]}}
    spec = spec_of(architecture).model_copy(
        update={"initialisation": parse_algorithm({"name": "a", "initialisation": start}).start}
    )
    size = SIZES[architecture]
    stack, usual = make_stack(spec, G, size, CLASSES), stack_of(architecture)
    stack.initialise(SEEDS)
    assert stack.state_dict().keys() == usual.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(stack.parameters(), usual.parameters(), strict=1))
    images = images_of(architecture)[0].float()
    images = images[:, 0] if shared else images
    ready = (images + 1) / 2 - torch.tensor([0, 0.1, 0.2]).view(3, 1, 1)
    ready = ready / torch.tensor([0.5, 0.25, 0.2]).view(3, 1, 1)
    given, wanted = (
        part if shared else part.flatten(1, 2).contiguous(memory_format=torch.channels_last)
        for part in (images, ready)
    )
    with torch.no_grad():
        found, expected = stack.eval()(given), usual.eval()(wanted)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({**IMAGENET, "normalisation": "imagnet"}, "'imagnet' is not known; give imagenet"),
        ({**IMAGENET, "normalisation": {"mean": [0, 0, 0]}}, "std"),
        ({**IMAGENET, "normalisation": {"mean": [0, 0], "std": [1, 1, 1]}}, "mean"),
        ({**IMAGENET, "normalisation": {"mean": [0, 0, 0], "std": [1, 0, 1]}}, "std"),
        ({"kind": "random", "normalisation": "imagenet"}, "goes with kind: checkpoint"),
        ({"kind": "torchvision", "normalisation": "imagenet"}, "ImageNet's by themselves"),
    ],
)
def test_normalisations_that_mean_nothing_are_refused(start, message):
    with pytest.raises(ValueError, match=message):
        NetworkSpec(name="a", architecture="resnet18", initialisation=start)


def test_models_that_are_others_than_before_say_so_and_no_others_do():
    def spec(**given):
        return NetworkSpec(name="a", architecture="resnet18", **given)

    assert spec(augmentation={"shift": 2, "flip": True, "jitter": 0.1}).made_with() == ""
    cropped = spec(augmentation={"crop": 0.5})
    assert cropped.made_with() == "crops drawn as torchvision draws them"
    source = {"dataset": {"kind": "scenes"}, "algorithm": cropped.model_dump()}
    tuned = spec(initialisation={"kind": "pretraining", "source": source})
    assert tuned.made_with() == cropped.made_with()

    from_weights = spec(initialisation="torchvision")
    assert "ImageNet" in from_weights.made_with()
    assert from_weights.model_dump()["initialisation"].keys() == {"kind", "path", "source"}
    start = {"kind": "checkpoint", "path": "w.pt"}
    assert spec().made_with() == spec(initialisation=start).made_with() == ""
    assert "normalisation" not in spec(initialisation=start).model_dump()["initialisation"]
    named = spec(initialisation={**start, "normalisation": "imagenet"})
    assert named.model_dump()["initialisation"]["normalisation"]["mean"] == list(MEAN)
