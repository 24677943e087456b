"""What a learning algorithm is: a map from a training subset and a seed to a model, as data.

Three kinds. A *network* is trained by ``training``; ``sklearn`` names a classifier of
scikit-learn; ``python`` names a function of the user's own. All three are trained on the same
subsets and leave the same outputs, so that any two can be compared.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    model_serializer,
    model_validator,
)

from mdhelpers.base.specs import Count, Positive, Share, Spec, unknown_word, validate
from mdhelpers.data.datasets import DatasetSpec

Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
ARCHITECTURE_WIDTHS = {"cnn": 16, "resnet9": 64, "resnet18": 64, "resnet50": 64}


class AugmentationSpec(Spec):
    """Random changes of each training image, drawn afresh every epoch; nothing by default.

    ``shift`` in pixels (a padded crop; edges are repeated), ``flip`` left-right, ``crop`` the
    smallest area of a random resized crop, ``jitter`` the strength of brightness, contrast and
    saturation (0.4: factors between 0.6 and 1.4), ``cutout`` the side in pixels of a grey square.
    """

    shift: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    crop: Fraction = 0.0
    jitter: Fraction = 0.0
    cutout: Annotated[int, Field(ge=0)] = 0


class PretrainingSpec(Spec):
    """Source models that an algorithm starts from: trained on all of another data set.

    ``n_models`` source models are trained from different seeds, and shared in turn by the models
    that start from them. The last layer starts afresh where the classes differ in number.
    """

    dataset: DatasetSpec
    algorithm: NetworkSpec
    n_models: Count = 1

    @model_validator(mode="after")
    def _one_source_deep(self) -> PretrainingSpec:
        if self.algorithm.initialisation.kind != "random":
            raise ValueError("a source model must itself start at random")
        return self


class InitialisationSpec(Spec):
    """Where training starts: ``random``, ``torchvision`` (its ImageNet weights), ``checkpoint``
    (a safetensors file at ``path``, or torchvision's own ``.pth`` read with weights only), or
    ``pretraining`` on a ``source``. A single word or a mapping. ``scheme`` says what random layers
    are drawn from: what their ``architecture`` says, or ``torch``'s defaults for each layer."""

    kind: Literal["random", "torchvision", "checkpoint", "pretraining"] = "random"
    path: str = ""
    source: PretrainingSpec | None = None
    scheme: Literal["architecture", "torch"] = "architecture"

    @model_validator(mode="before")
    @classmethod
    def _from_a_word(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _complete(self) -> InitialisationSpec:
        if (self.kind == "checkpoint") != bool(self.path):
            raise ValueError("kind: checkpoint and path (a file) belong together")
        if (self.kind == "pretraining") != (self.source is not None):
            raise ValueError("kind: pretraining and source belong together")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict:
        """Leave out what was added later and is not used: models made before stay current."""
        shown = handler(self)
        if self.scheme == "architecture":
            shown.pop("scheme", None)
        return shown


class AlgorithmSpec(Spec):
    """What every learning algorithm has: a name, and a kind."""

    name: str
    kind: str


class NetworkSpec(AlgorithmSpec):
    """A network and the recipe that trains it.

    Architecture
        ``cnn`` (three convolutions and a linear layer), ``resnet9``, or torchvision's
        ``resnet18`` and ``resnet50``. ``width`` is the first convolution's channels; torchvision's
        have theirs. ``trainable: head`` trains the last layer only, on fixed features.
    Steps
        ``sgd`` with ``momentum`` and perhaps ``nesterov``, or ``adamw``; ``weight_decay``; and a
        ``schedule`` of ``lr``, which is its highest value: ``constant``; ``step``, times
        ``step_factor`` every ``step_epochs``; ``linear``, falling to 0; ``triangular``, rising
        over the share ``peak`` of training and falling to 0 (cyclic with one cycle);
        ``one_cycle``, the same with cosines; ``cosine``. ``warmup_epochs`` rise before it.
    Ending
        ``stop_at_loss``: a model whose mean training loss of an epoch falls below it is finished
        (0: never). ``validation_share`` of each model's subset is not trained on, and the epoch
        with the best accuracy on it is kept. ``average_last``: the weights are averaged over the
        last share of the steps.
    Arithmetic
        ``precision`` of products and convolutions; weights and sums stay in fp32. ``compile``:
        by `torch.compile`.
    """

    kind: Literal["network"] = "network"
    architecture: Literal["cnn", "resnet9", "resnet18", "resnet50"] = "cnn"
    width: Annotated[int, Field(ge=4, le=256)] | None = None
    initialisation: InitialisationSpec = Field(default_factory=lambda: InitialisationSpec())
    trainable: Literal["all", "head"] = "all"

    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: Positive = 0.03
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NotNegative = 5e-4
    schedule: Literal["constant", "step", "linear", "triangular", "one_cycle", "cosine"] = (
        "triangular"
    )
    peak: Share = 0.2
    step_epochs: Count = 15
    step_factor: Share = 0.2
    warmup_epochs: NotNegative = 0.0

    epochs: Count = 20
    batch_size: Count = 40
    label_smoothing: Fraction = 0.0
    augmentation: AugmentationSpec = AugmentationSpec()
    stop_at_loss: NotNegative = 0.0
    validation_share: Fraction = 0.0
    average_last: Fraction = 0.0

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> NetworkSpec:
        if self.width is not None and self.architecture in ("resnet18", "resnet50"):
            raise ValueError(f"width: torchvision's {self.architecture} has its own; leave it out")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError("nesterov needs optimizer: sgd and a momentum above 0")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs ({self.warmup_epochs}) must be below epochs")
        if self.average_last and self.validation_share:
            raise ValueError("average_last and validation_share both choose weights; give one")
        source = self.initialisation.source
        if source and source.algorithm.architecture != self.architecture:
            raise ValueError(
                f"the source is a {source.algorithm.architecture}, this algorithm a "
                f"{self.architecture}; weights go from one to the same only"
            )
        if self.initialisation.kind == "torchvision" and not self.architecture.startswith(
            ("resnet18", "resnet50")
        ):
            raise ValueError(f"torchvision has no weights for {self.architecture}")
        return self

    @property
    def channels(self) -> int:
        """``width``, or the architecture's usual one."""
        return self.width or ARCHITECTURE_WIDTHS[self.architecture]


class SklearnSpec(AlgorithmSpec):
    """A classifier of scikit-learn with ``predict_proba``, on flattened pixels in [-1, 1].

    ``classifier`` is its class name (``RandomForestClassifier``), ``options`` its constructor's
    arguments; ``random_state`` is each model's own seed.
    """

    kind: Literal["sklearn"]
    classifier: str
    options: dict[str, Any] = Field({})


class PythonSpec(AlgorithmSpec):
    """A function of the user's own, ``module:function``, called once a model::

        function(images, labels, test_images, *, n_classes, seed, **options) -> logits

    with images (n_subset, height, width, 3) uint8 and labels (n_subset,) int64 of the model's
    subset; it returns (n_test, n_classes) float logits of ``test_images``. The same seed must give
    the same logits.
    """

    kind: Literal["python"]
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    options: dict[str, Any] = Field({})


KINDS = {"network": NetworkSpec, "sklearn": SklearnSpec, "python": PythonSpec}


def _kind_of(given: Any) -> str:
    if isinstance(given, dict):
        kind = given.get("kind", "network")
    else:
        kind = getattr(given, "kind", "network")  # of a word or a number the network's spec tells
    return f"kind={kind}"  # `validate` takes such a word out of a fault's address


AnyAlgorithm = Annotated[
    Annotated[NetworkSpec, Tag("kind=network")]
    | Annotated[SklearnSpec, Tag("kind=sklearn")]
    | Annotated[PythonSpec, Tag("kind=python")],
    Discriminator(_kind_of),
]
for _spec in (InitialisationSpec, PretrainingSpec, NetworkSpec):
    _spec.model_rebuild()


def parse_algorithm(given: dict, what: str = "") -> AlgorithmSpec:
    """The specification of one algorithm, of the kind that it names (a network by default).

    Raises
    ------
    ValueError
        Names every faulty key and what was expected.

    """
    kind = given.get("kind", "network")
    if kind not in KINDS:
        raise ValueError(f"{what}.kind: {unknown_word(str(kind), KINDS, 'kind')}")
    return validate(KINDS[kind], given, what)
