"""The base of every validated specification, and how its faults are told."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

NO_MAPPING = ("model_type", "model_attributes_type", "dict_type")
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
            if fault["type"] in NO_MAPPING:
                message = "expected a mapping, such as {key: value, other_key: value}"
            if fault["type"] == "literal_error" and isinstance(got, str):
                known = re.findall("'([^']*)'", fault["ctx"]["expected"])
                message = unknown_word(got, known, "word")
            shown = "" if isinstance(got, dict) else f", got {got!r}"
            lines.append(f"{where or 'parameters'}: {message}{shown}")
        raise ValueError("\n".join(lines)) from None
