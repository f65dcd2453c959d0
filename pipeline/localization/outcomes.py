"""What became of a campaign's clips, read from the output alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from actors.row import Failure
from actors.storage import join, list_names, read_bytes
from pipeline.ledger import DEAD_LETTER_NAME, Ledger
from pipeline.localization.expansion import CampaignClip
from pipeline.manifest import DEAD_LETTER_KEY

Status = Literal["done", "failed", "waiting"]


@dataclass(frozen=True)
class Outcome:
    """One clip and what became of it.

    Attributes:
        clip: that was asked for.
        status: "waiting": not made yet.
        record: of a clip that is done.
        failure: of one that failed.
    """

    clip: CampaignClip
    status: Status
    record: Mapping[str, Any] | None = None
    failure: Failure | None = None


def read_outcomes(clips: Sequence[CampaignClip], output_url: str) -> list[Outcome]:
    """Look into the output of a run.

    A clip that failed counts as failed also where an earlier one of its id is there, made from something else.
    """
    failures = _read_failures(output_url)
    ledger = Ledger(output_url)
    wanted = {clip.request.id for clip in clips} - failures.keys()
    records = {record["id"]: record for record in ledger.records(wanted & ledger.committed_ids())}
    outcomes = []
    for clip in clips:
        failure, record = failures.get(clip.request.id), records.get(clip.request.id)
        status: Status = "failed" if failure else "done" if record else "waiting"
        outcomes.append(Outcome(clip, status, record, failure))
    return outcomes


def _read_failures(output_url: str) -> dict[str, Failure]:
    if DEAD_LETTER_NAME not in list_names(output_url):
        return {}
    failures = {}
    for line in read_bytes(join(output_url, DEAD_LETTER_NAME)).splitlines():
        with suppress(ValueError, KeyError, TypeError):
            letter = json.loads(line)
            reason = letter[DEAD_LETTER_KEY]
            failures[letter["id"]] = Failure(*(reason[name] for name in ("stage", "field", "value", "reason")))
    return failures
