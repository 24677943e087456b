"""Prose that quotes a run's figures: what was seen, in words that follow from the numbers."""

from __future__ import annotations

import pandas as pd
from IPython.display import Markdown

from mdhelpers.findings import COMPARISON, PAIRS, SUBPOPULATIONS
from mdhelpers.plain_text import escape_markdown, escaped
from mdhelpers.runs import Run
from mdhelpers.stages import DATAMODELS
from mdhelpers.style import comparison_label
from mdhelpers.tables import algorithm_names


def datamodel_quality(run: Run) -> Markdown:
    """How far datamodels can be trusted here."""
    figures, names = run.results[DATAMODELS], escaped(algorithm_names(run))
    parts = [
        f"**{figures[f'lds_{a}']:.2f}** for *{names[a - 1]}* "
        f"[{figures[f'lds_{a}_low']:.2f}, {figures[f'lds_{a}_high']:.2f}]"
        for a in (1, 2)
    ]
    seen = all(figures[f"lds_{a}_low"] > 0 for a in (1, 2))
    verdict = (
        "Both intervals lie above zero: the masks do foretell the margins of models that the "
        "datamodels have not seen."
        if seen
        else "An interval reaches zero: with this few models the datamodels foretell nothing that "
        "can be told from chance."
    )
    return Markdown(f"The LDS is {parts[0]} and {parts[1]}. {verdict}")


def null_comparison(run: Run) -> Markdown:
    """Whether the real pair's cross-fitted gaps stand out from an algorithm's against itself."""
    figures, names = run.results.get(COMPARISON, {}), escaped(algorithm_names(run))
    if f"gap_{PAIRS[0]}" not in figures:
        return Markdown("No models, so no cross-fitting: believe none of these gaps yet.")
    return Markdown(null_verdict(figures, names))


def null_verdict(figures: dict, names) -> str:
    null = [figures[f"null_{a}_against_{a}_{name}"] for a in (1, 2) for name in PAIRS]
    worst, naive = max(row["gap"] for row in null), max(row["naive_gap"] for row in null)
    words = []
    for name in PAIRS:
        real = figures[f"null_1_against_2_{name}"]
        clear = real["gap"] > 2 * max(worst, 0) and real["low"] > worst
        words.append(
            f"*{comparison_label(name, names)}* has {real['gap']:.2f}%, "
            + ("well above" if clear else "**not clearly above**")
            + f" the largest of any algorithm against itself ({worst:.2f}%)"
        )
    return (
        f"Summed over all directions, the naive gap reaches {naive:.1f}% for an algorithm against "
        f"itself, where there is nothing to find. Cross-fitted, {'; '.join(words)}."
    )


def evidence(run: Run) -> Markdown:
    """How many directions of either comparison have strong, weak and no evidence."""
    figures, names = run.results.get(COMPARISON, {}), escaped(algorithm_names(run))
    lines = []
    for name in PAIRS:
        counts = figures.get(f"evidence_{name}")
        if counts is None:
            return Markdown("Without models no evidence can be weighed.")
        n_all = sum(counts.values())
        lines.append(
            f"*{comparison_label(name, names)}*: of {n_all} directions **{counts.get('strong', 0)}"
            f"** have strong evidence, {counts.get('weak', 0)} weak, {counts.get('none', 0)} none."
        )
    return Markdown(" ".join(lines))


def grades(run: Run) -> Markdown:
    """Which planted features were found, by which direction."""
    best = run.results[SUBPOPULATIONS].get("best")
    if not best:
        return Markdown("No truth is known for this data: judge by eye, and by notebook 07.")
    names, lines = escaped(algorithm_names(run)), []
    for row in best:
        feature = escape_markdown(row["feature"])
        lines.append(
            f"- *{comparison_label(row['comparison'], names)}*: **{feature}** is found best "
            f"by direction {row['direction']} ({row['end']}), AUC {row['auc_within_class']:.2f} "
            f"within its class, {row['precision_at_k']:.0%} of the outermost {row['n']} images."
        )
    return Markdown("\n".join(lines))


def captions(run: Run, table: pd.DataFrame | None) -> Markdown:
    """The first caption of the first directions, and whether chance would do as well."""
    if table is None:
        return Markdown("This study has captions switched off.")
    names, lines = escaped(algorithm_names(run)), []
    for name in PAIRS:
        rows = table[(table["comparison"] == name) & (table["reference"] == "class")]
        best = rows.loc[rows["z"].idxmax()]
        caption = escape_markdown(best["caption"])
        lines.append(
            f"- *{comparison_label(name, names)}*: the clearest caption is **{caption}** "
            f"(direction {best['direction']}, {best['end']}, z = {best['z']:.1f})."
        )
    return Markdown("\n".join(lines))


def verdicts(found, *, epsilon: float, delta: float) -> Markdown:
    """Definition 2 for every hypothesis."""
    if not len(found.verdicts):
        return Markdown("The study tests no hypothesis.")
    lines = [f"With ε = {epsilon:g} and δ = {delta:g} points, at the largest intensity:", ""]
    lines += [
        f"- **{escape_markdown(row.hypothesis)}** ({row.outcome}). {escape_markdown(row.text)}"
        for row in found.verdicts.itertuples()
    ]
    return Markdown("\n".join(lines))


def placebo(found) -> Markdown:
    """Whether the placebo moved both algorithms alike."""
    rows = found.table[(found.table["kind"] == "placebo") & (found.table["algorithm"] == 0)]
    if not len(rows):
        return Markdown("")
    worst = rows.loc[rows["effect"].abs().idxmax()]
    alike = ((rows["low"] <= 0) & (rows["high"] >= 0)) | (rows["effect"].abs() < 2)
    word = "moves both algorithms alike" if alike.all() else "**does not move both alike**"
    return Markdown(
        f"The placebo {word}: the largest difference between the algorithms is "
        f"{worst['effect']:+.1f} points [{worst['low']:+.1f}, {worst['high']:+.1f}], in the "
        f"confidence in *{escape_markdown(worst['class_name'])}*."
    )
