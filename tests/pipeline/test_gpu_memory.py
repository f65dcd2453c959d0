"""Memory of a lane's actors for a checkpoint of the release's full size, whose files are holes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.checkpoint_source import open_checkpoint
from actors.fingerprint import LaneFingerprint
from actors.request import ClipRequest
from model.capabilities import Capabilities, Samplers
from model.inspection import check_components
from model.layout import COMPONENTS
from model.sampling import SuperResolutionSampling
from pipeline.gpu_memory import LaneMemory, known_gpu_memory_gb
from pipeline.lane import Lane, LaneWork
from tests.sparse_checkpoint import write_full_size_checkpoint

RELEASE_SHAPES = Path(__file__).parents[1] / "golden" / "release_shapes.json"


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("release")
    write_full_size_checkpoint(folder, json.loads(RELEASE_SHAPES.read_text()))
    return check_components(open_checkpoint(str(folder)), COMPONENTS)


def work_on(*requests, mode="distill", samplers=None, video_decoder="turbo_vae"):
    lane = Lane(mode, requests[0].resolution)
    counts = (1,) * len(requests)
    return LaneWork(
        lane, requests, counts, LaneFingerprint("", "", Capabilities()), (video_decoder,), samplers or Samplers()
    )


def clip(resolution, **values):
    return ClipRequest(id="a", prompt="p", language="en", resolution=resolution, **values)


def actors_gb(contents, *requests, precision="bf16", is_compiled=True, **others):
    return LaneMemory(work_on(*requests, **others), contents, Capabilities(), precision, is_compiled).actors_gb()


@pytest.mark.parametrize("mode", ["base", "distill"])
def test_256p_in_fp8_fits_24_gb(contents, mode):
    for is_compiled in (True, False):
        needed = actors_gb(contents, clip("256p"), precision="fp8", is_compiled=is_compiled, mode=mode)
        assert needed["base_generation"] <= 24


def test_540p_fits_48_gb(contents):
    for is_compiled in (True, False):
        needed = actors_gb(contents, clip("540p"), is_compiled=is_compiled, mode="base")
        assert max(needed.values()) <= 48


def test_1080p_of_five_seconds_takes_76_gb_at_most(contents):
    for is_compiled in (True, False):
        needed = actors_gb(contents, clip("1080p"), is_compiled=is_compiled, mode="base")
        assert max(needed.values()) <= 76
        assert needed["super_resolution"] > 40


@pytest.mark.slow
def test_1080p_of_fifteen_seconds_fits_80_gb_only_compiled(contents):
    needed = [actors_gb(contents, clip("1080p", seconds=15), is_compiled=x)["super_resolution"] for x in (True, False)]
    assert needed[0] <= 76
    assert needed[1] > 80


def test_stages_are_those_of_the_lane(contents):
    assert list(actors_gb(contents, clip("256p"))) == ["conditioning", "base_generation", "decoding"]
    stages = ["conditioning", "base_generation", "super_resolution", "decoding"]
    assert list(actors_gb(contents, clip("540p"))) == stages


@pytest.mark.slow
def test_the_longest_clip_and_the_largest_size_count(contents):
    short, long = clip("1080p", seconds=5), clip("1080p", seconds=9)
    both = actors_gb(contents, short, long)
    assert both == actors_gb(contents, long, short) == actors_gb(contents, long)
    assert both["super_resolution"] > actors_gb(contents, short)["super_resolution"]
    square = clip("1080p", aspect="1:1", seconds=9)
    assert actors_gb(contents, long, square) == both, "it has fewer pixels"


def test_a_recording_without_a_length_may_be_as_long_as_is_possible(contents):
    def clips(seconds):
        work = work_on(clip("540p", audio="a.wav", seconds=seconds))
        return LaneMemory(work, contents, Capabilities(), "bf16", is_compiled=True).clips

    assert clips(None) == clips(60)
    assert {layout.latent_frames for layout in clips(5)} == {32}


def test_guidance_runs_every_clip_twice(contents):
    base, distilled = (actors_gb(contents, clip("256p"), mode=mode) for mode in ("base", "distill"))
    assert base["base_generation"] > distilled["base_generation"]
    guided = replace(Samplers(), super_resolution=SuperResolutionSampling(guidance=2.0))
    plain, twice = (actors_gb(contents, clip("540p"), samplers=samplers) for samplers in (None, guided))
    assert twice["super_resolution"] > plain["super_resolution"]


def test_conditioning_holds_what_the_clips_need(contents):
    text, with_image, with_audio = (
        actors_gb(contents, clip("540p", **extra))["conditioning"]
        for extra in ({}, {"image": "a.png"}, {"audio": "a.wav", "seconds": 5})
    )
    assert 19 < text < 21, "9.2 B parameters in bfloat16"
    assert text < with_image < text + 2
    assert text < with_audio


def test_a_checkpoint_without_a_turbo_vae_decodes_with_the_wan_vae(contents):
    turbo, wan = (
        actors_gb(contents, clip("540p"), video_decoder=name)["decoding"] for name in ("turbo_vae", "wan_vae")
    )
    assert turbo != wan


def test_what_a_gpu_has_is_told_or_known_by_its_type():
    assert known_gpu_memory_gb(None, "H100") == 80
    assert known_gpu_memory_gb(64, "H100") == 64
    assert known_gpu_memory_gb(None, "A100") is None, "there are two sizes"
    assert known_gpu_memory_gb(None, None) is None
