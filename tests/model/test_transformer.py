import pytest
import torch

from model.transformer import ExpertRMSNorm, RotaryEmbedding, Transformer, TransformerConfig


def test_full_size_stores_blocks_in_bf16_and_the_rest_in_fp32():
    with torch.device("meta"):
        model = Transformer(TransformerConfig())
    sizes = {torch.bfloat16: 0, torch.float32: 0}
    for name, parameter in model.named_parameters():
        is_linear = name.startswith("block.") and not name.endswith("norm.weight")
        assert parameter.dtype == (torch.bfloat16 if is_linear else torch.float32), name
        sizes[parameter.dtype] += parameter.numel()
    assert sum(sizes.values()) / 1e9 == pytest.approx(15.3, abs=0.05)


@pytest.mark.parametrize("num_experts", [1, 3])
def test_the_norms_epsilon_is_a_millionth(num_experts):
    """The recordings' activations are of order one, where it does not show."""
    norm = ExpertRMSNorm(4, num_experts)
    x_ND = torch.tensor([[1e-3, -1e-3, 1e-3, 1e-3]]).repeat(3, 1)
    torch.testing.assert_close(norm(x_ND, (1, 1, 1)), x_ND / (1e-6 + 1e-6) ** 0.5)


def test_a_new_models_rotary_bands_are_those_of_the_recorded_one(golden):
    """A checkpoint brings its own, so that no comparison of outputs sees ours."""
    config, weights = golden("dit_config.json"), golden("dit_weights.safetensors")
    torch.testing.assert_close(RotaryEmbedding(config["head_dim"]).bands, weights["adapter.rope.bands"])
    torch.testing.assert_close(RotaryEmbedding(128).bands, 10_000 ** (-torch.arange(16) / 16))
