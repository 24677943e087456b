"""What the studies on scenes found, side by side: collected from their finished runs.

For each study: effects of the planted features, the direction that shows each best and its
evidence, which called directions retraining confirms, how far directions turn without the test
images on which predictions differ (appendix F.4), and how predicted changes fit measured ones
(Proposition 1).

    mdhelpers run parameters/pretraining.yaml
    python benchmarks/studies.py augmentation pretraining --out book/recorded/studies.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from mdhelpers.data.datasets import read_dataset
from mdhelpers.formats.own import load_datamodels
from mdhelpers.method.comparison import COMPARISONS, normalise_rows
from mdhelpers.method.crossfit import in_order
from mdhelpers.method.subpopulations import shows
from mdhelpers.runs.run import Run
from mdhelpers.show.style import comparison_label, use_word


def collect(run: Run) -> dict:
    """The figures of one finished run, as rows for tables."""
    results = run.results
    names = [results["02_mask_training"][f"name_{a}"] for a in (1, 2)]
    facts, tilts = results["run"], results.get("10_reweighting", {})
    confirmed = {key: tilts.get(f"n_{key}") for key in ("tilted", "called", "confirmed")}
    return (
        {
            "about": {"study": run.study, "models": facts["n_models"], "names": names}
            | {"method": results["03_datamodel_fitting"]["method"], **confirmed}
            | {key: facts[key] for key in ("commit", "date", "machine")},
            "dataset": results["01_data_prep"]["parameters"]["dataset"],
            "algorithms": [algorithm_row(results, a, names) for a in (1, 2)],
            "features": feature_rows(run, names),
            "evidence": [evidence_row(results, c, names) for c in COMPARISONS],
            "disagreement": disagreement_rows(results, names),
            "reweighting": reweighting_rows(results, names),
        }
        | several_of(results)
        | source_of(results)
    )


def source_of(results: dict) -> dict:
    """The data that algorithm 1 was trained on first, where it was."""
    given = results["02_mask_training"]["parameters"]["algorithm_1"].get("initialisation", {})
    source = given.get("source") if isinstance(given, dict) else None
    return {"source": source["dataset"]} if source else {}


def several_of(results: dict) -> dict:
    """What page 12 says of more than two algorithms: the matrix, pairs, the ladder, ensembles."""
    block = results.get("12_several_algorithms")
    if not block:
        return {}
    ladder = [
        row | {"pair": f"{row['first']}, {row['second']}"}
        for row in block["ladder"]
        if row["measure"] == "inconsistency"
    ]
    pairs = [
        row
        | {"pair": f"{row['first']}, {row['second']}"}
        | {"side": comparison_label(row["comparison"], (row["first"], row["second"]))}
        for row in block["pairs"]
    ]
    names = block["names"]
    by_name = {
        n: dict(zip(names, row, strict=True))
        for n, row in zip(names, block["corrected"], strict=True)
    }
    matrix = {"rows": [{"changed": name} for name in names], "corrected": by_name}
    sweep = pd.DataFrame(block["sweep"])
    most = sweep["intensity"] == sweep.groupby("hypothesis")["intensity"].transform("max")
    effects = sweep[most].to_dict("records")
    return {"several": {"alike": matrix, "pairs": pairs, "ladder": ladder, "effects": effects}}


def algorithm_row(results: dict, a: int, names: list[str]) -> dict:
    trained, fitted = results["02_mask_training"], results["03_datamodel_fitting"]
    row = {"algorithm": names[a - 1], "accuracy": trained[f"accuracy_{a}"]}
    for key in ("lds", "lds_low", "lds_high", "ceiling"):
        stem, _, end = key.partition("_")
        row[key] = fitted.get(f"{stem}_{a}_{end}".rstrip("_"))
    return row


def feature_rows(run: Run, names: list[str]) -> list[dict]:
    """Each tested feature: its effects, and the direction of its side that shows it best."""
    effects = run.results["07_counterfactual_verification"]
    best = pd.DataFrame(run.results["05_subpopulation_inspection"].get("best", []))
    gaps = pd.read_parquet(run.path / "gaps.parquet")
    rows = []
    for feature, found in effects.items():
        if not isinstance(found, dict) or "effect_1" not in found:
            continue
        keys = ("effect_1", "effect_2", "difference", "difference_low", "difference_high")
        row = {"feature": feature, **{key: found[key] for key in keys}}
        row["outcome"] = found.get("word", found["outcome"])  # older runs have no word
        side = COMPARISONS[0] if found["difference"] > 0 else COMPARISONS[1]
        if not best.empty and feature in set(best["feature"]):
            one = best[(best["feature"] == feature) & (best["comparison"] == side)].iloc[0]
            row |= shown_by(one, gaps, names) | shares(run, feature)
        rows.append(row)
    return rows


def shares(run: Run, feature: str) -> dict:
    """Percent of carriers' datamodels, in squared weights, that lie on training carriers."""
    data, found = read_dataset(run.path / "data"), {}
    train, test = (split.truth[feature].to_numpy() for split in (data.train, data.test))
    for a in (1, 2):
        rows = normalise_rows(load_datamodels(run.path / f"datamodels_{a}.safetensors").weights)
        found[f"share_{a}"] = 100 * float(np.square(rows[test][:, train]).sum(1).mean())
    return found


def shown_by(one: pd.Series, gaps: pd.DataFrame, names: list[str]) -> dict:
    """A direction that shows a feature, with its evidence and rank in that order."""
    ordered = in_order(gaps[gaps["comparison"] == one["comparison"]])
    place = list(ordered["direction"]).index(one["direction"])
    seen = bool(shows(one["auc_within_class"], one["random"]))
    return {
        "side": comparison_label(one["comparison"], names),
        "auc": one["auc_within_class"],
        "precision": one["precision_at_k"],
        "random": one["random"],
        "use": use_word(one["use"], one["comparison"], names) if seen else "not seen",
        "rank": place + 1,
        "evidence": ordered["evidence"].iloc[place],
    }


def evidence_row(results: dict, comparison: str, names: list[str]) -> dict:
    found = results["04_residual_pca"]
    words = found[f"evidence_{comparison}"]
    return {
        "comparison": comparison_label(comparison, names),
        "naive": found[f"naive_gap_{comparison}"],
        "gap": found[f"gap_{comparison}"],
        "low": found[f"gap_{comparison}_low"],
        "high": found[f"gap_{comparison}_high"],
    } | {word: words.get(word, 0) for word in ("strong", "weak", "none", "too few")}


def disagreement_rows(results: dict, names: list[str]) -> list[dict]:
    """Appendix F.4's table: cosines with the directions without some test images."""
    rows = results["04_residual_pca"]["analyses"]["disagreement"]
    label = {c: comparison_label(c, names) for c in COMPARISONS}
    return [row | {"comparison": label[row["comparison"]]} for row in rows]


def reweighting_rows(results: dict, names: list[str]) -> list[dict]:
    """Correlation of predicted and measured changes, for directions of each side and at random.

    Rows of an algorithm's own directions, and of random ones, have a key ``own``.
    """
    rows = []
    for key, found in results.get("10_reweighting", {}).items():
        stem, _, a = key.rpartition("_algorithm_")
        if stem:
            what = comparison_label(stem, names) if stem in COMPARISONS else "random directions"
            row = {"directions": what, "algorithm": names[int(a) - 1], **found}
            own = stem.startswith(a) or stem not in COMPARISONS
            rows.append(row | {"own": True} if own else row)
    return rows


def together(found: dict[str, dict]) -> dict[str, list[dict]]:
    """The rows of all studies, with the study's name."""
    studies = {name: rows for name, rows in found.items() if name != "together"}
    tables = {
        part: [{"study": name} | row for name, rows in studies.items() for row in rows[part]]
        for part in ("evidence", "disagreement", "reweighting")
    }
    return tables | {"about": [rows["about"] for rows in studies.values()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+", help="names of finished studies")
    parser.add_argument("--profile", default="full")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, help="write JSON here; other studies there are kept")
    options = parser.parse_args()
    found = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for study in options.studies:
        run = Run(study, profile=options.profile, runs_dir=options.runs_dir)
        if not run.results:
            raise SystemExit(f"{run.folder} holds no finished run; run `{run.command()}`")
        found[study] = collect(run)
        print(study)
        for part in ("algorithms", "features", "evidence", "disagreement", "reweighting"):
            print(pd.DataFrame(found[study][part]).round(3).to_string(index=False), end="\n\n")
    if options.out:
        found["together"] = together(found)
        options.out.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
