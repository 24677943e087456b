r"""Explained variance gaps that a direction did not choose for itself.

A direction found in the residuals of two fits fits their noise too, and measured on the same fits
its gap is large even where an algorithm is compared with itself. So the models are split at
random: directions come from one half, and their gap is measured on datamodels fitted to the other
half, whose noise they never saw. For a direction ``u`` of half A it is

.. math:: \frac{\lVert \Theta^{(1)}_B u \rVert^2}{\lVert \Theta^{(1)}_B \rVert_F^2}
   - \frac{\lVert \Theta^{(2)}_B u \rVert^2}{\lVert \Theta^{(2)}_B \rVert_F^2} ,

of normalised datamodels (see :mod:`mdhelpers.method.comparison`), with the sign that makes it
positive where the first-named algorithm relies on the direction more. An algorithm compared with
itself then has a gap of zero but for chance; :func:`null_gaps` shows how large chance makes it.

A direction of the comparison on all models saw both halves, and projecting it on what one half
found does not undo that: in simulations the gap of such a projection stayed at two thirds of the
real one under the null. It is therefore given the gaps of the half's own directions, each weighted
by the fourth power of its cosine with it: little bias under the null, less variance than taking the
most similar direction alone, and planted differences came first more often.

Where the fits know their models' outputs (:class:`mdhelpers.method.datamodels.Fitter`), each
direction also gets a gap that is free of noise, its interval, and a p-value
(:mod:`mdhelpers.method.evidence`), measured on the half that did not find it; and where test
examples have labels, its subpopulations get shares and a word that says which algorithm uses what
marks them (:mod:`mdhelpers.method.uses`). Where fits have scores from gradients
(:mod:`mdhelpers.method.trak`), all this is measured on the scores of models that did not find the
direction: it is how gradients see the algorithms. A bias of gradients that differs between
algorithms would look like a difference between them. So the same hypothesis is tested once more on
the *outputs* of the other half's models, which were trained on random subsets, and have no
gradient in them: a direction that stands there too is *confirmed* by retraining. Halves share no
slot where there are enough: models of one slot share an initialisation, whose own datamodels both
halves would find.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from mdhelpers.method.comparison import (
    COMPARISONS,
    Comparison,
    explained_variance,
    normalise_rows,
    principal_directions,
    residual_datamodels,
)
from mdhelpers.method.datamodels import FitOn, Fitter, device_of, fit_all, n_scored
from mdhelpers.method.engines.moments import split_groups, split_models
from mdhelpers.method.evidence import (
    FEWEST_GROUPS,
    REPLICATES,
    STRONG,
    WORDS,
    Gaps,
    Outputs,
    benjamini_hochberg,
    combine,
    group_models,
    word,
)
from mdhelpers.method.rotation import rotation_of
from mdhelpers.method.subpopulations import ENDS
from mdhelpers.method.trak import Scores
from mdhelpers.method.uses import (
    DIFFERENT,
    Margins,
    contrast_weights,
    contrasts,
    measured_uses,
    subpopulation_classes,
)

_EVIDENCE = ["gap", "low", "high", "ratio", "ratio_low", "ratio_high", "z", "p"]
PARTIES = {"1 against 2": (1, 2), "1 against 1": (1, 1), "2 against 2": (2, 2)}


@dataclass(frozen=True)
class CrossFit:
    """Cross-fitted gaps; ``low`` and ``high`` are percentiles 5 and 95 over splits and halves.

    They show how much a gap hangs on the split; the splits share models, so they are not a
    confidence interval.

    Attributes
    ----------
    totals : DataFrame
        ``comparison, n_directions, gap, low, high``: the sum of the gaps of as many directions of
        half the models.
    directions : DataFrame
        ``comparison, direction, naive_gap, gap, low, high, replication``: for each direction
        (rank of its component) of the comparison on all models. ``replication`` is the mean over
        halves of its largest absolute cosine with a direction found there. Empty where no
        comparison was given. With :class:`Fitter` objects also ``clean_gap, clean_low,
        clean_high`` (noise-free, of the directions that halves find in its place, 95% interval),
        ``ratio, ratio_low, ratio_high`` (how many times more variance the first-named algorithm has
        along them), ``z``, ``p``, ``q`` (Benjamini and Hochberg's, over all directions of both
        comparisons) and ``evidence``, a word. Where it is ``too few``, all of these are NaN. Where
        these come from gradients also ``retrained_z, retrained_p, retrained_q``, of the models'
        outputs, and ``confirmed``: ``confirmed``, ``not confirmed``, or ``not tested`` where the
        direction is not significant or there are too few models.
    uses : DataFrame
        ``comparison, direction, end, label, n`` of each class that makes up an end
        (:func:`mdhelpers.method.uses.subpopulation_classes`), and what
        :func:`mdhelpers.method.uses.measured_uses` says of it, 1 being the first-named algorithm.
        Empty without labels, or where there are too few models.
    """

    totals: pd.DataFrame
    directions: pd.DataFrame
    uses: pd.DataFrame


def cross_fitted_gaps(
    fit_1: FitOn,
    fit_2: FitOn,
    n_models: int,
    *,
    comparison: Comparison | None = None,
    labels: np.ndarray | None = None,
    top_k: int = 24,
    margins: Margins | None = None,
    n_directions: int = 8,
    n_splits: int = 8,
    slots: np.ndarray | None = None,
    seed: int = 0,
) -> CrossFit:
    """Gaps of directions found on half of the models and measured on the other half.

    Each split serves twice, its halves changing places, and costs two fits an algorithm.

    Parameters
    ----------
    fit_1, fit_2 : callable
        Takes indices of models (a sorted int array), gives weights of shape (n_test, n_train).
    n_models : int
        Models of each algorithm; both are split alike.
    comparison : Comparison, optional
        Of the fits on all models: its directions get a gap too. Directions of halves are turned
        as its own.
    labels : ndarray, shape (n_test,), int, optional
        Classes of the test examples: with them, both ends of its directions get ``uses``.
    top_k : int
        Test examples at an end.
    margins : Margins, optional
        What counts as none and as alike.
    n_directions : int
        Directions taken from a half. Twice as many are considered for a direction of
        ``comparison``, whose rank may change.
    n_splits : int
    slots : ndarray, shape (n_models,), int, optional
        Halves share no slot where there are 16 or more. Fewer are split evenly, and evidence is
        not weighed; nor is it with fewer than 16 models.
    seed : int
        Of the splits.

    Raises
    ------
    ValueError
        If there are too few models, or a fit gives the wrong shape.
    """
    rng, groups = np.random.default_rng(seed), group_models(n_models, slots)
    fitters, device = (fit_1, fit_2), device_of(fit_1)
    weighs = comparison is not None and all(isinstance(fit, Fitter) for fit in fitters)
    scored = [fit.scored(np.arange(n_models)) for fit in fitters] if weighs else []
    by_scores = weighs and all(len(each) for each in scored)
    weighed = groups[: min(map(len, scored))] if by_scores else groups
    enough = weighs and len(np.unique(weighed)) >= FEWEST_GROUPS
    wanted = None
    if labels is not None and enough:
        wanted = subpopulation_classes(comparison, labels, top_k=top_k)
    record = _Record(comparison, wanted, labels, margins)
    rotation = "none" if comparison is None else comparison.rotation
    for _ in range(n_splits):
        halves = split_groups(n_models, 2, rng, slots, groups, n_first=n_scored(*fitters))
        weights = fit_all((fit, models) for models in halves for fit in fitters)
        lengths = [np.linalg.norm(rows, axis=1) for rows in weights]
        rows = [normalised(weights), normalised(weights)]  # takes them, two at a time
        record.begin_split()
        for found, other in ((0, 1), (1, 0)):
            if enough:
                own = lengths[2 * found : 2 * found + 2]
                pairs = list(zip(fitters, own, strict=True))
                outputs = tuple(measured(fit, halves[other], n, groups) for fit, n in pairs)
                record.ids[-1].append(outputs[0].ids)
                given = [(replace(fit, scores=None), n) for fit, n in pairs if by_scores]
                retrained = tuple(measured(fit, halves[other], n, groups) for fit, n in given)
                if retrained:  # of all the half's models, of which not all need have scores
                    record.retrained_ids[-1].append(retrained[0].ids)
            for name in COMPARISONS:
                directions, patterns = residual_directions(
                    name, rows[found], 2 * n_directions, device=device
                )
                directions, patterns = turned(directions, patterns, n_directions, rotation)
                gap = signed_gap(name, *rows[other], directions)
                record.gaps[name].append(gap[:n_directions])
                record.match(name, directions, gap)
                if enough:
                    others = rows[found][1 if name == "1_minus_2" else 0]
                    record.weigh(name, directions, patterns, others, outputs, retrained)
    directions = record.table(weighs)
    return CrossFit(_total_table(record.gaps), directions, record.uses(directions))


def order_by_gap(comparison: Comparison, gaps: CrossFit | pd.DataFrame) -> Comparison:
    """The comparison with the directions of the strongest evidence first, see `in_order`.

    ``gaps`` is what :func:`cross_fitted_gaps` gave for this comparison, or its ``directions``.
    """
    table = gaps.directions if isinstance(gaps, CrossFit) else gaps
    table, ordered = in_order(table), []
    for direction_set in comparison:
        found = table["direction"][table["comparison"] == direction_set.name].to_numpy()
        missing = np.setdiff1d(direction_set.component, found)
        if len(missing):
            raise ValueError(
                f"no gap for directions {missing.tolist()} of {direction_set.name}; expected one "
                "for each. Pass the comparison to cross_fitted_gaps."
            )
        place = {component: i for i, component in enumerate(direction_set.component)}
        ordered.append(direction_set.reordered([place[d] for d in found if d in place]))
    return replace(comparison, one_minus_two=ordered[0], two_minus_one=ordered[1])


def in_order(gaps: pd.DataFrame) -> pd.DataFrame:
    """Rows of each comparison by evidence: strong, weak, none; within each the largest gap first.

    The gap is the noise-free one, or the cross-fitted one where evidence was not weighed.
    """
    if "evidence" not in gaps:
        return gaps.sort_values(["comparison", "gap"], ascending=[True, False], kind="stable")
    size = gaps["clean_gap"].fillna(gaps["gap"]) if "gap" in gaps else gaps["clean_gap"]
    keys = gaps.assign(word=gaps["evidence"].map(WORDS.index), least=-size)
    return gaps.loc[keys.sort_values(["comparison", "word", "least"], kind="stable").index]


def null_gaps(
    fit_1: FitOn,
    fit_2: FitOn,
    n_models: int,
    *,
    n_directions: int = 8,
    n_splits: int = 4,
    slots: np.ndarray | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Gaps of the two algorithms against each other, and of each against itself, at one budget.

    Models are split in four quarters. Each party of a pair finds directions with one and measures
    them with another, no quarter serving twice, so that an algorithm compared with itself is
    fitted on disjoint models. All six choices of the two quarters that find are used. Each split
    costs four fits an algorithm.

    An algorithm against itself has an expected gap of exactly zero, the parties being exchangeable:
    what these rows tell is how large a gap chance makes. At a quarter of the models gaps are
    smaller and noisier than those of :func:`cross_fitted_gaps`; compare them with each other only.

    Parameters are those of :func:`cross_fitted_gaps`.

    Returns
    -------
    DataFrame
        ``pair, comparison, direction, naive_gap, gap, split``: one row per pair ("1 against 2",
        "1 against 1", "2 against 2"), comparison, rank of the direction and choice of quarters.
        The naive gap is measured on the quarters that found the direction.
    """
    rng, groups = np.random.default_rng(seed), group_models(n_models, slots)
    tables, scored = [], n_scored(fit_1, fit_2)
    for split in range(n_splits):
        if slots is None:
            quarters = split_models(n_models, 4, rng, n_first=scored)
        else:
            quarters = split_groups(n_models, 4, rng, slots, groups, n_first=scored)
        fitted = _fits_on((fit_1, fit_2), quarters)
        for choice, (i, j) in enumerate(combinations(range(4), 2)):
            k, m = (quarter for quarter in range(4) if quarter not in (i, j))
            for pair, (first, second) in PARTIES.items():
                found = fitted(first, i), fitted(second, j)
                measured = fitted(first, k), fitted(second, m)
                table = _null_table(found, measured, n_directions, device_of(fit_1))
                tables.append(table.assign(pair=pair, split=6 * split + choice))
    columns = ["pair", "comparison", "direction", "naive_gap", "gap", "split"]
    return pd.concat(tables, ignore_index=True)[columns]


def null_totals(gaps: pd.DataFrame) -> pd.DataFrame:
    """Sums over directions of :func:`null_gaps`, averaged over splits.

    Returns
    -------
    DataFrame
        ``pair, comparison, naive_first, naive_gap, gap, low, high``: the naive gap of the first
        direction, the sums of naive and cross-fitted gaps, and percentiles 5 and 95 of the latter
        over splits and choices of quarters.
    """
    keys = ["pair", "comparison"]
    sums = gaps.groupby([*keys, "split"], sort=False)[["naive_gap", "gap"]].sum()
    groups = sums.groupby(keys, sort=False)
    first = gaps[gaps["direction"] == 1].groupby(keys, sort=False)["naive_gap"].mean()
    table = groups.mean().assign(
        low=groups["gap"].quantile(0.05), high=groups["gap"].quantile(0.95), naive_first=first
    )
    columns = [*keys, "naive_first", "naive_gap", "gap", "low", "high"]
    return table.reset_index()[columns]


def signed_gap(name: str, first, second, directions) -> np.ndarray:
    """Gap of directions, positive where the first-named algorithm relies on them more."""
    gap = explained_variance(first, directions) - explained_variance(second, directions)
    return gap if name == "1_minus_2" else -gap


class _Record:
    """What the splits gave: gaps by rank, and those of the comparison's directions."""

    def __init__(self, comparison: Comparison | None, wanted=None, labels=None, margins=None):
        self.comparison, self.wanted, self.labels = comparison, wanted, labels
        self.margins = margins
        self.gaps = {name: [] for name in COMPARISONS}
        self.matched = {name: [] for name in COMPARISONS}
        self.evidence: dict[str, list[list[Gaps]]] = {name: [] for name in COMPARISONS}
        self.retrained: dict[str, list[list[Gaps]]] = {name: [] for name in COMPARISONS}
        self.contrasts: dict[str, list[list[np.ndarray]]] = {name: [] for name in COMPARISONS}
        self.ids: list[list[np.ndarray]] = []
        self.retrained_ids: list[list[np.ndarray]] = []

    def begin_split(self) -> None:
        kept = (self.evidence, self.retrained, self.contrasts)
        parts = (part for each in kept for part in each.values())
        for halves in (*parts, self.ids, self.retrained_ids):
            halves.append([])

    def match(self, name: str, directions, gap) -> None:
        """Give the gaps of a half's directions to the comparison's, by likeness."""
        if self.comparison is not None:
            cosines = np.abs(self._cosines(name, directions))
            self.matched[name].append(np.stack([likeness_weights(cosines) @ gap, cosines.max(1)]))

    def weigh(self, name: str, directions, patterns, others, outputs, retrained) -> None:
        """Give the evidence for a half's directions to the comparison's in the same way."""
        cosines = self._cosines(name, directions)
        kinds = (self.evidence, outputs), (self.retrained, retrained)
        for kept, measures in kinds[: 2 if retrained else 1]:
            pair = measures if name == "1_minus_2" else measures[::-1]
            found = Gaps.along(*pair, directions, patterns, others)
            kept[name][-1].append(found.mixed(likeness_weights(cosines)))
        pair = outputs if name == "1_minus_2" else outputs[::-1]
        if self.wanted is not None:
            nearest = np.abs(cosines).argmax(1)
            turned = np.sign(cosines[np.arange(len(nearest)), nearest])
            projections = turned[:, None] * patterns[nearest]  # (n_directions, n_test)
            chosen = self._contrasts(name, projections)
            self.contrasts[name][-1].append(contrasts(*pair, *chosen))

    def _contrasts(self, name: str, projections) -> tuple[np.ndarray, np.ndarray]:
        """Weights of a half's own subpopulations, (n_test, n_wanted), and of their classes."""
        place = {component: i for i, component in enumerate(self.comparison[name].component)}
        wanted = self.wanted[self.wanted["comparison"] == name]
        chosen = [
            contrast_weights(
                (1 if row.end == ENDS[0] else -1) * projections[place[row.direction]],
                self.labels,
                row.label,
                row.n,
            )
            for row in wanted.itertuples()
        ]
        return tuple(np.stack(part, 1) for part in zip(*chosen, strict=True))

    def _cosines(self, name: str, directions) -> np.ndarray:
        return self.comparison[name].directions @ directions.T

    def table(self, weighed: bool) -> pd.DataFrame:
        table = _direction_table(self.comparison, self.matched)
        if not weighed:
            return table
        if self.evidence[COMPARISONS[0]][0]:
            found = pd.concat([pd.DataFrame(combine(e, self.ids)) for e in self.evidence.values()])
            found = found.reset_index(drop=True)
        else:
            found = pd.DataFrame(np.nan, table.index, _EVIDENCE)
        renamed = {key: f"clean_{key}" for key in ("gap", "low", "high")}
        table = table.join(found.rename(columns=renamed))
        table["q"] = benjamini_hochberg(table["p"])
        table["evidence"] = list(map(word, table["q"], table["replication"], table["clean_low"]))
        return self._confirmed(table) if self.retrained[COMPARISONS[0]][0] else table

    def _confirmed(self, table: pd.DataFrame) -> pd.DataFrame:
        """With what the outputs of retrained models say of each direction."""
        each = [combine(halves, self.retrained_ids) for halves in self.retrained.values()]
        for key in ("z", "p"):
            table[f"retrained_{key}"] = np.concatenate([found[key] for found in each])
        table["retrained_q"] = benjamini_hochberg(table["retrained_p"])
        known, called = table["retrained_q"] < STRONG, table["q"] < STRONG
        word = np.where(known, "confirmed", "not confirmed")
        return table.assign(confirmed=np.where(called, word, "not tested"))

    def uses(self, directions: pd.DataFrame) -> pd.DataFrame:
        """Words for subpopulations, of directions with this evidence."""
        if self.wanted is None or not self.contrasts[COMPARISONS[0]][0]:
            return pd.DataFrame(columns=["comparison", "direction", "end", "label", "n", "use"])
        found = [measured_uses(c, self.ids, self.margins) for c in self.contrasts.values()]
        table = self.wanted.join(pd.concat(found, ignore_index=True))
        keys = ["comparison", "direction"]
        known = table[keys].merge(directions, on=keys, how="left")
        # A direction that halves do not find has other subpopulations there; and a difference is
        # claimed where the algorithms differ along the direction, in spite of many being looked at.
        unsure = (known["q"] >= STRONG) & table["use"].isin(DIFFERENT)
        unsure |= known["replication"] < REPLICATES
        return table.assign(use=table["use"].mask(unsure, "too_few"))


def likeness_weights(cosines: np.ndarray) -> np.ndarray:
    """Weights of a half's directions for each of the comparison's, rows that sum to 1."""
    weights = cosines**4 + 1e-12
    return weights / weights.sum(1, keepdims=True)


def measured(
    fit: Fitter, models: np.ndarray, lengths: np.ndarray, groups: np.ndarray | None = None
) -> Outputs | Scores:
    """Outputs of some of a fitter's models, or their scores where there are some.

    In units of datamodels' lengths (n_test,). ``groups`` are those of all its models.
    """
    if fit.scores is not None:
        groups = group_models(len(fit.masks), fit.slots) if groups is None else groups
        return Scores(fit.scores, fit.scored(models), lengths, groups, device=fit.device)
    given = fit.masks[models], fit.margins[models]
    groups = None if groups is None else groups[models]
    about = {"slots": fit.slots_of(models), "groups": groups, "device": fit.device}
    return Outputs.measured(*given, lengths, **about)


def normalised(weights: list[np.ndarray]) -> list[np.ndarray]:
    """Both algorithms' normalised datamodels, of equal shapes; they are taken out of the list."""
    rows = [normalise_rows(weights.pop(0)) for _ in range(2)]
    if rows[0].shape != rows[1].shape or rows[0].ndim != 2:
        raise ValueError(
            f"fit_1 gave shape {rows[0].shape} and fit_2 {rows[1].shape}; expected "
            "(n_test, n_train) twice, for the same examples."
        )
    return rows


def residual_directions(
    name: str, rows, n_directions: int, *, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Principal directions of a half's residuals, and its test examples' projections on them.

    Of both algorithms' normalised ``rows`` (n_test, n_train); shapes (n_directions, n_train) and
    (n_directions, n_test).
    """
    residuals = _residuals(name, *rows)
    most = min(n_directions, *residuals.shape)
    directions = principal_directions(residuals, most, device=device)
    return directions, directions @ residuals.T


def turned(directions, patterns, n: int, rotation: str) -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` directions turned as those of all models are; the others as they are."""
    if rotation == "none":
        return directions, patterns
    turn = rotation_of(patterns[:n].T, rotation).T
    return tuple(np.concatenate([turn @ part[:n], part[n:]]) for part in (directions, patterns))


def _residuals(name: str, first, second) -> np.ndarray:
    """Of a comparison of two algorithms' normalised datamodels."""
    pair = (first, second) if name == "1_minus_2" else (second, first)
    return residual_datamodels(*pair)


def _spread(values: np.ndarray) -> dict[str, np.ndarray]:
    low, high = np.percentile(values, [5, 95], axis=0)
    return {"gap": values.mean(0), "low": low, "high": high}


def _total_table(gaps: dict[str, list]) -> pd.DataFrame:
    rows = []
    for name, values in gaps.items():
        values = np.array(values)
        head = {"comparison": name, "n_directions": values.shape[1]}
        rows.append({**head, **_spread(values.sum(1))})
    return pd.DataFrame(rows)


def _direction_table(comparison: Comparison | None, matched: dict[str, list]) -> pd.DataFrame:
    columns = ["comparison", "direction", "naive_gap", "gap", "low", "high", "replication"]
    if comparison is None:
        return pd.DataFrame(columns=columns)
    tables = []
    for direction_set in comparison:
        values = np.array(matched[direction_set.name])
        table = {"comparison": direction_set.name, "direction": direction_set.component}
        table |= {"naive_gap": direction_set.naive_gap, **_spread(values[:, 0])}
        table["replication"] = values[:, 1].mean(0)
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True)[columns]


def _fits_on(
    fits: tuple[FitOn, FitOn], parts: list[np.ndarray]
) -> Callable[[int, int], np.ndarray]:
    """Normalised fits of algorithm 1 or 2 on each part."""
    found = fit_all((fit, models) for fit in fits for models in parts)
    rows = [normalise_rows(found.pop(0)) for _ in range(len(found))]  # one at a time twice there
    return lambda algorithm, part: rows[(algorithm - 1) * len(parts) + part]


def _null_table(found, measured, n_directions: int, device: str) -> pd.DataFrame:
    tables = []
    for name in COMPARISONS:
        residuals = _residuals(name, *found)
        most = min(n_directions, *residuals.shape)
        directions = principal_directions(residuals, most, device=device)
        columns = {"comparison": name, "direction": np.arange(1, len(directions) + 1)}
        columns["naive_gap"] = signed_gap(name, *found, directions)
        columns["gap"] = signed_gap(name, *measured, directions)
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables)
