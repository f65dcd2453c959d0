import re

import pytest

from pipeline.provenance import claim, component_fingerprints, read_made_from


def test_a_folder_is_made_from_one_thing(tmp_path):
    folder = str(tmp_path / "made")
    assert read_made_from(folder) is None
    made_from = {"clips": {"seed": 1, "num_clips": 5}, "sizes": (2, 3)}
    claim(folder, made_from)
    claim(folder, made_from)
    assert read_made_from(folder) == {"clips": {"seed": 1, "num_clips": 5}, "sizes": [2, 3]}


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        ({"clips": {"seed": 2, "num_clips": 5}, "checkpoint": {}}, "clips.seed=1, not 2"),
        ({"clips": {"seed": 1, "num_clips": 5}, "checkpoint": {"base": "ab"}}, "checkpoint.base=None, not 'ab'"),
        ({"clips": {"seed": 1}, "checkpoint": {}}, "clips.num_clips=5, not None"),
        ({"clips": None, "checkpoint": {}}, "clips.seed=1, not None"),
    ],
)
def test_what_differs_is_named(tmp_path, other, differs):
    claim(str(tmp_path), {"clips": {"seed": 1, "num_clips": 5}, "checkpoint": {}})
    told = f"{tmp_path} was made from {differs}: name another folder, or remove this one"
    with pytest.raises(ValueError, match=re.escape(told)):
        claim(str(tmp_path), other)
    claim(str(tmp_path), {"clips": {"seed": 1, "num_clips": 5}, "checkpoint": {}})


def test_components_that_are_absent_have_no_fingerprint():
    found = component_fingerprints("checkpoints/mini", "audio_vae", "wan_vae", "sr_1080p")
    assert len(set(found.values())) == 3
    assert [name for name, fingerprint in found.items() if fingerprint is None] == ["sr_1080p"]
