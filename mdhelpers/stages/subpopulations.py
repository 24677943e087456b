"""Stage 05: the test images at either end of each direction, and what marks them.

They are the distinguishing subpopulations. Where it is known what each image shows, as on scenes,
every end is graded by how well it picks out each planted feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdhelpers.data.datasets import Split
from mdhelpers.method.comparison import DirectionSet
from mdhelpers.method.subpopulations import (
    best_at_random,
    class_shares,
    grade,
    influence_table,
    match_features,
    shows,
    subpopulations,
)
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, SUBPOPULATIONS
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.data import read_data

VERDICTS = {
    "only_1": "seen, used more",
    "more_1": "seen, used more",
    "only_2": "seen, used more by the other",
    "more_2": "seen, used more by the other",
    "alike": "seen, used alike",
    "other_images": "seen, used through other images",
    "too_few": "seen, too few models to tell",
}


@dataclass(frozen=True, eq=False)
class StudySubpopulations:
    """What stage 05 made: members at both ends of every direction, graded where truth is known.

    ``classes`` is what `mdhelpers.method.subpopulations.class_shares` says of the members.
    """

    members: pd.DataFrame
    grades: pd.DataFrame | None
    classes: pd.DataFrame


def inspect_subpopulations(run: Run, *, top_k: int = 24) -> StudySubpopulations:
    """Stage 05: the test images at both ends of each direction; on scenes, AUC and precision."""
    # What is graded against decides the grades: results from before there was chance are made anew.
    parameters = {"top_k": top_k, "graded_against": "random directions"}
    stage = run.stage(SUBPOPULATIONS, parameters, after=[COMPARISON])
    with stage.working() as needed:
        test = read_data(run, mmap=True).test
        if needed:
            found = read_comparison(run)
            comparison = found.comparison
            parts = [subpopulations(directions, top_k=top_k) for directions in comparison]
            members = pd.concat(parts, ignore_index=True)
            tables = {"subpopulations": members}
            if len(test.truth.columns):
                parts = [graded(part, found.datamodels, test) for part in comparison]
                tables["grades"] = pd.concat(parts, ignore_index=True)
            influence = influence_table(comparison, *found.datamodels, top_k=top_k)
            figures = {"influence": influence.to_dict("records")}
            figures |= grade_figures(tables.get("grades"), found.uses, test.labels, test.truth)
            stage.keep(tables=tables, figures=figures)
    tables = run.kept(SUBPOPULATIONS)
    members = tables["subpopulations"]
    return StudySubpopulations(members, tables.get("grades"), class_shares(members, test.labels))


def read_subpopulations(run: Run) -> pd.DataFrame:
    """The members that stage 05 wrote."""
    run.check(SUBPOPULATIONS)
    return run.kept(SUBPOPULATIONS)["subpopulations"]


def graded(directions: DirectionSet, datamodels: tuple, test: Split) -> pd.DataFrame:
    """Grades of each end of each direction, beside the best of as many random directions."""
    given, n = (test.labels, test.truth), len(directions)
    grades = grade(directions, *given)
    random = best_at_random(directions.name, *datamodels, *given, n_directions=n)
    return grades.assign(random=grades["feature"].map(random))


def grade_figures(
    grades: pd.DataFrame | None,
    uses: pd.DataFrame | None,
    labels: np.ndarray,
    truth: pd.DataFrame,
) -> dict[str, Any]:
    """The best direction for each planted feature, and the feature that each end matches.

    ``best`` has a word for the use of its subpopulation in the feature's class, where there is one,
    and a ``verdict``: whether the direction shows the feature
    (`mdhelpers.method.subpopulations.shows`), and who surely uses what marks the subpopulation
    more, as is said of an algorithm compared with itself in one of forty cases at most. It is no
    finding yet: what is, page 7 says, where the feature itself is put into images.
    """
    if grades is None:
        return {}
    best = grades.groupby(["comparison", "feature"])["auc_within_class"].idxmax()
    best = grades.loc[best].copy()
    best["use"] = [use_of(row, uses, labels, truth) for row in best.itertuples()]
    seen = shows(best["auc_within_class"], best["random"])
    best["verdict"] = np.where(seen, best["use"].map(VERDICTS), "not seen")
    tables = {"best": best, "matches": match_features(grades)}
    return {name: table.to_dict("records") for name, table in tables.items()}


def use_of(row, uses: pd.DataFrame | None, labels: np.ndarray, truth: pd.DataFrame) -> str:
    """The word for a direction's end in the class of a feature; ``too_few`` where none is."""
    if uses is None or not len(uses):
        return "too_few"
    label = np.bincount(labels[truth[row.feature].to_numpy(bool)]).argmax()
    at = (uses["comparison"] == row.comparison) & (uses["direction"] == row.direction)
    words = uses["use"][at & (uses["end"] == row.end) & (uses["label"] == label)]
    return words.iloc[0] if len(words) else "too_few"
