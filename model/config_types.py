"""Types of what a configuration file says, checked before a network is built of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, get_args, get_type_hints

_ALLOWED: dict[Any, str] = {int: "a whole number >= 0", float: "a number", bool: "true or false"}


def require_types(config: Any) -> None:
    """Hold the values of a dataclass against its annotations: int, float, bool, one of them or None, tuples of them.

    Args:
        config: the dataclass, as its file filled it.

    Raises:
        ValueError: naming the field, what is allowed, and the value.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, kind = getattr(config, field.name), hints[field.name]
        entry_kinds = get_args(kind)
        if NoneType in entry_kinds:
            allowed = f"{_ALLOWED[entry_kinds[0]]} or null"
            is_right = value is None or _is_a(value, entry_kinds[0])
        elif entry_kinds:
            allowed = f"a list, each entry {_ALLOWED[entry_kinds[0]]}"
            is_right = isinstance(value, tuple) and all(_is_a(entry, entry_kinds[0]) for entry in value)
        else:
            allowed, is_right = _ALLOWED[kind], _is_a(value, kind)
        if not is_right:
            shown = list(value) if isinstance(value, tuple) else value
            raise ValueError(f"{field.name} must be {allowed}, got {shown!r:.200}")


def as_tuple(value: Any) -> Any:
    """A JSON list as a tuple; anything else as it is, for `require_types` to name."""
    return tuple(value) if isinstance(value, list | tuple) else value


def section(raw: Any, *keys: str) -> Mapping[str, Any]:
    """An object inside a parsed JSON file.

    Raises:
        ValueError: naming the path of keys at which there is none.
    """
    for depth, key in enumerate(keys):
        raw = raw.get(key)
        if not isinstance(raw, Mapping):
            raise ValueError(f"{'.'.join(keys[: depth + 1])} must be an object, got {raw!r:.200}")
    return raw


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind and not (kind is int and value < 0)
