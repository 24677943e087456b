"""A study as validated data: a dataset, two learning algorithms, a budget, hypotheses to test.

`Study` holds every parameter that any notebook declares, with the defaults of a full run; a
parameters file names only what differs. Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mdhelpers.scenes import CLASS_NAMES
from mdhelpers.transforms import get_transform

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]


class Spec(BaseModel):
    """A mapping whose unknown keys are refused by name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, given: Any) -> Any:
        if isinstance(given, dict):
            for key in given:
                if key not in cls.model_fields:
                    raise ValueError(unknown_word(str(key), cls.model_fields, "key"))
        return given


def unknown_word(word: str, known, what: str) -> str:
    """A message that refuses ``word`` and offers the nearest of the known ones."""
    near = difflib.get_close_matches(word, list(known), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {word!r}{hint} (known: {', '.join(known)})"


class DatasetSpec(Spec):
    """What notebook 01 prepares. ``n_train``, ``n_test``, ``share`` belong to scenes; ``root``,
    ``classes``, ``limit_train`` and ``limit_test`` (images a class) to folders and CIFAR-10."""

    kind: Literal["scenes", "image_folder", "cifar10"] = "scenes"
    size: Annotated[int, Field(ge=16, le=256)] | None = None
    seed: Seed = 0
    n_train: Count = 240
    n_test: Count = 600
    share: Share = 0.25
    root: str = ""
    classes: list[str] = []
    limit_train: Count | None = None
    limit_test: Count | None = None

    @model_validator(mode="after")
    def _needs_root(self) -> DatasetSpec:
        if self.kind == "image_folder" and not self.root:
            raise ValueError("an image_folder needs root: the folder that holds train/ and test/")
        return self


class AugmentationSpec(Spec):
    """Random changes of each training image, drawn afresh every epoch.

    ``shift`` in pixels (edges repeated), ``flip`` left-right, ``crop`` the smallest area of a
    random resized crop (0 switches it off).
    """

    shift: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    crop: Annotated[float, Field(ge=0, lt=1)] = 0.0


class AlgorithmSpec(Spec):
    """A learning algorithm: a map from a training subset and a seed to a model."""

    name: str
    architecture: Literal["cnn"] = "cnn"
    width: Annotated[int, Field(ge=4, le=256)] = 16
    epochs: Count = 20
    batch_size: Count = 40
    lr: Positive = 0.03
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    schedule: Literal["triangular", "constant", "cosine"] = "triangular"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    augmentation: AugmentationSpec = AugmentationSpec()


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
    intensities: Annotated[list[Positive], Field(min_length=1)] = [3, 5, 7]


class CaptionSpec(Spec):
    """Which CLIP names the subpopulations, from which words."""

    model: str = "small"
    pretrained: str = ""
    bank: str | list[str] = ""
    top: Count = 10


class Study(Spec):
    """All parameters of a study; see the notebooks' parameters cells for what each one does."""

    study: str
    profile: str = "full"
    runs_dir: str = "runs"
    seed: Seed = 0
    device: str = "auto"
    workers: Annotated[int, Field(ge=0)] = 0

    dataset: DatasetSpec = DatasetSpec()
    write_beton: bool = False

    algorithm_1: AlgorithmSpec
    algorithm_2: AlgorithmSpec
    alpha: Share = 0.5
    n_models: Count = 1024
    n_heldout: Annotated[int, Field(ge=8)] = 128
    n_slots: Annotated[int, Field(ge=0)] = 32
    stack: Count = 8

    method: Literal["lasso", "difference_of_means"] = "lasso"
    relative_to_class: bool = True
    n_lams: Annotated[int, Field(ge=2)] = 50
    lam_min_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.01

    n_directions: Annotated[int, Field(ge=1)] = 8
    n_splits: Count = 8
    n_null_splits: Count = 4
    datamodels_1_path: str = ""
    datamodels_2_path: str = ""

    top_k: Count = 24

    captions: CaptionSpec = CaptionSpec()
    caption_steps: Count = 1000

    hypotheses: list[Hypothesis] = []
    placebo: Placebo = Placebo()
    n_effect_models: Count = 64
    epsilon: float = 5.0
    delta: Positive = 10.0

    @model_validator(mode="after")
    def _fits_together(self) -> Study:
        if not self.epsilon < self.delta:
            raise ValueError(f"epsilon ({self.epsilon}) must be below delta ({self.delta})")
        if (self.n_models + self.n_heldout) % self.stack:
            raise ValueError(
                f"n_models + n_heldout = {self.n_models + self.n_heldout} do not make whole "
                f"stacks of {self.stack}; change one of the three"
            )
        if self.n_effect_models > self.n_models + self.n_heldout:
            raise ValueError(f"n_effect_models ({self.n_effect_models}) exceeds the models trained")
        classes = CLASS_NAMES if self.dataset.kind == "scenes" else self.dataset.classes
        check_hypotheses(self.hypotheses, self.placebo, classes)
        return self


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


def validate(model: type[BaseModel], given: dict, what: str = "") -> Any:
    """``model(**given)`` with pydantic's report turned into one readable line a fault.

    Raises
    ------
    ValueError
        Names every faulty key and what was expected.

    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            where = ".".join(str(part) for part in (*([what] if what else []), *fault["loc"]))
            message = fault["msg"].removeprefix("Value error, ")
            got = fault["input"]
            shown = "" if isinstance(got, dict) else f", got {got!r}"
            lines.append(f"{where or 'parameters'}: {message}{shown}")
        raise ValueError("\n".join(lines)) from None
