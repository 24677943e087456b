r"""Which transformation imitates what a subpopulation has and its classmates lack?

A transformation F moves images in the space of an encoder. Let :math:`v_F` be the mean of
:math:`e(F(x)) - e(x)` over images of a class, and :math:`w_S` the mean embedding of a subpopulation
S of that class less that of its classmates. F *imitates* S as far as the two point the same way,

.. math:: \mathrm{match}(F, S) = \cos(v_F, w_S) .

Of many transformations some will match any images by chance. So the best match is held against the
best of as many random subpopulations of the same size and class: its p-value is exact, and is
corrected for the number of transformations.

What the encoder sees need not be what the models use. So it is also measured how far F moves images
along the direction that S is an end of (*moved*): 0 is not at all, 1 as far as S lies from its
classmates.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

N_RANDOM = 1000


def matches(
    embeddings: np.ndarray,
    changes: Mapping[str, np.ndarray],
    members: np.ndarray,
    mates: np.ndarray,
    *,
    seed: int = 0,
    n_random: int = N_RANDOM,
) -> pd.DataFrame:
    """How well each transformation imitates a subpopulation, best first.

    Parameters
    ----------
    embeddings
        (n, width) float, of all images of one class.
    changes
        Of each transformation, the mean change (width,) that it makes to embeddings of that class.
    members
        (k,) int, rows of the subpopulation.
    mates
        (m,) int, rows that it is compared with.
    seed, n_random
        Of the random subpopulations, and how many.

    Returns
    -------
    DataFrame
        ``transformation``; ``match``, a cosine; ``p``, the share of random subpopulations whose
        best match is as good.

    Raises
    ------
    ValueError
        If there are no members or no mates.
    """
    if not len(members) or not len(mates):
        raise ValueError(
            f"{len(members)} members and {len(mates)} mates; give one of each at least"
        )
    names = list(changes)
    moved = unit(np.stack([changes[name] for name in names]).astype(float))
    found = unit(difference_of(embeddings, members, mates)) @ moved.T
    rng, pool = np.random.default_rng([seed, 12]), np.concatenate([members, mates])
    best = np.empty(n_random)
    for i in range(n_random):
        order = rng.permutation(pool)
        drawn = difference_of(embeddings, order[: len(members)], order[len(members) :])
        best[i] = (unit(drawn) @ moved.T).max()
    p = (1 + (best[:, None] >= found).sum(0)) / (1 + n_random)
    table = pd.DataFrame({"transformation": names, "match": found, "p": p})
    return table.sort_values("match", ascending=False, kind="stable", ignore_index=True)


def difference_of(embeddings: np.ndarray, members: np.ndarray, mates: np.ndarray) -> np.ndarray:
    return embeddings[members].mean(0, dtype=float) - embeddings[mates].mean(0, dtype=float)


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1; those of length 0 stay."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)


def residual_projections(
    scores: tuple[np.ndarray, np.ndarray], directions: np.ndarray
) -> np.ndarray:
    """Projections of residuals, as `mdhelpers.method.comparison` has them, of further datamodels.

    Parameters
    ----------
    scores
        Datamodels (n, n_train) of the first-named algorithm of a comparison and of the other.
    directions
        (d, n_train) float, of unit length.

    Returns
    -------
    (n, d) float
    """
    one, other = (unit(np.asarray(each, float)) for each in scores)
    residuals = one - (one * other).sum(1, keepdims=True) * other
    return residuals @ np.asarray(directions, float).T
