"""What the notebooks show as tables: each function gives one DataFrame, ready to read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import MODELS
from mdhelpers.show.style import DEFAULT_NAMES
from mdhelpers.stages.models import StudyModels, read_models


def algorithms(models: StudyModels) -> pd.DataFrame:
    """Both algorithms' specifications side by side, what differs first."""
    specs = [flat(spec.model_dump()) for spec in models.plan.algorithms]
    table = pd.DataFrame(specs, index=["algorithm 1", "algorithm 2"]).T
    one, two = (table[f"algorithm {a}"].where(table[f"algorithm {a}"].notna(), "–") for a in (1, 2))
    differs = one.astype(str) != two.astype(str)
    table = pd.DataFrame({one.name: one, two.name: two, "differs": np.where(differs, "yes", "")})
    return table.loc[[*table.index[differs], *table.index[~differs]]]


def flat(spec: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in spec.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def throughput(run: Run) -> pd.DataFrame | str:
    """Models, core-seconds and accuracy of each algorithm, from the training log."""
    models = read_models(run)
    if models.made_elsewhere:
        return "These models were trained elsewhere, in a time that is not known."
    figures, rows = run.results[MODELS], []
    for algorithm, name in enumerate(models.names, 1):
        seconds = models.all(algorithm).seconds
        rows.append((name, len(seconds), seconds.mean(), figures[f"accuracy_{algorithm}"]))
    columns = ["algorithm", "models", "core-seconds a model", "mean test accuracy"]
    return pd.DataFrame(rows, columns=columns).set_index("algorithm").round(3)


def algorithm_names(run: Run) -> tuple[str, str]:
    """The algorithms' names, or "algorithm 1" and "2" where scores were made elsewhere."""
    figures = run.results.get(MODELS, {})
    return tuple(figures.get(f"name_{a}", DEFAULT_NAMES[a - 1]) for a in (1, 2))
