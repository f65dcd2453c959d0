import pytest
from pydantic import ValidationError

from actors.request import LANGUAGES, ClipRequest, describe_validation_error, space_cjk
from model.geometry import ASPECTS, PIXEL_SIZES, RESOLUTIONS


def request(**fields):
    return ClipRequest.model_validate({"id": "a", "prompt": "A woman speaks.", "language": "en", **fields})


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"id": "../x"}, "id", "must be 1 to 128 letters, digits, dots, underscores or hyphens"),
        ({"id": ""}, "id", "must be 1 to 128 letters"),
        ({"id": "a/b"}, "id", "must be 1 to 128 letters"),
        ({"id": "a\n"}, "id", "must be 1 to 128 letters"),
        ({"id": 5}, "id", "must be text"),
        ({"prompt": "  "}, "prompt", "must not be empty"),
        ({"prompt": 3}, "prompt", "must be text"),
        ({"prompt": '{"description": '}, "prompt", "starts like JSON but is not"),
        ({"prompt": {"dialogue": []}}, "prompt.description", "is missing"),
        ({"prompt": {"description": "x", "dialog": []}}, "prompt.dialog", "is unknown; known here: description, dial"),
        (
            {"prompt": {"description": "x", "dialogue": [{"speaker": "s", "line": "l", "language": "it"}]}},
            "prompt.dialogue.0.language",
            "must be one of 'zh', 'yue', 'en', 'ja', 'ko', 'de' or 'fr'",
        ),
        ({"language": "it"}, "language", "must be one of 'zh', 'yue', 'en', 'ja', 'ko', 'de' or 'fr'"),
        ({"seconds": 0.1}, "seconds", "must be at least 0.2"),
        ({"seconds": 16}, "seconds", "must be at most 15 without audio"),
        ({"seconds": 16, "audio": None, "resolution": "540p"}, "seconds", "must be at most 15 without audio"),
        ({"seconds": 15.1, "audio": "a.wav", "resolution": "1080p"}, "seconds", "must be at most 15 at 1080p"),
        ({"seconds": 60.1, "audio": "a.wav", "resolution": "540p"}, "seconds", "must be at most 60 at 540p"),
        ({"seconds": "61", "audio": "a.wav"}, "seconds", "must be at most 60 at 256p"),
        ({"seconds": "long"}, "seconds", "must be a number"),
        ({"seconds": float("nan")}, "seconds", "must be a number"),
        ({"seconds": True}, "seconds", "must be a number"),
        ({"resolution": "720p"}, "resolution", "must be one of '256p', '540p' or '1080p'"),
        ({"aspect": "4:3"}, "aspect", "must be one of '16:9', '9:16' or '1:1'"),
        ({"seed": -1}, "seed", "must be at least 0"),
        ({"seed": 1.5}, "seed", "must be a whole number"),
        ({"secnods": 3}, "secnods", "is unknown; known here: id, prompt, language"),
    ],
)
def test_a_bad_field_is_named_with_what_is_allowed(fields, field, reason):
    with pytest.raises(ValidationError) as caught:
        request(**fields)
    named, value, told = describe_validation_error(caught.value)
    assert named == field
    assert told.startswith(reason)
    assert "\n" not in told
    if field in fields:
        assert value is fields[field] or value == fields[field]


def test_every_problem_of_a_row_is_told_at_once():
    with pytest.raises(ValidationError) as caught:
        ClipRequest.model_validate({"id": "a", "seconds": 99})
    assert describe_validation_error(caught.value) == (
        "prompt",
        None,
        "is missing; also language is missing; also seconds must be at most 15 without audio",
    )


@pytest.mark.parametrize("fields", [{"audio": 3}, {"resolution": "720p"}])
def test_seconds_are_not_blamed_for_what_they_are_measured_by(fields):
    with pytest.raises(ValidationError) as caught:
        request(seconds=99, **fields)
    assert [error["loc"] for error in caught.value.errors()] == [tuple(fields)]


@pytest.mark.parametrize(("resolution", "seconds"), [("256p", 60), ("540p", 60), ("1080p", 15)])
def test_a_recording_may_drive_a_clip_longer_than_text(resolution, seconds):
    assert request(audio="a.wav", resolution=resolution, seconds=seconds).seconds == seconds


def test_options_are_those_of_the_model():
    for resolution in RESOLUTIONS:
        for aspect in ASPECTS:
            asked = request(resolution=resolution, aspect=aspect)
            assert (asked.resolution, asked.aspect) in PIXEL_SIZES
    for language in LANGUAGES:
        assert request(language=language).language == language


def test_a_structured_prompt_is_composed_in_the_releases_form():
    composed = request(
        language="zh",
        prompt={
            "description": " A woman at a desk. ",
            "dialogue": [
                {"speaker": "Woman", "line": "你好，世界 ok"},
                {"speaker": "Man", "line": "Hello.", "language": "en"},
            ],
            "background_sound": "Rain",
        },
    ).prompt_text()
    assert composed == (
        "A woman at a desk.\n\n"
        'Dialogue:\n<Woman, Mandarin>: "你 好，世 界 ok"\n<Man, English>: "Hello."\n\n'
        "Background Sound:\n<Rain>"
    )


@pytest.mark.parametrize(
    ("text", "spaced"),
    [
        ("你好", "你 好"),
        ("こんにちは。元気", "こ ん に ち は。元 気"),
        ("안녕 하세요", "안 녕 하 세 요"),
        ("Grüß Gott", "Grüß Gott"),
    ],
)
def test_cjk_characters_are_spaced(text, spaced):
    assert space_cjk(text) == spaced


def test_seeds_come_from_the_row_and_differ_per_stage():
    assert request(seed=7).resolved_seed == 7
    assert request(id="a").resolved_seed == request(id="a", prompt="other").resolved_seed
    assert request(id="a").resolved_seed != request(id="b").resolved_seed
    assert request(seed=7).stage_seed("base_generation") != request(seed=7).stage_seed("super_resolution")
    assert 0 <= request(id="b").stage_seed("x") < 2**63


def test_flat_files_may_hold_json_and_numbers_as_text():
    flat = request(prompt='{"description": "x"}', seconds="2.5", seed="7", metadata='{"a": 1}')
    assert (flat.seconds, flat.seed, flat.metadata) == (2.5, 7, {"a": 1})
    assert flat.prompt_text().startswith("x\n\n")
