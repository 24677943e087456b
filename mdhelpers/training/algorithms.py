"""What a learning algorithm is: a map from a training subset and a seed to a model, as data.

A kind is one class, an `AlgorithmSpec`: its fields are the keys of a study, and its methods all
that training, fitting and estimates ask of it. Three are here. A *network* is trained by
``recipe``; ``sklearn`` names a classifier of scikit-learn; ``python`` names a function of the
user's own. All are trained on the same subsets and leave the same outputs, so that any two can be
compared. Another kind is one more entry of `LEARNERS`, or a class of the user's own that a study
names as ``kind: module:Class``.

What trains is imported by the methods, so that a study can be read without torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from mdhelpers.base.places import resolve
from mdhelpers.base.specs import (
    Count,
    Positive,
    Share,
    Spec,
    code_digest,
    find_named,
    is_own,
    validate,
)
from mdhelpers.data.datasets import DatasetSpec

if TYPE_CHECKING:
    import numpy as np
    import torch

    from mdhelpers.training.learners import TrainedModels
    from mdhelpers.training.networks import Architecture
    from mdhelpers.training.recipe import Task, TrainingData

Fraction = Annotated[float, Field(ge=0, lt=1)]
NotNegative = Annotated[float, Field(ge=0)]
TRIAL_BATCHES = 6  # of one epoch


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


class Normalisation(Spec):
    """How the inputs of weights were normalised where they were trained: colours in [0, 1], less
    ``mean`` and divided by ``std``. ``imagenet`` in one word is torchvision's of ImageNet."""

    mean: Annotated[list[float], Field(min_length=3, max_length=3)]
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)]

    @model_validator(mode="before")
    @classmethod
    def _from_a_word(cls, given: Any) -> Any:
        if not isinstance(given, str):
            return given
        if given not in NORMALISATIONS:
            known = ", ".join(NORMALISATIONS)
            raise ValueError(f"{given!r} is not known; give {known}, or mean: and std: of 3 each")
        return NORMALISATIONS[given]


NORMALISATIONS = {"imagenet": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}


class InitialisationSpec(Spec):
    """Where training starts: ``random``, ``torchvision`` (its ImageNet weights), ``checkpoint``
    (a safetensors file at ``path``, or torchvision's own ``.pth`` read with weights only), or
    ``pretraining`` on a ``source``. A single word or a mapping. ``scheme`` says what random layers
    are drawn from: what their ``architecture`` says, or ``torch``'s defaults for each layer.
    ``normalisation`` says what inputs a checkpoint's weights expect, [-1, 1] by default;
    torchvision's get their own."""

    kind: Literal["random", "torchvision", "checkpoint", "pretraining"] = "random"
    path: str = ""
    source: PretrainingSpec | None = None
    scheme: Literal["architecture", "torch"] = "architecture"
    normalisation: Normalisation | None = None

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
        if self.normalisation and self.kind != "checkpoint":
            raise ValueError(
                "normalisation says what inputs a checkpoint's weights expect: it goes with kind: "
                "checkpoint. torchvision's weights get ImageNet's by themselves"
            )
        return self

    @property
    def expected_inputs(self) -> Normalisation | None:
        """How inputs must be normalised for the weights; None where they are in [-1, 1]."""
        if self.kind == "torchvision":
            return Normalisation.model_validate("imagenet")
        return self.normalisation

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict:
        """Leave out what was added later and is not used: models made before stay current."""
        shown = handler(self)
        if self.scheme == "architecture":
            shown.pop("scheme", None)
        if self.normalisation is None:
            shown.pop("normalisation", None)
        return shown


class AlgorithmSpec(Spec):
    """A kind of learning algorithm: its keys beside a name, and what it does with them.

    Of another kind, `train` is all that must be said. What else differs from a function that is
    called once a model and leaves nothing behind is said by overriding the other methods.

    Attributes
    ----------
    gives_probabilities
        Whether logits are logarithms of probabilities, which are measured by log-odds; margins of
        logits otherwise (`mdhelpers.training.learners.margins_of`).
    keeps_models
        Whether trained models are kept as files. Then its `TrainedModels` have a ``state``, and
        `restore` gives them back. Others are trained again from their masks and seeds, to the
        same bits: nothing is ever pickled.
    has_gradients
        Whether `mdhelpers.training.gradients` can look at its models: networks. Those of another
        kind than `NetworkSpec` are looked at when they are trained; its `TrainedModels` have
        ``models`` then, a `torch.nn.Module` each.

    """

    name: str
    kind: str

    gives_probabilities: ClassVar[bool] = False
    keeps_models: ClassVar[bool] = False
    has_gradients: ClassVar[bool] = False

    def train(self, task: Task, data: TrainingData) -> TrainedModels:
        """Train the models of a task, each on its own subset from its own seeds."""
        raise NotImplementedError(f"{type(self).__name__} says not how to train")

    def trained_on(self, task: Task) -> np.ndarray:
        """Masks of what each model of a task is trained on, (G, n_train) bool.

        They are what datamodels are fitted on. The subsets, but for what a recipe sets aside.
        """
        return task.masks

    def restore(
        self, state: dict[str, torch.Tensor], n_models: int, size: tuple[int, int], n_classes: int
    ) -> TrainedModels:
        """The models of a task whose ``state`` was kept, on the device where that lies."""
        raise NotImplementedError(f"{type(self).__name__} keeps no models")

    def check(self) -> None:
        """Refuse, before anything is trained, what could only fail in training.

        Raises
        ------
        ValueError
            For an unknown classifier, module, function or option, or one that cannot be used.
        FileNotFoundError
            For a checkpoint that is not there.

        """

    def made_with(self) -> str:
        """What beside the specification decides a model's bits: a function's files, a version.

        Of a user's own code the module's file counts, and what it imports from its folder.
        """
        return code_digest(self.kind) if is_own(self.kind) else ""

    @property
    def start(self) -> InitialisationSpec:
        """Where training starts."""
        return InitialisationSpec()

    @property
    def n_epochs(self) -> int:
        """Training losses of each model."""
        return 1

    def most_in_a_stack(self, device: str) -> int:  # noqa: ARG002
        """Models a task on ``cpu`` or ``cuda`` at most, where a study leaves it open."""
        return 8

    def trial(self, n_train: int, alpha: float) -> tuple[AlgorithmSpec, int] | None:  # noqa: ARG002
        """What to train, on so many images, to learn how long training takes; None: not tried."""
        return self, n_train

    @property
    def called(self) -> str:
        """What trains a model, in a word, for messages."""
        return self.kind

    @property
    def not_finite(self) -> str:
        """What is told of a model whose margins are not finite."""
        return "gave margins that are not finite."

    def __reduce__(self):
        """It travels to workers as data: they import what it names."""
        return parse_algorithm, (self.model_dump(),)


class NetworkSpec(AlgorithmSpec):
    """A network and the recipe that trains it.

    Architecture
        ``cnn`` (three convolutions and a linear layer), ``resnet9``, torchvision's ``resnet18``
        and ``resnet50``, or one of the user's own as ``module:name``. ``width`` is the first
        convolution's channels; torchvision's have theirs. ``trainable: head`` trains the last
        layer only, on fixed features.
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
        ``precision`` of products and convolutions; weights and sums stay in fp32. ``auto`` is bf16
        on a GPU that has it, and fp32 elsewhere. ``compile``: by `torch.compile`.
    """

    kind: Literal["network"] = "network"
    architecture: str = "cnn"
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

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False

    keeps_models: ClassVar[bool] = True
    has_gradients: ClassVar[bool] = True

    @field_validator("architecture")
    @classmethod
    def _known(cls, name: str) -> str:
        architecture_of(name)
        return name

    @model_validator(mode="after")
    def _fits_together(self) -> NetworkSpec:
        if self.width is not None and self.design.width is None:
            raise ValueError(f"width: {self.architecture} has its own; leave it out")
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
        if self.initialisation.kind == "torchvision" and not self.design.torchvision:
            raise ValueError(f"torchvision has no weights for {self.architecture}")
        return self

    @property
    def design(self) -> Architecture:
        """What ``architecture`` names."""
        return architecture_of(self.architecture)

    @property
    def start(self) -> InitialisationSpec:
        return self.initialisation

    @property
    def n_epochs(self) -> int:
        return self.epochs

    @property
    def not_finite(self) -> str:
        return f"diverged; its margins are not finite. Lower its lr (now {self.lr})."

    def train(self, task: Task, data: TrainingData) -> TrainedModels:
        from mdhelpers.training.learners import TrainedNetworks
        from mdhelpers.training.recipe import train_stack

        stack, losses = train_stack(task, data)
        return TrainedNetworks(stack, losses.T)

    def trained_on(self, task: Task) -> np.ndarray:
        import numpy as np

        from mdhelpers.training.recipe import split_validation

        return split_validation(task, [np.random.default_rng(s) for s in task.data_seeds])[0]

    def restore(
        self, state: dict[str, torch.Tensor], n_models: int, size: tuple[int, int], n_classes: int
    ) -> TrainedModels:
        import torch

        from mdhelpers.training.learners import TrainedNetworks
        from mdhelpers.training.networks import make_stack

        stack = make_stack(self, n_models, size, n_classes)
        stack.load_state_dict(state)
        device = next(iter(state.values())).device
        return TrainedNetworks(stack.to(device, memory_format=torch.channels_last))

    def check(self) -> None:
        path = self.initialisation.path
        if path and not resolve(path).is_file():
            raise FileNotFoundError(
                f"{self.name} starts from a checkpoint that is not there: {resolve(path)}. "
                "Correct initialisation.path"
            )

    def made_with(self) -> str:
        own = code_digest(self.architecture) if is_own(self.architecture) else ""
        source = self.initialisation.source
        changed = [*self.changed_since(), *(source.algorithm.changed_since() if source else ())]
        return "; ".join(filter(None, [own, *dict.fromkeys(changed)]))

    def changed_since(self) -> Iterator[str]:
        """What makes other models than it did before of the same keys, so that those are stale."""
        if self.initialisation.kind == "torchvision":
            yield "inputs normalised as ImageNet's"
        if self.augmentation.crop:
            yield "crops drawn as torchvision draws them"

    def most_in_a_stack(self, device: str) -> int:
        return self.design.stacks[device]

    def trial(self, n_train: int, alpha: float) -> tuple[AlgorithmSpec, int]:
        short = self.model_copy(update={"epochs": 1, "warmup_epochs": 0.0, "compile": False})
        return short, min(n_train, round(TRIAL_BATCHES * self.batch_size / alpha))


def architecture_of(name: str) -> Architecture:
    """The architecture of that name, ours or the user's own (``module:name``)."""
    from mdhelpers.training.networks import ARCHITECTURES, Architecture

    return find_named(name, ARCHITECTURES, "architecture", lambda it: isinstance(it, Architecture))


class SklearnSpec(AlgorithmSpec):
    """A classifier of scikit-learn with ``predict_proba``, on flattened pixels in [-1, 1].

    ``classifier`` is its class name (``RandomForestClassifier``), ``options`` its constructor's
    arguments; ``random_state`` is each model's own seed.
    """

    kind: Literal["sklearn"]
    classifier: str
    options: dict[str, Any] = Field({})

    gives_probabilities: ClassVar[bool] = True

    @property
    def called(self) -> str:
        return self.classifier

    def train(self, task: Task, data: TrainingData) -> TrainedModels:
        from mdhelpers.training.learners import TrainedClassifiers

        return TrainedClassifiers(task, data)

    def check(self) -> None:
        from mdhelpers.training.learners import make_classifier

        make_classifier(self, seed=0)

    def made_with(self) -> str:
        return f"scikit-learn {version('scikit-learn')}"


class PythonSpec(AlgorithmSpec):
    """A function of the user's own, ``module:function``, called once a model::

        function(images, labels, test_images, *, n_classes, seed, **options) -> logits

    with images (n_subset, height, width, 3) uint8 and labels (n_subset,) int64 of the model's
    subset; it returns (n_test, n_classes) float logits of ``test_images``. The same seed must give
    the same logits.

    With ``returns: network`` it returns the trained network instead, a `torch.nn.Module` from
    images (b, 3, height, width) float in [-1, 1] to logits, and ``test_images`` are none. It is
    asked in evaluation mode, and datamodels can be had from its gradients.
    """

    kind: Literal["python"]
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    returns: Literal["logits", "network"] = "logits"
    options: dict[str, Any] = Field({})

    @property
    def called(self) -> str:
        return self.function

    @property
    def has_gradients(self) -> bool:
        return self.returns == "network"

    def train(self, task: Task, data: TrainingData) -> TrainedModels:
        from mdhelpers.training.learners import TrainedFunctions, TrainedOwnNetworks

        made = TrainedOwnNetworks if self.returns == "network" else TrainedFunctions
        return made(task, data)

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict:
        """Leave out what was added later and is not used: models made before stay current."""
        shown = handler(self)
        if self.returns == "logits":
            shown.pop("returns", None)
        return shown

    def check(self) -> None:
        from mdhelpers.training.learners import load_function

        load_function(self)

    def made_with(self) -> str:
        self.check()
        return code_digest(self.function)

    def trial(self, n_train: int, alpha: float) -> None:
        """A function of the user's own is not called before its turn."""


LEARNERS: dict[str, type[AlgorithmSpec]] = {
    "network": NetworkSpec,
    "sklearn": SklearnSpec,
    "python": PythonSpec,
}


def learner_of(given: Any) -> type[AlgorithmSpec]:
    """The kind that a mapping names, ours or the user's own (``module:Class``)."""
    kind = given.get("kind", "network") if isinstance(given, dict) else "network"
    return find_named(str(kind), LEARNERS, "kind", is_learner)


def is_learner(it: Any) -> bool:
    return isinstance(it, type) and issubclass(it, AlgorithmSpec) and it is not AlgorithmSpec


def _of_its_kind(given: Any) -> AlgorithmSpec:
    """A specification; of a word or a number the network's tells what is expected."""
    is_one = isinstance(given, AlgorithmSpec)
    return given if is_one else learner_of(given).model_validate(given)


AnyAlgorithm = Annotated[SerializeAsAny[AlgorithmSpec], BeforeValidator(_of_its_kind)]
for _spec in (InitialisationSpec, PretrainingSpec, NetworkSpec):
    _spec.model_rebuild()


def parse_algorithm(given: dict, what: str = "") -> AlgorithmSpec:
    """The specification of one algorithm, of the kind that it names (a network by default).

    Raises
    ------
    ValueError
        Names every faulty key and what was expected.

    """
    try:
        kind = learner_of(given)
    except ValueError as error:
        raise ValueError(f"{what}.kind: {error}") from None
    return validate(kind, given, what)
