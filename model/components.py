"""What the files of a component hold, compared with what its network needs, before a weight is read.

Strict: a tensor that is missing, unexpected or of another shape is an error. Left aside are only tensors of other
models in the same file: Stable Audio's diffusion model, T5Gemma's decoder, heads that the Turbo VAE had in training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from model.checkpoint_files import CheckpointError, CheckpointFiles, LocalFiles, read_json
from model.geometry import (
    AUDIO_LATENT_CHANNELS,
    LATENT_STRIDE_SPACE,
    LATENT_STRIDE_TIME,
    PATCH_SIZE,
    VIDEO_LATENT_CHANNELS,
)
from model.layout import ComponentFiles, Layout
from model.tensor_files import (
    TensorHeader,
    read_safetensors,
    read_torch_file,
    safetensors_headers,
    torch_file_shapes,
)
from model.text_encoder import expected_encoder_tensors, is_encoder_tensor
from model.transformer import Transformer
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder, turbo_vae_names
from model.variants import VARIANTS, config_from_shapes

EMA_WEIGHTS = "ema_state_dict"
"""Key of the Turbo VAE's checkpoint under which the averaged weights are, those the release decodes with."""


Converter = Callable[[str, Tensor], dict[str, Tensor]]
"""Makes entries of a network's state dict out of one tensor and its name there, while others are still being read."""


@dataclass(frozen=True)
class Contents:
    """Tensors of a component that are there and as they should be.

    Attributes:
        files: where they lie.
        config: the component's JSON file, empty where it has none.
        headers: tensors that are used, by their name in the file.
        names: name in the network to name in the file.
        shapes: name in the network to the shape it has there.
        num_ignored: tensors of the same files that are not used.
    """

    files: ComponentFiles
    config: dict[str, Any]
    headers: dict[str, TensorHeader]
    names: dict[str, str]
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    num_ignored: int = 0

    def read(
        self,
        files: LocalFiles,
        dtypes: Mapping[str, torch.dtype],
        device: torch.device,
        convert: Converter | None = None,
    ) -> dict[str, Tensor]:
        """Read tensors under the names and with the shapes they have in the network.

        Args:
            files: the checkpoint.
            dtypes: the tensors wanted, by their name in the network, and the dtype each shall have.
            device: where they shall be.
            convert: what is made of each, see `Converter`; by default it is kept as it is.

        Raises:
            CheckpointError: if a file is damaged.
        """
        wanted = {self.names[name]: dtype for name, dtype in dtypes.items()}
        own_names = {self.names[name]: name for name in dtypes}

        def keep(file_name: str, tensor: Tensor) -> dict[str, Tensor]:
            name = own_names[file_name]
            tensor = tensor.view(self.shapes[name])
            return {name: tensor} if convert is None else convert(name, tensor)

        if self.files.weights[0].endswith((".pth", ".ckpt")):
            held = _state_dict(read_torch_file(files, self.files.weights[0]))
            tensors = {name: held[name].to(device, dtype) for name, dtype in wanted.items()}
            kept = {name: keep(name, tensors.pop(name)) for name in wanted}
        else:
            kept = read_safetensors(files, self.headers, wanted, device, keep)
        return {name: tensor for own in dtypes for name, tensor in kept[self.names[own]].items()}


def check_tensors(component: str, expected: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]) -> None:
    """Compare tensor names and shapes.

    Raises:
        CheckpointError: naming the component, the first wrong tensor, the expected and the found shape.
    """
    for name, shape in expected.items():
        if name not in found:
            raise CheckpointError(f"{component}: tensor {name} is missing, expected shape {list(shape)}")
        if list(found[name]) != list(shape):
            raise CheckpointError(f"{component}: tensor {name} has shape {list(found[name])}, expected {list(shape)}")
    if unexpected := sorted(set(found) - set(expected)):
        first = f"tensor {unexpected[0]} of shape {list(found[unexpected[0]])}"
        raise CheckpointError(f"{component}: {first} is not expected ({len(unexpected)} such)")


def read_contents(files: CheckpointFiles, layout: Layout, component: str) -> Contents:
    """Read the table of contents of a component's files and hold it against the network.

    Raises:
        CheckpointError: one line that starts with the component.
    """
    found = layout.files(component)
    try:
        config = read_json(files, found.config) if found.config else {}
        contents = _READERS[component](files, layout, component, config)
        _require_plain_numbers(contents)
    except CheckpointError as error:
        raise error if str(error).startswith(f"{component}: ") else CheckpointError(f"{component}: {error}") from error
    except ValueError as error:
        raise CheckpointError(f"{component}: {found.config or found.folder}: {error}") from error
    return contents


def _require_sizes(*sizes: tuple[str, int, int]) -> None:
    """Hold sizes against those of the pipeline's latents."""
    for name, value, allowed in sizes:
        if value != allowed:
            raise ValueError(f"{name} must be {allowed}, as the pipeline's latents have it, got {value}")


def _require_plain_numbers(contents: Contents) -> None:
    """Whole numbers are quantised weights, which mean nothing without their scales."""
    for name in contents.names.values():
        header = contents.headers[name]
        if not header.dtype.is_floating_point:
            raise CheckpointError(
                f"tensor {name} in {header.file} has dtype {header.dtype}, expected a floating-point one"
            )


def network_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of everything in a module's state dict."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _transformer(files: CheckpointFiles, layout: Layout, component: str, config: dict[str, Any]) -> Contents:
    found = layout.files(component)
    headers = safetensors_headers(files, found.weights)
    given = {name: header.shape for name, header in headers.items()}
    try:
        sizes = config_from_shapes(given, component)
    except ValueError as error:  # the tensors are at fault, whatever the configuration says
        raise CheckpointError(f"{found.weights[0]}: {error}, found {_some(given)}") from error
    _require_sizes(
        ("numbers per video token", sizes.video_channels, VIDEO_LATENT_CHANNELS * PATCH_SIZE**2),
        ("numbers per audio token", sizes.audio_channels, AUDIO_LATENT_CHANNELS),
    )
    with torch.device("meta"):
        shapes = network_shapes(Transformer(config_from_shapes(given, component, config)))
    check_tensors(component, shapes, given)
    return Contents(found, config, headers, {name: name for name in shapes}, shapes)


def _text_encoder(files: CheckpointFiles, layout: Layout, component: str, config: dict[str, Any]) -> Contents:
    found = layout.files(component)
    every = safetensors_headers(files, found.weights)
    headers = {name: header for name, header in every.items() if is_encoder_tensor(name)}
    # Saved alone, the encoder's names lack what T5Gemma as a whole puts before them.
    prefix = "" if any(name.startswith("encoder.") for name in headers) else "model."
    shapes = expected_encoder_tensors(config)
    expected = {prefix + name: shape for name, shape in shapes.items()}
    check_tensors(component, expected, {name: header.shape for name, header in headers.items()})
    return Contents(found, config, headers, {n: prefix + n for n in shapes}, shapes, len(every) - len(headers))


def _turbo_vae(files: CheckpointFiles, layout: Layout, component: str, config: dict[str, Any]) -> Contents:
    found = layout.files(component)
    turbo = TurboVAEConfig.from_dict(config)
    _require_sizes(
        ("out_channels", turbo.out_channels, 3),
        ("spatial_compression_ratio", turbo.spatial_compression_ratio, LATENT_STRIDE_SPACE),
        ("temporal_compression_ratio", turbo.temporal_compression_ratio, LATENT_STRIDE_TIME),
    )
    with torch.device("meta"):
        shapes = network_shapes(TurboVAEDecoder(turbo))
    raw = torch_file_shapes(files, found.weights[0])
    if not isinstance(raw, Mapping) or EMA_WEIGHTS not in raw:
        what = _some(raw) if isinstance(raw, Mapping) else type(raw).__name__
        raise CheckpointError(f"{found.weights[0]} must hold {EMA_WEIGHTS}, found {what}")
    every = _torch_headers(raw, found.weights[0])
    try:
        used = turbo_vae_names(every)
    except ValueError as error:
        raise CheckpointError(f"{found.weights[0]}: {error}") from error
    headers = {file_name: every[file_name] for file_name in used.values()}
    names = {name: used.get(name, name) for name in shapes}
    check_tensors(component, {names[n]: shape for n, shape in shapes.items()}, {n: h.shape for n, h in headers.items()})
    return Contents(found, config, headers, names, shapes, len(every) - len(headers))


def _wan_vae(files: CheckpointFiles, layout: Layout, component: str, config: dict[str, Any]) -> Contents:
    from model.wan_config import WanVaeConfig
    from model.wan_vae import TensorNaming, wan_tensor_shapes

    found = layout.files(component)
    if found.weights[0].endswith(".pth"):
        headers = _torch_headers(torch_file_shapes(files, found.weights[0]), found.weights[0])
    else:
        headers = safetensors_headers(files, found.weights)
    given = {name: header.shape for name, header in headers.items()}
    try:
        from_shapes = None if config else WanVaeConfig.from_shapes(given)
    except ValueError as error:
        raise CheckpointError(f"{found.weights[0]}: {error}, found {_some(given)}") from error
    wan = from_shapes or WanVaeConfig.from_diffusers(config)
    wan.require_pipeline_sizes()
    naming: TensorNaming = "diffusers" if config else "original"
    is_whole = layout.video_decoder == component or any(name.startswith("decoder.") for name in given)
    shapes = wan_tensor_shapes(wan, "whole" if is_whole else "encoder", naming)
    check_tensors(component, shapes, given)
    return Contents(found, config, headers, {name: name for name in shapes}, shapes)


def _audio_vae(files: CheckpointFiles, layout: Layout, component: str, config: dict[str, Any]) -> Contents:
    from model.oobleck import CHECKPOINT_PREFIX, OobleckConfig, TensorNaming, oobleck_tensor_shapes

    found = layout.files(component)
    oobleck = OobleckConfig.from_json(config)
    oobleck.require_pipeline_sizes()
    every = safetensors_headers(files, found.weights)
    prefix = CHECKPOINT_PREFIX if any(name.startswith(CHECKPOINT_PREFIX) for name in every) else ""
    headers = {name: header for name, header in every.items() if name.startswith(prefix)}
    naming: TensorNaming = "diffusers" if any(".block." in name for name in headers) else "original"
    shapes = oobleck_tensor_shapes(oobleck, naming)
    expected = {prefix + name: shape for name, shape in shapes.items()}
    check_tensors(component, expected, {name: header.shape for name, header in headers.items()})
    return Contents(found, config, headers, {n: prefix + n for n in shapes}, shapes, len(every) - len(headers))


def _state_dict(raw: Any) -> Mapping[str, Tensor]:
    state_dict = raw.get(EMA_WEIGHTS, raw) if isinstance(raw, Mapping) else raw
    if not isinstance(state_dict, Mapping):
        raise CheckpointError(f"it must hold tensors by name, got {type(state_dict).__name__}")
    return state_dict


def _torch_headers(raw: Any, file: str) -> dict[str, TensorHeader]:
    try:
        held = {str(name): tensor for name, tensor in _state_dict(raw).items() if isinstance(tensor, Tensor)}
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    if not held:
        raise CheckpointError(f"{file} must hold tensors by name, found {_some(_state_dict(raw))}")
    for name, tensor in held.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise CheckpointError(f"tensor {name} in {file} is a sparse or quantised one, expected a plain one")
    return {name: TensorHeader(tuple(tensor.shape), tensor.dtype, file) for name, tensor in held.items()}


def _some(names: Iterable[Any]) -> str:
    """The first few of some names, for a message."""
    shown = sorted(map(str, names))
    return f"{', '.join(shown[:3])}{', ...' if len(shown) > 3 else ''}" or "nothing"


_READERS: dict[str, Callable[[CheckpointFiles, Layout, str, dict[str, Any]], Contents]] = {
    **dict.fromkeys(VARIANTS, _transformer),
    "text_encoder": _text_encoder,
    "wan_vae": _wan_vae,
    "audio_vae": _audio_vae,
    "turbo_vae": _turbo_vae,
}
