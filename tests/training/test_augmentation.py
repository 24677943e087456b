import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from mdhelpers.training import augmentation
from mdhelpers.training.algorithms import AugmentationSpec
from mdhelpers.training.augmentation import Augmenter, crop_boxes, jitter, normalise, resample

ALL = {"shift": 2, "flip": True, "crop": 0.35, "jitter": 0.4, "cutout": 5}


@pytest.fixture
def images() -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 255, (5, 16, 18, 3), dtype=np.uint8))


def tensors(draws: dict) -> dict:
    return {key: torch.from_numpy(value) for key, value in draws.items()}


def made(images, **spec) -> Augmenter:
    return Augmenter(AugmentationSpec(**spec), tuple(images.shape[1:3]), images.device)


def batch(augmenter, images, draws) -> torch.Tensor:
    """The batch of one model, (n, height, width, 3)."""
    return augmenter.stacked(images, draws).permute(0, 2, 3, 1)


def augment(images, draws, **spec):
    return batch(made(images, **spec), images, tensors(draws))


def slow_batch(images, index, draws, shift: int) -> torch.Tensor:
    """Shift, flip and crop of one image after the other, by padding, slicing and resizing."""
    done = []
    for row, i in enumerate(index):
        image = images[i].permute(2, 0, 1)
        if "shift" in draws:
            dy, dx = draws["shift"][row].tolist()
            padded = F.pad(image[None].float(), (shift,) * 4, mode="replicate")[0]
            image = padded[:, dy : dy + image.shape[1], dx : dx + image.shape[2]]
        if "flip" in draws and draws["flip"][row]:
            image = image.flip(2)
        image = image.float().mul(2 / 255).sub(1)[None]
        if "box" in draws:
            size = image.shape[2:]
            (x,), (y,), (w,), (h,) = np.rint(in_pixels(draws["box"][[row]], size)).astype(int)
            image = F.interpolate(image[:, :, y : y + h, x : x + w], size, mode="bilinear")
        done.append(image[0].permute(1, 2, 0))
    return torch.stack(done)


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


def in_pixels(boxes, size):
    """Left, top, width and height of boxes, (4, n)."""
    height, width = size
    x, y, half_width, half_height = np.asarray(boxes, float).T
    left, top = (x - half_width + 1) * width / 2, (y - half_height + 1) * height / 2
    return np.array([left, top, half_width * width, half_height * height])


@pytest.mark.parametrize("smallest", [0.08, 0.5])
@pytest.mark.parametrize("size", [(32, 32), (224, 224), (24, 40), (224, 160), (20, 60), (60, 20)])
def test_crops_are_distributed_as_torchvisions(size, smallest):
    """Places and sides, each in whole pixels, and how often a crop spans a side."""
    n = 3000
    ours = in_pixels(crop_boxes(n, smallest, size, np.random.default_rng(1)), size)
    assert np.abs(ours - np.rint(ours)).max() < 1e-3
    ours = np.rint(ours)
    assert (ours[:2] >= 0).all()
    assert (ours[0] + ours[2]).max() <= size[1]
    assert (ours[1] + ours[3]).max() <= size[0]
    torch.manual_seed(1)
    image, ratio = torch.empty(3, *size), (3 / 4, 4 / 3)
    draws = [RandomResizedCrop.get_params(image, (smallest, 1), ratio) for _ in range(n)]
    top, left, height, width = np.array(draws).T
    theirs = [left, top, width, height]
    for one, two in zip(ours, theirs, strict=True):
        assert ks_2samp(one, two).pvalue > 1e-3
    assert ks_2samp(ours[2] * ours[3], width * height).pvalue > 1e-3
    spans = [((w == size[1]) | (h == size[0])).mean() for w, h in ((ours[2:]), (width, height))]
    assert abs(spans[0] - spans[1]) < 4 * (0.25 * 2 / n) ** 0.5
    if size == (224, 224) and smallest == 0.08:
        assert max(spans) < 0.03


@pytest.mark.parametrize("size", [(16, 18), (30, 20)])
def test_a_crop_is_cut_out_and_resized_as_by_torchvision(size):
    batch = torch.rand(40, *size, 3, generator=torch.Generator().manual_seed(0))
    boxes = crop_boxes(40, 0.08, size, np.random.default_rng(2))
    got = resample(batch, torch.from_numpy(boxes), size)
    for i, (left, top, width, height) in enumerate(np.rint(in_pixels(boxes, size)).astype(int).T):
        want = tv.resized_crop(batch[i].permute(2, 0, 1), top, left, height, width, size)
        torch.testing.assert_close(got[i].permute(2, 0, 1), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("smallest", [0.05, 0.9])
def test_a_crop_of_a_larger_image_is_made_smaller_with_antialiasing(smallest):
    """Some crops are made larger and most smaller, by up to four times, on each axis by itself."""
    large, size = (64, 48), (16, 20)
    batch = torch.rand(40, *large, 3, generator=torch.Generator().manual_seed(0))
    boxes = crop_boxes(40, smallest, large, np.random.default_rng(2))
    got = resample(batch, torch.from_numpy(boxes), size)
    for i, (left, top, width, height) in enumerate(np.rint(in_pixels(boxes, large)).astype(int).T):
        image = batch[i].permute(2, 0, 1)
        want = tv.resized_crop(image, top, left, height, width, size, antialias=True)
        torch.testing.assert_close(got[i].permute(2, 0, 1), want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n_models", [1, 3])
def test_larger_images_are_moved_cut_and_made_smaller(n_models):
    rng = np.random.default_rng(0)
    large = torch.from_numpy(rng.integers(0, 255, (6, 40, 36, 3), dtype=np.uint8))
    augmenter = Augmenter(AugmentationSpec(**ALL), (16, 18), cut_from=(40, 36))
    draws = tensors(augmenter.draw(6, np.random.default_rng(1)))
    got = augmenter.stacked(large, draws, n_models)
    assert got.shape == (6 // n_models, 3 * n_models, 16, 18)
    moved = slow_batch(large, range(6), {k: draws[k] for k in ("shift", "flip")}, 2)
    cut = resample(moved, draws["box"], (16, 18))
    want = augmentation.cut_squares(jitter(cut, draws["jitter"]), draws["cutout"], 5)
    own = got.unflatten(1, (n_models, 3)).flatten(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(own, want, atol=1e-5, rtol=0)
    small = large[:, :16, :18]
    plain = augmenter.stacked(small, {}, n_models).unflatten(1, (n_models, 3)).flatten(0, 1)
    assert torch.equal(plain.permute(0, 2, 3, 1), normalise(small))


@pytest.mark.parametrize("names", [(), ("shift",), ("flip",), ("shift", "flip"), tuple(ALL)[:3]])
def test_moves_and_crops_equal_the_slow_way(images, names):
    augmenter = made(images, **{name: ALL[name] for name in names})
    index = torch.tensor([3, 0, 3, 4, 1, 1, 2])
    draws = tensors(augmenter.draw(len(index), np.random.default_rng(1)))
    want = slow_batch(images, index, draws, augmenter.spec.shift)
    torch.testing.assert_close(batch(augmenter, images[index], draws), want, atol=2e-5, rtol=0)
    if "crop" not in names:
        assert torch.equal(batch(augmenter, images[index], draws), want)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.4])
def test_each_jitter_agrees_with_torchvision(images, name, factor):
    factors = np.ones((5, 3), np.float32)
    factors[:, ["brightness", "contrast", "saturation"].index(name)] = factor
    got = augment(images, {"jitter": factors}, jitter=0.5)
    want = getattr(tv, f"adjust_{name}")(images.permute(0, 3, 1, 2) / 255, factor)
    want = want.permute(0, 2, 3, 1)
    assert ((got + 1) / 2 - want).abs().max() < 1 / 255
    assert factor == 1 or ((images / 255) - want).abs().max() > 0.1


def test_jitter_goes_through_the_three_in_the_documented_order(images):
    factors = np.random.default_rng(0).uniform(0.5, 1.5, (5, 3)).astype(np.float32)
    got = augment(images, {"jitter": factors}, jitter=0.5)
    for i, (brightness, contrast, saturation) in enumerate(factors.tolist()):
        want = tv.adjust_brightness(images[i].permute(2, 0, 1) / 255, brightness)
        want = tv.adjust_saturation(tv.adjust_contrast(want, contrast), saturation)
        assert ((got[i] + 1) / 2 - want.permute(1, 2, 0)).abs().max() < 1 / 255


def test_cutout_greys_a_square_that_may_reach_beyond_the_border(images):
    centres = np.array([[8, 9], [0, 0], [15, 17], [1, 9], [8, 17]], np.int16)
    got = augment(images, {"cutout": centres}, cutout=5)
    for i, (y, x) in enumerate(centres.tolist()):
        want = normalise(images[i])
        want[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 0
        assert torch.equal(got[i], want)


@pytest.mark.parametrize("names", [(), ("flip",), ("shift", "flip"), ("jitter",), tuple(ALL)])
@pytest.mark.parametrize("n_models", [1, 3])
def test_a_stacked_batch_holds_each_models_images(images, names, n_models):
    augmenter = made(images, **{name: ALL[name] for name in names})
    index = torch.arange(4 * n_models) % len(images)
    draws = tensors(augmenter.draw(len(index), np.random.default_rng(2)))
    want = batch(augmenter, images[index], draws)
    got = augmenter.stacked(images[index], draws, n_models)
    assert got.shape == (4, 3 * n_models, 16, 18)
    assert got.is_contiguous(memory_format=torch.channels_last)
    for i in range(4):
        for g in range(n_models):
            own = got[i, 3 * g : 3 * g + 3].permute(1, 2, 0)
            assert torch.equal(own, want[i * n_models + g])


def test_pieces_that_fit_the_cache_give_the_same_bits(images, monkeypatch):
    augmenter = made(images, **ALL)
    draws = tensors(augmenter.draw(5, np.random.default_rng(0)))
    whole = batch(augmenter, images, draws), augmenter.stacked(images, draws)
    monkeypatch.setattr(augmentation, "PIECE_BYTES", 2 * 12 * 16 * 18)
    assert torch.equal(batch(augmenter, images, draws), whole[0])
    assert torch.equal(augmenter.stacked(images, draws), whole[1])


def test_draws_follow_the_seed_and_older_ones_keep_theirs(images):
    augmenter = made(images, **ALL)
    first, again, other = (augmenter.draw(50, np.random.default_rng(s)) for s in (3, 3, 4))
    assert set(first) == {"shift", "flip", "box", "jitter", "cutout"}
    for key in first:
        assert np.array_equal(first[key], again[key])
        assert not np.array_equal(first[key], other[key])
    without = made(images, **{k: ALL[k] for k in ("shift", "flip", "crop")})
    fewer = without.draw(50, np.random.default_rng(3))
    assert set(fewer) == {"shift", "flip", "box"}
    assert all(np.array_equal(fewer[key], first[key]) for key in fewer)


def test_draws_have_the_ranges_that_the_specification_names(images):
    draws = made(images, **ALL).draw(4000, np.random.default_rng(0))
    assert draws["jitter"].min() >= 0.6
    assert draws["jitter"].max() <= 1.4
    assert np.abs(draws["jitter"].mean(0) - 1).max() < 0.02
    assert [set(column) for column in draws["cutout"].T] == [set(range(16)), set(range(18))]
    assert draws["shift"].max() == 4


def test_the_images_are_not_changed(images):
    before = images.clone()
    augmenter = made(images, **ALL)
    draws = tensors(augmenter.draw(5, np.random.default_rng(0)))
    augmenter.stacked(images, draws)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", ["shift", "cutout"])
def test_changes_as_large_as_the_images_are_refused(images, name):
    with pytest.raises(ValueError, match=rf"{name} is 16 pixels, but the images are 16 × 18"):
        made(images, **{name: 16})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_gpu_augments_alike(images):
    augmenter = made(images, **ALL)
    draws = tensors(augmenter.draw(5, np.random.default_rng(0)))
    there = {key: value.cuda() for key, value in draws.items()}
    on_gpu = made(images.cuda(), **ALL).stacked(images.cuda(), there).cpu()
    torch.testing.assert_close(on_gpu, augmenter.stacked(images, draws), atol=1e-5, rtol=0)
