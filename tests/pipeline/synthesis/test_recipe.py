"""Recipes: what they say, and what is refused in one line that names the field and what is allowed."""

from pathlib import Path

import pytest
import yaml

from pipeline.synthesis.dataset import _RESULT_COLUMNS, _SAMPLE_FIELDS
from pipeline.synthesis.recipe import COLUMNS_OF_ALL, REQUEST_AXES, RecipeError, read_recipe

EXAMPLE = Path(__file__).parents[3] / "examples" / "recipe.yaml"
GOOD = {
    "name": "talk",
    "clips": 10,
    "axes": {"language": {"en": 3, "ja": 1}, "speaker": ["Woman", "Man"], "scene": ["office", "garden"]},
    "lines": {"en": ["Hello.", "Good morning."], "ja": ["こんにちは。"]},
    "description": "{speaker} in the {scene}.",
}


def recipe(tmp_path, **changes):
    path = tmp_path / "recipe.yaml"
    values = {name: value for name, value in (GOOD | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(values, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return read_recipe(str(path))


def axes(**changes):
    return {"axes": GOOD["axes"] | changes}


def test_the_example_is_a_recipe():
    found = read_recipe(str(EXAMPLE))
    assert found.clips == 30
    assert set(found.lines) == {"zh", "yue", "en", "ja", "ko", "de", "fr"}
    assert found.lines["en"] == ("Hello!", "Good morning!", "Thank you.", "Goodbye!"), "read from a file beside it"


def test_values_have_weights_and_texts(tmp_path):
    speakers = [{"value": "Woman", "weight": 2, "text": "A tall woman", "she": "She"}, {"value": "Man", "she": "He"}]
    made = recipe(
        tmp_path, **axes(speaker=speakers, seconds=[2, 3.5]), description="{speaker}, {scene}. {speaker.she}."
    )
    assert [(one.value, one.weight) for one in made.axes["speaker"]] == [("Woman", 2.0), ("Man", 1.0)]
    assert made.describe({"speaker": "Woman", "scene": "office"}) == "A tall woman, office. She."
    assert made.describe({"speaker": "Man", "scene": "garden"}) == "Man, garden. He."
    assert [one.value for one in made.axes["seconds"]] == [2.0, 3.5]


def test_a_weight_of_nothing_leaves_a_value_out(tmp_path):
    made = recipe(tmp_path, **axes(language={"en": 1, "ja": 0}))
    assert [one.value for one in made.drawn("language")] == ["en"]
    assert recipe(tmp_path, **axes(language={"en": 1, "ja": 0}), lines={"en": ["Hello."]}), "needs no lines then"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a.b"}, "name='a.b' must be 1 to 40 letters, digits, underscores or hyphens"),
        ({"clips": 0}, "clips=0 must be at least 1"),
        ({"clips": 4.5}, "clips=4.5 must be a whole number"),
        ({"clips": None}, "one of clips and hours must be there"),
        ({"hours": 2}, "one of clips and hours must be there"),
        ({"colour": "red"}, "'colour' is unknown; known here: name, seed, clips"),
        (axes(language=None), "axes.language"),
        (axes(language={"en": 1, "es": 1}), "axes.language must be of zh, yue, en, ja, ko, de, fr, got 'es'"),
        (axes(language={"en": -1}), "must have weights from 0 to 1,000,000,000, got -1"),
        (axes(language={"en": float("nan")}), "must have weights from 0 to 1,000,000,000, got nan"),
        (axes(language={"en": 10**400}), "must have weights from 0 to 1,000,000,000, got 1000"),
        (axes(aspect=[969]), "axes.aspect must be texts, got 969.0: put it in quotes"),
        (axes(scene=[" "]), "must have texts or numbers for values, got ' '"),
        (
            axes(scene=[{"value": "a", "text": "a room"}, {"value": "b", "text": "a room"}]),
            "another text for each value",
        ),
        ({"lines": GOOD["lines"] | {"en": ["Hi.", " Hi. "]}}, "lines.en must not have a line twice: 'Hi.'"),
        ({"hours": True, "clips": None}, "hours=True must be a number"),
        ({"": 1}, "'' is unknown"),
        (axes(language={"en": 0}), "must have a weight above 0"),
        (axes(scene=["office", "office"]), "must not have 'office' twice"),
        (axes(scene=["{speaker}"]), "must not hold braces"),
        (axes(scene=[{"value": "office", "text": 3}]), "must have texts besides value and weight, got text: 3"),
        (axes(scene=[True]), "yes, no and times such as 16:9 need quotes"),
        (axes(seconds=[0.5]), "axes.seconds must be numbers from 1 to 10, got 0.5"),
        (axes(resolution=["720p"]), "axes.resolution must be of 256p, 540p, 1080p, got '720p'"),
        (axes(speaker=["Woman", 7]), "axes.speaker must be texts, got 7.0: put it in quotes"),
        (axes(camera=["close"]), "description must hold {camera}, else the axis changes nothing"),
        (axes(Mood=["a"]), "axes must have names of lower-case letters"),
        (axes(split=["a"]), "axes must not have split: the index has a column of this name"),
        (axes(prompt=["a"]), "axes must not have prompt: the index has a column of this name"),
        ({"description": "{speaker} in the {scene}, {mood}."}, "description must name axes in its braces, got 'mood'"),
        ({"description": "{speaker.she} in the {scene}."}, "which 'Woman' of the axis does not have"),
        ({"lines": {"en": ["Hello."]}}, "lines must have ja, which axes.language has"),
        ({"lines": GOOD["lines"] | {"ja": []}}, "lines.ja must have a line"),
        ({"lines": GOOD["lines"] | {"ja": ["Hello."]}}, "lines.ja 'Hello.' must be in kana or Chinese characters"),
        ({"lines": GOOD["lines"] | {"en": ["Hi.", "Hi."]}}, "lines.en must not have a line twice: 'Hi.'"),
        ({"lines": GOOD["lines"] | {"en": ["word " * 80]}}, "the longest clip has 10: shorten it"),
        (
            {**axes(seconds=[1]), "lines": GOOD["lines"] | {"en": ["Good morning, ladies and gentlemen."]}},
            "the longest clip has 1: shorten it",
        ),
        ({"lines": GOOD["lines"] | {"en": "absent.txt"}}, "absent.txt"),
        ({"lines": GOOD["lines"] | {"en": "/etc/hostname"}}, "lines.en='/etc/hostname': "),
        ({"constraints": [{"when": {"scene": "office"}}]}, "must hold one of allow and forbid"),
        (
            {"constraints": [{"when": {"scene": "lab"}, "forbid": {"speaker": "Man"}}]},
            "constraint 1 speaks of scene lab, which has office, garden",
        ),
        (
            {"constraints": [{"when": {"mood": "calm"}, "forbid": {"speaker": "Man"}}]},
            "constraint 1 speaks of mood, axes are language, speaker, scene",
        ),
        ({"splits": {"train": 0}}, "splits.train=0 must have weights above 0"),
        (
            {"splits": {"train": 1, "Train": 1}},
            "splits must differ where upper and lower case are one, got train twice",
        ),
        ({"constraints": [{"when": {"scene": []}, "forbid": {"speaker": "Man"}}]}, "must name a value of 'scene'"),
        ({"splits": {}}, "splits"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path, changes, message):
    with pytest.raises((RecipeError, OSError)) as caught:
        recipe(tmp_path, **changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value), "it names the file"


def test_every_column_of_the_index_is_kept_from_axes():
    """An axis of such a name would be lost, or stop the index once all clips are made."""
    ours = {field.name for field in _SAMPLE_FIELDS} | {*_RESULT_COLUMNS.values()} | {"shard", "place"}
    assert ours - {*REQUEST_AXES} <= {*COLUMNS_OF_ALL}


def test_text_that_is_no_recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    for text in ("", "- 1", "name: [", "name: a\nname: b"):
        path.write_text(text)
        with pytest.raises(RecipeError, match=r"recipe .*: "):
            read_recipe(str(path))
