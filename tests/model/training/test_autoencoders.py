"""Autoencoders learn, go on where they stopped, and come out in the release's formats."""

import math
from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F

from model.audio_vae import AudioDecoder, AudioEncoder
from model.checkpoint import Checkpoint
from model.checkpoint_files import LocalFiles
from model.checkpoint_writer import write_audio_vae, write_turbo_vae, write_wan_vae
from model.layout import find_layout
from model.oobleck import OobleckConfig, OobleckHalf
from model.training.audio_codec import AudioCodecConfig, AudioCodecTask
from model.training.latent_scale import LatentScale
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas
from model.training.video_autoencoder import VideoAutoencoderConfig, VideoAutoencoderTask
from model.turbo_vae import TurboVAEConfig
from model.wan_config import WanVaeConfig
from tests.tiny_autoencoders import tiny_turbo_vae

STRIDES = (2, 4, 4, 8, 8)
OOBLECK = OobleckConfig(
    OobleckHalf(4, (1, 1, 2, 2, 4), STRIDES, 128, 2), OobleckHalf(4, (1, 2, 2, 4, 8), STRIDES, 64, 2)
)


def tones(count: int) -> list[dict[str, torch.Tensor]]:
    seconds = torch.arange(8 * 2048) / 51_200
    return [{"waveform": 0.4 * torch.sin(2 * math.pi * 110 * (k + 1) * seconds)} for k in range(count)]


def squares(count: int) -> list[dict[str, torch.Tensor]]:
    frames = torch.full((count, 9, 64, 64, 3), 200, dtype=torch.uint8)
    for k in range(count):
        for frame in range(9):
            frames[k, frame, 8 + 2 * frame : 40 + 2 * frame, 16:48, k % 3] = 20
    return [{"frames": clip} for clip in frames]


def audio_task(num_steps: int = 12) -> AudioCodecTask:
    optimiser = OptimiserConfig(3e-3, num_steps, num_warmup_steps=1)
    return AudioCodecTask(OOBLECK, AudioCodecConfig(optimiser, window_latents=4), 1, Replicas(), torch.device("cpu"))


def video_task(num_steps: int = 12, still_share: float = 0.0) -> VideoAutoencoderTask:
    optimiser = OptimiserConfig(2e-3, num_steps, num_warmup_steps=1, method="muon")
    config = VideoAutoencoderConfig(optimiser, crop=32, num_frames=5, still_share=still_share)
    turbo = TurboVAEConfig.from_dict(tiny_turbo_vae(torch.Generator())[0])
    wan = WanVaeConfig(base_dim=4, decoder_base_dim=4)
    return VideoAutoencoderTask(wan, turbo, config, 1, Replicas(), torch.device("cpu"))


TASKS = {"audio": (audio_task, tones), "video": (video_task, squares)}


def run(task, samples, steps) -> list[float]:
    return [task.step(samples, index, torch.Generator().manual_seed(index))["loss"] for index in steps]


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_the_loss_falls(kind):
    make_task, make_samples = TASKS[kind]
    losses = run(make_task(24), make_samples(3), range(24))
    assert sum(losses[-4:]) < 0.75 * sum(losses[:4]), losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_a_resumed_run_is_the_undisturbed_one(kind):
    make_task, make_samples = TASKS[kind]
    samples, undisturbed, first = make_samples(2), make_task(), make_task()
    run(undisturbed, samples, range(4))
    run(first, samples, range(2))
    state = deepcopy(first.state_dict())
    resumed = make_task()
    resumed.load_state_dict(state)
    run(resumed, samples, range(2, 4))
    expected, found = undisturbed.export(), resumed.export()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_pipelines_audio_autoencoder_is_the_trained_one(tmp_path):
    task = audio_task()
    samples = tones(2)
    run(task, samples, range(12))
    write_audio_vae(tmp_path, OOBLECK, task.export())
    checkpoint = Checkpoint(tmp_path, find_layout(LocalFiles(tmp_path)))
    encoder, decoder = checkpoint.audio_encoder(torch.device("cpu")), checkpoint.audio_decoder(torch.device("cpu"))
    assert isinstance(encoder, AudioEncoder)
    assert isinstance(decoder, AudioDecoder)
    waveform_2S = samples[0]["waveform"].expand(2, -1)
    mean_1CA, scale_1CA = encoder.encode_mean_and_scale(waveform_2S).chunk(2, dim=1)
    task.vae.load_state_dict(task.average.tensors)
    with torch.no_grad():
        raw_1CA = task.vae.encoder(waveform_2S.unsqueeze(0)).chunk(2, dim=1)[0]
        expected_1CA = task.scale(raw_1CA, is_learning=False)
        expected_2S = task.vae.decoder(expected_1CA)[0]
    assert torch.allclose(mean_1CA, expected_1CA, atol=1e-4)
    assert torch.allclose(decoder.decode_at_model_rate(mean_1CA.transpose(1, 2)), expected_2S, atol=1e-4)
    assert torch.allclose(F.softplus(scale_1CA) + 1e-4, torch.tensor(task.config.latent_noise), atol=1e-5)


def test_the_pipelines_video_autoencoder_is_the_trained_one(tmp_path):
    task = video_task()
    samples = squares(2)
    run(task, samples, range(12))
    exported = task.export()
    parts = {
        network: {name.removeprefix(f"{network}."): t for name, t in exported.items() if name.startswith(f"{network}.")}
        for network in ("wan", "turbo")
    }
    write_wan_vae(tmp_path, parts["wan"])
    write_turbo_vae(tmp_path, tiny_turbo_vae(torch.Generator())[0], parts["turbo"])
    checkpoint = Checkpoint(tmp_path, find_layout(LocalFiles(tmp_path)))
    encoder = checkpoint.image_encoder(torch.float32, torch.device("cpu"))
    decoder = checkpoint.video_decoder(torch.float32, torch.device("cpu"))
    pixels_13FYX = (samples[0]["frames"].permute(3, 0, 1, 2).float() / 127.5 - 1).unsqueeze(0)
    latent_1CTHW = encoder.encode_pixels(pixels_13FYX)
    task.networks.load_state_dict(task.average.tensors)
    with torch.no_grad():
        raw_1CTHW = task.networks["wan"].encode(pixels_13FYX).latent_dist.mode()
        expected_1CTHW = task.scale(raw_1CTHW, is_learning=False)
    assert torch.allclose(latent_1CTHW, expected_1CTHW, atol=1e-3)
    decoded_3FYX = torch.cat(list(decoder.decode_chunks(latent_1CTHW)), dim=1)
    assert decoded_3FYX.shape == (3, 9, 64, 64)
    expected_3FYX = torch.cat(list(task.networks["turbo"].decode_chunks(expected_1CTHW)), dim=1)
    assert torch.allclose(decoded_3FYX, expected_3FYX, atol=5e-3)
    assert decoded_3FYX.std() > 0.1


def test_what_the_decoder_learns_from_stills_holds_for_every_frame_of_a_clip():
    task = video_task(still_share=1.0)
    before = [parameter.clone() for parameter in task.networks["turbo"].parameters()]
    run(task, squares(2), range(3))
    moved = [not old.equal(new) for old, new in zip(before, task.networks["turbo"].parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2
    latent_1CTHW = torch.randn(1, 48, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        still_3FYX = task.networks["turbo"].decoder(latent_1CTHW, True)[0]
        clip_3FYX = task.networks["turbo"].decoder(latent_1CTHW.expand(-1, -1, 3, -1, -1), True)[0]
    assert clip_3FYX.shape[1] == 9
    assert torch.allclose(clip_3FYX, still_3FYX.expand_as(clip_3FYX), atol=1e-5)


def test_latents_have_unit_spread_and_statistics_are_learnt():
    scale, generator = LatentScale(3, Replicas()), torch.Generator().manual_seed(0)
    latent = torch.tensor([1.0, 5.0, 0.1]).view(1, 3, 1) * torch.randn(4, 3, 500, generator=generator) + 0.5
    for _ in range(100):
        normalised = scale(latent, is_learning=True)
    assert torch.allclose(normalised.std(dim=(0, 2)), torch.ones(3), atol=0.01)
    assert torch.allclose(scale(latent, is_learning=False), normalised, atol=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VideoAutoencoderConfig(OptimiserConfig(1e-3, 5), num_frames=8), "num_frames must be 4 n . 1"),
        (lambda: VideoAutoencoderConfig(OptimiserConfig(1e-3, 5), crop=40), "crop must be a multiple of 16"),
        (lambda: AudioCodecConfig(OptimiserConfig(1e-3, 5), shifted_share=2), "shifted_share must be between 0 and 1"),
        (lambda: OptimiserConfig(0.0, 5), "learning_rate must be more than 0, got 0.0"),
        (lambda: Replicas(0), "num_workers must be at least 1, got 0"),
    ],
)
def test_wrong_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
