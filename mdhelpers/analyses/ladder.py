"""How far algorithms diverge, rung by rung, and what their models gain from each other.

Gontijo-Lopes, Dauphin and Cubuk ("No One Representation to Rule Them All") set pairs of models on a
ladder by what their trainings differ in: the initialisation, hyper-parameters, the architecture,
the data that they have seen. The further up, the less their errors agree (their Figure 1), and the
more of what only one of them gets right an ensemble of both gets right (their Figure 2). Their
Figure 5 begins with one model and adds the best of others, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.analyses.predictions import Predictions, first_choice_is, measure_pairs

RUNGS = (
    "reinitialisation",
    "hyper-parameters",
    "architecture",
    "data seen before",
    "kind of model",
)
OF_ARCHITECTURE = ("architecture", "width")
OF_START = ("initialisation", "trainable")
NO_DIFFERENCE = ("name",)
MEASURED = ("inconsistency", "of_expected", "conversion", "gain")


def rung(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """What two algorithms differ in, the furthest where it is several: one of `RUNGS`.

    Parameters
    ----------
    one, two : mapping
        Their specifications; the ``name`` is none of their differences.
    """
    keys = [k for k in {*one, *two} if k not in NO_DIFFERENCE and one.get(k) != two.get(k)]
    if "kind" in keys:
        return RUNGS[4]
    if any(key in OF_START for key in keys):
        return RUNGS[3]
    if any(key in OF_ARCHITECTURE for key in keys):
        return RUNGS[2]
    return RUNGS[1] if keys else RUNGS[0]


def pairs_of(n_models: int, *, within: bool, limit: int, rng: np.random.Generator) -> np.ndarray:
    """At most ``limit`` pairs of models, (n_pairs, 2) int; within an algorithm each pair once."""
    if within:
        pairs = np.stack(np.triu_indices(n_models, 1), axis=1)
    else:
        pairs = np.stack(np.divmod(np.arange(n_models**2), n_models), axis=1)
    return pairs[np.sort(rng.permutation(len(pairs))[:limit])]


def measure_ladder(
    predictions: Mapping[str, Predictions],
    rungs: Mapping[tuple[str, str], str],
    *,
    limit: int = 128,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> pd.DataFrame:
    """Error inconsistency, conversion and gain of every pair of algorithms.

    Parameters
    ----------
    predictions : mapping of name to Predictions
        As many models of each, trained from seeds that no two share.
    rungs : mapping
        Of each pair of names, in the order of ``predictions``; an algorithm with itself is one.
    limit : int
        Pairs of models of each pair of algorithms, drawn at random where there are more.
    n_bootstrap : int
        Drawings of models, for the intervals.
    seed : int

    Returns
    -------
    DataFrame
        ``first, second, rung, measure, mean, low, high, n_pairs``: each of `MEASURED`, as
        `mdhelpers.analyses.predictions.measure_pairs` defines them, with 95% intervals over models.
        The test examples are taken as they are.
    """
    rng, rows = np.random.default_rng([seed, 12]), []
    for (first, second), said in rungs.items():
        one, two = predictions[first], predictions[second]
        pairs = pairs_of(len(one.right), within=first == second, limit=limit, rng=rng)
        table = measure_pairs(one, two, pairs)
        weights = _weights(pairs, len(one.right), first == second, n_bootstrap, rng)
        for measure in MEASURED:
            about = {"first": first, "second": second, "rung": said, "measure": measure}
            rows.append(about | _summary(table[measure].to_numpy(), weights))
    return pd.DataFrame(rows)


def _weights(pairs: np.ndarray, n: int, within: bool, n_draws: int, rng) -> np.ndarray:
    """How often each pair counts, (1 + n_draws, n_pairs): as it is, then with models drawn anew."""
    one = rng.multinomial(n, np.full(n, 1 / n), size=n_draws)
    two = one if within else rng.multinomial(n, np.full(n, 1 / n), size=n_draws)
    drawn = one[:, pairs[:, 0]] * two[:, pairs[:, 1]]
    return np.concatenate([np.ones((1, len(pairs))), drawn])


def _summary(values: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    known = np.isfinite(values)
    total = weights[:, known].sum(1)
    sums = weights[:, known] @ values[known]
    means = np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)
    low, high = np.nanpercentile(means[1:], [2.5, 97.5]) if known.any() else (np.nan, np.nan)
    return {"mean": means[0], "low": low, "high": high, "n_pairs": int(known.sum())}


def greedy_ensembles(
    predictions: Mapping[str, Predictions], *, n_draws: int = 16, seed: int = 0
) -> pd.DataFrame:
    """Begin with a model of each algorithm, and add the best of the others, one after the other.

    The best is that with which the mean of all probabilities is right most often on one half of the
    test examples; what is reported is measured on the other. Each algorithm is added once at most;
    another seed of the first is a candidate too.

    Parameters
    ----------
    predictions : mapping of name to Predictions
        Two models of each at least.
    n_draws : int
        Choices of models, and of halves.
    seed : int

    Returns
    -------
    DataFrame
        ``base, step, added, accuracy, low, high``: after each step the mean accuracy over choices,
        the range of the middle 95% of them, and what was added most often ("" for step 0).
    """
    names, rng = list(predictions), np.random.default_rng([seed, 13])
    labels = next(iter(predictions.values())).labels
    n = min(len(p.right) for p in predictions.values())
    found: dict[tuple[str, int], list[tuple[float, str]]] = {}
    for _ in range(n_draws):
        chosen, halves = rng.permutation(n)[:2], np.arange(len(labels))
        rng.shuffle(halves)
        halves = np.array_split(halves, 2)
        for base in names:
            others = {name: predictions[name].probabilities[chosen[0]] for name in names}
            first = others.pop(base)
            others[base] = predictions[base].probabilities[chosen[1]]
            for step, said in enumerate(_greedily(first, others, labels, *halves)):
                found.setdefault((base, step), []).append(said)
    rows = [(*key, *_of_draws(draws)) for key, draws in found.items()]
    columns = ["base", "step", "added", "accuracy", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _greedily(first, others: dict[str, np.ndarray], labels, choosing, measuring):
    """The accuracy on one part, and what was added by that on the other, step by step."""
    total, others = first.astype(np.float64), dict(others)
    yield first_choice_is(total, labels)[measuring].mean(), ""
    while others:
        right = {
            name: first_choice_is((total + p)[choosing], labels[choosing]).mean()
            for name, p in others.items()
        }
        best = max(right, key=right.get)
        total = total + others.pop(best)
        yield first_choice_is(total, labels)[measuring].mean(), best


def _of_draws(draws: Sequence[tuple[float, str]]) -> tuple[str, float, float, float]:
    accuracies = np.array([accuracy for accuracy, _ in draws])
    low, high = np.percentile(accuracies, [2.5, 97.5])
    added = pd.Series([name for _, name in draws]).value_counts(sort=True).index[0]
    return added, float(accuracies.mean()), float(low), float(high)
