"""What became of a campaign's clips, read from the output alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from actors.row import Failure
from pipeline.dead_letters import read_failures
from pipeline.ledger import Ledger
from pipeline.localization.expansion import CampaignClip

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
    failures = read_failures(output_url)
    ledger = Ledger(output_url)
    wanted = {clip.request.id for clip in clips} - failures.keys()
    records = {record["id"]: record for record in ledger.records(wanted & ledger.committed_ids())}
    outcomes = []
    for clip in clips:
        failure, record = failures.get(clip.request.id), records.get(clip.request.id)
        status: Status = "failed" if failure else "done" if record else "waiting"
        outcomes.append(Outcome(clip, status, record, failure))
    return outcomes
