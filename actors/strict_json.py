"""JSON of unknown origin: what the standard library reads with a shrug is an error here."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any


def parse_json(text: str) -> Any:
    """Parse JSON; NaN and infinities pass, as numbers that every field refuses by name.

    Raises:
        ValueError: it is none, names a key twice, or is nested without end; the message is one line.
    """
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:  # its text counts lines, of which a row has one
        raise ValueError(f"{error.msg} at character {error.pos + 1}") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it names the key {twice[:100]!a} twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_each_once)
"""Made once: `json.loads` makes one for every call that has a hook."""
