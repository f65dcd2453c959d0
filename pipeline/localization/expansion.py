"""Scenes become clips, one per language; what cannot is rejected with what to change."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from pydantic import ValidationError

from actors.redaction import redact
from actors.references import AllowedReferences
from actors.request import LANGUAGES, ClipRequest, Language, describe_validation_error
from actors.row import Failure
from pipeline.images import find_image
from pipeline.localization.campaign import MAX_SECONDS, MIN_SECONDS, CampaignRow, Scene
from pipeline.localization.scripts import require_sayable
from pipeline.localization.speaking import speaking_seconds
from pipeline.localization.splitting import split_line

FULL_DESCRIPTION_WORDS = 150
"""From here to 200 words the release's own prompts are, whose form the model was trained on."""


@dataclass(frozen=True)
class CampaignClip:
    """One clip to make.

    Attributes:
        scene: id of the scene.
        part: its number from 1 where a line is split, else None.
        line: what is said in it, as written.
        request: a manifest's row.
    """

    scene: str
    part: int | None
    line: str
    request: ClipRequest


@dataclass(frozen=True)
class Rejection:
    """What becomes no clip.

    Attributes:
        row: of the campaign, see `CampaignRow`.
        scene: id of the scene, as far as it can be told.
        language: code as written; "" where the whole scene is rejected.
        failure: why.
    """

    row: int
    scene: str
    language: str
    failure: Failure


@dataclass
class Expansion:
    """A campaign as clips.

    Attributes:
        clips: scene by scene, languages in the order they are asked for.
        rejections: what becomes none.
        notes: what is made, but perhaps not as meant; a line each.
    """

    clips: list[CampaignClip] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def languages_of(rows: Iterable[CampaignRow]) -> list[Language]:
    """Those that any scene has a line in, in the order of `LANGUAGES`."""
    found = {language for row in rows if row.scene for language in row.scene.line}
    return [cast(Language, language) for language in LANGUAGES if language in found]


def expand(
    rows: Sequence[CampaignRow],
    languages: Sequence[Language],
    references: AllowedReferences,
    folder_url: str,
    exists: Callable[[str], bool],
    may_split: bool = False,
) -> Expansion:
    """Ask for a clip per scene and language.

    All clips of a scene have one seed, drawn from its id, so that languages differ in what is said alone.

    Args:
        rows: the campaign.
        languages: those asked for; a scene without a line in one is told of.
        references: where images may lie.
        folder_url: of the campaign, where relative paths start.
        exists: whether an image is there.
        may_split: cut lines that are too long at the ends of sentences.
    """
    expansion = Expansion()
    for row in rows:
        if row.scene is None:
            assert row.failure is not None
            expansion.rejections.append(Rejection(row.row, row.id, "", row.failure))
            continue
        try:
            image = _image(row.scene, references, folder_url, exists)
        except _RejectedError as error:
            expansion.rejections.append(Rejection(row.row, row.id, "", error.failure))
            continue
        if (num_words := len(row.scene.scene.split())) < FULL_DESCRIPTION_WORDS:
            tuned_on = f"the model was tuned on {FULL_DESCRIPTION_WORDS} to 200"
            expansion.notes.append(f"scene {row.id}: its description has {num_words} words; {tuned_on}")
        _expand_scene(expansion, row, image, languages, may_split)
    return expansion


def _expand_scene(
    expansion: Expansion, row: CampaignRow, image: str | None, languages: Sequence[Language], may_split: bool
) -> None:
    scene = row.scene
    assert scene is not None
    for language in (language for language in scene.line if language not in LANGUAGES):
        reason = f"is no language of the model: {', '.join(LANGUAGES)}"
        expansion.rejections.append(
            Rejection(
                row.row, scene.id, language, Failure("campaign", f"line.{language}", scene.line[language], reason)
            )
        )
    for language in languages:
        try:
            clips = list(_clips(scene, language, image, may_split))
        except _RejectedError as error:
            expansion.rejections.append(Rejection(row.row, scene.id, language, error.failure))
            continue
        expansion.clips += clips
        for clip in clips:
            needed_s = speaking_seconds(clip.line, language)
            if scene.seconds is not None and needed_s > scene.seconds:
                expansion.notes.append(
                    f"clip {clip.request.id}: its line takes about {needed_s:.1f} s, seconds is {scene.seconds:g}"
                )


class _RejectedError(Exception):
    """A part of the campaign becomes no clip."""

    def __init__(self, field_name: str, value: Any, reason: str):
        super().__init__(reason)
        self.failure = Failure("campaign", field_name, value, reason)


def _image(scene: Scene, references: AllowedReferences, folder_url: str, exists: Callable[[str], bool]) -> str | None:
    if scene.image is None:
        return None
    try:
        return find_image(scene.image, references, folder_url, exists)
    except ValueError as error:
        raise _RejectedError("image", redact(scene.image), str(error)) from error


def _clips(scene: Scene, language: Language, image: str | None, may_split: bool) -> Iterator[CampaignClip]:
    name = f"line.{language}"
    line = scene.line.get(language)
    if line is None:
        raise _RejectedError(name, None, f"is missing: write it, or leave {language} out")
    if not isinstance(line, str):
        raise _RejectedError(name, line, "must be text")
    line = line.strip()
    try:
        require_sayable(line, language)
        parts = _parts(line, scene, language, may_split)
    except ValueError as error:
        raise _RejectedError(name, line, str(error)) from error
    for number, part in enumerate(parts, 1):
        suffix = f".{number}" if len(parts) > 1 else ""
        seconds = scene.seconds or min(MAX_SECONDS, max(MIN_SECONDS, speaking_seconds(part, language)))
        try:
            request = _request(scene, language, image, part, seconds, suffix)
        except ValidationError as error:
            raise _RejectedError(*describe_validation_error(error)) from error
        yield CampaignClip(scene.id, number if suffix else None, part, request)


def _parts(line: str, scene: Scene, language: Language, may_split: bool) -> list[str]:
    def seconds(text: str) -> float:
        return speaking_seconds(text, language)

    most = scene.seconds or MAX_SECONDS
    parts = split_line(line, seconds, most) if may_split else [line]
    for part in parts:
        needed_s = seconds(part)
        if scene.seconds is None and needed_s > most:
            num_cut = math.ceil(len(part) * (1 - most / needed_s))
            which = f"the sentence {part[:40]!r}" if len(parts) > 1 else "it"
            hint = "" if may_split else ", or split it at the ends of sentences (--split)"
            raise ValueError(
                f"is too long: {which} takes about {needed_s:.1f} s and {most:g} is the most; "
                f"cut about {num_cut} of {len(part)} characters{hint}"
            )
    return parts


def _request(
    scene: Scene, language: Language, image: str | None, line: str, seconds: float, suffix: str
) -> ClipRequest:
    prompt = {
        "description": scene.scene,
        "dialogue": [{"speaker": scene.speaker, "line": line}],
        "background_sound": scene.background_sound,
    }
    return ClipRequest.model_validate(
        {
            "id": f"{scene.id}.{language}{suffix}",
            "prompt": prompt,
            "language": language,
            "image": image,
            "resolution": scene.resolution,
            "aspect": scene.aspect,
            "seconds": seconds,
            "seed": int.from_bytes(hashlib.sha256(scene.id.encode()).digest()[:6]),
            "metadata": {"scene": scene.id},
        }
    )
