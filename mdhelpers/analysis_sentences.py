"""Tables and prose of the further analyses, from a run's figures: appendices D and F.1 to F.4."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from mdhelpers.analyses import Analyses
from mdhelpers.findings import COMPARISON, SUBPOPULATIONS
from mdhelpers.plain_text import escaped
from mdhelpers.runs import Run
from mdhelpers.style import COMPARISONS, compared, comparison_label
from mdhelpers.tables import algorithm_names

NOTHING = "This run has no models to divide, so there is nothing to say here."
TOO_FEW = (
    "This run has no models, or their predictions agree on too few test images, so there is "
    "nothing to say here."
)


def figures_of(run: Run) -> dict:
    """What stage 04 recorded of the analyses, perhaps nothing."""
    return run.results.get(COMPARISON, {}).get("analyses", {})


def similarity(run: Run) -> Markdown:
    """How alike the algorithms are, beside how alike each is to itself (F.1)."""
    figures, names = figures_of(run).get("similarity"), escaped(algorithm_names(run))
    if not figures:
        return Markdown(NOTHING)
    text = (
        f"Fitted on halves of the models, the two algorithms' datamodels have a mean cosine of "
        f"**{figures['pair']:.2f}**; *{names[0]}* has {figures['itself_1']:.2f} with itself and "
        f"*{names[1]}* {figures['itself_2']:.2f}, the most that its noise allows."
    )
    corrected = figures["pair_corrected"]
    if corrected is None or corrected != corrected:
        return Markdown(f"{text} With this few models the noise cannot be corrected for.")
    return Markdown(f"{text} Without noise the pair would have about **{corrected:.2f}**.")


def curves(run: Run) -> Markdown:
    """How many components have a gap of the right sign, as found and on other models (F.2)."""
    rows, names = figures_of(run).get("curves", []), escaped(algorithm_names(run))
    by_key = {(row["comparison"], row["on"]): row for row in rows}
    lines = []
    for name in COMPARISONS:
        if (name, "all") not in by_key:
            continue
        row = by_key[name, "all"]
        text = (
            f"- *{comparison_label(name, names)}*: {row['share_positive']:.0%} of "
            f"{row['components']} components explain more under *{names[compared(name)[0] - 1]}*; "
            f"their gaps add up to {row['gap']:.1f}% of the variance"
        )
        if (name, "others") in by_key:
            half, others = by_key[name, "half"], by_key[name, "others"]
            text += (
                f". Found with half of the models, to {half['gap']:.1f}% on that half and "
                f"**{others['gap']:.1f}%** on the other"
            )
        lines.append(f"{text}.")
    return Markdown("\n".join(lines) or NOTHING)


def model_counts(run: Run) -> Markdown:
    """What more models do to datamodels and to the subspace of directions (F.3)."""
    figures, names = figures_of(run), escaped(algorithm_names(run))
    rows = [r for r in figures.get("model_counts", []) if r["against"] == "others"]
    if not rows:
        return Markdown(NOTHING)
    few, many = (pick(r["n_models"] for r in rows) for pick in (min, max))
    parts = []
    for algorithm in (1, 2):
        mean = {r["n_models"]: r["mean"] for r in rows if r["algorithm"] == algorithm}
        parts.append(f"from {mean[few]:.2f} to **{mean[many]:.2f}** for *{names[algorithm - 1]}*")
    subspaces = []
    for name in COMPARISONS:
        share = {
            r["n_models"]: r["cosine"]
            for r in figures["directions_by_models"]
            if r["comparison"] == name and r["against"] == "others"
        }
        label = comparison_label(name, names)
        subspaces.append(f"{share[few]:.0%} to **{share[many]:.0%}** of *{label}*")
    return Markdown(
        f"From {few:,} to {many:,} models, the mean cosine between two samples that share no model "
        f"goes {' and '.join(parts)}. Of the subspace of all directions the two find in common "
        f"{' and '.join(subspaces)}."
    )


def without_disagreement(further: Analyses | None, names) -> pd.DataFrame | str:
    """F.4's table: |cos| of every direction with itself when test images are left out."""
    if further is None or further.disagreement is None:
        return TOO_FEW
    table, columns = further.disagreement, {}
    rules = table.get("rule", pd.Series("margins", table.index))  # older runs do not say
    for (rule, kept), part in table.groupby([rules, "kept"], sort=False):
        indexed, title = part.set_index(["comparison", "direction"]), TITLES[rule, kept]
        columns[f"{title} ({part['n'].iloc[0]} images)"] = indexed["cosine"]
        columns[f"as many at random ({title})"] = indexed["random"]
    shown = pd.DataFrame(columns)
    shown.index = pd.MultiIndex.from_tuples(
        [(comparison_label(name, names), number) for name, number in shown.index],
        names=["comparison", "direction"],
    )
    return shown.round(3)


TITLES = {
    ("predictions", "agree"): "predictions agree",
    ("margins", "agree"): "signs of margins agree",
    ("margins", "right"): "both right",
}


def left_out(row: dict) -> list[str]:
    """How many test images are left out, and by which rule; nothing where an older run is mute."""
    if "rule" not in row:
        return []
    count = f"**{row['left_out']} of {row['n'] + row['left_out']}** test images are left out"
    if row["rule"] == "predictions":
        return [
            f"{count}: those on which the most common predictions of the algorithms differ, over "
            f"{row['n_models']} kept models of each.\n"
        ]
    return [
        f"{count}: those that one algorithm's models usually get right and the other's wrong, by "
        "the signs of margins, without predictions of kept networks. On images that both usually "
        "get wrong the predictions may still differ.\n"
    ]


def disagreement(run: Run) -> Markdown:
    """Whether directions hang on the test images that are predicted differently (F.4)."""
    rows, names = figures_of(run).get("disagreement", []), escaped(algorithm_names(run))
    rows = [row for row in rows if row["kept"] == "agree"]
    if not rows:
        return Markdown(TOO_FEW)
    lines = left_out(rows[0])
    for row in rows:
        same = row["cosine"] > row["random"] - 0.05
        verdict = (
            "no further than by leaving out as many at random"
            if same
            else "**further than by leaving out as many at random**"
        )
        lines.append(
            f"- *{comparison_label(row['comparison'], names)}*: median |cos| {row['cosine']:.3f}, "
            f"least {row['least']:.3f}; at random {row['random']:.3f}. The directions turn "
            f"{verdict}."
        )
    return Markdown("\n".join(lines))


def classes(found, class_names, names, *, n: int = 3) -> pd.DataFrame:
    """The commonest class at both ends of the first directions, and its share (App. D)."""
    table = found.classes.copy()
    order = table.drop_duplicates(["comparison", "direction"]).groupby("comparison").cumcount()
    first = table.loc[order.index[order < n], ["comparison", "direction"]]
    table = table.merge(first, on=["comparison", "direction"])
    table["class"] = [class_names[label] for label in table["label"]]
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    titles = {"share": "share of the subpopulation", "expected": "share of all test images"}
    keys = ["comparison", "direction", "end"]
    return table.set_index(keys)[["class", *titles]].rename(columns=titles).round(2)


def influence(run: Run) -> Markdown:
    """Whether the first directions' training images pull under one algorithm only (App. D)."""
    rows, names = run.results[SUBPOPULATIONS].get("influence", []), escaped(algorithm_names(run))
    lines = []
    for name in COMPARISONS:
        row = next((r for r in rows if r["comparison"] == name and r["end"] == "top"), None)
        if row is None:
            continue
        own, other = compared(name)
        lines.append(
            f"- *{comparison_label(name, names)}*, direction {row['direction']} (top): these "
            f"training images hold {row[f'influence_{own}']:.2f} of a datamodel's absolute weight "
            f"(its length being 1) under *{names[own - 1]}* and {row[f'influence_{other}']:.2f} "
            f"under *{names[other - 1]}*. Of the test images that they pull most, "
            f"{row[f'in_{own}']:.0%} belong to the subpopulation under the first, "
            f"{row[f'in_{other}']:.0%} under the second; the two sets share {row['in_both']:.0%}."
        )
    return Markdown("\n".join(lines) or NOTHING)
