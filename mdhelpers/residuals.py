r"""Residual datamodels of two algorithms, by what is done with them (paper, section 3, step 2).

Rows being divided by their length, the residual of ``a`` with respect to ``b`` is ``a - c b`` with
``c`` their cosine. So the residual matrices are ``A - diag(c) B`` and ``B - diag(c) A``, and a
product with either is two products with the datamodels as they came: nothing of their size is made.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from mdhelpers.datamodels import Datamodels
from mdhelpers.principal import Blocks

__all__ = ["ResidualPair", "as_weights"]

_ELEMENTS = 1 << 20  # of the rows that are looked at together
_LONGEST_SUM = 8192
_ROUNDING = 1e-5  # of the datamodels' own variance: what is left where they are all but equal
_SAFE = (1e-25, 1e25)  # sizes of sums of squares that single precision holds


class ResidualPair:
    """Residuals 1∖2 (number 0) and 2∖1 (number 1), as :class:`mdhelpers.principal.Matrices`.

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


def as_weights(datamodels: Datamodels | np.ndarray | Tensor) -> Tensor:
    """Weights (n_test, n_train) as a tensor of floats that shares memory where it can."""
    weights = datamodels.weights if isinstance(datamodels, Datamodels) else datamodels
    if not isinstance(weights, Tensor):
        weights = np.asarray(weights)
        if weights.dtype not in (np.float16, np.float32, np.float64):
            weights = weights.astype(np.float32)
        with warnings.catch_warnings():
            # A memory map opened for reading is only read from.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            weights = torch.from_numpy(weights)
    return weights


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
