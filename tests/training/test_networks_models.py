import math

import pytest
import torch
from torch import nn

from mdhelpers.training.algorithms import NetworkSpec
from mdhelpers.training.networks import MaxPool, make_model


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
