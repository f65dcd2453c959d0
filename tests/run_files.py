"""Outputs as runs leave them: lock, books and commit markers, written by hand."""

import json
import os
import time
from pathlib import Path

from actors.storage import join, write_atomically

PROGRESS = {
    "num_rows": 20,
    "num_skipped": 4,
    "num_done": 6,
    "num_failed": 3,
    "clips_per_minute": 2.0,
    "lane": "distill/256p",
    "lanes": {
        "distill/256p": {"num_clips": 10, "num_done": 6, "num_failed": 1},
        "distill/540p": {"num_clips": 4, "num_done": 0, "num_failed": 0},
    },
    "in_flight": {"decoding": 2},
    "failures": [
        {"stage": "manifest", "field": "language", "reason": "must be one of 'zh' or 'de'", "num": 2},
        {"stage": "decoding", "field": "", "reason": "no luck", "num": 1},
    ],
}
TOTALS = {**{k: v for k, v in PROGRESS.items() if k != "num_failed"}, "num_dead_lettered": 3}


def write_lock(output: str, age_s: float = 0.0, progress=PROGRESS, run_id: str = "r1") -> None:
    """A lock of a run on another machine, which wrote it some time ago (local outputs)."""
    times = {"started_at": "2026-01-02T03:00:00+00:00", "heartbeat_at": "2026-01-02T03:10:00+00:00"}
    facts = {"run_id": run_id, "host": "gpu-7", "pid": 42, "stale_s": 120.0, "progress": progress, **times}
    write_atomically(join(output, "run.lock"), json.dumps(facts).encode())
    if age_s:
        os.utime(Path(output) / "run.lock", (time.time() - age_s,) * 2)


def write_run(output: str, state: str, run_id: str = "r1", **more) -> None:
    times = {"started_at": "2026-01-02T03:00:00+00:00", "finished_at": "2026-01-02T03:20:00+00:00"}
    facts = {"run_id": run_id, "state": state, "manifest": "s3://in/m.jsonl", "totals": TOTALS, **times, **more}
    write_atomically(join(output, "run.json"), json.dumps(facts).encode())


def write_marker(output: str, clip_id: str, language: str = "de", written_at: str = "2026-01-02T03:15:00+00:00"):
    mp4 = {"width": 448, "height": 256, "num_frames": 50, "video_s": 2.0, "audio_s": 2.0, "sha256": "", "num_bytes": 9}
    record = {
        "id": clip_id,
        "version": 1,
        "request": {"id": clip_id, "language": language, "resolution": "256p", "aspect": "16:9"},
        "mp4": mp4,
        "seed": 1,
        "fingerprint": "f",
        "prompt_text": "x",
        "stage_seconds": {},
        "notes": [],
        "written_at": written_at,
    }
    write_atomically(join(output, "clips", f"{clip_id}.json"), json.dumps(record).encode())
