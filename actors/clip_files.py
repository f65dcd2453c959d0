"""A clip's files in the output, and what their names say; known to who writes them and to who looks at them later."""

from __future__ import annotations

CLIPS_FOLDER = "clips"
RECORD_VERSION = 1
"""Raised when the record's fields change their meaning."""


def clip_name(clip_id: str, suffix: str) -> str:
    """Path of one of a clip's files, relative to the output: `clips/<id>.mp4`, `.jpg` or `.json`."""
    return f"{CLIPS_FOLDER}/{clip_id}.{suffix}"
