"""Training sets chosen for a target, each verified by models trained on it and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from mdhelpers.data_selection import (
    largest_by_class,
    nearness_scores,
    random_by_class,
    split_target,
    target_scores,
)
from mdhelpers.datasets import Split
from mdhelpers.specs import unknown_word

__all__ = [
    "HARDEST",
    "WAYS",
    "Evidence",
    "SelectionOptions",
    "check_targets",
    "compare_selections",
    "target_members",
]

HARDEST = "hardest"
WAYS = ("random", "nearest", "datamodels")
GRADED = ("target", "way", "size")
GRADED += ("margin", "margin_low", "margin_high", "right", "right_low", "right_high")
GRADED += ("right_all", "right_all_low", "right_all_high")
CHOSEN = ("target", "way", "size", "train")
Train = Callable[[np.ndarray, str], np.ndarray]
"""As in `removal_study`."""


@dataclass(frozen=True)
class SelectionOptions:
    """Which training sets are compared.

    Attributes
    ----------
    targets : sequence of str
        Planted features, classes, or "hardest".
    sizes : sequence of int
        Training examples chosen.
    n_models : int
        Models of each way and size, at least 2.
    seed : int
        Of the halves of a target and the random subsets.
    """

    targets: Sequence[str] = (HARDEST,)
    sizes: Sequence[int] = (60,)
    n_models: int = 8
    seed: int = 0


def check_targets(targets: Sequence[str], known: Sequence[str]) -> None:
    """Refuse, before anything is trained, a target that is not "hardest" nor ``known``."""
    for name in targets:
        if name not in (HARDEST, *known):
            raise ValueError(
                f"selection_targets: {unknown_word(name, [HARDEST, *known], 'target')}"
            )


def target_members(name: str, test: Split, class_names, margins: np.ndarray) -> np.ndarray:
    """The test examples of a target.

    Parameters
    ----------
    name : str
        A planted feature's name, a class, or "hardest": of each class the quarter with the
        smallest mean margins.
    test : Split
    class_names : sequence of str
    margins : ndarray, shape (n_test,)
        Mean over the study's models.

    Raises
    ------
    ValueError
        If there is no such feature or class.
    """
    check_targets([name], [*test.truth.columns, *class_names])
    if name == HARDEST:
        quarters = []
        for label in np.unique(test.labels):
            members = np.flatnonzero(test.labels == label)
            order = np.argsort(margins[members], kind="stable")
            quarters.append(members[order[: max(2, len(members) // 4)]])
        return np.sort(np.concatenate(quarters))
    if name in test.truth.columns:
        return np.flatnonzero(test.truth[name])
    return np.flatnonzero(test.labels == list(class_names).index(name))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What subsets are chosen by.

    Attributes
    ----------
    weights : ndarray, shape (n_test, n_train)
        Datamodels of the margins themselves.
    distances : ndarray, shape (n_test, n_train)
        Between the images.
    train_labels, test_labels : int arrays
    """

    weights: np.ndarray
    distances: np.ndarray
    train_labels: np.ndarray
    test_labels: np.ndarray

    def scores(self, targets: np.ndarray) -> dict[str, np.ndarray]:
        """For each way that is not random what it takes each training example to be worth."""
        return {
            "nearest": nearness_scores(self.distances, targets),
            "datamodels": target_scores(self.weights, targets),
        }


def compare_selections(
    evidence: Evidence, targets: dict[str, np.ndarray], train: Train, options: SelectionOptions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train on subsets chosen in three ways, and grade them on the other half of each target.

    ``random`` draws another subset for each model; the others train several models on one subset:
    ``nearest`` on the images that lie nearest to some test example of the target, ``datamodels``
    on those of the largest mean weight over it. All have the same class counts.

    Parameters
    ----------
    evidence : Evidence
    targets : dict of str to int arrays
        Test examples by the target's name.
    train : callable
    options : SelectionOptions

    Returns
    -------
    graded : DataFrame
        ``target, way, size``, then ``margin`` and ``right`` (share of right answers) on the half
        of the target that chose nothing, and ``right_all`` on all test examples, each with
        ``…_low`` and ``…_high`` of a 95% interval over models.
    chosen : DataFrame
        ``target, way, size, train``: the subsets, random ones left out.
    """
    rng = np.random.default_rng([options.seed, 202])
    halves = {
        name: split_target(members, evidence.test_labels, rng) for name, members in targets.items()
    }
    masks = subsets(evidence, {name: half[0] for name, half in halves.items()}, rng, options)
    margins = dict(zip(masks, train(np.stack(list(masks.values())), "selection"), strict=True))
    rows = []
    for name, (_, grading) in halves.items():
        for (target, way, size), found in margins.items():
            if target in (name, ""):
                rows.append({"target": name, "way": way, "size": size} | grade(found, grading))
    chosen = [
        pd.DataFrame({"target": target, "way": way, "size": size, "train": np.flatnonzero(mask[0])})
        for (target, way, size), mask in masks.items()
        if target
    ]
    return pd.DataFrame(rows), pd.concat(chosen, ignore_index=True)


def subsets(
    evidence: Evidence, choosing: dict[str, np.ndarray], rng, options: SelectionOptions
) -> dict[tuple[str, str, int], np.ndarray]:
    """Masks (n_models, n_train) by target, way and size; random ones serve all targets."""
    labels, n_models = evidence.train_labels, options.n_models
    masks = {("", "random", k): random_by_class(labels, k, n_models, rng) for k in options.sizes}
    for name, targets in choosing.items():
        for way, scores in evidence.scores(targets).items():
            for size in options.sizes:
                mask = largest_by_class(scores, labels, size)
                masks[name, way, size] = np.tile(mask, (n_models, 1))
    return masks


def grade(margins: np.ndarray, grading: np.ndarray) -> dict[str, float]:
    """Means over models and test examples, with intervals over models."""
    right = margins > 0
    values = {"margin": margins[:, grading], "right": right[:, grading], "right_all": right}
    found = {}
    for name, value in values.items():
        each = value.mean(axis=1)
        reach = t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each))
        found |= {name: each.mean(), f"{name}_low": each.mean() - reach}
        found[f"{name}_high"] = each.mean() + reach
    return found
