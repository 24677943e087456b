"""What notebook 03 says about the quality of its datamodels: a table and sentences."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from mdhelpers.datamodels import METHODS
from mdhelpers.plain_text import escape_markdown, escaped
from mdhelpers.planner import plan
from mdhelpers.runs import Run
from mdhelpers.stages import DATAMODELS
from mdhelpers.tables import algorithm_names


def quality_table(run: Run) -> pd.DataFrame:
    """Ceiling, share, reliability and plateau of both algorithms; rows that were measured."""
    figures, names = run.results[DATAMODELS], algorithm_names(run)
    rows = {
        "LDS": "lds_{}",
        "noise ceiling of the LDS": "ceiling_{}",
        "LDS over ceiling": "share_{}",
        "the same, 95% interval, low": "share_{}_low",
        "the same, 95% interval, high": "share_{}_high",
        "two trainings of a mask, rank correlation": "seed_reliability_{}",
        "models in a half": "n_half_{}",
        "cosine between halves": "half_cosine_{}",
        "cosine to expect between two sets of all models": "cosine_of_all_{}",
        "LDS to expect of infinitely many models": "plateau_{}",
    }
    columns = {
        name: {what: figures.get(key.format(a)) for what, key in rows.items()}
        for a, name in enumerate(names, 1)
    }
    return pd.DataFrame(columns).dropna(how="all").astype(float).round(3)


def ceiling(run: Run) -> Markdown:
    """How near the datamodels come to what any function of the mask could do."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    if "ceiling_1" not in figures:
        return Markdown("Held-out masks were trained once only: no ceiling.")
    parts = [
        f"**{figures[f'share_{a}']:.0%}** of the ceiling of {figures[f'ceiling_{a}']:.2f} for "
        f"*{names[a - 1]}* [{figures[f'share_{a}_low']:.0%}, {figures[f'share_{a}_high']:.0%}]"
        for a in (1, 2)
    ]
    return Markdown(
        f"The datamodels reach {' and '.join(parts)}. What is missing to 100% is their own doing: "
        "too few models, or what a linear function cannot say. What is missing from the ceiling to "
        "1 is the seeds' doing."
    )


def reliability(run: Run) -> Markdown:
    """What halves say of the fit on all models."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    if "half_cosine_1" not in figures:
        return Markdown("There are too few models in a slot to be halved.")
    parts = [
        f"{figures[f'half_cosine_{a}']:.2f} for *{names[a - 1]}*"
        + (
            f" ({known:.2f} to expect of all)"
            if (known := figures.get(f"cosine_of_all_{a}"))
            else ""
        )
        for a in (1, 2)
    ]
    holds = {
        METHODS[2]: "For a difference of means this is Spearman and Brown's formula.",
        METHODS[1]: "Spearman and Brown's formula would say less: in ridge regression each weight "
        "gains from the others.",
    }
    more = holds.get(figures["method"], "Spearman and Brown's formula does not hold for the lasso.")
    return Markdown(
        f"Fits on {figures['n_half_1']} models agree with a cosine of {' and '.join(parts)}. {more}"
    )


def planner(run: Run) -> Markdown:
    """Where the curves level off, and what more models would give."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    parts = []
    for a, name in enumerate(names, 1):
        if plateau := figures.get(f"plateau_{a}"):
            ceiling = figures.get(f"ceiling_{a}")
            under = f", under a ceiling of {ceiling:.2f}" if ceiling else ""
            parts.append(f"*{name}* at an LDS of {plateau:.2f}{under}")
    levels = [f"The curves level off for {'; '.join(parts)}."] if parts else []
    return Markdown("\n".join(f"- {line}" for line in [*levels, *map(escape_markdown, plan(run))]))
