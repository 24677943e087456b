from types import SimpleNamespace

import numpy as np
import pandas as pd

from mdhelpers.show import data, subpopulations
from mdhelpers.show import models as show_models
from mdhelpers.training.algorithms import NetworkSpec

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
    table = subpopulations.matches(SimpleNamespace(grades=grades), ("plain", "augmented"))
    assert list(table.columns) == ["top", "bottom"]
    assert table.index.tolist() == [("plain ∖ augmented", 2), ("plain ∖ augmented", 1)]
    assert table.iloc[0].tolist() == ["tag ★ 0.97, 0.90, 50%", "ring 0.80, 0.70, 0%"]
    assert not table.iloc[1].str.contains("★").any()
    assert "No truth" in subpopulations.matches(
        SimpleNamespace(grades=None), ("plain", "augmented")
    )


def test_what_both_algorithms_leave_open_does_not_differ():
    one, two = (NetworkSpec(name=name, epochs=n) for name, n in (("plain", 20), ("more", 40)))
    models = SimpleNamespace(plan=SimpleNamespace(algorithms=(one, two)))
    table = show_models.algorithms(models)
    assert table.index[table["differs"] == "yes"].tolist() == ["name", "epochs"]
    assert table.loc["width"].tolist() == ["–", "–", ""]


def test_where_nothing_is_known_or_tested_a_sentence_says_so():
    split = SimpleNamespace(truth=pd.DataFrame(index=range(3)), labels=np.zeros(3, int))
    table = data.planted(SimpleNamespace(train=split, test=split, class_names=("boat",)))
    assert len(table) == 0
