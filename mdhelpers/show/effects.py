"""Page 07: transformations, what they do to the models of both algorithms, and what is found."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.data.datasets import Split
from mdhelpers.data.transforms import (
    Around,
    parse_transformation,
    placebo_images,
    transform_images,
)
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import EFFECTS
from mdhelpers.show.explorer import Explorer, sprite_sheet
from mdhelpers.show.gallery import Rows, image_rows
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    NULL_COLOR,
    comparison_label,
    draw_if,
    label_text,
    label_texts,
    legend_below,
    need_columns,
    nothing_here,
    p_text,
)
from mdhelpers.show.subpopulations import explore
from mdhelpers.stages.data import read_data
from mdhelpers.stages.effects import (
    StudyEffects,
    as_expected,
    points,
    read_effects,
    read_findings,
    recovery_of,
    sentence,
    word_of,
)

MARKERS = {1: "o", 2: "s"}


def transformation_rows(hypotheses, test: Split, *, seed: int, n: int = 2) -> Rows:
    """A few images untouched and under each transformation, intensity by intensity.

    Last in each row stands the matched placebo of the largest intensity.
    """
    rows: Rows = {}
    some = test.some(LOOKED_AT)
    before, labels = some.images, some.labels
    around, shown = Around(some.foreground, labels), np.linspace(0, len(some) - 1, n).astype(int)
    for case in hypotheses:
        kind, doses = parse_transformation(case["transformation"]), case["intensities"]
        changed = [transform_images(kind, before, x, seed=seed, around=around) for x in doses]
        changed.append(placebo_images(before, changed[-1], labels=labels, seed=seed))
        label = f"{case.get('name') or kind.name}\n({kind.intensity_unit})"
        for steps in np.stack([before, *changed], axis=1)[shown]:
            rows[label] = steps
            label = NOTHING * (len(rows) + 1)
    return rows


LOOKED_AT = 64  # images that placebos may take pieces from
NOTHING = "\u200b"  # a label that is not seen


def transformation_images(hypotheses, test: Split, *, seed: int) -> Figure:
    """Test images before and after each transformation, at each intensity, and its placebo."""
    fig, ax = plt.subplots(figsize=(9, 6.5))
    image_rows(ax, transformation_rows(hypotheses, test, seed=seed))
    return fig


def effect_panels(
    found: StudyEffects, *, names: Sequence[str] = DEFAULT_NAMES, source: str = "study"
) -> Figure:
    """Change of confidence in each hypothesis' class, by intensity; placebos in grey.

    ``source`` chooses those of the study or those that were proposed.
    """
    verdicts = found.verdicts[found.verdicts["source"] == source]
    table = found.effects.merge(verdicts[["hypothesis", "class_name", "unit"]])
    n = max(1, table["hypothesis"].nunique())
    fig, axes = plt.subplots(n, 1, figsize=(5.6, 3.6 * n), squeeze=False)
    if table.empty:
        nothing_here(axes[0, 0])
    for ax, (hypothesis, rows) in zip(
        axes.flat, table.groupby("hypothesis", sort=False), strict=False
    ):
        hypothesis_curves(ax, hypothesis, rows, names)
    return fig


def hypothesis_curves(ax: Axes, hypothesis: str, rows: pd.DataFrame, names) -> None:
    """One hypothesis' effects on its class, at each intensity, with its placebo."""
    single = rows[rows["algorithm"] > 0]
    feature, placebo = (single[single["kind"] == kind] for kind in ("feature", "placebo"))
    effect_curves(ax, feature, names=names, placebo=placebo)
    target = f" → {label_text(rows['class_name'].iloc[0], 28)}"
    ax.set_title(label_text(hypothesis, 28) + ("" if target in hypothesis else target))
    ax.set_xticks(sorted(set(feature["intensity"])))
    if "unit" in rows:
        ax.set_xlabel(f"intensity ({rows['unit'].iloc[0]})")


def effect_curves(
    ax: Axes,
    table: pd.DataFrame,
    *,
    names: Sequence[str] = DEFAULT_NAMES,
    placebo: pd.DataFrame | None = None,
) -> Axes:
    """Effect of a transformation on the confidence in a class (paper, Figure 4, right).

    Parameters
    ----------
    ax : Axes
    table : DataFrame
        ``intensity, algorithm, effect, low, high`` (percentage points) of one transformation.
    names : pair of str
    placebo : DataFrame, optional
        The same for a feature that was never planted; drawn in grey.

    Raises
    ------
    ValueError
        If a column is missing or an algorithm has two effects at one intensity.
    """
    ax.axhline(0, color=INK, linewidth=1)
    for frame, line, prefix in ((table, "-", ""), (placebo, "--", "placebo, ")):
        if frame is None:
            continue
        need_columns(frame, ("intensity", "algorithm", "effect", "low", "high"))
        if frame.duplicated(["intensity", "algorithm"]).any():
            raise ValueError(
                "An algorithm has several effects at one intensity; "
                "choose the rows of one transformation and one class first."
            )
        for algorithm, rows in frame.sort_values("intensity").groupby("algorithm"):
            color = NULL_COLOR if prefix else ALGORITHM_COLORS[algorithm]
            label = prefix + label_texts(names)[algorithm - 1]
            band = rows["intensity"], rows["low"], rows["high"]
            ax.fill_between(*band, color=color, alpha=0.2, lw=0)
            style = {"color": color, "marker": MARKERS[algorithm], "zorder": 2 if prefix else 3}
            ax.plot(rows["intensity"], rows["effect"], line, label=label, **style)
    ax.set(xlabel="intensity", ylabel="change of confidence (points)")
    ax.grid(True, axis="y")
    legend_below(ax, columns=2)
    return ax


def effect_heatmap(found: StudyEffects, *, names: Sequence[str] = DEFAULT_NAMES) -> Figure:
    """Every transformation's effect on every class, at its largest intensity (paper, Figure 17)."""
    table = found.effects[found.effects["kind"] == "feature"]
    table = table[table["intensity"] == table.groupby("hypothesis")["intensity"].transform("max")]
    cases = list(dict.fromkeys(table["transformation"]))
    fig, axes = plt.subplots(1, 2, figsize=(9, 2.4 + 0.36 * max(1, len(cases))), sharey=True)
    for algorithm, ax, name in zip((1, 2), axes, label_texts(names), strict=True):
        rows = table[table["algorithm"] == algorithm]
        rows = rows.drop_duplicates(["transformation", "class_name"])
        draw_if(rows if len(rows) else None, _class_effects, ax)
        ax.set_title(name, color=ALGORITHM_COLORS[algorithm])
    return fig


def _class_effects(ax: Axes, rows: pd.DataFrame) -> Axes:
    order = {key: list(dict.fromkeys(rows[key])) for key in ("transformation", "class_name")}
    wide = rows.pivot(index="transformation", columns="class_name", values="effect")
    wide = wide.loc[order["transformation"], order["class_name"]]
    ax.imshow(wide, cmap="RdBu_r", vmin=-60, vmax=60, aspect="auto")
    for (row, column), value in np.ndenumerate(wide.to_numpy()):
        color = "white" if abs(value) > 40 else INK
        ax.text(column, row, points(value, 0), ha="center", va="center", color=color, size=9)
    ax.set_xticks(range(wide.shape[1]), [label_text(c, 14) for c in wide.columns])
    ax.set_yticks(range(len(wide)), [label_text(t, 24) for t in wide.index])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def with_interval(row, what: str) -> str:
    low, high = (points(row[f"{what}_{end}"]) for end in ("low", "high"))
    return f"{points(row[what])} ({low} to {high})"


def decided_by(row) -> str:
    """What would decide an undecided verdict."""
    if row["outcome"] != "undecided":
        return ""
    n = row["n_models"]
    return f"; {n} models would decide" if n else "; more test images would decide"


def verdicts(found: StudyEffects, names: Sequence[str]) -> pd.DataFrame | str:
    """The verdict on each hypothesis, and on what was proposed beside them.

    *At* is the intensity where the algorithms differ most; effects and their difference there are
    in percentage points, with 95% intervals. *p* is of no difference at any intensity, corrected
    for the number of hypotheses.
    """
    if found.verdicts.empty:
        return "The study tests no hypothesis, and nothing was proposed."
    rows = []
    for row in found.verdicts.to_dict("records"):
        cells = [row["source"], named(row), f"{row['intensity']:g} {row['unit']}"]
        cells += [with_interval(row, what) for what in ("effect_1", "effect_2", "difference")]
        cells += [p_text(row["p_corrected"])]
        expected = as_expected(row["uses"], row["outcome"])
        known = row["source"] == "study" and expected not in ("", "undecided")
        said = word_of(row["outcome"], names) + decided_by(row)
        cells += [said + (f", {expected}" if known else ""), word_of(row["placebo"], names)]
        rows.append(cells)
    columns = ["from", "transformation", "at", *names, "difference", "p", "verdict", "placebo"]
    return pd.DataFrame(rows, columns=columns).set_index(["from", "transformation"])


def named(row) -> str:
    """A hypothesis with its class, which a proposal's name has already."""
    name = row["hypothesis"]
    return name if row["source"] == "proposed" else f"{name} → {row['class_name']}"


def findings(run: Run, *, every: bool = False) -> pd.DataFrame | str:
    """Directions with their evidence, confirmation, caption and verdict; findings first.

    A *finding* is marked ★: the direction's evidence, the models trained again and the verdict
    agree. ``every`` shows the ends that nothing imitates too.
    """
    table = read_findings(run)
    if not every:
        table = table[table["transformation"] != ""]
    if table.empty:
        return "Nothing in the library surely imitates an end of a called direction."
    shown = pd.DataFrame(
        {
            "comparison": [comparison_label(name, run.names) for name in table["comparison"]],
            "direction": [
                f"{'★ ' if row.finding else ''}#{row.direction} {ARROWS[row.end]}"
                for row in table.itertuples()
            ],
            "class": table["class_name"].to_numpy(),
            "evidence": table["evidence"].to_numpy(),
            "retraining": table["confirmed"].to_numpy(),
            "caption": table["caption"].to_numpy(),
            "imitated by": [
                f"{row.transformation} ({row.match:.2f})" if row.transformation else ""
                for row in table.itertuples()
            ],
            "difference": [
                with_interval(row, "difference") if row["outcome"] else ""
                for row in table.to_dict("records")
            ],
            "verdict": [
                word_of(outcome, run.names) if outcome else "" for outcome in table["outcome"]
            ],
        }
    )
    return shown.set_index(["comparison", "direction"])


def recovery(run: Run) -> pd.DataFrame | str:
    """Whether the planted features that one algorithm uses more are findings, and no others."""
    data, found = read_data(run, mmap=True), read_effects(run)
    table = recovery_of(read_findings(run), found.verdicts, data)
    if table.empty:
        return "No truth is known for this data, or no hypothesis is about it: nothing to grade."
    table["outcome"] = [word_of(outcome, run.names) for outcome in table["outcome"]]
    names = {"outcome": "verdict", "found_by": "found by", "class_name": "class"}
    keys = [tuple(by.split(" ")) if by else () for by in table["found_by"]]
    table["found_by"] = [
        f"{comparison_label(key[0], run.names)} #{key[1]} {ARROWS[key[2]]}" if key else "–"
        for key in keys
    ]
    return table.set_index("feature").rename(columns=names)


ARROWS = {"top": "▲", "bottom": "▼"}


def told(found: StudyEffects, names: Sequence[str]) -> pd.DataFrame | str:
    """Each verdict in a sentence."""
    if found.verdicts.empty:
        return "The study tests no hypothesis, and nothing was proposed."
    rows = found.verdicts.to_dict("records")
    said = {named(row): sentence(row, names) for row in rows}
    return pd.DataFrame({"verdict": said}).rename_axis("transformation")


def explore_findings(run: Run) -> Explorer:
    """The explorer of page 05, with what was tested and the verdict on what imitates each end."""
    findings = read_findings(run)
    return explore(run, findings=findings, hypotheses=hypothesis_views(run, findings))


N_PREVIEWED = 5


def hypothesis_views(run: Run, findings: pd.DataFrame) -> list[dict]:
    """What the explorer shows of each test of stage 07, those that make a finding first.

    Returns
    -------
    list of dict
        ``name, class_name, unit, intensities, sentence, verdict, finding``; ``effects`` and
        ``placebo``, by algorithm (1, 2) a list of ``[effect, low, high]`` in percentage points, one
        an intensity; and ``sheet``: ``n_images`` test images as they are, at each intensity, and
        under the placebo of the largest.
    """
    found, test = read_effects(run), read_data(run).test
    known = Hypotheses(run, test)
    starred = set(findings.loc[findings["finding"], "hypothesis"])
    views = []
    for row in found.verdicts.to_dict("records"):
        own = (found.effects["hypothesis"] == row["hypothesis"]) & (found.effects["algorithm"] > 0)
        table = found.effects[own & (found.effects["class_name"] == row["class_name"])]
        doses = sorted(set(table.loc[table["kind"] == "feature", "intensity"]))
        by_kind = {
            kind: {a: _curve(table, kind, a) for a in (1, 2)} for kind in ("feature", "placebo")
        }
        views.append(
            {
                "name": named(row),
                "class_name": row["class_name"],
                "unit": row["unit"],
                "intensities": [float(f"{dose:.4g}") for dose in doses],
                "sentence": sentence(row, run.names),
                "verdict": word_of(row["outcome"], run.names),
                "finding": row["hypothesis"] in starred,
                "effects": by_kind["feature"],
                "placebo": by_kind["placebo"],
                **known.pictures(row["transformation"], doses),
            }
        )
    return sorted(views, key=lambda view: not view["finding"])


def _curve(table: pd.DataFrame, kind: str, algorithm: int) -> list[list[float]]:
    rows = table[(table["kind"] == kind) & (table["algorithm"] == algorithm)]
    rows = rows.sort_values("intensity")[["effect", "low", "high"]].round(2)
    return rows.to_numpy(float).tolist()


class Hypotheses:
    """The transformations that stage 07 tested, by name, and some test images to show them on."""

    def __init__(self, run: Run, test: Split):
        given = run.manifest(EFFECTS)["parameters"]
        self.seed = given["seed"]
        own = (parse_transformation(h["transformation"]) for h in given["hypotheses"])
        self.kinds = {kind.name: kind for kind in own}
        some = test.some(LOOKED_AT)
        self.images, self.labels = some.images, some.labels
        self.around = Around(some.foreground, self.labels)
        self.shown = np.linspace(0, len(some) - 1, N_PREVIEWED).astype(int)

    def pictures(self, name: str, doses: Sequence[float]) -> dict:
        kind = self.kinds.get(name) or parse_transformation(name)
        how = {"seed": self.seed, "around": self.around}
        steps = [transform_images(kind, self.images, dose, **how) for dose in doses]
        steps.append(placebo_images(self.images, steps[-1], labels=self.labels, seed=self.seed))
        shown = [step[self.shown] for step in (self.images, *steps)]
        return {"n_images": len(shown[0]), "sheet": sprite_sheet(np.concatenate(shown))}
