"""Page 05's rows of images, tables and grades."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from mdhelpers.runs.stage import SUBPOPULATIONS
from mdhelpers.show import subpopulations

NAMES = ("fixed", "shifted")
ROWS = [
    ("1_minus_2", 2, "top", "tag", 0.97, 0.9, 0.5),
    ("1_minus_2", 2, "bottom", "ring", 0.8, 0.7, 0.0),
    ("1_minus_2", 1, "top", "ring", 0.6, 0.6, 0.1),
    ("1_minus_2", 1, "bottom", "tag", 0.7, 0.6, 0.1),
]
COLUMNS = ["comparison", "direction", "end", "feature", "auc_within_class", "auc", "precision_at_k"]


def test_members_come_outermost_first():
    members = pd.DataFrame(
        {"comparison": "1_minus_2", "direction": 3, "end": ["top", "top", "bottom"],
         "rank": [2, 1, 1], "index": [7, 5, 9]}
    )  # fmt: skip
    assert subpopulations.members_at(members, "1_minus_2", 3, "top").tolist() == [5, 7]


def test_an_end_that_holds_all_of_its_classes_has_no_others_beside_it():
    test = SimpleNamespace(labels=np.array([0, 0, 1, 1]), images=np.zeros((4, 2, 2, 3), np.uint8))
    ends = [("top", 0), ("top", 1), ("bottom", 2)]
    members = pd.DataFrame(
        [("1_minus_2", 1, end, rank, index) for rank, (end, index) in enumerate(ends)],
        columns=["comparison", "direction", "end", "rank", "index"],
    )
    directions = SimpleNamespace(name="1_minus_2", component=[1])
    rows = subpopulations.subpopulation_rows(members, directions, test)
    assert {label: len(row) for label, row in rows.items()} == {
        "#1 ▲": 2,
        "random as #1 ▲": 0,
        "#1 ▼": 1,
        "random as #1 ▼": 1,
    }


def test_matches_keep_the_order_of_evidence_and_mark_what_is_found():
    weaker = [(*row[:3], "stripes", row[4] - 0.2, *row[5:]) for row in ROWS]
    grades = pd.DataFrame([*ROWS, *weaker], columns=COLUMNS).assign(n=10, random=0.9)
    table = subpopulations.matches(SimpleNamespace(grades=grades), names=("plain", "augmented"))
    assert list(table.columns) == ["top", "bottom"]
    assert table.index.tolist() == [("plain ∖ augmented", 2), ("plain ∖ augmented", 1)]
    assert table.iloc[0].tolist() == ["tag ★ 0.97, 0.90, 50%", "ring 0.80, 0.70, 0%"]
    assert not table.iloc[1].str.contains("★").any()
    assert "No truth" in subpopulations.matches(
        SimpleNamespace(grades=None), names=("plain", "augmented")
    )


def test_auc_heatmap_writes_the_better_end(ax):
    rows = [
        ("1_minus_2", 1, "top", "tag", 0.99),
        ("1_minus_2", 1, "bottom", "tag", 0.01),
        ("1_minus_2", 1, "top", "yellow_square", 0.3),
        ("1_minus_2", 1, "bottom", "yellow_square", 0.7),
        ("2_minus_1", 1, "top", "tag", 0.5),
        ("2_minus_1", 1, "top", "yellow_square", np.nan),
    ]
    columns = ["comparison", "direction", "end", "feature", "auc_within_class"]
    assert subpopulations.auc_heatmap(ax, pd.DataFrame(rows, columns=columns), names=NAMES) is ax
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0.99 ▲", "0.70 ▼", "0.50 ▲", "–", "fixed ∖ shifted", "shifted ∖ fixed"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["tag", "yellow square"]


def test_what_was_found_is_called_so():
    row = {"comparison": "1_minus_2", "direction": 2, "end": "top", "precision_at_k": 0.7, "n": 50}
    row |= {"random": 0.9}
    best = [
        row | {"feature": "tag", "auc_within_class": 0.96, "use": "more_1", "verdict": "found"},
        row | {"feature": "ring", "auc_within_class": 0.7, "use": "alike", "verdict": "not found"},
    ]
    run = SimpleNamespace(names=NAMES, results={SUBPOPULATIONS: {"best": best}})
    table = subpopulations.best_directions(run)
    assert table.loc[("fixed ∖ shifted", "tag"), "shown"] == "seen, used more"
    assert table.loc[("fixed ∖ shifted", "ring"), "shown"] == "not seen"
    assert table["who uses it"].tolist() == ["fixed more", "both alike"]
    run.results[SUBPOPULATIONS]["best"] = []
    assert "No truth is known" in subpopulations.best_directions(run)


def test_who_uses_a_subpopulation_is_told_with_intervals():
    row = {"comparison": "2_minus_1", "direction": 3, "end": "top", "label": 1, "n": 9, "rank": 1}
    ends = {"": 0.5, "_low": -0.1, "_high": 0.75}
    for name in ("share_first", "share_second", "times", "cosine"):
        row |= {f"{name}{end}": value for end, value in ends.items()}
    uses = pd.DataFrame([row | {"use": "only_1"}, row | {"use": "alike", "rank": 4}])
    holder = SimpleNamespace(uses=uses)
    table = subpopulations.uses(holder, ["boat", "fish"], names=NAMES)
    assert table.index.tolist() == [("shifted ∖ fixed", 3, "top", "fish")]
    assert table.iloc[0].tolist()[0] == "50 (0 to 75)"  # a share is not below nothing
    assert table.iloc[0]["who uses it"] == "only shifted"
    assert "Without models" in subpopulations.uses(SimpleNamespace(uses=None), [], names=NAMES)
    assert "Too few" in subpopulations.uses(SimpleNamespace(uses=uses[:0]), [], names=NAMES)


def test_influence_is_told_of_each_comparison():
    row = {"comparison": "2_minus_1", "direction": 3, "end": "top", "influence_1": 0.2}
    row |= {"influence_2": 1.5, "in_1": 0.1, "in_2": 0.75, "in_both": 0.05}
    run = SimpleNamespace(names=NAMES, results={SUBPOPULATIONS: {"influence": [row]}})
    table = subpopulations.influence(run)
    assert table.index.tolist() == [("shifted ∖ fixed", 3, "top")]
    assert table.iloc[0].tolist() == [1.5, 0.2, 0.75, 0.1, 0.05]


def test_classes_of_the_first_directions():
    rows = [("1_minus_2", d, end, d % 2, 0.5, 0.25) for d in (4, 2, 1) for end in ("top", "bottom")]
    columns = ["comparison", "direction", "end", "label", "share", "expected"]
    holder = SimpleNamespace(classes=pd.DataFrame(rows, columns=columns))
    table = subpopulations.classes(holder, ["boat", "fish"], names=NAMES, n=2)
    assert table.index.get_level_values("direction").tolist() == [4, 4, 2, 2]
    assert table["class"].tolist() == ["boat"] * 4
