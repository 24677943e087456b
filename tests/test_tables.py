from types import SimpleNamespace

import pandas as pd

from mdhelpers import tables

ROWS = [
    ("1_minus_2", 2, "top", "tag", 0.97, 0.9, 0.5),
    ("1_minus_2", 2, "bottom", "ring", 0.8, 0.7, 0.0),
    ("1_minus_2", 1, "top", "ring", 0.6, 0.6, 0.1),
    ("1_minus_2", 1, "bottom", "tag", 0.7, 0.6, 0.1),
]
COLUMNS = ["comparison", "direction", "end", "feature", "auc_within_class", "auc", "precision_at_k"]


def test_matches_keep_the_order_of_evidence_and_mark_what_is_found():
    weaker = [(*row[:3], "stripes", row[4] - 0.2, *row[5:]) for row in ROWS]
    grades = pd.DataFrame([*ROWS, *weaker], columns=COLUMNS).assign(n=10)
    table = tables.matches(SimpleNamespace(grades=grades), ("plain", "augmented"))
    assert list(table.columns) == ["top", "bottom"]
    assert table.index.tolist() == [("plain ∖ augmented", 2), ("plain ∖ augmented", 1)]
    assert table.iloc[0].tolist() == ["tag ★ 0.97, 0.90, 50%", "ring 0.80, 0.70, 0%"]
    assert not table.iloc[1].str.contains("★").any()
    assert "No truth" in tables.matches(SimpleNamespace(grades=None), ("plain", "augmented"))
