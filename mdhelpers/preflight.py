"""What can only fail hours later, found before anything runs.

Each notebook checks what it is given when its turn comes. Here the same is asked at once of a whole
study: sizes that a later step cannot take, files that it needs, names that it does not know. Every
fault names the key to change and a value that works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from mdhelpers.captions import caption_bank
from mdhelpers.comparison import check_count, most_directions
from mdhelpers.encoders import check_named
from mdhelpers.estimates import expected_sizes
from mdhelpers.fast_l1 import check_fast_l1
from mdhelpers.image_folders import DEFAULT_SIZE, list_pictures
from mdhelpers.imported_models import check_given, given_models
from mdhelpers.learners import check_algorithm
from mdhelpers.paths import resolve
from mdhelpers.plans import resolve_device
from mdhelpers.runs import StudyError
from mdhelpers.scores import scores_of_study
from mdhelpers.selection_study import check_targets
from mdhelpers.slurm import ClusterSpec, import_extra
from mdhelpers.specs import validate
from mdhelpers.studies import Study, check_hypotheses
from mdhelpers.transforms import transform_images

PARTS = 4  # notebook 04 compares quarters of the models with each other
OF_A_SLOT = 2  # models that a part needs of each common initialisation


def check_study(study: Study) -> None:
    """Raise StudyError with all that would stop this study in a later step; else return.

    Parameters
    ----------
    study
        Validated: each value is fit for itself.
    """
    n_train, n_test, _ = expected_sizes(study.dataset)
    faults = [*_of_sizes(study, n_train, n_test)]
    for check in (_algorithms, _names, _transformations, _captions, _scores, _given, _means):
        faults += _told(lambda check=check: check(study))
    if faults:
        raise StudyError("\n".join(dict.fromkeys(faults)))


def fitting_defaults(study: Study) -> dict[str, Any]:
    """Sizes that a study leaves to their defaults and that its data are too few for, made to fit.

    Sizes that were given are left to be refused.
    """
    n_train, n_test, _ = expected_sizes(study.dataset)
    fit = {
        "top_k": study.top_k if n_test >= 2 * study.top_k else max(1, n_test // 4),
        "n_directions": max(1, min(study.n_directions, most_directions((n_test, n_train)))),
        "selection_sizes": study.selection_sizes
        if max(study.selection_sizes) <= n_train
        else some_sizes(n_train),
    }
    return {
        name: value
        for name, value in fit.items()
        if name not in study.model_fields_set and value != getattr(study, name)
    }


def some_sizes(n_train: int) -> list[int]:
    """An eighth, a quarter and a half of the training images."""
    return sorted({max(1, n_train * share // 8) for share in (1, 2, 4)})


def _told(check: Callable[[], None]) -> list[str]:
    try:
        check()
    except (ValueError, OSError, ImportError) as error:
        return [str(error)]
    return []


def _of_sizes(study: Study, n_train: int, n_test: int) -> Iterator[str]:
    given = bool(study.models_1_given)
    slots, parts = 1 if given else max(1, study.n_slots), 1 if study.datamodels_1_path else PARTS
    if study.n_models < slots * parts * OF_A_SLOT:
        yield (
            f"n_models: {study.n_models} are too few for n_slots: {study.n_slots}, since notebook "
            f"04 needs {parts * OF_A_SLOT} models of each. Give n_models: "
            f"{slots * parts * OF_A_SLOT}, or n_slots: {study.n_models // (parts * OF_A_SLOT)}"
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


SHOWN = 8


def _algorithms(study: Study) -> None:
    for spec in (study.algorithm_1, study.algorithm_2):
        check_algorithm(spec)
    if study.share_order and not study.n_slots:
        raise ValueError("share_order needs slots to share within; give n_slots above 0")


def _names(study: Study) -> None:
    """Classes of a folder are known once it was looked at."""
    if study.dataset.kind == "image_folder" and not study.dataset.classes:
        names = list_pictures(study.dataset).names
        check_hypotheses(study.hypotheses, study.placebo, names)
        check_targets(study.selection_targets, names)


def _transformations(study: Study) -> None:
    size = study.dataset.size or DEFAULT_SIZE[study.dataset.kind]
    image = np.zeros((1, size, size, 3), np.uint8)
    for spec in (*study.hypotheses, study.placebo):
        for intensity in spec.intensities:
            try:
                transform_images(spec.transformation, image, intensity, seed=0)
            except (ValueError, IndexError) as error:
                raise ValueError(
                    f"intensities: {spec.transformation} cannot be drawn at {intensity} on images "
                    f"of {size} px ({error}). Give smaller ones, or a larger dataset.size"
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
    if study.method == "fast_l1":
        check_fast_l1(device)
    if study.write_beton:
        from mdhelpers.beton import ffcv_problem

        if problem := ffcv_problem():
            raise ValueError(f"write_beton: {problem}")
    validate(ClusterSpec, study.cluster, "cluster")
    if study.scheduler != "local":
        import_extra("distributed", "cluster")
    if study.scheduler == "slurm":
        import_extra("dask_jobqueue", "slurm")
        if shutil.which("sbatch") is None:
            raise ValueError("scheduler: slurm submits jobs by `sbatch`, which is not on the PATH")
