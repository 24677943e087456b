"""What the notebooks show as tables: each function gives one DataFrame, ready to read."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mdhelpers.datasets import Dataset
from mdhelpers.runs import Run
from mdhelpers.stages import DATAMODELS, MODELS, SPLITS, StudyModels, read_models
from mdhelpers.style import COMPARISONS, DEFAULT_NAMES, comparison_label
from mdhelpers.subpopulations import ENDS, match_features


def classes(data: Dataset) -> pd.DataFrame:
    """Images of each class in both halves."""
    counts = {
        f"{part} images": np.bincount(getattr(data, part).labels, minlength=len(data.class_names))
        for part in SPLITS
    }
    table = pd.DataFrame(counts, index=pd.Index(data.class_names, name="class"))
    table.loc["all"] = table.sum()
    return table


def planted(data: Dataset) -> pd.DataFrame | str:
    """How many images of each class carry each planted feature, where that is known."""
    if not any(len(getattr(data, part).truth.columns) for part in SPLITS):
        return "No truth is known for this data: nothing was planted."
    rows = []
    for part in SPLITS:
        split = getattr(data, part)
        for feature in split.truth.columns:
            labels = split.labels[split.truth[feature].to_numpy()]
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                rows.append((feature, data.class_names[label], f"{part} images", count))
    table = pd.DataFrame(rows, columns=["feature", "class", "part", "count"])
    return table.pivot(index=["feature", "class"], columns="part", values="count")


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


def datamodel_quality(run: Run) -> pd.DataFrame:
    """LDS of both algorithms with intervals, and how sparse the datamodels are."""
    figures, names = run.results[DATAMODELS], algorithm_names(run)
    rows = {
        names[a - 1]: {
            "LDS within slots (Spearman)": figures[f"lds_{a}"],
            "95% interval, low": figures[f"lds_{a}_low"],
            "95% interval, high": figures[f"lds_{a}_high"],
            "the same, Pearson": figures[f"lds_{a}_pearson"],
            "LDS, slots not removed": figures[f"lds_{a}_raw"],
            "weights that are not zero": figures[f"nonzero_{a}"],
            "best λ at the path's end": figures[f"lam_at_edge_{a}"],
        }
        for a in (1, 2)
    }
    return pd.DataFrame(rows).round(3)


def algorithm_names(run: Run) -> tuple[str, str]:
    """The algorithms' names, or "algorithm 1" and "2" where scores were made elsewhere."""
    figures = run.results.get(MODELS, {})
    return tuple(figures.get(f"name_{a}", DEFAULT_NAMES[a - 1]) for a in (1, 2))


GAP_COLUMNS = {
    "naive_gap": "naive gap",
    "gap": "cross-fitted",
    "clean_gap": "noise-free (95%)",
    "ratio": "times (at least)",
    "q": "q",
    "replication": "found again",
    "evidence": "evidence",
}


def gaps(found, names) -> pd.DataFrame:
    """Every direction's gaps, in percent of the datamodels' variance, in the order of evidence."""
    if found.gaps is None:
        rows = [
            (comparison_label(name, names), component, 100 * gap)
            for name in COMPARISONS
            for component, gap in zip(
                found.comparison[name].component, found.comparison[name].naive_gap, strict=True
            )
        ]
        return pd.DataFrame(rows, columns=["comparison", "direction", "naive gap, %"]).round(2)
    table = found.gaps.copy()
    table["comparison"] = [comparison_label(name, names) for name in table["comparison"]]
    table = table.set_index(["comparison", "rank", "direction"])
    for name in ("naive_gap", "gap"):
        table[name] = (100 * table[name]).round(2)
    table["replication"] = table["replication"].round(2)
    if "q" in table:
        table["q"] = [f"{q:.2g}" if q >= 1e-4 else "<.0001" for q in table["q"]]
        gaps = zip(*(100 * table[f"clean_{end}"] for end in ("gap", "low", "high")), strict=True)
        table["clean_gap"] = [f"{gap:.1f} ({low:.1f} to {high:.1f})" for gap, low, high in gaps]
        ratios = zip(table["ratio"], table["ratio_low"], strict=True)
        table["ratio"] = [f"{ratio:.1f} ({low:.1f})" for ratio, low in ratios]
    shown = [name for name in GAP_COLUMNS if name in table]
    return table[shown].rename(columns=GAP_COLUMNS)


def matches(found, names) -> pd.DataFrame | str:
    """The planted feature that each end of each direction picks out best.

    A cell has the feature, its AUC within class (★ from 0.9 on), over all images, and the share of
    carriers among as many outermost images as there are carriers.
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


def null_gaps(run: Run, names) -> pd.DataFrame | str:
    """Gaps summed over directions, of the real pair and of each algorithm against itself."""
    figures = run.results["04_residual_pca"]
    if "gap_1_minus_2" not in figures:
        return "Without models there is no null to compare with."
    pairs = {"1 against 2": f"{names[0]} against {names[1]}"}
    pairs |= {f"{a} against {a}": f"{names[a - 1]} against itself" for a in (1, 2)}
    rows = []
    for pair, label in pairs.items():
        for name in COMPARISONS:
            row = figures[f"null_{pair.replace(' ', '_')}_{name}"]
            which = comparison_label(name, names if pair == "1 against 2" else ("first", "second"))
            values = [row["naive_gap"], row["gap"], row["low"], row["high"]]
            rows.append([label, which, *(round(value, 2) for value in values)])
    columns = ["pair", "comparison", "naive gap, %", "cross-fitted gap, %", "5th pct.", "95th pct."]
    return pd.DataFrame(rows, columns=columns).set_index(["pair", "comparison"])


def clip_report(run: Run) -> pd.DataFrame | str:
    """How well the small CLIP tells what is in fresh scenes, worst first."""
    report = run.results["06_clip_captioning"].get("clip")
    if not report:
        return "This run's captions come from another CLIP, or none: nothing to grade."
    table = pd.DataFrame(report["auc"]).sort_values("auc").set_index(["kind", "what"])
    return table.round(3)


def best_captions(table: pd.DataFrame | None, names, *, n: int = 3) -> pd.DataFrame | str:
    """The first ``n`` captions of both ends of every direction, against the same class."""
    if table is None:
        return "Captions are switched off in this study."
    rows = table[(table["reference"] == "class") & (table["rank"] <= n)].copy()
    rows["comparison"] = [comparison_label(name, names) for name in rows["comparison"]]
    rows["caption"] = [f"{c} (z {z:.1f})" for c, z in zip(rows["caption"], rows["z"], strict=True)]
    keys = ["comparison", "direction", "end"]
    order = rows[keys].drop_duplicates()
    wide = rows.pivot(index=keys, columns="rank", values="caption")
    return wide.loc[[tuple(row) for row in order.itertuples(index=False)]]


def effects(table: pd.DataFrame, names) -> pd.DataFrame | str:
    """Every effect in percentage points with its interval, one row an intensity."""
    if table.empty:
        return "The study tests no hypothesis."
    shown = table.copy()
    labels = {0: f"{names[0]} − {names[1]}", 1: names[0], 2: names[1]}
    shown["algorithm"] = shown["algorithm"].map(labels)
    shown["cell"] = [
        f"{row.effect:+.1f} [{row.low:+.1f}, {row.high:+.1f}]" for row in shown.itertuples()
    ]
    keys = ["hypothesis", "kind", "intensity"]
    wide = shown.pivot(index=keys, columns="algorithm", values="cell")
    return wide[[labels[1], labels[2], labels[0]]]
