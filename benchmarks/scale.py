"""What is measured: networks and clips of the release, or small ones that a CPU can run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from model.geometry import ClipLength, latent_size
from model.packing import SequenceLayout
from model.transformer_config import TransformerConfig
from model.turbo_vae import TurboVAEConfig
from model.variants import release_config

_FULL_ATTENTION_LAYERS = (3, 7)
"""Of the small 1080p model; the others have local windows."""


@dataclass(frozen=True)
class Scale:
    """Networks and clips.

    Attributes:
        name: "release" or "small".
        full: Transformer with full attention, base and 540p.
        windowed: Transformer with local windows, 1080p.
        sizes: (width, height) of a clip by resolution label.
        seconds: length of a clip.
        num_text: tokens of the prompt.
        turbo_vae: the video decoder.
        audio_channels: width of the audio decoder.
        text_encoder: T5Gemma's `config.json`, the encoder's part.
        num_repeats: how often each measurement is taken.
    """

    name: str
    full: TransformerConfig
    windowed: TransformerConfig
    sizes: dict[str, tuple[int, int]]
    seconds: float
    num_text: int
    turbo_vae: TurboVAEConfig
    audio_channels: int
    text_encoder: dict[str, Any]
    num_repeats: int

    def layout(self, resolution: str, seconds: float | None = None) -> SequenceLayout:
        """Tokens of a clip, of the usual length where none is given."""
        length, (height, width) = ClipLength.from_seconds(seconds or self.seconds), latent_size(*self.sizes[resolution])
        return SequenceLayout(length.num_video_latents, height, width, length.num_audio_latents, self.num_text)

    def size(self, resolution: str) -> str:
        """Pixels of a clip, as "448x256"."""
        return "x".join(map(str, self.sizes[resolution]))

    def config(self, resolution: str) -> TransformerConfig:
        """The Transformer that makes or refines clips of a size."""
        return self.windowed if resolution == "1080p" else self.full


def turbo_vae_config(widths: tuple[int, ...], layers: tuple[int, ...]) -> TurboVAEConfig:
    """The release's video decoder, with other widths and depths of its blocks."""
    return TurboVAEConfig(
        latent_channels=48,
        out_channels=3,
        patch_size=2,
        decoder_block_out_channels=widths,
        decoder_layers_per_block=layers,
        decoder_spatio_temporal_scaling=(False, True, True, True),
        decoder_spatio_only=(False, True, False, False),
        resnet_norm_eps=1e-6,
        first_chunk_size=7,
        step_size=7,
        temporal_compression_ratio=4,
        spatial_compression_ratio=16,
    )


def _text_encoder(**sizes: int) -> dict[str, Any]:
    """T5Gemma's configuration with the encoder's sizes; the decoder is never built."""
    part = {"model_type": "t5_gemma_module", "query_pre_attn_scalar": 256, "sliding_window": 4096, **sizes}
    return {"model_type": "t5gemma", "encoder": part, "decoder": part | {"cross_attention_hidden_size": 1}}


RELEASE = Scale(
    name="release",
    full=release_config("distill"),
    windowed=release_config("sr_1080p"),
    sizes={"256p": (448, 256), "540p": (896, 512), "1080p": (1920, 1088)},
    seconds=5.0,
    num_text=300,
    turbo_vae=turbo_vae_config((64, 128, 256, 512), (2, 2, 2, 3, 3)),
    audio_channels=128,
    text_encoder=_text_encoder(
        hidden_size=3584,
        intermediate_size=14336,
        num_hidden_layers=42,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=256,
        vocab_size=256_000,
    ),
    num_repeats=5,
)
"""The release's sizes: `tests/golden/release_shapes.json`, and the published configuration of t5gemma-9b-9b-ul2."""

_SMALL = TransformerConfig(
    num_layers=12,
    hidden_size=512,
    head_dim=64,
    num_kv_heads=2,
    text_channels=256,
    expert_layers=(0, 1, 10, 11),
    gelu_layers=(0, 1),
)

SMALL = Scale(
    name="small",
    full=_SMALL,
    windowed=replace(
        _SMALL,
        local_attention_layers=tuple(layer for layer in range(12) if layer not in _FULL_ATTENTION_LAYERS),
        local_attention_radius=2,
        position_style="sr",
    ),
    sizes={"256p": (224, 128), "540p": (448, 256), "1080p": (480, 256)},
    seconds=1.0,
    num_text=60,
    turbo_vae=turbo_vae_config((8, 16, 32, 64), (1, 1, 1, 1, 1)),
    audio_channels=16,
    text_encoder=_text_encoder(
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=1000,
    ),
    num_repeats=5,
)
