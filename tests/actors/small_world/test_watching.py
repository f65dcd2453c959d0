import numpy as np
import pytest
from PIL import Image
from PIL.ImageFilter import GaussianBlur

from actors.media import read_frames
from actors.small_world.clips import SIZES, SmallWorldClip
from actors.small_world.looks import PALETTES
from actors.small_world.speech import mouth_shapes
from actors.small_world.watching import mouth_openings, see_colours
from tests.finished_runs import mux, rendered

pytestmark = pytest.mark.usefixtures("espeak")


def test_colours_and_mouths_are_seen_after_compression():
    correlations, wrong, num_parts = [], [], 0
    for index in range(30):
        clip = SmallWorldClip.sample(31, index)
        frames, waveform = rendered(clip)
        frames = read_frames(mux(frames, waveform)[0])
        seen = see_colours(frames)
        num_parts += len(seen)
        wrong += [(clip.look, part, seen[part]) for part in PALETTES if seen[part] != getattr(clip.look, part)]
        opening = mouth_shapes(waveform)[: len(frames), 0]
        correlations.append(np.corrcoef(mouth_openings(frames), opening)[0, 1])
    assert num_parts == 120
    assert not wrong
    assert np.mean(correlations) > 0.95
    assert min(correlations) > 0.75


@pytest.mark.parametrize("resolution", SIZES)
def test_sizes_do_not_matter(resolution):
    for index in range(6):
        clip = SmallWorldClip.sample(32, index)
        frames = clip.frames(resolution)
        assert see_colours(frames) == {part: getattr(clip.look, part) for part in PALETTES}
        assert np.corrcoef(mouth_openings(frames), mouth_shapes(clip.waveform())[: len(frames), 0])[0, 1] > 0.8


def test_blurred_glasses_on_a_small_head_do_not_darken_its_skin():
    clips = [SmallWorldClip.sample(33, index) for index in range(500)]
    clips = [clip for clip in clips if clip.look.glasses and clip.aspect == "9:16"]
    assert len(clips) > 30
    for clip in clips:
        frames = [Image.fromarray(frame).filter(GaussianBlur(1.4)) for frame in clip.frames("256p")]
        assert see_colours(np.stack(frames))["skin"] == clip.look.skin, clip.look


def test_palettes_are_told_apart_when_every_channel_is_off():
    for part, palette in PALETTES.items():
        for name, colour in palette.items():
            frames = np.full((1, 64, 96, 3), np.minimum(np.array(colour) + 12, 255), np.uint8)
            assert see_colours(frames)[part] == name


def test_any_picture_can_be_looked_at():
    for shape in ((1, 2, 2, 3), (3, 8, 200, 3), (2, 200, 8, 3)):
        frames = np.zeros(shape, np.uint8)
        assert set(see_colours(frames)) == set(PALETTES)
        assert mouth_openings(frames).shape == shape[:1]
