"""Train a task with an algorithm of any kind; the other modules see `TrainedModels` alone.

Of networks checkpoints are kept. Classifiers and functions are never saved: their masks and seeds
give the same models again.
"""

from __future__ import annotations

from importlib.metadata import version

from mdhelpers.algorithms import AlgorithmSpec, NetworkSpec, PythonSpec, SklearnSpec
from mdhelpers.paths import resolve
from mdhelpers.python_models import TrainedFunctions, function_digest, load_function
from mdhelpers.sklearn_models import TrainedClassifiers, make_classifier
from mdhelpers.trained_models import TrainedModels, TrainedNetworks
from mdhelpers.training import Task, TrainingData, train_stack

__all__ = ["TrainedModels", "TrainedNetworks", "check_algorithm", "learn", "made_with"]


def learn(task: Task, data: TrainingData) -> TrainedModels:
    """Train the models of a task, each on its own subset from its own seeds.

    The same task gives the same bits again, so this is also how models that are not kept, those
    of scikit-learn and of functions, are had a second time.
    """
    if isinstance(task.algorithm, NetworkSpec):
        stack, losses = train_stack(task, data)
        return TrainedNetworks(stack, losses.T)
    if isinstance(task.algorithm, SklearnSpec):
        return TrainedClassifiers(task, data)
    return TrainedFunctions(task, data)


def check_algorithm(spec: AlgorithmSpec) -> None:
    """Refuse, before anything is trained, what could only fail in training.

    Raises
    ------
    ValueError
        For an unknown classifier, module, function or option, or one that cannot be used.
    FileNotFoundError
        For a checkpoint that is not there.

    """
    if isinstance(spec, SklearnSpec):
        make_classifier(spec, seed=0)
    elif isinstance(spec, PythonSpec):
        load_function(spec)
    elif spec.initialisation.path and not resolve(spec.initialisation.path).is_file():
        raise FileNotFoundError(
            f"{spec.name} starts from a checkpoint that is not there: "
            f"{resolve(spec.initialisation.path)}. Correct initialisation.path"
        )


def made_with(spec: AlgorithmSpec) -> str:
    """What beside its specification decides a model's bits: a function's files, a version.

    Of a ``python`` algorithm the module's own file counts, and what it imports from its folder.
    """
    if isinstance(spec, SklearnSpec):
        return f"scikit-learn {version('scikit-learn')}"
    if isinstance(spec, PythonSpec):
        load_function(spec)
        return function_digest(spec.function)
    return ""
