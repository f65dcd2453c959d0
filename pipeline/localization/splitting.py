"""Lines cut at the ends of sentences."""

from __future__ import annotations

import re
from collections.abc import Callable

_END = re.compile(r"[.!?…]+[\"'”’»)]*(?=\s)|[。！？]+[」』”’）]*")


def split_line(line: str, seconds: Callable[[str], float], max_seconds: float) -> list[str]:
    """Parts of a line: as few as hold its sentences in turn, where each fits.

    A sentence that does not fit is a part of its own, for whoever asked to refuse.

    Args:
        line: what is said.
        seconds: how long a part takes.
        max_seconds: how long it may take.
    """
    ends = [found.end() for found in _END.finditer(line)] + [len(line)]
    parts, start, end = [], 0, 0
    for next_end in ends:
        if line[start:end].strip() and seconds(line[start:next_end].strip()) > max_seconds:
            parts.append(line[start:end].strip())
            start = end
        end = next_end
    parts.append(line[start:end].strip())
    # A mark at the very end leaves nothing behind it.
    return [part for part in parts if part]
