"""Loading of a checkpoint's components, unchanged, from any of the public folder layouts.

What a component is (sizes, experts, ...) is derived from its tensors and its own configuration file; nothing is told by
flags. Networks are built on the meta device, and every tensor goes from the file to the device it stays on.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from model.attention import choose_attention
from model.capabilities import Capabilities, read_capabilities
from model.checkpoint_files import CheckpointError, LocalFiles
from model.components import Contents, Converter, read_contents
from model.layout import Layout, find_layout
from model.packed_linear import choose_format, pack_linears
from model.text_encoder import TextEncoder, load_text_encoder
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.variants import config_from_shapes

if TYPE_CHECKING:
    # diffusers takes seconds to import: an actor that needs none of its networks starts without it.
    from diffusers import AutoencoderOobleck

    from model.audio_vae import AudioDecoder, AudioEncoder
    from model.wan_config import WanVaeConfig
    from model.wan_decoder import WanVideoDecoder
    from model.wan_vae import Part, WanImageEncoder

Network = TypeVar("Network", bound=nn.Module)


class Checkpoint:
    """A checkpoint on a local disk.

    Args:
        folder: see `model.layout` for the layouts that are understood.
        layout: which files to read; found in the folder by default.

    Raises:
        CheckpointError: if the folder is no checkpoint.
    """

    def __init__(self, folder: str | Path, layout: Layout | None = None):
        self.files = LocalFiles(folder)
        self.layout = layout or find_layout(self.files)

    @cached_property
    def capabilities(self) -> Capabilities:
        """What the checkpoint can be asked for.

        Raises:
            CheckpointError: if its root `config.json` is not sound.
        """
        return read_capabilities(self.files, self.layout)

    def contents(self, component: str) -> Contents:
        """Table of contents of a component, checked.

        Raises:
            CheckpointError: if it is absent, or its tensors are not those of the network.
        """
        return read_contents(self.files, self.layout, component)

    def transformer(
        self, variant: str, compute_dtype: torch.dtype, device: torch.device, is_fp8: bool = False
    ) -> Transformer:
        """Load `base`, `distill`, `sr_540p` or `sr_1080p`.

        Args:
            variant: which.
            compute_dtype: dtype of the layers' products.
            device: where it shall be.
            is_fp8: whether the layers' weights and inputs are 8-bit floats, made of each weight as it is read.

        Raises:
            CheckpointError: if it is absent or not sound.
            ValueError: if the device has no products of 8-bit floats.
        """
        form = choose_format(device, is_fp8)
        contents = self.contents(variant)
        config = config_from_shapes(contents.shapes, variant, contents.config)
        with torch.device("meta"):
            model = Transformer(config, compute_dtype, choose_attention(device, compute_dtype))
            dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
            convert = pack_linears(model, form)
        return _filled(model, self._read(variant, contents, dtypes, device, convert))

    def transformer_tensors(self, variant: str) -> tuple[TransformerConfig, dict[str, Tensor]]:
        """What one of the Transformers is and its tensors, on the CPU in the dtypes they are used in; to train on."""
        contents = self.contents(variant)
        config = config_from_shapes(contents.shapes, variant, contents.config)
        with torch.device("meta"):
            dtypes = {name: tensor.dtype for name, tensor in Transformer(config).state_dict().items()}
        return config, self._read(variant, contents, dtypes, torch.device("cpu"))

    def text_encoder(self, dtype: torch.dtype, device: torch.device) -> TextEncoder:
        """Load the T5Gemma encoder and its tokenizer."""
        contents = self.contents("text_encoder")
        tensors = self._read("text_encoder", contents, dict.fromkeys(contents.names, dtype), device)
        tokenizer_folder = self.files.path(contents.files.tokenizer_folder)
        try:
            return load_text_encoder(contents.config, tensors, tokenizer_folder, dtype, device)
        except ValueError as error:
            raise CheckpointError(f"text_encoder: {error}") from error

    def turbo_vae(self, dtype: torch.dtype, device: torch.device) -> TurboVAEDecoder:
        """Load the Turbo VAE decoder."""
        contents = self.contents("turbo_vae")
        with torch.device("meta"):
            model = TurboVAEDecoder(TurboVAEConfig.from_dict(contents.config))
        return _filled(model, self._read("turbo_vae", contents, dict.fromkeys(contents.names, dtype), device))

    def video_decoder(self, dtype: torch.dtype, device: torch.device) -> TurboVAEDecoder | WanVideoDecoder:
        """Load what makes pixels: the Turbo VAE, or the Wan 2.2 VAE's decoder where a layout has no Turbo VAE."""
        if self.layout.video_decoder == "turbo_vae":
            return self.turbo_vae(dtype, device)
        from model.wan_decoder import load_video_decoder

        tensors, config = self._wan_vae("decoder", dtype, device)
        return load_video_decoder(tensors, dtype, device, config)

    def image_encoder(self, dtype: torch.dtype, device: torch.device) -> WanImageEncoder:
        """Load the Wan 2.2 VAE's encoder."""
        from model.wan_vae import load_image_encoder

        tensors, config = self._wan_vae("encoder", dtype, device)
        return load_image_encoder(tensors, dtype, device, config)

    def _wan_vae(self, part: Part, dtype: torch.dtype, device: torch.device) -> tuple[dict[str, Tensor], WanVaeConfig]:
        from model.wan_config import WanVaeConfig
        from model.wan_vae import wan_tensor_shapes

        contents = self.contents("wan_vae")
        is_converted = bool(contents.config)
        config = (
            WanVaeConfig.from_diffusers(contents.config) if is_converted else WanVaeConfig.from_shapes(contents.shapes)
        )
        names = wan_tensor_shapes(config, part, "diffusers" if is_converted else "original")
        return self._read("wan_vae", contents, dict.fromkeys(names, dtype), device), config

    def audio_encoder(self, device: torch.device) -> AudioEncoder:
        """Load the encoder of Stable Audio Open's autoencoder, in float32."""
        from model.audio_vae import AudioEncoder

        return AudioEncoder(self._audio_vae().encoder.to(device))

    def audio_decoder(self, device: torch.device) -> AudioDecoder:
        """Load the decoder of Stable Audio Open's autoencoder, in float32."""
        from model.audio_vae import AudioDecoder

        return AudioDecoder(self._audio_vae().decoder.to(device))

    def _audio_vae(self) -> AutoencoderOobleck:
        from model.audio_vae import load_audio_vae

        contents = self.contents("audio_vae")
        dtypes = dict.fromkeys(contents.names, torch.float32)
        return load_audio_vae(contents.config, self._read("audio_vae", contents, dtypes, torch.device("cpu")))

    def _read(
        self,
        component: str,
        contents: Contents,
        dtypes: Mapping[str, torch.dtype],
        device: torch.device,
        convert: Converter | None = None,
    ) -> dict[str, Tensor]:
        try:
            return contents.read(self.files, dtypes, device, convert)
        except CheckpointError as error:
            raise CheckpointError(f"{component}: {error}") from error


def _filled(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    network.load_state_dict(tensors, strict=True, assign=True)
    network.eval().requires_grad_(False)
    return network
