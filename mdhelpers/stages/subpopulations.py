"""Stage 05: the test images at either end of each direction, and what marks them.

They are the distinguishing subpopulations. Where it is known what each image shows, as on scenes,
every end is graded by how well it picks out each planted feature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mdhelpers.method.subpopulations import (
    class_shares,
    grade,
    influence_table,
    match_features,
    subpopulations,
)
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import COMPARISON, SUBPOPULATIONS
from mdhelpers.stages.comparison import read_comparison
from mdhelpers.stages.data import read_data


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
    stage = run.stage(SUBPOPULATIONS, {"top_k": top_k}, after=[COMPARISON])
    with stage.working() as needed:
        test = read_data(run, mmap=True).test
        if needed:
            found = read_comparison(run)
            comparison = found.comparison
            parts = [subpopulations(directions, top_k=top_k) for directions in comparison]
            members = pd.concat(parts, ignore_index=True)
            tables = {"subpopulations": members}
            if len(test.truth.columns):
                parts = [grade(directions, test.labels, test.truth) for directions in comparison]
                tables["grades"] = pd.concat(parts, ignore_index=True)
            influence = influence_table(comparison, *found.datamodels, top_k=top_k)
            figures = {"influence": influence.to_dict("records")}
            figures |= grade_figures(tables.get("grades"))
            stage.keep(tables=tables, figures=figures)
    tables = run.kept(SUBPOPULATIONS)
    members = tables["subpopulations"]
    return StudySubpopulations(members, tables.get("grades"), class_shares(members, test.labels))


def read_subpopulations(run: Run) -> pd.DataFrame:
    """The members that stage 05 wrote."""
    run.check(SUBPOPULATIONS)
    return run.kept(SUBPOPULATIONS)["subpopulations"]


def grade_figures(grades: pd.DataFrame | None) -> dict[str, Any]:
    """The best direction for each planted feature, and the feature that each end matches."""
    if grades is None:
        return {}
    best = grades.groupby(["comparison", "feature"])["auc_within_class"].idxmax()
    tables = {"best": grades.loc[best], "matches": match_features(grades)}
    return {name: table.to_dict("records") for name, table in tables.items()}
