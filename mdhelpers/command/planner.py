"""How many more models a wanted quality would take, and how long: a run's curves in sentences."""

from __future__ import annotations

import math

from mdhelpers.runs.run import Run
from mdhelpers.runs.stage import MODELS
from mdhelpers.stages.datamodels import Need, StudyQuality, needs, read_quality

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
    words = in_words(goal)
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


def in_words(goal: dict[str, float]) -> str:
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
    """Two digits that count, or three where the first is 1."""
    digits = 3 if f"{number:.1e}"[0] == "1" else 2
    step = 10 ** max(math.floor(math.log10(max(number, 1))) + 1 - digits, 0)
    return f"{step * round(number / step):,.0f}"
