from collections import Counter

import numpy as np
import pytest

from actors.request import LANGUAGES, ClipRequest
from actors.small_world.clips import SIZES, SmallWorldClip
from actors.small_world.looks import STARTS
from actors.small_world.speech import mouth_shapes, place, speak
from actors.small_world.vocabulary import CONCEPTS, ENDINGS, WORDS, find_word
from model.geometry import RESOLUTIONS, SAMPLES_PER_AUDIO_LATENT

pytestmark = pytest.mark.usefixtures("espeak")


def test_every_language_has_every_word_once():
    assert Counter(word.language for word in WORDS) == dict.fromkeys(LANGUAGES, len(CONCEPTS))
    assert len({word.name for word in WORDS}) == len(WORDS)
    assert all(find_word(word.language, word.line) is word for word in WORDS)


def test_lines_are_found_as_prompts_write_them():
    assert find_word("de", "guten morgen!").name == "de-good-morning"
    assert find_word("zh", "你 好。").name == "zh-hello"
    assert find_word("yue", "早晨").name == "yue-good-morning"
    assert find_word("fr", "Guten Morgen") is None


@pytest.mark.slow
def test_prompts_end_lines_as_their_language_does_and_the_word_is_found():
    clips = [SmallWorldClip.sample(1, index) for index in range(3 * len(WORDS))]
    assert all(find_word(clip.word.language, clip.line) is clip.word for clip in clips)
    endings = {(clip.word.language, clip.line.removeprefix(clip.word.line)) for clip in clips}
    assert endings == {(language, ending) for language, endings in ENDINGS.items() for ending in endings}


@pytest.mark.slow
def test_all_words_are_heard_and_two_voices_differ():
    for word in WORDS:
        woman, man = speak(word, "woman", 165, 50), speak(word, "man", 165, 50)
        assert 0.1 < len(woman) / 51_200 < 1.5, word
        assert np.abs(woman).max() == pytest.approx(0.7, abs=1e-3)
        shorter = min(len(woman), len(man))
        assert np.corrcoef(woman[:shorter], man[:shorter])[0, 1] < 0.9, word


def test_words_of_a_language_sound_different():
    # espeak-ng spells out what a voice cannot read, and then everything sounds alike.
    for language in LANGUAGES:
        lengths = {len(speak(word, "woman", 165, 50)) for word in WORDS if word.language == language}
        assert len(lengths) >= len(CONCEPTS) - 1, language


def test_a_clip_depends_on_its_number_alone():
    clip, again = SmallWorldClip.sample(5, 17), SmallWorldClip.sample(5, 17)
    assert clip == again
    assert np.array_equal(clip.frames(), again.frames())
    assert np.array_equal(clip.waveform(), again.waveform())
    assert SmallWorldClip.sample(6, 17) != clip
    assert SmallWorldClip.sample(5, 18).word != clip.word


@pytest.mark.parametrize("index", range(0, 40, 5))
def test_picture_and_sound_have_the_length_asked_for(index):
    clip = SmallWorldClip.sample(1, index)
    assert clip.frames().shape[0] == clip.length.num_decoded_frames
    assert len(clip.waveform()) == clip.length.num_audio_latents * SAMPLES_PER_AUDIO_LATENT
    for resolution in SIZES:
        width, height = SIZES[resolution][clip.aspect]
        assert clip.frames(resolution).shape[1:] == (height, width, 3)


def test_words_begin_and_end_inside_their_clips():
    for index in range(len(WORDS)):
        waveform = SmallWorldClip.sample(2, index).waveform()
        assert not waveform[: 2 * SAMPLES_PER_AUDIO_LATENT].any()
        assert not waveform[-SAMPLES_PER_AUDIO_LATENT:].any()
        assert waveform.any()


def test_words_begin_when_the_prompt_says():
    clips = [SmallWorldClip.sample(2, index) for index in range(300)]
    assert min(Counter(clip.start for clip in clips).values()) > 60
    for clip in clips[:: len(STARTS) + 1]:
        assert f"Speech starts {clip.start}." in clip.description
        assert f"Speech starts {clip.start}." in clip.without_look().description
        loud = np.flatnonzero(clip.waveform())
        assert loud[0] // SAMPLES_PER_AUDIO_LATENT == STARTS[clip.start]


def test_requests_are_those_of_any_manifest():
    clip = SmallWorldClip.sample(1, 3).with_look()
    request = ClipRequest.model_validate_json(clip.request("540p", seed=4).model_dump_json())
    assert request.resolution == "540p"
    assert request.seed == 4
    assert request.metadata["small_world"]["word"] == clip.word.name
    assert request.metadata["small_world"]["look"]["hair"] == clip.look.hair
    assert f"<{clip.look.person.capitalize()}, {LANGUAGES[clip.word.language]}>" in request.prompt_text()
    assert clip.look.shirt in request.prompt_text()
    assert f" {clip.look.shirt} " not in clip.without_look().request().prompt_text()
    assert set(SIZES) < set(RESOLUTIONS)


def test_mouths_open_where_there_is_sound():
    speech = speak(WORDS[0], "woman", 165, 50)
    shapes = mouth_shapes(place(speech, 4, 30))
    assert shapes.shape == (30, 2)
    assert not shapes[:4].any()
    assert shapes[4:9, 0].max() > 0.5
    assert shapes.min() >= 0
    assert shapes.max() <= 1
