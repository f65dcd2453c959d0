"""Evaluation of super-resolution in the small world: fresh clips, enlarged in every way, compared with the truth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from actors.small_world.clips import SmallWorldClip
from actors.small_world.enlarging import Enlarged, Enlarging
from actors.storage import join, write_atomically

FIGURES_NAME = "super_resolution.json"
_WAYS = {
    "super_resolution_db": "super-resolution",
    "bilinear_db": "bilinear, of the decoded small clip",
    "bilinear_render_db": "bilinear, of the large render averaged to the small size",
    "autoencoder_db": "large clip through the autoencoder",
}


@dataclass(frozen=True)
class EnlargingFigures:
    """Of all clips.

    Attributes:
        num_clips: compared.
        mean_db: way of enlarging (the fields of `Enlarged`) to its mean PSNR.
        better_than_bilinear: share of clips in which super-resolution is nearer to the truth than the decoded small
            clip enlarged.
        better_than_bilinear_render: the same against the large render averaged to the small size and enlarged.
    """

    num_clips: int
    mean_db: dict[str, float]
    better_than_bilinear: float
    better_than_bilinear_render: float

    @classmethod
    def of(cls, clips: Sequence[Enlarged]) -> EnlargingFigures:
        """Summarise.

        Raises:
            ValueError: if there are no clips.
        """
        if not clips:
            raise ValueError("clips must not be empty")
        return cls(
            num_clips=len(clips),
            mean_db={way: float(np.mean([getattr(clip, way) for clip in clips])) for way in _WAYS},
            better_than_bilinear=_share(clips, "bilinear_db"),
            better_than_bilinear_render=_share(clips, "bilinear_render_db"),
        )


def _share(clips: Sequence[Enlarged], way: str) -> float:
    return float(np.mean([clip.super_resolution_db > getattr(clip, way) for clip in clips]))


def evaluate_super_resolution(
    enlarging: Enlarging, seed: int, num_clips: int, on_compared: Callable[[int, int], None] = lambda done, total: None
) -> list[Enlarged]:
    """Render clips and enlarge them in every way.

    Args:
        enlarging: the checkpoint.
        seed: of the world; another one than the training data's gives other heads.
        num_clips: how many.
        on_compared: called with how many clips are compared, and how many there are.

    Raises:
        SpeechError: if espeak-ng cannot be run.
    """
    clips = []
    for index in range(num_clips):
        clips.append(enlarging.compare(SmallWorldClip.sample(seed, index)))
        on_compared(len(clips), num_clips)
    return clips


def write_figures(report_url: str, checkpoint_url: str, seed: int, clips: Sequence[Enlarged]) -> None:
    """Write `super_resolution.json`: the figures, and every clip.

    Raises:
        StorageError: the store refuses or is out of reach.
    """
    facts: dict[str, Any] = {"checkpoint": checkpoint_url, "seed": seed, "figures": asdict(EnlargingFigures.of(clips))}
    facts["clips"] = [asdict(clip) for clip in clips]
    data = json.dumps(facts, ensure_ascii=False, indent=1).encode()
    write_atomically(join(report_url, FIGURES_NAME), data, content_type="application/json")


def print_figures(console: Console, clips: Sequence[Enlarged]) -> None:
    """Print a table of mean PSNRs, and how often super-resolution is better."""
    figures = EnlargingFigures.of(clips)
    table = Table(box=None, pad_edge=False)
    table.add_column("against the large render")
    table.add_column("PSNR", justify="right")
    for way, name in _WAYS.items():
        table.add_row(name, f"{figures.mean_db[way]:.2f} dB")
    console.print(table)
    console.print(
        f"{figures.num_clips} clips; super-resolution is better than bilinear in {figures.better_than_bilinear:.1%} "
        f"(decoded) and {figures.better_than_bilinear_render:.1%} (averaged render)",
        highlight=False,
    )
