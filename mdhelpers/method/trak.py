r"""Datamodels from the gradients of a few trained models, instead of many trainings.

For one model, with :math:`s_i` minus the gradient of its loss on training image i (the mean over
augmented views where it augments) and :math:`\phi_x` the gradient of its output on test image x,

.. math:: \tau_x = \phi_x^T S^T (S S^T + c I)^{-1}, \qquad
   c = \lambda \, \mathrm{tr}(S S^T) / n_{train}

says how the output changes when a training image joins: a step of Gauss and Newton's method on the
model that is linear in its weights. Scores are added up over looks at the model along its training,
and averaged over models. That is TRAK (Park et al., 2023), but for four things, each of which
predicts better (``benchmarks/estimators.py``): gradients of the loss and not of the output stand
for training images, in the kernel too; over augmented views; models are looked at half-way as well;
and nothing is projected where all training images' gradients fit in memory.

``lambda`` is chosen by predicting each model's own outputs, for the mask it was trained on, from
the scores of the *other* models; the size of the scores by least squares to outputs.

Scores of a few models have little noise and a bias, regressions the other way round. So with
``"trak+ridge"`` the scores are the centre towards which ridge regression shrinks: it is fitted to
what scores leave of the outputs, with one penalty for all test examples, chosen by leave-one-out.

The scores of different models are as independent as the models. :class:`Scores` stands in for
their outputs in :mod:`mdhelpers.method.evidence`: both are sums over models whose expectation is a
datamodel, here that which gradients see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mdhelpers.method.evidence import group_models, least_length, products

METHODS = ("trak", "trak+ridge")
DAMPINGS = (0.03, 0.1, 0.3, 1.0, 3.0)
_ROWS = 256  # test examples at once


@dataclass(frozen=True)
class Look:
    """One model's gradients at one point of its training, as `mdhelpers.training.gradients` has it.

    Attributes
    ----------
    test : ndarray, shape (n_test, r)
    train : ndarray, shape (n_train, r)
    values : ndarray, shape (r,)
        In the coordinates in which :math:`S S^T` (or :math:`S^T S`) is diagonal, and its diagonal.
    """

    test: np.ndarray
    train: np.ndarray
    values: np.ndarray

    def scores(self, damping: float, *, device: str = "cpu") -> np.ndarray:
        """``tau`` at a lambda, (n_test, n_train) float32, computed on a device."""
        c = damping * self.values.sum(dtype=float) / len(self.train)
        weights = 1 / (self.values + max(c, np.finfo(np.float32).tiny))
        return product(self.test * weights.astype(np.float32), self.train.T, device)


def product(left: np.ndarray, right: np.ndarray, device: str = "cpu") -> np.ndarray:
    """``left @ right``, on a device; on a CPU by NumPy, as it ever was, to the bit."""
    if device.startswith("cpu"):
        return left @ right
    one, two = (torch.from_numpy(np.asarray(part)).to(device) for part in (left, right))
    return (one @ two).cpu().numpy()


def model_scores(looks: Sequence[Look], damping: float, *, device: str = "cpu") -> np.ndarray:
    """One model's scores, summed over looks, (n_test, n_train) float32."""
    return sum(look.scores(damping, device=device) for look in looks)


def predicted_by_others(
    models: Iterator[Sequence[Look]], masks: np.ndarray, damping: float, *, device: str = "cpu"
) -> np.ndarray:
    """Outputs of each model, for its own mask, by the mean scores of the others, (n, n_test).

    ``masks`` (n, n_train) bool are those that the models were trained on, two at least.
    """
    total, own = None, []
    for looks, mask in zip(models, masks, strict=True):
        scores = model_scores(looks, damping, device=device)
        own.append(scores[:, mask].sum(1))
        total = scores if total is None else total + scores
    if len(own) < 2:
        raise ValueError("scores of one model predict no other; take gradients of two or more.")
    everyone = product(masks.astype(np.float32), total.T, device)
    return (everyone - np.stack(own)) / (len(own) - 1)


def correlation(predicted: np.ndarray, outputs: np.ndarray) -> float:
    """Mean over test examples of the correlation over models, of arrays (n_models, n_test)."""
    one, two = (
        np.asarray(part, float) - np.mean(part, 0, dtype=float) for part in (predicted, outputs)
    )
    both = np.sqrt((one**2).sum(0) * (two**2).sum(0))
    products = np.divide((one * two).sum(0), both, out=np.zeros(len(both)), where=both > 0)
    return float(products.mean())


def size_of(predicted: np.ndarray, outputs: np.ndarray) -> float:
    """What scores are to be multiplied with: least squares over all models and test examples.

    Of centred arrays (n_models, n_test); 1 where nothing is predicted, and never below 0.
    """
    squares = float(np.square(predicted, dtype=float).sum())
    return max(float((predicted * outputs).sum(dtype=float)) / squares, 0.0) if squares else 1.0


class Scores:
    """One algorithm's models that take part in measuring, by their scores, in groups.

    In place of `mdhelpers.method.evidence.Outputs`: the mean over a group of its models' scores.

    Parameters
    ----------
    scores : ndarray, shape (n_models, n_test, n_train)
        May lie on disk: a group is read at a time.
    models : ndarray of int
        Those that take part.
    lengths : ndarray, shape (n_test,)
        Of datamodels found on *other* models, as in `Outputs.measured`.
    groups : ndarray, shape (n_models,), int, optional
        Of all models, as `mdhelpers.method.evidence.group_models` gives them.
    device : str
        Where all that is asked of them is computed.
    """

    def __init__(
        self,
        scores: np.ndarray,
        models: np.ndarray,
        lengths: np.ndarray,
        groups: np.ndarray | None = None,
        *,
        device: str = "cpu",
    ):
        self.device = torch.device(device)
        groups = group_models(len(scores)) if groups is None else groups
        self.scores, self.models = scores, np.asarray(models)
        self.ids, self.place = np.unique(groups[self.models], return_inverse=True)
        lengths = np.asarray(lengths, float)
        lengths = torch.from_numpy(np.maximum(lengths, least_length(lengths)))
        self.lengths = lengths.float().to(self.device)

    @property
    def n_groups(self) -> int:
        return len(self.ids)

    @property
    def n_test(self) -> int:
        return self.scores.shape[1]

    @property
    def n_train(self) -> int:
        return self.scores.shape[2]

    def along(self, directions: Tensor) -> Tensor:
        """Datamodels along directions (d, n_train), by group: (n_groups, n_test, d)."""
        return torch.stack([rows @ directions.T for rows in self._groups()])

    def toward(self, rows: Tensor) -> Tensor:
        """Each test example's datamodel along its own row (n_test, n_train): (n_groups, n_test)."""
        return torch.stack([(own * rows).sum(1) for own in self._groups()])

    def contrasts(self, weights: Tensor) -> Tensor:
        """Datamodels of weighted sums of outputs, weights (n_test, p): (n_groups, p, n_train)."""
        return torch.stack([weights.T @ rows for rows in self._groups()])

    @cached_property
    def squared_lengths(self) -> np.ndarray:
        """Of each test example's datamodel, without noise, (1 + n_groups, n_test)."""
        found = []
        for low in range(0, self.n_test, _ROWS):
            rows = torch.stack(list(self._groups(slice(low, low + _ROWS))))
            found.append(products(rows, rows))
        return np.concatenate(found, axis=1)

    @cached_property
    def noisy_total(self) -> float:
        """Squared length of all datamodels, with its noise."""
        mean = sum(self._groups()) / self.n_groups
        return float(mean.square().sum())

    def _groups(self, rows: slice = slice(None)) -> Iterator[Tensor]:
        """Mean scores of each group's models, (n_test, n_train), in units of lengths."""
        for group in range(self.n_groups):
            members = self.models[self.place == group]
            mean = sum(self.scores[m, rows].astype(np.float32) for m in members) / len(members)
            yield torch.from_numpy(mean).to(self.device) / self.lengths[rows, None]
