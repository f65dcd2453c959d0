"""Networks with random weights, made on the device they are measured on."""

from __future__ import annotations

import math
import zlib
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from benchmarks.scale import Scale
from model.attention import AttentionBackend
from model.packed_linear import LinearFormat, pack_linears
from model.text_encoder import TextEncoder, build_text_encoder, expected_encoder_tensors
from model.transformer import RotaryEmbedding, Transformer
from model.transformer_config import TransformerConfig
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder

if TYPE_CHECKING:
    from model.audio_vae import AudioDecoder


def random_tensor(name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Normal numbers that keep the spread of a layer's input; small ones for vectors, such as offsets of a norm.

    The same for the same name, on one device.
    """
    if device.type == "meta":
        return torch.empty(shape, dtype=dtype, device=device)
    generator = torch.Generator(device).manual_seed(zlib.crc32(name.encode()))
    fan_in = math.prod(shape[1:])
    std = fan_in**-0.5 if len(shape) > 1 else 0.02
    return torch.empty(shape, dtype=dtype, device=device).normal_(0, std, generator=generator)


def random_transformer(
    config: TransformerConfig, dtype: torch.dtype, device: torch.device, form: LinearFormat, attention: AttentionBackend
) -> Transformer:
    """A Transformer whose weights do not depend on the form they are kept in."""
    with torch.device("meta"):
        model = Transformer(config, dtype, attention)
        tensors = model.state_dict()
        convert = pack_linears(model, form)
    entries: dict[str, Tensor] = {}
    for name, meta in tensors.items():
        entries |= convert(name, random_tensor(name, tuple(meta.shape), meta.dtype, device))
    entries["adapter.rope.bands"] = RotaryEmbedding(config.head_dim).bands.to(device)
    model.load_state_dict(entries, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def random_turbo_vae(config: TurboVAEConfig, dtype: torch.dtype, device: torch.device) -> TurboVAEDecoder:
    """A video decoder."""
    with torch.device("meta"):
        model = TurboVAEDecoder(config)
        tensors = model.state_dict()
    entries = {name: random_tensor(name, tuple(meta.shape), dtype, device) for name, meta in tensors.items()}
    model.load_state_dict(entries, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def random_audio_decoder(channels: int, device: torch.device) -> tuple[AudioDecoder, nn.Module]:
    """A decoder of sound and its network, of the release's depth and strides, in float32.

    Raises:
        ImportError: without diffusers.
    """
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDecoder
    from torch.nn.utils import remove_weight_norm

    from model.audio_vae import AudioDecoder

    torch.manual_seed(0)
    decoder = OobleckDecoder(
        channels=channels, input_channels=64, audio_channels=2, upsampling_ratios=[8, 8, 4, 4, 2],
        channel_multiples=[1, 2, 4, 8, 16],
    )  # fmt: skip
    for module in decoder.modules():
        if hasattr(module, "weight_g"):
            remove_weight_norm(module)
    decoder = decoder.to(device).eval().requires_grad_(False)
    return AudioDecoder(decoder), decoder


def random_text_encoder(scale: Scale, dtype: torch.dtype, device: torch.device) -> TextEncoder:
    """T5Gemma's encoder; its tokenizer gives as many tokens as a prompt of the scale has.

    Raises:
        ImportError: without transformers.
    """
    shapes = expected_encoder_tensors(scale.text_encoder)
    tensors = {name: random_tensor(name, shape, dtype, device) for name, shape in shapes.items()}
    token_ids = torch.randint(0, scale.text_encoder["encoder"]["vocab_size"], (scale.num_text,)).tolist()

    def tokenizer(prompt: str) -> Any:
        return SimpleNamespace(input_ids=token_ids)

    return build_text_encoder(scale.text_encoder, tensors, tokenizer, dtype, device)
