"""Recipes: those that are kept are sound, and a fault is one line."""

from pathlib import Path

import pytest
import yaml

from actors.training.recipe import RecipeError, check_methods, load_recipe

RECIPES = Path(__file__).parents[3] / "recipes"
STAGES = ("audio_codec", "video_autoencoder", "base", "super_resolution", "distillation")


@pytest.mark.parametrize("stage", STAGES)
def test_the_recipes_that_are_kept_are_sound(stage):
    recipe = load_recipe(str(RECIPES / "mini" / f"{stage}.yaml"))
    assert recipe.stage == stage
    assert recipe.optimiser.num_steps > 0


@pytest.mark.parametrize("path", sorted(RECIPES.glob("release/*.yaml")), ids=lambda path: path.stem)
def test_recipes_for_the_releases_size_are_sharded(path):
    recipe = load_recipe(str(path))
    assert recipe.stage == path.stem
    assert recipe.is_sharded
    assert recipe.recomputes_layers


def test_overrides_win_and_lists_become_what_the_network_takes():
    overrides = {"training.optimiser.num_steps": 3, "network.expert_layers": [0]}
    recipe = load_recipe(str(RECIPES / "mini" / "base.yaml"), overrides)
    assert recipe.optimiser.num_steps == 3
    assert recipe.network.expert_layers == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": "bass"}, "stage"),
        ({"batch_size": 0}, "batch_size=0: "),
        ({"colour": 1}, "colour=1: "),
        ({"training": {"optimiser": {"learning_rate": 1e-3, "num_steps": 9}, "shift": -1}}, "shift must be more than"),
        ({"training": {"optimiser": {"learning_rate": 1e-3, "num_steps": 9, "momentum": 1}}}, "momentum=1: "),
        ({"network": {"hidden_size": 10, "head_dim": 16}}, "hidden_size must be a multiple of head_dim 16, got 10"),
    ],
)
def test_a_fault_is_one_line_that_names_file_field_and_value(tmp_path, change, message):
    values = yaml.safe_load((RECIPES / "mini" / "base.yaml").read_text())
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values | change))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    text = str(caught.value)
    assert text.startswith(f"recipe {path}: ")
    assert message in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("stage", "name"),
    [("base", "training.optimiser"), ("distillation", "training.student"), ("distillation", "training.fake")],
)
def test_muon_and_sharding_exclude_each_other(stage, name):
    url = str(RECIPES / "release" / f"{stage}.yaml")
    check_methods(load_recipe(url))
    muon = {f"{name}.method": "muon"}
    check_methods(load_recipe(url, muon | {"is_sharded": False}))
    with pytest.raises(RecipeError, match=rf"^{name}\.method must be adamw with is_sharded, got muon$"):
        check_methods(load_recipe(url, muon))


@pytest.mark.parametrize("text", ["- 1\n", "{", "3"])
def test_what_is_no_recipe_is_told(tmp_path, text):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"recipe .*recipe.yaml: "):
        load_recipe(str(path))


def test_an_absent_recipe_is_told(tmp_path):
    with pytest.raises(RecipeError, match="not found"):
        load_recipe(str(tmp_path / "none.yaml"))
