"""Training of the audio autoencoder.

Legend: B clips, S samples, C latent channels, A audio latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.geometry import MODEL_SAMPLE_RATE_HZ
from model.oobleck import OobleckConfig, empty_oobleck, is_activation, oobleck_original_names
from model.training.latent_scale import LatentScale
from model.training.optimiser import MovingAverage, Optimiser, OptimiserConfig, require_decay
from model.training.replicas import Replicas
from model.training.spectral import SpectralDistance
from model.training.task import Sample, TrainingTask

_SILENCE = 0.01


@dataclass(frozen=True)
class AudioCodecConfig:
    """How the audio autoencoder is trained.

    Attributes:
        optimiser: rates.
        window_latents: how much of a clip is looked at in one step, in latents.
        latent_noise: deviation of the noise on latents, whose own is 1.
        sample_weight: of the distance of samples, beside the distance of spectra.
        shifted_share: of clips that begin anywhere, not at a whole latent.
        learning_scale_share: of the run, after which the latents' statistics stay.
        average_decay: of the weights that are exported.
        is_compiled: whether torch.compile makes the networks faster, at a minute's cost.
    """

    optimiser: OptimiserConfig
    window_latents: int = 12
    latent_noise: float = 0.12
    sample_weight: float = 1.5
    shifted_share: float = 0.3
    learning_scale_share: float = 0.5
    average_decay: float = 0.995
    is_compiled: bool = False

    def __post_init__(self) -> None:
        require_decay(self.average_decay)
        if self.window_latents < 1:
            raise ValueError(f"window_latents must be at least 1, got {self.window_latents}")
        for name in ("shifted_share", "learning_scale_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)!r}")


class AudioCodecTask(TrainingTask):
    """Encoder and decoder of Stable Audio's class learn to give a sound back.

    A sample has `waveform`: (S,) int16 or float, one channel at 51.2 kHz, which is trained as stereo.

    Args:
        network: sizes of both halves.
        config: see there.
        seed: of the first weights.
        replicas: the workers.
        device: where the networks are.
    """

    def __init__(
        self, network: OobleckConfig, config: AudioCodecConfig, seed: int, replicas: Replicas, device: torch.device
    ):
        network.require_pipeline_sizes()
        self.network, self.config, self.replicas, self.device = network, config, replicas, device
        vae = empty_oobleck(network).to_empty(device="cpu").requires_grad_(True)
        _initialise(vae, torch.Generator().manual_seed(seed))
        self.vae = vae.to(device)
        replicas.start_alike(self.vae)
        self.scale = LatentScale(network.decoder.latent_channels, replicas).to(device)
        self.distance = SpectralDistance(MODEL_SAMPLE_RATE_HZ).to(device)
        self.optimiser = Optimiser([self.vae], config.optimiser, replicas)
        self.average = MovingAverage(self.vae, config.average_decay)
        if config.is_compiled:
            self.vae.encoder.compile(dynamic=False)
            self.vae.decoder.compile(dynamic=False)

    def step(self, batch: Sequence[Sample], index: int, generator: torch.Generator) -> dict[str, float]:
        """See `TrainingTask.step`; the metric `rms` is the sound's that is made, over the target's."""
        target_BS = torch.stack([self._window(sample["waveform"], generator) for sample in batch]).to(self.device)
        mean_BCA = self.vae.encoder(target_BS.unsqueeze(1).expand(-1, 2, -1)).chunk(2, dim=1)[0]
        learning_steps = self.config.learning_scale_share * self.config.optimiser.num_steps
        latent_BCA = self.scale(mean_BCA, is_learning=index < learning_steps)
        noise_BCA = torch.randn(latent_BCA.shape, generator=generator).to(self.device)
        made_B2S = self.vae.decoder(latent_BCA + self.config.latent_noise * noise_BCA)
        samples = F.l1_loss(made_B2S, target_BS.unsqueeze(1).expand_as(made_B2S))
        spectra = self.distance(made_B2S.mean(dim=1), target_BS)
        loss = self.config.sample_weight * samples + spectra
        norm = self.optimiser.step(loss, index)
        self.average.update(self.vae, index)
        rms = float(made_B2S.detach().square().mean().sqrt() / target_BS.square().mean().sqrt().clamp(min=1e-4))
        return {
            "loss": loss.item(),
            "samples": samples.item(),
            "spectra": spectra.item(),
            "rms": rms,
            "gradient_norm": norm,
        }

    def _window(self, waveform_S: Tensor, generator: torch.Generator) -> Tensor:
        cell = self.network.decoder.samples_per_latent
        length = self.config.window_latents * cell
        samples_S = waveform_S.float() / 32768 if waveform_S.dtype == torch.int16 else waveform_S.float()
        uniform = torch.rand(3, generator=generator)
        # Most of a clip is silence: the middle of the window lies where there is sound.
        loud = (samples_S.unfold(0, cell, cell).abs().amax(dim=1) > _SILENCE).nonzero()[:, 0]
        middle = int(loud[int(uniform[0] * len(loud))]) if len(loud) else 0
        last = max(0, len(samples_S) // cell - self.config.window_latents)
        start = min(max(0, middle - self.config.window_latents // 2), last) * cell
        if uniform[1] < self.config.shifted_share:
            start += int(uniform[2] * cell)
        window = samples_S[start : start + length]
        return F.pad(window, (0, length - len(window)))

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingTask.state_dict`."""
        return {
            "vae": self.vae.state_dict(),
            "scale": self.scale.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.tensors,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TrainingTask.load_state_dict`."""
        self.vae.load_state_dict(state["vae"])
        self.scale.load_state_dict(state["scale"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.tensors = dict(state["average"])

    def export(self) -> dict[str, Tensor]:
        """Tensors under Stable Audio's names (without the file's prefix), float32.

        The normalisation of latents is folded into the encoder's last layer. Its deviations are one number, that of the
        noise the decoder was trained with. See `TrainingTask.export`.
        """
        if not self.replicas.is_first:
            return {}
        tensors = {name: tensor.clone() for name, tensor in self.average.tensors.items()}
        channels = self.network.decoder.latent_channels
        last = "encoder.conv2"
        deviation_C = self.scale.deviation
        tensors[f"{last}.weight_g"][:channels] /= deviation_C.view(-1, 1, 1)
        tensors[f"{last}.bias"][:channels] = (tensors[f"{last}.bias"][:channels] - self.scale.mean) / deviation_C
        tensors[f"{last}.weight_g"][channels:] = 0
        # What softplus turns into the noise; the pipeline adds 1e-4 behind it.
        tensors[f"{last}.bias"][channels:] = math.log(math.expm1(max(self.config.latent_noise - 1e-4, 1e-4)))
        names = oobleck_original_names(self.vae)
        return {
            names[name]: (tensor.flatten() if is_activation(name) else tensor).cpu() for name, tensor in tensors.items()
        }


@torch.no_grad()
def _initialise(vae: nn.Module, generator: torch.Generator) -> None:
    """First weights: uniform over the usual range of a convolution, snakes of frequency 1, quiet residual branches."""
    for name, tensor in vae.state_dict().items():
        if is_activation(name) or name.endswith(".bias"):
            tensor.zero_()
        elif name.endswith(".weight_v"):
            bound = (3 / tensor[0].numel()) ** 0.5
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 2 * bound - bound)
    for name, module in vae.named_modules():
        if hasattr(module, "weight_v"):
            # A transposed convolution's norm runs over its inputs: dim 0 either way, as weight_norm has it.
            module.weight_g.copy_(module.weight_v.flatten(1).norm(dim=1).view(module.weight_g.shape))
            if ".res_unit" in name and name.endswith("conv2"):
                module.weight_g.mul_(0.3)
