from dataclasses import asdict

import pytest

from actors.training.recipe import load_recipe
from pipeline.training_memory import clip_layout, training_memory
from tests.actors.training.test_recipe import RECIPES
from tests.tiny_checkpoint import tiny_config

CLIP = clip_layout(448, 256, 1.0, 50)


@pytest.fixture
def measure():
    """The dry run of a release recipe of tiny size on two GPUs that each hold all of it, with values of its own."""

    def run(stage, **overrides):
        values = {"is_sharded": False, "recomputes_layers": False, "batch_size": 2}
        if stage == "base":
            values |= {f"network.{name}": value for name, value in asdict(tiny_config("base")).items()}
        recipe = load_recipe(str(RECIPES / "release" / f"{stage}.yaml"), values | overrides)
        return training_memory(recipe, tiny_config("base"), CLIP, 2)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["base", "distillation"])
def test_precision_and_method_are_the_recipes(measure, stage):
    narrow, wide = measure(stage, precision="bf16"), measure(stage, precision="fp32")
    assert wide.activations_bytes != narrow.activations_bytes
    assert (wide.parameters_bytes > narrow.parameters_bytes) == (stage == "distillation")
    for name in {"base": ("optimiser",), "distillation": ("student", "fake")}[stage]:
        muon = measure(stage, **{f"training.{name}.method": "muon"})
        assert muon.optimiser_bytes < narrow.optimiser_bytes
        assert muon.gradients_bytes == narrow.gradients_bytes
