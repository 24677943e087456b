r"""ModelDiff's comparison of two algorithms by their datamodels (paper, section 3).

1. Each datamodel, a row of ``Theta^(i)`` (n_test, n_train), is divided by its length.
2. The residual datamodel of algorithm 1 with respect to 2 is what remains of a row after its
   projection on the other algorithm's row for the same test example is taken away (eq. 3),

   .. math:: \theta^{(1 \setminus 2)}_x = \theta^{(1)}_x
      - \langle \theta^{(1)}_x, \theta^{(2)}_x \rangle \, \theta^{(2)}_x .

3. Principal components of the residuals (eq. 4) are the distinguishing training directions; the
   test examples at their ends are the distinguishing subpopulations.

The explained variance of a direction ``u`` under algorithm i is the fraction
``||Theta^(i) u||^2 / ||Theta^(i)||_F^2`` of the normalised datamodels. Times the number of test
examples with a datamodel, the difference between algorithms is the gap in Proposition 1, which
drops a quarter that inclusion probabilities ``(1 + u) / 2`` bring in. It is not centred, as in the
paper; the authors' code centres the rows first. At small budgets this gap is large even between an
algorithm and itself, since the directions are chosen on the data that measure it:
:mod:`mdhelpers.method.crossfit` gives an honest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdhelpers.method.datamodels import Datamodels
from mdhelpers.method.engines.principal import (
    Components,
    ResidualPair,
    Rows,
    as_weights,
    principal_components,
)
from mdhelpers.method.rotation import rotation_of

COMPARISONS = ("1_minus_2", "2_minus_1")
Weights = Datamodels | np.ndarray | Tensor  # (n_test, n_train)


@dataclass(frozen=True)
class DirectionSet:
    """Distinguishing training directions of one algorithm with respect to the other.

    Attributes
    ----------
    name : str
        ``"1_minus_2"`` or ``"2_minus_1"``.
    directions : ndarray, shape (n_directions, n_train), float32
        Unit vectors. Signed so that the projections lean to the positive side (their skewness is
        positive): a small subpopulation that stands out is at the top.
    projections : ndarray, shape (n_test, n_directions), float32
        Residual datamodels on the directions; 0 for a test example that was left out.
    explained_variance : ndarray, shape (n_directions, 2), float32
        Fraction of the variance of the datamodels of algorithms 1 and 2.
    component : ndarray, shape (n_directions,), int64
        Rank of each direction by the variance of the residuals along it, from 1.
    """

    name: str
    directions: np.ndarray
    projections: np.ndarray
    explained_variance: np.ndarray
    component: np.ndarray

    def __len__(self) -> int:
        return len(self.directions)

    @property
    def naive_gap(self) -> np.ndarray:
        """Explained variance under the first-named algorithm less the other's, (n_directions,)."""
        sign = 1 if self.name == "1_minus_2" else -1
        return sign * (self.explained_variance[:, 0] - self.explained_variance[:, 1])

    def reordered(self, order: np.ndarray) -> DirectionSet:
        """The same directions in another order; ``component`` keeps their rank."""
        return DirectionSet(
            self.name,
            self.directions[order],
            self.projections[:, order],
            self.explained_variance[order],
            self.component[order],
        )


@dataclass(frozen=True)
class Comparison:
    """Both direction sets, and how alike the datamodels are.

    Attributes
    ----------
    one_minus_two, two_minus_one : DirectionSet
    cosines : ndarray, shape (n_test,), float32
        Cosine similarity of the two datamodels of each test example (paper, appendix F.1); 0 where
        one of them is zero.
    n_zero : ndarray, shape (2,), int64
        Test examples whose datamodel is zero, under algorithms 1 and 2. They are left out: with
        nothing to project on, a residual would be the other algorithm's whole datamodel.
    rotation : str
        How the principal components were turned: see `mdhelpers.method.rotation`.
    """

    one_minus_two: DirectionSet
    two_minus_one: DirectionSet
    cosines: np.ndarray
    n_zero: np.ndarray
    rotation: str = "none"

    @property
    def left_out(self) -> np.ndarray:
        """Which test examples were left out, (n_test,) bool."""
        return ~np.any([part.projections.any(1) for part in self], axis=0)

    def __getitem__(self, name: str) -> DirectionSet:
        for direction_set in self:
            if direction_set.name == name:
                return direction_set
        raise KeyError(f"{name!r} is not a comparison; expected one of {COMPARISONS}.")

    def __iter__(self):
        return iter((self.one_minus_two, self.two_minus_one))


def compare(
    datamodels_1: Weights,
    datamodels_2: Weights,
    *,
    n_directions: int = 8,
    center: bool = True,
    rotation: str = "none",
    seed: int = 0,
    device: str = "cpu",
) -> Comparison:
    """Find the training directions that distinguish two algorithms.

    Tensors are worked on where they are, arrays on ``device``; residuals are never formed (see
    :mod:`mdhelpers.method.engines.principal`). Components are exact where one side has at most 1000
    examples or few more than ``n_directions``, and elsewhere found by iteration until they are
    known to lie within a thousandth (the sine of the angle) of the true ones.

    Parameters
    ----------
    datamodels_1, datamodels_2 : Datamodels, or ndarray or Tensor of shape (n_test, n_train)
        Same test examples, same training examples, same order.
    n_directions : int
        Directions for each of the two comparisons.
    center : bool
        Whether the mean residual is taken away before the principal components, as is usual and
        as the authors' code does. Without, a direction common to all test examples may come first.
    rotation : str
        ``varimax`` turns the components of each comparison together
        (:mod:`mdhelpers.method.rotation`); ``none``, the paper's, leaves them.
    seed : int
        Of the iteration's first vectors.
    device : str
        Where arrays are worked on.

    Raises
    ------
    ValueError
        If shapes disagree, a weight is not finite, or more directions are asked for than exist.

    Warns
    -----
    RuntimeWarning
        If the iteration ended before its directions were known so well.
    """
    weights = [as_weights(datamodels, device) for datamodels in (datamodels_1, datamodels_2)]
    pair = ResidualPair(*weights)
    cosines, n_zero, known = pair.cosines.float().cpu().numpy(), np.array(pair.n_zero), None
    if n_zero.any():
        known = ((pair.scales[0] > 0) & (pair.scales[1] > 0)).cpu()
        pair = ResidualPair(*(part[known.to(part.device)] for part in weights))
        known = known.numpy()
    check_count(n_directions, pair.shape, centred=center, left_out=len(cosines) - pair.shape[0])
    found = principal_components(pair, n_directions, center=center, seed=seed)
    sets = _direction_sets(pair, found, known, rotation)
    return Comparison(*sets, cosines=cosines, n_zero=n_zero, rotation=rotation)


def normalise_rows(weights: np.ndarray) -> np.ndarray:
    """Rows divided by their length, float64; a zero row stays zero (paper, step 1)."""
    weights = np.asarray(weights, dtype=np.float64)
    lengths = np.linalg.norm(weights, axis=1, keepdims=True)
    return np.divide(weights, lengths, out=np.zeros_like(weights), where=lengths > 0)


def residual_datamodels(rows: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Rows less their projection on the other algorithm's (eq. 3); both of unit or zero length.

    Zero where one of the two is.
    """
    residuals = rows - (rows * other).sum(1, keepdims=True) * other
    return np.where(other.any(1, keepdims=True), residuals, 0)


def principal_directions(
    residuals: np.ndarray,
    n_directions: int,
    *,
    center: bool = True,
    seed: int = 0,
    device: str = "cpu",
) -> np.ndarray:
    """Principal components of the rows, shape (n_directions, n_train), unit norm, unsigned.

    Rows of zeros are left out, if others are left.
    """
    known = residuals.any(1)
    if n_directions + center <= known.sum() < len(residuals):
        residuals = residuals[known]
    rows = Rows(torch.from_numpy(residuals).to(device))
    found = principal_components(rows, n_directions, center=center, seed=seed)
    return found[0].directions.double().cpu().numpy()


def explained_variance(rows: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Fraction of the squared length of normalised rows along each direction, (n_directions,)."""
    total = np.square(rows).sum()
    return np.square(rows @ directions.T).sum(0) / max(total, np.finfo(float).tiny)


def datamodel_cosines(first: Weights, second: Weights, *, device: str = "cpu") -> np.ndarray:
    """Cosine of the two datamodels of each test example, (n_test,) float64; 0 for a zero one."""
    pair = ResidualPair(as_weights(first, device), as_weights(second, device))
    return pair.cosines.cpu().numpy()


def row_cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Cosine of equal rows of two (n_test, n_train) arrays, (n_test,); 0 where a row is zero."""
    return (normalise_rows(one) * normalise_rows(two)).sum(1)


def most_directions(shape: tuple[int, int], *, centred: bool = True) -> int:
    """How many directions residuals of shape (n_test, n_train) have: centring takes one away."""
    n_test, n_train = shape
    return min(n_test - centred, n_train)


def check_count(
    n_directions: int, shape: tuple[int, int], *, centred: bool = True, left_out: int = 0
) -> None:
    """Refuse more directions than residuals of this shape, (n_test, n_train), can have."""
    most = most_directions(shape, centred=centred)
    if not 1 <= n_directions <= most:
        raise ValueError(
            f"n_directions is {n_directions}; expected a number from 1 to {most}: residuals of "
            f"{shape[0]} test and {shape[1]} training examples have no more"
            f"{' once centred' if centred else ''}"
            f"{f'; {left_out} more have a datamodel of zeros' if left_out else ''}."
        )


def _direction_sets(
    pair: ResidualPair, found: list[Components], known: np.ndarray | None, rotation: str
) -> list[DirectionSet]:
    """Signed directions, and what one more product with both datamodels says about them.

    ``known`` (n_test,) says which test examples the pair holds, if not all.
    """
    directions = [components.directions.double().cpu().numpy() for components in found]
    columns = torch.from_numpy(np.concatenate(directions).T).to(pair.device, torch.float32)
    along = [part.double().cpu().numpy() for part in pair.datamodels_times(columns)]
    n_rows = np.array([pair.shape[0] - zero for zero in pair.n_zero])
    cosines, sets, low = pair.cosines.cpu().numpy()[:, None], [], 0
    for number, (name, vectors) in enumerate(zip(COMPARISONS, directions, strict=True)):
        chosen = slice(low, low := low + len(vectors))
        both = [part[:, chosen] for part in along]
        if rotation != "none":
            turn = rotation_of(both[number] - cosines * both[1 - number], rotation)
            vectors, both = turn.T @ vectors, [part @ turn for part in both]
        projections = both[number] - cosines * both[1 - number]
        fractions = np.stack([np.square(part).sum(0) for part in both], 1) / np.maximum(n_rows, 1)
        signs = _signs(projections, vectors)
        if known is not None:
            kept, projections = projections, np.zeros((len(known), len(vectors)))
            projections[known] = kept
        sets.append(
            DirectionSet(
                name=name,
                directions=(vectors * signs[:, None]).astype(np.float32),
                projections=(projections * signs).astype(np.float32),
                explained_variance=fractions.astype(np.float32),
                component=np.arange(1, len(vectors) + 1),
            )
        )
    return sets


def _signs(projections: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Sign that makes the skewness positive; where there is none, the largest weight."""
    centred = projections - projections.mean(0)
    third, second = (centred**3).mean(0), np.square(centred).mean(0)
    largest = directions[np.arange(len(directions)), np.abs(directions).argmax(1)]
    return np.where(np.where(np.abs(third) > 1e-6 * second**1.5, third, largest) < 0, -1.0, 1.0)
