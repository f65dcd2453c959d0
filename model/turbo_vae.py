"""Turbo VAE decoder: video latents to pixels, window by window.

Tensor legend: B batch (1 in practice), C channels, T latent frames, H W latent height/width, F pixel frames.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.config_types import as_tuple, require_types
from model.latent_statistics import WAN22_LATENT_MEAN, denormalise

# The release gives its residual norms this epsilon by hand; resnet_norm_eps of the config reaches the shortcuts only.
RESIDUAL_NORM_EPS = 1e-8

OUTPUT_FRAMES_AT_ONCE = 10
"""Pixel frames that the last convolution makes at once, at most."""


@dataclass(frozen=True)
class TurboVAEConfig:
    """Shape of the decoder. The per-block tuples run from the pixels to the latent, as in the release's JSON file.

    Attributes:
        latent_channels: channels of the latent.
        out_channels: channels of a picture.
        patch_size: side of the square of pixels that the last convolution makes at once.
        decoder_block_out_channels: width of each block.
        decoder_layers_per_block: residual blocks in each block, then in the middle block.
        decoder_spatio_temporal_scaling: whether the block doubles the resolution.
        decoder_spatio_only: whether that doubling leaves time alone.
        resnet_norm_eps: epsilon of the norm in front of a shortcut convolution.
        first_chunk_size: latent frames of the first window.
        step_size: latent frames of every later window.
        temporal_compression_ratio: pixel frames per latent frame.
        spatial_compression_ratio: pixels per latent position, in each direction.
    """

    latent_channels: int
    out_channels: int
    patch_size: int
    decoder_block_out_channels: tuple[int, ...]
    decoder_layers_per_block: tuple[int, ...]
    decoder_spatio_temporal_scaling: tuple[bool, ...]
    decoder_spatio_only: tuple[bool, ...]
    resnet_norm_eps: float
    first_chunk_size: int
    step_size: int
    temporal_compression_ratio: int
    spatial_compression_ratio: int

    def __post_init__(self) -> None:
        require_types(self)
        if self.latent_channels != len(WAN22_LATENT_MEAN):
            raise ValueError(f"latent_channels must be {len(WAN22_LATENT_MEAN)}, got {self.latent_channels}")
        for field in ("out_channels", "patch_size", "first_chunk_size", "step_size"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be >= 1, got {getattr(self, field)}")
        num_blocks = len(self.decoder_block_out_channels)
        for field, length in (
            ("decoder_layers_per_block", num_blocks + 1),
            ("decoder_spatio_temporal_scaling", num_blocks),
            ("decoder_spatio_only", num_blocks),
        ):
            if len(getattr(self, field)) != length:
                raise ValueError(
                    f"{field} must have {length} entries for {num_blocks} decoder_block_out_channels, "
                    f"got {getattr(self, field)}"
                )
        blocks = zip(self.decoder_spatio_temporal_scaling, self.decoder_spatio_only, strict=True)
        doublings = [only for scale, only in blocks if scale]
        spatial, temporal = self.patch_size * 2 ** len(doublings), 2 ** doublings.count(False)
        for field, value in (("spatial_compression_ratio", spatial), ("temporal_compression_ratio", temporal)):
            if getattr(self, field) != value:
                raise ValueError(f"{field} must be {value}, which the blocks multiply to, got {getattr(self, field)}")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> "TurboVAEConfig":
        """Read the release's JSON (`TurboV3-Wan22-TinyShallow_7_7.json`); keys that change nothing are passed over.

        Raises:
            ValueError: a key is missing, a value is not allowed, or the file describes a variant that was never
                released (depthwise or causal convolutions, temporal patches, a final upsampler instead of patches).
        """
        for key, allowed in (("decoder_causal", False), ("use_unpatchify", True), ("patch_size_t", 1)):
            if raw.get(key, allowed) != allowed:
                raise ValueError(f"{key} must be {allowed}: only the released variant is built, got {raw[key]}")
        is_depthwise = raw.get("decoder_is_dw_conv", ())
        if any(is_depthwise) if isinstance(is_depthwise, list | tuple) else is_depthwise:
            raise ValueError(f"decoder_is_dw_conv must be false everywhere, got {raw['decoder_is_dw_conv']}")
        names = [field.name for field in fields(cls)]
        missing = [name for name in names if name not in raw]
        if missing:
            raise ValueError(f"Turbo VAE config lacks {missing}")
        return cls(**{name: as_tuple(raw[name]) for name in names})


def rms_norm(x_BCTHW: Tensor, eps: float, activation: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """Divide by the root mean square over channels, then activate; shape and dtype stay.

    Both are computed in float32 and rounded once. The release rounds in between, and in bfloat16 strays further from
    its own float32 pictures for it: 2.2e-2 against our 1.7e-2 over five recorded latent frames.
    """
    mean_square = x_BCTHW.float().square().mean(1, keepdim=True)
    normalised = x_BCTHW * torch.rsqrt(mean_square + eps)
    return (normalised if activation is None else activation(normalised)).to(x_BCTHW.dtype)


class TimeReplicatedConv(nn.Module):
    """3-D convolution of stride 1 that keeps the size: zeros around the picture, repeated frames around the time."""

    def __init__(self, in_channels: int, out_channels: int, kernel: tuple[int, int, int] = (3, 3, 3)) -> None:
        super().__init__()
        self.num_pad_frames = kernel[0] // 2
        self.conv = nn.Conv3d(in_channels, out_channels, kernel, padding=(0, kernel[1] // 2, kernel[2] // 2))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T, H, W)."""
        return self.conv(self.pad(x_BCTHW))

    def pad(self, x_BCTHW: Tensor) -> Tensor:
        """Repeat the first and the last frame, so that behind `conv` there are as many as before."""
        if not self.num_pad_frames:
            return x_BCTHW
        before = x_BCTHW[:, :, :1].expand(-1, -1, self.num_pad_frames, -1, -1)
        after = x_BCTHW[:, :, -1:].expand(-1, -1, self.num_pad_frames, -1, -1)
        return torch.cat((before, x_BCTHW, after), dim=2)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut; the first activation is ReLU in blocks that upsample."""

    def __init__(self, in_channels: int, out_channels: int, shortcut_eps: float, first_relu: bool = False) -> None:
        super().__init__()
        self.first_activation = F.relu if first_relu else F.silu
        self.shortcut_eps = shortcut_eps
        self.conv1 = TimeReplicatedConv(in_channels, out_channels)
        self.conv2 = TimeReplicatedConv(out_channels, out_channels)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = TimeReplicatedConv(in_channels, out_channels, (1, 1, 1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T, H, W)."""
        h = self.conv1(rms_norm(x_BCTHW, RESIDUAL_NORM_EPS, self.first_activation))
        h = self.conv2(rms_norm(h, RESIDUAL_NORM_EPS, F.silu))
        if self.conv_shortcut is not None:
            x_BCTHW = self.conv_shortcut(rms_norm(x_BCTHW, self.shortcut_eps))
        return h + x_BCTHW


class MiddleBlock(nn.Module):
    """Residual blocks at the resolution of the latent."""

    def __init__(self, channels: int, num_layers: int, shortcut_eps: float) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(channels, channels, shortcut_eps) for _ in range(num_layers))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Keeps the shape."""
        for resnet in self.resnets:
            x_BCTHW = resnet(x_BCTHW)
        return x_BCTHW


class Upsampler(nn.Module):
    """Doubles the picture, and first the number of frames unless `spatial_only`."""

    def __init__(self, channels: int, spatial_only: bool) -> None:
        super().__init__()
        upsample = nn.Upsample(scale_factor=(2.0, 2.0), mode="nearest-exact")
        self.resample = nn.Sequential(upsample, nn.Conv2d(channels, channels, 3, padding=1))
        self.time_conv = None if spatial_only else TimeReplicatedConv(channels, 2 * channels, (3, 1, 1))

    def forward(self, x_BCTHW: Tensor, is_first: bool) -> Tensor:
        """(B, C, T, H, W) -> (B, C, T', 2H, 2W); T' is T, or 2T, or 2T - 1 for the window at the clip's start."""
        if self.time_conv is not None:
            even, odd = self.time_conv(x_BCTHW).chunk(2, dim=1)
            x_BCTHW = torch.stack((even, odd), dim=3).flatten(2, 3)
            if is_first:
                x_BCTHW = x_BCTHW[:, :, 1:]
        batch, _, num_frames = x_BCTHW.shape[:3]
        frames = self.resample(x_BCTHW.transpose(1, 2).flatten(0, 1))
        return frames.unflatten(0, (batch, num_frames)).transpose(1, 2)


class UpBlock(nn.Module):
    """Change of width, upsampling, residual blocks; each of the first two only where asked for."""

    def __init__(
        self, in_channels: int, out_channels: int, num_layers: int, eps: float, scale: bool, spatial_only: bool
    ) -> None:
        super().__init__()
        self.conv_in = ResidualBlock(in_channels, out_channels, eps) if in_channels != out_channels else None
        self.upsamplers = nn.ModuleList([Upsampler(out_channels, spatial_only)] if scale else [])
        self.resnets = nn.ModuleList(
            ResidualBlock(out_channels, out_channels, eps, first_relu=scale) for _ in range(num_layers)
        )

    def forward(self, x_BCTHW: Tensor, is_first: bool) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T', H', W')."""
        if self.conv_in is not None:
            x_BCTHW = self.conv_in(x_BCTHW)
        for upsampler in self.upsamplers:
            x_BCTHW = upsampler(x_BCTHW, is_first)
        for resnet in self.resnets:
            x_BCTHW = resnet(x_BCTHW)
        return x_BCTHW


class WindowDecoder(nn.Module):
    """The network itself: one window of de-normalised latent frames to pixels."""

    def __init__(self, config: TurboVAEConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        eps = config.resnet_norm_eps
        widths = config.decoder_block_out_channels[::-1]
        layers = config.decoder_layers_per_block[::-1]
        self.conv_in = TimeReplicatedConv(config.latent_channels, widths[0])
        self.mid_block = MiddleBlock(widths[0], layers[0], eps)
        self.up_blocks = nn.ModuleList(
            UpBlock(in_channels, out_channels, num_layers, eps, scale, spatial_only)
            for in_channels, out_channels, num_layers, scale, spatial_only in zip(
                (widths[0], *widths[:-1]),
                widths,
                layers[1:],
                config.decoder_spatio_temporal_scaling[::-1],
                config.decoder_spatio_only[::-1],
                strict=True,
            )
        )
        self.conv_out = TimeReplicatedConv(widths[-1], config.out_channels * config.patch_size**2)

    def forward(self, z_BCTHW: Tensor, is_first: bool, cut_front: int = 0, cut_back: int = 0) -> Tensor:
        """(B, latent_channels, T, H, W) -> (B, out_channels, 4T or 4T - 3, 16H, 16W), less the frames cut."""
        x = self.mid_block(self.conv_in(z_BCTHW))
        for up_block in self.up_blocks:
            x = up_block(x, is_first)
        return self._pixels(x, cut_front, x.shape[2] - cut_back)

    def _pixels(self, x_BCTHW: Tensor, first: int, last: int) -> Tensor:
        """Frames `first` to before `last` as pictures, a few at a time.

        All at once, what the last norm and convolution make would stand in memory beside the pictures made of it.
        """
        size, num_frames = self.patch_size, x_BCTHW.shape[2]
        height, width = size * x_BCTHW.shape[3], size * x_BCTHW.shape[4]
        num_colours = self.conv_out.conv.out_channels // size**2
        pixels = x_BCTHW.new_empty(x_BCTHW.shape[0], num_colours, last - first, height, width)
        # A compiled graph is for windows of any length, and fuses what is divided here.
        num_pieces = 1 if torch.compiler.is_compiling() else math.ceil((last - first) / OUTPUT_FRAMES_AT_ONCE)
        for piece in range(num_pieces):
            start = first + (last - first) * piece // num_pieces
            end = first + (last - first) * (piece + 1) // num_pieces
            h = self.conv_out.pad(rms_norm(x_BCTHW[:, :, max(start - 1, 0) : end + 1], RESIDUAL_NORM_EPS, F.silu))
            # Where there is a frame beside the piece, that one counts instead of a repeated one.
            h = h[:, :, int(start > 0) : h.shape[2] - int(end < num_frames)]
            # A patch is laid out (channel, column, row): the column is the slower of the two.
            patches = self.conv_out.conv(h).unflatten(1, (-1, size, size))
            squares = pixels[:, :, start - first : end - first].unflatten(4, (-1, size)).unflatten(3, (-1, size))
            squares.copy_(patches.permute(0, 1, 4, 5, 3, 6, 2))
        return pixels


class TurboVAEDecoder(nn.Module):
    """Decodes a clip as a stream of chunks, so that memory does not grow with its length.

    Attributes:
        compiled: what runs instead of the network, for a clip's first window (True) and for later ones, see
            `model.compilation`.
    """

    def __init__(self, config: TurboVAEConfig) -> None:
        super().__init__()
        self.compiled: Mapping[bool, Callable[[Tensor], Tensor]] | None = None
        self.config = config
        self.decoder = WindowDecoder(config)
        self.register_load_state_dict_post_hook(_use_channels_last)

    def decode_chunks(self, latent_1CTHW: Tensor) -> Iterator[Tensor]:
        """Decode a normalised latent, chunk after chunk, each computed when it is asked for.

        Every window sees one latent frame more on each side where there is one. A clip whose length does not fill the
        last window is continued with its last latent frame, and the pixel frames of that are cut away.

        Args:
            latent_1CTHW: (1, 48, T, H, W), the Transformer's output, in the dtype and on the device of the weights.

        Returns:
            Pixels (3, F, 16H, 16W) in about [-1, 1], not clamped, in the latent's dtype; all F sum to 4(T-1)+1.

        Raises:
            ValueError: the latent is not of that shape.
        """
        channels = self.config.latent_channels
        if latent_1CTHW.ndim != 5 or latent_1CTHW.shape[:2] != (1, channels) or 0 in latent_1CTHW.shape:
            raise ValueError(f"latent must be (1, {channels}, T, H, W), got {tuple(latent_1CTHW.shape)}")
        return self._chunks(latent_1CTHW)

    def _chunks(self, latent_1CTHW: Tensor) -> Iterator[Tensor]:
        first, step, ratio = self.config.first_chunk_size, self.config.step_size, self.config.temporal_compression_ratio
        z = denormalise(latent_1CTHW)
        num_pad = first - z.shape[2] if z.shape[2] < first else (first - z.shape[2]) % step
        z = torch.cat((z, z[:, :, -1:].expand(-1, -1, num_pad, -1, -1)), dim=2)
        num_frames = z.shape[2]
        for start, end in [(0, first), *((i, i + step) for i in range(first, num_frames, step))]:
            left, right = max(start - 1, 0), min(end + 1, num_frames)
            cut_front = (start - left) * ratio
            cut_back = (right - end + (num_pad if end == num_frames else 0)) * ratio
            # Neither a local name nor a decorator around this generator: both would hold the chunk during the next.
            yield self._decode_window(z[:, :, left:right], start == 0, cut_front, cut_back)

    @torch.no_grad()
    def _decode_window(self, z_1CTHW: Tensor, is_first: bool, cut_front: int, cut_back: int) -> Tensor:
        if self.compiled is None:
            return self.decoder(z_1CTHW, is_first, cut_front, cut_back)[0]
        pixels_3FYX = self.compiled[is_first](z_1CTHW.contiguous())[0]
        return pixels_3FYX[:, cut_front : pixels_3FYX.shape[1] - cut_back]


def _use_channels_last(decoder: nn.Module, _incompatible_keys: object) -> None:
    """After loading, since assigned weights bring their layout along. Same numbers, half the time on the CPU."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            layout = torch.channels_last if isinstance(module, nn.Conv2d) else torch.channels_last_3d
            module.weight.data = module.weight.data.contiguous(memory_format=layout)


_NETWORK_PARTS = ("conv_in", "mid_block", "up_blocks", "conv_out")


def turbo_vae_names(names: Iterable[str]) -> dict[str, str]:
    """Name in `TurboVAEDecoder` to name in the checkpoint, of those tensors that belong to the network.

    A checkpoint written by distributed training has `module.` before every name, one of the decoder alone lacks
    `decoder.`; both are read. Whatever lies beside the network's own parts are heads that only training uses.

    Args:
        names: keys of the release's `ema_state_dict`.
    """
    found: dict[str, str] = {}
    for given in names:
        name = given.removeprefix("module.").removeprefix("decoder.")
        if name.partition(".")[0] in _NETWORK_PARTS:
            if f"decoder.{name}" in found:
                raise ValueError(f"{found[f'decoder.{name}']} and {given} are the same tensor of the decoder")
            found[f"decoder.{name}"] = given
    return found
