"""Products with residuals that are never formed, against residuals that are."""

import numpy as np
import pytest
import torch

from mdhelpers.method.engines.principal import ResidualPair, as_weights


def draw(n_test=50, n_train=70, seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(n_test, n_train))
    return [(shared + rng.normal(size=shared.shape)).astype(dtype) for _ in range(2)]


def formed(first, second):
    one, two = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (first, second))
    cosines = (one * two).sum(1, keepdims=True)
    return one - cosines * two, two - cosines * one


def pair_of(first, second):
    return ResidualPair(torch.from_numpy(first), torch.from_numpy(second))


def test_products_and_their_transposes():
    first, second = draw(dtype=np.float64)
    pair, rng = pair_of(first, second), np.random.default_rng(1)
    right = [torch.from_numpy(rng.normal(size=(70, k)).astype(np.float32)) for k in (3, 5)]
    left = [torch.from_numpy(rng.normal(size=(50, k)).astype(np.float32)) for k in (3, 5)]
    products, back = pair.products(dict(enumerate(right))), pair.back(dict(enumerate(left)))
    for number, residuals in enumerate(formed(first, second)):
        np.testing.assert_allclose(products[number], residuals @ right[number].numpy(), atol=1e-5)
        np.testing.assert_allclose(back[number], residuals.T @ left[number].numpy(), atol=1e-5)
        alone = pair.products({number: right[number]})[number]
        np.testing.assert_allclose(alone, products[number], atol=1e-6)


def test_slabs_are_the_residuals_in_double_precision():
    first, second = draw()
    slabs = pair_of(first, second).slab(slice(4, 20), slice(10, None))
    wanted = formed(first.astype(float), second.astype(float))
    for slab, residuals in zip(slabs, wanted, strict=True):
        np.testing.assert_allclose(slab, residuals[4:20, 10:], atol=1e-6)


def test_long_rows_lose_no_digits():
    """Sums of one sign over long rows, where single precision drifts."""
    rng = np.random.default_rng(0)
    first = rng.uniform(0.5, 1.5, size=(3, 40_000)).astype(np.float32)
    second = (first + rng.uniform(0, 0.2, size=first.shape)).astype(np.float32)
    pair = pair_of(first, second)
    wide = first.astype(float), second.astype(float)
    lengths = [np.linalg.norm(w, axis=1) for w in wide]
    cosines = (wide[0] * wide[1]).sum(1) / lengths[0] / lengths[1]
    np.testing.assert_allclose(pair.cosines, cosines, atol=2e-6)
    direction = np.full((40_000, 1), 40_000**-0.5, dtype=np.float32)
    found = pair.datamodels_times(torch.from_numpy(direction))
    for along, weights, length in zip(found, wide, lengths, strict=True):
        expected = weights @ direction.astype(float)[:, 0] / length
        np.testing.assert_allclose(along[:, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-25, 1e-12, 1e12, 1e25])
def test_sizes_whose_squares_leave_single_precision(scale):
    first, second = draw()
    plain, scaled = pair_of(first, second), pair_of(first * np.float32(scale), second)
    np.testing.assert_allclose(scaled.cosines, plain.cosines, atol=1e-6)
    block = {0: torch.eye(70)[:, :4]}
    np.testing.assert_allclose(scaled.products(block)[0], plain.products(block)[0], atol=1e-5)


def test_zero_rows_have_no_residual():
    first, second = draw()
    first[3], second[[4, 5]] = 0, 0
    pair = pair_of(first, second)
    assert pair.n_zero == (1, 2)
    assert not pair.cosines[[3, 4, 5]].any()
    residuals = pair.slab(slice(None), slice(None))
    assert not residuals[0][3].any()
    assert not residuals[1][[4, 5]].any()
    np.testing.assert_allclose(residuals[0][4].norm(), 1, atol=1e-6)


def test_weights_share_memory_and_half_precision_is_read():
    weights = draw()[0]
    assert as_weights(weights).data_ptr() == weights.ctypes.data
    frozen = weights.copy()
    frozen.flags.writeable = False
    assert as_weights(frozen).data_ptr() == frozen.ctypes.data
    assert as_weights(weights.astype(np.int64)).dtype == torch.float32
    first, second = draw()
    half = pair_of(first.astype(np.float16), second.astype(np.float16))
    np.testing.assert_allclose(half.cosines, pair_of(first, second).cosines, atol=2e-3)


def test_refuses():
    first, second = draw()
    with pytest.raises(ValueError, match="transposed"):
        pair_of(first, second.T)
    second[7, 2] = np.inf
    with pytest.raises(ValueError, match="test example 7 under algorithm 2"):
        pair_of(first, second)
