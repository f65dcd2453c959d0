"""What a run's clips look like, in one picture: a row of frames for every language."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from PIL import Image, ImageDraw, ImageFont

from actors.clip_files import clip_name
from actors.evaluation.clips import JudgedClip
from actors.media import read_moments
from actors.request import LANGUAGES
from actors.storage import StorageError, join, read_bytes

NUM_MOMENTS = 8
"""Frames of a clip, from its first to its last."""

_FRAME_HEIGHT = 112
_GAP = 4
_LABEL_WIDTH = 148
_FONT_SIZE = 17
_JPEG_QUALITY = 90


def draw_frames(output_url: str, clips: Iterable[JudgedClip]) -> bytes:
    """Put frames of the first clip of every language under each other.

    Clips that cannot be read or decoded are passed over.

    Args:
        output_url: folder of the run.
        clips: of it, judged.

    Returns:
        A JPEG file.
    """
    found: dict[str, list[Image.Image]] = {}
    for clip in clips:
        if clip.language not in found and not clip.problem:
            with suppress(StorageError, ValueError):
                mp4 = read_bytes(join(output_url, clip_name(clip.id, "mp4")))
                found[clip.language] = read_moments(mp4, NUM_MOMENTS, _FRAME_HEIGHT)
    rows = {name: found[language] for language, name in LANGUAGES.items() if language in found}
    buffer = io.BytesIO()
    _sheet(rows).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _sheet(rows: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """Rows with their names in front, every frame in the middle of a cell as wide as the widest."""
    cell = max((picture.width for pictures in rows.values() for picture in pictures), default=0) + _GAP
    sheet = Image.new("RGB", (_LABEL_WIDTH + NUM_MOMENTS * cell, max(1, len(rows)) * (_FRAME_HEIGHT + _GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for number, (name, pictures) in enumerate(rows.items()):
        top = number * (_FRAME_HEIGHT + _GAP)
        draw.text((_GAP, top + _FRAME_HEIGHT // 2), name, "black", font, anchor="lm")
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (_LABEL_WIDTH + column * cell + (cell - picture.width) // 2, top + _GAP // 2))
    return sheet
