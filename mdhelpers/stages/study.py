"""What a study asks: every parameter that any notebook declares, with the defaults of a full run.

A parameters file names only what differs. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mdhelpers.analyses.selection import HARDEST
from mdhelpers.base.specs import Count, Positive, Seed, Share, Spec, unknown_word
from mdhelpers.clip.words import CaptionSpec
from mdhelpers.data.datasets import DatasetSpec
from mdhelpers.data.scenes import CLASS_NAMES, PLANTED
from mdhelpers.data.spikes import Spike, check_spikes
from mdhelpers.data.transforms import (
    AnyTransformation,
    of_its_kind,
)
from mdhelpers.formats.models import given_models
from mdhelpers.method.datamodels import METHODS
from mdhelpers.method.rotation import ROTATIONS
from mdhelpers.method.uses import Margins
from mdhelpers.training.algorithms import AlgorithmSpec, AnyAlgorithm
from mdhelpers.training.locations import check_url


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
    rotation: Literal[ROTATIONS] = "none"
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
