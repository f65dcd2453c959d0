"""The release's checkpoint folders, read unchanged.

A checkpoint is one folder that holds, under the names the release's own examples use, `base`, `distill`, `540p_sr`,
`1080p_sr`, `turbo_vae`, `t5gemma-9b-9b-ul2`, `stable-audio-open-1.0` and `Wan2.2-TI2V-5B`. What a component is (sizes,
experts, ...) is derived from its tensors; nothing is told by flags.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.text_encoder import TextEncoder, expected_encoder_tensors, is_encoder_tensor, load_text_encoder
from model.transformer import Transformer
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder, load_turbo_vae_state_dict
from model.variants import config_from_shapes

if TYPE_CHECKING:
    # diffusers takes seconds to import: an actor that needs none of its networks starts without it.
    from diffusers import AutoencoderOobleck

    from model.audio_vae import AudioDecoder, AudioEncoder
    from model.wan_vae import WanImageEncoder

COMPONENT_FOLDERS = {
    "base": "base",
    "distill": "distill",
    "sr_540p": "540p_sr",
    "sr_1080p": "1080p_sr",
    "turbo_vae": "turbo_vae",
    "text_encoder": "t5gemma-9b-9b-ul2",
    "audio_vae": "stable-audio-open-1.0",
    "image_vae": "Wan2.2-TI2V-5B",
}
"""Component to folder, relative to the checkpoint."""

TURBO_VAE_CONFIG = "TurboV3-Wan22-TinyShallow_7_7.json"
TURBO_VAE_WEIGHTS = "checkpoint-340000.ckpt"
IMAGE_VAE_WEIGHTS = "Wan2.2_VAE.pth"
AUDIO_VAE_CONFIG = "model_config.json"
SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"

_FILES = {
    "turbo_vae": (TURBO_VAE_CONFIG, TURBO_VAE_WEIGHTS),
    "audio_vae": (AUDIO_VAE_CONFIG, SAFETENSORS),
    "image_vae": (IMAGE_VAE_WEIGHTS,),
}


def component_parts(component: str) -> tuple[str, ...]:
    """Paths, relative to the checkpoint, that a component is read from: its folder, or the files of it that are needed.

    The folders of the autoencoders hold whole other models beside them, tens of gigabytes that nobody reads here.
    """
    folder = COMPONENT_FOLDERS[component]
    return tuple(f"{folder}/{name}" for name in _FILES[component]) if component in _FILES else (folder,)


class CheckpointError(ValueError):
    """A checkpoint lacks something or holds something else than it should."""


def check_tensors(where: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> None:
    """Compare tensor names and shapes.

    Raises:
        CheckpointError: naming the component, the first wrong tensor, the expected and the found shape.
    """
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{where}: tensor {name} is missing, expected shape {list(shape)}")
        if list(found[name]) != list(shape):
            raise CheckpointError(f"{where}: tensor {name} has shape {list(found[name])}, expected {list(shape)}")
    if unexpected := sorted(set(found) - set(expected)):
        raise CheckpointError(f"{where}: tensor {unexpected[0]} is not expected ({len(unexpected)} such)")


def _require(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(_require(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def _shards(folder: Path) -> list[Path]:
    index = folder / SAFETENSORS_INDEX
    if index.exists():
        return [_require(folder / name) for name in sorted(set(_read_json(index)["weight_map"].values()))]
    return [_require(folder / SAFETENSORS)]


@contextmanager
def _open_shard(shard: Path, device: torch.device) -> Iterator[Any]:
    try:
        with safe_open(shard, "pt", device=str(device)) as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{shard} is damaged: {error}") from error


def _iterate_tensors(folder: Path, device: torch.device, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    for shard in _shards(folder):
        with _open_shard(shard, device) as file:
            names = list(file.keys())
            for name in [name for name in names if name.startswith(prefix)] or names:
                yield name, file.get_tensor(name)


def _load_pickle(path: Path) -> dict[str, Any]:
    """Read a PyTorch file without ever running code from it."""
    try:
        return torch.load(_require(path), map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} holds more than tensors and is not loaded") from error
    except (RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _safetensors_shapes(folder: Path) -> dict[str, list[int]]:
    shapes = {}
    for shard in _shards(folder):
        with _open_shard(shard, torch.device("cpu")) as file:
            shapes.update({name: file.get_slice(name).get_shape() for name in file.keys()})  # noqa: SIM118
    return shapes


def _load_strict(where: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    expected = {name: tensor.shape for name, tensor in module.state_dict().items()}
    check_tensors(where, expected, {name: tensor.shape for name, tensor in tensors.items()})
    module.load_state_dict(tensors, strict=True, assign=True)
    module.eval().requires_grad_(False)


class Checkpoint:
    """A checkpoint folder on a local disk.

    Args:
        folder: see the module's text.

    Raises:
        CheckpointError: if the folder does not exist.
    """

    def __init__(self, folder: str | Path):
        self.folder = _require(Path(folder))

    def component_folder(self, component: str) -> Path:
        """Folder of one component, which must exist."""
        return _require(self.folder / COMPONENT_FOLDERS[component])

    def transformer(self, variant: str, compute_dtype: torch.dtype, device: torch.device) -> Transformer:
        """Load `base`, `distill`, `sr_540p` or `sr_1080p`, tensor by tensor onto the device."""
        folder = self.component_folder(variant)
        config_path = folder / "config.json"
        overrides = _read_json(config_path) if config_path.exists() else {}
        shapes = _safetensors_shapes(folder)
        config = config_from_shapes(shapes, variant, overrides)
        with torch.device("meta"):
            model = Transformer(config, compute_dtype)
        dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
        check_tensors(str(folder), {name: t.shape for name, t in model.state_dict().items()}, shapes)
        tensors = {name: tensor.to(dtypes[name]) for name, tensor in _iterate_tensors(folder, device)}
        _load_strict(str(folder), model, tensors)
        return model

    def text_encoder(self, dtype: torch.dtype, device: torch.device) -> TextEncoder:
        """Load the T5Gemma encoder and its tokenizer; the decoder's tensors in the files are not read."""
        folder = self.component_folder("text_encoder")
        config = _read_json(folder / "config.json")
        found = {name: shape for name, shape in _safetensors_shapes(folder).items() if is_encoder_tensor(name)}
        check_tensors(str(folder), expected_encoder_tensors(config), found)
        tensors: dict[str, Tensor] = {}
        for shard in _shards(folder):
            with _open_shard(shard, device) as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys() if is_encoder_tensor(name)}  # noqa: SIM118
        return load_text_encoder(config, tensors, folder, dtype, device)

    def image_encoder(self, dtype: torch.dtype, device: torch.device) -> WanImageEncoder:
        """Load the Wan 2.2 VAE's encoder."""
        from model.wan_vae import load_image_encoder

        tensors = _load_pickle(self.component_folder("image_vae") / IMAGE_VAE_WEIGHTS)
        return load_image_encoder(tensors, dtype, device)

    def audio_encoder(self, device: torch.device) -> AudioEncoder:
        """Load the encoder of Stable Audio Open's autoencoder, in float32."""
        from model.audio_vae import AudioEncoder

        return AudioEncoder(self._audio_vae().encoder.to(device))

    def audio_decoder(self, device: torch.device) -> AudioDecoder:
        """Load the decoder of Stable Audio Open's autoencoder, in float32."""
        from model.audio_vae import AudioDecoder

        return AudioDecoder(self._audio_vae().decoder.to(device))

    def _audio_vae(self) -> AutoencoderOobleck:
        from model.audio_vae import CHECKPOINT_PREFIX, load_audio_vae

        folder = self.component_folder("audio_vae")
        # The file holds Stable Audio's diffusion model too, which must not be read into memory.
        tensors = dict(_iterate_tensors(folder, torch.device("cpu"), CHECKPOINT_PREFIX))
        return load_audio_vae(_read_json(folder / AUDIO_VAE_CONFIG), tensors)

    def turbo_vae(self, dtype: torch.dtype, device: torch.device) -> TurboVAEDecoder:
        """Load the Turbo VAE decoder."""
        folder = self.component_folder("turbo_vae")
        with torch.device("meta"):
            model = TurboVAEDecoder(TurboVAEConfig.from_dict(_read_json(folder / TURBO_VAE_CONFIG)))
        raw = _load_pickle(folder / TURBO_VAE_WEIGHTS)
        tensors = {name: t.to(device, dtype) for name, t in load_turbo_vae_state_dict(raw).items()}
        _load_strict(str(folder), model, tensors)
        return model
