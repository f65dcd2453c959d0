"""A campaign as one HTML page: scenes down, languages across.

The page holds its own style and script and links files by relative paths, so it opens from a disk and from a bucket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

import jinja2

from actors.request import LANGUAGES, Language
from pipeline.gallery import encode_url, format_seconds, require_relative

CellStatus = Literal["done", "failed", "rejected", "waiting"]
STATUSES: tuple[CellStatus, ...] = ("done", "failed", "rejected", "waiting")


@dataclass(frozen=True)
class Cell:
    """One clip of a scene in a language, or why there is none.

    Attributes:
        id: of the clip; the page's fragment.
        status: what became of it.
        line: what is said, or would be.
        seconds: length of the clip.
        video_url: relative to the page; None where it is not done, as the next three.
        poster_url: a picture of it.
        subtitle_urls: format to file.
        size: (width, height) in pixels.
        reason: why there is no clip.
    """

    id: str
    status: CellStatus
    line: str = ""
    seconds: float | None = None
    video_url: str | None = None
    poster_url: str | None = None
    subtitle_urls: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        for url in (self.video_url, self.poster_url, *self.subtitle_urls.values()):
            require_relative(f"URL of clip {self.id}", url)


@dataclass(frozen=True)
class SceneLine:
    """One line of the grid.

    Attributes:
        id: of the scene.
        description: what is seen.
        speaker: who speaks.
        source: what is said in the campaign's source language.
        source_language: that language, "" where the scene has no such line.
        reference_url: a picture of its reference image, relative to the page.
        reason: why all of the scene was rejected, or what of it that has no column.
        cells: language to its clips; several where the line was split.
    """

    id: str
    description: str = ""
    speaker: str = ""
    source: str = ""
    source_language: str = ""
    reference_url: str | None = None
    reason: str = ""
    cells: Mapping[str, Sequence[Cell]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_relative(f"reference of scene {self.id}", self.reference_url)

    @property
    def is_rejected(self) -> bool:
        """Whether nothing of it is to be made."""
        return bool(self.reason) and not any(self.cells.values())


def render_grid(title: str, scenes: Sequence[SceneLine], languages: Sequence[Language]) -> str:
    """Render the page.

    Args:
        title: of the page.
        scenes: in the order they shall appear.
        languages: the columns.

    Returns:
        A complete HTML document, to be stored as UTF-8.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(url=encode_url, seconds=format_seconds, count="{:,}".format)
    template = resources.files("pipeline.localization").joinpath("grid.html.j2").read_text("utf-8")
    counts = Counter(cell.status for scene in scenes for cells in scene.cells.values() for cell in cells)
    counts["rejected"] += sum(scene.is_rejected for scene in scenes)
    return environment.from_string(template).render(
        title=title,
        scenes=scenes,
        languages=[(code, LANGUAGES[code]) for code in languages],
        statuses=[(status, counts[status]) for status in STATUSES if counts[status]],
    )
