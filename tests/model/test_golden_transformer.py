"""dit_forward_*.safetensors, dit_weights.safetensors, dit_config.json and release_shapes.json."""

import pytest
import torch
import torch.nn.functional as F

from model.packing import LocalWindow, SequenceLayout, patchify, token_coordinates, unpatchify
from model.transformer import Transformer, TransformerConfig
from tests.compare import FP32_LIMIT, bf16_limit, relative_error
from tests.model.tiny_dit import recorded_transformer

CLIPS = ["0", "1", "2"]
STYLES = ["base", "sr"]


def layout_of(recorded, clip):
    return SequenceLayout.of(recorded[f"{clip}.video"], recorded[f"{clip}.audio"], recorded[f"{clip}.text"])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("clip", CLIPS)
def test_packing_equals_dit_forward_recording(golden, clip, style):
    recorded = golden("dit_forward_fp32.safetensors")
    layout = layout_of(recorded, clip)
    parts = [patchify(recorded[f"{clip}.video"]), recorded[f"{clip}.audio"][0], recorded[f"{clip}.text"][0]]
    tokens = torch.cat([F.pad(part, (0, 192 - part.shape[1])) for part in parts])
    assert torch.equal(tokens, recorded[f"{clip}.{style}.tokens"])
    modality = torch.repeat_interleave(torch.arange(3), torch.tensor(layout.token_counts))
    assert torch.equal(modality, recorded[f"{clip}.{style}.modality"])
    assert torch.equal(token_coordinates(layout, style), recorded[f"{clip}.{style}.coords"])


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("clip", CLIPS)
def test_rotary_numbers_equal_dit_forward_recording(golden, clip, style):
    recorded = golden("dit_forward_fp32.safetensors")
    model = recorded_transformer(golden, style, torch.float32)
    rope = model.positions([layout_of(recorded, clip)]).rope_NR
    torch.testing.assert_close(rope, recorded[f"{clip}.{style}.rope"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("clip", CLIPS)
def test_window_ranges_equal_dit_forward_recording(golden, clip, style):
    recorded = golden("dit_forward_fp32.safetensors")
    # The original computes ranges for the base model too, with its default radius, and then uses full attention.
    radius = golden("dit_config.json")["frame_receptive_field_sr"] if style == "sr" else 11
    queries, keys = LocalWindow(layout_of(recorded, clip), radius).ranges()
    assert torch.equal(queries, recorded[f"{clip}.{style}.q_ranges"])
    assert torch.equal(keys, recorded[f"{clip}.{style}.k_ranges"])


@torch.inference_mode()
def run(model: Transformer, recorded, clip):
    layout = layout_of(recorded, clip)
    video, audio = model(
        patchify(recorded[f"{clip}.video"]),
        recorded[f"{clip}.audio"][0],
        recorded[f"{clip}.text"][0],
        model.positions([layout]),
    )
    return unpatchify(video, layout), audio.unsqueeze(0)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("clip", CLIPS)
def test_forward_in_fp32_equals_dit_forward_fp32_recording(golden, clip, style):
    recorded = golden("dit_forward_fp32.safetensors")
    video, audio = run(recorded_transformer(golden, style, torch.float32), recorded, clip)
    assert relative_error(video, recorded[f"{clip}.{style}.out_video"]) < FP32_LIMIT
    assert relative_error(audio, recorded[f"{clip}.{style}.out_audio"]) < FP32_LIMIT


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("clip", CLIPS)
def test_forward_in_bf16_is_as_near_as_dit_forward_bf16_recording(golden, clip, style):
    fp32, bf16 = golden("dit_forward_fp32.safetensors"), golden("dit_forward_bf16.safetensors")
    outputs = run(recorded_transformer(golden, style, torch.bfloat16), bf16, clip)
    for output, name in zip(outputs, ("out_video", "out_audio"), strict=True):
        key = f"{clip}.{style}.{name}"
        assert relative_error(output, fp32[key]) <= bf16_limit(bf16[key], fp32[key])


def test_full_size_names_and_shapes_equal_release_shapes(golden):
    with torch.device("meta"):
        model = Transformer(TransformerConfig())
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert ours == {name: shape for name, (shape, _) in golden("release_shapes.json")["dit"].items()}


def test_full_size_stores_blocks_in_bf16_and_the_rest_in_fp32():
    with torch.device("meta"):
        model = Transformer(TransformerConfig())
    sizes = {torch.bfloat16: 0, torch.float32: 0}
    for name, parameter in model.named_parameters():
        is_linear = name.startswith("block.") and not name.endswith("norm.weight")
        assert parameter.dtype == (torch.bfloat16 if is_linear else torch.float32), name
        sizes[parameter.dtype] += parameter.numel()
    assert sum(sizes.values()) / 1e9 == pytest.approx(15.3, abs=0.05)
