"""Last pool: finished clips go to the output, the record last; whoever sees the record can trust the clip."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import torch

from actors.clip_files import RECORD_VERSION, clip_name
from actors.fingerprint import LaneFingerprint
from actors.media import hash_media, probe
from actors.redaction import redact
from actors.row import OUTPUT, RowError
from actors.stage import Compute, Stage, Work
from actors.storage import StoreUnavailableError, join, remove, write_atomically


class Writing(Stage):
    """Write `<id>.mp4`, `<id>.jpg`, and then the commit marker `<id>.json`.

    Writing the same clip twice is harmless. Takes `mp4` and `poster`; gives `record`, the marker's bytes as uint8.

    Args:
        compute: where it runs.
        output_url: folder of the run.
        fingerprint: of the lane.
        provenance: facts about the run that go into every record.
        overwrites: a marker of an older clip may exist and is removed first, so that it never vouches for new files.
    """

    name = "writing"

    def __init__(
        self,
        compute: Compute,
        output_url: str,
        fingerprint: LaneFingerprint,
        provenance: dict[str, Any],
        overwrites: bool = False,
    ):
        super().__init__(compute)
        self.output_url = output_url
        self.fingerprint = fingerprint
        self.provenance = provenance
        self.overwrites = overwrites

    def process(self, work: Work) -> None:
        """See the class."""
        request = work.request
        mp4, poster = (work.tensors[name].numpy().tobytes() for name in ("mp4", "poster"))
        record = {
            "version": RECORD_VERSION,
            "id": request.id,
            "fingerprint": self.fingerprint.of_clip(request),
            "request": _without_secrets(request.model_dump(mode="json", exclude_none=True)),
            "prompt_text": request.prompt_text(),
            "seed": request.resolved_seed,
            "mp4": {
                "sha256": hashlib.sha256(mp4).hexdigest(),
                "media_sha256": hash_media(mp4),
                "num_bytes": len(mp4),
                **asdict(probe(mp4)),
            },
            "stage_seconds": work.stage_seconds,
            "notes": work.notes,
            "written_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "provenance": self.provenance,
        }
        data = json.dumps(record, ensure_ascii=False, indent=1).encode()
        try:
            self._commit(request.id, mp4, poster, data)
        except StoreUnavailableError as error:
            raise RowError(OUTPUT, self.output_url, str(error)) from error
        work.tensors = {"record": torch.frombuffer(bytearray(data), dtype=torch.uint8)}

    def _commit(self, clip_id: str, mp4: bytes, poster: bytes, data: bytes) -> None:
        if self.overwrites:
            remove(join(self.output_url, clip_name(clip_id, "json")))
        for suffix, content, content_type in (
            ("mp4", mp4, "video/mp4"),
            ("jpg", poster, "image/jpeg"),
            ("json", data, "application/json"),
        ):
            write_atomically(join(self.output_url, clip_name(clip_id, suffix)), content, content_type=content_type)


def _without_secrets(request: dict[str, Any]) -> dict[str, Any]:
    """A presigned URL opens its file to everybody who reads the results."""
    return request | {name: redact(request[name]) for name in ("image", "audio") if name in request}
