"""What does not belong in what people write, and does harm where it is shown or stored."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from actors.limits import MAX_DEPTH, MAX_PROMPT_CHARACTERS, MAX_REFERENCE_CHARACTERS

# Control codes, the halves of surrogate pairs, and what turns the direction of writing: no language here needs it, and
# with it a text can look like another.
_ODD = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_ODD_BUT_LAYOUT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 160, 160, 40


def require_plain(text: str, allows_layout: bool = False) -> None:
    """Refuse control characters.

    Args:
        text: what somebody wrote.
        allows_layout: let tabs and line breaks pass.

    Raises:
        ValueError: it holds one, which is named by its number.
    """
    found = (_ODD_BUT_LAYOUT if allows_layout else _ODD).search(text)
    if found is not None:
        place = f"U+{ord(found.group()):04X} at character {found.start() + 1:,}"
        but = ", tabs and line breaks excepted" if allows_layout else ""
        raise ValueError(f"must not hold control characters{but}, got {place}")


def require_plain_values(values: Mapping[str, Any]) -> None:
    """Refuse what JSON cannot hold, or nobody can read: control characters, NaN, nesting without end.

    Raises:
        ValueError: `values` hold such a thing; the message says which.
    """
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                require_plain(value, allows_layout=True)
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"must not hold numbers that are none, got {value}")
            elif isinstance(value, Mapping):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list | tuple):
                below += value
        if not below:
            return
        level = below
    raise ValueError(f"must not be nested deeper than {MAX_DEPTH} levels")


def printable(text: str, max_characters: int = 100) -> str:
    """A text of unknown origin for a message: one line, cut, control characters by their numbers."""
    line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[:max_characters])
    return line if len(text) <= max_characters else f"{line}..."


def shown(value: Any) -> str:
    """A value of unknown origin for a message, see `printable`."""
    return printable(_SHORT.repr(value), 200)


def _text(text: str) -> str:
    require_plain(text, allows_layout=True)
    return text


def _line(text: str) -> str:
    require_plain(text)
    return text


Text = Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS), AfterValidator(_text)]
NonEmpty = Annotated[Text, Field(min_length=1, pattern=r"\S")]
Reference = Annotated[
    str, Field(min_length=1, max_length=MAX_REFERENCE_CHARACTERS, pattern=r"\S"), AfterValidator(_line)
]
"""Fields of a request: what may be empty, what may not, and a path or URL."""
