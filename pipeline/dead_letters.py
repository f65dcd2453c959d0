"""Rows that became no clip, kept on the disk while a run goes on; the first ones at hand as well."""

from __future__ import annotations

import json
import tempfile
from contextlib import suppress
from typing import Any

from actors.row import Failure
from actors.storage import join, list_names, read_bytes
from pipeline.ledger import DEAD_LETTER_NAME
from pipeline.manifest import DEAD_LETTER_KEY

NUM_AT_HAND = 1000


def read_failures(output_url: str) -> dict[str, Failure]:
    """Ids of the rows that failed in the last run into an output, and why; other lines of the file do not count."""
    if DEAD_LETTER_NAME not in list_names(output_url):
        return {}
    failures = {}
    for line in read_bytes(join(output_url, DEAD_LETTER_NAME)).splitlines():
        with suppress(ValueError, KeyError, TypeError):
            letter = json.loads(line)
            reason = letter[DEAD_LETTER_KEY]
            failures[letter["id"]] = Failure(*(reason[name] for name in ("stage", "field", "value", "reason")))
    return failures


class DeadLetters:
    """Collects rows in manifest form with the reason.

    Attributes:
        first: the first `NUM_AT_HAND` of them.
    """

    def __init__(self) -> None:
        self.first: list[dict[str, Any]] = []
        self._num = 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the run

    def __len__(self) -> int:
        return self._num

    def add(self, letter: dict[str, Any]) -> None:
        """Take a row, see `pipeline.manifest.ManifestRow.dead_letter`."""
        if self._num < NUM_AT_HAND:
            self.first.append(letter)
        self._num += 1
        # Half an emoji has no bytes in UTF-8; written as the escape it was, it stays valid JSON.
        line = json.dumps(letter, ensure_ascii=False, default=str) + "\n"
        self._file.write(line.encode(errors="backslashreplace"))

    def to_jsonl(self) -> bytes:
        """All of them: a manifest, once mended."""
        self._file.seek(0)
        return self._file.read()  # and leaves the file at its end, where the next one goes
