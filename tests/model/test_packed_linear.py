"""Linear layers with whole tiles, in bfloat16 and in 8-bit floats, against those of the checkpoint."""

from dataclasses import replace

import pytest
import torch

from model.checkpoint import Checkpoint
from model.experts import ExpertLinear, Precision
from model.packed_linear import FP8, FP8_MAX, TILE, PackedExpertLinear, choose_format, pack_linears, quantise_rows
from model.packing import SequenceLayout
from model.parity.report import relative_error
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from tests.tiny_checkpoint import tiny_config

CPU = torch.device("cpu")
COUNTS = (5, 3, 4)
FP8_ERROR = 2**-4 / 3**0.5
"""Three mantissa bits round a number by at most 2**-4 of it; evenly spread, that is this in the root mean square."""


def linear(in_features, out_features, num_experts, dtype=torch.float32) -> ExpertLinear:
    torch.manual_seed(0)
    layer = ExpertLinear(in_features, out_features, num_experts, Precision(dtype, dtype)).requires_grad_(False)
    torch.nn.init.normal_(layer.weight, std=in_features**-0.5)
    return layer


def packed(plain, is_fp8, **options) -> PackedExpertLinear:
    layer = PackedExpertLinear(plain, is_fp8, **options)
    layer.load_state_dict(layer.pack(plain.weight), strict=True, assign=True)
    return layer


@pytest.mark.parametrize("num_experts", [1, 3])
@pytest.mark.parametrize("sizes", [(100, 70), (64, 128), (100, 64), (128, 70)])
def test_whole_tiles_change_no_result(sizes, num_experts):
    plain = linear(*sizes, num_experts)
    layer, x_NC = packed(plain, is_fp8=False), torch.randn(12, sizes[0])
    assert all(size % TILE == 0 for size in layer.weight_EFC.shape[1:])
    torch.testing.assert_close(layer(x_NC, COUNTS), plain(x_NC, COUNTS))


@pytest.mark.parametrize("num_experts", [1, 3])
@pytest.mark.parametrize("sizes", [(100, 70), (64, 128), (1000, 70)])
def test_8_bit_products_are_as_near_as_their_mantissa(sizes, num_experts):
    plain = linear(*sizes, num_experts)
    layer, x_NC = packed(plain, is_fp8=True), torch.randn(12, sizes[0])
    error = relative_error(layer(x_NC, COUNTS), plain(x_NC, COUNTS))
    assert 0.1 * FP8_ERROR < error < 1.5 * 2**0.5 * FP8_ERROR, "two roundings, of weights and of inputs"


def test_every_token_and_output_has_a_scale_of_its_own():
    """With one scale for all, small tokens and features beside large ones would vanish."""
    plain = linear(64, 128, 1)
    x_NC = torch.randn(12, 64) * torch.logspace(-6, 3, 12).unsqueeze(1)
    plain.weight.mul_(torch.logspace(-4, 4, 128).unsqueeze(1))
    out, expected = packed(plain, is_fp8=True)(x_NC, COUNTS), plain(x_NC, COUNTS)
    possible_NF = x_NC.norm(dim=1, keepdim=True) * plain.weight.norm(dim=1)
    assert ((out - expected).abs() / possible_NF).max() < FP8_ERROR


def test_rows_are_scaled_to_the_largest_number_of_the_format():
    x_RC = torch.tensor([[1.0, -3.0, 0.5], [0.0, 0.0, 0.0], [1e-30, 1e4, 7.0]])
    quantised, scales = quantise_rows(x_RC)
    assert quantised.dtype == FP8
    assert quantised.float().abs().amax(dim=1).tolist() == [FP8_MAX, 0, FP8_MAX]
    torch.testing.assert_close(quantised.float() * scales, x_RC, rtol=2**-4, atol=scales.max().item() * 2**-9)


def test_zeros_behind_the_features_are_given_where_the_next_layer_takes_them():
    plain = linear(100, 70, 3)
    out = packed(plain, is_fp8=False, keeps_padding=True)(torch.randn(12, 100), COUNTS)
    assert out.shape == (12, 128)
    assert out[:, :70].all()
    assert not out[:, 70:].any()


@pytest.mark.parametrize("variant", ["base", "sr_1080p"])
@pytest.mark.parametrize("is_fp8", [False, True])
def test_a_whole_transformer_keeps_its_velocities(folder, variant, is_fp8):
    checkpoint = Checkpoint(folder)
    plain = checkpoint.transformer(variant, torch.float32, CPU)
    with torch.device("meta"):
        model = Transformer(plain.config, torch.float32)
    convert = pack_linears(model, "fp8" if is_fp8 else "packed")
    entries = [convert(name, tensor) for name, tensor in plain.state_dict().items()]
    model.load_state_dict({name: tensor for entry in entries for name, tensor in entry.items()}, assign=True)
    layout = SequenceLayout(3, 4, 6, 9, 7)
    widths = (plain.config.video_channels, plain.config.audio_channels, plain.config.text_channels)
    tokens = [torch.randn(count, width) for count, width in zip(layout.token_counts, widths, strict=True)]
    with torch.inference_mode():
        outputs = [network(*tokens, network.positions([layout])) for network in (plain, model)]
    for one, other in zip(*outputs, strict=True):
        error = relative_error(other, one)
        assert (1e-3 < error < 0.1) if is_fp8 else error < 1e-5


def test_a_checkpoint_is_read_into_8_bit_floats_tensor_by_tensor(folder):
    model = Checkpoint(folder).transformer("base", torch.bfloat16, CPU, is_fp8=True)
    plain = Checkpoint(folder).transformer("base", torch.bfloat16, CPU)
    weights = {name: buffer for name, buffer in model.named_buffers() if name.endswith("weight_EFC")}
    assert len(weights) == 4 * plain.config.num_layers
    assert {buffer.dtype for buffer in weights.values()} == {FP8}
    [name] = [name for name in weights if name.startswith("block.layers.1.mlp.down_proj")]
    layer = model.get_submodule(name.rpartition(".")[0])
    restored = layer.weight_EFC.float() * layer.scale_EF.unsqueeze(2)
    given = plain.block.layers[1].mlp.down_proj.weight
    restored = restored[:, : layer.out_features, : layer.in_features].flatten(0, 1)
    assert relative_error(restored, given) < 1.2 * FP8_ERROR


def test_full_size_has_whole_tiles_and_half_the_bytes():
    with torch.device("meta"):
        model = Transformer(TransformerConfig())
    before = sum(tensor.nbytes for tensor in model.state_dict().values())
    pack_linears(model, "fp8")
    after = sum(tensor.nbytes for tensor in model.state_dict().values())
    assert model.block.layers[4].mlp.down_proj.weight_EFC.shape == (1, 5120, 13696)
    assert before == pytest.approx(30.7e9, rel=0.01)
    assert after == pytest.approx(15.5e9, rel=0.01)


def test_a_gpu_without_8_bit_products_is_refused(monkeypatch):
    assert choose_format(CPU, is_fp8=False) == "plain"
    assert choose_format(CPU, is_fp8=True) == "fp8"
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    for capability, is_possible in (((8, 0), False), ((8, 9), True), ((9, 0), True)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert choose_format(cuda, is_fp8=False) == "packed"
        if is_possible:
            assert choose_format(cuda, is_fp8=True) == "fp8"
        else:
            with pytest.raises(ValueError, match=r"precision fp8 needs a GPU of .*, got NVIDIA A100"):
                choose_format(cuda, is_fp8=True)


def test_widths_that_are_no_whole_tiles_pass_through_the_mlp():
    config = replace(tiny_config("base"), hidden_size=96, head_dim=24)
    torch.manual_seed(0)
    plain = Transformer(config, torch.float32).requires_grad_(False)
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    with torch.device("meta"):
        model = Transformer(config, torch.float32)
    convert = pack_linears(model, "packed")
    entries = [convert(name, tensor) for name, tensor in plain.state_dict().items()]
    model.load_state_dict({name: tensor for entry in entries for name, tensor in entry.items()}, assign=True)
    x_ND = torch.randn(12, 96)
    for one, other in zip(plain.block.layers, model.block.layers, strict=True):
        torch.testing.assert_close(other.mlp(x_ND, COUNTS), one.mlp(x_ND, COUNTS))
