"""Page 05: the images at either end of each direction, what pulls on them, and grades."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mdhelpers.data.datasets import Split
from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.method.subpopulations import (
    ENDS,
    match_features,
    most_influenced,
    random_same_class,
    relative_influence,
    used_by,
)
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import MODELS, SUBPOPULATIONS
from mdhelpers.show.explorer import Explorer, explorer
from mdhelpers.show.gallery import Rows, image_rows
from mdhelpers.show.style import (
    ALGORITHM_COLORS,
    DEFAULT_NAMES,
    INK,
    compared,
    comparison_label,
    label_text,
    label_texts,
    need_columns,
    nothing_here,
    use_word,
)
from mdhelpers.stages.comparison import StudyComparison, read_comparison
from mdhelpers.stages.data import read_data
from mdhelpers.stages.models import read_models
from mdhelpers.stages.subpopulations import StudySubpopulations


def mosaic(rows: Rows, *, height: float) -> Figure:
    """Rows of images in a figure of their own, ``height`` inches high."""
    fig, ax = plt.subplots(figsize=(9, height))
    image_rows(ax, rows)
    return fig


def explore(run: Run, **known) -> Explorer:
    """All directions of a finished run to click through, with grades where the truth is known.

    ``known`` is what else the view should show, see `mdhelpers.show.explorer.explorer`.
    """
    found, data = read_comparison(run), read_data(run)
    return explorer(
        found.comparison,
        *found.datamodels,
        data.train,
        data.test,
        data.class_names,
        names=run.names,
        grades=run.kept(SUBPOPULATIONS).get("grades"),
        truth=truth_or_none(data.test),
        gaps=found.gaps,
        uses=found.uses,
        right=shares_right(run),
        **known,
    )


def shares_right(run: Run) -> np.ndarray | None:
    """Of each algorithm, the share of models right about each test image, (2, n_test) in 0..1.

    None where scores were made elsewhere, and where margins do not say who is right.
    """
    if not run.manifest(MODELS):
        return None
    models = read_models(run)
    trained = [models.all(a) for a in (1, 2)]
    if not all(np.isfinite(each.accuracy).all() for each in trained):
        return None
    return np.stack([(each.margins > 0).mean(axis=0) for each in trained])


def truth_or_none(split: Split) -> pd.DataFrame | None:
    """The planted features, or None where no truth is known."""
    return split.truth if len(split.truth.columns) else None


def members_at(members: pd.DataFrame, comparison: str, direction: int, end: str) -> np.ndarray:
    """Indices of the test images at one end of a direction, outermost first."""
    chosen = members[
        (members["comparison"] == comparison)
        & (members["direction"] == direction)
        & (members["end"] == end)
    ]
    return chosen.sort_values("rank")["index"].to_numpy()


def subpopulation_rows(
    members: pd.DataFrame, directions, test: Split, *, n_directions: int = 3, n: int = 12
) -> Rows:
    """Both ends of the first directions, each above random images of the same classes."""
    rows = {}
    for direction in directions.component[:n_directions]:
        for end, arrow in (("top", "▲"), ("bottom", "▼")):
            index = members_at(members, directions.name, direction, end)[:n]
            others = random_same_class(test.labels, index, n, seed=int(direction))
            rows[f"#{direction} {arrow}"] = test.images[index]
            rows[f"random as #{direction} {arrow}"] = test.images[others]
    return rows


def relative_influence_rows(compared, members, train: Split, names, *, n: int = 12) -> Rows:
    """Training images that pull on the first subpopulations under one algorithm only (App. D)."""
    rows = {}
    for name in COMPARISONS:
        direction = compared.comparison[name].component[0]
        index = members_at(members, name, direction, "top")
        order = np.argsort(relative_influence(*compared.datamodels, index))
        label = comparison_label(name, names)
        rows[f"{label} #{direction}\nmore under {names[0]}"] = train.images[order[::-1][:n]]
        rows[f"{label} #{direction}\nmore under {names[1]}"] = train.images[order[:n]]
    return rows


def influenced_rows(compared, members, test: Split, names, *, n: int = 12) -> Rows:
    """Test images that the first subpopulations' training images pull on most (App. D).

    The training images are those that matter more to the subpopulation under the algorithm that is
    named first; a row for each algorithm shows what they influence most there.
    """
    rows = {}
    for algorithm, name in enumerate(COMPARISONS, 1):
        direction = compared.comparison[name].component[0]
        index = members_at(members, name, direction, "top")
        train = used_by(algorithm, *compared.datamodels, index, n=n)
        label = f"{comparison_label(name, names)} #{direction}"
        for datamodels, own in zip(compared.datamodels, names, strict=True):
            images = test.images[most_influenced(datamodels, train, n=n)]
            rows[f"{label}\npulled under {own}"] = images
    return rows


def classes(
    found: StudySubpopulations, class_names: Sequence[str], *, names: Sequence[str], n: int = 3
) -> pd.DataFrame:
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


def uses(
    compared: StudyComparison, class_names: Sequence[str], *, names: Sequence[str], n: int = 3
) -> pd.DataFrame | str:
    """How much either algorithm uses what marks the subpopulations of the first directions.

    A row is a class that makes up an end. *Share*: the squared length of the contrast datamodel of
    its members against the other half of the class, in percent of that class's datamodels, under
    the first-named algorithm and the other. *Times*: how many times longer the first's is.
    *Cosine*: of both. With 95% intervals, without noise, from models that did not find the
    subpopulation.
    """
    if compared.uses is None:
        return "Without models there is nothing to measure this on."
    if not len(compared.uses):
        return "Too few models, or common initialisations, to tell."
    table = compared.uses[compared.uses["rank"] <= n].copy()
    for name in ("share_first", "share_second"):
        columns = [name, f"{name}_low", f"{name}_high"]
        table[name] = _with_interval(100 * table[columns].clip(lower=0), name, 0)
    table["times"], table["cosine"] = (_with_interval(table, k, 1) for k in ("times", "cosine"))
    table["class"] = [class_names[label] for label in table["label"]]
    words = zip(table["use"], table["comparison"], strict=True)
    table["who uses it"] = [use_word(use, name, names) for use, name in words]
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    titles = {"share_first": "share, first, %", "share_second": "share, other, %"}
    table = table.set_index(["comparison", "direction", "end", "class"])
    return table[[*titles, "times", "cosine", "who uses it"]].rename(columns=titles)


def _with_interval(table: pd.DataFrame, name: str, digits: int) -> list[str]:
    columns = [name, f"{name}_low", f"{name}_high"]
    return [
        "–" if np.isnan(value) else f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
        for value, low, high in table[columns].itertuples(index=False)
    ]


def influence(run: Run) -> pd.DataFrame:
    """Whether directions' training images pull under one algorithm only (App. D).

    The images are those of largest relative influence. *Weight*: their part of a datamodel's
    absolute weight, its length being 1. *Inside*: the share of the subpopulation among the test
    images that they pull on most. The first-named algorithm stands first; *shared* is what both
    have in common.
    """
    rows = []
    for row in run.results[SUBPOPULATIONS].get("influence", []):
        own, other = compared(row["comparison"])
        pull = [row[f"{what}_{a}"] for what in ("influence", "in") for a in (own, other)]
        label = comparison_label(row["comparison"], run.names)
        rows.append((label, row["direction"], row["end"], *pull, row["in_both"]))
    columns = ["comparison", "direction", "end", "weight, first", "weight, other"]
    columns += ["inside, first", "inside, other", "shared"]
    return pd.DataFrame(rows, columns=columns).set_index(columns[:3]).round(2)


def auc_heatmap(
    ax: Axes, grades: pd.DataFrame | None, *, names: Sequence[str] = DEFAULT_NAMES
) -> Axes:
    """How well each direction sorts images with a planted feature from others of their class.

    The better end of a direction counts: ▲ top, ▼ bottom. Chance is a little above 0.5, since
    the better of two ends is taken. ``grades`` has the columns comparison, direction, end ("top"
    or "bottom"), feature and auc_within_class; it is None where no truth is known.
    """
    if grades is None:
        return nothing_here(ax)
    names = label_texts(names)
    need_columns(grades, ("comparison", "direction", "end", "feature", "auc_within_class"))
    keys = ["comparison", "direction", "feature"]
    best = grades.sort_values("auc_within_class", kind="stable").groupby(keys).tail(1)
    features = list(dict.fromkeys(grades["feature"]))
    index, columns = ["comparison", "direction"], "feature"
    auc = best.pivot(index=index, columns=columns, values="auc_within_class")[features]
    end = best.pivot(index=index, columns=columns, values="end")[features]
    # The palest tenth of the map is nearly white, the darkest hides black text: cells choose.
    ax.imshow(auc.to_numpy(), cmap="BuGn", vmin=0.5, vmax=1.05, aspect="auto")
    for (row, column), value in np.ndenumerate(auc.to_numpy()):
        arrow = {"top": "▲", "bottom": "▼"}.get(end.iat[row, column], "")
        color = "white" if value > 0.87 else INK
        text = f"{value:.2f} {arrow}" if np.isfinite(value) else "–"
        ax.text(column, row, text, ha="center", va="center", color=color, size=9)
    ax.set_xticks(range(len(features)), [label_text(f.replace("_", " "), 24) for f in features])
    ax.xaxis.tick_top()
    ax.set_yticks(range(len(auc)), [str(direction) for _, direction in auc.index])
    _group_rows(ax, [comparison for comparison, _ in auc.index], names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_ylabel("direction")
    return ax


def _group_rows(ax, comparisons, names) -> None:
    """Name each comparison at the right of its rows and part it from the next."""
    for comparison in dict.fromkeys(comparisons):
        rows = [i for i, c in enumerate(comparisons) if c == comparison]
        color = ALGORITHM_COLORS[compared(comparison)[0]]
        label = label_text(comparison_label(comparison, names))  # as short as the axis is high
        place = {"transform": ax.get_yaxis_transform(), "va": "center", "rotation": 270}
        ax.text(1.02, np.mean(rows), label, color=color, weight="bold", **place)
        if rows[0]:
            ax.axhline(rows[0] - 0.5, color="white", linewidth=6)


def matches(found: StudySubpopulations, *, names: Sequence[str]) -> pd.DataFrame | str:
    """The planted feature that each end of each direction picks out best.

    A cell has the feature, its AUC within class (★ above what the best of as many random directions
    reaches in 95 of 100 cases, or 0.99), over all images, and the share of carriers among as many
    outermost images as there are carriers.
    """
    if found.grades is None:
        return "No truth is known for this data: nothing to match."
    best = match_features(found.grades)
    best["comparison"] = [comparison_label(name, names) for name in best["comparison"]]
    best["cell"] = [
        f"{row.feature} {'★ ' if row.matched else ''}{row.auc_within_class:.2f}, {row.auc:.2f}, "
        f"{row.precision_at_k:.0%}"
        for row in best.itertuples()
    ]
    keys = ["comparison", "direction"]
    table = best.set_index([*keys, "end"])["cell"].unstack("end")
    order = pd.MultiIndex.from_frame(best[keys].drop_duplicates())
    return table.loc[order, list(ENDS)].rename_axis(columns=None)


OF_OLDER_RUNS = {"found": "seen, used more", "not found": "not seen"}


def best_directions(run: Run) -> pd.DataFrame | str:
    """The direction of each comparison that shows each planted feature best.

    *Random* is what the best of as many random directions reaches, 95th percentile. *Carriers* are
    counted among as many outermost images as carry the feature. *Shown* says whether the direction
    shows the feature, and how the first-named algorithm uses what marks its images.
    """
    best = run.results[SUBPOPULATIONS].get("best")
    if not best:
        return "No truth is known for this data: judge by eye, and by notebook 07."
    table = pd.DataFrame(best)
    words = zip(table["use"], table["comparison"], strict=True)
    table["use"] = [use_word(use, name, run.names) for use, name in words]
    table["comparison"] = [comparison_label(name, run.names) for name in table["comparison"]]
    titles = {
        "direction": "direction",
        "end": "end",
        "auc_within_class": "AUC within class",
        "random": "random",
        "precision_at_k": "carriers",
        "n": "of",
        "use": "who uses it",
        "verdict": "shown",
    }
    table["verdict"] = table["verdict"].replace(OF_OLDER_RUNS)
    table = table.set_index(["comparison", "feature"])[list(titles)]
    return table.rename(columns=titles).round(2)
