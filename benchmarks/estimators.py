"""How well each estimator of datamodels does with how many models, and what it takes.

Of finished drawings of a study (`benchmarks/power.py` trains them), the last models grade: LDS
within common initialisations on masks that no estimator has seen, and the cosine of all datamodels
with those that infinitely many trainings would give, noise taken out by products of different
models. Scores are taken from the gradients of the first models. Then each pair of datamodels is
compared as notebook 04 does it, and what is said of the planted features is counted, and how much
of what is called is confirmed by the outputs of the same models.

    python benchmarks/estimators.py parameters/augmentation.yaml --seeds 1 --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402
import torch  # noqa: E402
from power import differences, said, train  # noqa: E402

from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.command.files import complete, merge  # noqa: E402
from mdhelpers.method.comparison import COMPARISONS, compare  # noqa: E402
from mdhelpers.method.crossfit import cross_fitted_gaps  # noqa: E402
from mdhelpers.method.datamodels import Fitter  # noqa: E402
from mdhelpers.method.evidence import Outputs  # noqa: E402
from mdhelpers.method.lds import lds  # noqa: E402
from mdhelpers.method.trak import METHODS as FROM_GRADIENTS  # noqa: E402
from mdhelpers.runs.run import Run  # noqa: E402
from mdhelpers.runs.stage import MODELS  # noqa: E402
from mdhelpers.stages import gradients  # noqa: E402
from mdhelpers.stages.study import GradientSpec, Study  # noqa: E402
from mdhelpers.stages.subpopulations import grade_figures, graded  # noqa: E402

METHODS = ("trak", "trak+ridge", "ridge", "lasso")
N_GRADED, N_SPLITS, FEWEST = 256, 4, 16
LEVEL, FOUND = 0.05, 0.9


class Drawing:
    """One drawing's models, with the gradients of the first ones."""

    def __init__(self, study: Study, seed: int, n_models: int, spec: GradientSpec, folder: Path):
        made = Run(f"{study.study}-seed{seed}", runs_dir=folder).manifest(MODELS)
        total = max(made["parameters"]["n_models"] if made else 0, n_models + N_GRADED)
        self.run, self.models = train(study, seed, total, folder)
        plan = gradients.gradient_plan(self.models, spec)
        plan = replace(plan, folder=folder / f"{study.study}-seed{seed}-gradients")
        gradients.take_gradients(plan, workers=1)
        self.plan = plan
        self.scores = {a: self._scores(a) for a in (1, 2)}

    def _scores(self, algorithm: int) -> np.ndarray:
        """Each model's scores, (n_scored, n_test, n_train), once for all calls."""
        path = self.plan.folder / f"scores_{algorithm}-{self.plan.digest}.npy"
        if not path.exists():
            gradients.ModelGradients.chosen(self.models, self.plan, algorithm, True).write(path)
        return np.load(path, mmap_mode="r")

    def fitter(self, algorithm: int, method: str, n: int) -> Fitter:
        """Of the first models; scores of as many of them as there are gradients."""
        trained = self.models.fitting(algorithm).rows(slice(n))
        slots = trained.slots if np.bincount(trained.slots)[trained.slots].min() > 1 else None
        outputs = self.models.outputs(trained, relative=True)
        scores = self.scores[algorithm][:n] if method in FROM_GRADIENTS else None
        return Fitter(trained.masks, outputs, slots=slots, scores=scores, method=method)

    def score(self, algorithm: int, weights: np.ndarray) -> float:
        fitting = self.models.fitting(algorithm)
        graded_on = fitting.rows(slice(len(fitting.masks) - N_GRADED, None))
        true = self.models.outputs(graded_on, relative=True)
        true = gradients.less_slots(true, graded_on.slots)
        return lds(true, graded_on.masks.astype(np.float32) @ weights.T).spearman

    def cosine(self, algorithm: int, weights: np.ndarray) -> float:
        """Of all datamodels, as one row, with the true ones, as other models tell without noise."""
        fitting = self.models.fitting(algorithm)
        others = fitting.rows(slice(len(fitting.masks) - N_GRADED, None))
        outputs = self.models.outputs(others, relative=True)
        ones = np.ones(outputs.shape[1])
        true = Outputs.measured(others.masks, outputs, ones, slots=others.slots)
        along = float(true.toward(torch.from_numpy(weights.astype(np.float32))).mean(0).sum())
        length = max(float(true.squared_lengths[0].sum()), 1e-12) ** 0.5
        return along / (length * float(np.linalg.norm(weights)))


def quality(drawing: Drawing, study: Study, seed: int, methods, budgets) -> list[dict]:
    """A row per method, budget and algorithm."""
    rows = []
    for method in methods:
        for n in budgets:
            if method not in FROM_GRADIENTS and n < FEWEST:
                continue
            for a in (1, 2):
                start = time.process_time()
                fit = drawing.fitter(a, method, n)
                weights = fit(np.arange(n))
                rows.append(
                    {
                        "study": study.study,
                        "seed": seed,
                        "method": method,
                        "models": n,
                        "algorithm": drawing.models.names[a - 1],
                        "lds": drawing.score(a, weights),
                        "cosine": drawing.cosine(a, weights),
                        "fit": time.process_time() - start,
                        "training": n * float(drawing.models.fitting(a).seconds[:n].mean()),
                        "scored": len(fit.scored(np.arange(n))),
                    }
                )
                print(rows[-1], flush=True)
    return rows


def findings(drawing: Drawing, study: Study, seed: int, methods, budgets) -> list[dict]:
    """What is said of each planted feature, and what is called and confirmed."""
    effects, rows, test = differences(drawing.run, study), [], drawing.models.dataset.test
    for method in (m for m in methods if m != "lasso"):
        for n in (n for n in budgets if n >= FEWEST):
            fits = [drawing.fitter(a, method, n) for a in (1, 2)]
            datamodels = tuple(fit(np.arange(n)) for fit in fits)
            comparison = compare(*datamodels)
            options = {"n_splits": N_SPLITS, "slots": fits[0].slots, "labels": test.labels}
            found = cross_fitted_gaps(*fits, n, comparison=comparison, **options)
            grades = [graded(part, datamodels, test) for part in comparison]
            grades = pd.concat(grades, ignore_index=True)
            best = grade_figures(grades, found.uses, test.labels, test.truth)["best"]
            best, table = pd.DataFrame(best), found.directions
            head = {"study": study.study, "seed": seed, "method": method, "models": n}
            called = table.loc[table["q"] < LEVEL, ["comparison", "direction"]]
            head["significant"] = len(called)
            among = grades.merge(called, on=["comparison", "direction"])
            if "confirmed" in table:
                head["confirmed"] = int((table["confirmed"] == "confirmed").sum())
            for feature, difference in effects.items():
                row = said(best[best["feature"] == feature], difference)
                row |= {key: float(row[key]) for key in ("auc", "random")}
                side = COMPARISONS[0] if difference > 0 else COMPARISONS[1]
                own = among[(among["feature"] == feature) & (among["comparison"] == side)]
                row["auc_called"] = float(own["auc_within_class"].max()) if len(own) else 0.0
                rows.append(head | {"feature": feature, "difference": difference} | row)
                print(rows[-1], flush=True)
    return rows


def by_budget(rows: list[dict], names: list[str]) -> list[dict]:
    """Means over drawings: a row per method and budget, with the LDS under both algorithms."""
    table = pd.DataFrame(rows)
    keys = ["method", "models", "algorithm"]
    groups = table.groupby(keys, sort=False)
    keys = ["lds", "cosine", "fit", "training", "scored"]
    means, found = groups[[key for key in keys if key in table]].mean(), []
    for method, models in dict.fromkeys((r["method"], r["models"]) for r in rows):
        each = [means.loc[(method, models, name)] for name in names]
        row = {"method": method, "models": models, "scored": int(each[0]["scored"])}
        row |= {f"lds_{a}": float(part["lds"]) for a, part in enumerate(each, 1)}
        cosines = enumerate((float(part.get("cosine", np.nan)) for part in each), 1)
        row |= {f"cosine_{a}": cosine for a, cosine in cosines if np.isfinite(cosine)}
        row["training"] = float(sum(part["training"] for part in each))
        row["drawings"] = len(groups.get_group((method, models, names[0])))
        found.append(row)
    return found


def by_words(rows: list[dict]) -> list[dict]:
    """A row per method and budget: in how many drawings each feature is said right, and calls."""
    table, found = pd.DataFrame(rows), []
    for (method, models), part in table.groupby(["method", "models"], sort=False):
        row = {"method": method, "models": int(models), "drawings": part["seed"].nunique()}
        for feature, own in part.groupby("feature"):
            row[feature] = int((own["said"] == "right").sum())
            row[f"auc_{feature}"] = float(own["auc"].median())
            row[f"found_{feature}"] = int((own["auc_called"] >= FOUND).sum())
        once = part.drop_duplicates("seed")
        row["significant"] = float(once["significant"].mean())
        row["reversed"] = int((part["said"] == "reversed").sum())
        if "confirmed" in once and once["confirmed"].notna().all():
            row["confirmed"] = float(once["confirmed"].mean())
        found.append(row)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", help="a parameters file of scenes with hypotheses")
    parser.add_argument("--models", type=int, nargs="+", default=[4, 8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--gradients", type=int, default=64, help="models whose gradients are taken"
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/power"))
    parser.add_argument("--out", type=Path, help="write JSON here, after every data seed")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--only", choices=("quality", "words"), help="measure this anew, no more")
    options = parser.parse_args()
    torch.set_num_threads(1)
    study, _ = complete(merge(options.study), Study)
    spec, budgets = GradientSpec(models=options.gradients), sorted(options.models)
    kept = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    rows = {"quality": kept.get("each_quality", []), "words": kept.get("each_words", [])}
    for seed in range(options.seeds):
        drawing = Drawing(study, seed, budgets[-1], spec, options.folder)
        asked = drawing, study, seed, options.methods, budgets
        if options.only != "words":
            rows["quality"] = joined(rows["quality"], quality(*asked))
        if options.only != "quality":
            rows["words"] = joined(rows["words"], findings(*asked))
        names = list(drawing.models.names)
        about = {"machine": machine(), "study": study.study, "names": names}
        about |= {"gradients": spec.model_dump(), "graded": N_GRADED}
        about |= {"quality": by_budget(rows["quality"], names), "words": by_words(rows["words"])}
        about |= {f"each_{name}": each for name, each in rows.items()}
        if options.out:
            options.out.write_text(json.dumps(about, indent=1))


def joined(kept: list[dict], new: list[dict]) -> list[dict]:
    """Rows of an earlier call, but for those that are measured anew."""
    keys = ("seed", "method", "models")
    made = {tuple(row[key] for key in keys) for row in new}
    return [row for row in kept if tuple(row[key] for key in keys) not in made] + new


if __name__ == "__main__":
    main()
