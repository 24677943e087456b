"""What a study is and takes, before it begins; and what more models than it has would take.

`mdhelpers run --dry-run` says the data, what would run and with what; and how many models, seconds
and bytes it takes, from a short trial of its training. `mdhelpers planner` says, from a finished
run's learning curves, how many more models a wanted quality would take, and how long.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from mdhelpers.base.places import cores, duration, free_bytes, in_words, memory_bytes, shown
from mdhelpers.base.records import plain
from mdhelpers.base.specs import Spec
from mdhelpers.data.sources import expected_sizes
from mdhelpers.method.costs import Cost, fit_cost, fits_at_once
from mdhelpers.method.datamodels import AT_ONCE, FROM_GRADIENTS
from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import MODELS
from mdhelpers.stages.capacity import (
    disk_of_gradients,
    fit_memory,
    method_of,
    no_room,
    sizes_of,
)
from mdhelpers.stages.datamodels import Need, StudyQuality, needs, read_quality
from mdhelpers.stages.study import Study
from mdhelpers.training.algorithms import AlgorithmSpec, AugmentationSpec, NetworkSpec
from mdhelpers.training.learners import learn
from mdhelpers.training.networks import make_model
from mdhelpers.training.recipe import TrainingData
from mdhelpers.training.tasks import (
    TrainingPlan,
    choose_stack,
    device_here,
    make_task,
    resolve_device,
)

if TYPE_CHECKING:
    from mdhelpers.command.runner import Plan


PYTHON_BYTES = 1.3e9  # torch, the kernel, what it draws and a compiler: benchmarks/memory.py
GRADIENT_STEPS = 4
SECONDS_BESIDE_TRAINING = 270  # fits, captions, effects, probes, pages; at scenes' size
GPU_RATE = 3e13  # operations a second that training reaches on an A100: assumed, book/scaling.md
TRIED = 2e12  # operations of a trial on a CPU, beyond which they are counted and not tried
BACKWARD = 2  # times what the forward pass takes


def estimate(study: Study) -> dict[str, Any]:
    """Models, seconds and bytes that a study takes here, from a short trial of its training.

    Returns
    -------
    dict
        ``models`` of all algorithms, ``seconds``, ``gpu_hours`` (NaN where they are not known),
        ``bytes`` on disk, of which ``gradients``, ``memory`` in bytes, the ``fits`` in words,
        ``cannot``: why it cannot run here, a sentence each; and the ``basis`` in words.

    """
    n_train, n_test, n_classes = expected_sizes(study.dataset)
    total = study.n_models + study.n_heldout
    again = study.n_repeats * study.n_heldout + study.n_reinitialised
    again += 2 * study.n_tilt_pairs * (2 * study.n_tilted + study.n_random_tilts)
    on_all = study.n_effect_models / study.alpha  # on all images
    size = study.dataset.pixels
    device = resolve_device("auto" if study.scheduler != "local" else study.device)
    first, further = (study.algorithm_1, study.algorithm_2), tuple(study.algorithms[2:])
    specs = (*first, *further)
    stack = study.stack or choose_stack(first, total, device)
    shape = (n_train, size, n_classes)
    each = [
        seconds_per_model(spec, shape=shape, alpha=study.alpha, stack=stack, device=device)
        for spec in specs
    ]
    workers = study.workers or (1 if device != "cpu" else cores())

    def training(each: Sequence[float | None]) -> float:
        """Seconds of all models, where those of one of either algorithm are known."""
        anew = (each[study.application_algorithm - 1] or 0) * trained_anew(study, n_train)
        anew += sum(map(partial(by_gradients, study, n_train, n_test), specs, each))
        every, two = (sum(seconds or 0 for seconds in some) for some in (each, each[:2]))
        return (total + on_all) * every + again * two + anew

    on_gpu = (
        each
        if device != "cpu"
        else [
            seconds_by_count(spec, shape=shape, alpha=study.alpha, rate=GPU_RATE) for spec in specs
        ]
    )
    images = (n_train + n_test) * size * size * 4
    gradients = most_of_gradients(study, (first, further)) if n_scored(study) else 0
    kept = len(specs) * total * (4 * n_test + n_train / 8 + 1024)
    fits = Fits.of(study)
    return {
        "models": len(specs) * total,
        "seconds": training(each) / workers + fits.seconds + SECONDS_BESIDE_TRAINING,
        "gpu_hours": math.nan if None in on_gpu else training(on_gpu) / 3600,
        "bytes": int(images + gradients + kept + 50e6),
        "gradients": gradients,
        "memory": memory_needed(study),
        "fits": fits.in_words,
        "cannot": no_room(study),
        "basis": "a trial of training, or a count of its operations, one core: "
        f"{estimate_in_words(specs, each)}; {workers} workers, the fits, "
        f"and {SECONDS_BESIDE_TRAINING} s for the rest",
    }


def most_of_gradients(study: Study, together: Iterable[Sequence[AlgorithmSpec]]) -> int:
    """Bytes on disk of the gradients of those algorithms, of which most lie there at once."""
    of = sizes_of(study)
    return max(disk_of_gradients(study.gradients, specs, of) for specs in together)


def memory_needed(study: Study) -> int:
    """Bytes of memory that the largest step takes, notebook 04's fits on parts of the models.

    Of the datamodels of 8 quarters, normalised, two more in work, and both algorithms' own; of both
    algorithms' masks and margins, and as much again in work.
    """
    n_train, n_test, _ = expected_sizes(study.dataset)
    matrix, n_models = n_test * n_train, study.n_models + study.n_heldout
    models = n_models * (n_train + 4 * n_test)
    fits = Fits.of(study).memory + 3 * 4 * matrix
    compared = 8 * (8 + 4) * matrix + 2 * 4 * matrix
    return int(PYTHON_BYTES + 4 * models + max(fits, compared))


@dataclass(frozen=True)
class Fits:
    """Of a study: one fit on all models, how many run side by side, and the seconds of all."""

    method: str
    device: str
    one: Cost
    at_once: int
    seconds: float

    @classmethod
    def of(cls, study: Study) -> Fits:
        """On all models, on halves and on quarters of them, for notebooks 03 and 04."""
        method, device = method_of(study), device_here(study.device)
        n_models, *images = sizes_of(study).of_fit
        times = {1: 2, 2: 4 * study.n_splits + 8, 4: 8 * study.n_null_splits + 8}
        each = {n: fit_cost(method, n_models // n, *images, device=device) for n in times}
        seconds = sum(n * each[part].seconds for part, n in times.items())
        room = {"device": device, "at_most": AT_ONCE}
        return cls(
            method, device, each[1], fits_at_once(each[1], fit_memory(device), **room), seconds
        )

    @property
    def memory(self) -> float:
        """Bytes of the machine's own memory, of all that run side by side."""
        return self.at_once * self.one.memory if self.device == "cpu" else 0.0

    @property
    def in_words(self) -> str:
        where = "one core" if self.device == "cpu" else "a GPU"
        took = f"{in_words(self.one.memory)} and about {duration(self.one.seconds)}"
        every = f"about {duration(self.seconds)} for all"
        return f"{self.method}: {took} per fit on all models ({where}), {every}"


def n_scored(study: Study) -> int:
    """Models of each algorithm whose gradients are taken."""
    taken = method_of(study) in FROM_GRADIENTS
    return min(study.gradients.models, study.n_models) if taken else 0


def by_gradients(
    study: Study, n_train: int, n_test: int, spec: AlgorithmSpec, seconds: float | None
) -> float:
    """Seconds of one core that an algorithm's gradients take: training again, and looks on the way.

    A gradient of one image by itself takes some `GRADIENT_STEPS` times what it takes in training.
    """
    n_models, wanted = n_scored(study), study.gradients
    if not n_models or seconds is None:
        return 0.0
    step = seconds / (spec.n_epochs * max(1, round(study.alpha * n_train)))
    augments = isinstance(spec, NetworkSpec) and spec.augmentation != AugmentationSpec()
    images = n_test + n_train * (wanted.views if augments else 1)
    return n_models * (seconds + len(wanted.at) * images * GRADIENT_STEPS * step)


def trained_anew(study: Study, n_train: int) -> float:
    """Models that notebook 08 trains, counted in models on as many images as the study's."""
    halves, whole = 3 * study.n_removal_tests, 1 + 2 * study.n_removal_tests
    chosen = (1 + 2 * len(study.selection_targets)) * sum(study.selection_sizes)
    return study.n_models_per_set * (halves + (whole + chosen / n_train) / study.alpha)


def estimate_in_words(specs, each: list[float | None]) -> str:
    """The trial's seconds, and what it could not try."""
    words = []
    for spec, seconds in zip(specs, each, strict=True):
        if seconds is None:
            took = "not tried, a function of yours"
        elif seconds < 1000:
            took = f"{seconds:.2f} s per model"
        else:
            took = f"{duration(seconds)} a model"
        words.append(f"{spec.name} {took}")
        if spec.start.source:
            words.append("its source models not counted")
    return ", ".join(words)


def seconds_per_model(
    spec: AlgorithmSpec, *, shape: tuple[int, int, int], alpha: float, stack: int, device: str
) -> float | None:
    """Seconds of one core, or of the GPU, a model; None for a function of the user's own.

    A network is tried on a few batches of noise, others on as many images as they will get. On a
    CPU, operations of a large network are counted, at the rate of a product of matrices.
    """
    n_train, size, n_classes = shape
    tried = spec.trial(n_train, alpha)
    if tried is None:
        return None
    trial, n_tried = tried
    if device == "cpu" and isinstance(spec, NetworkSpec):
        one = operations(spec, size, n_classes)
        if 2 * stack * alpha * n_tried * one > TRIED:
            return seconds_by_count(spec, shape=shape, alpha=alpha, rate=core_rate() / 2)
    images = torch.randint(0, 255, (n_tried, size, size, 3), dtype=torch.uint8, device=device)
    data = TrainingData(images, torch.arange(n_tried, device=device) % n_classes, n_classes)
    plan = TrainingPlan(
        Path(), (trial, trial), "", n_tried, 0, 0, alpha, stack, 0, 0, stack, device
    )  # fmt: skip
    task, _ = make_task(plan, 1, slice(0, stack))
    seconds = timed(task, data) / stack
    return seconds * spec.n_epochs / trial.n_epochs * alpha * n_train / round(alpha * n_tried)


def seconds_by_count(
    spec: AlgorithmSpec, *, shape: tuple[int, int, int], alpha: float, rate: float
) -> float | None:
    """Seconds a model at so many operations a second; None where it is no network."""
    if not isinstance(spec, NetworkSpec):
        return None
    n_train, size, n_classes = shape
    return spec.n_epochs * alpha * n_train * operations(spec, size, n_classes) / rate


def operations(spec: NetworkSpec, size: int, n_classes: int) -> float:
    """Operations that training takes an image: products and convolutions, there and back."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        make_model(spec, (size, size), n_classes).eval()(torch.empty(2, 3, size, size))
    trained = 0 if spec.trainable == "head" else BACKWARD
    return counter.get_total_flops() / 2 * (1 + trained)


def core_rate(n: int = 768) -> float:
    """Operations a second of one core in a float32 product of matrices."""
    left, threads = torch.ones(n, n), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        start = time.perf_counter()
        for _ in range(3):
            left @ left
        return 3 * 2 * n**3 / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def timed(task, data: TrainingData) -> float:
    """Seconds that the task takes on one thread, the second time it is run."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        learn(task, data)
        start = time.perf_counter()
        learn(task, data)
        return time.perf_counter() - start
    finally:
        torch.set_num_threads(threads)


SAID_ABOVE = ("study", "profile", "runs_dir")  # in the first line


def describe(plan: Plan, needs: Mapping[str, Any]) -> str:
    """Return the text that `--dry-run` prints.

    A parameter stands under the first notebook that takes it. Of a mapping that was given, such as
    an algorithm, only the keys that were given are shown.
    """
    first = f"Study {plan.run.study}, profile {plan.run.profile} → {shown(plan.run.folder)}"
    return "\n".join(
        [
            first,
            *of_data(plan.study),
            *of_scores(plan.study),
            *of_steps(plan),
            *of_needs(plan, needs),
        ]
    )


def of_data(study: Any) -> Iterable[str]:
    """What a folder of pictures holds, and what of it is left out."""
    spec = getattr(study, "dataset", None)
    return spec.source.about(spec) if spec else ()


def of_scores(study: Any) -> Iterator[str]:
    """What scores made elsewhere stand for, and what is trained beside them."""
    if getattr(study, "datamodels_1_path", ""):
        yield (
            "Notebooks 04 to 06 compare the scores given; the models that are trained are for the "
            "other notebooks."
        )


def of_steps(plan: Plan) -> Iterator[str]:
    """A line per notebook, and its parameters below it."""
    total, width = len(plan.steps), max(len(step.name) for step in plan.steps)
    told = set(SAID_ABOVE)
    for number, step in enumerate(plan.steps, start=1):
        verdict = f"would run ({step.reason})" if step.reason else "would skip (finished before)"
        yield f"[{number}/{total}] {step.name:<{width}}  {verdict}"
        for name in (name for name in step.parameters if name not in told):
            yield f"        {name} = {as_given(plan.study, name, step.parameters[name])}"
        told |= set(step.parameters)
    yield "Keys that are not shown have their defaults."


def as_given(study: Any, name: str, value: Any) -> str:
    """Return a parameter in words: mappings without the defaults that were filled in."""
    field = getattr(study, name, None)
    several = isinstance(field, list) and any(isinstance(each, Spec) for each in field)
    if several:
        value = [given_of(each) for each in field]
    elif isinstance(field, Spec):
        value = given_of(field) or value
    words = several or isinstance(value, dict)
    return json.dumps(value, ensure_ascii=False) if words else repr(value)


def given_of(spec: Spec) -> dict[str, Any]:
    return plain(spec.model_dump(exclude_unset=True))


def of_needs(plan: Plan, needs: Mapping[str, Any]) -> Iterator[str]:
    """What the study takes, and how that is known."""
    if not needs:
        yield "No estimate: this study has none."
        return
    free = in_words(free_bytes(plan.run.folder))
    yield f"The whole study: {needs_in_words(needs)} ({free} are free)"
    if not math.isnan(needs.get("gpu_hours", math.nan)):
        yield of_gpu(needs["gpu_hours"])
    if needs.get("gradients"):
        yield f"Disk of gradients and their scores, for a while: {in_words(needs['gradients'])}"
    if "fits" in needs:
        yield f"Datamodels by {needs['fits']}"
    if "memory" in needs:
        yield of_memory(needs["memory"])
    if "basis" in needs:
        yield f"Estimated from: {needs['basis']}"
    yield from (f"Cannot run here. {why}." for why in needs.get("cannot", ()))


def of_gpu(hours: float) -> str:
    """Hours of one GPU for all training, measured where there is one, else counted."""
    if torch.cuda.is_available():
        return f"GPU-hours of training: {about(hours)}, by the trial"
    rate = GPU_RATE / 1e12
    return f"GPU-hours of training: {about(hours)}, counted, at {rate:.0f} TFLOP/s (assumed)"


def of_memory(needed: int) -> str:
    """The memory of the largest step beside what there is."""
    there = memory_bytes()
    said = f"Memory: up to {in_words(needed)} in the largest step"
    if there is None:
        return said
    if needed < there:
        return f"{said} ({in_words(there)} are here)"
    return f"{said}, and {in_words(there)} are here: take fewer test images or another machine"


def needs_in_words(needs: Mapping[str, Any]) -> str:
    """Return models, time and disk in words."""
    took = duration(needs["seconds"])
    return f"{needs['models']} models, about {took}, {in_words(needs['bytes'])} of disk"


COSINE, SHARE = 0.9, 0.95  # F.3's cosine; a part of the plateau that is worth training for


FAR = 4  # times the models that there are; further on the curves were not tried


def plan(run: Run, *, lds: float | None = None, cosine: float | None = None) -> list[str]:
    """Sentences: what an LDS, a cosine, or by default 0.9 and 95% of the plateau would take."""
    quality = read_quality(run)
    if lds is None and cosine is None:
        goals = [{"cosine": COSINE}, {"share": SHARE}]
    else:
        goals = [{k: v} for k, v in (("lds", lds), ("cosine", cosine)) if v is not None]
    return [sentence(run, quality, goal) for goal in goals]


def sentence(run: Run, quality: StudyQuality, goal: dict[str, float]) -> str:
    """One target in words: each algorithm's models, then what to train for both and how long."""
    found, there = needs(run, quality, **goal), run.results[MODELS]["n_models"]
    words = goal_in_words(goal)
    if not found:
        return f"{words}: nothing stands out from noise here, so no curve tells. Train more models."
    text = f"{words}: {'; '.join(one(need, there) for need in found)}."
    reachable = [need.models for need in found if math.isfinite(need.models)]
    more = max((n - there for n in reachable), default=0)
    if more <= 0:
        return text
    text += f" Train about {about(more)} more models of each algorithm{cost(run, quality, more)}."
    guess = f" That is more than {FAR} times the models there are: take it as a guess."
    return text + (guess if more + there > FAR * there else "")


def cost(run: Run, quality: StudyQuality, more: float) -> str:
    """How long so many more models of both algorithms take; empty where it is not known."""
    each = [quality.figures.get(f"seconds_a_model_{a}") for a in (1, 2)]
    workers = run.results[MODELS]["workers"]
    if not workers or None in each:  # trained elsewhere
        return ""
    processes = f"{workers} process{'es' * (workers > 1)}"
    return f", about {long(more * sum(each) / workers)} at this run's rate ({processes})"


def goal_in_words(goal: dict[str, float]) -> str:
    (kind, value), *_ = goal.items()
    return {
        "lds": f"To reach an LDS of {value:g}",
        "cosine": f"To reach a cosine of {value:g} between fits on disjoint models",
        "share": f"To reach {value:.0%} of the LDS that infinitely many models would have",
    }[kind]


def one(need: Need, there: int) -> str:
    """What one algorithm needs."""
    if math.isinf(need.models):
        return (
            f"{need.name} cannot reach it, its curve levels off at an LDS of {need.law.plateau:.2f}"
        )
    goal = f" (LDS {need.lds:.2f})" if need.lds is not None else ""
    if need.models <= there:
        return f"{need.name}{goal} has it with the {there} models there are"
    high = "no number" if math.isinf(need.high) else about(need.high)
    return f"{need.name}{goal} needs about {about(need.models)} ({about(need.low)} to {high})"


def long(seconds: float) -> str:
    """A time in minutes or hours."""
    minutes = seconds / 60
    return f"{max(minutes, 1):.0f} min" if minutes < 90 else f"{minutes / 60:.1f} hours"


def about(number: float) -> str:
    """Two digits that count, or three where the first is 1; below 1, one place behind the point."""
    if number < 1:
        return f"{number:.1g}"
    digits = 3 if f"{number:.1e}"[0] == "1" else 2
    step = 10 ** max(math.floor(math.log10(max(number, 1))) + 1 - digits, 0)
    return f"{step * round(number / step):,.0f}"
