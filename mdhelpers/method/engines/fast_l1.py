"""fast_l1's solver behind this package's interface, for users who have it and a CUDA device.

fast_l1 (https://github.com/MadryLab/fast_l1) is not installed with mdhelpers. Its stochastic
solver standardises masks and leaves its weights in those units. Here it is given masks and margins
that are standardised already, within slots where there are any, so that its first penalty is the
largest that matters and lambda means what it does elsewhere; its weights come back in raw units.

Its code of 2022 is run as it is, with two things mended around it. It indexes tensors on the host
by tensors on the card, which torch refuses by now: such indices are brought along. And it does not
wait for the thread that writes the last residuals of an epoch: where it reads or moves one too
early, its mean gradient is wrong from then on and it does not converge. A pass over the batches
ends when that thread has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import import_module
from threading import Thread
from types import ModuleType
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mdhelpers.method.engines.estimators import Fit, FitOptions
from mdhelpers.method.engines.moments import Moments, split_validation
from mdhelpers.method.engines.problem import Validation

_STOP = 5e-10  # largest squared change of a weight in an epoch; as its README has it
_BATCHES = 10
_INDEXING = (Tensor.__getitem__, Tensor.__setitem__)


class _Batches:
    """Shuffled batches of equal size, which fast_l1 needs; up to one batch's models sit out.

    ``after`` is called at the end of each pass.
    """

    def __init__(self, x: Tensor, y: Tensor, size: int, seed: int):
        self.x, self.y, self.size = x, y, size
        self.generator = torch.Generator().manual_seed(seed)
        self.after: Callable[[], object] = bool

    @property
    def step(self) -> float:
        """A step that converges: a third of one over the largest curvature that a batch may have.

        By the largest eigenvalue of a random matrix (Marchenko and Pastur, 1967). The hundredth
        that fast_l1 proposes is that of 50,000 training examples in batches of 2,000.
        """
        return 1 / (3 * (1 + math.sqrt(self.x.shape[1] / self.size)) ** 2)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
        for low in range(0, len(order) - self.size + 1, self.size):
            rows = order[low : low + self.size]
            yield self.x[rows], self.y[rows], rows
        self.after()


class _IndicesComeAlong(TorchFunctionMode):
    """Indices of a tensor on the host go there too."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _INDEXING and args[0].device.type == "cpu":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(part.cpu() if isinstance(part, Tensor) else part for part in index)
            args = (args[0], index, *args[2:])
        return func(*args, **(kwargs or {}))


class _Waiting:
    """Threads of which the last is waited for by `join`."""

    def __init__(self):
        self.last: Thread | None = None

    def __call__(self, **about) -> Thread:
        self.last = Thread(**about)
        return self.last

    def join(self) -> None:
        if self.last is not None and self.last.is_alive():
            self.last.join()


def fit_fast_l1(
    moments: Moments, margins: np.ndarray, options: FitOptions, *, seed: int = 0
) -> Fit:
    """The lasso by fast_l1: its path, its stopping rule, then its refit on all models.

    Raises
    ------
    ValueError
        If fast_l1 cannot be imported or the device is not CUDA.
    """
    regressor = _regressor(moments.device)
    parts = split_validation(moments.groups, options.validation_share, seed)
    fitting, validating = (part.numpy() for part in parts)
    size = max(1, min(len(validating), len(fitting) // _BATCHES))
    moments.select(fitting)
    problem = moments.problem(margins, form="none")
    start = torch.zeros_like(problem.cross.T), torch.zeros_like(problem.variance)
    lam = _train(
        regressor,
        *start,
        _Batches(*_standardised(moments, margins), size, seed),
        _Batches(*_held_out(moments, problem, margins, validating), size, seed),
        start_lams=problem.lam_max,
        lam_decay=math.exp(math.log(options.lam_min_ratio) / options.n_lams),
        num_lambdas=options.n_lams,
    )
    return _refit(regressor, moments, margins, start, lam, size, seed)


def _refit(regressor, moments, margins, start, lam, size: int, seed: int) -> Fit:
    moments.select(moments.everyone)
    problem = moments.problem(margins, form="none")
    weights, bias = start
    batches = _Batches(*_standardised(moments, margins), size, seed)
    _train(regressor, weights, bias, batches, None, start_lams=lam, lam_decay=1.0, num_lambdas=1)
    fit = Fit.empty(margins.shape[1], moments)
    fit.put(slice(None), problem, weights.T)
    fit.lam[:] = torch.where(problem.variance > 0, lam * problem.y_scale, torch.nan).cpu().numpy()
    return fit


def _train(
    regressor: ModuleType,
    weights: Tensor,
    bias: Tensor,
    batches: _Batches,
    held_out: _Batches | None,
    *,
    start_lams: Tensor,
    lam_decay: float,
    num_lambdas: int,
) -> Tensor:
    """fast_l1's solver, with what mends it.

    It leaves its solution in ``weights`` (n_train, n_targets) and ``bias``, and gives the penalties
    that it chose.
    """
    threads = _Waiting()
    batches.after = threads.join
    try:
        with patch.object(regressor, "Thread", threads), _IndicesComeAlong():
            return regressor.train_saga(
                weights,
                bias,
                batches,
                held_out,
                start_lams=start_lams,
                lam_decay=lam_decay,
                num_lambdas=num_lambdas,
                lr=batches.step,
                early_stop_eps=_STOP,
            )
    except RuntimeError as error:
        raise ValueError(
            f"fast_l1 stopped in its own code ({error}). Use method 'lasso', which solves the same "
            "problem."
        ) from error


def _standardised(moments: Moments, margins: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.cat(list(moments.standardised_rows())), moments.standardised(margins)[0]


def _held_out(moments, problem, margins: np.ndarray, models: np.ndarray) -> tuple[Tensor, Tensor]:
    y = torch.from_numpy(np.ascontiguousarray(margins[models])).to(moments.device)
    groups = moments.groups[models].to(moments.device)
    validation = Validation(moments.masks_of(models), y, groups)
    return validation.standardised_x(problem), validation.standardised_y(problem)


def check_fast_l1(device: torch.device | str) -> None:
    """Raise ValueError, which says how to have it, unless fast_l1 can be used on a device."""
    _regressor(torch.device(device))


def _regressor(device: torch.device) -> ModuleType:
    """fast_l1's module, or a ValueError that says how to have it."""
    if device.type != "cuda":
        raise ValueError(
            f"method 'fast_l1' runs on CUDA only, got device {str(device)!r}; pass device='cuda', "
            "or use method 'lasso', which solves the same problem on any device."
        )
    try:
        return import_module("fast_l1.regressor")
    except ImportError as error:
        raise ValueError(
            f"method 'fast_l1' needs fast_l1 and cupy, which cannot be imported ({error}). "
            "pip install cupy-cuda12x pandas git+https://github.com/MadryLab/fast_l1, "
            "or use method 'lasso', which solves the same problem."
        ) from error
