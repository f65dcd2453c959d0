"""What a clip says of itself, as others read it."""

import io
from datetime import UTC, datetime

import av
import pytest

from actors.fingerprint import LaneFingerprint
from actors.origin import Origin
from actors.request import ClipRequest
from tests.media_files import colour_bars, make_clip, speech_like

MADE_AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
ORIGIN = Origin("0.1.0", LaneFingerprint("lane"))
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def request(**fields):
    return ClipRequest.model_validate({"id": "clip-1", "prompt": "x", "language": "yue", **fields})


def test_every_tag_is_read_back_from_the_mp4():
    tags = ORIGIN.tags(request(), MADE_AT)
    with av.open(io.BytesIO(make_clip(colour_bars(3), speech_like(5292), metadata=tags))) as container:
        found = dict(container.metadata)
    assert {name: found[name] for name in tags} == tags
    assert found["comment"] == found["com.apple.quicktime.description"] == "AI-generated with daVinci-MagiHuman"
    assert found["generator"] == "magihuman-ray 0.1.0"
    assert found["model_fingerprint"] == "lane"
    assert found["fingerprint"] == ORIGIN.fingerprint.of_clip(request())
    assert found["title"] == found["request_id"] == "clip-1"
    assert found["language"] == "yue"
    assert found["digital_source_type"] == SOURCE_TYPE
    assert datetime.fromisoformat(found["creation_time"]) == MADE_AT.replace(microsecond=0)


def test_records_say_the_same():
    facts = ORIGIN.facts()
    assert facts["ai_generated"] is True
    assert facts["digital_source_type"] == SOURCE_TYPE
    assert (facts["generator"], facts["model_fingerprint"]) == ("magihuman-ray 0.1.0", "lane")


@pytest.mark.parametrize(
    ("fields", "ending"),
    [
        ({}, "from a prompt"),
        ({"image": "a.png"}, "from a prompt, a reference image"),
        ({"image": "a.png", "audio": "b.wav"}, "from a prompt, a reference image, a recording"),
    ],
)
def test_claims_say_what_a_clip_is_made_from_and_no_address(fields, ending):
    claims = ORIGIN.claims(request(**fields), MADE_AT)
    action = claims["assertions"][0]["data"]["actions"][0]
    assert action["description"].endswith(ending)
    assert ".png" not in str(claims)
