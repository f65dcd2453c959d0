"""What an evaluation leaves behind: figures as JSON, Markdown and plot, a table of clips; and what the screen shows."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.evaluation.clips import JudgedClip
from actors.request import LANGUAGES
from actors.small_world.looks import PALETTES
from actors.storage import join, write_atomically
from pipeline.evaluation import Evaluation
from pipeline.figures import ALL, confusions
from pipeline.figures_plot import draw

REPORT_FOLDER = "evaluation"
FIGURES_NAME = "figures.json"
MARKDOWN_NAME = "figures.md"
PLOT_NAME = "figures.png"
CLIPS_NAME = "clips.parquet"

_MOST_CONFUSIONS = 10
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
    """Write the four files, `figures.json` last.

    Raises:
        StorageError: the store refuses or is out of reach.
    """
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([_row(clip) for clip in evaluation.clips], schema=_CLIPS_SCHEMA), buffer)
    facts = json.dumps(_facts(evaluation), ensure_ascii=False, indent=1)
    for name, data, content_type in (
        (CLIPS_NAME, buffer.getvalue(), "application/vnd.apache.parquet"),
        (PLOT_NAME, draw(evaluation.figures), "image/png"),
        (MARKDOWN_NAME, _markdown(evaluation).encode(), "text/markdown; charset=utf-8"),
        (FIGURES_NAME, facts.encode(), "application/json"),
    ):
        write_atomically(join(report_url, name), data, content_type=content_type)


def print_evaluation(console: Console, evaluation: Evaluation) -> None:
    """Print the table of figures, what was counted, and the notes."""
    header, *rows = _table(evaluation)
    table = Table(box=None, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in _lines(evaluation):
        console.print(escape(line), highlight=False, soft_wrap=True)


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
    ceiling = evaluation.ceiling
    return {
        "output": evaluation.output_url,
        "num_clips": len(evaluation.clips),
        "num_dead_letters": evaluation.num_dead_letters,
        "problems": {clip.id: clip.problem for clip in evaluation.clips if clip.problem},
        "recogniser": evaluation.recogniser,
        "figures": {language: asdict(figures) for language, figures in evaluation.figures.items()},
        "confused_in_truth": [list(pair) for pair in ceiling.confused] if ceiling else [],
        "confused": [list(entry) for entry in confusions(evaluation.clips)] if ceiling else [],
        "notes": list(evaluation.notes),
    }


def _table(evaluation: Evaluation) -> list[list[str]]:
    """Header and rows; a column without a single figure is left out."""
    rate = f"{evaluation.recogniser} WER/CER"
    columns: list[tuple[str, Any]] = [
        ("clips", lambda figures: str(figures.num_clips)),
        ("word", lambda figures: _percent(figures.word_accuracy)),
        ("(truth)", lambda figures: _percent(figures.word_ceiling)),
        ("language", lambda figures: _percent(figures.language_accuracy)),
        (rate, lambda figures: _percent(figures.error_rate)),
        ("(originals)", lambda figures: _percent(figures.original_error_rate)),
        ("mouth", lambda figures: _plain(figures.mouth_correlation)),
        ("mismatched", lambda figures: _plain(figures.mismatched_correlation)),
        ("lag", lambda figures: _plain(figures.median_lag_frames, 0)),
        ("in sync", lambda figures: _percent(figures.in_sync)),
        ("picture length", lambda figures: _percent(figures.video_length_right)),
        ("sound length", lambda figures: _percent(figures.audio_length_right)),
        ("colours", lambda figures: _percent(figures.colours_right[ALL])),
        ("from image", lambda figures: _percent(figures.image_colours_right[ALL])),
    ]
    shown = [column for column in columns if any(column[1](one) != _NOTHING for one in evaluation.figures.values())]
    rows = [["language", *[name for name, _ in shown]]]
    for key, figures in evaluation.figures.items():
        rows.append([LANGUAGES.get(key, key), *[cell(figures) for _, cell in shown]])
    return rows


def _percent(share: float | None) -> str:
    return _NOTHING if share is None else f"{share:.1%}"


def _plain(value: float | None, digits: int = 2) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _lines(evaluation: Evaluation) -> list[str]:
    """What the table cannot hold, in sentences."""
    total = evaluation.figures[ALL]
    lines = [
        f"{total.num_clips} clips, {total.num_problems} of them unreadable; {evaluation.num_dead_letters} dead letters"
    ]
    for what, shares in (("prompt", total.colours_right), ("reference image", total.image_colours_right)):
        if shares[ALL] is not None:
            parts = ", ".join(f"{part} {_percent(shares[part])}" for part in PALETTES)
            lines.append(f"colours where the {what} tells the look: {parts}")
    if evaluation.ceiling:
        if confused := confusions(evaluation.clips)[:_MOST_CONFUSIONS]:
            lines.append("heard wrongly: " + ", ".join(f"{a} as {h} ({n}x)" for a, h, n in confused))
        in_truth = ", ".join(f"{said} as {heard}" for said, heard in evaluation.ceiling.confused) or "none"
        lines.append(f"confused in espeak-ng's own words, by other voices: {in_truth}")
    lines += [f"{clip.id}: {clip.problem}" for clip in evaluation.clips if clip.problem][:_MOST_CONFUSIONS]
    return lines + list(evaluation.notes)


def _markdown(evaluation: Evaluation) -> str:
    header, *rows = _table(evaluation)
    lines = ["# Figures", "", f"Run: `{evaluation.output_url}`", ""]
    lines += [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", *[f"- {line}" for line in _lines(evaluation)], "", f"![Figures by language]({PLOT_NAME})", ""]
    return "\n".join(lines)
