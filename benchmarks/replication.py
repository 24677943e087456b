"""Do a study's findings hold on what had no part in them: other seeds, other images?

The findings of a finished run of a folder of pictures, and its hypotheses, are tested again by the
rules of page 7: on models of the same training images from other seeds and test images that the
study did not use; then on models of *other training images* too. Findings that were proposed are
corrected among themselves, hypotheses among themselves, as on page 7.

    python benchmarks/replication.py cifar10_laptop --models 32 --out FILE
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from mdhelpers.base.places import machine
from mdhelpers.base.records import plain
from mdhelpers.base.specs import validate
from mdhelpers.data.datasets import Dataset, DatasetSpec, Split, save_dataset
from mdhelpers.data.sources import load_dataset
from mdhelpers.runs.run import Run, run_at
from mdhelpers.runs.stage import DATA, EFFECTS
from mdhelpers.stages.effect_cases import measure_hypotheses
from mdhelpers.stages.effect_models import EffectModels, on_all, read_effect_models
from mdhelpers.stages.effects import read_effects, sentence, word_of
from mdhelpers.stages.models import StudyModels
from mdhelpers.stages.study import Hypothesis, Placebo
from mdhelpers.training.mask_training import retrain, retraining

KEY = 4_000_000  # of models that no stage has
FOLDER = "replication"


def fresh(run: Run, data: Dataset) -> Dataset:
    """As many training images as the study has, and as many test images, none of them its own."""
    spec = validate(DatasetSpec, run.manifest(DATA)["parameters"]["dataset"], "dataset")
    whole = load_dataset(spec.model_copy(update={"limit_train": None, "limit_test": None}))
    parts = []
    for name in ("train", "test"):
        all_of, used = getattr(whole, name), getattr(data, name)
        new = ~all_of.metadata["file"].isin(used.metadata["file"]).to_numpy()
        rows = [
            np.flatnonzero(new & (all_of.labels == label))[: (used.labels == label).sum()]
            for label in range(len(data.class_names))
        ]
        parts.append(subset(all_of, np.concatenate(rows)))
    return Dataset.build(f"{data.name}, other images", *parts, data.class_names)


def subset(split: Split, rows: np.ndarray) -> Split:
    masks = None if split.foreground is None else split.foreground[rows]
    metadata = split.metadata.iloc[rows].reset_index(drop=True)
    return Split(split.images[rows], split.labels[rows], metadata, masks)


def trained(study: StudyModels, n: int, workers: int) -> EffectModels:
    """Models of all training images from seeds that no stage has."""
    plan, *which = on_all(study, n, KEY)
    about = {"name": FOLDER, "keep": True}
    for a in (1, 2):
        retrain(plan, a, *which, **about, workers=workers)
    return EffectModels(study, tuple(retraining(plan, a, *which, **about)[0] for a in (1, 2)))


def elsewhere(study: StudyModels, data: Dataset) -> StudyModels:
    """The same algorithms on other images, in a folder of their own."""
    folder = study.plan.folder / FOLDER
    save_dataset(data, folder / "data")
    sizes = {"n_train": len(data.train), "n_test": len(data.test)}
    plan = replace(study.plan, folder=folder, fingerprint=data.fingerprint, **sizes)
    return StudyModels(plan, data, study.n_heldout)


def what_was_found(run: Run) -> dict[str, list[tuple[dict, Hypothesis]]]:
    """Verdicts and what they are on: of the study's hypotheses, and of what was proposed."""
    effects = read_effects(run)
    doses = effects.effects[effects.effects["kind"] == "feature"].groupby("hypothesis")["intensity"]
    given = run.manifest(EFFECTS)["parameters"]["hypotheses"]
    own = {h["name"]: h for h in given}
    found: dict[str, list] = {"study": [], "proposed": []}
    for row in effects.verdicts.to_dict("records"):
        about = own.get(row["hypothesis"]) or {
            "name": row["hypothesis"],
            "transformation": row["transformation"],
            "target_class": row["class_name"],
            "intensities": sorted(set(doses.get_group(row["hypothesis"]))),
        }
        found[row["source"]].append((row, validate(Hypothesis, about, "hypothesis")))
    return found


def measure(run: Run, n_models: int, workers: int) -> list[dict]:
    models, parameters = read_effect_models(run), run.manifest(EFFECTS)["parameters"]
    data = fresh(run, models.dataset)
    tested_on = models.dataset.train, data.test
    same = replace(models.study, dataset=Dataset.build(data.name, *tested_on, data.class_names))
    settings = {
        "other seeds, other test images": replace(
            trained(models.study, n_models, workers), study=same
        ),
        "other training images too": trained(elsewhere(models.study, data), n_models, workers),
    }
    about = {key: parameters[key] for key in ("epsilon", "delta", "seed")}
    placebo, rows = validate(Placebo, parameters["placebo"], "placebo"), []
    for source, cases in what_was_found(run).items():
        before = {case.name: row for row, case in cases}
        for name, each in settings.items():
            if not cases:
                continue
            _, verdicts = measure_hypotheses(each, [case for _, case in cases], placebo, **about)
            for row in verdicts.to_dict("records"):
                first = before[row["hypothesis"]]
                row |= {"source": source, "on": name, "text": sentence(row, models.names)}
                row |= {"first": first["difference"], "first_outcome": first["outcome"]}
                row["holds"] = row["outcome"] == first["outcome"]
                row["word"] = word_of(row["outcome"], models.names)
                row["first_word"] = word_of(first["outcome"], models.names)
                rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="the study's name, or a run's folder")
    parser.add_argument("--models", type=int, default=32, help="of each algorithm")
    parser.add_argument("--workers", type=int, default=0, help="processes; 0: one per core")
    parser.add_argument("--quick", action="store_true", help="8 models")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    run = run_at(Path(given.run)) if "/" in given.run else Run(given.run)
    rows = measure(run, 8 if given.quick else given.models, given.workers)
    for row in rows:
        print(f"{row['on']}: {row['text']} (before: {row['first']:+.1f}, {row['first_outcome']})")
    if given.out:
        names = [run.results["02_mask_training"][f"name_{a}"] for a in (1, 2)]
        about = {"machine": machine(), "run": run.study, "names": names, "models": given.models}
        about["rows"] = rows
        given.out.write_text(json.dumps(plain(about), indent=1) + "\n")


if __name__ == "__main__":
    main()
