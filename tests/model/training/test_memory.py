from dataclasses import replace

import pytest
import torch

from model.packing import PackedLayout, SequenceLayout
from model.peak_memory import PeakMemory
from model.training.memory import base_training_memory, distillation_memory, moments_bytes, shard_bytes
from model.training.networks import new_transformer
from model.variants import release_config
from tests.tiny_checkpoint import tiny_config

MEGABYTE = 250_000
"""Numbers of float32 in a million bytes."""
CLIP = SequenceLayout(8, 4, 6, 31, 45)
ONE_LAYER = replace(tiny_config("base"), num_layers=1, expert_layers=(), gelu_layers=())
"""Hidden size 64, four heads of 16 and two for keys and values, an MLP of 168, text of 48 channels."""
NUM_IN_BLOCK = (64 + 2 * 32 + 4) * 64 + 64 * 64 + 2 * 168 * 64 + 64 * 168
"""Numbers in its linear layers inside the block."""
NUM_IN_MATRICES = NUM_IN_BLOCK + (192 + 64 + 48) * 64 + (192 + 64) * 64
NUM_IN_VECTORS = 3 * 64 + (64 + 16 + 16 + 64) + 2 * 64


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


@pytest.mark.slow
@pytest.mark.parametrize("compute_dtype", [torch.bfloat16, torch.float32])
def test_the_dry_run_measures_what_a_real_run_takes(compute_dtype):
    """The same network on the CPU, with numbers and torch's attention, counted in the same way."""
    config = replace(tiny_config("base"), hidden_size=128)
    for recomputes_layers in (False, True):
        network = new_transformer(config, torch.Generator().manual_seed(0), compute_dtype)
        network.block.recomputes_layers = recomputes_layers
        for parameter in network.parameters():
            parameter.register_post_accumulate_grad_hook(lambda parameter: setattr(parameter, "grad", None))
        with PeakMemory(without=[*network.parameters(), *network.buffers()]) as memory:
            positions = network.positions([CLIP, CLIP])
            tokens = [
                torch.randn(n, c) for n, c in zip(PackedLayout((CLIP, CLIP)).token_counts, (192, 64, 48), strict=True)
            ]
            video_VC, audio_AC = network(*tokens, positions)
            (video_VC.square().mean() + audio_AC.square().mean()).backward()
        dry = base_training_memory(config, [CLIP, CLIP], 1, recomputes_layers, compute_dtype)
        assert dry.activations_bytes == pytest.approx(memory.peak_bytes, rel=0.05)


@pytest.mark.slow
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


@pytest.mark.slow
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


def test_muon_keeps_one_moment_of_each_matrix():
    adamw, muon = (base_training_memory(ONE_LAYER, [CLIP], 1, method=method) for method in ("adamw", "muon"))
    assert adamw.parameters_bytes == 4 * (NUM_IN_MATRICES + NUM_IN_VECTORS)
    assert adamw.optimiser_bytes == 2 * adamw.parameters_bytes
    assert muon == replace(adamw, optimiser_bytes=4 * (NUM_IN_MATRICES + 2 * NUM_IN_VECTORS))


def test_student_and_critics_have_optimisers_of_their_own():
    one, two = 4 * (NUM_IN_MATRICES + 2 * NUM_IN_VECTORS), 8 * (NUM_IN_MATRICES + NUM_IN_VECTORS)
    one_of_head, two_of_head = 2 * 4 * (64 * 64 + 2 * (64 + 64 + 1)), 2 * 8 * (64 * 64 + 64 + 64 + 1)
    for student, fake, expected in [
        ("adamw", "adamw", two + two + two_of_head),
        ("muon", "adamw", one + two + two_of_head),
        ("adamw", "muon", two + one + one_of_head),
    ]:
        memory = distillation_memory(ONE_LAYER, [CLIP], 1, True, student_method=student, fake_method=fake)
        assert memory.optimiser_bytes == expected


def test_the_real_score_and_activations_are_as_wide_as_the_products():
    for measure in (base_training_memory, distillation_memory):
        narrow, wide = (measure(ONE_LAYER, [CLIP], 1, compute_dtype=d) for d in (torch.bfloat16, torch.float32))
        more_bytes = 2 * NUM_IN_BLOCK if measure is distillation_memory else 0
        assert wide.parameters_bytes == narrow.parameters_bytes + more_bytes
        # Not much apart: what is narrow is kept beside its wide copy.
        assert wide.activations_bytes != narrow.activations_bytes
        others = ("gradients_bytes", "optimiser_bytes", "average_bytes", "gathered_bytes")
        assert [getattr(wide, name) for name in others] == [getattr(narrow, name) for name in others]


def test_muon_over_several_gpus_is_refused():
    with pytest.raises(ValueError, match="method must be adamw over 2 GPUs, got muon"):
        moments_bytes([torch.nn.Linear(8, 8)], 2, "muon")


def test_a_shard_is_what_the_largest_share_is():
    module = torch.nn.Linear(10, 3)
    assert shard_bytes(module, 2) == (2 * 10 + 2) * 4


def test_no_gpu_is_refused():
    with pytest.raises(ValueError, match="num_gpus must be at least 1, got 0"):
        base_training_memory(tiny_config("base"), [CLIP], 0)
