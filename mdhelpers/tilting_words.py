"""Tables, prose and panels of notebook 10."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from mdhelpers.findings import PAIRS
from mdhelpers.plain_text import escaped
from mdhelpers.runs import Run
from mdhelpers.style import comparison_label
from mdhelpers.tables import algorithm_names
from mdhelpers.tilting_plots import tilt_scatter, tilt_sizes
from mdhelpers.tilting_stage import RANDOM, TILTING, StudyTilts

NO_MODELS = "These models were trained elsewhere, and cannot be trained again here."
AIM = 0.8  # a correlation from which on a direction is said to mean what it should
COLUMNS = {
    "correlation": "correlation",
    "ceiling": "at best",
    "slope": "slope",
    "size": "measured change (RMS)",
    "predicted_size": "foretold change (RMS)",
}


def table(found: StudyTilts, names) -> pd.DataFrame | str:
    """Every direction's correlation, slope and sizes under both algorithms."""
    if found.table is None:
        return NO_MODELS
    rows = found.table.assign(algorithm=[names[a - 1] for a in found.table["algorithm"]])
    labels = {name: comparison_label(name, names) for name in PAIRS} | {RANDOM: "random"}
    rows["comparison"] = rows["comparison"].map(labels)
    keys = ["comparison", "direction"]
    rows["place"] = rows.groupby(keys, sort=False).ngroup()
    rows = rows.sort_values("place", kind="stable").set_index([*keys, "algorithm"])
    return rows[list(COLUMNS)].rename(columns=COLUMNS).round(2)


def verdict(run: Run) -> Markdown:
    """Whether measured changes follow the foretold ones, and which algorithm moves more."""
    figures, names = run.results.get(TILTING, {}), escaped(algorithm_names(run))
    if not any(f"{name}_algorithm_1" in figures for name in PAIRS):
        return Markdown(NO_MODELS)
    return Markdown("\n".join(_verdict(figures, name, names) for name in PAIRS))


def _verdict(figures: dict, name: str, names) -> str:
    own, other = (1, 2) if name == "1_minus_2" else (2, 1)
    first, second = (figures[f"{name}_algorithm_{a}"] for a in (own, other))
    holds = first["correlation_lowest"] >= AIM
    words = "follow" if holds else "**do not all follow**"
    more = "more" if first["size"] > second["size"] else "**not more**"
    return (
        f"- *{comparison_label(name, names)}*: under *{names[own - 1]}* the measured changes "
        f"{words} the foretold ones: the correlation is {first['correlation']:.2f} on average and "
        f"{first['correlation_lowest']:.2f} at the lowest of {first['n']} directions (at best "
        f"{first['ceiling']:.2f}, with this many models). These directions move "
        f"*{names[own - 1]}* by {first['size']:.2f} and *{names[other - 1]}* by "
        f"{second['size']:.2f} (root mean square, margin units): {more}, as the proposition says."
    )


def draw_scatters(axes, found: StudyTilts, *, names) -> None:
    """The first direction of each comparison."""
    for ax, name in zip(axes, PAIRS, strict=True):
        if found.changes is None:
            ax.set_axis_off()
            ax.text(0.5, 0.5, NO_MODELS, ha="center", wrap=True)
            continue
        rows = found.changes[found.changes["comparison"] == name]
        first = rows["direction"].iloc[0]
        title = f"{comparison_label(name, names)}, direction {first}"
        tilt_scatter(ax, rows[rows["direction"] == first], names=names, title=title)


def draw_sizes(ax, found: StudyTilts, *, names) -> None:
    """All directions' sizes."""
    if found.table is None:
        ax.set_axis_off()
        ax.text(0.5, 0.5, NO_MODELS, ha="center")
    else:
        tilt_sizes(ax, found.table, names=names)
