r"""What moves predictions, factor by factor, and which factors do so together.

Where every factor of a picture is known and can be set, as in 3DB (Leclerc et al., 2022), a factor
can be *swept*: the same scenes at each of its levels, all else held. And where the factors of many
scenes are drawn independently of each other, a factorial analysis of variance says which *pairs*
interact: what the two do together is not the sum of what each does.

**Interactions.** With the outcome :math:`y_i` of scene :math:`i`, levels :math:`a_i` and
:math:`b_i` of a pair, and the main effects :math:`m_k` of all factors,

.. math:: y_i = \sum_k m_k(i) + w_{a_i b_i} + e_i .

Products of the pair's indicators, less what the main effects explain of them, span an orthonormal
basis :math:`Q`, so that :math:`|Q^\top y|^2` is what the table :math:`w` explains beyond them. It
holds noise as well: :math:`Q_{ij} e_i` summed over scenes. Its share is corrected for it by
:math:`\sum_i |Q_i|^2 \hat e_i^2 / (1 - h_i)`, where :math:`\hat e` are the residuals and :math:`h`
the leverages, and the test weighs :math:`Q^\top y` by a covariance from the residuals (MacKinnon
and White, 1985, HC3). Neither takes the noise to be the same in all scenes: confidences near 0 or 1
vary little.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import f as fisher

_RANK = 1e-9  # of the largest singular value: what is below counts as none


def widest(one: np.ndarray, two: np.ndarray) -> tuple[int, int]:
    """The levels between which confidence changes most unlike under two algorithms, in order.

    Parameters
    ----------
    one, two
        (n_levels, n_models, n_scenes), confidences of either algorithm's models.
    """
    gap = one.mean((1, 2)) - two.mean((1, 2))
    first, last = sorted((int(gap.argmin()), int(gap.argmax())))
    return first, last


def binned(column: pd.Series, n_bins: int = 3) -> np.ndarray:
    """Levels (n,) int: those of a factor with few values, else ``n_bins`` equally full bins."""
    if column.dtype.kind in "OUTSb" or not pd.api.types.is_numeric_dtype(column):
        return np.unique(column.astype(str), return_inverse=True)[1]
    edges = np.quantile(column, np.arange(1, n_bins) / n_bins)
    return np.searchsorted(edges, column, side="right")


def interactions(outcomes: np.ndarray, factors: pd.DataFrame) -> pd.DataFrame:
    """Which pairs of factors do together what the sum of both does not.

    Parameters
    ----------
    outcomes
        (n_outcomes, n_scenes) float.
    factors
        (n_scenes, n_factors) levels as whole numbers, see `binned`; a column per factor.

    Returns
    -------
    DataFrame
        A row per pair and outcome: ``outcome`` (its number), ``factor_1, factor_2``, ``share`` of
        the outcome's variance that their table explains beyond all main effects, corrected for
        noise (it may fall below 0), and ``p``, not corrected for the number of pairs.

    Raises
    ------
    ValueError
        If there are not as many factors' rows as outcomes, or too few scenes for the main effects.
    """
    outcomes = np.atleast_2d(np.asarray(outcomes, float))
    if outcomes.shape[1] != len(factors):
        raise ValueError(
            f"{outcomes.shape[1]} outcomes and {len(factors)} rows of factors; give one of each a "
            "scene"
        )
    tables = {name: indicators(factors[name].to_numpy()) for name in factors}
    main = orthonormal(np.column_stack([np.ones(len(factors)), *tables.values()]))
    if len(factors) < 2 * main.shape[1]:
        raise ValueError(
            f"{len(factors)} scenes are too few for {main.shape[1]} main effects; draw at least "
            f"{2 * main.shape[1]}"
        )
    left, leverage = outcomes.T - main @ (main.T @ outcomes.T), np.square(main).sum(1)
    total, rows = outcomes.var(1) * len(factors), []
    for pair in combinations(tables, 2):
        products = products_of(*(tables[name] for name in pair))
        basis = orthonormal(products - main @ (main.T @ products))
        for k, (share, p) in enumerate(joint_effects(left, basis, leverage, total)):
            rows.append((k, *pair, share, p))
    return pd.DataFrame(rows, columns=["outcome", "factor_1", "factor_2", "share", "p"])


def joint_effects(
    left: np.ndarray, basis: np.ndarray, leverage: np.ndarray, total: np.ndarray
) -> Iterator[tuple[float, float]]:
    """Share and p of each outcome's part in an interaction's basis (n_scenes, rank)."""
    for y, whole in zip(left.T, total, strict=True):
        if not basis.shape[1] or whole <= 0:
            yield 0.0, 1.0
            continue
        effect, h = basis.T @ y, np.square(basis).sum(1)
        free = np.maximum(1 - leverage - h, _RANK)
        error = (y - basis @ effect) / free
        noise = (h * free * error**2).sum()
        spread = (basis * error[:, None] ** 2).T @ basis
        n, rank = basis.shape
        statistic = effect @ np.linalg.pinv(spread, hermitian=True) @ effect / rank
        p = fisher.sf(statistic, rank, n - round(leverage.sum()) - rank)
        yield float((effect @ effect - noise) / whole), float(p)


def indicators(levels: np.ndarray) -> np.ndarray:
    """A column per level but the first, 1 where a scene has it, less the column's mean."""
    found = (levels[:, None] == np.unique(levels)[1:]).astype(float)
    return found - found.mean(0)


def products_of(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Products of each pair of columns, (n, n_1 n_2)."""
    return (one[:, :, None] * two[:, None]).reshape(len(one), -1)


def orthonormal(columns: np.ndarray) -> np.ndarray:
    """An orthonormal basis (n, rank) of what columns (n, k) span."""
    if not columns.shape[1]:
        return columns
    vectors, values, _ = np.linalg.svd(columns, full_matrices=False)
    return vectors[:, values > _RANK * max(values[0], 1)]
