"""Principal components of matrices that need not be formed: exact, or found with a checked error.

*Components.* Where the smaller side of a matrix ``R`` is at most :data:`EXACT_UP_TO`, its Gram
matrix is summed in double precision over slabs and decomposed. Elsewhere components come from a
block Lanczos iteration on the covariance ``C = R^T H R`` (``H`` takes the mean row away), which
needs products with ``R`` only. A component ``v`` of variance ``theta`` is checked by its residual
``r = ||C v - theta v||``: the sine of its angle to the true component is at most ``r`` over the
distance of ``theta`` to the other variances (Davis and Kahan). Iterations go on until that bound
holds for all, or say that it does not. Several matrices that share their data are decomposed side
by side, so that the data are read once for all of them.

*Residuals* of two algorithms' datamodels are such matrices (paper, section 3, step 2). Rows being
divided by their length, the residual of ``a`` with respect to ``b`` is ``a - c b`` with ``c`` their
cosine. So the residual matrices are ``A - diag(c) B`` and ``B - diag(c) A``, and a product with
either is two products with the datamodels as they came: nothing of their size is made.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

EXACT_UP_TO = 1000
_TOLERANCE = 1e-3
_MAX_PASSES = 100
# Components nearer to each other than these shares of their own and of the largest variance are
# taken as one: what turns them within their plane is beyond single precision and of no matter.
_ONE_OWN, _ONE_LARGEST = 0.01, 1e-4
_WIDTH = 16  # Blocks are whole multiples: a product with fewer columns takes as long.
_RESTART = 8  # blocks in the basis before it is cut back to two
_SLAB_ELEMENTS = 1 << 21
_ELEMENTS = 1 << 20  # of the rows that are looked at together
_LONGEST_SUM = 8192
_ROUNDING = 1e-5  # of the datamodels' own variance: what is left where they are all but equal
_SAFE = (1e-25, 1e25)  # sizes of sums of squares that single precision holds
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


class ResidualPair:
    """Residuals 1∖2 (number 0) and 2∖1 (number 1), as :class:`Matrices`.

    Parameters
    ----------
    first, second : Tensor, shape (n_test, n_train), float
        Datamodels of algorithms 1 and 2 on one device, of any row lengths. Kept as they are where
        they are float32, else copied to it once they are multiplied.

    Attributes
    ----------
    cosines : Tensor, shape (n_test,), float64
        Of the two datamodels of each test example; 0 where one of them is zero.
    scales : tuple of two Tensors, shape (n_test,), float64
        One over the length of each row; 0 for a zero row.

    Raises
    ------
    ValueError
        If the shapes disagree or a weight is not finite.
    """

    count = 2

    def __init__(self, first: Tensor, second: Tensor):
        _check_shapes(first, second)
        dtype = torch.promote_types(first.dtype, second.dtype)
        self._given = (first.to(dtype), second.to(dtype))
        self.shape, self.device = tuple(first.shape), first.device
        lengths = [_lengths(weights) for weights in self._given]
        for number, length in enumerate(lengths, 1):
            _check_finite(length, number)
        self.scales = tuple(torch.where(n > 0, 1 / n, 0.0) for n in lengths)
        self.cosines = _dots(*self._given) * self.scales[0] * self.scales[1]
        self.rounding = _ROUNDING * self.shape[0]
        self._single: tuple[Tensor, Tensor] | None = None

    @property
    def n_zero(self) -> tuple[int, int]:
        """Test examples whose datamodel is zero, under algorithms 1 and 2."""
        return tuple(int((scale == 0).sum()) for scale in self.scales)

    def datamodels_times(self, block: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised datamodels of both algorithms times a block (n_train, k), float32."""
        return tuple(
            _product(weights, block).mul_(scale[:, None].float())
            for weights, scale in zip(self._float32(), self.scales, strict=True)
        )

    def products(self, blocks: Blocks) -> Blocks:
        """Residuals times a block (n_train, k) each; keys 0 and 1 say which residuals."""
        both = self.datamodels_times(torch.cat(list(blocks.values()), 1))
        cosines, low, results = self.cosines[:, None].float(), 0, {}
        for number, block in blocks.items():
            columns = slice(low, low := low + block.shape[1])
            results[number] = both[number][:, columns] - cosines * both[1 - number][:, columns]
        return results

    def back(self, blocks: Blocks) -> Blocks:
        """Transposed residuals times a block (n_test, k) each."""
        cosines, total = self.cosines[:, None].float(), 0
        for algorithm, weights in enumerate(self._float32()):
            parts = [b if n == algorithm else -cosines * b for n, b in blocks.items()]
            scaled = torch.cat(parts, 1).mul_(self.scales[algorithm][:, None].float())
            total = total + weights.T @ scaled
        widths = [block.shape[1] for block in blocks.values()]
        return dict(zip(blocks, total.split(widths, dim=1), strict=True))

    def slab(self, rows: slice, columns: slice) -> list[Tensor]:
        """Some rows and columns of both residuals, float64."""
        first, second = (
            weights[rows, columns].double() * scale[rows, None]
            for weights, scale in zip(self._given, self.scales, strict=True)
        )
        cosines = self.cosines[rows, None]
        return [first - cosines * second, second - cosines * first]

    def _float32(self) -> tuple[Tensor, Tensor]:
        if self._single is None:
            self._single = tuple(weights.float() for weights in self._given)
        return self._single


def as_weights(datamodels: Any, device: str = "cpu") -> Tensor:
    """Weights (n_test, n_train) as a tensor of floats that shares memory where it can.

    Given are weights, or what has them as its ``weights``; arrays go to the device, tensors stay
    where they are.
    """
    weights = getattr(datamodels, "weights", datamodels)
    if not isinstance(weights, Tensor):
        weights = np.asarray(weights)
        if weights.dtype not in (np.float16, np.float32, np.float64):
            weights = weights.astype(np.float32)
        with warnings.catch_warnings():
            # A memory map opened for reading is only read from.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            weights = torch.from_numpy(weights).to(device)
    return weights


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


def _product(weights: Tensor, block: Tensor) -> Tensor:
    """``weights @ block``; long sums in parts, since single precision loses digits in them."""
    first, *others = _slices(weights.shape[1], _LONGEST_SUM)
    total = weights[:, first] @ block[first]
    for part in others:
        total += weights[:, part] @ block[part]
    return total


def _lengths(weights: Tensor) -> Tensor:
    """Lengths of the rows, float64; summed in single precision where that is safe."""
    lengths = torch.linalg.vector_norm(_at_least_single(weights), dim=1).double()
    for rows in _unsure(lengths**2, weights):
        lengths[rows] = torch.linalg.vector_norm(weights[rows].double(), dim=1)
    return lengths


def _dots(first: Tensor, second: Tensor) -> Tensor:
    """Inner products of rows, float64; summed in single precision where that is safe."""
    dots = torch.empty(len(first), dtype=torch.float64, device=first.device)
    for rows in _slices(len(first), _step(first)):
        chosen = _at_least_single(first[rows]), _at_least_single(second[rows])
        dots[rows] = torch.linalg.vecdot(*chosen).double()
    for rows in _unsure(dots.abs(), first):
        dots[rows] = torch.linalg.vecdot(first[rows].double(), second[rows].double())
    return dots


def _unsure(sizes: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
    """Rows whose sum of squares may have left the range of single precision, a few at a time."""
    return torch.nonzero(~((sizes > _SAFE[0]) & (sizes < _SAFE[1])))[:, 0].split(_step(weights))


def _slices(length: int, step: int) -> list[slice]:
    return [slice(low, low + step) for low in range(0, length, step)]


def _step(weights: Tensor) -> int:
    return max(1, _ELEMENTS // max(weights.shape[1], 1))


def _at_least_single(weights: Tensor) -> Tensor:
    return weights.float() if weights.dtype in (torch.float16, torch.bfloat16) else weights


def _check_shapes(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            f"datamodels have shapes {tuple(first.shape)} and {tuple(second.shape)}; expected "
            "(n_test, n_train) twice, for the same examples. Was one of them transposed?"
        )


def _check_finite(lengths: Tensor, number: int) -> None:
    wrong = torch.nonzero(~torch.isfinite(lengths))
    if len(wrong):
        raise ValueError(
            f"the datamodel of test example {int(wrong[0])} under algorithm {number} has weights "
            "that are not finite. Fit it again, or leave the test example out."
        )
