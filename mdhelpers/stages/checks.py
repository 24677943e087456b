"""What would stop a study hours later, told before anything is trained.

Each notebook checks what it is given when its turn comes; here the same is asked at once of the
whole study: sizes that a later step cannot take, files that it needs, names that it does not know.
Every fault names the key to change and a value that works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mdhelpers.base.places import resolve
from mdhelpers.base.specs import validate
from mdhelpers.clip.encoders import check_named
from mdhelpers.clip.words import caption_bank
from mdhelpers.data.sources import expected_sizes, has_masks
from mdhelpers.data.spikes import check_spikes
from mdhelpers.data.transforms import (
    Around,
    transform_images,
)
from mdhelpers.formats.models import check_given, given_models
from mdhelpers.formats.scores import scores_of_study
from mdhelpers.method.comparison import check_count, most_directions
from mdhelpers.method.datamodels import FROM_GRADIENTS
from mdhelpers.method.engines.fast_l1 import check_fast_l1
from mdhelpers.method.engines.moments import FEWEST_WHOLE
from mdhelpers.runs.run import StudyError
from mdhelpers.stages.capacity import check_gradients, method_of, no_gradients, no_room
from mdhelpers.stages.study import (
    Study,
    check_hypotheses,
    check_patch_class,
    check_targets,
    hypothesis_of,
)
from mdhelpers.training.tasks import resolve_device
from mdhelpers.training.workers.hosts import ClusterSpec, import_extra

WITHOUT_GRADIENTS = {"n_models": 1024, "n_heldout": 128, "n_slots": 32}
PARTS = 4  # notebook 04 compares quarters of the models with each other,
HALVES = 2  # of whole slots where there are enough; then halves of slots are the smallest parts
OF_A_SLOT = 2  # models that a part needs of each common initialisation
SHOWN = 8


def check_study(study: Study, *, here: bool = True) -> None:
    """Raise StudyError with all that would stop this study in a later step; else return.

    Parameters
    ----------
    study
        Validated: each value is fit for itself.
    here
        Whether this machine is to carry it out, and must have room for it.
    """
    n_train, n_test, _ = expected_sizes(study.dataset)
    faults = [*_of_sizes(study, n_train, n_test)]
    if here and not faults:
        faults += no_room(study)
    for check in (_algorithms, _names, _transformations, _captions, _scores, _given, _means):
        faults += _told(lambda check=check: check(study))
    if faults:
        raise StudyError("\n".join(dict.fromkeys(faults)))


def _told(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except (ValueError, OSError, ImportError) as error:
        return [str(error)]
    return []


def _of_sizes(study: Study, n_train: int, n_test: int) -> Iterator[str]:
    given = bool(study.models_1_given)
    slots = 1 if given else max(1, study.n_slots)
    parts = HALVES if slots >= FEWEST_WHOLE else PARTS
    parts = 1 if study.datamodels_1_path else parts
    if study.n_models < slots * parts * OF_A_SLOT:
        fewer = study.n_models // (HALVES * OF_A_SLOT)
        fewer = fewer if fewer >= FEWEST_WHOLE else study.n_models // (PARTS * OF_A_SLOT)
        yield (
            f"n_models: {study.n_models} are too few for n_slots: {study.n_slots}, since notebook "
            f"04 needs {parts * OF_A_SLOT} models of each. Give n_models: "
            f"{slots * parts * OF_A_SLOT}, or n_slots: {fewer}"
        )
    if not 0 < round(study.alpha * n_train) < n_train:
        yield f"alpha: {study.alpha} of {n_train} training images leaves none in, or none out"
    if n_test < 2 * study.top_k:
        yield (
            f"top_k: notebook 05 shows {study.top_k} test images at either end of a direction, and "
            f"there are {n_test}. Give top_k: {max(1, n_test // 2)}, or more test images"
        )
    yield from _told(lambda: check_count(study.n_directions, (n_test, n_train)))
    if large := [size for size in study.selection_sizes if size > n_train]:
        yield (
            f"selection_sizes: notebook 08 cannot choose {large[0]} of {n_train} training images. "
            f"Give selection_sizes: {some_sizes(n_train)}"
        )
    if n_train < SHOWN:
        yield f"dataset: {n_train} training images; notebook 08 shows the {SHOWN} nearest of them"


def _algorithms(study: Study) -> None:
    every = study.algorithms or [study.algorithm_1, study.algorithm_2]
    for spec in every:
        spec.check()
    if study.algorithms and study.models_1_given:
        raise ValueError("algorithms: of models_1_given there are two; give two algorithms")
    if (method := method_of(study)) in FROM_GRADIENTS and study.algorithms:
        check_gradients(method, every, elsewhere=False)
    if study.share_order and not study.n_slots:
        raise ValueError("share_order needs slots to share within; give n_slots above 0")


def _names(study: Study) -> None:
    """Classes of a folder are known once it was looked at."""
    if (names := study.dataset.source.names(study.dataset)) and not study.dataset.classes:
        check_spikes(study.dataset.spike_in, names)
        check_hypotheses(study.hypotheses, names)
        check_patch_class(study.patch_class, names)
        check_targets(study.selection_targets, names)


def _transformations(study: Study) -> None:
    size = study.dataset.pixels
    image = np.zeros((1, size, size, 3), np.uint8)
    masks = np.ones((1, size, size), bool) if has_masks(study.dataset) else None
    around = Around(masks, np.zeros(1, int))
    placebos = [study.placebo] if study.placebo.transformation else []
    spikes = [hypothesis_of(spike) for spike in study.dataset.spike_in]
    for spec in (*study.hypotheses, *placebos, *spikes):
        for intensity in spec.intensities:
            try:
                transform_images(spec.transformation, image, intensity, around=around)
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"intensities: {spec.transformation.name} cannot be drawn at {intensity} on "
                    f"images of {size} px ({error}). Give smaller ones, or a larger dataset.size"
                ) from error


def _captions(study: Study) -> None:
    captions = study.captions.for_data(study.dataset.kind)
    if captions.model == "none":
        return
    caption_bank(captions)
    if captions.model != "small":
        check_named(captions.model, captions.pretrained)


def _scores(study: Study) -> None:
    given = {a: getattr(study, f"datamodels_{a}_path") for a in (1, 2)}
    if bool(given[1]) != bool(given[2]):
        raise ValueError("give datamodels_1_path and datamodels_2_path both, or neither")
    for algorithm, path in given.items():
        if path and not resolve(path).exists():
            raise ValueError(f"datamodels_{algorithm}_path: there is nothing at {resolve(path)}")
    sizes = dict(zip(("n_train", "n_test"), expected_sizes(study.dataset), strict=False))
    for path in filter(None, given.values()):
        scores_of_study(resolve(path), study.scores_options, **sizes)


def _given(study: Study) -> None:
    n_train, n_test, _ = expected_sizes(study.dataset)
    n_models = study.n_models + study.n_heldout
    for given in given_models(study.model_dump()).values():
        check_given(given, n_models=n_models, n_train=n_train, n_test=n_test)


def _means(study: Study) -> None:
    """What trains and fits: devices, extras, commands."""
    device = resolve_device(study.device, study.scheduler)
    if study.method in FROM_GRADIENTS:
        specs = [study.algorithm_1, study.algorithm_2]
        check_gradients(study.method, specs, bool(study.models_1_given))
    if study.method == "fast_l1":
        check_fast_l1(device)
    if study.write_beton:
        from mdhelpers.training.loading import ffcv_problem

        if problem := ffcv_problem():
            raise ValueError(f"write_beton: {problem}")
    validate(ClusterSpec, study.cluster, "cluster")
    if study.scheduler != "local":
        import_extra("distributed", "cluster")
    if study.scheduler == "slurm":
        import_extra("dask_jobqueue", "slurm")
        if shutil.which("sbatch") is None:
            raise ValueError("scheduler: slurm submits jobs by `sbatch`, which is not on the PATH")


def fitting_defaults(study: Study) -> dict[str, Any]:
    """Sizes that a study leaves to their defaults and that do not suit it, made to fit.

    Its data may be too few for them; its models too few to share initialisations; or its algorithms
    have no gradients, so that datamodels take a thousand models. Sizes that were given are left to
    be refused.
    """
    n_train, n_test, _ = expected_sizes(study.dataset)
    specs = study.algorithm_1, study.algorithm_2
    many = no_gradients(specs, bool(study.models_1_given))
    fit = dict(WITHOUT_GRADIENTS) if many else {}
    given = {name: getattr(study, name) for name in study.model_fields_set}
    sizes = {"n_models": study.n_models, "n_slots": study.n_slots} | fit | given
    if sizes["n_models"] < sizes["n_slots"] * HALVES * OF_A_SLOT:
        fit["n_slots"] = 0
    fit |= {
        "n_kept": min(study.n_kept, sizes["n_models"] + study.n_heldout),
        "top_k": study.top_k if n_test >= 2 * study.top_k else max(1, n_test // 4),
        "n_directions": max(1, min(study.n_directions, most_directions((n_test, n_train)))),
        "selection_sizes": study.selection_sizes
        if max(study.selection_sizes) <= n_train
        else some_sizes(n_train),
    }
    return {
        name: value
        for name, value in fit.items()
        if name not in given and value != getattr(study, name)
    }


def some_sizes(n_train: int) -> list[int]:
    """An eighth, a quarter and a half of the training images."""
    return sorted({max(1, n_train * share // 8) for share in (1, 2, 4)})
