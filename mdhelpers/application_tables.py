"""What notebook 08 shows as tables and tells in sentences that follow from a run's figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
from IPython.display import Markdown

from mdhelpers.application_figures import copies_of
from mdhelpers.application_plots import WAYS
from mdhelpers.application_stage import APPLICATIONS, StudyApplications
from mdhelpers.plain_text import escape_markdown, escaped
from mdhelpers.removal import exchange_effects
from mdhelpers.runs import Run
from mdhelpers.stages import StudyModels
from mdhelpers.style import TRUTH_COLOR
from mdhelpers.tables import algorithm_names

SETTINGS = {"half": "half of the images", "full": "the whole training set"}


def removals(run: Run) -> pd.DataFrame:
    """Correlation of foretold and retrained effects, and flips, of both settings."""
    rows = {}
    for setting, block in run.results[APPLICATIONS]["removal"].items():
        rows[SETTINGS[setting]] = {
            "test images": block["n_tests"],
            "images left out, median": block["median_size"],
            "correlation": with_ends(block, "correlation"),
            "with random sets": with_ends(block, "correlation_with_controls"),
            "found / foretold": "–" if block["slope"] is None else f"{block['slope']:.2f}",
            "on all test images": f"{block['correlation_on_all_tests']:.2f}",
            "flips foretold": block["flips_foretold"],
            "flips found": block["flips_found"],
            "flips by random sets": block["flips_of_controls"],
        }
    return pd.DataFrame(rows).rename_axis(columns="left out of")


def with_ends(block: dict, name: str) -> str:
    """A figure with its interval; a dash where there were too few test images."""
    if name not in block:
        return "–"
    return f"{block[name]:.2f} [{block[f'{name}_low']:.2f}, {block[f'{name}_high']:.2f}]"


def removal_sentence(run: Run) -> Markdown:
    """Whether removal does what was foretold."""
    parts = []
    for setting, block in run.results[APPLICATIONS]["removal"].items():
        text = f"Out of {SETTINGS[setting]}: "
        if "correlation" in block:
            text += f"foretold and found effects correlate with {with_ends(block, 'correlation')}, "
            text += f"and what is found is {block['slope']:.2f} times what was foretold; "
        text += (
            f"of {block['flips_foretold']} predictions foretold to flip {block['flips_found']} "
            f"did, and {block['flips_of_controls']} when as many random images were left out."
        )
        parts.append(text)
    return Markdown("\n\n".join(parts) or "No prediction was right to begin with; none can flip.")


def leakage(found: StudyApplications, models: StudyModels, *, n: int = 8) -> pd.DataFrame:
    """The ``n`` pairs of each algorithm whose weights are most distinctive."""
    table = found.leakage.groupby("algorithm").head(n).copy()
    table["algorithm"] = [models.names[a - 1] for a in table["algorithm"]]
    labels = models.dataset.test.labels[table["test"]]
    table["class"] = [models.dataset.class_names[label] for label in labels]
    table = table[["algorithm", "class", *table.columns.drop(["algorithm", "class"])]]
    names = {"test": "test image", "train": "training image", "distinctive": "distinctive by"}
    names |= {"pixel_rank": "rank by pixels", "copy": "planted copy"}
    return table.round({"weight": 2, "distinctive": 1}).rename(columns=names).set_index("algorithm")


def leaked_pairs(
    found: StudyApplications, models: StudyModels, *, n: int = 12
) -> tuple[dict[str, np.ndarray], dict[str, list]]:
    """Images and frames of the most distinctive pairs, for `gallery.image_rows`.

    Planted copies have a green frame where the truth is known.
    """
    rows, outlines = {}, {}
    for algorithm, name in enumerate(models.names, 1):
        table = found.leakage[found.leakage["algorithm"] == algorithm].head(n)
        rows[f"{name}:\ntest"] = models.dataset.test.images[table["test"]]
        rows[f"{name}:\ntraining"] = models.dataset.train.images[table["train"]]
        known = table["copy"] if "copy" in table else np.zeros(len(table), bool)
        outlines[f"{name}:\ntraining"] = [TRUTH_COLOR if copy else None for copy in known]
    return rows, outlines


def duplicates_sentence(run: Run, models: StudyModels) -> Markdown:
    """In which share of cases a planted copy was found; or that none were planted."""
    if copies_of(models) is None:
        return Markdown(
            "No copies were planted in this study, so the pairs above are for the eye: does any "
            "show the same picture twice? The study `duplicates` plants copies and counts them."
        )
    figures, names = run.results[APPLICATIONS]["duplicates"], escaped(algorithm_names(run))
    ways = {f"distinctive_{a}": f"distinctive weights under *{names[a - 1]}*" for a in (1, 2)}
    ways |= {f"weights_{a}": f"the weights themselves under *{names[a - 1]}*" for a in (1, 2)}
    ways["pixels"] = "distance in pixels"
    parts = [
        f"by {words} **{100 * figures[way]['among_3']:.0f}%** "
        f"({100 * figures[way]['first']:.0f}% come first)"
        for way, words in ways.items()
    ]
    return Markdown(
        f"Of {figures['n']} planted copies, these are among the first three neighbours of the test "
        f"image that they copy: {'; '.join(parts)}."
    )


def cluster_grades(found: StudyApplications, models: StudyModels) -> pd.DataFrame | str:
    """The best cluster for each planted feature, of both algorithms."""
    if not len(found.cluster_grades):
        return "No truth is known for this data: judge the clusters by eye."
    table = found.cluster_grades.copy()
    table["algorithm"] = [models.names[a - 1] for a in table["algorithm"]]
    names = {"n": "carriers", "size": "images in it", "f1": "F1", "f1_of_class": "F1 of the class"}
    return table.round(2).rename(columns=names).set_index(["feature", "algorithm"]).sort_index()


def cluster_sentence(run: Run) -> Markdown:
    """Which planted features have a cluster of their own."""
    names, lines = escaped(algorithm_names(run)), []
    for row in run.results[APPLICATIONS]["cluster_grades"]:
        words = "has a cluster of its own" if row["f1"] > 2 / 3 else "has none of its own"
        feature = escape_markdown(row["feature"])
        lines.append(
            f"- **{feature}** {words} under *{names[row['algorithm'] - 1]}*: cluster "
            f"{row['cluster']} holds {100 * row['recall']:.0f}% of its carriers, who are "
            f"{100 * row['precision']:.0f}% of that cluster."
        )
    return Markdown("\n".join(lines) or "No truth is known for this data.")


def selections(found: StudyApplications) -> pd.DataFrame:
    """Share of right answers on each target, and on all test images, in percent."""
    table = found.selections.copy()
    table["chosen"] = [WAYS[way][2] for way in table["way"]]
    for name in ("right", "right_all"):
        ends = zip(table[name], table[f"{name}_low"], table[f"{name}_high"], strict=True)
        table[name] = [f"{100 * m:.0f} [{100 * a:.0f}, {100 * b:.0f}]" for m, a, b in ends]
    names = {"right": "right on the target, %", "right_all": "right on all, %", "size": "images"}
    table = table.rename(columns=names).set_index(["target", "images", "chosen"])
    return table[["right on the target, %", "right on all, %"]].sort_index(level=[0, 1])


def selection_sentence(run: Run) -> Markdown:
    """Where datamodels choose better than chance and likeness, and where not."""
    found, lines = run.results[APPLICATIONS]["selections"], []
    for target in dict.fromkeys(row["target"] for row in found):
        rows = pd.DataFrame([row for row in found if row["target"] == target])
        by_size = {size: part.set_index("way") for size, part in rows.groupby("size")}
        clear = [str(size) for size, part in by_size.items() if is_best(part)]
        where = f"at {', '.join(clear)} images" if clear else "at no size"
        lines.append(
            f"- *{escape_markdown(target)}*: {where} (of {len(by_size)} sizes tried) the subset "
            "that datamodels chose gives more right answers on the target than random and nearest "
            "ones, with intervals apart."
        )
    return Markdown("\n".join(lines) or "Models were made elsewhere: none can be trained anew.")


def is_best(rows: pd.DataFrame) -> bool:
    """Whether the datamodels' interval lies above those of random and nearest subsets."""
    others = rows.loc[["random", "nearest"], "right_high"].max()
    return bool(rows.loc["datamodels", "right_low"] > others)


def most_brittle(found: StudyApplications) -> int:
    """The test image whose prediction the smallest set flipped; the first where none was tried."""
    tried = found.removals.table.query("kind == 'set' and foretold < 0")
    flipped = tried[tried["found"] < 0]
    rows = flipped if len(flipped) else tried
    return int(rows.loc[rows["size"].idxmin(), "test"]) if len(rows) else 0


def check_by_counting(found: StudyApplications, models: StudyModels) -> pd.DataFrame:
    """The sets' effects from masks alone: held-out models, sorted by how much of the set they saw.

    The slope of a margin on the number of a set's members in the mask, times their number, is the
    same Δ in expectation, and no datamodel is asked.
    """
    heldout = models.heldout(found.algorithm)
    margins = heldout.margins
    if (slots := models.slots(heldout)) is not None:
        margins = margins - pd.DataFrame(margins).groupby(slots).transform("mean").to_numpy()
    members = found.removals.members.query("kind == 'set' and setting == 'half'")
    rows = []
    for test, part in members.groupby("test", sort=False):
        held = heldout.masks[:, part["train"]].sum(axis=1)
        if np.ptp(held):
            counted = len(part) * np.polyfit(held, margins[:, test], 1)[0]
            weights = found.datamodels.weights[[test]]
            foretold = exchange_effects(weights, [part["train"].to_numpy()])[0, 0]
            rows.append((test, len(part), foretold, counted))
    columns = ["test image", "images", "foretold by datamodels", "counted on held-out models"]
    return pd.DataFrame(rows, columns=columns).set_index("test image").round(2)
