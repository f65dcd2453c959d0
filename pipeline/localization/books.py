"""What a campaign leaves beside its clips: subtitles, the table of scenes, pictures of references and the page."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from actors.clip_files import clip_name
from actors.pictures import read_image
from actors.redaction import redact
from actors.request import Language
from actors.storage import join, read_bytes, write_atomically
from pipeline.localization.campaign import CampaignRow
from pipeline.localization.expansion import Expansion, Rejection
from pipeline.localization.grid import Cell, SceneLine, render_grid
from pipeline.localization.outcomes import Outcome
from pipeline.localization.subtitles import subtitles

SCENES_NAME = "scenes.parquet"
REJECTED_NAME = "rejected.jsonl"
PAGE_NAME = "campaign.html"
REFERENCES_FOLDER = "references"

_PICTURE_SIDE = 360
"""Pixels of the longer side of a reference on the page."""
_WRITERS = 16
_CONTENT_TYPES = {"vtt": "text/vtt; charset=utf-8", "srt": "application/x-subrip"}
_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("scene", "language")),
        ("part", pa.int32()),
        *((name, pa.string()) for name in ("clip", "status", "line", "resolution", "aspect")),
        ("seconds", pa.float64()),
        *((name, pa.string()) for name in ("mp4", "poster", "vtt", "srt", "stage", "field", "reason")),
    ]
)


def write_rejections(rejections: Iterable[Rejection], output_url: str) -> None:
    """Write `rejected.jsonl`: what of the campaign became no clip, and what to change."""
    lines = [
        {
            "row": rejection.row,
            "scene": rejection.scene,
            "language": rejection.language or None,
            "field": rejection.failure.field,
            "value": rejection.failure.value,
            "reason": rejection.failure.reason,
        }
        for rejection in rejections
    ]
    data = "".join(json.dumps(line, ensure_ascii=False, default=str) + "\n" for line in lines)
    write_atomically(join(output_url, REJECTED_NAME), data.encode(errors="replace"), "application/x-ndjson")


def write_books(
    title: str,
    rows: Sequence[CampaignRow],
    expansion: Expansion,
    outcomes: Sequence[Outcome],
    languages: Sequence[Language],
    output_url: str,
) -> str:
    """Write subtitles, `scenes.parquet`, pictures of the references and `campaign.html`.

    Args:
        title: of the page.
        rows: the campaign.
        expansion: what was asked for.
        outcomes: what became of it.
        languages: columns of the page; the first that a scene has a line in is its source, English before others.
        output_url: folder of the results.

    Returns:
        URL of the page.
    """
    done = [outcome for outcome in outcomes if outcome.record is not None]
    images = {clip.scene: clip.request.image for clip in expansion.clips if clip.request.image is not None}
    with ThreadPoolExecutor(_WRITERS) as pool:
        for _ in pool.map(lambda outcome: _write_subtitles(outcome, output_url), done):
            pass
        written = pool.map(lambda item: _write_picture(item[0], item[1], output_url), images.items())
        pictures = dict(zip(images, written, strict=True))
    table = pa.Table.from_pylist(list(_table_rows(outcomes, expansion.rejections)), schema=_SCHEMA)
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    write_atomically(join(output_url, SCENES_NAME), buffer.getvalue())
    page = render_grid(title, list(_scene_lines(rows, expansion, outcomes, languages, pictures)), languages)
    url = join(output_url, PAGE_NAME)
    write_atomically(url, page.encode(errors="replace"), "text/html; charset=utf-8")
    return url


def _write_subtitles(outcome: Outcome, output_url: str) -> None:
    request = outcome.clip.request
    assert outcome.record is not None
    for suffix, text in subtitles(outcome.clip.line, request.language, outcome.record["mp4"]["video_s"]).items():
        url = join(output_url, clip_name(request.id, suffix))
        write_atomically(url, text.encode(), _CONTENT_TYPES[suffix])


def _write_picture(scene: str, image_url: str, output_url: str) -> str | None:
    """Write a small copy of a scene's reference; None where it is no picture, which its clips tell of."""
    try:
        picture = read_image(read_bytes(image_url))
    except (ValueError, OSError):
        return None
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    name = f"{REFERENCES_FOLDER}/{scene}.jpg"
    write_atomically(join(output_url, name), buffer.getvalue(), "image/jpeg")
    return name


def _table_rows(outcomes: Iterable[Outcome], rejections: Iterable[Rejection]) -> Iterator[dict[str, Any]]:
    for outcome in outcomes:
        request, failure = outcome.clip.request, outcome.failure
        row: dict[str, Any] = {"scene": outcome.clip.scene, "language": request.language, "part": outcome.clip.part}
        row |= {"clip": request.id, "status": outcome.status, "line": outcome.clip.line}
        row |= {"resolution": request.resolution, "aspect": request.aspect, "seconds": request.seconds}
        if outcome.record is not None:
            row |= {"seconds": outcome.record["mp4"]["video_s"], "poster": clip_name(request.id, "jpg")}
            row |= {suffix: clip_name(request.id, suffix) for suffix in ("mp4", "vtt", "srt")}
        if failure is not None:
            row |= {"stage": failure.stage, "field": failure.field, "reason": failure.reason}
        yield row
    for rejection in rejections:
        row = {"scene": rejection.scene, "language": rejection.language or None, "status": "rejected"}
        row |= {"stage": rejection.failure.stage, "field": rejection.failure.field, "reason": rejection.failure.reason}
        yield row | {"line": _text(rejection.failure.value)}


def _scene_lines(
    rows: Sequence[CampaignRow],
    expansion: Expansion,
    outcomes: Sequence[Outcome],
    languages: Sequence[Language],
    pictures: dict[str, str | None],
) -> Iterator[SceneLine]:
    of_scene: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        of_scene.setdefault(outcome.clip.scene, []).append(outcome)
    rejected: dict[int, list[Rejection]] = {}
    for rejection in expansion.rejections:
        rejected.setdefault(rejection.row, []).append(rejection)
    for row in rows:
        refused = {rejection.language: rejection for rejection in rejected.get(row.row, [])}
        scene, whole = row.scene, refused.get("")
        cells: dict[str, list[Cell]] = {language: [] for language in languages}
        for outcome in of_scene.get(row.id, []) if whole is None else []:
            cells[outcome.clip.request.language].append(_cell(outcome))
        for language, rejection in refused.items():
            if language in cells:
                cells[language].append(_rejected_cell(rejection))
        source = next((name for name in ("en", *languages) if scene and isinstance(scene.line.get(name), str)), "")
        yield SceneLine(
            id=row.id,
            description=scene.scene if scene else "",
            speaker=scene.speaker if scene else "",
            source=scene.line[source] if scene and source else "",
            source_language=source,
            reference_url=pictures.get(row.id) if whole is None else None,
            reason="; ".join(_told(refused[name]) for name in refused if name not in cells),
            cells=cells,
        )


def _cell(outcome: Outcome) -> Cell:
    request, record = outcome.clip.request, outcome.record
    failure = f"{outcome.failure.stage}: {outcome.failure.reason}" if outcome.failure else ""
    if record is None:
        return Cell(request.id, outcome.status, outcome.clip.line, reason=redact(failure))
    mp4 = record["mp4"]
    return Cell(
        id=request.id,
        status=outcome.status,
        line=outcome.clip.line,
        seconds=mp4["video_s"],
        video_url=clip_name(request.id, "mp4"),
        poster_url=clip_name(request.id, "jpg"),
        subtitle_urls={suffix: clip_name(request.id, suffix) for suffix in ("vtt", "srt")},
        size=(mp4["width"], mp4["height"]),
    )


def _rejected_cell(rejection: Rejection) -> Cell:
    name = f"{rejection.scene}.{rejection.language}"
    return Cell(name, "rejected", _text(rejection.failure.value) or "", reason=_told(rejection))


def _told(rejection: Rejection) -> str:
    return f"{rejection.failure.field} {rejection.failure.reason}"


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else str(value)[:300]
