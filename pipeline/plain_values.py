"""Values of rows of unknown origin, as JSON can hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from actors.limits import MAX_DEPTH

_AS_THEY_ARE = frozenset({str, int, bool, type(None)})


def plain_value(value: Any, depth: int = 0) -> Any:
    """Make a value JSON can hold: what it has no form for (dates, bytes, NaN) becomes text.

    Raises:
        ValueError: if it is nested too deep to travel.
    """
    if type(value) in _AS_THEY_ARE:  # nearly all of a million rows
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, (int, float, str)):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if depth == MAX_DEPTH and isinstance(value, Mapping | list | tuple):
        raise ValueError(f"is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, Mapping):
        return {str(key): plain_value(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item, depth + 1) for item in value]
    return str(value)
