"""Scores from gradients beside public implementations of TRAK, on the very same networks.

Of a finished drawing (`benchmarks/estimators.py` or `benchmarks/power.py` trains it) some models
are trained again, and every implementation takes gradients of their last weights: `mdhelpers`, and
the packages traker and dattri, which are no part of this project (`pip install traker dattri`).
`mdhelpers` is also shown as it is used: with looks on the way through training, and augmented
views. Graded by the LDS on models that nobody has seen. The peers' penalty and dimension are the
ones that grade best here, which favours them; by default they have none.

    python benchmarks/attribution.py runs/power/augmentation-seed0 --models 16 --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
os.environ.update(dict.fromkeys(THREADS, "1"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from mdhelpers.base.arrays import write_tensors  # noqa: E402
from mdhelpers.base.places import machine  # noqa: E402
from mdhelpers.method.lds import lds  # noqa: E402
from mdhelpers.runs.run import run_at  # noqa: E402
from mdhelpers.stages import gradients as stages  # noqa: E402
from mdhelpers.stages.models import read_models  # noqa: E402
from mdhelpers.stages.study import GradientSpec  # noqa: E402
from mdhelpers.training.augmentation import normalise  # noqa: E402
from mdhelpers.training.gradients import Recorder, plain_network  # noqa: E402
from mdhelpers.training.recipe import train_stack  # noqa: E402
from mdhelpers.training.tasks import prepare_task, resident_data  # noqa: E402

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
DIMENSIONS = (512,)
N_TUNED, BATCH, N_GRADED = 4, 60, 256


class Subject:
    """One algorithm's models of a drawing, trained again, and the pictures."""

    def __init__(self, models, algorithm: int, n_models: int, folder: Path):
        self.models, self.algorithm = models, algorithm
        plan = stages.gradient_plan(models, GradientSpec(models=n_models))
        self.plan = replace(plan, folder=folder / "as used")
        self.data, test_images, self.test_labels = resident_data(plan)
        everyone = torch.arange(len(self.data.labels))
        pictures = self.data.source.gather(everyone), test_images
        ready = (normalise(images) for images in pictures)
        self.train, self.test = (x.permute(0, 3, 1, 2).contiguous() for x in ready)
        self.networks, self.seconds = [], {"mdhelpers, as used": 0.0}
        given = self.data, test_images, self.test_labels
        last = replace(self.plan, folder=folder / "last weights", at=(1.0,), views=1)
        for index in self.plan.tasks:
            rows = slice(index * plan.stack, (index + 1) * plan.stack)
            task, _ = prepare_task(plan, algorithm, rows)
            start = time.process_time()
            recorder = Recorder(self.plan, algorithm, plan.keys(rows), *given)
            stack, _ = train_stack(task, self.data, watch=recorder.watch)
            recorder.finish(stack)
            self.seconds["mdhelpers, as used"] += time.process_time() - start
            start = time.process_time()
            at_end = Recorder(last, algorithm, plan.keys(rows), *given)
            at_end.finish(stack)
            took = time.process_time() - start
            name = "mdhelpers, last weights"
            self.seconds[name] = self.seconds.get(name, 0.0) + took
            for each, own in ((recorder, self.plan), (at_end, last)):
                own.path(algorithm, index).parent.mkdir(parents=True, exist_ok=True)
                write_tensors(own.path(algorithm, index), each.found)
            self.networks += [plain_network(stack, g) for g in range(plan.stack)]
        self.networks = self.networks[self.plan.rows[0] - self.plan.tasks[0] * plan.stack :]
        self.networks = self.networks[:n_models]
        self.plans = {"mdhelpers, as used": self.plan, "mdhelpers, last weights": last}

    def own(self, name: str) -> np.ndarray:
        start = time.process_time()
        found = stages.ModelGradients.chosen(self.models, self.plans[name], self.algorithm, True)
        scores = found.mean()
        self.seconds[name] += time.process_time() - start
        return scores

    def grade(self, scores: np.ndarray) -> float:
        """LDS of scores (n_test, n_train), relative to the class and within initialisations."""
        fitting = self.models.fitting(self.algorithm)
        graded = fitting.rows(slice(len(fitting.masks) - N_GRADED, None))
        true = stages.less_slots(self.models.outputs(graded, relative=True), graded.slots)
        weights = stages.as_outputs(np.asarray(scores, np.float32), self.models, relative=True)
        return lds(true, graded.masks.astype(np.float32) @ weights.T).spearman


def by_traker(subject: Subject, n_models: int, dimension: int, penalty: float) -> np.ndarray:
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    nets, given = subject.networks[:n_models], (subject.train, subject.data.labels)
    n_weights = sum(p.numel() for p in nets[0].parameters())
    projector = BasicProjector(
        n_weights, dimension, 0, ProjectionType.rademacher, "cpu", block_size=dimension
    )
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            model=nets[0],
            task="image_classification",
            train_set_size=len(subject.train),
            save_dir=folder,
            device="cpu",
            projector=projector,
            proj_dim=dimension,
            use_half_precision=False,
            lambda_reg=penalty,
            logging_level=40,
        )
        for g, net in enumerate(nets):
            traker.load_checkpoint(net.state_dict(), model_id=g)
            for part in zip(*(x.split(BATCH) for x in given), strict=True):
                traker.featurize(batch=part, num_samples=len(part[0]))
        traker.finalize_features()
        tests = subject.test, subject.test_labels
        for g, net in enumerate(nets):
            traker.start_scoring_checkpoint("x", net.state_dict(), g, num_targets=len(tests[0]))
            for part in zip(*(x.split(BATCH) for x in tests), strict=True):
                traker.score(batch=part, num_samples=len(part[0]))
        return np.array(traker.finalize_scores(exp_name="x")).T


def by_dattri(subject: Subject, n_models: int, dimension: int, penalty: float) -> np.ndarray:
    from dattri.algorithm.trak import TRAKAttributor
    from dattri.task import AttributionTask

    nets = subject.networks[:n_models]
    model = nets[0]

    def log_odds_of(params, pair):
        image, label = pair
        logits = torch.func.functional_call(model, params, image.unsqueeze(0))
        loss = torch.nn.functional.cross_entropy(logits, label.unsqueeze(0).long())
        p = torch.exp(-loss)
        return torch.log(p) - torch.log1p(-p)

    def probability(params, pair):
        image, label = pair
        logits = torch.func.functional_call(model, params, image.unsqueeze(0))
        loss = torch.nn.functional.cross_entropy(logits, label.unsqueeze(0).long())
        return torch.exp(-loss)

    task = AttributionTask(
        model=model,
        loss_func=log_odds_of,
        target_func=log_odds_of,
        checkpoints=[net.state_dict() for net in nets],
    )
    loaders = [
        DataLoader(TensorDataset(x, y.to(torch.float32)), batch_size=BATCH)
        for x, y in (
            (subject.train, subject.data.labels),
            (subject.test, subject.test_labels),
        )
    ]
    attributor = TRAKAttributor(
        task,
        correct_probability_func=probability,
        projector_kwargs={"proj_dim": dimension},
        regularization=penalty,
    )
    attributor.cache(loaders[0])
    with torch.no_grad():
        return attributor.attribute(loaders[1]).T.numpy()


PEERS = {"traker": by_traker, "dattri": by_dattri}


def rows_of(subject: Subject, n_models: int) -> list[dict]:
    rows, name = [], subject.models.names[subject.algorithm - 1]
    about = {"algorithm": name, "models": n_models}
    for way in subject.plans:
        found = subject.grade(subject.own(way))
        rows.append(about | {"way": way, "lds": found, "seconds": subject.seconds[way]})
        print(rows[-1], flush=True)
    for way, of in PEERS.items():
        tuned = {}
        for dimension in DIMENSIONS:
            for penalty in PENALTIES:
                scores = of(subject, N_TUNED, dimension, penalty)
                tuned[dimension, penalty] = subject.grade(np.nan_to_num(scores))
        best = max(tuned, key=tuned.get)
        for label, chosen in (("by default", (2048 if way == "traker" else 512, 0.0)), ("", best)):
            start = time.process_time()
            scores = of(subject, n_models, *chosen)
            took = time.process_time() - start
            row = {"way": f"{way} {label}".strip(), "dimension": chosen[0], "penalty": chosen[1]}
            row |= {"lds": subject.grade(np.nan_to_num(scores)), "seconds": took}
            rows.append(about | row)
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a finished drawing")
    parser.add_argument("--models", type=int, default=16)
    parser.add_argument("--out", type=Path, help="write JSON here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models, rows = read_models(run_at(options.run)), []
    with tempfile.TemporaryDirectory() as folder:
        for algorithm in (1, 2):
            subject = Subject(models, algorithm, options.models, Path(folder))
            rows += rows_of(subject, options.models)
    bars = []
    for row in rows:
        if row["way"].startswith("mdhelpers, last"):
            peers = [r for r in rows if r["algorithm"] == row["algorithm"] and "penalty" in r]
            best = max(peers, key=lambda r: r["lds"])
            what = f"LDS over the best peer's, {row['algorithm']}, the same weights"
            value = row["lds"] / best["lds"]
            bars.append({"what": what, "value": value, "aim": 1.0, "met": value >= 1})
            value = best["seconds"] / row["seconds"]
            what = f"that peer's time over ours, {row['algorithm']}"
            bars.append({"what": what, "value": value, "aim": 1.0, "met": value >= 1})
    for bar in bars:
        print(bar)
    if options.out:
        about = {"machine": machine(), "graded": N_GRADED, "tuned on": N_TUNED}
        options.out.write_text(json.dumps(about | {"rows": rows, "bars": bars}, indent=1))


if __name__ == "__main__":
    main()
