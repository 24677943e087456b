"""What `mdhelpers run --dry-run` says: the data, what would run and with what, what it takes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from mdhelpers.machine import duration, free_bytes, in_words, memory_bytes
from mdhelpers.paths import shown
from mdhelpers.records import plain

if TYPE_CHECKING:
    from mdhelpers.runner import Plan

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
            *of_folder(plan.study),
            *of_scores(plan.study),
            *of_steps(plan),
            *of_needs(plan, needs),
        ]
    )


def of_folder(study: Any) -> Iterator[str]:
    """What a folder of pictures holds, and what of it is left out."""
    from mdhelpers.image_folders import list_pictures, notes

    spec = getattr(study, "dataset", None)
    if getattr(spec, "kind", "") != "image_folder":
        return
    listing = list_pictures(spec)
    names = ", ".join(listing.names[:10]) + (", …" if len(listing.names) > 10 else "")
    yield (
        f"{listing.root}: {listing.count('train')} training and {listing.count('test')} test "
        f"pictures of {len(listing.names)} classes ({names})"
    )
    yield from (f"  {line}" for line in notes(listing, {}))


def of_scores(study: Any) -> Iterator[str]:
    """What scores made elsewhere stand for, and what is trained beside them."""
    if getattr(study, "datamodels_1_path", ""):
        yield (
            "Notebooks 04 to 06 compare the scores given; the models that are trained are for the "
            "other notebooks."
        )


def of_steps(plan: Plan) -> Iterator[str]:
    """A line a notebook, and its parameters below it."""
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
    """Return a parameter in words: a mapping without the defaults that were filled in."""
    field = getattr(study, name, None)
    if isinstance(field, BaseModel) and (given := field.model_dump(exclude_unset=True)):
        value = plain(given)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else repr(value)


def of_needs(plan: Plan, needs: Mapping[str, Any]) -> Iterator[str]:
    """What the study takes, and how that is known."""
    if not needs:
        yield "No estimate: this study has none."
        return
    free = in_words(free_bytes(plan.run.folder))
    yield f"The whole study: {needs_in_words(needs)} ({free} are free)"
    if "memory" in needs:
        yield of_memory(needs["memory"])
    if "basis" in needs:
        yield f"Estimated from: {needs['basis']}"


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
