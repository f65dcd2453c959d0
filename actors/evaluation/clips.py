"""One finished clip, judged: what was asked for, and what its MP4 shows and says.

Legend: F frames, S audio samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from actors.evaluation.sync import best_lag, correlation
from actors.evaluation.transcribing import DigitRecogniser
from actors.media import probe, read_frames, read_waveform
from actors.request import ClipRequest, DialogueLine, StructuredPrompt
from actors.small_world.clips import METADATA_KEY, SIZES
from actors.small_world.listening import SAMPLE_RATE_HZ, WordRecogniser
from actors.small_world.looks import PALETTES, Look
from actors.small_world.speech import mouth_shapes
from actors.small_world.vocabulary import WORDS, Word, find_word
from actors.small_world.watching import mouth_openings, see_colours
from model.geometry import FRAMES_PER_SECOND, MODEL_SAMPLE_RATE_HZ, SAMPLES_PER_AUDIO_LATENT

_WORDS = {word.name: word for word in WORDS}
_SMALL_SIZES = {size for sizes in SIZES.values() for size in sizes.values()}


@dataclass(frozen=True)
class Asked:
    """What a request asks for, as far as it can be judged.

    Attributes:
        word: of the small world, or None.
        look: of the small world, or None.
        text: all lines of dialogue, "" where the prompt is free text.
        seconds: length of the clip; None where the row leaves it to the recording or the checkpoint.
        has_image: the look comes from a reference image.
        is_driven: the sound comes from a recording.
    """

    word: Word | None
    look: Look | None
    text: str
    seconds: float | None
    has_image: bool
    is_driven: bool

    @classmethod
    def of(cls, request: ClipRequest) -> Asked:
        """Read it from a request; metadata under the small world's key that is not its own counts as none."""
        lines = _lines(request)
        asked = request.metadata.get(METADATA_KEY)
        asked = asked if isinstance(asked, Mapping) else {}
        word = _WORDS.get(str(asked.get("word")))
        if word is None and len(lines) == 1:
            word = find_word(lines[0].language or request.language, lines[0].line)
        return cls(
            word=word,
            look=_look(asked.get("look")),
            text=" ".join(line.line for line in lines),
            seconds=request.seconds,
            has_image=request.image is not None,
            is_driven=request.audio is not None,
        )


def spoken_language(request: ClipRequest) -> str:
    """The language of all lines of dialogue, where they have one; else the row's."""
    languages = {line.language or request.language for line in _lines(request)}
    return languages.pop() if len(languages) == 1 else request.language


def _lines(request: ClipRequest) -> tuple[DialogueLine, ...]:
    return request.prompt.dialogue if isinstance(request.prompt, StructuredPrompt) else ()


def _look(value: Any) -> Look | None:
    try:
        return Look(**value)
    except (TypeError, ValueError):
        return None


@dataclass(frozen=True)
class JudgedClip:
    """What was asked of a clip, and what was found.

    Attributes:
        id: of the request.
        language: code of the one spoken.
        resolution: label.
        asked: of the request.
        width: of the picture in pixels.
        height: of the picture in pixels.
        video_s: length of the picture.
        audio_s: length of the sound; None where there is none.
        word: name of the word heard; None in silence, or where no word was listened for.
        word_distance: of the word heard to its nearest reference.
        word_margin: how much further the nearest other word is.
        listened: whether it was compared with the small world's words.
        colours: part to the colour seen; empty outside the small world.
        mouth_F: opening of the mouth; None outside the small world.
        sound_F: how far the sound would open a mouth; None outside the small world.
        correlation: of these two.
        lag_frames: by how many frames the mouth is late; None where nothing correlates.
        transcript: what a recogniser of speech heard; None where none listened.
        sound_S: the sound at 16 kHz, where a recogniser shall listen later.
        problem: why the clip could not be judged, "" where it could.
    """

    id: str
    language: str
    resolution: str
    asked: Asked
    width: int = 0
    height: int = 0
    video_s: float | None = None
    audio_s: float | None = None
    word: str | None = None
    word_distance: float | None = None
    word_margin: float | None = None
    listened: bool = False
    colours: Mapping[str, str] = field(default_factory=dict)
    mouth_F: np.ndarray | None = field(default=None, repr=False)
    sound_F: np.ndarray | None = field(default=None, repr=False)
    correlation: float | None = None
    lag_frames: int | None = None
    transcript: str | None = None
    sound_S: np.ndarray | None = field(default=None, repr=False)
    problem: str = ""

    @property
    def is_word_right(self) -> bool | None:
        """Whether the word heard is the one asked for; None where none was listened for or a recording says it."""
        if self.asked.word is None or not self._is_listened_to:
            return None
        return self.word == self.asked.word.name

    @property
    def is_language_right(self) -> bool | None:
        """Whether the word heard is one of the language asked for; None where `is_word_right` is."""
        if self.asked.word is None or not self._is_listened_to:
            return None
        return self.word is not None and _WORDS[self.word].language == self.asked.word.language

    @property
    def _is_listened_to(self) -> bool:
        return self.listened and not self.asked.is_driven and not self.problem

    def is_colour_right(self, part: str) -> bool | None:
        """Whether a part has the colour asked for; None where none was asked for or the clip was not looked at."""
        if self.asked.look is None or part not in self.colours or self.problem:
            return None
        return self.colours[part] == getattr(self.asked.look, part)

    @property
    def are_colours_right(self) -> bool | None:
        """Whether all parts have the colours asked for."""
        rights = [self.is_colour_right(part) for part in PALETTES]
        return None if None in rights else all(rights)

    def is_length_right(self, seconds: float | None) -> bool | None:
        """Whether a length is the one asked for, to within one frame; None where a recording or a checkpoint decides.

        Clips are planned to within one frame: 1.2 s are 30 frames, of which the latents' grid holds 29.
        """
        if self.asked.seconds is None or self.asked.is_driven or self.problem:
            return None
        # Files count time in whole ticks: one frame is allowed to be a little more than one.
        return seconds is not None and abs(seconds - self.asked.seconds) <= 1.05 / FRAMES_PER_SECOND


class ClipJudge:
    """Judges clips one by one.

    Args:
        words: hears the small world's words; None leaves them out.
        recognises_digits: whether pocketsphinx listens to English digits.
        keeps_sound: whether the sound is handed on, for a recogniser that listens later.
    """

    def __init__(self, words: WordRecogniser | None, recognises_digits: bool, keeps_sound: bool):
        self.words, self.keeps_sound = words, keeps_sound
        self.digits = DigitRecogniser() if recognises_digits else None

    def judge(self, request: ClipRequest, mp4: bytes) -> JudgedClip:
        """Look at a clip and listen to it; one that cannot be decoded has a `problem`.

        Args:
            request: what was asked for.
            mp4: content of the file.
        """
        asked = Asked.of(request)
        facts: dict[str, Any] = {
            "id": request.id,
            "language": spoken_language(request),
            "resolution": request.resolution,
            "asked": asked,
        }
        try:
            found = probe(mp4)
            facts |= {"width": found.width, "height": found.height, "video_s": found.video_s, "audio_s": found.audio_s}
            facts["listened"] = self.words is not None and asked.word is not None and not asked.is_driven
            if found.audio_s is not None and not asked.is_driven:
                facts |= self._listen(asked, mp4)
            if (found.width, found.height) in _SMALL_SIZES:
                facts |= _watch(mp4, has_sound=found.audio_s is not None)
        except ValueError as error:
            facts["problem"] = str(error)
        return JudgedClip(**facts)

    def _listen(self, asked: Asked, mp4: bytes) -> dict[str, Any]:
        wants_digit = self.digits is not None and is_english_digit(asked.word)
        if not (self.keeps_sound or wants_digit or (self.words and asked.word)):
            return {}
        facts: dict[str, Any] = {}
        sound_S = read_waveform(mp4, SAMPLE_RATE_HZ)
        if self.words and asked.word and (heard := self.words.hear(sound_S)):
            facts |= {"word": heard.word.name, "word_distance": heard.distance, "word_margin": heard.margin}
        if self.digits is not None and wants_digit:
            facts["transcript"] = self.digits.transcribe(sound_S)
        if self.keeps_sound and asked.text:
            facts["sound_S"] = sound_S.astype(np.float32)
        return facts


def is_english_digit(word: Word | None) -> bool:
    """Whether pocketsphinx's grammar holds a word."""
    return word is not None and word.language == "en" and word.concept.isdigit()


def _watch(mp4: bytes, has_sound: bool) -> dict[str, Any]:
    frames_FYX3 = read_frames(mp4)
    facts: dict[str, Any] = {"colours": see_colours(frames_FYX3)}
    if has_sound:
        mouth_F, sound_F = mouth_openings(frames_FYX3), sound_openings(mp4)
        facts |= {"mouth_F": mouth_F, "sound_F": sound_F}
        facts |= {"correlation": correlation(mouth_F, sound_F), "lag_frames": best_lag(mouth_F, sound_F)}
    return facts


def sound_openings(mp4: bytes) -> np.ndarray:
    """How far a clip's sound would open a mouth of the small world, (F,) float32, 0 to 1.

    Raises:
        ValueError: if there is no sound, or none that can be decoded.
    """
    samples_S = read_waveform(mp4, MODEL_SAMPLE_RATE_HZ)
    num_frames = -(-len(samples_S) // SAMPLES_PER_AUDIO_LATENT)
    padded_S = np.pad(samples_S, (0, num_frames * SAMPLES_PER_AUDIO_LATENT - len(samples_S)))
    return mouth_shapes(padded_S)[:, 0]
