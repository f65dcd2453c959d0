"""Which rows a checkpoint cannot make, and what they are told."""

import shutil

import pytest

from actors.request import ClipRequest
from model.capabilities import Capabilities
from model.checkpoint_files import LocalFiles
from model.layout import find_layout
from pipeline.offer import find_impossible
from tests.tiny_checkpoint import write_tiny_checkpoint

SMALL = Capabilities(
    pixel_sizes={
        ("256p", "16:9"): (96, 64),
        ("256p", "1:1"): (64, 64),
        ("540p", "16:9"): (192, 128),
        ("1080p", "16:9"): (384, 256),
    },
    min_seconds=1,
    max_seconds=2,
    default_seconds=1.4,
    conditions=("image",),
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Without super-resolution at 1080p, and with a broken one at 540p."""
    folder = tmp_path_factory.mktemp("checkpoint")
    write_tiny_checkpoint(folder)
    shutil.rmtree(folder / "1080p_sr")
    (folder / "540p_sr/model.safetensors").rename(folder / "540p_sr/lost.safetensors")
    return folder


@pytest.fixture(scope="module")
def layout(checkpoint):
    layout = find_layout(LocalFiles(checkpoint))
    assert "sr_540p" in layout.problems
    return layout


def told(capabilities, layout, **fields):
    request = ClipRequest.model_validate({"id": "a", "prompt": "x", "language": "en", **fields})
    failure = find_impossible(request, capabilities, layout)
    if failure is not None:
        assert failure.stage == "manifest"
    return failure and str(failure)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"resolution": "1080p"}, 'resolution "1080p": must be one of 256p, 540p for this checkpoint'),
        ({"aspect": "9:16"}, 'aspect "9:16": must be one of 16:9, 1:1 at 256p for this checkpoint'),
        (
            {"resolution": "540p", "aspect": "1:1"},
            'aspect "1:1": must be 16:9 at 540p for this checkpoint',
        ),
        ({"seconds": 5}, "seconds 5: must be between 1 and 2 for this checkpoint"),
        ({"seconds": 0.96}, "seconds 0.96: must be between 1 and 2 for this checkpoint"),
        ({"audio": "a.wav"}, 'audio "a.wav": must not be given for this checkpoint, which takes text and image alone'),
    ],
)
def test_what_a_checkpoint_cannot_make_is_told_with_what_it_can(layout, fields, reason):
    assert told(SMALL, layout, **fields) == reason
    assert told(Capabilities(), layout, **fields) is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seconds": 1},
        {"seconds": 2, "aspect": "1:1"},
        {"image": "a.png"},
        {"resolution": "540p"},
    ],
)
def test_what_a_checkpoint_can_make_passes(layout, fields):
    assert told(SMALL, layout, **fields) is None


def test_a_broken_component_is_no_fault_of_a_row(layout):
    assert told(SMALL, layout, resolution="540p") is None


def test_an_absent_component_of_a_release_is_no_fault_of_a_row(layout):
    assert told(Capabilities(max_seconds=2, default_seconds=2), layout, resolution="1080p") is None


def test_limits_of_recordings_hold_for_how_much_of_them_is_asked_for(layout):
    hearing = Capabilities(min_seconds=1, max_seconds=30)
    assert told(hearing, layout, audio="a.wav") is None, "its length shows when it is read"
    assert told(hearing, layout, audio="a.wav", seconds=30) is None
    assert told(hearing, layout, audio="a.wav", seconds=31) == (
        "seconds 31: must be between 1 and 30 for this checkpoint"
    )
    assert told(hearing, layout, audio="a.wav", seconds=0.5) == (
        "seconds 0.5: must be between 1 and 30 for this checkpoint"
    )
    deaf = Capabilities(conditions=())
    assert told(deaf, layout, image="a.png") == (
        'image "a.png": must not be given for this checkpoint, which takes text alone'
    )
