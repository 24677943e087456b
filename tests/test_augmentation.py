import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mdhelpers.algorithms import AugmentationSpec
from mdhelpers.augmentation import Augmenter, crop_boxes, normalise, pad_edges


@pytest.fixture
def images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 255, (5, 16, 18, 3), dtype=np.uint8))


def augment(images, draws, **spec):
    index = torch.arange(len(images))
    tensors = {key: torch.from_numpy(value) for key, value in draws.items()}
    return Augmenter(images, AugmentationSpec(**spec)).batch(index, tensors)


def test_nothing_switched_on_changes_nothing(images):
    torch.testing.assert_close(augment(images, {}), normalise(images))


def test_shift_is_a_crop_of_the_padded_image(images):
    draws = {"shift": np.array([[0, 0], [4, 4], [2, 2], [1, 3], [4, 0]], np.int16)}
    got = augment(images, draws, shift=2)
    padded = F.pad(images.permute(0, 3, 1, 2).float(), (2, 2, 2, 2), mode="replicate")
    for i, (dy, dx) in enumerate(draws["shift"]):
        want = padded[i, :, dy : dy + 16, dx : dx + 18].permute(1, 2, 0) * (2 / 255) - 1
        torch.testing.assert_close(got[i], want)


def test_flip_mirrors_the_chosen_images(images):
    flip = np.array([True, False, True, False, False])
    got = augment(images, {"flip": flip}, flip=True)
    want = torch.where(torch.from_numpy(flip)[:, None, None, None], images.flip(2), images)
    torch.testing.assert_close(got, normalise(want))


def test_a_crop_of_the_whole_image_is_the_image(images):
    boxes = np.tile(np.array([[0, 0, 1, 1]], np.float32), (5, 1))
    got = augment(images, {"box": boxes}, crop=0.5)
    torch.testing.assert_close(got, normalise(images), atol=1e-5, rtol=0)


def test_crop_boxes_lie_inside_and_have_the_areas_asked_for():
    boxes = crop_boxes(5000, 0.35, np.random.default_rng(0))
    assert (np.abs(boxes[:, :2]) + boxes[:, 2:] <= 1 + 1e-6).all()
    area = boxes[:, 2] * boxes[:, 3]
    assert area.min() > 0.25  # below 0.35 only where a long side was cut to the image's
    assert abs(area.mean() - 0.66) < 0.03


def test_padding_repeats_the_edge(images):
    padded = pad_edges(images, 3)
    assert padded.shape == (5, 22, 24, 3)
    assert torch.equal(padded[:, 0, 3:-3], images[:, 0])
