"""A study as validated data: a dataset, two learning algorithms, a budget, hypotheses to test.

`Study` holds every parameter that any notebook declares, with the defaults of a full run; a
parameters file names only what differs. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mdhelpers.algorithms import AlgorithmSpec, AnyAlgorithm
from mdhelpers.datasets import DatasetSpec
from mdhelpers.imported_models import given_models
from mdhelpers.locations import check_url
from mdhelpers.scenes import CLASS_NAMES, PLANTED, check_features
from mdhelpers.selection_study import HARDEST, check_targets
from mdhelpers.specs import Count, Positive, Seed, Share, Spec, unknown_word
from mdhelpers.transforms import get_transform


class Hypothesis(Spec):
    """A feature said to matter to one algorithm: tested in notebook 07 by Definition 2.

    Without a ``name`` it goes by its transformation's.

    ``uses`` is 1 or 2, the algorithm said to use the feature; 0 says that both do, or neither:
    such a hypothesis (a control) is shown, with the prediction that no difference is found.
    """

    name: str = ""
    transformation: str
    intensities: Annotated[list[Positive], Field(min_length=1)]
    target_class: str
    uses: Literal[0, 1, 2]

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_transformation(cls, given: Any) -> Any:
        if isinstance(given, dict) and not given.get("name"):
            return given | {"name": given.get("transformation", "")}
        return given


class Placebo(Spec):
    """A change of the image that stands for no feature, tested beside every hypothesis."""

    transformation: str = "scrambled_square"
    intensities: Annotated[list[Positive], Field(min_length=1)] = Field([3, 5, 7])


class CaptionSpec(Spec):
    """Which CLIP names the subpopulations, from which words.

    ``auto`` is the small CLIP, trained here, on generated scenes, and none on photographs, which
    the small one knows nothing about.
    """

    model: str = "auto"
    pretrained: str = ""
    bank: str | list[str] = ""
    top: Count = 10

    def for_data(self, kind: str) -> CaptionSpec:
        """Return the choice for a kind of data set, in which ``auto`` is decided.

        Raises
        ------
        ValueError
            If the small CLIP is asked to name what it never saw.
        """
        scenes = kind == "scenes"
        if self.model == "auto":
            return self.model_copy(update={"model": "small" if scenes else "none"})
        if self.model == "small" and not scenes:
            raise ValueError(
                "captions.model: the small CLIP was trained on generated scenes and knows nothing "
                "about photographs. Give captions: {model: none}, or a CLIP that does, such as "
                "captions: {model: ViT-B-32, pretrained: openai}"
            )
        return self


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

    algorithm_1: AnyAlgorithm
    algorithm_2: AnyAlgorithm
    alpha: Share = 0.5
    n_models: Count = 1024
    n_heldout: Annotated[int, Field(ge=8)] = 128
    n_slots: Annotated[int, Field(ge=0)] = 32
    share_order: bool = False
    stack: Annotated[int, Field(ge=0)] = 0
    loader: Literal["memory", "ffcv"] = "memory"
    models_url: str = ""
    models_1_given: dict[str, Any] = Field({})
    models_2_given: dict[str, Any] = Field({})
    margins_dtype: Literal["float32", "float16"] = "float32"

    method: Literal["auto", "lasso", "ridge", "difference_of_means", "fast_l1"] = "auto"
    folds: Annotated[int, Field(ge=1, le=1000)] = 1
    n_repeats: Annotated[int, Field(ge=0)] = 1
    relative_to_class: bool = True
    n_lams: Annotated[int, Field(ge=2)] = 50
    lam_min_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.01

    n_directions: Annotated[int, Field(ge=1)] = 8
    n_splits: Count = 8
    n_null_splits: Count = 4
    datamodels_1_path: str = ""
    datamodels_2_path: str = ""
    scores_options: dict[str, Any] = Field({})

    top_k: Count = 24

    captions: CaptionSpec = CaptionSpec()
    caption_steps: Count = 1000

    hypotheses: list[Hypothesis] = Field([])
    placebo: Placebo = Placebo()
    n_effect_models: Count = 64
    n_reinitialised: Annotated[int, Field(ge=0)] = 32
    epsilon: float = 5.0
    delta: Positive = 10.0

    application_algorithm: Literal[1, 2] = 1
    n_removal_tests: Count = 20
    n_models_per_set: Annotated[int, Field(ge=2)] = 8
    n_clusters: Annotated[int, Field(ge=2)] = 12
    selection_targets: list[str] = Field([HARDEST])
    selection_sizes: list[Count] = Field([30, 60, 120])

    n_tilted: Count = 3
    n_random_tilts: Annotated[int, Field(ge=0)] = 2
    n_tilt_pairs: Annotated[int, Field(ge=2)] = 24

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        if not self.epsilon < self.delta:
            raise ValueError(f"epsilon ({self.epsilon}) must be below delta ({self.delta})")
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
        if self.n_effect_models > self.n_models + self.n_heldout:
            raise ValueError(f"n_effect_models ({self.n_effect_models}) exceeds the models trained")
        scenes = self.dataset.kind == "scenes"
        for dataset in (self.dataset, *sources(self.algorithm_1, self.algorithm_2)):
            if dataset.kind == "scenes":
                check_features(dataset.planted, dataset.distractors)
        classes = CLASS_NAMES if scenes else self.dataset.classes
        check_hypotheses(self.hypotheses, self.placebo, classes)
        if classes:
            check_targets(
                self.selection_targets,
                [*(self.dataset.planted or PLANTED if scenes else ()), *classes],
            )
        return self


def sources(*algorithms: AlgorithmSpec) -> list[DatasetSpec]:
    """The data sets of the source models that algorithms start from."""
    starts = [getattr(spec, "initialisation", None) for spec in algorithms]
    return [start.source.dataset for start in starts if start and start.source]


def check_hypotheses(hypotheses: list[Hypothesis], placebo: Placebo, classes) -> None:
    """Refuse unknown transformations, and unknown classes where ``classes`` are given."""
    get_transform(placebo.transformation)
    for hypothesis in hypotheses:
        get_transform(hypothesis.transformation)
        if classes and hypothesis.target_class not in classes:
            raise ValueError(
                f"hypothesis {hypothesis.name!r}: "
                f"{unknown_word(hypothesis.target_class, classes, 'class')}"
            )
