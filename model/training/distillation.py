"""DMD-2: the base model is distilled into a student of few steps and one forward pass each.

The student's own sampler makes clips, exactly as at inference (backward simulation). A fake score learns to denoise
them, a frozen real score (the base, guided) tells how real clips are denoised, and the difference of both moves the
student, through one random step of its sampling. Optionally a discriminator on the fake score compares with real clips.
Method: Yin et al. 2024 (DMD-2), Huang et al. 2025 (simulation of the sampler in training).

One thing is done otherwise, for its price: a step simulates once and keeps what every step of the sampler saw and said.
All updates of the fake score learn from it (one random step for each clip and update), and so does the student's.

Legend: 1 one clip; S clips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from model.denoiser import Conditions, Denoiser, Latents, initial_noise, noise_from, with_images
from model.sampling import DistilledStep, distilled_steps
from model.schedule import flow_sigmas
from model.training.clips import TrainingClip, draw_clips, noise_like, on_path, squared_errors, stratified_levels
from model.training.consistency import consistency_examples, fine_sigmas
from model.training.discriminator import watched_features
from model.training.distillation_config import DistillationConfig, DistillationNetworks
from model.training.flow_matching import flow_examples
from model.training.networks import checkpoint_tensors
from model.training.optimiser import MovingAverage, Optimiser
from model.training.replicas import Replicas
from model.training.scores import clean_from, guided_velocities, matching_gradient
from model.training.task import Sample, TrainingTask
from model.transformer import Transformer


class DistillationTask(TrainingTask):
    """Training of the distilled model.

    Args:
        networks: on their device.
        negative_text_LC: features of the negative prompt (L, C), for the guidance of the real score.
        config: how.
        replicas: the workers of the run.

    Raises:
        ValueError: if a discriminator is there and not configured, or the other way round.
    """

    def __init__(
        self,
        networks: DistillationNetworks,
        negative_text_LC: Tensor,
        config: DistillationConfig,
        replicas: Replicas,
    ):
        if (networks.discriminator is None) != (config.gan is None):
            found = "none" if networks.discriminator is None else "one"
            raise ValueError(f"gan must be set exactly when there is a discriminator, got {config.gan!r} and {found}")
        self.networks, self.config, self.replicas = networks, config, replicas
        self.device = networks.student.device
        for network in (networks.student, networks.real, *networks.critics()):
            replicas.start_alike(network)
        self.negative_text_1LC = negative_text_LC.unsqueeze(0).to(self.device, torch.float32)
        self._sigmas = flow_sigmas(config.sampling.num_steps, config.sampling.shift)[0].to(self.device)
        self._student_optimiser = Optimiser([networks.student], config.student, replicas)
        self._critic_optimiser = Optimiser(list(networks.critics()), config.fake, replicas)
        self._average = MovingAverage(networks.student, config.average_decay)

    def step(self, batch: Sequence[Sample], index: int, generator: torch.Generator) -> dict[str, float]:
        """See `TrainingTask.step`: one update of the student, and those of the fake score before it.

        Gives `loss`: during the warm-up the error of the regression, afterwards the matching loss, how far both scores
        lie apart against the real one's error. Beside it, afterwards, the last `fake_loss`, and with a discriminator
        its `gan_loss` and the student's, `student_gan_loss`.
        """
        clips = draw_clips(batch, self.config.shares, self.negative_text_1LC, generator)
        if index < self.config.warm_up.num_steps:
            report = self._warm_up(clips, index, generator)
        else:
            trajectory = self.simulate(clips, generator)
            for _ in range(self.config.num_fake_updates):
                report = self._update_critics(clips, trajectory, index, generator)
            report |= self._update_student(clips, trajectory, index, generator)
        self._average.update(self.networks.student, index)
        return report

    @torch.no_grad()
    def simulate(self, clips: Sequence[TrainingClip], generator: torch.Generator) -> list[DistilledStep]:
        """Let the student make clips from noise, of the sizes and conditions of these, and keep every step."""
        noise = noise_from(generator, self.device)
        starts, conditions = [], [clip.conditions for clip in clips]
        for clip in clips:
            _, num_channels, *size = clip.clean.video_1CTHW.shape
            _, num_audio, num_audio_channels = clip.clean.audio_1AC.shape
            start = initial_noise((size[0], size[1], size[2]), num_audio, (num_channels, num_audio_channels), noise)
            is_given = clip.conditions.audio_is_given
            starts.append(Latents(start.video_1CTHW, clip.clean.audio_1AC) if is_given else start)
        noises = [noise] * len(clips)
        return list(distilled_steps(self.networks.student, starts, conditions, self.config.sampling, noises))

    def _random_steps(self, num_clips: int, generator: torch.Generator) -> list[int]:
        """One step of the sampler for each clip."""
        levels_S = stratified_levels(num_clips, 1.0, generator) * self.config.sampling.num_steps
        return levels_S.long().clamp(max=self.config.sampling.num_steps - 1).tolist()

    def _score_levels(self, num_clips: int, generator: torch.Generator) -> Tensor:
        """Noise levels (S,) at which scores are asked."""
        lowest, highest = self.config.lowest_level, self.config.highest_level
        levels_S = stratified_levels(num_clips, self.config.shift, generator)
        return (lowest + (highest - lowest) * levels_S).to(self.device)

    def _warm_up(self, clips: list[TrainingClip], index: int, generator: torch.Generator) -> dict[str, float]:
        config, student = self.config, self.networks.student
        sampling = config.sampling
        sigmas = fine_sigmas(sampling.num_steps, config.warm_up.num_substeps, sampling.shift).to(self.device)
        noise = noise_from(generator, self.device)
        examples = consistency_examples(student, self.networks.real, clips, config.guidance, sigmas, generator, noise)
        predictions = _denoiser(student, examples.conditions, examples.noisy)(examples.noisy, examples.levels_S)
        video, audio = squared_errors(predictions, examples.targets, examples.conditions)
        loss = video + config.audio_weight * audio
        norm = self._student_optimiser.step(loss, index)
        return {"loss": loss.item(), "gradient_norm": norm}

    def _update_critics(
        self, clips: list[TrainingClip], trajectory: list[DistilledStep], index: int, generator: torch.Generator
    ) -> dict[str, float]:
        """Flow matching of the fake score on the student's clips, and the discriminator's share."""
        num_clips, noise = len(clips), noise_from(generator, self.device)
        steps = self._random_steps(num_clips, generator)
        made = [
            TrainingClip(trajectory[step].clean[number], clip.conditions)
            for number, (step, clip) in enumerate(zip(steps, clips, strict=True))
        ]
        levels_S = self._score_levels(num_clips, generator)
        examples = flow_examples(made, noise_like([clip.clean for clip in made], noise), levels_S)
        noisy, conditions = list(examples.noisy), list(examples.conditions)
        if self.config.gan is not None:
            noisy += flow_examples(clips, noise_like([clip.clean for clip in clips], noise), levels_S).noisy
            conditions += conditions
        denoise = _denoiser(self.networks.fake, conditions, noisy)
        with watched_features(self.networks.fake) as features:
            predictions = denoise(noisy, levels_S.repeat(len(noisy) // num_clips))
        video, audio = squared_errors(predictions[:num_clips], examples.targets, examples.conditions)
        loss = video + self.config.audio_weight * audio
        report = {"fake_loss": loss.item()}
        if self.config.gan is not None:
            signs = torch.ones(len(noisy), device=self.device)
            signs[num_clips:] = -1  # real clips shall have high logits
            gan_loss = self._gan_loss(features, denoise, signs, conditions)
            loss = loss + self.config.gan.fake_weight * gan_loss
            report["gan_loss"] = gan_loss.item()
        self._critic_optimiser.step(loss, index)
        return report

    def _gan_loss(
        self, features: list[Tensor], denoise: Denoiser, signs: Tensor, conditions: Sequence[Conditions]
    ) -> Tensor:
        """Mean of log(1 + e^(sign * logit)) over clips, for what is made of them."""
        assert self.networks.discriminator is not None
        logits_S2 = self.networks.discriminator(features, denoise.layouts)
        is_made_S2 = torch.tensor([[1.0, not condition.audio_is_given] for condition in conditions], device=self.device)
        return (F.softplus(signs.unsqueeze(1) * logits_S2) * is_made_S2).sum() / len(conditions)

    def _update_student(
        self, clips: list[TrainingClip], trajectory: list[DistilledStep], index: int, generator: torch.Generator
    ) -> dict[str, float]:
        """Follow the distribution-matching gradient through one step of the sampler."""
        conditions = [clip.conditions for clip in clips]
        steps = self._random_steps(len(clips), generator)
        clean = self.predict_clean(trajectory, steps, conditions)
        matching, gan = self.gradients(clean, conditions, generator)
        targets = [
            Latents((at.video_1CTHW - g.video_1CTHW).detach(), (at.audio_1AC - g.audio_1AC).detach())
            for at, g in zip(clean, matching, strict=True)
        ]
        # Half a squared distance, whose gradient with regard to the clip is the one wanted.
        video, audio = squared_errors(clean, targets, conditions)
        loss = 0.5 * (video + self.config.audio_weight * audio)
        report = {"loss": loss.item()}
        if gan is not None and self.config.gan is not None:
            gan_loss, gan_gradients = gan
            report["student_gan_loss"] = gan_loss
            loss = loss + self.config.gan.student_weight * _inner_product(clean, gan_gradients)
        report["gradient_norm"] = self._student_optimiser.step(loss, index)
        return report

    def predict_clean(
        self, trajectory: Sequence[DistilledStep], steps: Sequence[int], conditions: Sequence[Conditions]
    ) -> list[Latents]:
        """What the student takes for clean at one step of each clip's simulated sampling, with gradient."""
        noisy = [trajectory[step].noisy[number] for number, step in enumerate(steps)]
        levels_S = self._sigmas[list(steps)]
        velocities = _denoiser(self.networks.student, conditions, noisy)(noisy, levels_S)
        clean = [clean_from(*values) for values in zip(noisy, velocities, levels_S, strict=True)]
        # Given audio counts whole and the prediction with weight zero, so that it has gradients all the same: workers
        # with sharded networks must agree on which parameters have some, whatever their clips are given.
        kept = [
            Latents(c.video_1CTHW, torch.lerp(at.audio_1AC, c.audio_1AC, 0.0 if condition.audio_is_given else 1.0))
            for c, at, condition in zip(clean, noisy, conditions, strict=True)
        ]
        return with_images(kept, conditions)

    def gradients(
        self, clean: Sequence[Latents], conditions: Sequence[Conditions], generator: torch.Generator
    ) -> tuple[list[Latents], tuple[float, list[Latents]] | None]:
        """Distribution-matching gradients of the student's clips, and the discriminator's loss and gradients.

        Both are taken at the same noise, with regard to the clean clips and without gradient of the networks.
        """
        networks, levels_S = self.networks, self._score_levels(len(clean), generator)
        noises = noise_like(clean, noise_from(generator, self.device))
        leaves = [Latents(c.video_1CTHW.detach(), c.audio_1AC.detach()) for c in clean]
        tensors = [tensor for leaf in leaves for tensor in (leaf.video_1CTHW, leaf.audio_1AC)]
        with torch.set_grad_enabled(self.config.gan is not None), watched_features(networks.fake) as features:
            for tensor in tensors:
                tensor.requires_grad_(self.config.gan is not None)
            points = zip(leaves, noises, levels_S, conditions, strict=True)
            noisy = [on_path(*point) for point in points]
            denoise = _denoiser(networks.fake, conditions, noisy)
            fake = denoise(noisy, levels_S)
            gan = None
            if self.config.gan is not None:
                loss = self._gan_loss(features, denoise, -torch.ones(len(clean), device=self.device), conditions)
                found = torch.autograd.grad(loss, tensors, materialize_grads=True, allow_unused=True)
                gan = loss.item(), [Latents(*pair) for pair in zip(found[::2], found[1::2], strict=True)]
        noisy = [Latents(at.video_1CTHW.detach(), at.audio_1AC.detach()) for at in noisy]
        real = guided_velocities(networks.real, noisy, levels_S, conditions, self.config.guidance)
        matching = [
            matching_gradient(leaf, clean_from(at, r, level), clean_from(at, f, level), condition)
            for leaf, at, r, f, level, condition in zip(leaves, noisy, real, fake, levels_S, conditions, strict=True)
        ]
        return matching, gan

    def state_dict(self) -> dict[str, Any]:
        """See `TrainingTask.state_dict`; the real score is the base model, and not part of it."""
        return {
            "student": self.networks.student.state_dict(),
            "critics": [network.state_dict() for network in self.networks.critics()],
            "average": dict(self._average.tensors),
            "student_optimiser": self._student_optimiser.state_dict(),
            "critic_optimiser": self._critic_optimiser.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `TrainingTask.load_state_dict`."""
        self.networks.student.load_state_dict(state["student"])
        for network, tensors in zip(self.networks.critics(), state["critics"], strict=True):
            network.load_state_dict(tensors)
        self._average.load(state["average"])
        self._student_optimiser.load_state_dict(state["student_optimiser"])
        self._critic_optimiser.load_state_dict(state["critic_optimiser"])

    def export(self) -> dict[str, Tensor]:
        """The student's averaged weights; see `TrainingTask.export`."""
        return checkpoint_tensors(self.networks.student.config, self._average.tensors, self.replicas)


def _denoiser(transformer: Transformer, conditions: Sequence[Conditions], clips: Sequence[Latents]) -> Denoiser:
    return Denoiser(transformer, [condition.text_1LC for condition in conditions], clips)


def _inner_product(clips: Sequence[Latents], gradients: Sequence[Latents]) -> Tensor:
    products = [
        (clip.video_1CTHW * gradient.video_1CTHW).sum() + (clip.audio_1AC * gradient.audio_1AC).sum()
        for clip, gradient in zip(clips, gradients, strict=True)
    ]
    return torch.stack(products).sum()
