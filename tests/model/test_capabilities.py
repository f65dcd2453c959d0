"""What `config.json` at a checkpoint's root may say, and what is said where it may not."""

import json
import shutil

import pytest

from actors.small_world.clips import SIZES
from model.capabilities import Capabilities, Samplers, read_capabilities
from model.checkpoint import Checkpoint
from model.checkpoint_files import CheckpointError, LocalFiles
from model.checkpoint_writer import write_capabilities
from model.geometry import ASPECTS, PIXEL_SIZES, RESOLUTIONS
from model.layout import find_layout
from model.sampling import DistilledSampling, GuidedSampling, SuperResolutionSampling
from tests.tiny_checkpoint import write_tiny_checkpoint

SMALL = {"256p": {"16:9": [96, 64], "1:1": [64, 64]}, "540p": {"16:9": [192, 128]}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    return folder


@pytest.fixture
def read(checkpoint, tmp_path):
    """Read a checkpoint with this `config.json`, given as values or as text."""

    def read_with(config):
        folder = shutil.copytree(checkpoint, tmp_path / "copy")
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        return Checkpoint(folder).capabilities

    return read_with


def test_without_a_file_the_releases_numbers_hold(checkpoint):
    assert not (checkpoint / "config.json").exists()
    capabilities = Checkpoint(checkpoint).capabilities
    assert capabilities == Capabilities()
    assert capabilities.samplers == Samplers(GuidedSampling(), DistilledSampling(), SuperResolutionSampling())
    assert not capabilities.restricts_sizes
    assert capabilities.resolutions == RESOLUTIONS
    for resolution in RESOLUTIONS:
        assert capabilities.aspects(resolution) == ASPECTS
        for aspect in ASPECTS:
            assert capabilities.pixel_size(resolution, aspect) == PIXEL_SIZES[resolution, aspect]
            assert capabilities.base_size(aspect) == PIXEL_SIZES["256p", aspect]
    assert capabilities.default_seconds == 5
    assert capabilities.max_clip_seconds("256p", has_audio=False) == 15
    assert capabilities.max_clip_seconds("540p", has_audio=True) == 60
    assert capabilities.max_clip_seconds("1080p", has_audio=True) == 15


def test_a_file_says_what_labels_lengths_conditions_and_samplers_are(read):
    sampling = {"base": {"num_steps": 25, "shift": 3}, "super_resolution": {"guidance": None, "align_corners": False}}
    limits = {"min_seconds": 1, "max_seconds": 2, "default_seconds": 1.4}
    capabilities = read({"pixel_sizes": SMALL, **limits, "conditions": ["image"], "sampling": sampling})
    assert capabilities.restricts_sizes
    assert capabilities.resolutions == ("256p", "540p")
    assert capabilities.aspects("256p") == ("16:9", "1:1")
    assert capabilities.aspects("540p") == ("16:9",)
    assert capabilities.aspects("1080p") == ()
    assert capabilities.base_size("1:1") == (64, 64)
    assert capabilities.pixel_size("540p", "16:9") == (192, 128)
    assert (capabilities.min_seconds, capabilities.default_seconds) == (1, 1.4)
    assert {capabilities.max_clip_seconds("540p", has_audio) for has_audio in (True, False)} == {2}
    assert capabilities.conditions == ("image",)
    assert capabilities.samplers.base == GuidedSampling(num_steps=25, shift=3.0)
    assert isinstance(capabilities.samplers.base.shift, float)
    assert capabilities.samplers.distill == DistilledSampling()
    assert capabilities.samplers.super_resolution == SuperResolutionSampling(align_corners=False)


def test_a_model_hubs_own_file_says_nothing(read):
    assert read({"model_type": "magihuman", "architectures": ["Transformer"]}) == Capabilities()


def test_an_empty_file_changes_nothing(read):
    assert read({}) == Capabilities()


@pytest.mark.parametrize(
    ("limits", "default"),
    [({"max_seconds": 2}, 2), ({"min_seconds": 6}, 6), ({"min_seconds": 1, "max_seconds": 9}, 5), ({}, 5)],
)
def test_the_default_length_is_the_possible_one_nearest_to_the_releases(read, limits, default):
    assert read(limits).default_seconds == default


def test_a_long_limit_does_not_lift_the_releases(read):
    capabilities = read({"max_seconds": 30})
    assert capabilities.max_clip_seconds("256p", has_audio=True) == 30
    assert capabilities.max_clip_seconds("256p", has_audio=False) == 15
    assert capabilities.max_clip_seconds("1080p", has_audio=True) == 15


def test_labels_without_a_size_are_named(read):
    capabilities = read({"pixel_sizes": SMALL})
    with pytest.raises(ValueError, match="resolution must be one of 256p, 540p, got '1080p'"):
        capabilities.pixel_size("1080p", "16:9")
    with pytest.raises(ValueError, match="aspect must be one of 16:9, got '1:1'"):
        capabilities.pixel_size("540p", "1:1")
    with pytest.raises(ValueError, match="aspect must be one of 16:9, 1:1, got '9:16'"):
        capabilities.base_size("9:16")


def test_what_is_written_is_read_again(tmp_path, checkpoint):
    told = Capabilities(
        pixel_sizes={("256p", "9:16"): (64, 96), ("1080p", "9:16"): (128, 192)},
        min_seconds=1.0,
        max_seconds=2.0,
        default_seconds=1.4,
        conditions=(),
        samplers=Samplers(base=GuidedSampling(num_steps=25), distill=DistilledSampling(shift=3.0)),
    )
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    write_capabilities(folder, told)
    files = LocalFiles(folder)
    assert read_capabilities(files, find_layout(files)) == told
    write_capabilities(tmp_path / "new", Capabilities())
    assert Capabilities.from_json(json.loads((tmp_path / "new/config.json").read_text())) == Capabilities()


def test_the_small_worlds_sizes_are_ones_a_checkpoint_can_have():
    capabilities = Capabilities.from_json({"pixel_sizes": SIZES})
    assert capabilities.resolutions == tuple(SIZES)
    for resolution, by_aspect in SIZES.items():
        assert {aspect: capabilities.pixel_size(resolution, aspect) for aspect in ASPECTS} == by_aspect


def sized(**changes):
    return {"pixel_sizes": {"256p": {"16:9": [96, 64]}, **changes}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "is not JSON: "),
        ([1], "must hold a JSON object, got list"),
        (
            {"colour": 1, "min_seconds": 1},
            "colour is unknown; known here: pixel_sizes, min_seconds, max_seconds, default_seconds, conditions, samp",
        ),
        ({"pixel_sizes": [1]}, "pixel_sizes must be an object, got [1]"),
        ({"pixel_sizes": {}}, "pixel_sizes must name a size at 256p, got {}"),
        ({"pixel_sizes": {"256p": {}}}, "pixel_sizes must name a size at 256p, got {}"),
        (
            {"pixel_sizes": {"540p": {"1:1": [64, 64]}}},
            "pixel_sizes must name a size at 256p, got {'540p': {'1:1': [64, 64]}}",
        ),
        ({"pixel_sizes": {"256p": 3}}, "pixel_sizes.256p must be an object, got 3"),
        (
            sized(**{"4k": {"16:9": [96, 64]}}),
            "resolution in pixel_sizes must be one of 256p, 540p, 1080p, got '4k'",
        ),
        (
            {"pixel_sizes": {"256p": {"4:3": [96, 64]}}},
            "aspect in pixel_sizes.256p must be one of 16:9, 9:16, 1:1, got '4:3'",
        ),
        *(
            (
                {"pixel_sizes": {"256p": {"16:9": size}}},
                f"pixel_sizes.256p.16:9 must be [width, height], each a multiple of 32 pixels, got {size!r}",
            )
            for size in ([100, 64], [0, 64], [-32, 64], [96.0, 64], [96], [96, 64, 32], "96x64", ["96", 64], [[], 64])
        ),
        (
            sized(**{"540p": {"1:1": [64, 64]}}),
            "pixel_sizes.540p.1:1 needs pixel_sizes.256p.1:1 beside it, got [64, 64] alone",
        ),
        (
            sized(**{"540p": {"16:9": [192, 32]}}),
            "pixel_sizes.540p.16:9 must be at least [96, 64], the size at 256p, got [192, 32]",
        ),
        (
            {"pixel_sizes": {"540p": {"16:9": [64, 128]}, "256p": {"16:9": [96, 64]}}},
            "pixel_sizes.540p.16:9 must be at least [96, 64], the size at 256p, got [64, 128]",
        ),
        ({"min_seconds": 3, "max_seconds": 2}, "max_seconds must be a number between 3 and 60, got 2"),
        ({"min_seconds": 0.1}, "min_seconds must be a number between 0.2 and 15, got 0.1"),
        ({"min_seconds": "1"}, "min_seconds must be a number between 0.2 and 15, got '1'"),
        ({"min_seconds": True}, "min_seconds must be a number between 0.2 and 15, got True"),
        ('{"max_seconds": NaN}', "max_seconds must be a number between 0.2 and 60, got nan"),
        ({"max_seconds": None}, "max_seconds must be a number between 0.2 and 60, got None"),
        ({"max_seconds": 61}, "max_seconds must be a number between 0.2 and 60, got 61"),
        (
            {"min_seconds": 1, "max_seconds": 2, "default_seconds": 5},
            "default_seconds must be a number between 1 and 2, got 5",
        ),
        ({"default_seconds": 16}, "default_seconds must be a number between 0.2 and 15, got 16"),
        ({"conditions": ["pose"]}, "conditions must be a list out of image, audio, got ['pose']"),
        ({"conditions": "image"}, "conditions must be a list out of image, audio, got 'image'"),
        ({"conditions": [["image"]]}, "conditions must be a list out of image, audio, got [['image']]"),
        ({"sampling": 5}, "sampling must be an object, got 5"),
        ({"sampling": {"student": {}}}, "sampling.student is unknown; known here: base, distill, super_resolution"),
        ({"sampling": {"base": []}}, "sampling.base must be an object, got []"),
        ({"sampling": {"distill": {"steps": 4}}}, "sampling.distill.steps is unknown; known here: num_steps, shift"),
        (
            {"sampling": {"base": {"num_steps": 2.5}}},
            "sampling.base.num_steps must be a whole number >= 0, got 2.5",
        ),
        ({"sampling": {"base": {"num_steps": 0}}}, "sampling.base.num_steps must be between 1 and 1000, got 0"),
        ({"sampling": {"distill": {"shift": 0}}}, "sampling.distill.shift must be above 0 and at most 100, got 0.0"),
        (
            {"sampling": {"distill": {"shift": 10**400}}},
            "sampling.distill.shift must be above 0 and at most 100, got 1000",
        ),
        (
            '{"sampling": {"base": {"audio_guidance": NaN}}}',
            "sampling.base.audio_guidance must be between 0 and 100, got nan",
        ),
        (
            {"sampling": {"super_resolution": {"guidance": "none"}}},
            "sampling.super_resolution.guidance must be a number or null, got 'none'",
        ),
        (
            {"sampling": {"super_resolution": {"noise_index": 1000}}},
            "sampling.super_resolution.noise_index must be between 0 and 999, got 1000",
        ),
        (
            {"sampling": {"super_resolution": {"align_corners": 1}}},
            "sampling.super_resolution.align_corners must be true or false, got 1",
        ),
    ],
)
def test_a_fault_is_one_line_with_file_field_value_and_what_is_allowed(read, config, message):
    with pytest.raises(CheckpointError) as caught:
        read(config)
    told = str(caught.value)
    assert "\n" not in told
    separator = " " if message.startswith(("is not JSON", "must hold")) else ": "
    assert told.startswith(f"config.json{separator}{message}")
