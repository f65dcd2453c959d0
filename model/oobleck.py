"""The Oobleck autoencoder of Stable Audio: what it is, and its tensors under both names they go by.

Built on diffusers' modules. A shape is told as C for channels.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn
from torch.nn.utils import weight_norm

from model.config_types import as_tuple, require_types, section
from model.geometry import AUDIO_LATENT_CHANNELS, MODEL_SAMPLE_RATE_HZ, SAMPLES_PER_AUDIO_LATENT

if TYPE_CHECKING:
    # diffusers takes seconds to import: a job that is given a wrong argument says so without it.
    from diffusers import AutoencoderOobleck

CHECKPOINT_PREFIX = "pretransform.model."
"""Before the names of the autoencoder's tensors in Stable Audio's file."""

TensorNaming = Literal["original", "diffusers"]
"""Whose names: Stable Audio's, without the prefix of the file, or those of diffusers' folder `vae`."""

# Position of each layer inside Stable Audio's nn.Sequential of a residual unit, an encoder block and a decoder block.
_UNIT = {"snake1": 0, "conv1": 1, "snake2": 2, "conv2": 3}
_ENCODER_BLOCK = {"res_unit1": 0, "res_unit2": 1, "res_unit3": 2, "snake1": 3, "conv1": 4}
_DECODER_BLOCK = {"snake1": 0, "conv_t1": 1, "res_unit1": 2, "res_unit2": 3, "res_unit3": 4}
_BLOCK_NAME = re.compile(r"(?:en|de)coder\.block\.(\d+)\.(\w+)(?:\.(\w+))?\.(\w+)")


@dataclass(frozen=True)
class OobleckHalf:
    """Encoder or decoder, told from the waveform's side to the latent's.

    Attributes:
        channels: width next to the waveform.
        multiples: width of each block's far side, in units of `channels`.
        strides: how much each block shortens the time.
        latent_channels: what the encoder gives (mean and scale: twice the latent) or the decoder takes.
        audio_channels: 2 is stereo.
    """

    channels: int
    multiples: tuple[int, ...]
    strides: tuple[int, ...]
    latent_channels: int
    audio_channels: int

    def __post_init__(self) -> None:
        require_types(self)
        for name in ("channels", "latent_channels", "audio_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} of the audio autoencoder must be at least 1, got {getattr(self, name)}")
        if not self.strides or len(self.multiples) != len(self.strides):
            raise ValueError(
                f"multiples and strides of the audio autoencoder must be as many, got {self.multiples}, {self.strides}"
            )

    @property
    def samples_per_latent(self) -> int:
        """How many samples become one latent."""
        return math.prod(self.strides)


@dataclass(frozen=True)
class OobleckConfig:
    """Both halves of the autoencoder."""

    encoder: OobleckHalf
    decoder: OobleckHalf

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> OobleckConfig:
        """Read Stable Audio's `model_config.json` or the `config.json` that diffusers writes for an autoencoder.

        Args:
            raw: Stable Audio's file has the autoencoder under `model.pretransform.config`, or, for an autoencoder
                alone, under `model`. diffusers' calls its rate 44100 Hz, which changes no number.

        Raises:
            ValueError: a key is missing, or the file describes another kind of autoencoder.
        """
        try:
            return cls._from_diffusers(raw) if "encoder_hidden_size" in raw else cls._from_stable_audio(raw)
        except KeyError as error:
            raise ValueError(f"the audio autoencoder's config lacks the key {error}") from error

    @classmethod
    def _from_stable_audio(cls, raw: Mapping[str, Any]) -> OobleckConfig:
        raw = section(raw, "model")
        raw = section(raw, "pretransform", "config") if "pretransform" in raw else raw
        encoder, decoder = section(raw, "encoder", "config"), section(raw, "decoder", "config")
        for field, value, allowed in (
            ("encoder.type", raw["encoder"]["type"], "oobleck"),
            ("decoder.type", raw["decoder"]["type"], "oobleck"),
            ("bottleneck.type", section(raw, "bottleneck")["type"], "vae"),
            ("encoder.use_snake", encoder.get("use_snake", False), True),
            ("decoder.use_snake", decoder.get("use_snake", False), True),
            ("decoder.final_tanh", decoder.get("final_tanh", True), False),
            ("decoder.use_nearest_upsample", decoder.get("use_nearest_upsample", False), False),
            ("decoder.soft_clip", raw["decoder"].get("soft_clip", False), False),
        ):
            if value != allowed:
                raise ValueError(f"{field} of the audio autoencoder must be {allowed}, got {value}")

        def half(part: Mapping[str, Any], audio_channels: str) -> OobleckHalf:
            multiples, strides = as_tuple(part["c_mults"]), as_tuple(part["strides"])
            return OobleckHalf(part["channels"], multiples, strides, part["latent_dim"], part[audio_channels])

        return cls(half(encoder, "in_channels"), half(decoder, "out_channels"))

    @classmethod
    def _from_diffusers(cls, raw: Mapping[str, Any]) -> OobleckConfig:
        multiples, strides = as_tuple(raw["channel_multiples"]), as_tuple(raw["downsampling_ratios"])
        # diffusers' encoder gives as many numbers as it is wide.
        width, audio = raw["encoder_hidden_size"], raw["audio_channels"]
        decoder_width, latent = raw["decoder_channels"], raw["decoder_input_channels"]
        decoder = OobleckHalf(decoder_width, multiples, strides, latent, audio)
        return cls(OobleckHalf(width, multiples, strides, 2 * latent, audio), decoder)

    def require_pipeline_sizes(self) -> None:
        """Check that the Transformer's latents fit: 64 channels, 2048 samples per latent, stereo.

        Raises:
            ValueError: they do not.
        """
        for name, half, channels in (
            ("encoder", self.encoder, 2 * AUDIO_LATENT_CHANNELS),
            ("decoder", self.decoder, AUDIO_LATENT_CHANNELS),
        ):
            for field, value, allowed in (
                ("latent_dim", half.latent_channels, channels),
                ("audio channels", half.audio_channels, 2),
                ("the product of strides", half.samples_per_latent, SAMPLES_PER_AUDIO_LATENT),
            ):
                if value != allowed:
                    raise ValueError(f"{field} of the audio autoencoder's {name} must be {allowed}, got {value}")


def empty_oobleck(config: OobleckConfig) -> AutoencoderOobleck:
    """The architecture, weights on the meta device."""
    from diffusers import AutoencoderOobleck
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckEncoder

    encoder, decoder = config.encoder, config.decoder
    with torch.device("meta"), warnings.catch_warnings():
        # diffusers builds on weight_norm's older, deprecated form, which names tensors as the release does.
        warnings.simplefilter("ignore", FutureWarning)
        vae = AutoencoderOobleck(
            encoder_hidden_size=encoder.channels,
            downsampling_ratios=list(decoder.strides),
            channel_multiples=list(decoder.multiples),
            decoder_channels=decoder.channels,
            decoder_input_channels=decoder.latent_channels,
            audio_channels=decoder.audio_channels,
            sampling_rate=MODEL_SAMPLE_RATE_HZ,
        )
        # diffusers' own takes the decoder's strides and multiples.
        vae.encoder = OobleckEncoder(
            encoder.channels, encoder.audio_channels, list(encoder.strides), list(encoder.multiples)
        )
        if encoder.latent_channels != encoder.channels:
            # It also takes the encoder's width for its number of outputs, which holds at release size only.
            width = encoder.channels * encoder.multiples[-1]
            vae.encoder.conv2 = weight_norm(nn.Conv1d(width, encoder.latent_channels, 3, padding=1))
    return vae.eval().requires_grad_(False)


def oobleck_original_names(vae: AutoencoderOobleck) -> dict[str, str]:
    """diffusers' name to Stable Audio's, without the prefix of the file, of every tensor of `empty_oobleck(...)`."""
    num_blocks = {"encoder": len(vae.encoder.block), "decoder": len(vae.decoder.block)}
    return {name: _original_name(name, num_blocks[name.split(".", 1)[0]]) for name in vae.state_dict()}


def _original_name(name: str, num_blocks: int) -> str:
    half = name.split(".", 1)[0]
    block = _BLOCK_NAME.fullmatch(name)
    if block is None:
        _, layer, tensor = name.split(".")
        index = {"conv1": 0, "snake1": num_blocks + 1, "conv2": num_blocks + 2}[layer]
        return f"{half}.layers.{index}.{tensor}"
    number, layer, inner, tensor = block.groups()
    order = _ENCODER_BLOCK if half == "encoder" else _DECODER_BLOCK
    path = f"{half}.layers.{int(number) + 1}.layers.{order[layer]}"
    return f"{path}.{tensor}" if inner is None else f"{path}.layers.{_UNIT[inner]}.{tensor}"


def is_activation(name: str) -> bool:
    """Whether it is a snake's alpha or beta, which diffusers keeps as (1, C, 1) and Stable Audio as (C,)."""
    return name.endswith((".alpha", ".beta"))


def oobleck_tensor_shapes(config: OobleckConfig, naming: TensorNaming = "original") -> dict[str, tuple[int, ...]]:
    """Every tensor a checkpoint must hold, name to shape."""
    vae = empty_oobleck(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in vae.state_dict().items()}
    if naming == "diffusers":
        return shapes
    names = oobleck_original_names(vae)
    return {names[name]: shape[1:2] if is_activation(name) else shape for name, shape in shapes.items()}
