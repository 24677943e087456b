"""EfficientNet-Lite0 has the layers, the names and the padding of the weights it is read from."""

import pytest
import torch
from torch.nn import functional as F

from mdhelpers.training.efficientnet import efficientnet_lite0, same_padding
from mdhelpers.training.networks import StackedNetwork


@pytest.mark.parametrize("side", [16, 17, 24, 33])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_padding_keeps_a_side_of_one_stride_and_halves_it_otherwise(side, kernel, stride):
    padded = F.pad(torch.ones(1, 1, side, 1), (0, 0, *same_padding(side, kernel, stride)))
    out = F.conv2d(padded, torch.ones(1, 1, kernel, 1), stride=stride)
    assert out.shape[2] == -(-side // stride)
    before, after = same_padding(side, kernel, stride)
    assert after - before in (0, 1)


def test_it_has_the_published_number_of_weights():
    model = efficientnet_lite0(None, (32, 32), 1000)
    assert sum(p.numel() for p in model.parameters()) == 4_652_008
    names = set(model.state_dict())
    assert {"_conv_stem.weight", "_blocks.0._depthwise_conv.weight", "_fc.bias"} <= names
    assert "_blocks.0._expand_conv.weight" not in names
    assert len(names) == 296


def test_a_stack_of_two_says_what_each_says():
    size, image = (32, 40), torch.randn(2, 3, 32, 40, generator=torch.Generator().manual_seed(0))
    stack = StackedNetwork(lambda: efficientnet_lite0(None, size, 4), 2)
    stack.initialise([3, 4])
    stack.eval()
    with torch.no_grad():
        both = stack(image)
        for g in (0, 1):
            one = efficientnet_lite0(None, size, 4).eval()
            one.load_state_dict(stack.model_state(g))
            torch.testing.assert_close(both[:, g], one(image))


@pytest.mark.parametrize("side", [32, 65])
def test_it_computes_what_the_package_of_its_weights_computes(side):
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    other = theirs.from_name("efficientnet-lite0", image_size=side).eval()
    own = efficientnet_lite0(None, (side, side), 1000).eval()
    own.load_state_dict(other.state_dict())
    image = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(own(image), other(image))
