from dataclasses import replace

import pytest
import torch

from model.denoiser import Conditions, Latents, initial_noise, seeded_noise
from model.sampling import GuidedSampling, sample_guided
from model.schedule import flow_sigmas, shift_levels
from model.training.clips import ConditionShares, draw_clips, squared_errors, stratified_levels
from model.training.flow_matching import FlowMatchingConfig, FlowMatchingTask
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas
from model.transformer import Transformer

NEVER = ConditionShares(0, 0, 0)
CONFIG = FlowMatchingConfig(OptimiserConfig(3e-3, num_steps=200, num_warmup_steps=5), average_decay=0.9)


@pytest.fixture
def make_task(make_transformer, negative_text_LC):
    def make(config=CONFIG, **options):
        return FlowMatchingTask(make_transformer(**options), negative_text_LC, config, Replicas())

    return make


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"attention_gates": False}, {"timestep_embedding": True}])
def test_the_loss_falls_and_is_the_samples_variance_at_first(make_task, train, clips, changes):
    reports = train(make_task(replace(CONFIG, shares=NEVER), **changes), clips, 60)
    assert reports[0]["video_loss"] == pytest.approx(2, rel=0.1)  # noise and clip, both of variance one
    assert reports[0]["loss"] == pytest.approx(reports[0]["video_loss"] + 1.5 * reports[0]["audio_loss"], rel=1e-5)
    assert sum(report["loss"] for report in reports[-5:]) / 5 < 0.75 * reports[0]["loss"]


def test_a_resumed_run_ends_with_the_same_bits(make_task, resumed_tensors):
    resumed, undisturbed = resumed_tensors(make_task)
    for name, tensor in undisturbed.export().items():
        assert torch.equal(resumed.export()[name], tensor), name
    for name, tensor in undisturbed.transformer.state_dict().items():
        assert torch.equal(resumed.transformer.state_dict()[name], tensor), name


def test_the_export_is_the_average_and_runs_in_the_sampler(make_task, train, clips, negative_text_LC):
    task = make_task()
    train(task, clips, 3)
    exported = task.export()
    model = Transformer(task.transformer.config)
    assert {name: t.dtype for name, t in model.state_dict().items()} == {n: t.dtype for n, t in exported.items()}
    weights = task.transformer.state_dict()["final_linear_video.weight"]
    assert not torch.equal(exported["final_linear_video.weight"], weights)
    model.load_state_dict(exported, strict=True)
    start = initial_noise((2, 4, 2), 5, (48, 64), seeded_noise(0, torch.device("cpu")))
    conditions = Conditions(clips[0]["text"].unsqueeze(0), negative_text_LC.unsqueeze(0))
    [result] = sample_guided(model, [start], [conditions], GuidedSampling(num_steps=2))
    assert result.video_1CTHW.isfinite().all()


def test_what_is_given_is_clean_and_has_no_loss(make_task, clips):
    task = make_task(replace(CONFIG, shares=ConditionShares(0, 1, 1)))
    examples = task.examples(clips, generator())
    for sample, noisy in zip(clips, examples.noisy, strict=True):
        assert torch.equal(noisy.audio_1AC[0], sample["audio"].float())
        assert torch.equal(noisy.video_1CTHW[0, :, 0], sample["video"][:, 0].float())
        assert not torch.isclose(noisy.video_1CTHW[0, :, 1], sample["video"][:, 1].float()).any(dim=0).all()
    worse = [Latents(target.video_1CTHW.clone(), target.audio_1AC + 5) for target in examples.targets]
    for clip in worse:
        clip.video_1CTHW[:, :, 0] += 5
    assert [float(error) for error in squared_errors(worse, examples.targets, examples.conditions)] == [0, 0]
    worse[0].video_1CTHW[:, :, 1] += 3
    video, _ = squared_errors(worse, examples.targets, examples.conditions)
    assert float(video) == pytest.approx(9 / 3, rel=1e-4)  # one of three clips, all of what it has to learn


def test_points_lie_on_straight_paths(make_task, clips):
    examples = make_task(replace(CONFIG, shares=NEVER)).examples(clips, generator())
    for sample, noisy, target, level in zip(clips, examples.noisy, examples.targets, examples.levels_S, strict=True):
        torch.testing.assert_close((noisy.audio_1AC - level * target.audio_1AC)[0], sample["audio"].float())
        torch.testing.assert_close(noisy.video_1CTHW - level * target.video_1CTHW, sample["video"][None].float())


def test_conditions_are_given_as_often_as_asked(clips, negative_text_LC):
    negative_text_1LC = negative_text_LC.unsqueeze(0)
    drawn = draw_clips(clips[:2] * 1000, ConditionShares(0.1, 0.25, 0.15), negative_text_1LC, generator())
    shares = {
        0.1: [clip.conditions.text_1LC is negative_text_1LC for clip in drawn],
        0.25: [clip.conditions.image_1C1HW is not None for clip in drawn],
        0.15: [clip.conditions.audio_is_given for clip in drawn],
    }
    for share, given in shares.items():
        assert sum(given) / len(given) == pytest.approx(share, abs=0.03)
    both = [image and audio for image, audio in zip(shares[0.25], shares[0.15], strict=True)]
    assert sum(both) / len(both) == pytest.approx(0.25 * 0.15, abs=0.02)


def test_a_single_latent_frame_is_never_given(clips, negative_text_LC):
    still = clips[0] | {"video": clips[0]["video"][:, :1]}
    [clip] = draw_clips([still], ConditionShares(0, 1, 0), negative_text_LC.unsqueeze(0), generator())
    assert clip.conditions.image_1C1HW is None


def test_levels_are_spread_over_the_batch_and_shifted_like_the_samplers():
    levels = stratified_levels(8, 1.0, generator())
    assert sorted((levels * 8).int().tolist()) == list(range(8))
    assert levels.tolist() != sorted(levels.tolist())
    torch.testing.assert_close(stratified_levels(8, 5.0, generator()), 5 * levels / (1 + 4 * levels))
    torch.testing.assert_close(shift_levels(torch.tensor(0.999 * 3 / 4), 5.0), flow_sigmas(4, 5.0)[0][1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConditionShares(image=1.5), r"image must lie between 0 and 1, got 1\.5"),
        (lambda: replace(CONFIG, shift=0), "shift must be more than 0, got 0"),
        (lambda: replace(CONFIG, audio_weight=-1), "audio_weight must be at least 0, got -1"),
    ],
)
def test_a_bad_configuration_names_field_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
