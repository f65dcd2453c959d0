"""Subtitles of a clip: a cue per sentence, as long as its share of what is said."""

from __future__ import annotations

import html
from itertools import accumulate, pairwise

import pysubs2

from actors.request import Language
from pipeline.localization.speaking import speaking_seconds
from pipeline.localization.splitting import split_line


def subtitles(line: str, language: Language, seconds: float) -> dict[str, str]:
    """A clip's subtitles as WebVTT ("vtt") and SubRip ("srt").

    When a sentence begins is not known, so cues share the clip as the sentences' syllables tell.

    Args:
        line: what is said in the clip, without what these formats read as markup.
        language: in which.
        seconds: length of the clip.
    """
    parts = split_line(line, lambda text: speaking_seconds(text, language), 0.0)
    needed_s = [speaking_seconds(part, language) for part in parts]
    times_s = [seconds * so_far / sum(needed_s) for so_far in accumulate(needed_s, initial=0.0)]
    file = pysubs2.SSAFile()
    for part, (start, end) in zip(parts, pairwise(times_s), strict=True):
        file.append(pysubs2.SSAEvent(pysubs2.make_time(s=start), pysubs2.make_time(s=end), part))
    plain = file.to_string("srt")
    for event in file:
        event.text = html.escape(event.text, quote=False)  # WebVTT has entities, SubRip has none
    return {"vtt": file.to_string("vtt"), "srt": plain}
