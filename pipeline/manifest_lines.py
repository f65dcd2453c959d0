"""Lines of a manifest of unknown origin: what is no row, or no reasonable one, is kept beside the reason."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase, TextIOBase
from typing import Any

from actors.limits import MAX_ROW_BYTES
from actors.strict_json import parse_json

_KEPT_BYTES = 1000


@dataclass(frozen=True)
class BadLine:
    """A line that is no row.

    Attributes:
        text: the line, or where it is too long its beginning.
        reason: what is wrong with it, for the user.
    """

    text: str
    reason: str


def read_json_lines(file: BufferedIOBase) -> Iterator[tuple[int, dict[str, Any] | BadLine]]:
    """Lines of JSON and their numbers from 1; empty ones are left out, and none is in memory beyond `MAX_ROW_BYTES`."""
    number = 0
    while text := file.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(text) > MAX_ROW_BYTES:
            beginning = text[:_KEPT_BYTES].decode(errors="replace")
            while text and not text.endswith(b"\n"):
                text = file.readline(MAX_ROW_BYTES)
            yield number, BadLine(beginning, f"must be at most {MAX_ROW_BYTES:,} bytes long")
            continue
        text = text.removeprefix(codecs.BOM_UTF8) if number == 1 else text
        if text.strip():
            yield number, _parse_line(text)


def _parse_line(text: bytes) -> dict[str, Any] | BadLine:
    shown = text.decode(errors="replace").strip()
    try:
        values = parse_json(text.decode())
    except ValueError as error:
        return BadLine(shown, f"is not a JSON object: {' '.join(str(error).split())[:200]}")
    return values if isinstance(values, dict) else BadLine(shown, "is not a JSON object")


def limited_lines(file: TextIOBase) -> Iterator[str]:
    """Lines of a CSV file, as its reader takes them.

    Raises:
        csv.Error: one is too long to be a row; where it ends, nobody knows.
    """
    while line := file.readline(MAX_ROW_BYTES + 1):
        if len(line) > MAX_ROW_BYTES:
            raise csv.Error(f"a line must be at most {MAX_ROW_BYTES:,} characters long")
        yield line
