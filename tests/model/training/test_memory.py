from dataclasses import replace

import pytest
import torch

from model.packing import SequenceLayout
from model.training.memory import base_training_memory, distillation_memory, shard_bytes
from model.training.networks import new_transformer
from model.training.peak_memory import PeakMemory
from model.variants import release_config
from tests.tiny_checkpoint import tiny_config

MEGABYTE = 250_000
"""Numbers of float32 in a million bytes."""
CLIP = SequenceLayout(8, 4, 6, 31, 45)


def test_the_peak_counts_what_lives_at_the_same_time_and_each_storage_once():
    there = torch.empty(MEGABYTE)
    with PeakMemory(without=[there]) as memory:
        one = there + 1
        view = one.view(500, 500)
        view.add_(1)
        two = one * 2
        assert memory.live_bytes == 2_000_000
        del one, view
        assert memory.live_bytes == 1_000_000
        two.sum()
    assert memory.peak_bytes == 2_000_000


def test_the_peak_counts_what_waits_for_the_backward_pass():
    weight = torch.randn(MEGABYTE, requires_grad=True)
    with PeakMemory(without=[weight]) as memory:
        loss = weight.exp().exp().sum()  # each keeps what it gave, a million bytes
        assert memory.live_bytes == 2_000_004
        loss.backward()
        del loss
        assert memory.live_bytes == 1_000_000  # the gradient


def test_the_dry_run_measures_what_a_real_run_takes():
    """The same network on the CPU, with numbers and torch's attention, counted in the same way."""
    config = replace(tiny_config("base"), hidden_size=128)
    for recomputes_layers in (False, True):
        network = new_transformer(config, torch.Generator().manual_seed(0))
        network.block.recomputes_layers = recomputes_layers
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
        with PeakMemory(without=[*network.parameters(), *network.buffers()]) as memory:
            positions = network.positions([CLIP, CLIP])
            tokens = [torch.randn(n, c) for n, c in zip(positions.counts, (192, 64, 48), strict=True)]
            video_VC, audio_AC = network(*tokens, positions)
            (video_VC.square().mean() + audio_AC.square().mean()).backward()
        dry = base_training_memory(config, [CLIP, CLIP], 1, recomputes_layers)
        assert dry.activations_bytes == pytest.approx(memory.peak_bytes, rel=0.05)


def test_full_size_is_divided_over_gpus():
    config = release_config("base")
    clip = SequenceLayout(32, 16, 28, 126, 300)
    on_8, on_16 = (base_training_memory(config, [clip], num_gpus) for num_gpus in (8, 16))
    assert on_8.parameters_bytes == pytest.approx(15.3e9 * 4 / 8, rel=0.01)
    assert on_8.optimiser_bytes == 2 * on_8.gradients_bytes == 2 * on_8.average_bytes == 2 * on_8.parameters_bytes
    assert on_16.parameters_bytes == pytest.approx(on_8.parameters_bytes / 2, rel=0.01)
    assert (on_16.gathered_bytes, on_16.activations_bytes) == (on_8.gathered_bytes, on_8.activations_bytes)
    assert on_8.total_bytes == sum(vars(on_8).values())
    kept = base_training_memory(config, [clip], 8, recomputes_layers=False)
    assert kept.activations_bytes > 5 * on_8.activations_bytes


def test_distillation_holds_three_networks():
    config = tiny_config("base")
    base, distilled = base_training_memory(config, [CLIP], 2), distillation_memory(config, [CLIP], 2)
    with_gan = distillation_memory(config, [CLIP], 2, has_discriminator=True)
    assert distilled.gradients_bytes == 2 * base.gradients_bytes
    assert distilled.average_bytes == base.average_bytes
    assert (
        2 * base.parameters_bytes < distilled.parameters_bytes < 3 * base.parameters_bytes
    )  # the real one is narrower
    assert base.activations_bytes < distilled.activations_bytes < with_gan.activations_bytes
    assert with_gan.parameters_bytes > distilled.parameters_bytes


def test_a_shard_is_what_the_largest_share_is():
    module = torch.nn.Linear(10, 3)
    assert shard_bytes(module, 2) == (2 * 10 + 2) * 4


def test_no_gpu_is_refused():
    with pytest.raises(ValueError, match="num_gpus must be at least 1, got 0"):
        base_training_memory(tiny_config("base"), [CLIP], 0)
