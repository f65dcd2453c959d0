"""The run as one HTML page: every clip to watch, every dead letter with its reason.

The page holds its own style and script and links clips by relative paths, so it opens from a disk and from a bucket.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from typing import Any, Literal
from urllib.parse import quote

import jinja2

from actors.request import LANGUAGES, DialogueLine
from actors.row import STAGES, Failure
from pipeline.durations import format_duration

MAX_CARDS = 1000
"""Cards on one page; with more, a browser takes seconds to lay it out. The rest stands in `results.parquet`."""

RESULTS_URL = "results.parquet"

_STAGE_LABELS = {
    "conditioning": "conditioning",
    "base_generation": "base",
    "super_resolution": "super-resolution",
    "decoding": "decoding",
    "writing": "writing",
}


@dataclass(frozen=True)
class RunFacts:
    """What stands above the clips.

    Attributes:
        title: of the page.
        started: ISO 8601 time.
        finished: ISO 8601 time; None while the run goes on, or where it was interrupted.
        mode: "base" or "distill".
        checkpoint: where the weights came from.
        num_done: clips made by this run.
        num_dead_lettered: rows that became no clip.
        num_skipped: clips an earlier run had made already.
        clips_per_minute: throughput of this run.
        wall_s: its duration.
        versions: name of a program or library to its version.
        settings_url: the run's settings, relative to the page.
        dead_letter_url: its dead letters, relative to the page; None where there are none.
    """

    title: str
    started: str
    finished: str | None
    mode: str
    checkpoint: str
    num_done: int
    num_dead_lettered: int
    num_skipped: int
    clips_per_minute: float
    wall_s: float
    versions: Mapping[str, str] = field(default_factory=dict)
    settings_url: str = "run.json"
    dead_letter_url: str | None = "dead_letter.jsonl"

    def __post_init__(self) -> None:
        require_relative("settings_url", self.settings_url)
        require_relative("dead_letter_url", self.dead_letter_url)


@dataclass(frozen=True)
class ClipCard:
    """One clip, or one row that became none. What a broken row does not tell stays at its default.

    Attributes:
        id: the row's id.
        status: "done" or "dead_lettered".
        language: BCP 47 code, "" where unknown.
        language_label: its name; taken from the code where empty.
        prompt: composed text or description.
        dialogue: what is said; a line without a language of its own is in the clip's.
        width: in pixels.
        height: in pixels.
        resolution: label, such as "540p".
        aspect: label, such as "16:9".
        seconds: length.
        seed: of the clip.
        stage_seconds: stage to seconds it took.
        video_url: the MP4, relative to the page; None for a dead letter.
        poster_url: a picture of it, likewise.
        failure: why there is no clip; None for a finished one.
    """

    id: str
    status: Literal["done", "dead_lettered"]
    language: str = ""
    language_label: str = ""
    prompt: str = ""
    dialogue: Sequence[DialogueLine] = ()
    width: int | None = None
    height: int | None = None
    resolution: str = ""
    aspect: str = ""
    seconds: float | None = None
    seed: int | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    video_url: str | None = None
    poster_url: str | None = None
    failure: Failure | None = None

    def __post_init__(self) -> None:
        if self.status not in ("done", "dead_lettered"):
            raise ValueError(f"status of clip {self.id} must be 'done' or 'dead_lettered', got {self.status!r}")
        if self.status == "done" and not (self.video_url and self.width and self.height):
            raise ValueError(f"clip {self.id} is done, so video_url, width and height must be given")
        if (self.status == "dead_lettered") != (self.failure is not None):
            raise ValueError(f"failure of clip {self.id} must be given if and only if it is dead-lettered")
        require_relative("video_url", self.video_url)
        require_relative("poster_url", self.poster_url)

    @property
    def language_name(self) -> str:
        """Name of the language for people."""
        return self.language_label or LANGUAGES.get(self.language, self.language)

    @property
    def shape(self) -> str:
        """How a card is laid out: "wide", "square" or "tall"."""
        if self.failure or not self.width or not self.height or self.width > self.height:
            return "wide"
        return "square" if self.width == self.height else "tall"

    @property
    def stages(self) -> list[tuple[str, str, float]]:
        """(stage, label, seconds) in the pipeline's order."""
        known = [name for name in STAGES if name in self.stage_seconds]
        others = [name for name in self.stage_seconds if name not in STAGES]
        return [(name, _STAGE_LABELS.get(name, name), self.stage_seconds[name]) for name in known + others]


def render_gallery(
    run: RunFacts, clips: Sequence[ClipCard], num_clips: int | None = None, max_cards: int = MAX_CARDS
) -> str:
    """Render the page.

    Args:
        run: facts of the run.
        clips: finished clips and dead letters, in the order they shall appear.
        num_clips: how many there are in all, where these are the first of them.
        max_cards: at most so many of them are shown; a line on the page tells of the others.

    Returns:
        A complete HTML document, to be stored as UTF-8.

    Raises:
        ValueError: if `max_cards` is below 1, or a time of `run` is not ISO 8601.
    """
    if max_cards < 1:
        raise ValueError(f"max_cards must be at least 1, got {max_cards}")
    shown = clips[:max_cards]
    template = _environment().from_string(resources.files("pipeline").joinpath("gallery.html.j2").read_text("utf-8"))
    return template.render(
        run=run,
        cards=list(zip(_anchors(shown), shown, strict=True)),
        num_clips=len(clips) if num_clips is None else num_clips,
        languages=_languages(shown),
        num_shown_dead=sum(clip.status == "dead_lettered" for clip in shown),
        results_url=RESULTS_URL,
    )


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(url=encode_url, duration=format_duration, time=format_time, count="{:,}".format)
    environment.filters["seconds"] = format_seconds
    environment.filters["value"] = _format_value
    return environment


def _anchors(clips: Iterable[ClipCard]) -> list[str]:
    """One fragment per card: its id, and a number behind it where a dead letter repeats another row's id."""
    seen: Counter[str] = Counter()
    anchors = []
    for clip in clips:
        name = clip.id or "row"
        seen[name] += 1
        anchors.append(name if seen[name] == 1 else f"{name}~{seen[name]}")
    return anchors


def _languages(clips: Iterable[ClipCard]) -> list[tuple[str, str, int]]:
    """(code, name, number of cards), in the order of the model's languages, others behind."""
    names = {clip.language: clip.language_name for clip in clips if clip.language}
    counts = Counter(clip.language for clip in clips)
    order = [code for code in LANGUAGES if code in names] + sorted(set(names) - set(LANGUAGES))
    return [(code, names[code], counts[code]) for code in order]


def require_relative(name: str, url: str | None) -> None:
    """Refuse a link of a page that leads away from where the page lies.

    Raises:
        ValueError: `url` is absolute.
    """
    if url is not None and (url.startswith("/") or "://" in url):
        raise ValueError(f"{name} must be a path relative to the page, got {url!r}")


def encode_url(path: str) -> str:
    """Percent-encode a relative path; a colon too, so that nothing in it can pass for a scheme."""
    return quote(path, safe="/")


def format_time(time: str) -> str:
    """ISO 8601 to "23 Nov 2026, 01:28 UTC"; a time without a zone is taken for UTC.

    Raises:
        ValueError: if it is not ISO 8601.
    """
    moment = datetime.fromisoformat(time)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"


def format_seconds(seconds: float) -> str:
    """Seconds with three significant digits or so: "0.04 s", "1.62 s", "38.4 s", "120 s"."""
    num_decimals = 2 if seconds < 10 else 1 if seconds < 100 else 0
    return f"{seconds:.{num_decimals}f} s"


def _format_value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 300 else f"{text[:300]}…"
