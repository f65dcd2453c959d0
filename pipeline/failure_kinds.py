"""Failures of a run by kind: a million dead letters are a short list."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from actors.redaction import redact
from actors.row import Failure

MOST_KINDS = 500
"""Kinds that are told apart; of further ones nothing is kept but that they are others."""
NUM_TOLD = 10
"""Kinds that others are told of while a run goes on, and when it has ended."""

_REASON_CHARACTERS = 300
_VARIES = re.compile(r"'[^']*'|\"[^\"]*\"|\S*[/\d]\S*")
"""Parts of a reason that differ from row to row: what is quoted, paths and URLs, and whatever holds a digit."""


@dataclass(frozen=True)
class FailureKind:
    """Failures that differ in values alone.

    Attributes:
        stage: where they were noticed: "manifest" or one of `actors.row.STAGES`.
        field: of the request, or "" where none is at fault.
        reason: of the first of them.
        num: how many there are.
    """

    stage: str
    field: str
    reason: str
    num: int


class FailureKinds:
    """Counts failures; may be read while another thread adds."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str, str], FailureKind] = {}

    def add(self, failure: Failure) -> None:
        """Count one more."""
        reason = redact(failure.reason)[:_REASON_CHARACTERS]
        key = failure.stage, failure.field, _VARIES.sub("...", reason)
        kind = self._kinds.get(key)
        if kind is not None:
            self._kinds[key] = replace(kind, num=kind.num + 1)
        elif len(self._kinds) < MOST_KINDS:
            self._kinds[key] = FailureKind(failure.stage, failure.field, reason, 1)

    def most_frequent(self) -> list[FailureKind]:
        """The `NUM_TOLD` kinds with most failures, those first."""
        return sorted(self._kinds.values(), key=lambda kind: -kind.num)[:NUM_TOLD]
