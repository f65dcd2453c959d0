"""Any row at all is a request that can travel, or an error that names its field."""

import json

import pytest
from hypothesis import given
from pydantic import ValidationError

from actors.request import MAX_SEED, ClipRequest, describe_validation_error
from tests.hostile import outcome, repeatable, rows, texts


@repeatable(200)
@given(rows())
def test_a_row_is_a_request_or_is_told_what_is_wrong(row):
    request, error = outcome(lambda: ClipRequest.model_validate(row), ValidationError)
    if error is not None:
        field, _, reason = describe_validation_error(error)
        assert field
        assert field.isprintable()
        assert reason
        assert "\n" not in reason
        assert len(reason) < 2000
    else:
        again = ClipRequest.model_validate_json(request.model_dump_json())
        assert again == request
        assert 0 < len(request.prompt_text()) < 50_000
        assert 0 <= request.stage_seed("decoding") <= MAX_SEED
        assert json.loads(json.dumps(request.model_dump(mode="json"), allow_nan=False))


@repeatable(60)
@given(texts)
def test_an_id_is_a_name_of_a_file_in_the_folder_of_clips(clip_id):
    request, error = outcome(lambda: ClipRequest(id=clip_id, prompt="x", language="en"), ValidationError)
    if error is not None:
        return
    assert "/" not in request.id
    assert not request.id.startswith(".")
    assert request.id.isascii()
    assert request.id.isprintable()


GOOD = {"id": "a", "prompt": "x", "language": "en"}
LIMITS = [
    ({"prompt": "x" * 50_000_000}, "prompt", "must be at most 20,000 characters long"),
    ({"prompt": {"description": "x" * 20_001}}, "prompt.description", "must be at most 20,000 characters long"),
    (
        {"prompt": {"description": "x" * 10_000, "dialogue": [{"speaker": "s", "line": "l" * 10_000}]}},
        "prompt",
        "must be at most 20,000 characters long in all, got 20,001",
    ),
    (
        {"prompt": {"description": "x", "dialogue": [{}] * 100_000}},
        "prompt.dialogue",
        "must have at most 1,000 lines, got 100,000",
    ),
    ({"prompt": '{"description": "' + "x" * 2**20 + '"}'}, "prompt", "must be at most 1,048,576 characters of JSON"),
    ({"prompt": '{"description": "x", "description": "y"}'}, "prompt", "starts like JSON but is not: it names the key"),
    ({"prompt": "a\x00b"}, "prompt", "must not hold control characters, tabs and line breaks excepted, got U+0000"),
    ({"prompt": "a\u202eb"}, "prompt", "must not hold control characters, tabs and line breaks excepted, got U+202E"),
    ({"prompt": "\ud83d"}, "prompt", "must not hold half a character"),
    ({"metadata": {"k": "x" * 70_000}}, "metadata", "must be at most 65,536 bytes of JSON, got 70,009"),
    ({"metadata": {"k": "你" * 30_000}}, "metadata", "must be at most 65,536 bytes of JSON, got 90,009"),
    ({"metadata": {"k": ["\x07"]}}, "metadata", "must not hold control characters"),
    ({"metadata": {"\x07": 1}}, "metadata", "must not hold control characters"),
    ({"metadata": {"k": float("nan")}}, "metadata", "must not hold numbers that are none, got nan"),
    ({"metadata": '{"k": NaN}'}, "metadata", "must not hold numbers that are none, got nan"),
    ({"image": "a\nb.png"}, "image", "must not hold control characters, got U+000A at character 2"),
    ({"image": "x" * 5000}, "image", "must be at most 4,096 characters long"),
    ({f"field-{number}": 1 for number in range(100_000)}, "field-0", "is unknown; known here: id"),
]


@pytest.mark.parametrize(
    ("fields", "field", "reason"), LIMITS, ids=[f"{limit[1]}-{n}" for n, limit in enumerate(LIMITS)]
)
def test_every_limit_is_told_with_its_number(fields, field, reason):
    with pytest.raises(ValidationError) as caught:
        ClipRequest.model_validate({**GOOD, **fields})
    told = describe_validation_error(caught.value)
    assert told[0] == field
    assert told[2].startswith(reason)
    assert len(told[2]) < 2000


def test_what_people_write_passes():
    text = "Zeile eins,\r\n\tZeile zwei: “你好” — 안녕 👩‍💻\u200b"
    request = ClipRequest.model_validate({**GOOD, "prompt": text, "metadata": {"note": text, "深": [1, None, 2.5]}})
    assert request.prompt == text
    assert ClipRequest.model_validate({**GOOD, "prompt": "字" * 20_000})
