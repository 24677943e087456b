"""A study as data: what it asks, what it reads from outside, and what would stop it.

**What it asks.** `Study` holds every parameter that any notebook declares, with the defaults of a
full run; a parameters file names only what differs. Unknown keys are refused with the nearest known
one.

**What it reads from outside** of its run: digests, so that a changed file is noticed. A stage takes
them among its parameters, and `mdhelpers run` before it decides what to skip. They are of contents,
and never of times or places: a copy of the same files is the same input.

**What would stop it** hours later. Each notebook checks what it is given when its turn comes; here
the same is asked at once of the whole study: sizes that a later step cannot take, files that it
needs, names that it does not know. Every fault names the key to change and a value that works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from mdhelpers.analyses.selection import HARDEST
from mdhelpers.base.places import resolve
from mdhelpers.base.records import content_digest, digest, file_digest
from mdhelpers.base.specs import Count, Positive, Seed, Share, Spec, unknown_word, validate
from mdhelpers.clip.encoders import check_named, looks_like_path
from mdhelpers.clip.words import CaptionSpec, caption_bank
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.scenes import CLASS_NAMES, PLANTED
from mdhelpers.data.sources import data_digest, expected_sizes, has_masks
from mdhelpers.data.spikes import Spike, check_spikes
from mdhelpers.data.transforms import (
    AnyTransformation,
    Around,
    contents_of,
    of_its_kind,
    transform_images,
)
from mdhelpers.formats.models import check_given, given_models, origins
from mdhelpers.formats.scores import scores_of_study
from mdhelpers.method.comparison import check_count, most_directions
from mdhelpers.method.datamodels import FROM_GRADIENTS, METHODS
from mdhelpers.method.engines.fast_l1 import check_fast_l1
from mdhelpers.method.engines.moments import FEWEST_WHOLE
from mdhelpers.method.uses import Margins
from mdhelpers.runs.run import StudyError
from mdhelpers.runs.stage import CAPTIONS, COMPARISON, DATA, EFFECTS, MODELS, SEVERAL
from mdhelpers.stages import capacity
from mdhelpers.stages.data import data_from_outside
from mdhelpers.training.algorithms import AlgorithmSpec, AnyAlgorithm
from mdhelpers.training.locations import check_url
from mdhelpers.training.tasks import resolve_device
from mdhelpers.training.workers.hosts import ClusterSpec, import_extra


class Hypothesis(Spec):
    """A feature said to matter to one algorithm: tested in notebook 07 by Definition 2.

    Without a ``name`` it goes by its transformation's. ``uses`` is what is expected: 1 or 2, the
    algorithm said to use the feature, or 0 for a control, of which no difference is expected. With
    null nothing is.
    """

    name: str = ""
    transformation: AnyTransformation
    intensities: Annotated[list[Positive], Field(min_length=1)]
    target_class: str
    uses: Literal[0, 1, 2] | None = 0

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_transformation(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("name") and given.get("transformation"):
            return given | {"name": of_its_kind(given["transformation"]).name}
        return given


def hypothesis_of(spike: Spike) -> Hypothesis:
    """That a feature which was spiked in matters to its class; nothing is expected of whom."""
    return Hypothesis(
        name=f"{spike.name} → {spike.target_class}",
        transformation=spike.transformation,
        intensities=[spike.strength],
        target_class=spike.target_class,
        uses=None,
    )


def tested(spike: Spike, hypotheses: Sequence[Hypothesis]) -> bool:
    """Whether one of the hypotheses is about this feature in this class."""
    about = [(h.transformation.name, h.target_class) for h in hypotheses]
    return (spike.name, spike.target_class) in about


class Placebo(Spec):
    """A change of the image that stands for no feature, tested beside every hypothesis.

    By default it is matched (`mdhelpers.data.transforms.placebo_images`): as large, as strong, and
    at the same intensities as the transformation that it stands beside. Or one is named.
    """

    transformation: AnyTransformation | None = None
    intensities: list[Positive] = Field([])

    @model_validator(mode="after")
    def _whole(self) -> Placebo:
        if (self.transformation is None) != (not self.intensities):
            raise ValueError("give transformation and intensities both, or neither")
        return self


class GradientSpec(Spec):
    """How scores are had from gradients (`mdhelpers.training.gradients`, `mdhelpers.method.trak`).

    Of the first ``models``, after these shares of training (``at``), over so many augmented
    ``views`` of each training image, folded to ``dimension`` numbers (0: as many as there are
    weights where that fits in memory, else 4096).
    """

    models: Annotated[int, Field(ge=8)] = 64
    at: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = Field(
        [0.3, 0.5, 1.0]
    )
    views: Count = 4
    dimension: Annotated[int, Field(ge=0)] = 0


class Study(Spec):
    """All parameters of a study; see the notebooks' parameters cells for what each one does."""

    study: str
    profile: str = "full"
    runs_dir: str = "runs"
    seed: Seed = 0
    device: str = "auto"
    workers: Annotated[int, Field(ge=0)] = 0
    scheduler: Annotated[str, Field(pattern=r"^(local|slurm|(tcp|tls|ws|wss)://.+)$")] = "local"
    cluster: dict[str, Any] = Field({})

    dataset: DatasetSpec = DatasetSpec()
    write_beton: bool = False

    algorithms: list[AnyAlgorithm] = Field([])
    algorithm_1: AnyAlgorithm
    algorithm_2: AnyAlgorithm
    alpha: Share = 0.5
    n_models: Count = 64
    n_heldout: Annotated[int, Field(ge=8)] = 64
    n_kept: Annotated[int, Field(ge=0)] = 64
    n_slots: Annotated[int, Field(ge=0)] = 16
    share_order: bool = False
    stack: Annotated[int, Field(ge=0)] = 0
    loader: Literal["auto", "memory", "ffcv"] = "auto"
    models_url: str = ""
    models_1_given: dict[str, Any] = Field({})
    models_2_given: dict[str, Any] = Field({})
    margins_dtype: Literal["float32", "float16"] = "float32"

    method: Literal[("auto", *METHODS)] = "auto"
    gradients: GradientSpec = GradientSpec()
    folds: Annotated[int, Field(ge=1, le=1000)] = 1
    n_repeats: Annotated[int, Field(ge=0)] = 1
    relative_to_class: bool = True
    n_lams: Annotated[int, Field(ge=2)] = 50
    lam_min_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.01

    n_directions: Annotated[int, Field(ge=1)] = 8
    n_splits: Count = 8
    n_null_splits: Count = 4
    only_below: float = Margins.only_below
    alike_within: float = Margins.alike_within
    datamodels_1_path: str = ""
    datamodels_2_path: str = ""
    scores_options: dict[str, Any] = Field({})

    top_k: Count = 24

    captions: CaptionSpec = CaptionSpec()
    caption_steps: Count = 1000

    hypotheses: list[Hypothesis] = Field([])
    placebo: Placebo = Placebo()
    n_effect_models: Annotated[int, Field(ge=2)] = 32
    n_proposed: Annotated[int, Field(ge=0)] = 1
    n_reinitialised: Annotated[int, Field(ge=0)] = 32
    epsilon: float = 5.0
    delta: Positive = 10.0

    application_algorithm: Literal[1, 2] = 1
    n_removal_tests: Count = 20
    n_models_per_set: Annotated[int, Field(ge=2)] = 8
    n_clusters: Annotated[int, Field(ge=2)] = 12
    selection_targets: list[str] = Field([HARDEST])
    selection_sizes: list[Count] = Field([30, 60, 120])

    n_tilted: Count = 8
    n_random_tilts: Annotated[int, Field(ge=0)] = 1
    n_tilt_pairs: Annotated[int, Field(ge=2)] = 6

    patch_size: Count = 5
    patch_steps: Count = 60
    patch_class: str = ""
    n_swept: Annotated[int, Field(ge=12)] = 90
    n_levels: Annotated[int, Field(ge=2)] = 5
    n_crossed: Annotated[int, Field(ge=120)] = 2000

    @model_validator(mode="before")
    @classmethod
    def _first_two_of_several(cls, given: Any) -> Any:
        """Of ``algorithms`` the first two are those that every page is about."""
        several = given.get("algorithms") if isinstance(given, dict) else None
        if not isinstance(several, list) or len(several) < 2:
            return given
        return {"algorithm_1": several[0], "algorithm_2": several[1]} | given

    @model_validator(mode="before")
    @classmethod
    def _tests_what_is_spiked_in(cls, given: Any) -> Any:
        """What is spiked in is a hypothesis too, where the study has none of it."""
        if not isinstance(given, dict) or given.get("models_1_given"):
            return given
        try:
            dataset = DatasetSpec.model_validate(given.get("dataset", {}))
            known = [Hypothesis.model_validate(h) for h in given.get("hypotheses", [])]
        except (ValidationError, TypeError):
            return given  # its own field says what is wrong
        own = [hypothesis_of(s) for s in dataset.spike_in if not tested(s, known)]
        return given | {"hypotheses": [*known, *own]} if own else given

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        if not 0 < self.epsilon < self.delta:
            raise ValueError(
                f"epsilon ({self.epsilon}) must be above 0 and below delta ({self.delta})"
            )
        Margins(self.only_below, self.alike_within)
        check_several(self.algorithms, (self.algorithm_1, self.algorithm_2))
        if self.stack and (self.n_models + self.n_heldout) % self.stack:
            raise ValueError(
                f"n_models + n_heldout = {self.n_models + self.n_heldout} do not make whole "
                f"stacks of {self.stack}; change one of the three, or give stack: 0"
            )
        check_url(self.models_url)
        if self.loader == "ffcv" and not self.write_beton:
            raise ValueError("loader: ffcv reads what write_beton: true writes; give both")
        given = given_models(self.model_dump())
        if given and self.hypotheses:
            raise ValueError(
                "hypotheses are tested on networks, and of models_1_given only margins are known; "
                "give hypotheses: []"
            )
        if self.patch_size > self.dataset.pixels:
            raise ValueError(
                f"patch_size: {self.patch_size} px do not fit into images of "
                f"{self.dataset.pixels} px; give at most {self.dataset.pixels}"
            )
        if "n_kept" in self.model_fields_set and self.n_kept > self.n_models + self.n_heldout:
            raise ValueError(f"n_kept ({self.n_kept}) exceeds the models trained")
        scenes = self.dataset.kind == "scenes"
        classes = CLASS_NAMES if scenes else self.dataset.classes
        check_spikes(self.dataset.spike_in, classes)
        check_hypotheses(self.hypotheses, classes)
        check_patch_class(self.patch_class, classes)
        if classes:
            check_targets(
                self.selection_targets,
                [*(self.dataset.planted or PLANTED if scenes else ()), *classes],
            )
        return self


def check_several(several: Sequence[AlgorithmSpec], first: tuple[AlgorithmSpec, ...]) -> None:
    """Refuse fewer than three ``algorithms``, one name twice, and others beside them."""
    if not several:
        return
    if len(several) <= len(first):
        raise ValueError(
            f"algorithms: {len(several)} given; give three or more, or algorithm_1 and algorithm_2"
        )
    names = [spec.name for spec in several]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"algorithms: two are called {twice[0]!r}; give one another name")
    if tuple(several[: len(first)]) != first:
        raise ValueError("algorithms holds all of them; leave algorithm_1 and algorithm_2 out")


def check_gradients(method: str, specs: Sequence[AlgorithmSpec], elsewhere: bool) -> None:
    """Refuse a method that takes gradients where there are none to take."""
    if why := no_gradients(specs, elsewhere):
        raise ValueError(
            f"method: {method} takes gradients of networks that are trained here, and {why}. Give "
            "method: auto, ridge or lasso"
        )


def no_gradients(specs: Sequence[AlgorithmSpec], elsewhere: bool) -> str:
    """Why no gradients of these models can be taken; empty where they can."""
    without = [spec.name for spec in specs if not spec.has_gradients]
    if without:
        return f"{without[0]} is none"
    return "these models were trained elsewhere" if elsewhere else ""


def method_of(study: Study) -> str:
    """The estimator that a study's ``method`` stands for."""
    if study.method != "auto":
        return study.method
    specs = [study.algorithm_1, study.algorithm_2]
    gradients = not no_gradients(specs, bool(study.models_1_given))
    device = capacity.fit_device(study.device)
    of = capacity.sizes_of(study)
    return capacity.method_here(of, study.gradients, specs, gradients=gradients, device=device)


def check_hypotheses(hypotheses: list[Hypothesis], classes) -> None:
    """Refuse one name twice, and unknown classes where ``classes`` are given."""
    names = [hypothesis.name for hypothesis in hypotheses]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two hypotheses are called {twice[0]!r}; give one another name")
    for hypothesis in hypotheses:
        if classes and hypothesis.target_class not in classes:
            raise ValueError(
                f"hypothesis {hypothesis.name!r}: "
                f"{unknown_word(hypothesis.target_class, classes, 'class')}"
            )


def check_patch_class(name: str, classes: Sequence[str]) -> None:
    """Refuse a class that is not one of ``classes``, where these are known; "" is none."""
    if name and classes and name not in classes:
        raise ValueError(f"patch_class: {unknown_word(name, classes, 'class')}")


def check_targets(targets: Sequence[str], known: Sequence[str]) -> None:
    """Refuse, before anything is trained, a target that is not "hardest" nor ``known``."""
    for name in targets:
        if name not in (HARDEST, *known):
            raise ValueError(
                f"selection_targets: {unknown_word(name, [HARDEST, *known], 'target')}"
            )


def algorithms_from_outside(*specs: AlgorithmSpec) -> dict[str, Any]:
    """Return what stage 02 reads beside its parameters: code, checkpoints, pictures to learn from.

    Raises
    ------
    FileNotFoundError
        If a checkpoint is not there.
    ValueError
        If there is no such function.
    """
    found = {f"algorithm_{a}": _algorithm(spec) for a, spec in enumerate(specs, 1)}
    found = {name: read for name, read in found.items() if read}
    return {"reads": found} if found else {}


def _algorithm(spec: AlgorithmSpec) -> dict[str, str]:
    found, start = {"made_with": spec.made_with()}, spec.start
    if start.path:
        found["checkpoint"] = file_content(start.path, f"{spec.name}: initialisation.path")
    if start.source:
        found["pictures"] = data_digest(start.source.dataset)
    return {name: value for name, value in found.items() if value}


def captions_from_outside(spec: CaptionSpec) -> dict[str, Any]:
    """Return what stage 06 reads beside its parameters: weights of a CLIP, a bank of captions."""
    found = {}
    if spec.model not in ("small", "none") and spec.pretrained and looks_like_path(spec.pretrained):
        found["pretrained"] = file_content(spec.pretrained, "captions.pretrained")
    if spec.model != "none" and isinstance(spec.bank, str) and spec.bank:
        found["bank"] = file_content(spec.bank, "captions.bank")
    if spec.model not in ("small", "none") and not spec.bank:  # a package's list of words
        found["bank"] = digest(caption_bank(spec))[:16]
    return {"reads": found} if found else {}


def file_content(path: str, key: str) -> str:
    """Return the first digits of a file's sha256; FileNotFoundError names the key that names it."""
    file = Path(resolve(path))
    if not file.is_file():
        raise FileNotFoundError(f"{key}: there is no file {file}")
    return content_digest(file)[:16]


def scores_digest(path: Path) -> str:
    """A digest of a file, or of all scores in a folder."""
    files = sorted(path.rglob("*.mmap")) if path.is_dir() else [path]
    return " ".join(file_digest(file) for file in files)


def of_study(study: Study) -> dict[str, dict[str, Any]]:
    """Return what each stage of a study reads from outside, by the stage's name."""
    given = given_models(study.model_dump())
    models = {"origins": origins(given)} if given else {}
    scores = [path for path in (study.datamodels_1_path, study.datamodels_2_path) if path]
    return {
        DATA: data_from_outside(study.dataset),
        MODELS: models or algorithms_from_outside(study.algorithm_1, study.algorithm_2),
        COMPARISON: {"scores": [scores_digest(resolve(path)) for path in scores]},
        CAPTIONS: captions_from_outside(study.captions.for_data(study.dataset.kind)),
        EFFECTS: transformations_from_outside(study.hypotheses, study.placebo),
        SEVERAL: algorithms_from_outside(*study.algorithms),
    }


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


def no_room(study: Study) -> list[str]:
    """What this machine has no room for, a sentence each; nothing where it cannot be told yet."""
    if study.datamodels_1_path:
        return []
    specs = [study.algorithm_1, study.algorithm_2]
    gradients = not no_gradients(specs, bool(study.models_1_given))
    try:
        return list(capacity.no_room(study, method=method_of(study), gradients=gradients))
    except ValueError:
        return []  # a device that is not there, an algorithm that cannot be made: told elsewhere


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


def transformations_from_outside(
    hypotheses: Sequence[Hypothesis], placebo: Placebo
) -> dict[str, Any]:
    """Return what stage 07 reads beside its parameters: pictures that transformations paste."""
    used = [spec.transformation for spec in (*hypotheses, placebo) if spec.transformation]
    found = contents_of(used)
    return {"reads": found} if found else {}


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
