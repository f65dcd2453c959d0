"""Figures of a run out of its judged clips: shares, means and medians, for every language and for all.

Legend: F frames.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from actors.evaluation.clips import JudgedClip
from actors.evaluation.sync import correlation, onset
from actors.evaluation.transcribing import error_rate, metric_name
from actors.request import LANGUAGES
from actors.small_world.listening import UnseenVoice
from actors.small_world.looks import PALETTES

ALL = "all"
"""Key of the figures of all languages together."""

_NUM_PARTNERS = 3
_MOST_LOOKED_AT = 40
_SAME_ONSET_FRAMES = 1

Value = TypeVar("Value")


@dataclass(frozen=True)
class Figures:
    """Of a group of clips. A figure is None where no clip of the group could be judged by it; shares are 0 to 1.

    Attributes:
        num_clips: in the group.
        num_problems: clips that could not be decoded.
        num_words: clips of which a word of the small world was asked, and that no recording drives.
        word_accuracy: share of them in which the word asked for was heard.
        unseen_voice_word_accuracy: the same share of espeak-ng's words in a voice that is not among the references,
            mean over the languages of the words asked for.
        language_accuracy: share in which the word heard is one of the language asked for.
        unseen_voice_language_accuracy: the same share in that voice.
        metric: "WER" or "CER".
        error_rate: of what a recogniser of speech heard.
        original_error_rate: of the same recogniser for espeak-ng's own words.
        mouth_correlation: mean correlation of mouth and sound.
        mismatched_correlation: the same with sounds of other clips.
        correlation_gap: the difference of these two.
        same_onset_correlation: mean correlation with sounds of other clips that begin when the clip's own does.
        median_lag_frames: by how much mouths are late.
        in_sync: share of clips in which that is one frame at most, early or late.
        video_length_right: share of pictures as long as asked for, to within one frame.
        audio_length_right: share of sounds as long as asked for, to within one frame.
        colours_right: part, or "all" of them, to the share of right colours, where the prompt tells the look.
        image_colours_right: the same where a reference image does.
    """

    num_clips: int
    num_problems: int
    num_words: int
    word_accuracy: float | None
    unseen_voice_word_accuracy: float | None
    language_accuracy: float | None
    unseen_voice_language_accuracy: float | None
    metric: str | None
    error_rate: float | None
    original_error_rate: float | None
    mouth_correlation: float | None
    mismatched_correlation: float | None
    correlation_gap: float | None
    same_onset_correlation: float | None
    median_lag_frames: float | None
    in_sync: float | None
    video_length_right: float | None
    audio_length_right: float | None
    colours_right: dict[str, float | None]
    image_colours_right: dict[str, float | None]


def figures_by_language(
    clips: Sequence[JudgedClip], unseen_voice: UnseenVoice | None, original_error_rates: Mapping[str, float]
) -> dict[str, Figures]:
    """Figures of every language that has clips, in the order of `LANGUAGES`, and of all of them first.

    Args:
        clips: judged.
        unseen_voice: how words are heard in it; None where no words were listened for.
        original_error_rates: language to the recogniser's error rate for espeak-ng's own words, where it is known.
    """
    mismatched, same_onset = mismatched_correlations(clips), mismatched_correlations(clips, same_onset=True)
    groups = {ALL: list(clips)}
    for language in LANGUAGES:
        if members := [clip for clip in clips if clip.language == language]:
            groups[language] = members
    return {
        key: _figures(key, members, mismatched, same_onset, unseen_voice, original_error_rates.get(key))
        for key, members in groups.items()
    }


def _figures(
    key: str,
    clips: Sequence[JudgedClip],
    mismatched: Mapping[str, float],
    same_onset: Mapping[str, float],
    unseen_voice: UnseenVoice | None,
    original_error_rate: float | None,
) -> Figures:
    healthy = [clip for clip in clips if not clip.problem]
    spoken = [clip for clip in healthy if clip.is_word_right is not None]
    languages = [clip.asked.word.language for clip in spoken if clip.asked.word]
    unseen_words = [unseen_voice.word_accuracy[language] for language in languages] if unseen_voice else []
    unseen_languages = [unseen_voice.language_accuracy[language] for language in languages] if unseen_voice else []
    own = _known(clip.correlation for clip in healthy if clip.id in mismatched)
    others = [mismatched[clip.id] for clip in healthy if clip.id in mismatched]
    mouth = _mean(own) if others else _mean(_known(clip.correlation for clip in healthy))
    other = _mean(others)
    lags = _known(clip.lag_frames for clip in healthy)
    num_watched = sum(clip.mouth_F is not None for clip in healthy)
    rate = _error_rate(key, healthy)
    from_image = [clip for clip in healthy if clip.asked.has_image]
    from_text = [clip for clip in healthy if not clip.asked.has_image]
    return Figures(
        num_clips=len(clips),
        num_problems=len(clips) - len(healthy),
        num_words=len(spoken),
        word_accuracy=_share(clip.is_word_right for clip in spoken),
        unseen_voice_word_accuracy=_mean(unseen_words),
        language_accuracy=_share(clip.is_language_right for clip in spoken),
        unseen_voice_language_accuracy=_mean(unseen_languages),
        metric=None if rate is None else metric_name(key),
        error_rate=rate,
        original_error_rate=None if rate is None else original_error_rate,
        mouth_correlation=mouth,
        mismatched_correlation=other,
        correlation_gap=None if mouth is None or other is None else mouth - other,
        same_onset_correlation=_mean([same_onset[clip.id] for clip in healthy if clip.id in same_onset]),
        median_lag_frames=float(np.median(lags)) if lags else None,
        # A clip in which nothing correlates has no lag, and is not in sync.
        in_sync=sum(abs(lag) <= 1 for lag in lags) / num_watched if num_watched else None,
        video_length_right=_share(clip.is_length_right(clip.video_s) for clip in healthy),
        audio_length_right=_share(clip.is_length_right(clip.audio_s) for clip in healthy),
        colours_right=_colours(from_text),
        image_colours_right=_colours(from_image),
    )


def _colours(clips: Sequence[JudgedClip]) -> dict[str, float | None]:
    shares = {part: _share(clip.is_colour_right(part) for clip in clips) for part in PALETTES}
    return {**shares, ALL: _share(clip.are_colours_right for clip in clips)}


def _error_rate(language: str, clips: Sequence[JudgedClip]) -> float | None:
    heard = [clip for clip in clips if clip.transcript is not None and not clip.asked.is_driven]
    if language == ALL or not heard:
        return None
    return error_rate([clip.asked.text for clip in heard], [str(clip.transcript) for clip in heard], language)


def mismatched_correlations(clips: Sequence[JudgedClip], same_onset: bool = False) -> dict[str, float]:
    """Correlation of every clip's mouth with the sounds of others: up to three of the nearest lengths.

    Partners of another word are taken, since the same word would rightly fit. What is chosen depends on lengths and
    ids, and on sounds where they shall begin together. Clips without a partner are left out.

    Args:
        clips: judged.
        same_onset: whether sounds of partners begin within one frame of the clip's own.

    Returns:
        Id to the mean over the partners.
    """
    watched = [
        (clip, clip.mouth_F, clip.sound_F) for clip in clips if clip.mouth_F is not None and clip.sound_F is not None
    ]
    watched.sort(key=lambda one: (len(one[1]), one[0].id))
    onsets = [onset(sound_F) if same_onset else 0 for _, _, sound_F in watched]
    result = {}
    for index, (clip, mouth_F, _) in enumerate(watched):
        partners = (
            sound_F
            for place in _neighbours(index, len(watched))
            for other, _, sound_F in [watched[place]]
            if _is_near(onsets[index], onsets[place]) and _say_different(clip, other)
        )
        values = [correlation(mouth_F, sound_F) for sound_F in islice(partners, _NUM_PARTNERS)]
        if values:
            result[clip.id] = float(np.mean(values))
    return result


def _neighbours(index: int, num_places: int) -> Iterable[int]:
    for distance in range(1, _MOST_LOOKED_AT):
        for place in (index + distance, index - distance):
            if 0 <= place < num_places:
                yield place


def _is_near(onset_frame: int | None, other_frame: int | None) -> bool:
    if onset_frame is None or other_frame is None:
        return False
    return abs(onset_frame - other_frame) <= _SAME_ONSET_FRAMES


def _say_different(clip: JudgedClip, other: JudgedClip) -> bool:
    word, other_word = clip.asked.word, other.asked.word
    return word is None or other_word is None or word.name != other_word.name


def confusions(clips: Iterable[JudgedClip]) -> list[tuple[str, str, int]]:
    """(word asked, word heard or "silence", times) of the clips with a wrong word, the most frequent first."""
    counts = Counter(
        (clip.asked.word.name, clip.word or "silence")
        for clip in clips
        if clip.asked.word and clip.is_word_right is False
    )
    return [
        (asked, heard, count) for (asked, heard), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _known(values: Iterable[Value | None]) -> list[Value]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _share(rights: Iterable[bool | None]) -> float | None:
    return _mean([float(right) for right in _known(rights)])
