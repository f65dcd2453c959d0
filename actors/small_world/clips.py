"""One clip of the small world, from its number: what is asked for, and the picture and sound that answer it.

Legend: F frames, Y X pixel rows and columns, S audio samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from actors.request import ClipRequest, DialogueLine, StructuredPrompt
from actors.small_world.faces import render
from actors.small_world.looks import STARTS, Look, describe, describe_reference
from actors.small_world.speech import PITCH, SPEED_WPM, mouth_shapes, place, speak
from actors.small_world.vocabulary import ENDINGS, WORDS, Word
from model.geometry import FRAMES_PER_SECOND, MODEL_SAMPLE_RATE_HZ, ClipLength

MIN_SECONDS, MAX_SECONDS = 1.0, 2.0
SIZES = {
    "256p": {"16:9": (96, 64), "9:16": (64, 96), "1:1": (64, 64)},
    "540p": {"16:9": (192, 128), "9:16": (128, 192), "1:1": (128, 128)},
}
"""(width, height) in pixels that the labels of requests mean in the small world."""

METADATA_KEY = "small_world"
"""Under it a request's metadata says what was asked for, for evaluation."""

_REFERENCE_SHARE = 0.2
_FRAMES_BEHIND = 2
"""Of silence at least."""


@dataclass(frozen=True)
class SmallWorldClip:
    """What one clip shows and says.

    Attributes:
        id: of the request.
        word: what is said.
        look: who says it.
        description: the prompt's main part.
        line: the word as this prompt writes it.
        aspect: aspect ratio.
        seconds: length, a multiple of 0.2.
        start: when the word begins, of `looks.STARTS`.
        seed: of the drawing.
    """

    id: str
    word: Word
    look: Look
    description: str
    line: str
    aspect: str
    seconds: float
    start: str
    seed: int

    @classmethod
    def sample(cls, seed: int, index: int) -> SmallWorldClip:
        """The clip of a number; neighbours of the same seed say different words, as often each.

        Raises:
            SpeechError: if espeak-ng cannot be run: how long a word takes decides how long a clip must be.
        """
        rng = np.random.default_rng([seed, index])
        word, look = WORDS[index % len(WORDS)], Look.sample(rng)
        start = str(rng.choice(list(STARTS)))
        spoken_frames = len(speak(word, look.person, SPEED_WPM, PITCH)) / MODEL_SAMPLE_RATE_HZ * FRAMES_PER_SECOND
        least_frames = STARTS[start] + math.ceil(spoken_frames) + _FRAMES_BEHIND
        least_fifths = max(math.ceil(least_frames / FRAMES_PER_SECOND * 5), round(MIN_SECONDS * 5))
        fifths = least_fifths + int(rng.geometric(0.5)) - 1
        is_left_to_reference = rng.random() < _REFERENCE_SHARE
        return cls(
            id=f"clip-{seed}-{index:06d}",
            word=word,
            look=look,
            description=describe_reference(start, rng) if is_left_to_reference else describe(look, start, rng),
            line=word.line + str(rng.choice(ENDINGS[word.language])),
            aspect=str(rng.choice(["16:9", "9:16", "1:1"])),
            seconds=min(fifths / 5, MAX_SECONDS),
            start=start,
            seed=int(rng.integers(2**31)),
        )

    def with_look(self) -> SmallWorldClip:
        """The same clip with a prompt that tells the look."""
        return replace(self, description=describe(self.look, self.start, np.random.default_rng(self.seed)))

    def without_look(self) -> SmallWorldClip:
        """The same clip with a prompt that leaves the look to a reference image."""
        return replace(self, description=describe_reference(self.start, np.random.default_rng(self.seed)))

    @property
    def length(self) -> ClipLength:
        """In every unit."""
        return ClipLength.from_seconds(self.seconds)

    def request(self, resolution: str = "256p", **others: Any) -> ClipRequest:
        """The row of a manifest that asks for this clip; `others` are more of its fields."""
        speaker = self.look.person.capitalize()
        prompt = StructuredPrompt(
            description=self.description, dialogue=(DialogueLine(speaker=speaker, line=self.line),)
        )
        asked = {"word": self.word.name, "look": asdict(self.look)}
        fields: dict[str, Any] = {
            "id": self.id,
            "prompt": prompt,
            "language": self.word.language,
            "resolution": resolution,
            "aspect": self.aspect,
            "seconds": self.seconds,
            "metadata": {METADATA_KEY: asked},
        }
        return ClipRequest(**{**fields, **others})

    def waveform(self) -> np.ndarray:
        """The sound, (S,) float32 at 51.2 kHz, S a whole number of audio latents."""
        speech = speak(self.word, self.look.person, SPEED_WPM, PITCH)
        return place(speech, STARTS[self.start], self.length.num_audio_latents)

    def frames(self, resolution: str = "540p") -> np.ndarray:
        """The picture, (F, Y, X, 3) uint8, F as many frames as the video decoder gives."""
        mouth_F2 = mouth_shapes(self.waveform())[: self.length.num_decoded_frames]
        return render(self.look, mouth_F2, SIZES[resolution][self.aspect], self.seed)
