r"""Removal: sets that should flip predictions by what datamodels predict, and models without them.

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

Two settings. *Half*: masks of the study's size, so that what datamodels predict is exact where
margins are linear in the mask. *Full*: the whole training set but for the set, where datamodels
were never fitted. In both, models with and without a set have equal keys, so that the noise of
seeds drops out of their difference; random sets of equal size are the control.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

Exchange = dict[str, np.ndarray]
"""Masks (n_sets, n_pairs, n_train) bool: ``kept`` with set and control, ``set`` and ``control``
with others in the place of that one."""
KINDS = ("set", "control")
Train = Callable[[np.ndarray, str], np.ndarray]
"""Takes masks (n_sets, n_models, n_train) and a name, gives margins (n_sets, n_models, n_test).
Model j of every set has the same key."""
TABLE = ("setting", "test", "kind", "size", "predicted", "retrained", "low", "high")
TABLE += ("before", "foretold", "found")
MEMBERS = ("setting", "test", "kind", "train")


@dataclass(frozen=True)
class RemovalOptions:
    """How removal is tried.

    Attributes
    ----------
    alpha : float
        The share of the training set in the study's masks.
    n_tests : int
        Test examples whose predictions are to be flipped.
    n_models : int
        Models of each set, at least 2.
    seed : int
        Of the choice of test examples, controls and masks.
    """

    alpha: float = 0.5
    n_tests: int = 20
    n_models: int = 8
    seed: int = 0

    def largest_set(self, n_train: int) -> int:
        """A fifth of the training set, or what a mask can hold twice and do without."""
        size = round(self.alpha * n_train)
        return max(1, min(n_train // 5, size // 2, n_train - size))


@dataclass(frozen=True, eq=False)
class Setting:
    """What a set is left out of, and the mean margins (n_test,) before.

    ``alpha`` is the share of the training set in the masks, None for the whole of it.
    """

    name: str
    alpha: float | None
    before: np.ndarray


@dataclass(frozen=True, eq=False)
class Brittle:
    """Test examples and the sets whose removal is predicted to flip them.

    Attributes
    ----------
    tests : ndarray, shape (n,), int
    sets : list of n int arrays
    foretold : ndarray, shape (n,), float
        The margin without the set; not negative where no set within the limit is predicted to flip.
    """

    tests: np.ndarray
    sets: list[np.ndarray]
    foretold: np.ndarray


@dataclass(frozen=True, eq=False)
class Removals:
    """What removal was predicted to do, and did.

    Attributes
    ----------
    table : DataFrame
        One row a setting, test example and kind ("set" or "control"): ``size``, ``predicted`` and
        ``retrained`` effect on that test example's margin with the ``low`` and ``high`` end of a
        95% interval over models, the margin ``before``, the one ``foretold`` without the set, and
        the one ``found``. All masks of a control hold the set, so its own ``found`` is what its
        effect, times α, leaves of the margin before.
    members : DataFrame
        ``setting, test, kind, train``: the sets, in the order of their weights.
    effects : dict of str to ndarray, shape (n_sets, n_test), float32
        ``<setting>_<kind>_predicted`` and ``…_retrained``: effects on all test examples.
    """

    table: pd.DataFrame
    members: pd.DataFrame
    effects: dict[str, np.ndarray]


def measure_removals(
    weights: np.ndarray, margins: np.ndarray, train: Train, options: RemovalOptions
) -> Removals:
    """Choose sets, predict the effect of leaving them out, and measure it by training.

    Parameters
    ----------
    weights : ndarray, shape (n_test, n_train)
        Datamodels of the margins themselves, not relative to their class.
    margins : ndarray, shape (n_test,)
        Mean over the study's models.
    train : callable
        Trains models on given masks.
    options : RemovalOptions
    """
    rng = np.random.default_rng([options.seed, 201])
    n_test, n_train = weights.shape
    tests = rng.permutation(n_test)
    everything = np.ones((1, options.n_models, n_train), bool)
    whole = train(everything, "whole")
    half = Setting("half", options.alpha, margins)
    full = Setting("full", None, whole[0].mean(axis=0))
    parts = []
    for setting in (half, full):
        brittle = find_brittle(weights, setting, tests, options)
        if not len(brittle.tests):
            continue
        sets = {"set": brittle.sets, "control": random_sets(brittle.sets, n_train, rng)}
        masks = draw_masks(setting, sets, n_train, options, rng)
        found = train_kinds(masks, train, f"removal_{setting.name}")
        if setting is full:  # trained already
            masks["kept"], found["kept"] = everything, whole
        foretold = {kind: mask_effects(weights, masks["kept"], masks[kind]) for kind in KINDS}
        parts.append(tabulate(setting, brittle, sets, foretold, found))
    return join(parts)


def find_brittle(
    weights: np.ndarray, setting: Setting, tests: np.ndarray, options: RemovalOptions
) -> Brittle:
    """The first test examples whose predictions a small set is predicted to flip.

    ``tests`` are candidates in the order in which they are tried. Wrong predictions, which have
    none to flip, are passed over. Where too few can be flipped, others fill up.
    """
    right = [test for test in tests if setting.before[test] > 0]
    limit = options.largest_set(weights.shape[1])
    found = [
        smallest_flip(weights[test], setting.before[test], alpha=setting.alpha, limit=limit)
        for test in right
    ]
    order = sorted(range(len(right)), key=lambda i: found[i][1] >= 0)[: options.n_tests]
    return Brittle(
        np.array([right[i] for i in order], int),
        [found[i][0] for i in order],
        np.array([found[i][1] for i in order]),
    )


def smallest_flip(
    weights: np.ndarray, margin: float, *, alpha: float | None = None, limit: int | None = None
) -> tuple[np.ndarray, float]:
    """The smallest set whose removal is predicted to make one test example's margin negative.

    Images go in the order of their weights, the largest first, as in Ilyas et al. (2022): no other
    set of as many images is predicted to take off more, so no smaller one is predicted to flip.

    Parameters
    ----------
    weights : ndarray, shape (n_train,)
        Datamodel of the test example.
    margin : float
        Its mean margin with nothing removed; positive.
    alpha : float, optional
        Share of the training set in the masks that the set is left out of; by default all of it.
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


def mask_effects(weights: np.ndarray, kept: np.ndarray, without: np.ndarray) -> np.ndarray:
    """Predicted mean difference of the margins of models trained on two groups of masks.

    Weights (n_test, n_train) are in raw 0/1 mask units, the masks with and without each set
    (n_sets, n_models, n_train). Gives (n_sets, n_test) float64, positive where the set raises the
    margin.
    """
    weights = np.asarray(weights, np.float64)
    centred = weights - weights.mean(axis=1, keepdims=True)
    return (kept.mean(axis=1) - without.mean(axis=1)) @ centred.T


def exchange_effects(weights: np.ndarray, sets: Sequence[np.ndarray]) -> np.ndarray:
    """Δ of each set for each test example, (n_sets, n_test) float64, in margin units.

    Weights (n_test, n_train) are in raw 0/1 mask units; each set leaves at least one example out.
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


def random_sets(
    sets: Sequence[np.ndarray], n_train: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """For each set as many training examples at random, none of them in it."""
    drawn = []
    for members in sets:
        others = np.setdiff1d(np.arange(n_train), members)
        drawn.append(rng.permutation(others)[: len(members)])
    return drawn


def draw_masks(
    setting: Setting, sets: dict, n_train: int, options: RemovalOptions, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Masks (n_sets, n_models, n_train) of each kind that is to be trained."""
    if setting.alpha is None:
        return without(sets, n_train, options.n_models)
    return exchange_masks(
        sets["set"],
        sets["control"],
        n_train=n_train,
        size=round(setting.alpha * n_train),
        n_pairs=options.n_models,
        rng=rng,
    )


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

    Sets and controls are index arrays, disjoint and of equal sizes pair by pair; a mask holds
    ``size`` of ``n_train``. Mask by mask, ``kept`` and ``set`` differ by the set and what stands in
    its place, ``kept`` and ``control`` by the control and the same others. A ValueError says where
    a set is so large that a mask cannot hold it and its control, or cannot do without it.
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


def without(sets: dict, n_train: int, n_models: int) -> dict[str, np.ndarray]:
    """The whole training set but for each set, (n_sets, n_models, n_train) of each kind."""
    masks = {}
    for kind, chosen in sets.items():
        masks[kind] = np.ones((len(chosen), n_models, n_train), bool)
        for row, members in enumerate(chosen):
            masks[kind][row][:, members] = False
    return masks


def train_kinds(masks: dict[str, np.ndarray], train: Train, name: str) -> dict[str, np.ndarray]:
    """Margins (n_sets, n_models, n_test) of each kind of mask, all trained in one go."""
    margins = train(np.concatenate(list(masks.values())), name)
    return dict(zip(masks, np.split(margins, len(masks)), strict=True))


def tabulate(
    setting: Setting, brittle: Brittle, sets: dict, foretold: dict, found: dict
) -> Removals:
    """One setting's table, members and effects."""
    rows, members, effects = [], [], {}
    for kind in KINDS:
        differences = found["kept"] - found[kind]
        effects[f"{setting.name}_{kind}_predicted"] = foretold[kind].astype(np.float32)
        effects[f"{setting.name}_{kind}_retrained"] = differences.mean(1).astype(np.float32)
        for row, test in enumerate(brittle.tests):
            about = {"setting": setting.name, "test": test, "kind": kind}
            members.append(pd.DataFrame(about | {"train": sets[kind][row]}))
            about |= {"size": len(sets[kind][row]), "predicted": foretold[kind][row, test]}
            interval = with_interval(differences[row, :, test])
            about |= dict(zip(("retrained", "low", "high"), interval, strict=True))
            about |= {"before": setting.before[test], "foretold": brittle.foretold[row]}
            about["found"] = found[kind][row, :, test].mean()
            if kind == "control":
                about["found"] = about["before"] - (setting.alpha or 1) * about["retrained"]
            rows.append(about)
    return Removals(pd.DataFrame(rows), pd.concat(members, ignore_index=True), effects)


def with_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean over models, and the ends of its 95% interval by Student's t."""
    mean, n = values.mean(), len(values)
    reach = t.ppf(0.975, n - 1) * values.std(ddof=1) / np.sqrt(n)
    return mean, mean - reach, mean + reach


def join(parts: list[Removals]) -> Removals:
    """All settings in one; empty tables where no prediction could be tried."""
    if not parts:
        return Removals(pd.DataFrame(columns=TABLE), pd.DataFrame(columns=MEMBERS), {})
    table, members = (
        pd.concat([getattr(part, name) for part in parts], ignore_index=True)
        for name in ("table", "members")
    )
    return Removals(table, members, {k: v for part in parts for k, v in part.effects.items()})
