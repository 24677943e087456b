"""Principal components against scikit-learn in double precision, with and without the mean."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from mdhelpers.method.engines import principal
from mdhelpers.method.engines.principal import ResidualPair, Rows, as_weights, principal_components


def draw(n_rows=300, n_columns=400, n_factors=12, seed=0, mean=0.0):
    """Factors of falling strength in noise, perhaps with a mean that outweighs them."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_rows, n_factors)) * 0.8 ** np.arange(n_factors) * 6
    rows = scores @ np.linalg.qr(rng.normal(size=(n_columns, n_factors)))[0].T
    rows += 0.02 * rng.normal(size=rows.shape) + mean * rng.normal(size=n_columns)
    return rows


def wanted(rows, k, center):
    if center:
        pca = PCA(k, svd_solver="full").fit(rows)
        return pca.components_, pca.explained_variance_ * (len(rows) - 1)
    _, lengths, directions = np.linalg.svd(rows, full_matrices=False)
    return directions[:k], lengths[:k] ** 2


@pytest.fixture
def iterated(monkeypatch):
    """Small matrices take the way of the large ones."""
    monkeypatch.setattr(principal, "EXACT_UP_TO", 50)


@pytest.mark.parametrize("shape", [(300, 120), (120, 300)])
@pytest.mark.parametrize("center", [True, False])
def test_exact_components(shape, center):
    rows = draw(*shape, mean=0.5)
    directions, variances = wanted(rows, 6, center)
    found = principal_components(Rows(torch.from_numpy(rows)), 6, center=center)[0]
    cosines = (found.directions.numpy() * directions).sum(1)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-9)
    np.testing.assert_allclose(found.variances, variances, rtol=1e-9)
    assert found.n_passes == 0
    assert not found.errors.any()


@pytest.mark.usefixtures("iterated")
@pytest.mark.parametrize("shape", [(300, 400), (700, 220)])
@pytest.mark.parametrize("center", [True, False])
def test_iterated_components(shape, center):
    rows = draw(*shape, mean=1.0)
    directions, variances = wanted(rows, 8, center)
    single = torch.from_numpy(rows.astype(np.float32))
    found = principal_components(Rows(single), 8, center=center)[0]
    assert found.n_passes > 0
    cosines = (found.directions.numpy() * directions).sum(1)
    assert np.abs(cosines).min() > 1 - 1e-6
    np.testing.assert_allclose(found.variances, variances, rtol=1e-5)
    gram = (found.directions @ found.directions.T).numpy()
    np.testing.assert_allclose(gram, np.eye(8), atol=1e-5)


@pytest.mark.usefixtures("iterated")
@pytest.mark.parametrize("tolerance", [0.3, 0.03, 0.003])
def test_the_bound_holds(tolerance):
    """Noise alone, where components lie close: the true angle is below what is said of it."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(260, 240)) * 0.985 ** np.arange(240)
    directions, variances = wanted(rows, 9, False)
    found = principal_components(
        Rows(torch.from_numpy(rows)), 8, center=False, tolerance=tolerance
    )[0]
    assert found.errors.max() <= tolerance
    vectors = found.directions.double().numpy()
    along = (vectors * directions[:8]).sum(1, keepdims=True) * directions[:8]
    sines = np.linalg.norm(vectors - along, axis=1)
    gaps = np.abs(np.subtract.outer(variances, variances)) + 1e9 * np.eye(9)
    apart = gaps.min(0)[:8] > 0.02 * variances[:8]
    assert apart.sum() >= 3
    assert (sines[apart] <= found.errors.numpy()[apart] + 1e-5).all()


@pytest.mark.usefixtures("iterated")
def test_what_is_not_reached_is_said():
    rng = np.random.default_rng(0)
    rows = Rows(torch.from_numpy(rng.normal(size=(400, 400)).astype(np.float32)))
    with pytest.warns(RuntimeWarning, match=r"after 2 passes.*Take fewer components"):
        found = principal_components(rows, 8, max_passes=2)[0]
    assert found.errors.max() > 1e-3


@pytest.mark.usefixtures("iterated")
def test_many_passes_restart_and_still_agree():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(600, 500))
    directions, variances = wanted(rows, 4, False)
    found = principal_components(Rows(torch.from_numpy(rows)), 4, center=False)[0]
    assert found.n_passes * 16 > 8 * 16  # the basis was cut back at least once
    np.testing.assert_allclose(found.variances, variances, rtol=1e-5)
    subspace = np.linalg.svd(found.directions.numpy() @ directions.T)[1]
    assert subspace.min() > 0.9999


@pytest.mark.usefixtures("iterated")
def test_components_without_variance():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 300))
    found = principal_components(Rows(torch.from_numpy(rows)), 6, center=False)[0]
    np.testing.assert_allclose(found.variances[:3], wanted(rows, 3, False)[1], rtol=1e-5)
    assert found.variances[3:].max() < 1e-5 * found.variances[0]
    gram = (found.directions @ found.directions.T).numpy()
    np.testing.assert_allclose(gram, np.eye(6), atol=1e-5)


@pytest.mark.usefixtures("iterated")
def test_a_seed_gives_the_same_components():
    rows = Rows(torch.from_numpy(draw()))
    one, again, other = (principal_components(rows, 3, seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(one.directions, again.directions)
    assert not torch.equal(one.directions, other.directions)
    assert ((one.directions * other.directions).sum(1).abs() > 1 - 1e-6).all()


@pytest.mark.parametrize("k", [0, 41])
def test_refuses_components_that_do_not_exist(k):
    with pytest.raises(ValueError, match="expected 1 to 40"):
        principal_components(Rows(torch.zeros(60, 40)), k)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.usefixtures("iterated")
def test_the_same_on_a_gpu():
    rows = torch.from_numpy(draw())
    here = principal_components(Rows(rows), 5)[0]
    there = principal_components(Rows(rows.cuda()), 5)[0]
    assert there.directions.device.type == "cuda"
    assert ((here.directions * there.directions.cpu()).sum(1).abs() > 1 - 1e-6).all()


def two_alike(n_test=50, n_train=70, seed=0, dtype=np.float32):
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
    first, second = two_alike(dtype=np.float64)
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
    first, second = two_alike()
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
    first, second = two_alike()
    plain, scaled = pair_of(first, second), pair_of(first * np.float32(scale), second)
    np.testing.assert_allclose(scaled.cosines, plain.cosines, atol=1e-6)
    block = {0: torch.eye(70)[:, :4]}
    np.testing.assert_allclose(scaled.products(block)[0], plain.products(block)[0], atol=1e-5)


def test_zero_rows_have_no_residual():
    first, second = two_alike()
    first[3], second[[4, 5]] = 0, 0
    pair = pair_of(first, second)
    assert pair.n_zero == (1, 2)
    assert not pair.cosines[[3, 4, 5]].any()
    residuals = pair.slab(slice(None), slice(None))
    assert not residuals[0][3].any()
    assert not residuals[1][[4, 5]].any()
    np.testing.assert_allclose(residuals[0][4].norm(), 1, atol=1e-6)


def test_weights_share_memory_and_half_precision_is_read():
    weights = two_alike()[0]
    assert as_weights(weights).data_ptr() == weights.ctypes.data
    frozen = weights.copy()
    frozen.flags.writeable = False
    assert as_weights(frozen).data_ptr() == frozen.ctypes.data
    assert as_weights(weights.astype(np.int64)).dtype == torch.float32
    first, second = two_alike()
    half = pair_of(first.astype(np.float16), second.astype(np.float16))
    np.testing.assert_allclose(half.cosines, pair_of(first, second).cosines, atol=2e-3)


def test_refuses():
    first, second = two_alike()
    with pytest.raises(ValueError, match="transposed"):
        pair_of(first, second.T)
    second[7, 2] = np.inf
    with pytest.raises(ValueError, match="test example 7 under algorithm 2"):
        pair_of(first, second)
