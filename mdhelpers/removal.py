r"""Leaving training examples out: what datamodels foretell of it, and the subsets that test it.

Masks of a study have one size, so a datamodel knows what an image is worth *in exchange for
others*, and not what a larger training set is worth: adding a constant to all weights of a test
example, and taking it off the bias, changes no prediction. So all effects here are foretold by
weights less their mean over the training set; a difference in size counts for nothing.

For a set G of k among n training examples, where margins are linear in the mask:

- masks that hold G and masks without any of it differ on average by

  .. math:: \Delta_G = \frac{n}{n - k} \sum_{i \in G} (w_i - \bar w) ,

- and leaving G out of the study's masks, which hold a share α of it, takes α Δ_G off the mean
  margin. A pair of masks of one size is foretold exactly (:func:`mask_effects`).
- Leaving G out of the whole training set takes off :math:`\sum_{i \in G} (w_i - \bar w)` more than
  leaving out k images at random. This lies outside of the masks that datamodels were fitted on. It
  is how Ilyas et al. (2022, section 4) use them: the smallest set whose removal flips a prediction
  says how brittle it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = [
    "Exchange",
    "exchange_effects",
    "exchange_masks",
    "mask_effects",
    "random_sets",
    "smallest_flip",
]

Exchange = dict[str, np.ndarray]
"""Masks (n_sets, n_pairs, n_train) bool: ``kept`` with set and control, ``set`` and ``control``
with others in the place of that one."""


def mask_effects(weights: np.ndarray, kept: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Foretold mean difference of the margins of models trained on two groups of masks.

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)
        Datamodels in raw 0/1 mask units.
    kept, without : ndarray, shape (n_sets, n_models, n_train), bool
        Masks with and without each set.

    Returns
    -------
    ndarray, shape (n_sets, n_test), float64
        In margin units; positive where the set raises the margin.
    """
    weights = np.asarray(weights, np.float64)
    centred = weights - weights.mean(axis=1, keepdims=True)
    return (kept.mean(axis=1) - without.mean(axis=1)) @ centred.T


def exchange_effects(weights: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Δ of each set for each test example, (n_sets, n_test) float64, in margin units.

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)
        Datamodels in raw 0/1 mask units.
    sets : sequence of int arrays
        Indices of training examples; each leaves at least one out.
    """
    weights = np.asarray(weights, np.float64)
    centred = weights - weights.mean(axis=1, keepdims=True)
    n_train, effects = weights.shape[1], np.empty((len(sets), len(weights)))
    for row, members in enumerate(sets):
        size = len(np.unique(members))
        if size != len(members) or size >= n_train:
            raise ValueError(
                f"set {row} has {len(members)} members, {size} of them distinct, of {n_train} "
                "training examples; expected distinct ones that leave some out."
            )
        effects[row] = centred[:, members].sum(1) * n_train / (n_train - size)
    return effects


def smallest_flip(
    weights: np.ndarray, margin: float, *, alpha: float | None = None, limit: int | None = None
) -> tuple[np.ndarray, float]:
    """The smallest set whose removal is foretold to make one test example's margin negative.

    Images go in the order of their weights, the largest first, as in Ilyas et al. (2022): no other
    set of as many images is foretold to take off more, so no smaller one is foretold to flip.

    Parameters
    ----------
    weights : ndarray, shape (n_train,)
        Datamodel of the test example.
    margin : float
        Its mean margin with nothing removed; positive.
    alpha : float, optional
        The share of the training set in the masks that the set is left out of; by default it is
        left out of the whole training set.
    limit : int, optional
        The largest set looked at; by default all training examples but one.

    Returns
    -------
    members : int array
        In the order of their weights; the ``limit`` largest where no set within it flips.
    foretold : float
        The margin after the removal; negative where it flips.
    """
    weights = np.asarray(weights, np.float64)
    n_train = len(weights)
    limit = min(limit or n_train - 1, n_train - 1)
    if margin <= 0 or not 0 < (alpha or 1) <= 1 or limit < 1:
        raise ValueError(
            f"margin is {margin}, alpha {alpha}, limit {limit}; expected a positive margin (a "
            "right prediction to flip), a share in (0, 1] and a limit of at least 1."
        )
    order = np.argsort(-weights, kind="stable")[:limit]
    effects = np.cumsum(weights[order] - weights.mean())
    if alpha is not None:
        effects *= alpha * n_train / (n_train - np.arange(1, limit + 1))
    flipping = np.flatnonzero(margin - effects < 0)
    size = flipping[0] + 1 if len(flipping) else limit
    return order[:size], float(margin - effects[size - 1])


def random_sets(
    sets: Sequence[np.ndarray], n_train: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """For each set as many training examples at random, none of them in it."""
    drawn = []
    for members in sets:
        others = np.setdiff1d(np.arange(n_train), members)
        drawn.append(rng.permutation(others)[: len(members)])
    return drawn


def exchange_masks(
    sets: Sequence[np.ndarray],
    controls: Sequence[np.ndarray],
    *,
    n_train: int,
    size: int,
    n_pairs: int,
    rng: np.random.Generator,
) -> Exchange:
    """Random masks of the study's size that hold sets and controls, or others in their place.

    Parameters
    ----------
    sets, controls : sequence of int arrays
        As many, disjoint and of equal sizes pair by pair.
    n_train, size : int
        Training examples, and how many of them a mask holds.
    n_pairs : int
        Masks drawn for each set.
    rng : numpy.random.Generator

    Returns
    -------
    Exchange
        Mask by mask, ``kept`` and ``set`` differ by the set and what stands in its place, ``kept``
        and ``control`` by the control and the same others.

    Raises
    ------
    ValueError
        If a set is so large that a mask cannot hold it and its control, or cannot do without it.
    """
    shape = (len(sets), n_pairs, n_train)
    masks = {name: np.zeros(shape, bool) for name in ("kept", "set", "control")}
    for row, (members, control) in enumerate(zip(sets, controls, strict=True)):
        _check_pair(members, control, n_train, size)
        free = np.setdiff1d(np.arange(n_train), np.concatenate([members, control]))
        for pair in range(n_pairs):
            drawn = rng.permutation(free)
            n_beside = size - 2 * len(members)
            beside, others = drawn[:n_beside], drawn[n_beside : n_beside + len(members)]
            for name, held in (
                ("kept", (members, control)),
                ("set", (others, control)),
                ("control", (members, others)),
            ):
                masks[name][row, pair, np.concatenate([*held, beside])] = True
    return masks


def _check_pair(members: np.ndarray, control: np.ndarray, n_train: int, size: int) -> None:
    if len(members) != len(control) or len(np.intersect1d(members, control)):
        raise ValueError(
            f"a set of {len(members)} and a control of {len(control)} training examples share "
            f"{len(np.intersect1d(members, control))}; expected equal sizes and nothing shared."
        )
    limit = min(size // 2, n_train - size)
    if len(members) > limit:
        raise ValueError(
            f"a set of {len(members)} training examples is too large: masks of {size} of {n_train} "
            f"hold a set and its control, and can replace one, up to {limit}."
        )
