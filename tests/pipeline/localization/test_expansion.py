"""From scenes to clips: what is asked for, and what is told of."""

import pytest

from actors.references import AllowedReferences
from pipeline.localization.campaign import CampaignRow, Scene
from pipeline.localization.expansion import expand, languages_of

LONG = "This is a sentence of a dozen words that takes a while to say."


def row(number=1, **values):
    values = {"id": f"s{number}", "scene": "word " * 150, "speaker": "Man", "line": {"en": "Hello"}} | values
    return CampaignRow(number, values["id"], Scene.model_validate(values))


def expanded(*rows, languages=("en",), exists=True, may_split=False):
    references = AllowedReferences.of_manifest("/data/campaign.csv")
    return expand(rows, languages, references, "/data", lambda url: exists, may_split)


def reasons(expansion):
    return [
        f"{rejection.scene}/{rejection.language}: {rejection.failure.field} {rejection.failure.reason}"
        for rejection in expansion.rejections
    ]


def test_a_clip_per_scene_and_language():
    one = row(1, line={"en": "Hello", "ja": "はい"}, image="a.png", background_sound="Rain", aspect="9:16")
    expansion = expanded(one, row(2), languages=["en", "ja"])
    assert [clip.request.id for clip in expansion.clips] == ["s1.en", "s1.ja", "s2.en"]
    first, second, other = (clip.request for clip in expansion.clips)
    assert first.image == "/data/a.png"
    assert (first.aspect, first.seconds) == ("9:16", 1.0)
    assert first.prompt_text().endswith('Dialogue:\n<Man, English>: "Hello"\n\nBackground Sound:\n<Rain>')
    assert '<Man, Japanese>: "は い"' in second.prompt_text()
    assert first.seed == second.seed != other.seed, "a scene looks the same in all languages"
    assert first.metadata == {"scene": "s1"}
    assert reasons(expansion) == ["s2/ja: line.ja is missing: write it, or leave ja out"]
    assert expansion.notes == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("Здравствуйте", r"must be in Latin letters"),
        ('He said "no"', r'must not hold ",.*take “ ” or none'),
        ("a <b>", "must not hold <"),
        ("a\nb", r"control characters, got U\+000A at character 2"),
        (7, "must be text"),
        (
            f"{LONG} " * 4,
            r"is too long: it takes about 1\d\.\d s and 10 is the most; cut about \d+ of \d+ characters, or split",
        ),
    ],
)
def test_a_line_that_cannot_be_said_is_told_of_and_the_other_is_made(line, reason):
    expansion = expanded(row(line={"en": line, "de": "Hallo"}), languages=["en", "de"])
    assert [clip.request.id for clip in expansion.clips] == ["s1.de"]
    (told,) = expansion.rejections
    assert (told.language, told.failure.field) == ("en", "line.en")
    with pytest.raises(ValueError, match=reason):
        raise ValueError(told.failure.reason)


def test_a_language_that_the_model_lacks_is_told_of():
    expansion = expanded(row(line={"en": "Hello", "es": "Hola"}))
    assert [clip.request.id for clip in expansion.clips] == ["s1.en"]
    assert reasons(expansion) == ["s1/es: line.es is no language of the model: zh, yue, en, ja, ko, de, fr"]


def test_an_image_that_is_not_there_or_not_allowed_costs_its_scene_alone():
    expansion = expanded(row(1, image="no.png"), row(2), exists=False)
    assert [clip.scene for clip in expansion.clips] == ["s2"]
    assert reasons(expansion) == ["s1/: image is not there: /data/no.png"]
    expansion = expanded(row(1, image="../no.png"), row(2))
    assert [clip.scene for clip in expansion.clips] == ["s2"]
    assert "must lie under /data/" in reasons(expansion)[0]


def test_a_line_is_as_long_as_it_takes_and_split_where_it_is_too_long():
    (clip,) = expanded(row(line={"en": LONG})).clips
    assert clip.part is None
    assert 2.5 < clip.request.seconds < 5
    expansion = expanded(row(line={"en": f"{LONG} " * 4}), may_split=True)
    assert [clip.request.id for clip in expansion.clips] == ["s1.en.1", "s1.en.2"]
    assert [clip.line for clip in expansion.clips] == [f"{LONG} {LONG}"] * 2
    assert all(5 < clip.request.seconds <= 10 for clip in expansion.clips)
    assert {clip.part for clip in expansion.clips} == {1, 2}
    endless = "word " * 60 + "end."
    expansion = expanded(row(line={"en": f"Hello there. {endless}"}), may_split=True)
    assert not expansion.clips, "no half of a line is made"
    assert "the sentence 'word word" in reasons(expansion)[0]


def test_seconds_that_are_given_count_and_a_line_that_may_not_fit_is_noted():
    expansion = expanded(row(line={"en": LONG}, seconds=2))
    assert expansion.clips[0].request.seconds == 2
    assert len(expansion.notes) == 1
    assert expansion.notes[0].startswith("clip s1.en: its line takes about ")
    assert expansion.notes[0].endswith(" s, seconds is 2")


def test_a_thin_description_is_noted():
    expansion = expanded(row(scene="A man"))
    assert expansion.notes == ["scene s1: its description has 2 words; the model was tuned on 150 to 200"]


def test_languages_come_in_the_model_s_order():
    assert languages_of([row(line={"fr": "a", "en": "b", "xx": "c"}), row(line={"zh": "你"})]) == ["zh", "en", "fr"]
