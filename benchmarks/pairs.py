"""Which pairs of algorithms differ on one data set, at laptop scale, and what is found of each.

One algorithm of a study is compared with variants of itself, each in a study of its own with no
hypotheses: noise of SGD, width, weight decay, when it stops, smoothed labels, augmentation, and
pre-training on the classes that the study leaves out. For each pair: whether directions are
significant, and the findings by the rules of page 7.

    python benchmarks/pairs.py cifar10_laptop --out FILE

What is finished is read again; ``--quick`` takes few models of two pairs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

from mdhelpers.base.places import machine
from mdhelpers.base.records import plain
from mdhelpers.command.files import complete, merge
from mdhelpers.data.folders import list_pictures
from mdhelpers.method.comparison import COMPARISONS
from mdhelpers.runs.run import Run
from mdhelpers.stages.checks import check_study
from mdhelpers.stages.effects import read_effects, sentence
from mdhelpers.stages.power import carry_out
from mdhelpers.stages.study import Study

SIZES = {"n_models": 64, "n_heldout": 16, "n_kept": 0, "n_null_splits": 1, "hypotheses": []}
SIZES |= {"selection_sizes": [100]}  # of a page that is not carried out
IMAGES = {"limit_train": 90, "limit_test": 100}  # of each class
BASE = {"name": "plain", "width": 12, "epochs": 15, "batch_size": 25, "lr": 0.03}
# What each pair changes: of the first algorithm, and of the second.
PAIRS: dict[str, tuple[dict, dict]] = {
    "flips and shifts": (
        {},
        {"name": "augmented", "epochs": 30, "lr": 0.05, "augmentation": {"shift": 4, "flip": True}},
    ),
    "jittered colours": (
        {},
        {"name": "jittered", "epochs": 30, "lr": 0.05, "augmentation": {"jitter": 0.5}},
    ),
    "noise of SGD": (
        {"name": "high noise", "batch_size": 10, "lr": 0.03},
        {"name": "low noise", "batch_size": 50, "lr": 0.01, "epochs": 30},
    ),
    "width": ({}, {"name": "wide", "width": 32}),
    "weight decay": ({}, {"name": "decayed", "weight_decay": 0.02}),
    "when it stops": ({}, {"name": "stopped early", "epochs": 6}),
    "smoothed labels": ({}, {"name": "smoothed", "label_smoothing": 0.4}),
    "pre-training": ({}, {"name": "pre-trained", "lr": 0.02}),
}


def pairs_of(study: Study) -> dict[str, Study]:
    """The study of each pair, checked."""
    given, found = study.model_dump(exclude_unset=True), {}
    dataset = given["dataset"] | IMAGES
    for name, (first, second) in PAIRS.items():
        if name == "pre-training":
            second = second | {"initialisation": pretrained_on_others(study)}
        about = {"study": name.replace(" ", "_"), "dataset": dataset}
        about |= {"algorithm_1": BASE | first, "algorithm_2": BASE | second}
        found[name] = Study.model_validate(given | SIZES | about)
        check_study(found[name])
    return found


def pretrained_on_others(study: Study) -> dict[str, Any]:
    """An initialisation: a network that has learnt the folder's other classes."""
    dataset = study.dataset.model_copy(update={"classes": []})
    others = [n for n in list_pictures(dataset).names if n not in study.dataset.classes]
    source = study.dataset.model_dump(exclude_unset=True) | {"classes": others}
    source |= {"limit_train": 500, "limit_test": 100}
    return {"kind": "pretraining", "source": {"dataset": source, "algorithm": BASE}}


def row_of(name: str, run: Run, study: Study) -> dict[str, Any]:
    """What one pair came to."""
    names, results = (study.algorithm_1.name, study.algorithm_2.name), run.results
    trained, compared = results["02_mask_training"], results["04_residual_pca"]
    row = {"pair": name, "first": names[0], "second": names[1]}
    row |= {f"accuracy_{a}": trained[f"accuracy_{a}"] for a in (1, 2)}
    row["cosine"] = compared["cosine_median"]
    for side, comparison in enumerate(COMPARISONS, 1):
        row[f"significant_{side}"] = compared[f"significant_{comparison}"]
        row[f"strong_{side}"] = compared[f"evidence_{comparison}"].get("strong", 0)
        row[f"gap_{side}"] = compared[f"gap_{comparison}"]
        row[f"gap_{side}_low"] = compared[f"gap_{comparison}_low"]
        row[f"gap_{side}_high"] = compared[f"gap_{comparison}_high"]
    verdicts = read_effects(run).verdicts.to_dict("records")
    row["tested"] = [sentence(verdict, names) for verdict in verdicts]
    found = results["07_counterfactual_verification"]["findings"]
    return row | {"n_findings": len(found), "findings": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file or a name, of folders of pictures")
    parser.add_argument("--folder", type=Path, default=Path("runs/pairs"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    study, _ = complete(merge(given.study), Study)
    if given.quick:
        SIZES.update(n_models=16, n_heldout=8, n_slots=0, n_effect_models=4)
    rows = []
    for name, each in list(pairs_of(study).items())[: 2 if given.quick else None]:
        print(f"{name}: {each.algorithm_1.name} against {each.algorithm_2.name}", flush=True)
        run = Run(each.study, runs_dir=given.folder)
        rows.append(row_of(name, carry_out(run, each), each))
        print(pd.DataFrame(rows[-1:]).drop(columns="findings").T.to_string(), flush=True)
        if given.out:
            about = {"machine": machine(), "study": study.study, "images": IMAGES, "rows": rows}
            given.out.write_text(json.dumps(plain(about), indent=1) + "\n")


if __name__ == "__main__":
    main()
