"""A manifest as long as wanted, and what an earlier run over the first of its rows has left, as if it had been killed.

Prompts are written out at the length of `examples/release.jsonl`; fingerprints, records and tables are made by the
project's own code, so that the next run finds its clips done. MP4s and posters are names alone, all for one empty file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from actors.checkpoint_source import open_checkpoint
from actors.clip_files import CLIPS_FOLDER, RECORD_VERSION
from actors.request import LANGUAGES, ClipRequest
from model.capabilities import read_capabilities
from model.layout import find_layout
from pipeline.lane import Lanes
from pipeline.ledger import Ledger
from pipeline.settings import Settings

_PEOPLE = ("woman in her early thirties", "man of about fifty", "student of twenty", "grandmother", "tall young man")
_PLACES = ("a tea house in Hangzhou", "a busy canteen", "a quiet library", "a workshop full of tools", "a harbour")
_LIGHTS = ("Soft daylight from the left", "Warm lamps", "A grey morning sky", "Neon signs behind a window")
_LINKS_PER_FILE = 50_000
"""An ext4 file has 65,000 names at most."""


def write_manifest(path: Path, num_rows: int) -> None:
    """Write JSONL of rows that a small checkpoint can make."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            file.write(json.dumps(_row(number), ensure_ascii=False) + "\n")


def write_earlier_run(output: Path, manifest: Path, checkpoint: Path, num_done: int) -> None:
    """Write clips, commit markers and parts of the results' table for the first rows of a manifest."""
    files = open_checkpoint(str(checkpoint))
    layout = find_layout(files)
    lanes = Lanes(files, layout, Settings(), read_capabilities(files, layout))
    lane = lanes.fingerprint("256p", has_image=False)
    ledger, clips = Ledger(str(output)), output / CLIPS_FOLDER
    clips.mkdir(parents=True)
    for number, request in enumerate(_requests(manifest, num_done)):
        record = _record(request, lane.of_clip(request))
        for suffix in ("mp4", "jpg"):
            target = output / f"{number // _LINKS_PER_FILE}.{suffix}"
            if number % _LINKS_PER_FILE == 0:
                target.touch()
            os.link(target, clips / f"{request.id}.{suffix}")
        (clips / f"{request.id}.json").write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
        ledger.add(record)


def _requests(manifest: Path, num_rows: int) -> Iterator[ClipRequest]:
    with manifest.open(encoding="utf-8") as file:
        for _ in range(num_rows):
            yield ClipRequest.model_validate_json(next(file))


def _row(number: int) -> dict[str, Any]:
    languages = list(LANGUAGES)
    person, place, light = (words[number % len(words)] for words in (_PEOPLE, _PLACES, _LIGHTS))
    description = (
        f"A {person} stands in {place}, take {number}. {light} falls across the face. Medium close-up at eye level, "
        "locked camera, shallow depth of field. The speaker looks straight into the lens, smiles warmly and speaks at "
        "an unhurried pace, with a small welcoming nod at the end. Speech starts after a short pause."
    )
    language = languages[number % len(languages)]
    line = {"speaker": "Speaker", "language": language, "line": f"Good morning, and welcome to number {number}."}
    return {
        "id": f"scene-{number // 7:07}.{language}.{number}",
        "language": language,
        "prompt": {"description": description, "dialogue": [line], "background_sound": "Quiet chatter, steps"},
        "seconds": 1.4,
        "resolution": "256p",
        "aspect": "16:9",
        "metadata": {"campaign": "scale", "batch": number // 1000},
    }


def _record(request: ClipRequest, fingerprint: str) -> Mapping[str, Any]:
    stages = ("conditioning", "base_generation", "decoding")
    return {
        "version": RECORD_VERSION,
        "id": request.id,
        "fingerprint": fingerprint,
        "request": request.model_dump(mode="json", exclude_none=True),
        "prompt_text": request.prompt_text(),
        "seed": request.resolved_seed,
        "mp4": {
            "sha256": "0" * 64,
            "media_sha256": "0" * 64,
            "num_bytes": 30_000,
            "width": 96,
            "height": 64,
            "num_frames": 35,
            "video_s": 1.4,
            "audio_s": 1.4,
        },
        "stage_seconds": dict.fromkeys(stages, 0.5),
        "notes": [],
        "written_at": "2026-01-01T00:00:00+00:00",
        "provenance": {},
    }
