r"""What one fit of datamodels takes, by estimator: memory, time, and whether that can be had.

Memory is what a fit holds beside masks and margins: a Gram matrix of all training examples, or an
eigendecomposition in double precision, grow with the square of what they are of. Seconds are
operations at a rate. Rates are those of one core, and of an H100, that were measured
(``benchmarks/regression.py``, ``regression_cuda.json`` in the book); that of an eigendecomposition
on a GPU is assumed. They tell hours from days and no more.

:func:`mdhelpers.method.datamodels.method_for` chooses nothing that cannot be had, and a study that
asks for it is refused (:mod:`mdhelpers.stages.study`).
"""

from __future__ import annotations

from dataclasses import dataclass

from mdhelpers.method.engines.estimators import block_size
from mdhelpers.method.engines.moments import prefers_gram

PATIENCE = 3600.0  # seconds of an eigendecomposition that "auto" waits for
_EIGEN_BYTES = 36  # an entry: single and double precision, vectors, twice that to work in
_EIGEN_OPERATIONS = 9  # times the cube of a side
_EIGEN_RATE = {"cpu": 3e10, "cuda": 3e11}
_PRODUCT_RATE = {"cpu": 9e10, "cuda": 2.6e13}
_PRODUCTS = 155  # with the Gram matrix, a test example: the whole path and the refit
_SWEEPS = (0.14, 5000, 1.65)  # seconds a test example by working sets, at so many, and the power
_COUNT_RATE = 1.5e11  # pairs of training examples a second, counted in bits
_BLOCKS = 12  # matrices of a block of test examples at once
_LAMS = 33


@dataclass(frozen=True)
class Cost:
    """Of one fit: bytes that it holds at once, and seconds.

    ``eigen`` is the part of the seconds that an eigendecomposition takes, of a matrix of so many
    rows; nothing else grows with the cube of a study's size.
    """

    memory: float
    seconds: float
    rows: int = 0
    eigen: float = 0.0


def fit_cost(
    method: str, n_models: int, n_train: int, n_test: int = 1, *, device: str = "cpu"
) -> Cost:
    """What one fit on so many models takes.

    Parameters
    ----------
    method : str
        One of `mdhelpers.method.datamodels.METHODS`.
    n_models, n_train, n_test : int
    device : str
        A torch device.
    """
    kind = "cpu" if device.startswith("cpu") else "cuda"
    sizes = n_models, n_train, n_test
    weights = 4.0 * n_test * n_train
    if method in ("lasso", "fast_l1"):
        found = _lasso(*sizes, kind) if method == "lasso" else _by_fast_l1(*sizes, kind)
    elif method in ("ridge", "trak+ridge"):
        found = _ridge(*sizes, kind)
    else:
        products = 4.0 * n_models * n_train * n_test
        found = Cost(4.0 * n_models * n_test, products / _PRODUCT_RATE[kind])
    scores = 3 * weights if method.startswith("trak") else 0
    return Cost(found.memory + weights + scores, found.seconds, found.rows, found.eigen)


def why_not(cost: Cost, *, memory: float | None = None, patience: float = PATIENCE) -> str:
    """Why a fit cannot be had in so many bytes of memory and seconds; empty where it can."""
    if memory is not None and cost.memory > memory:
        of = f"an eigendecomposition of {cost.rows:,} rows" if cost.rows else "a fit"
        return f"{of} takes {_gb(cost.memory)}, and {_gb(memory)} are there"
    if cost.eigen > patience:
        return f"an eigendecomposition of {cost.rows:,} rows takes {cost.eigen / 3600:.0f} hours"
    return ""


def fits_at_once(cost: Cost, memory: float | None, *, device: str, at_most: int) -> int:
    """Fits that run side by side: in half of the memory, and one by one on a GPU."""
    if not device.startswith("cpu"):
        return 1
    room = at_most if memory is None else int(memory / 2 // max(cost.memory, 1))
    return max(1, min(room, at_most))


def _lasso(n_models: int, n_train: int, n_test: int, kind: str) -> Cost:
    block = 4.0 * _BLOCKS * min(n_test, block_size(kind)) * n_train
    if not prefers_gram(n_models, n_train, kind):
        products = 4.0 * _PRODUCTS * n_models * n_train * n_test
        return Cost(8.0 * n_models * n_train + block, products / _PRODUCT_RATE[kind])
    gram = 4.0 * n_train**2
    memory = 1.5 * gram + 0.2 * n_models * n_train + block
    if kind == "cpu":
        each, at, power = _SWEEPS
        counted = n_models * n_train**2 / _COUNT_RATE
        return Cost(memory, counted + n_test * each * (n_train / at) ** power)
    products = 2.4 * n_models * n_train**2 + 2.0 * _PRODUCTS * n_train**2 * n_test
    return Cost(memory, products / _PRODUCT_RATE[kind])


def _by_fast_l1(n_models: int, n_train: int, n_test: int, kind: str) -> Cost:
    memory = 8.0 * n_models * n_train + 16.0 * n_test * n_train + 4.0 * n_models * n_test
    return Cost(memory, 4.0 * _PRODUCTS * n_models * n_train * n_test / _PRODUCT_RATE[kind])


def _ridge(n_models: int, n_train: int, n_test: int, kind: str) -> Cost:
    """By the Gram matrix, or by the kernel's where there are fewer models than examples."""
    rows = min(n_models, n_train)
    masks = 8.0 * n_models * n_train if rows < n_train else 4.0 * n_train**2 + 8.0 * n_models * rows
    eigen = _EIGEN_OPERATIONS * float(rows) ** 3 / _EIGEN_RATE[kind]
    products = 2.0 * n_models * n_train * rows + 2.0 * _LAMS * n_models * rows * n_test
    seconds = eigen + products / _PRODUCT_RATE[kind]
    return Cost(_EIGEN_BYTES * float(rows) ** 2 + masks, seconds, rows, eigen)


def _gb(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:,.1f} GB"
