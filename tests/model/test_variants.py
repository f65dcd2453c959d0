from dataclasses import replace

import pytest
import torch

from model.checkpoint_files import CheckpointError
from model.components import check_tensors
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.variants import VARIANTS, config_from_shapes, release_config
from tests.tiny_checkpoint import tiny_config


def shapes_of(config: TransformerConfig) -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: list(tensor.shape) for name, tensor in Transformer(config).state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_sizes_are_derived_from_shapes_alone(variant, golden):
    assert config_from_shapes(shapes_of(tiny_config(variant)), variant) == tiny_config(variant)
    recorded = {name: shape for name, (shape, _) in golden("release_shapes.json")["dit"].items()}
    assert config_from_shapes(recorded, variant) == release_config(variant)


@pytest.mark.parametrize("switch", ["attention_gates", "timestep_embedding"])
@pytest.mark.parametrize("make", [tiny_config, release_config])
def test_a_switched_part_shows_in_the_shapes(make, switch):
    config = replace(make("base"), **{switch: not getattr(make("base"), switch)})
    assert config_from_shapes(shapes_of(config), "base") == config


def test_a_model_without_sandwich_shows_in_the_shapes():
    config = replace(tiny_config("base"), expert_layers=())
    assert config_from_shapes(shapes_of(config), "base") == config


def test_only_the_1080p_model_has_local_attention():
    for variant in ("base", "distill", "sr_540p"):
        assert release_config(variant).local_attention_layers == ()
    full = set(range(40)) - set(release_config("sr_1080p").local_attention_layers)
    assert full == {3, 7, 11, 15, 19, 23, 27, 31}
    assert release_config("sr_1080p").local_attention_radius == 11


def test_base_models_and_sr_models_differ_in_positions():
    assert [release_config(variant).position_style for variant in VARIANTS] == ["base", "base", "sr", "sr"]


def test_a_checkpoints_own_config_wins():
    config = config_from_shapes(
        shapes_of(tiny_config("sr_1080p")), "sr_1080p", {"local_attention_radius": 2, "local_attention_layers": [1]}
    )
    assert (config.local_attention_radius, config.local_attention_layers) == (2, (1,))


def test_an_override_of_the_wrong_kind_is_named():
    with pytest.raises(ValueError, match="local_attention_layers must be a list of whole numbers, got 5"):
        config_from_shapes(shapes_of(tiny_config("base")), "base", {"local_attention_layers": 5})


def spoilt(shapes):
    """Every way to spoil one tensor: leave it out, lengthen it, turn it over."""
    for name, shape in shapes.items():
        yield name, {other: value for other, value in shapes.items() if other != name}
        if name != "adapter.text_embedder.weight":  # the one tensor that tells how wide text features are
            yield name, shapes | {name: [*shape[:-1], shape[-1] + 1]}
        if len(set(shape)) > 1:
            yield name, shapes | {name: shape[::-1]}


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["base", "sr_1080p"])
def test_one_wrong_tensor_is_the_one_that_is_named(variant):
    shapes = shapes_of(tiny_config(variant))
    count = 0
    for name, wrong in spoilt(shapes):
        with torch.device("meta"):
            expected = Transformer(config_from_shapes(wrong, variant)).state_dict()
        with pytest.raises(CheckpointError, match=rf"^x: tensor {name} (is missing|has shape)"):
            check_tensors("x", {other: tensor.shape for other, tensor in expected.items()}, wrong)
        count += 1
    assert count > 2 * len(shapes)


def test_what_is_no_transformer_is_named():
    with pytest.raises(ValueError, match=r"adapter.video_embedder.bias or block.* is missing: this is no daVinci"):
        config_from_shapes({"something": [1]}, "base")
    with pytest.raises(ValueError, match="variant must be one of base, distill, sr_540p, sr_1080p, got 'turbo'"):
        tiny_config("turbo")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("hidden_size", 100, "hidden_size must be a multiple of head_dim 128, got 100"),
        ("head_dim", 4, "head_dim must be even and at least 8, got 4"),
        ("num_kv_heads", 7, "num_kv_heads must divide the 40 query heads, got 7"),
        ("local_attention_radius", -1, "local_attention_radius must be a whole number >= 0, got -1"),
        ("local_attention_radius", "x", "local_attention_radius must be a whole number >= 0, got 'x'"),
        ("expert_layers", (40,), r"expert_layers must lie between 0 and 39, got \[40\]"),
    ],
)
def test_a_bad_configuration_names_field_value_and_rule(field, value, message):
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**{field: value})
