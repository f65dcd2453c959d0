from dataclasses import replace

import pytest
import torch

from model.denoiser import Denoiser, Latents
from model.experts import ExpertRMSNorm
from model.packing import SequenceLayout
from model.transformer import RotaryEmbedding, Transformer
from model.transformer_config import TransformerConfig
from tests.tiny_checkpoint import tiny_config


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


def one_clip(config, levels=None, seed=0, **options):
    """Velocities of a small clip from a Transformer with weights that do something."""
    torch.manual_seed(seed)
    model = Transformer(config, compute_dtype=torch.float32, **options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randn(8, 192), torch.randn(3, 64), torch.randn(4, config.text_channels)
    return model(*tokens, model.positions([SequenceLayout(2, 4, 4, 3, 4)]), levels)


def test_without_gates_there_are_no_gate_numbers():
    config = replace(tiny_config("base"), attention_gates=False)
    rows = Transformer(config).block.layers[0].attention.linear_qkv.weight.shape[0]
    gated_rows = Transformer(tiny_config("base")).block.layers[0].attention.linear_qkv.weight.shape[0]
    assert gated_rows - rows == 3 * config.num_heads
    assert all(tensor.isfinite().all() for tensor in one_clip(config))


def test_the_noise_level_matters_with_a_timestep_embedding_only():
    low, high = torch.tensor([0.1]), torch.tensor([0.9])
    release, told = tiny_config("base"), replace(tiny_config("base"), timestep_embedding=True)
    assert torch.equal(one_clip(release, low)[0], one_clip(release, high)[0])
    assert not torch.allclose(one_clip(told, low)[0], one_clip(told, high)[0], atol=1e-3)
    with pytest.raises(ValueError, match="levels_S is needed with a timestep embedding, got None"):
        one_clip(told)


@pytest.mark.parametrize("is_told", [False, True])
def test_several_clips_have_noise_levels_of_their_own(is_told):
    torch.manual_seed(0)
    config = replace(tiny_config("base"), timestep_embedding=is_told)
    model = Transformer(config, compute_dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    clips = [Latents(torch.randn(1, 48, t, 4, 4), torch.randn(1, 3, 64)) for t in (1, 3)]
    texts = [torch.randn(1, length, 48) for length in (2, 5)]
    together = Denoiser(model, texts, clips)(clips, torch.tensor([0.2, 0.7]))
    for index, level in enumerate((0.2, 0.7)):
        [alone] = Denoiser(model, texts[index : index + 1], clips[index : index + 1])(
            [clips[index]], torch.tensor([level])
        )
        torch.testing.assert_close(together[index].video_1CTHW, alone.video_1CTHW, rtol=1e-4, atol=1e-4)


def test_wide_weights_give_the_numbers_of_the_narrow_ones_they_are_exported_as():
    torch.manual_seed(0)
    config = tiny_config("base")
    wide = Transformer(config, weight_dtype=torch.float32)
    for parameter in wide.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    narrow = Transformer(config)
    narrow.load_state_dict(wide.state_dict())
    assert narrow.block.layers[0].mlp.down_proj.weight.dtype == torch.bfloat16
    tokens = torch.randn(8, 192), torch.randn(3, 64), torch.randn(4, 48)
    positions = wide.positions([SequenceLayout(2, 4, 4, 3, 4)])
    for one, other in zip(wide(*tokens, positions), narrow(*tokens, positions), strict=True):
        assert torch.equal(one, other)


def test_running_layers_again_for_the_gradient_changes_no_number():
    torch.manual_seed(0)
    model = Transformer(tiny_config("base"), compute_dtype=torch.float32)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randn(8, 192), torch.randn(3, 64), torch.randn(4, 48)
    gradients = []
    for model.block.recomputes_layers in (False, True):
        model.zero_grad()
        video_VC, audio_AC = model(*tokens, model.positions([SequenceLayout(2, 4, 4, 3, 4)]))
        (video_VC.square().sum() + audio_AC.sum()).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))
