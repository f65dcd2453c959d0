"""Subtitles in both formats."""

import pysubs2
import pytest

from pipeline.localization.subtitles import subtitles


@pytest.mark.parametrize("suffix", ["vtt", "srt"])
def test_cues_share_the_clip(suffix):
    text = subtitles("Hello & welcome. Nice to see you!", "en", 4.0)[suffix]
    cues = list(pysubs2.SSAFile.from_string(text, format_=suffix))
    assert [cue.text.replace("&amp;", "&") for cue in cues] == ["Hello & welcome.", "Nice to see you!"]
    assert cues[0].start == 0
    assert cues[0].end == cues[1].start
    assert cues[1].end == 4000


def test_what_players_show():
    made = subtitles("你好 & 再见！", "zh", 1.5)
    assert made["vtt"] == "WEBVTT\n\n1\n00:00:00.000 --> 00:00:01.500\n你好 &amp; 再见！\n\n"
    assert made["srt"] == "1\n00:00:00,000 --> 00:00:01,500\n你好 & 再见！\n\n"
