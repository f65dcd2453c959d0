"""What an evaluation leaves behind: figures as JSON, Markdown and plot, a table of clips; and what the screen shows."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.evaluation.clips import JudgedClip
from actors.small_world.looks import PALETTES
from actors.storage import join, write_atomically
from pipeline.evaluation import Evaluation
from pipeline.figures import ALL, confusions
from pipeline.figures_plot import draw
from pipeline.frames_sheet import draw_frames

REPORT_FOLDER = "evaluation"
FIGURES_NAME = "figures.json"
MARKDOWN_NAME = "figures.md"
PLOT_NAME = "figures.png"
FRAMES_NAME = "frames.jpg"
CLIPS_NAME = "clips.parquet"

_MOST_CONFUSIONS = 10
_CLIPS_PER_BATCH = 10_000
_NOTHING = "-"
_CLIPS_SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("id", "language", "resolution")],
        *[(name, pa.int32()) for name in ("width", "height")],
        *[(name, pa.float64()) for name in ("asked_s", "video_s", "audio_s")],
        *[(name, pa.bool_()) for name in ("has_image", "is_driven")],
        *[(name, pa.string()) for name in ("asked_text", "asked_word", "word")],
        *[(name, pa.bool_()) for name in ("word_right", "language_right")],
        *[(name, pa.float64()) for name in ("word_distance", "word_margin")],
        ("transcript", pa.string()),
        *[(f"asked_{part}", pa.string()) for part in PALETTES],
        *[(part, pa.string()) for part in PALETTES],
        ("colours_right", pa.bool_()),
        ("mouth_correlation", pa.float64()),
        ("lag_frames", pa.int32()),
        ("problem", pa.string()),
    ]
)


def write_evaluation(report_url: str, evaluation: Evaluation) -> None:
    """Make all five files, and then write them, `figures.json` last.

    Raises:
        StorageError: the store refuses or is out of reach.
    """
    facts = json.dumps(_facts(evaluation), ensure_ascii=False, indent=1)
    files = (
        (CLIPS_NAME, clips_table(evaluation.clips), "application/vnd.apache.parquet"),
        (FRAMES_NAME, draw_frames(evaluation.output_url, evaluation.clips), "image/jpeg"),
        (PLOT_NAME, draw(evaluation.figures), "image/png"),
        (MARKDOWN_NAME, _markdown(evaluation).encode(), "text/markdown; charset=utf-8"),
        (FIGURES_NAME, facts.encode(), "application/json"),
    )
    for name, data, content_type in files:
        write_atomically(join(report_url, name), data, content_type=content_type)


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print the table of figures, what was counted, and the notes."""
    header, *rows = _table(evaluation)
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)
    for line in _lines(evaluation):
        console.print(escape(line), highlight=False, soft_wrap=True)


def clips_table(clips: Sequence[JudgedClip]) -> bytes:
    """A row of every clip as a Parquet file, made in batches: lists of dictionaries fill the memory."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, _CLIPS_SCHEMA) as writer:
        for start in range(0, len(clips), _CLIPS_PER_BATCH):
            rows = [_row(clip) for clip in clips[start : start + _CLIPS_PER_BATCH]]
            writer.write_table(pa.Table.from_pylist(rows, schema=_CLIPS_SCHEMA))
    return buffer.getvalue()


def _row(clip: JudgedClip) -> dict[str, Any]:
    asked, look = clip.asked, clip.asked.look
    row: dict[str, Any] = {name: getattr(clip, name) for name in ("id", "language", "resolution", "width", "height")}
    row |= {name: getattr(clip, name) for name in ("video_s", "audio_s", "word", "word_distance", "word_margin")}
    row |= {f"asked_{part}": getattr(look, part, None) for part in PALETTES}
    row |= {part: clip.colours.get(part) for part in PALETTES}
    return row | {
        "asked_s": asked.seconds,
        "has_image": asked.has_image,
        "is_driven": asked.is_driven,
        "asked_text": asked.text,
        "asked_word": asked.word.name if asked.word else None,
        "word_right": clip.is_word_right,
        "language_right": clip.is_language_right,
        "transcript": clip.transcript,
        "colours_right": clip.are_colours_right,
        "mouth_correlation": clip.correlation,
        "lag_frames": clip.lag_frames,
        "problem": clip.problem or None,
    }


def _facts(evaluation: Evaluation) -> dict[str, Any]:
    unseen_voice = evaluation.unseen_voice
    return {
        "output": evaluation.output_url,
        "num_clips": len(evaluation.clips),
        "num_dead_letters": evaluation.num_dead_letters,
        "problems": {clip.id: clip.problem for clip in evaluation.clips if clip.problem},
        "recogniser": evaluation.recogniser,
        "figures": {language: asdict(figures) for language, figures in evaluation.figures.items()},
        "confused_in_unseen_voice": [list(pair) for pair in unseen_voice.confused] if unseen_voice else [],
        "confused": [list(entry) for entry in confusions(evaluation.clips)] if unseen_voice else [],
        "notes": list(evaluation.notes),
    }


def _table(evaluation: Evaluation) -> list[list[str]]:
    """A row per figure, a column per language; a row without a single figure is left out."""
    figures = list(evaluation.figures.values())
    rows: list[tuple[str, list[str]]] = [
        ("clips", [str(one.num_clips) for one in figures]),
        ("right word", [_percent(one.word_accuracy) for one in figures]),
        ("  unseen voice", [_percent(one.unseen_voice_word_accuracy) for one in figures]),
        ("right language", [_percent(one.language_accuracy) for one in figures]),
        ("WER or CER", [_percent(one.error_rate) for one in figures]),
        ("  of originals", [_percent(one.original_error_rate) for one in figures]),
        ("mouth to sound", [_plain(one.mouth_correlation) for one in figures]),
        ("  mismatched", [_plain(one.mismatched_correlation) for one in figures]),
        ("  same onset", [_plain(one.same_onset_correlation) for one in figures]),
        ("lag in frames", [_plain(one.median_lag_frames, 0) for one in figures]),
        ("in sync", [_percent(one.in_sync) for one in figures]),
        ("picture length", [_percent(one.video_length_right) for one in figures]),
        ("sound length", [_percent(one.audio_length_right) for one in figures]),
        ("colours", [_percent(one.colours_right[ALL]) for one in figures]),
        ("  from an image", [_percent(one.image_colours_right[ALL]) for one in figures]),
    ]
    shown = [[name, *cells] for name, cells in rows if any(cell != _NOTHING for cell in cells)]
    return [["", *evaluation.figures], *shown]


def _percent(share: float | None) -> str:
    return _NOTHING if share is None else f"{share:.1%}"


def _plain(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _lines(evaluation: Evaluation) -> list[str]:
    """What the table cannot hold, in sentences."""
    total = evaluation.figures[ALL]
    heard_by = f"; WER and CER by {evaluation.recogniser}" if evaluation.recogniser else ""
    lines = [
        f"{total.num_clips} clips, {total.num_problems} of them unreadable; {evaluation.num_dead_letters} dead letters"
        + heard_by
    ]
    for what, shares in (("prompt", total.colours_right), ("reference image", total.image_colours_right)):
        if shares[ALL] is not None:
            parts = ", ".join(f"{part} {_percent(shares[part])}" for part in PALETTES)
            lines.append(f"colours where the {what} tells the look: {parts}")
    if num_unseen := sum(not clip.colours and not clip.problem for clip in evaluation.clips):
        lines.append(f"not of a picture size of the small world, so that no frame was decoded: {num_unseen} clips")
    if evaluation.unseen_voice:
        if confused := confusions(evaluation.clips)[:_MOST_CONFUSIONS]:
            lines.append("heard wrongly: " + ", ".join(f"{a} as {h} ({n}x)" for a, h, n in confused))
        mistakes = ", ".join(f"{said} as {heard}" for said, heard in evaluation.unseen_voice.confused) or "none"
        lines.append(f"heard wrongly in a voice of espeak-ng that is not among the references: {mistakes}")
    lines += [f"{clip.id}: {clip.problem}" for clip in evaluation.clips if clip.problem][:_MOST_CONFUSIONS]
    return lines + list(evaluation.notes)


def _markdown(evaluation: Evaluation) -> str:
    header, *rows = _table(evaluation)
    lines = ["# Figures", "", f"Run: `{evaluation.output_url}`", ""]
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *[f"- {line}" for line in _lines(evaluation)], "", f"![Figures by language]({PLOT_NAME})", ""]
    lines += [f"![Frames of a clip of each language]({FRAMES_NAME})", ""]
    return "\n".join(lines)
