"""What networks are planned to take against what they do take; of compiled ones by `-m soak` alone."""

from dataclasses import replace

import pytest
import torch

from model.audio_vae import ENCODE_WINDOW_LATENTS, AudioDecoder, AudioEncoder, fold_weight_norm
from model.autoencoder_memory import (
    audio_decoder_memory,
    audio_encoder_memory,
    image_encoder_memory,
    turbo_vae_memory,
    wan_decoder_memory,
)
from model.compilation import compile_transformer
from model.denoiser import Conditions, initial_noise, seeded_noise
from model.memory import (
    ALLOCATOR_SHARE,
    CONTEXT_BYTES,
    SAMPLER_LATENTS,
    NetworkMemory,
    compiled_activations_bytes,
    one_of_each_kind,
    plain_activations_bytes,
    process_bytes,
    text_encoder_memory,
    transformer_memory,
)
from model.oobleck import empty_oobleck
from model.packing import PackedLayout, SequenceLayout
from model.peak_memory import PeakMemory
from model.sampling import (
    DistilledSampling,
    GuidedSampling,
    SuperResolutionSampling,
    prepare_super_resolution,
    sample_distilled,
    sample_guided,
    sample_super_resolution,
)
from model.transformer import Transformer
from model.transformer_config import TransformerConfig
from model.turbo_vae import TurboVAEConfig, TurboVAEDecoder
from model.variants import VARIANTS, release_config
from model.wan_config import WanVaeConfig
from model.wan_decoder import load_video_decoder
from model.wan_vae import load_image_encoder
from tests.tiny_autoencoders import tiny_oobleck, tiny_turbo_vae, tiny_wan_vae_state_dict
from tests.tiny_checkpoint import tiny_config

CLIP = SequenceLayout(8, 8, 12, 29, 40)
CPU = torch.device("cpu")


def random_transformer(config, kind=Transformer):
    network = kind(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def real_peak(run, *networks):
    """Most bytes that live at the same time while something really runs."""
    kept = [tensor for network in networks for tensor in (*network.parameters(), *network.buffers())]
    with torch.inference_mode(), PeakMemory(without=kept) as memory:
        run()
    return memory.peak_bytes


@pytest.mark.parametrize(("precision", "per_number"), [("bf16", 2), ("fp8", 1), ("fp32", 4)])
def test_weights_are_those_of_the_loaded_network(precision, per_number):
    config = release_config("sr_540p")
    with torch.device("meta"):
        shapes = Transformer(config).state_dict()
    linear = [tensor.shape for tensor in shapes.values() if tensor.dtype == torch.bfloat16]
    others = sum(tensor.numel() for tensor in shapes.values() if tensor.dtype == torch.float32)
    scales = sum(shape[0] for shape in linear) if precision == "fp8" else 0
    expected = per_number * sum(shape.numel() for shape in linear) + 4 * (others + scales)
    found = transformer_memory(config, [CLIP], precision, is_compiled=True).weights_bytes
    assert expected <= found <= 1.003 * expected, "zeros that fill tiles up are all that comes on top"


@pytest.mark.parametrize("variant", ["base", "sr_1080p"])
@pytest.mark.parametrize("num_clips", [1, 2])
def test_the_plain_path_is_what_a_real_run_takes(variant, num_clips):
    """The same network on the CPU, with numbers and torch's attention, counted in the same way."""
    config = replace(tiny_config(variant), hidden_size=128, local_attention_radius=2)
    network = random_transformer(config)
    pack = PackedLayout((CLIP,) * num_clips)

    def run():
        tokens = [torch.randn(n, c) for n, c in zip(pack.token_counts, (192, 64, 48), strict=True)]
        network(*tokens, network.positions(pack.clips))

    planned = plain_activations_bytes(config, pack, "bf16", "plain")
    assert planned == pytest.approx(real_peak(run, network), rel=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", ["plain", "packed", "fp8"])
def test_a_layer_of_each_kind_is_enough(variant, form):
    config, pack = release_config(variant), PackedLayout((CLIP,))
    chosen = one_of_each_kind(config)
    assert chosen.num_layers <= 7
    whole = plain_activations_bytes(config, pack, "bf16", form)
    assert plain_activations_bytes(chosen, pack, "bf16", form) == whole


def allocated_peak(run):
    """Most bytes allocated at the same time, kernels' own included, by PyTorch's profiler."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.soak
def test_the_compiled_path_is_what_compiled_code_allocates():
    """A network of the release's proportions; takes half a minute, most of it compiling."""
    config = TransformerConfig(
        num_layers=4,
        hidden_size=320,
        head_dim=64,
        num_kv_heads=1,
        text_channels=224,
        expert_layers=(0, 1),
        gelu_layers=(0, 1),
    )
    network = random_transformer(config)
    compile_transformer(network, SequenceLayout(4, 8, 8, 13, 30), "torch")
    clip = SequenceLayout(8, 32, 36, 31, 300)
    tokens = [torch.randn(n, c) for n, c in zip(clip.token_counts, (192, 64, 224), strict=True)]
    positions = network.positions([clip])
    with torch.inference_mode():
        network(*tokens, positions)
        allocated = allocated_peak(lambda: network(*tokens, positions))
    inputs = sum(tensor.nbytes for tensor in (*tokens, positions.rope_NR))
    planned = compiled_activations_bytes(config, PackedLayout((clip,)), "bf16")
    assert allocated + inputs <= planned * 1.02
    assert planned == pytest.approx(allocated + inputs, rel=0.15)


class WatchedTransformer(Transformer):
    """Notes what lives when it is called, besides its inputs."""

    def watch(self, memory):
        self.memory, self.seen = memory, []

    def forward(self, video_VC, audio_AC, text_LC, positions, levels_S=None):
        inputs = (video_VC, audio_AC, text_LC, positions.rope_NR)
        self.seen.append(self.memory.live_bytes - sum(tensor.nbytes for tensor in inputs))
        return super().forward(video_VC, audio_AC, text_LC, positions, levels_S)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["guided", "distilled", "super_resolution", "guided_super_resolution"])
def test_samplers_hold_no_more_latents_than_are_planned_for(sampler):
    config = tiny_config("sr_540p" if "super" in sampler else "base")
    network = random_transformer(config, WatchedTransformer)
    noise = seeded_noise(0, CPU)
    with torch.inference_mode(), PeakMemory(without=[*network.parameters(), *network.buffers()]) as memory:
        network.watch(memory)
        size = (8, 16, 16)
        start = initial_noise(size, 29, (48, 64), noise)
        image = torch.zeros(1, 48, 1, *size[1:])
        conditions = Conditions(torch.zeros(1, 4, 48), torch.zeros(1, 4, 48), image)
        if sampler == "guided":
            sample_guided(network, [start], [conditions], GuidedSampling(num_steps=4))
        elif sampler == "distilled":
            sample_distilled(network, [start], [conditions], DistilledSampling(num_steps=4), [noise])
        else:
            sampling = SuperResolutionSampling(num_steps=4, guidance=2.0 if "guided" in sampler else None)
            prepared = prepare_super_resolution(start, size[1:], sampling, noise)
            sample_super_resolution(network, [prepared], [conditions], sampling)
    latents = start.video_1CTHW.nbytes + start.audio_1AC.nbytes
    assert 2 * latents < max(network.seen) <= SAMPLER_LATENTS * latents


def watch(chunks):
    """Hold every chunk until the next one is there, as the encoder does."""
    held = None
    for chunk in chunks:
        held = chunk
    assert held.isfinite().all()


@pytest.mark.parametrize("latent_frames", [3, 7, 32])
def test_the_turbo_vae_takes_what_a_real_run_takes(latent_frames):
    raw, tensors = tiny_turbo_vae(torch.Generator().manual_seed(0))
    config = TurboVAEConfig.from_dict(raw)
    clip = SequenceLayout(latent_frames, 4, 6, 29, 40)
    decoder = TurboVAEDecoder(config)
    decoder.load_state_dict(tensors)

    def run():
        watch(decoder.decode_chunks(torch.randn(1, 48, latent_frames, 4, 6)))

    planned = turbo_vae_memory(config, clip, "fp32")
    assert planned.weights_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert planned.activations_bytes == pytest.approx(real_peak(run, decoder), rel=0.03)


@pytest.mark.parametrize("latent_frames", [1, 9])
def test_the_wan_decoder_takes_what_a_real_run_takes(latent_frames):
    config = WanVaeConfig(base_dim=4, decoder_base_dim=4)
    decoder = load_video_decoder(tiny_wan_vae_state_dict(torch.Generator()), torch.float32, "cpu", config)
    clip = SequenceLayout(latent_frames, 4, 6, 29, 40)
    planned = wan_decoder_memory(config, clip, "fp32")
    taken = real_peak(lambda: watch(decoder.decode_chunks(torch.randn(1, 48, latent_frames, 4, 6))), decoder._vae)
    assert planned.activations_bytes == pytest.approx(taken, rel=0.03)


def test_the_image_encoder_takes_what_a_real_run_takes():
    config = WanVaeConfig(base_dim=4, decoder_base_dim=4)
    encoder = load_image_encoder(tiny_wan_vae_state_dict(torch.Generator()), torch.float32, "cpu", config)
    taken = real_peak(lambda: encoder.encode_pixels(torch.zeros(1, 3, 1, 64, 96)), encoder._vae)
    assert image_encoder_memory(config, (96, 64), "fp32").activations_bytes == pytest.approx(taken, rel=0.03)


def test_sound_takes_what_a_real_run_takes():
    config, _ = tiny_oobleck(torch.Generator().manual_seed(0))
    vae = fold_weight_norm(empty_oobleck(config))
    audio = fold_weight_norm(empty_oobleck(config)).to_empty(device="cpu")
    decoded = audio_decoder_memory(config, 20)
    assert decoded.weights_bytes == sum(parameter.nbytes for parameter in vae.decoder.parameters())
    taken = real_peak(lambda: AudioDecoder(audio.decoder).decode(torch.zeros(1, 20, 64)), audio)
    assert decoded.activations_bytes == pytest.approx(taken, rel=0.03)
    taken = real_peak(lambda: AudioEncoder(audio.encoder).encode_mean_and_scale(torch.zeros(2, 20 * 2048)), audio)
    assert audio_encoder_memory(config, 20).activations_bytes == pytest.approx(taken, rel=0.03)
    assert audio_encoder_memory(config, 9000) == audio_encoder_memory(config, ENCODE_WINDOW_LATENTS)


def test_a_process_takes_weights_activations_and_a_reserve():
    networks = [NetworkMemory(10**9, 3 * 10**8), NetworkMemory(2 * 10**9, 10**8)]
    assert process_bytes(networks, 3 * 10**8) == CONTEXT_BYTES + 3 * 10**9 + round((1 + ALLOCATOR_SHARE) * 3 * 10**8)


def test_the_text_encoder_is_its_weights():
    sizes = {"hidden_size": 3584, "intermediate_size": 14336, "num_attention_heads": 16}
    memory = text_encoder_memory({"encoder": sizes}, {"a": (1000, 3), "b": (7,)}, "bf16")
    assert memory.weights_bytes == 2 * 3007
    assert 0 < memory.activations_bytes < 1e9


def test_no_clip_is_refused():
    with pytest.raises(ValueError, match="clips must hold at least one layout, got none"):
        transformer_memory(tiny_config("base"), [], "bf16", is_compiled=False)
