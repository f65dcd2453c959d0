from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from model.denoiser import Conditions, Latents, seeded_noise
from model.sampling import SuperResolutionSampling, prepare_super_resolution, sample_super_resolution
from model.schedule import flow_sigmas, unipc_stepper
from model.training.clips import ConditionShares, draw_clips
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas
from model.training.super_resolution import SuperResolutionConfig, SuperResolutionTask
from model.transformer import Transformer

CPU = torch.device("cpu")
CONFIG = SuperResolutionConfig(OptimiserConfig(3e-3, num_steps=200, num_warmup_steps=5), average_decay=0.9)
TEXT_ONLY = ConditionShares(0, 0, 0)


@pytest.fixture
def make_task(make_transformer, negative_text_LC):
    def make(config=CONFIG, **options):
        return SuperResolutionTask(make_transformer("sr_540p", **options), negative_text_LC, config, Replicas())

    return make


def test_the_loss_falls_and_is_the_videos(make_task, train, clips):
    reports = train(make_task(replace(CONFIG, shares=TEXT_ONLY)), clips, 60)
    assert all(report["loss"] == report["video_loss"] and report["audio_loss"] == 0 for report in reports)
    assert sum(report["loss"] for report in reports[-5:]) / 5 < 0.75 * reports[0]["loss"]


def test_a_resumed_run_ends_with_the_same_bits(make_task, resumed_tensors):
    resumed, undisturbed = resumed_tensors(make_task)
    assert all(torch.equal(resumed.export()[name], tensor) for name, tensor in undisturbed.export().items())


@pytest.mark.parametrize("has_image", [False, True])
def test_the_samplers_solver_follows_the_path_and_ends_on_the_large_latent(make_task, clips, has_image):
    """Told the targets, the five steps pass exactly the points that are trained."""
    task = make_task(replace(CONFIG, shares=ConditionShares(0, float(has_image), 0)))
    batch, sampling = clips[:1] * 5, CONFIG.sampling
    base = Latents(clips[0]["video"][None].float(), clips[0]["audio"][None].float())
    start = prepare_super_resolution(base, (8, 4), sampling, seeded_noise(3, CPU))
    trained = draw(task, batch)
    sigmas, _ = flow_sigmas(sampling.num_steps, sampling.shift)
    points = task.path_examples(trained, [start] * 5, sigmas[:-1])
    large = clips[0]["video_large"][None].float()
    stepper, video = unipc_stepper(sampling.num_steps, sampling.shift), start.video_1CTHW
    for step, timestep in enumerate(stepper.timesteps):
        made = slice(int(has_image), None)
        torch.testing.assert_close(points.noisy[step].video_1CTHW[:, :, made], video[:, :, made], rtol=1e-4, atol=1e-4)
        assert torch.equal(points.noisy[step].audio_1AC, start.audio_1AC)
        if has_image:
            assert torch.equal(points.noisy[step].video_1CTHW[:, :, :1], large[:, :, :1])
        video = stepper.step(points.targets[step].video_1CTHW, timestep, video, return_dict=False)[0]
    torch.testing.assert_close(video, large, rtol=1e-4, atol=1e-4)


def draw(task, batch):
    shares = task.config.shares
    return draw_clips(batch, shares, task.negative_text_1LC, torch.Generator().manual_seed(0), video="video_large")


def test_every_level_of_the_sampler_is_trained_equally_often_and_no_other(make_task, clips):
    levels = make_task().examples(clips[:1] * 10, torch.Generator().manual_seed(0)).levels_S
    sigmas, _ = flow_sigmas(5, 5.0)
    assert sorted(levels.tolist()) == sorted(2 * sigmas[:-1].tolist())


@pytest.mark.slow
def test_the_exported_model_learns_to_double_a_latent(make_task, train, clips):
    """After some steps on one clip it comes closer to the large latent than resizing does."""
    task = make_task(replace(CONFIG, shares=TEXT_ONLY, optimiser=OptimiserConfig(5e-3, num_steps=300)))
    train(task, clips[2:] * 4, 150)
    model = Transformer(task.transformer.config, torch.float32)
    model.load_state_dict(task.export(), strict=True)
    base = Latents(clips[2]["video"][None].float(), clips[2]["audio"][None].float())
    large = clips[2]["video_large"][None].float()
    start = prepare_super_resolution(base, (4, 4), SuperResolutionSampling(), seeded_noise(3, CPU))
    conditions = Conditions(clips[2]["text"].unsqueeze(0))
    [result] = sample_super_resolution(model, [start], [conditions], SuperResolutionSampling())
    resized = F.interpolate(base.video_1CTHW, size=(2, 4, 4), mode="trilinear", align_corners=True)
    assert (result - large).square().mean() < 0.5 * (resized - large).square().mean()


def test_a_model_of_the_base_is_refused(make_transformer, negative_text_LC):
    with pytest.raises(ValueError, match="position_style must be 'sr', got 'base'"):
        SuperResolutionTask(make_transformer("base"), negative_text_LC, CONFIG, Replicas())
    with pytest.raises(ValueError, match=r"shares.audio must be 0 for super-resolution, got 0\.15"):
        replace(CONFIG, shares=ConditionShares())
