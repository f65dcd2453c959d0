"""Training of the video autoencoder: a Wan 2.2 encoder with a Turbo VAE decoder.

Legend: B clips, F frames, Y X pixel rows and columns, C latent channels, T H W latent frames, height, width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from model.geometry import LATENT_STRIDE_TIME, VIDEO_LATENT_CHANNELS
from model.latent_statistics import WAN22_LATENT_MEAN, WAN22_LATENT_STD, denormalise
from model.training.latent_scale import LatentScale
from model.training.optimiser import MovingAverage, Optimiser, OptimiserConfig, require_decay
from model.training.replicas import Replicas
from model.training.task import Sample, TrainingTask
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.wan_config import WanVaeConfig
from model.wan_vae import empty_wan_vae, wan22_original_name

LARGE_SCALE = 2
"""How many times larger the pictures of super-resolution are."""


@dataclass(frozen=True)
class VideoAutoencoderConfig:
    """How the video autoencoder is trained.

    Attributes:
        optimiser: rates.
        crop: side of the square that is looked at in one step, in pixels.
        num_frames: looked at in one step, 4 n + 1.
        still_share: of the run, at its beginning, in which a step looks at a single frame of each clip: frames of a
            clip are alike, and a step over single frames takes a fraction of the time.
        latent_noise: deviation of the noise on latents, whose own is 1.
        absolute_weight: of the absolute distance of pixels, beside the squared one. Squares alone blur; absolute
            distances alone give, early on, pictures of two colours, from which training hardly finds a way.
        edge_weight: of the absolute distance of differences between neighbouring pixels.
        motion_weight: how much more a pixel counts per unit of its distance from its mean over time.
        small_share: of clips that are halved first, to the size of base generation.
        learning_scale_share: of the run, after which the latents' statistics stay.
        average_decay: of the weights that are exported.
        is_compiled: whether torch.compile makes the decoder faster, at a minute's cost.
    """

    optimiser: OptimiserConfig
    crop: int = 64
    num_frames: int = 9
    still_share: float = 0.65
    latent_noise: float = 0.06
    absolute_weight: float = 0.15
    edge_weight: float = 0.1
    motion_weight: float = 6.0
    small_share: float = 0.6
    learning_scale_share: float = 0.9
    average_decay: float = 0.995
    is_compiled: bool = False

    def __post_init__(self) -> None:
        require_decay(self.average_decay)
        if self.num_frames < 5 or self.num_frames % LATENT_STRIDE_TIME != 1:
            raise ValueError(f"num_frames must be 4 n + 1 and at least 5, got {self.num_frames}")
        if self.crop < 32 or self.crop % 16:
            raise ValueError(f"crop must be a multiple of 16 and at least 32, got {self.crop}")
        for name in ("still_share", "small_share", "learning_scale_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}")


class VideoAutoencoderTask(TrainingTask):
    """Encoder and decoder learn to give pictures back.

    A sample has `frames`: (F, Y, X, 3) uint8 at the size of super-resolution.

    Args:
        encoder: sizes of the Wan 2.2 autoencoder whose encoder is trained.
        decoder: sizes of the Turbo VAE.
        config: see there.
        seed: of the first weights.
        replicas: the workers.
        device: where the networks are.
    """

    def __init__(
        self,
        encoder: WanVaeConfig,
        decoder: TurboVAEConfig,
        config: VideoAutoencoderConfig,
        seed: int,
        replicas: Replicas,
        device: torch.device,
    ):
        encoder.require_pipeline_sizes()
        self.config, self.num_res_blocks = config, encoder.num_res_blocks
        self.replicas, self.device = replicas, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._wan, self._turbo = _fresh_encoder(encoder), TurboVAEDecoder(decoder)
            _initialise(self._wan, self._turbo)
        self.networks = nn.ModuleDict({"wan": self._wan, "turbo": self._turbo}).to(device)
        self._is_still = False
        for name, module in self._turbo.named_modules():
            if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1:
                doubles_frames = name.endswith("time_conv.conv")
                for parameter in module.parameters() if doubles_frames else (module.weight,):
                    parameter.register_hook(lambda gradient, none=doubles_frames: self._of_stills(gradient, none))
        # Loading lays the decoder's weights out as it runs fastest: a run that goes on has them so from the start.
        self._turbo.load_state_dict(self._turbo.state_dict())
        replicas.start_alike(self.networks)
        self.scale = LatentScale(VIDEO_LATENT_CHANNELS, replicas).to(device)
        self.optimiser = Optimiser([self.networks], config.optimiser, replicas)
        self.average = MovingAverage(self.networks, config.average_decay)
        if config.is_compiled:
            self._turbo.decoder.compile(dynamic=False)

    def step(self, batch: Sequence[Sample], index: int, generator: torch.Generator) -> dict[str, float]:
        """See `TrainingTask.step`; the metric `psnr_db` is that of the noisy latents' pictures."""
        is_still = index < self.config.still_share * self.config.optimiser.num_steps
        self._is_still = is_still
        num_frames = 1 if is_still else self.config.num_frames
        windows = [self._window(sample["frames"], num_frames, generator) for sample in batch]
        target_B3FYX = torch.stack(windows).to(self.device)
        mean_BCTHW = self._wan.encode(target_B3FYX).latent_dist.mode()
        learning_steps = self.config.learning_scale_share * self.config.optimiser.num_steps
        latent_BCTHW = self.scale(mean_BCTHW, is_learning=index < learning_steps)
        noise_BCTHW = torch.randn(latent_BCTHW.shape, generator=generator).to(self.device)
        latent_BCTHW = latent_BCTHW + self.config.latent_noise * noise_BCTHW
        # A window in the middle of a clip is decoded by another path than its beginning: both are trained.
        is_first = is_still or index % 2 == 0
        if not is_first:
            latent_BCTHW, target_B3FYX = latent_BCTHW[:, :, 1:], target_B3FYX[:, :, 1:]
        made_B3FYX = self._turbo.decoder(denormalise(latent_BCTHW), is_first)
        loss = self._distance(made_B3FYX, target_B3FYX)
        norm = self.optimiser.step(loss, index)
        self.average.update(self.networks, index)
        error = F.mse_loss(made_B3FYX.detach().clamp(-1, 1), target_B3FYX).item()
        psnr_db = 10 * math.log10(4 / max(error, 1e-9))
        return {"loss": loss.item(), "psnr_db": psnr_db, "gradient_norm": norm}

    def _distance(self, made_B3FYX: Tensor, target_B3FYX: Tensor) -> Tensor:
        moved = (target_B3FYX - target_B3FYX.mean(dim=2, keepdim=True)).abs().mean(dim=1, keepdim=True)
        weight = 1 + self.config.motion_weight * moved
        difference = made_B3FYX - target_B3FYX
        loss = (difference.square() * weight).mean()
        loss = loss + self.config.absolute_weight * (difference.abs() * weight).mean()
        for dim in (-1, -2):
            loss = loss + self.config.edge_weight * difference.diff(dim=dim).abs().mean()
        return loss

    def _of_stills(self, gradient: Tensor, doubles_frames: bool) -> Tensor:
        """Leave out what a still cannot tell about a decoder's convolution over time.

        The decoder repeats frames at its ends, so that over a still all taps in time get the same gradient and would
        end as a mean over frames. Only the one in the middle is trained then, and nothing of what doubles frames.
        """
        if not self._is_still:
            return gradient
        masked = torch.zeros_like(gradient)
        if not doubles_frames:
            masked[:, :, 1] = gradient[:, :, 1]
        return masked

    def _window(self, frames_FYX3: Tensor, num_frames: int, generator: torch.Generator) -> Tensor:
        """A part of a clip, (3, F, crop, crop) in [-1, 1]."""
        crop = self.config.crop
        uniform = torch.rand(5, generator=generator)
        # Half of the longer windows are the clip's beginning, which is what the first latent frame is trained for.
        is_anywhere = num_frames == 1 or uniform[1] < 0.5
        start = int(uniform[0] * (len(frames_FYX3) - num_frames + 1)) if is_anywhere else 0
        window_F3YX = frames_FYX3[start : start + num_frames].permute(0, 3, 1, 2).float()
        if uniform[2] < self.config.small_share:
            window_F3YX = F.avg_pool2d(window_F3YX, LARGE_SCALE)
        top = int(uniform[3] * (window_F3YX.shape[2] - crop + 1))
        left = int(uniform[4] * (window_F3YX.shape[3] - crop + 1))
        return window_F3YX[:, :, top : top + crop, left : left + crop].transpose(0, 1) / 127.5 - 1

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingTask.state_dict`."""
        return {
            "networks": self.networks.state_dict(),
            "scale": self.scale.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.tensors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TrainingTask.load_state_dict`."""
        self.networks.load_state_dict(state["networks"])
        self.scale.load_state_dict(state["scale"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.tensors = dict(state["average"])

    def export(self) -> dict[str, Tensor]:
        """Tensors of the encoder under `wan.` with the names of `Wan2.2_VAE.pth`, of the decoder under `turbo.`.

        The encoder's last layer is scaled so that its means have the statistics of Wan 2.2, which the pipeline undoes.
        See `TrainingTask.export`.
        """
        if not self.replicas.is_first:
            return {}
        tensors = {name: tensor.clone() for name, tensor in self.average.tensors.items()}
        weight, bias = tensors["wan.quant_conv.weight"], tensors["wan.quant_conv.bias"]
        channels = VIDEO_LATENT_CHANNELS
        factor_C = torch.tensor(WAN22_LATENT_STD, device=self.device) / self.scale.deviation
        weight[:channels] *= factor_C.view(-1, 1, 1, 1, 1)
        bias[:channels] = (bias[:channels] - self.scale.mean) * factor_C + torch.tensor(
            WAN22_LATENT_MEAN, device=self.device
        )
        weight[channels:] = 0
        bias[channels:] = 2 * math.log(max(self.config.latent_noise, 1e-4))
        exported = {}
        for name, tensor in tensors.items():
            network, _, rest = name.partition(".")
            stored = wan22_original_name(rest, self.num_res_blocks) if network == "wan" else rest
            exported[f"{network}.{stored}"] = tensor.cpu()
        return exported


def _fresh_encoder(config: WanVaeConfig) -> AutoencoderKLWan:
    """The autoencoder without its decoder, weights not set."""
    vae = empty_wan_vae(config)
    del vae.decoder, vae.post_quant_conv
    return vae.to_empty(device="cpu").requires_grad_(True)


def _initialise(wan: nn.Module, turbo: nn.Module) -> None:
    """First weights: convolutions keep the spread of what they are given, with quiet residual branches in the encoder.

    torch's usual ones shrink it by 0.6 each and drown it in random biases, which costs the first third of training. In
    time, every convolution begins as one over single frames: what is learnt from stills then holds for clips too.
    """
    for name, module in wan.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            # It pads in front, so the newest frame is the last tap.
            _as_over_single_frames(module, tap=-1, is_identity=name.endswith("time_conv"))
            if name.startswith("encoder") and name.endswith("conv2"):
                module.weight.data.mul_(0.3)
        elif isinstance(gamma := getattr(module, "gamma", None), Tensor):
            gamma.data.fill_(1.0)
    for name, module in turbo.named_modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            _as_over_single_frames(module, tap=1, is_identity=name.endswith("time_conv.conv"))


@torch.no_grad()
def _as_over_single_frames(module: nn.Conv2d | nn.Conv3d, tap: int, is_identity: bool) -> None:
    if module.bias is not None:
        module.bias.zero_()
    weight = module.weight
    if weight.ndim == 5 and weight.shape[2] > 1:
        weight.zero_()
        weight = weight[:, :, tap]
    if is_identity:
        channels = weight.shape[1]
        weight.copy_(torch.eye(channels).repeat(weight.shape[0] // channels, 1).view(weight.shape))
    else:
        nn.init.kaiming_normal_(weight, nonlinearity="linear")
