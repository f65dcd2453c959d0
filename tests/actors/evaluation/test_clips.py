import numpy as np
import pytest

from actors.evaluation.clips import Asked, ClipJudge, JudgedClip, spoken_language
from actors.request import ClipRequest
from actors.small_world.listening import SAMPLE_RATE_HZ, WordRecogniser
from actors.small_world.looks import Look
from actors.small_world.vocabulary import WORDS
from model.geometry import FRAMES_PER_SECOND, ClipLength
from tests.finished_runs import mux

LOOK = Look.sample(np.random.default_rng(0))
FRAMES = np.zeros((25, 64, 96, 3), np.uint8)
SECONDS_S = np.arange(SAMPLE_RATE_HZ // 2) / SAMPLE_RATE_HZ


def tone(hertz: float) -> np.ndarray:
    return np.pad(0.5 * np.sin(2 * np.pi * hertz * SECONDS_S).astype(np.float32), SAMPLE_RATE_HZ // 10)


@pytest.fixture(scope="module")
def judge() -> ClipJudge:
    """Listens for two words, which are tones here, and keeps sounds."""
    return ClipJudge(WordRecogniser(WORDS[:2], [tone(300), tone(900)]), recognises_digits=False, keeps_sound=True)


def mp4_of_a_tone() -> bytes:
    seconds = np.arange(51_200) / 51_200
    return mux(FRAMES, (0.5 * np.sin(2 * np.pi * 300 * seconds) * (seconds < 0.5)).astype(np.float32))[0]


def request(*lines: dict, language: str = "zh", **fields) -> ClipRequest:
    prompt = {
        "description": "A head.",
        "dialogue": [{"speaker": "Man", "line": WORDS[0].line, **line} for line in lines],
    }
    return ClipRequest.model_validate({"id": "a", "prompt": prompt, "language": language, **fields})


def test_a_clip_that_a_recording_drives_is_watched_and_not_listened_to(judge):
    clip = judge.judge(request({}), mp4_of_a_tone())
    assert clip.is_word_right
    assert clip.is_language_right
    assert clip.sound_S is not None
    assert clip.correlation == 0, "the mouth of this picture never opens"
    driven = judge.judge(request({}, audio="speech.wav"), mp4_of_a_tone())
    assert driven.is_word_right is driven.is_language_right is driven.word is driven.sound_S is None
    assert driven.correlation == 0
    assert not driven.problem


def test_a_clip_whose_index_is_whole_and_whose_data_is_damaged_is_judged_by_nothing(judge):
    mp4 = mp4_of_a_tone()
    begin = mp4.index(b"mdat") + 4
    clip = judge.judge(request({}, seconds=1), mp4[:begin] + bytes(len(mp4) - begin))
    assert clip.video_s == pytest.approx(1)
    assert "cannot be decoded" in clip.problem
    assert clip.is_word_right is clip.is_language_right is clip.are_colours_right is clip.correlation is None
    assert clip.is_length_right(clip.video_s) is None


def test_whatever_was_found_before_a_problem_does_not_count():
    asked = Asked(WORDS[0], LOOK, WORDS[0].line, 1.0, False, False)
    colours = {part: getattr(LOOK, part) for part in ("hair", "skin", "shirt", "wall")}
    clip = JudgedClip("a", "zh", "256p", asked, listened=True, word=WORDS[0].name, colours=colours, problem="damaged")
    assert clip.is_word_right is clip.is_language_right is clip.are_colours_right is None


def test_the_language_spoken_is_that_of_the_lines():
    assert spoken_language(request({})) == "zh"
    assert spoken_language(request({"language": "de"}, {"language": "de"})) == "de"
    assert spoken_language(request({"language": "de"}, {})) == "zh"
    assert spoken_language(ClipRequest(id="a", prompt="A head.", language="fr")) == "fr"


def test_a_clip_is_transcribed_in_the_language_of_its_lines(judge):
    assert judge.judge(request({"language": "yue"}), mp4_of_a_tone()).language == "yue"


def test_every_length_that_is_planned_is_right():
    for fifths in np.arange(1, 75.01, 0.125):
        length = ClipLength.from_seconds(fifths / 5)
        clip = JudgedClip("a", "zh", "256p", Asked.of(request(seconds=fifths / 5)))
        assert clip.is_length_right(length.num_frames / FRAMES_PER_SECOND), fifths
        assert clip.is_length_right(length.sound_frames / FRAMES_PER_SECOND), fifths


def test_lengths_are_judged_by_what_the_row_asks():
    clip = JudgedClip("a", "zh", "256p", Asked.of(request(seconds=1.2)))
    assert ClipLength.from_seconds(1.2).num_frames == 29
    rights = {frames: clip.is_length_right(frames / FRAMES_PER_SECOND) for frames in range(28, 33)}
    assert rights == {28: False, 29: True, 30: True, 31: True, 32: False}
    driven = JudgedClip("a", "zh", "256p", Asked.of(request(seconds=1.2, audio="speech.wav")))
    assert driven.is_length_right(1.2) is None
