"""Sampling keeps every weight within one clip, no content twice, and what does not go together apart."""

import random
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.synthesis.draw import share_out
from pipeline.synthesis.recipe import Recipe, RecipeError, read_recipe
from pipeline.synthesis.sampling import expected_counts, sample

PATH = Path(__file__).parents[3] / "examples" / "recipe.yaml"
EXAMPLE = read_recipe(str(PATH))
WRITTEN = yaml.safe_load(PATH.read_text(encoding="utf-8")) | {"lines": EXAMPLE.lines}


def changed(**changes):
    return Recipe.model_validate(WRITTEN | changes)


@given(
    weights=st.lists(st.floats(0, 100), min_size=1, max_size=12).filter(any),
    num_clips=st.integers(1, 10_000),
    offset=st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=300, deadline=None)
def test_every_share_is_rounded_down_or_up(weights, num_clips, offset):
    counts = share_out(weights, num_clips, offset)
    assert sum(counts) == num_clips
    for weight, count in zip(weights, counts, strict=True):
        assert abs(count - num_clips * weight / sum(weights)) < 1 + 1e-9


def test_over_many_partitions_shares_have_no_bias():
    draw = random.Random(1)
    counts = [share_out([1, 1, 5], 10, draw.random()) for _ in range(4000)]
    means = [sum(column) / len(counts) for column in zip(*counts, strict=True)]
    assert means == pytest.approx([10 / 7, 10 / 7, 50 / 7], abs=0.04)


@pytest.mark.parametrize("partition", ["2026-11-22", "2026-11-23", "x"])
def test_weights_hold_within_one_clip(partition):
    for axis, counts in expected_counts(EXAMPLE, sample(EXAMPLE, partition, {})).items():
        for value, wanted, found in counts:
            assert abs(found - wanted) < 1, (axis, value)


def test_constraints_hold_and_they_would_not_by_chance():
    clips = sample(EXAMPLE, "a", {})
    free = sample(changed(constraints=[]), "a", {})

    def broken(found):
        return sum(one.is_broken_by(clip.values) for clip in found for one in EXAMPLE.constraints)

    assert broken(clips) == 0 < broken(free)


def test_the_same_arguments_give_the_same_clips():
    assert sample(EXAMPLE, "a", {}) == sample(EXAMPLE, "a", {})
    first = {clip.content for clip in sample(EXAMPLE, "a", {})}
    assert first != {clip.content for clip in sample(EXAMPLE, "b", {})}
    assert first != {clip.content for clip in sample(changed(seed=21), "a", {})}


def test_no_content_comes_twice_in_any_partition():
    taken = set()
    for number in range(12):
        clips = sample(EXAMPLE, f"night-{number}", {}, taken)
        contents = {clip.content for clip in clips}
        assert len(contents) == 30
        assert not contents & taken
        taken |= contents
    free = sum(
        len({clip.content for clip in sample(EXAMPLE, f"night-{number}", {})} & taken) for number in range(20, 25)
    )
    assert free > 0, "without being told, partitions would share contents"


def test_contents_differ_by_what_the_model_gets():
    """Renaming a value is no other content; another text is."""
    axes = WRITTEN["axes"]

    def contents(scenes):
        made = changed(axes=axes | {"scene": scenes}, constraints=[])
        return [clip.content for clip in sample(made, "a", {})]

    renamed = [one | {"value": f"{one['value']}-2"} for one in axes["scene"]]
    retold = [one | {"text": f"{one['text']}, far away"} for one in axes["scene"]]
    assert contents(renamed) == contents(axes["scene"])
    assert not set(contents(retold)) & set(contents(axes["scene"]))


def test_values_that_come_to_the_same_text_are_one_content():
    """Two axes can make the same description together, though each of their values has a text of its own."""
    axes = {"language": {"en": 1}, "a": ["x", "xy"], "b": ["yz", "z"]}
    made = changed(axes=axes, description="{a}{b}", constraints=[], clips=12)
    assert len({clip.content for clip in sample(made, "a", {})}) == 12, "of 16 combinations with 12 contents"
    with pytest.raises(RecipeError, match="are the same as another clip"):
        sample(made.model_copy(update={"clips": 13}), "a", {})


def test_lines_of_a_language_come_equally_often():
    clips = sample(changed(clips=280), "a", {})
    by_language = {}
    for clip in clips:
        by_language.setdefault(clip.request.language, Counter())[clip.line] += 1
    for language, counts in by_language.items():
        assert len(counts) == len(EXAMPLE.lines[language])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_line_is_given_the_seconds_it_needs():
    lines = {**EXAMPLE.lines, "en": ["Hi.", "Good morning to all of you and welcome."]}
    made = changed(lines=lines, axes=WRITTEN["axes"] | {"seconds": {1.4: 2, 4.0: 1}})
    long = [clip for clip in sample(made, "a", {}) if clip.line.endswith("welcome.")]
    assert long
    assert {clip.request.seconds for clip in long} == {4.0}


@pytest.mark.slow
@pytest.mark.parametrize("hours", [0.0001, 0.01, 0.1, 0.3])
@pytest.mark.parametrize("has_seconds", [True, False])
def test_hours_are_met_within_a_clip(hours, has_seconds):
    axes = {name: values for name, values in WRITTEN["axes"].items() if has_seconds or name != "seconds"}
    made = changed(clips=None, hours=hours, axes=axes)
    clips = sample(made, "a", {})
    assert sum(clip.request.seconds for clip in clips) == pytest.approx(hours * 3600, abs=1.6)


def test_requests_are_as_the_recipe_says():
    for place, clip in enumerate(sample(EXAMPLE, "2026-11-22", {})):
        request = clip.request
        assert request.id == f"greetings-2026-11-22-{place:06d}"
        assert request.language == clip.values["language"]
        assert clip.line in EXAMPLE.lines[request.language]
        assert request.prompt.dialogue[0].line == clip.line
        assert request.prompt.dialogue[0].speaker == clip.values["speaker"]
        assert request.metadata["split"] == clip.split
        assert request.prompt.description.startswith("A woman" if clip.values["speaker"] == "Woman" else "A man")
    seeds = {clip.request.seed for clip in sample(EXAMPLE, "a", {}) + sample(EXAMPLE, "b", {})}
    assert len(seeds) == 60


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clips": 20_000}, "different ones: add lines or values, or ask for fewer clips"),
        (
            {"constraints": [{"when": {"speaker": "Woman"}, "forbid": {"shirt": ["white", "green", "yellow"]}}]},
            "constraint 1 (when speaker Woman forbid shirt white|green|yellow) cannot hold: by weights 15 of 30 clips",
        ),
        (
            {
                "constraints": [
                    {"when": {"speaker": "Woman", "hair": "red"}, "forbid": {"shirt": "white"}},
                    {"when": {"speaker": "Woman", "hair": "red"}, "allow": {"shirt": "white"}},
                    {"when": {"speaker": "Man"}, "forbid": {"hair": "red"}},
                ]
            },
            "no way was found to keep the weights of 30 clips: ",
        ),
    ],
)
def test_what_cannot_be_had_is_said(changes, message):
    with pytest.raises(RecipeError) as caught:
        sample(changed(**changes), "a", {})
    assert message in str(caught.value)


def test_texts_that_are_too_long_together_are_one_line():
    axes = {
        "language": {"en": 1},
        "a": [{"value": "a", "text": "x" * 15_000}],
        "b": [{"value": "b", "text": "y" * 9000}],
    }
    made = changed(axes=axes, description="{a}{b}", constraints=[], clips=1)
    with pytest.raises(
        RecipeError, match=r"a clip of the recipe cannot be asked for: .* must be at most 20,000"
    ) as caught:
        sample(made, "a", {})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_contents_that_are_used_up_are_said():
    small = changed(
        clips=4,
        axes={"language": {"en": 1}, "speaker": ["Woman"], "hair": ["red"]},
        description="{speaker}, {hair} hair.",
        constraints=[],
    )
    taken = {clip.content for clip in sample(small, "a", {})}
    assert len(taken) == 4
    with pytest.raises(RecipeError, match="4 are in another partition already"):
        sample(small, "b", {}, taken)


@pytest.mark.parametrize("num_clips", [1, 2, 3, 5, 8])
def test_few_clips_can_be_had_whatever_their_constraints(num_clips):
    for number in range(20):
        clips = sample(changed(clips=num_clips), f"night-{number}", {})
        assert len(clips) == num_clips
        assert not any(one.is_broken_by(clip.values) for clip in clips for one in EXAMPLE.constraints)
