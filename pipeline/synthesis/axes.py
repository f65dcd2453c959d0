"""Axes of a recipe: values with weights and texts, and which of them do not go together."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, model_validator

from actors.limits import MAX_PROMPT_CHARACTERS
from actors.plain_text import printable, require_plain, shown

MAX_WEIGHT = 1_000_000_000
PLACE = re.compile(r"\{([^{}]*)\}")
"""Where a description takes a text of an axis."""


@dataclass(frozen=True)
class AxisValue:
    """One value of an axis.

    Attributes:
        value: its name, which the index keeps; of `seconds` a number.
        weight: how often it comes, beside the others.
        texts: what stands in the description for it: "text" for `{axis}`, and others for `{axis.name}`.
    """

    value: str | float
    weight: float
    texts: Mapping[str, str]


def weight_of(given: Any) -> float:
    """A weight.

    Raises:
        ValueError: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= MAX_WEIGHT:
        raise ValueError(f"must have weights from 0 to {MAX_WEIGHT:,}, got {shown(given)}")
    return float(given)


def _value(given: Any) -> str | float:
    """A value's name: text, or a number."""
    if isinstance(given, str) and given.strip():
        require_plain(given)
        return given.strip()
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) <= MAX_WEIGHT:
        hint = "yes, no and times such as 16:9 need quotes"
        raise ValueError(f"must have texts or numbers for values, got {shown(given)}; {hint}")
    return float(given)


def _axis(given: Any) -> tuple[AxisValue, ...]:
    """Values of an axis, from a list, a map to weights, or one value."""
    if isinstance(given, Mapping):
        items: list[Any] = [{"value": value, "weight": weight} for value, weight in given.items()]
    else:
        items = list(given) if isinstance(given, list | tuple) else [given]
    values = [_axis_value(item) for item in items]
    if not values:
        raise ValueError("must have a value")
    twice = first_double(value.value for value in values)
    if twice is not None:
        raise ValueError(f"must not have {shown(twice)} twice")
    if not any(value.weight for value in values):
        raise ValueError("must have a weight above 0")
    return tuple(values)


def first_double(values: Iterable[Any]) -> Any:
    """The first value that is there twice, or None."""
    return next((value for value, number in Counter(values).items() if number > 1), None)


def _axis_value(item: Any) -> AxisValue:
    if isinstance(item, AxisValue):
        return item
    if not isinstance(item, Mapping):
        item = {"value": item}
    value, weight = _value(item.get("value")), weight_of(item.get("weight", 1))
    others = {str(name): text for name, text in item.items() if name not in ("value", "weight")}
    texts = {"text": plain(value)} | others
    for name, text in [("value", plain(value)), *texts.items()]:
        if not isinstance(text, str):
            raise ValueError(f"must have texts besides value and weight, got {name}: {shown(text)}")
        require_plain(text, allows_layout=True)
        if len(text) > MAX_PROMPT_CHARACTERS or PLACE.search(text):
            raise ValueError(f"must not hold braces, or more than {MAX_PROMPT_CHARACTERS:,} characters: {shown(text)}")
    texts = {name: text.strip() for name, text in texts.items()}
    return AxisValue(value, weight, texts)


def _condition(given: Any) -> dict[str, tuple[str | float, ...]]:
    """Axis to the values meant, of which each may be written without a list."""
    if not isinstance(given, Mapping) or not given:
        raise ValueError("must map axes to their values")
    found: dict[str, tuple[str | float, ...]] = {}
    for axis, values in given.items():
        values = values if isinstance(values, list | tuple) else [values]
        if not values:
            raise ValueError(f"must name a value of {shown(axis)}")
        found[str(axis)] = tuple(_value(value) for value in values)
    return found


Axis = Annotated[tuple[AxisValue, ...], BeforeValidator(_axis)]
Condition = Annotated[dict[str, tuple[str | float, ...]], BeforeValidator(_condition)]


class Constraint(BaseModel):
    """Values that do not go together: where all of `when` holds, each of `allow` must and none of `forbid` may.

    Attributes:
        when: axis to values.
        allow: axis to the values it may have then.
        forbid: axis to the values it must not have then.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: Condition
    allow: Condition | None = None
    forbid: Condition | None = None

    @model_validator(mode="before")
    @classmethod
    def _says_something(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or set(given) - {"when", "allow", "forbid"} or "when" not in given:
            raise ValueError("must hold when, and allow or forbid")
        if (given.get("allow") is None) == (given.get("forbid") is None):
            raise ValueError("must hold one of allow and forbid")
        return given

    def is_broken_by(self, values: Mapping[str, str | float]) -> bool:
        """Whether a clip's values are not allowed together."""
        if any(values[axis] not in wanted for axis, wanted in self.when.items()):
            return False
        if self.allow is not None:
            return any(values[axis] not in allowed for axis, allowed in self.allow.items())
        return any(values[axis] in refused for axis, refused in (self.forbid or {}).items())

    def mentions(self) -> Iterator[tuple[str, str | float]]:
        """Axes and values it speaks of."""
        for part in (self.when, self.allow, self.forbid):
            for axis, values in (part or {}).items():
                yield from ((axis, value) for value in values)

    def __str__(self) -> str:
        kind, values = ("allow", self.allow) if self.allow is not None else ("forbid", self.forbid)
        return f"when {_told(self.when)} {kind} {_told(values or {})}"


def _told(condition: Mapping[str, Sequence[str | float]]) -> str:
    parts = (f"{axis} {'|'.join(map(plain, values))}" for axis, values in condition.items())
    return ", ".join(parts)


def plain(value: str | float) -> str:
    """A value as people write it."""
    return f"{value:g}" if isinstance(value, float) else printable(value, 40)
