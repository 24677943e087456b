"""Models of both algorithms that are trained on all training images, for stages 07 and 11.

Definition 2 is about models that were trained on the data set, and not on masks.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch

from mdhelpers.data.datasets import Dataset
from mdhelpers.runs.run import Run, checked
from mdhelpers.runs.stage import ALL_DATA, EFFECTS, MODELS
from mdhelpers.stages.models import StudyModels, read_models, remove_changed
from mdhelpers.training.learners import TrainedModels
from mdhelpers.training.mask_training import retrain, retraining
from mdhelpers.training.tasks import TrainingPlan, load_kept

NAME, _FIRST_KEY = "effects", 2_000_000  # beyond the keys of any run's other models


@dataclass(frozen=True, eq=False)
class EffectModels:
    """Models of both algorithms that were trained on all training images, from own seeds.

    ``plans`` are those that trained them, one per algorithm, whatever its number in the study; none
    for models made elsewhere.
    """

    study: StudyModels
    plans: tuple[TrainingPlan, ...]

    @property
    def n_models(self) -> int:
        return self.plans[0].n_keep if self.plans else 0

    @property
    def names(self) -> tuple[str, str]:
        return self.study.names

    @property
    def dataset(self) -> Dataset:
        return self.study.dataset

    def kept(self, algorithm: int) -> list[TrainedModels]:
        """The models, held against the run's digests."""
        plan, check = self.plans[algorithm - 1], partial(checked, self.study.plan.folder, ALL_DATA)
        return load_kept(plan, plan.numbers[0], self.n_models, check=check)

    def slots(self, algorithm: int) -> np.ndarray | None:
        """Which of several source models each started from; None where that is not shared."""
        plan = self.plans[algorithm - 1]
        source = plan.algorithms[plan.numbers[0] - 1].start.source
        n = source.n_models if source else 0
        return (_FIRST_KEY + np.arange(self.n_models)) % n if n > 1 else None

    def logits(self, algorithm: int, images: np.ndarray) -> torch.Tensor:
        """What the models say of images, (n_models, n_images, n_classes), on the CPU."""
        return torch.cat([s.logits(images) for s in self.kept(algorithm)])[: self.n_models]


def train_on_all(
    run: Run,
    *,
    n_effect_models: int = 32,
    device: str = "auto",
    workers: int = 0,
    scheduler: str = "local",
    cluster: dict | None = None,
) -> EffectModels:
    """Train models of both algorithms on the whole training set, each from seeds of its own.

    Parameters
    ----------
    run
        The run's folder, with stage 02 finished.
    n_effect_models
        Models of each algorithm; the paper takes 500.
    device, workers, scheduler, cluster
        Who trains, see `mdhelpers.training.mask_training.train_all`.

    """
    stage = run.stage(ALL_DATA, {"n_effect_models": n_effect_models}, after=[MODELS])
    with stage.working() as needed:
        models = read_models(run, device=device)
        if needed and models.made_elsewhere:
            stage.keep(block=EFFECTS)
        elif needed:
            remove_changed(run, ALL_DATA)
            plan, *which = on_all(models, n_effect_models)
            figures, made = {}, []
            who = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
            for a, name in enumerate(models.names, 1):
                trained = retrain(plan, a, *which, name=NAME, keep=True, **who)
                figures |= {f"name_{a}": name, f"accuracy_{a}": trained.accuracy.mean()}
                folder = retraining(plan, a, *which, name=NAME, keep=True)[0].folder
                made += sorted(folder.glob(f"checkpoints_{a}/*.safetensors"))
                made += sorted(folder.glob(f"models_{a}.zarr"))
            figures["n_models"] = n_effect_models
            stage.keep(made=made, figures=figures, block=EFFECTS)
    return read_effect_models(run, device=device)


def on_all(
    models: StudyModels, n: int, first_key: int = _FIRST_KEY
) -> tuple[TrainingPlan, np.ndarray, np.ndarray]:
    """The plan, masks and keys by which ``n`` models are trained on all training images."""
    plan = replace(models.plan, n_slots=0, share_order=False)
    return plan, np.ones((n, plan.n_train), bool), first_key + np.arange(n)


def read_effect_models(run: Run, *, device: str = "auto") -> EffectModels:
    """What `train_on_all` has trained."""
    run.check(ALL_DATA)
    models, n = read_models(run, device=device), run.manifest(ALL_DATA)["parameters"]
    if models.made_elsewhere:
        return EffectModels(models, ())
    plan, *which = on_all(models, n["n_effect_models"])
    plans = (retraining(plan, a, *which, name=NAME, keep=True)[0] for a in (1, 2))
    return EffectModels(models, tuple(plans))
