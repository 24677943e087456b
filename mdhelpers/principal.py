r"""Principal components of matrices that need not be formed: exact, or found with a checked error.

Where the smaller side of a matrix ``R`` is at most :data:`EXACT_UP_TO`, its Gram matrix is summed
in double precision over slabs and decomposed. Elsewhere components come from a block Lanczos
iteration on the covariance ``C = R^T H R`` (``H`` takes the mean row away), which needs products
with ``R`` only. A component ``v`` of variance ``theta`` is checked by its residual
``r = ||C v - theta v||``: the sine of its angle to the true component is at most ``r`` over the
distance of ``theta`` to the other variances (Davis and Kahan). Iterations go on until that bound
holds for all, or say that it does not.

Several matrices that share their data, such as the residuals of two algorithms, are decomposed side
by side, so that the data are read once for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["EXACT_UP_TO", "Components", "Matrices", "Rows", "principal_components"]

EXACT_UP_TO = 1000
_TOLERANCE = 1e-3
_MAX_PASSES = 100
# Components nearer to each other than these shares of their own and of the largest variance are
# taken as one: what turns them within their plane is beyond single precision and of no matter.
_ONE_OWN, _ONE_LARGEST = 0.01, 1e-4
_WIDTH = 16  # Blocks are whole multiples: a product with fewer columns takes as long.
_RESTART = 8  # blocks in the basis before it is cut back to two
_SLAB_ELEMENTS = 1 << 21

Blocks = dict[int, Tensor]


class Matrices(Protocol):
    """One or more matrices of equal shape, numbered from 0, known by what is done with them.

    Variances that differ by less than ``rounding`` are beyond the precision of the products.
    """

    shape: tuple[int, int]
    device: torch.device
    count: int
    rounding: float

    def products(self, blocks: Blocks) -> Blocks:
        """Each chosen matrix (n_rows, n_columns) times its block (n_columns, k), float32."""

    def back(self, blocks: Blocks) -> Blocks:
        """Each chosen matrix, transposed, times its block (n_rows, k), float32."""

    def slab(self, rows: slice, columns: slice) -> list[Tensor]:
        """Some rows and columns of every matrix, float64."""


class Rows:
    """A single matrix that is there, as :class:`Matrices`."""

    count, rounding = 1, 0.0

    def __init__(self, rows: Tensor):
        self.rows, self.shape, self.device = rows, tuple(rows.shape), rows.device
        self._single = None

    def products(self, blocks: Blocks) -> Blocks:
        return {0: self._float32() @ blocks[0]}

    def back(self, blocks: Blocks) -> Blocks:
        return {0: self._float32().T @ blocks[0]}

    def slab(self, rows: slice, columns: slice) -> list[Tensor]:
        return [self.rows[rows, columns].double()]

    def _float32(self) -> Tensor:
        if self._single is None:
            self._single = self.rows.float()
        return self._single


@dataclass(frozen=True)
class Components:
    """Principal components of one matrix, the largest variance first.

    Attributes
    ----------
    directions : Tensor, shape (k, n_columns)
        Orthonormal rows; float64 where exact, else float32.
    variances : Tensor, shape (k,), float64
        Squared length of the matrix (of its centred rows) along each.
    errors : Tensor, shape (k,), float64
        Bound on the sine of each one's angle to the true component; 0 where exact. Components
        whose variances differ by under 1% count as one.
    n_passes : int
        Times that the matrix and its transpose were multiplied; 0 where exact.
    """

    directions: Tensor
    variances: Tensor
    errors: Tensor
    n_passes: int


def principal_components(
    matrices: Matrices,
    k: int,
    *,
    center: bool = True,
    seed: int = 0,
    tolerance: float = _TOLERANCE,
    max_passes: int = _MAX_PASSES,
) -> list[Components]:
    """Principal components of each of the matrices (paper, eq. 4).

    Parameters
    ----------
    matrices : Matrices
    k : int
        Components of each, at most the smaller side.
    center : bool
        Whether the mean row is taken away, implicitly.
    seed : int
        Of the first vectors of the iteration.
    tolerance : float
        Largest allowed sine of the angle between a component and the true one.
    max_passes : int
        The iteration ends after so many products even where the tolerance is not reached; a
        ``RuntimeWarning`` then says so.
    """
    smaller = min(matrices.shape)
    if not 1 <= k <= smaller:
        raise ValueError(
            f"{k} components of a {matrices.shape[0]} x {matrices.shape[1]} matrix do not exist; "
            f"expected 1 to {smaller}."
        )
    if smaller <= EXACT_UP_TO or 6 * k > smaller:
        return _exact(matrices, k, center)
    found = _iterated(matrices, k, center, seed, tolerance, max_passes)
    worst = max(float(c.errors.max()) for c in found)
    if worst > tolerance:
        warnings.warn(
            f"after {max_passes} passes a principal component may be {worst:.1g} (sine of the "
            f"angle) away from the true one; {tolerance:g} was asked for. Take fewer components, "
            "or allow more passes.",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def _exact(matrices: Matrices, k: int, center: bool) -> list[Components]:
    """From Gram matrices of the smaller side, in double precision."""
    by_rows = matrices.shape[1] <= matrices.shape[0]
    smaller = min(matrices.shape)
    grams = torch.zeros(
        matrices.count, smaller, smaller, dtype=torch.float64, device=matrices.device
    )
    sums = grams.new_zeros(matrices.count, smaller)
    for slabs in _slabs(matrices, by_rows):
        for number, slab in enumerate(slabs):
            grams[number].addmm_(slab.T, slab)
            sums[number] += slab.sum(0)
    if center:
        for gram, total in zip(grams, sums, strict=True):
            _center(gram, total, by_rows, matrices.shape[0])
    values, vectors = torch.linalg.eigh(grams)
    values, vectors = values.flip(-1)[:, :k].clamp_min(0), vectors.flip(-1)[:, :, :k]
    if not by_rows:
        parts = [
            torch.stack([slab @ v for slab, v in zip(slabs, vectors, strict=True)])
            for slabs in _slabs(matrices, by_rows)
        ]
        # Orthonormal also where a component has no variance left and its column vanishes.
        vectors = torch.linalg.qr(torch.cat(parts, dim=1))[0]
    exact = values.new_zeros(k)
    return [Components(v.T, theta, exact, 0) for v, theta in zip(vectors, values, strict=True)]


def _center(gram: Tensor, sums: Tensor, by_rows: bool, n_rows: int) -> None:
    if by_rows:  # columns are the smaller side, ``sums`` are theirs
        gram.sub_(torch.outer(sums, sums / n_rows))
    else:
        gram.sub_(gram.mean(0))
        gram.sub_(gram.mean(1, keepdim=True))


def _slabs(matrices: Matrices, by_rows: bool) -> Iterator[list[Tensor]]:
    """All of every matrix, cut along the longer side: each slab (a few, n_smaller)."""
    longer, smaller = max(matrices.shape), min(matrices.shape)
    step, every = max(1, _SLAB_ELEMENTS // smaller), slice(None)
    for low in range(0, longer, step):
        part = slice(low, low + step)
        if by_rows:
            yield matrices.slab(part, every)
        else:
            yield [slab.T for slab in matrices.slab(every, part)]


def _iterated(matrices, k, center, seed, tolerance, max_passes) -> list[Components]:
    """Iterations on all matrices side by side; each leaves when its components are settled."""
    start = torch.Generator().manual_seed(seed)
    width = -(-(k + 8) // _WIDTH) * _WIDTH
    block = torch.randn(matrices.shape[1], width, generator=start).to(matrices.device)
    running, asked, found = {}, {}, {}
    for number in range(matrices.count):
        running[number] = _lanczos(block, k, tolerance, max_passes, matrices.rounding)
        asked[number] = next(running[number])
    while asked:
        answers = covariance_products(matrices, asked, center)
        for number, answer in answers.items():
            try:
                asked[number] = running[number].send(answer)
            except StopIteration as done:
                found[number] = done.value
                del asked[number]
    return [found[number] for number in range(matrices.count)]


def covariance_products(matrices: Matrices, blocks: Blocks, center: bool) -> Blocks:
    """``C V`` for each of the chosen matrices' covariances (times n_rows) and blocks."""
    products = matrices.products(blocks)
    if center:
        for product in products.values():
            product.sub_(product.mean(0, dtype=torch.float64).float())
    return matrices.back(products)


def _lanczos(
    block: Tensor, k: int, tolerance: float, max_passes: int, rounding: float
) -> Generator[Tensor, Tensor, Components]:
    """Yields blocks V, is sent C V, returns the components: block Lanczos, thickly restarted.

    The basis is orthogonalised in full, so that the projected matrix is simply its ``Q^T C Q``.
    """
    width = block.shape[1]
    # By columns, so that memory is taken up only as they are filled.
    whole = [block.new_empty(_RESTART * width, len(block)).T for _ in range(2)]
    block, filled = torch.linalg.qr(block)[0], 0
    for n_passes in range(1, max_passes + 1):
        new = slice(filled, filled := filled + width)
        whole[0][:, new] = block
        whole[1][:, new] = yield block
        basis, images = (columns[:, :filled] for columns in whole)
        values, turns = _small_eigen(basis, images)
        block, beyond = _orthogonal(images[:, new], basis)
        expected = (beyond @ turns[-width:, : k + 1]).norm(dim=0)
        if n_passes == max_passes or _bounds(values, expected, rounding).max() <= tolerance:
            vectors, residuals = _components(basis, images, values, turns[:, : k + 1])
            errors = _bounds(values, residuals, rounding)
            found = Components(vectors[:, :k].T, values[:k].clamp_min(0), errors, n_passes)
            if n_passes == max_passes or found.errors.max() <= tolerance:
                return found
        if filled == _RESTART * width:
            filled = 2 * width
            kept = turns[:, :filled].to(basis)
            for columns, old in zip(whole, (basis, images), strict=True):
                columns[:, :filled] = old @ kept
    raise AssertionError("the last pass returns")


def _small_eigen(basis: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
    projected = (basis.T @ images).double()
    values, turns = torch.linalg.eigh((projected + projected.T) / 2)
    return values.flip(0), turns.flip(1)


def _components(basis, images, values, turns) -> tuple[Tensor, Tensor]:
    """Vectors that the basis has for some of its components, and how far C takes them off."""
    turns = turns.to(basis)
    vectors = basis @ turns
    theta = values[: turns.shape[1]].to(basis)
    return vectors, (images @ turns - vectors * theta).double().norm(dim=0)


def _bounds(values: Tensor, residuals: Tensor, rounding: float) -> Tensor:
    """Sines of the angles that residuals (k + 1,) allow the first k components, (k,)."""
    n = len(residuals)
    theta, itself = values[:n], torch.arange(n)
    distances = (theta[:, None] - values).abs()
    distances[:, :n] -= residuals
    distances[itself, itself] = torch.inf
    least = torch.maximum(_ONE_OWN * theta, _ONE_LARGEST * theta[0])
    least = least.clamp_min(max(rounding, torch.finfo(torch.float32).tiny))
    return (residuals / torch.maximum(distances.amin(1), least))[:-1].clamp_max(1)


def _orthogonal(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns for what the basis leaves of a block, and that part in their terms.

    Twice, for rounding. The second (width, width), float64, is what the components of the basis
    miss: a Lanczos iteration's residuals all lie in the block that comes next.
    """
    block, first = torch.linalg.qr(block - basis @ (basis.T @ block))
    block, second = torch.linalg.qr(block - basis @ (basis.T @ block))
    return block, second.double() @ first.double()
