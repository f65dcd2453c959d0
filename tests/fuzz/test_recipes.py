"""Recipes of any kind: clips can be drawn by them, or one line says what cannot be followed."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from actors.storage import StorageError
from pipeline.synthesis.recipe import RecipeError, read_recipe
from pipeline.synthesis.sampling import sample
from tests.hostile import outcome, repeatable, texts, values

EXAMPLE = Path(__file__).parents[2] / "examples" / "recipe.yaml"
GOOD = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8")) | {"clips": 5}
GOOD["lines"]["en"] = ["Hello!", "Goodbye!"]
AXES = [*GOOD["axes"], "image", "caption", "background_sound", "resolution"]


@st.composite
def recipes(draw):
    """A recipe that was good before one to three of its parts were replaced."""
    recipe = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        part, value = draw(st.integers(0, 6)), draw(values)
        if part == 0:
            recipe[draw(st.one_of(st.sampled_from([*GOOD]), texts))] = value
        elif part == 1:
            recipe["axes"] = GOOD["axes"] | {draw(st.one_of(st.sampled_from(AXES), texts)): value}
        elif part == 2:
            recipe["axes"] = GOOD["axes"] | {"scene": [draw(st.one_of(values, st.builds(dict, value=values)))]}
        elif part == 3:
            recipe["lines"] = GOOD["lines"] | {draw(st.sampled_from(["en", "zh", "xx"])): value}
        elif part == 4:
            recipe["constraints"] = draw(st.one_of(values, st.lists(st.builds(dict, when=values, forbid=values))))
        elif part == 5:
            recipe["splits"] = draw(st.one_of(values, st.dictionaries(texts, values, max_size=2)))
        else:
            recipe["description"] = draw(texts) + "{scene.text} {hair} {shirt} {emotion}"
    return recipe


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes") / "recipe.yaml"


@pytest.mark.slow
def test_any_recipe_is_followed_or_told_of(path):
    followed = 0

    @repeatable(150)
    @given(recipes())
    def follow(written):
        nonlocal followed
        path.write_bytes(yaml.safe_dump(written, allow_unicode=False).encode(errors="backslashreplace"))
        recipe, error = outcome(lambda: read_recipe(str(path)), RecipeError, StorageError)
        if error is None:
            images = {str(one.value): "/a.png" for one in recipe.axes.get("image", ())}
            clips, error = outcome(lambda: sample(recipe, "p", images), RecipeError)
        if error is None:
            followed += 1
            assert len(clips) == recipe.clips
            assert len({clip.content for clip in clips}) == len(clips)
            return
        assert "\n" not in str(error)
        assert len(str(error)) < 2000

    follow()
    assert followed > 5, "some are good still"
