"""The Transformer against `dit_forward_*`: packing, positions, windows, one forward pass.

Legend: V video tokens, A audio tokens, L text tokens, N all of them; C channels; T H W latent frames, height, width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.attention import choose_attention
from model.packed_linear import choose_format, pack_linears
from model.packing import LocalWindow, PositionStyle, SequenceLayout, patchify, token_coordinates, unpatchify
from model.parity.report import GoldenSet, Group, Pair, prefixes
from model.transformer import Transformer
from model.transformer_config import TransformerConfig

CONFIG = "dit_config.json"
WEIGHTS = "dit_weights.safetensors"
FORWARD = "dit_forward"
FILES = (CONFIG, WEIGHTS, f"{FORWARD}_fp32.safetensors")

BASE_WINDOW_RADIUS = 11
"""The original computes windows for the base model too, with this radius, and then attends in full."""


def recorded_config(raw: Mapping[str, Any], style: PositionStyle) -> TransformerConfig:
    """The recorded model in one of its two roles.

    Args:
        raw: `dit_config.json`, whose keys are the original's.
        style: "base" or "sr".
    """
    is_sr = style == "sr"

    def layers(key: str) -> tuple[int, ...]:
        return tuple(layer for layer in raw[key] if layer < raw["num_layers"])  # the original passes over others

    return TransformerConfig(
        num_layers=raw["num_layers"],
        hidden_size=raw["hidden_size"],
        head_dim=raw["head_dim"],
        num_kv_heads=raw["num_query_groups"],
        video_channels=raw["video_in_channels"],
        audio_channels=raw["audio_in_channels"],
        text_channels=raw["text_in_channels"],
        expert_layers=layers("mm_layers"),
        gelu_layers=layers("gelu7_layers"),
        local_attention_layers=layers("local_attn_layers_sr" if is_sr else "local_attn_layers"),
        local_attention_radius=(
            raw["frame_receptive_field_sr"] if is_sr else raw.get("frame_receptive_field", BASE_WINDOW_RADIUS)
        ),
        position_style=style,
    )


def recorded_transformer(golden: GoldenSet, style: PositionStyle, dtype: torch.dtype) -> Transformer:
    """The recorded model with its weights, linear layers in `dtype` and fp8 where that is compared.

    Attention and the layers' form are those that a job would choose.
    """
    config = recorded_config(golden.config(CONFIG), style)
    with torch.device("meta"):
        model = Transformer(config, dtype, choose_attention(golden.device, dtype))
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        is_fp8 = golden.is_fp8 and dtype == torch.bfloat16
        convert = pack_linears(model, choose_format(golden.device, is_fp8))
    tensors: dict[str, Tensor] = {}
    for name, tensor in golden.tensors(WEIGHTS).items():
        tensors |= convert(name, tensor.to(dtypes.get(name)))
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def transformer_groups(golden: GoldenSet) -> Iterator[Group]:
    """Seven groups for each style that was recorded, over all clips."""
    recorded = golden.tensors(FILES[2])
    keys = [key.split(".") for key in prefixes(recorded, "out_video")]
    styles: dict[str, PositionStyle] = {"base": "base", "sr": "sr"}
    for style in sorted({style for _, style in keys}):
        clips = [clip for clip, other in keys if other == style]
        comparison = _ForwardComparison(golden, recorded, styles[style], clips)
        for name in ("tokens", "modality", "coordinates", "rotary", "window_ranges"):
            yield Group(f"transformer.{style}.{name}", getattr(comparison, name))
        for name in ("out_video", "out_audio"):
            yield Group(f"transformer.{style}.{name}", partial(comparison.output, name))


class _ForwardComparison:
    """All clips of one style; each method gives the pairs of one group."""

    def __init__(self, golden: GoldenSet, recorded: Mapping[str, Tensor], style: PositionStyle, clips: list[str]):
        self.golden, self.recorded, self.style, self.clips = golden, recorded, style, clips
        # Made when first asked for: a model that does not load must fail only the groups that need it.
        self.model = cache(lambda dtype: recorded_transformer(golden, style, dtype))
        self.forward = cache(self._forward)

    def _inputs(self, clip: str) -> tuple[Tensor, Tensor, Tensor, SequenceLayout]:
        video, audio, text = (self.recorded[f"{clip}.{name}"] for name in ("video", "audio", "text"))
        return video, audio, text, SequenceLayout.of(video, audio, text)

    def _recorded(self, clip: str, name: str) -> Tensor:
        return self.recorded[f"{clip}.{self.style}.{name}"]

    def tokens(self) -> Iterable[Pair]:
        """Packed tokens, padded to the width of the widest modality."""
        for clip in self.clips:
            video, audio, text, _ = self._inputs(clip)
            recorded_NC = self._recorded(clip, "tokens")
            parts = (patchify(video), audio[0], text[0])
            yield Pair(
                torch.cat([F.pad(part, (0, recorded_NC.shape[1] - part.shape[1])) for part in parts]), recorded_NC
            )

    def modality(self) -> Iterable[Pair]:
        """Which kind each token is: 0 video, 1 audio, 2 text."""
        for clip in self.clips:
            layout = self._inputs(clip)[3]
            modality_N = torch.repeat_interleave(torch.arange(3), torch.tensor(layout.token_counts))
            yield Pair(modality_N, self._recorded(clip, "modality"))

    def coordinates(self) -> Iterable[Pair]:
        """Where each token sits."""
        for clip in self.clips:
            yield Pair(token_coordinates(self._inputs(clip)[3], self.style), self._recorded(clip, "coords"))

    def rotary(self) -> Iterable[Pair]:
        """Sines and cosines."""
        for clip in self.clips:
            rope_NR = self.model(self.golden.dtype).positions([self._inputs(clip)[3]]).rope_NR
            yield Pair(rope_NR, self._recorded(clip, "rope"))

    def window_ranges(self) -> Iterable[Pair]:
        """Query and key ranges of the local windows."""
        radius = recorded_config(self.golden.config(CONFIG), self.style).local_attention_radius
        for clip in self.clips:
            ranges = LocalWindow(self._inputs(clip)[3], radius).ranges()
            for ours, name in zip(ranges, ("q_ranges", "k_ranges"), strict=True):
                yield Pair(ours, self._recorded(clip, name))

    def output(self, name: str) -> Iterable[Pair]:
        """Velocity of video (`out_video`) or audio (`out_audio`)."""
        recorded_bf16 = self.golden.bf16_recording(FORWARD)
        for clip in self.clips:

            def compute(dtype: torch.dtype, clip: str = clip) -> Tensor:
                return self.forward(clip, dtype)[name]

            theirs = recorded_bf16.get(f"{clip}.{self.style}.{name}")
            yield self.golden.pair(compute, self._recorded(clip, name), theirs)

    @torch.inference_mode()
    def _forward(self, clip: str, dtype: torch.dtype) -> dict[str, Tensor]:
        video, audio, text, layout = self._inputs(clip)
        model = self.model(dtype)
        out_VC, out_AC = model(patchify(video), audio[0], text[0], model.positions([layout]))
        return {"out_video": unpatchify(out_VC, layout), "out_audio": out_AC.unsqueeze(0)}
