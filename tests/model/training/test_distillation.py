from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from model.denoiser import Conditions, Latents, initial_noise, noise_from, seeded_noise
from model.sampling import DistilledSampling, sample_distilled
from model.schedule import flow_sigmas
from model.training.clips import ConditionShares, draw_clips
from model.training.consistency import consistency_examples, fine_sigmas
from model.training.discriminator import Discriminator
from model.training.distillation import DistillationTask
from model.training.distillation_config import DistillationConfig, DistillationNetworks, GanConfig, WarmUpConfig
from model.training.flow_matching import FlowMatchingConfig, FlowMatchingTask
from model.training.networks import frozen_transformer
from model.training.optimiser import OptimiserConfig
from model.training.replicas import Replicas
from model.training.scores import ScoreGuidance, guided_velocities, matching_gradient
from model.transformer import Transformer

CPU = torch.device("cpu")
NO_GUIDANCE = ScoreGuidance(1, 1, 0.5, 1)
RATES = OptimiserConfig(2e-3, num_steps=200, num_warmup_steps=1)
CONFIG = DistillationConfig(
    RATES, RATES, DistilledSampling(num_steps=3), NO_GUIDANCE, num_fake_updates=2, average_decay=0.9
)
WITH_GAN = replace(CONFIG, gan=GanConfig(0.05, 0.1))
MIXED = ConditionShares(dropped_text=0, image=0.5, audio=0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def networks_from(base, has_discriminator, generator):
    return DistillationNetworks.from_base(
        base.config, base.state_dict(), has_discriminator, generator, base.block.layers[0].attention.compute_dtype
    )


@pytest.fixture
def make_task(make_transformer, negative_text_LC):
    def make(config=CONFIG, base=None, **options):
        base = make_transformer(is_lively=True, **options) if base is None else base
        networks = networks_from(base, config.gan is not None, generator(5))
        return DistillationTask(networks, negative_text_LC, config, Replicas())

    return make


@pytest.fixture
def trained_base(make_transformer, negative_text_LC, train, clips):
    """A base model that knows one clip."""
    shares = ConditionShares(0.2, 0, 0)
    config = FlowMatchingConfig(OptimiserConfig(5e-3, num_steps=300, num_warmup_steps=5), shares=shares)
    task = FlowMatchingTask(make_transformer(), negative_text_LC, config, Replicas())
    train(task, clips[2:] * 4, 150)
    return task.transformer


def error(student, clip, sampling):
    """How far clips are from the one of the data set that the student samples."""
    start = [initial_noise((2, 2, 2), 5, (48, 64), seeded_noise(seed, CPU)) for seed in range(4)]
    noises = [seeded_noise(seed + 10, CPU) for seed in range(4)]
    made = sample_distilled(student, start, [Conditions(clip["text"].unsqueeze(0))] * 4, sampling, noises)
    return sum(float((one.video_1CTHW[0] - clip["video"].float()).square().mean()) for one in made) / 4


@pytest.mark.parametrize("image", [0.0, 1.0])
@pytest.mark.parametrize("audio", [0.0, 1.0])
def test_the_simulated_trajectory_is_the_samplers(make_task, clips, image, audio):
    """One clip, so that both draw their noise in the same order."""
    task = make_task(replace(CONFIG, shares=ConditionShares(0, image, audio)))
    drawn = draw_clips(clips[:1], task.config.shares, task.negative_text_1LC, generator())
    trajectory = task.simulate(drawn, generator(3))
    noise = noise_from(generator(3), CPU)
    start = initial_noise((2, 4, 2), 5, (48, 64), noise)
    if audio:
        start = replace(start, audio_1AC=clips[0]["audio"][None].float())
    student, sampling = task.networks.student, task.config.sampling
    [result] = sample_distilled(student, [start], [drawn[0].conditions], sampling, [noise])
    assert torch.equal(trajectory[-1].renoised[0].video_1CTHW, result.video_1CTHW)
    assert torch.equal(trajectory[-1].renoised[0].audio_1AC, result.audio_1AC)
    assert len(trajectory) == 3


def test_every_step_is_predicted_again_as_it_was_simulated_and_with_gradient(make_task, clips):
    task = make_task(replace(CONFIG, shares=MIXED))
    drawn = draw_clips(clips, MIXED, task.negative_text_1LC, generator(1))
    conditions = [clip.conditions for clip in drawn]
    assert len({(c.image_1C1HW is None, c.audio_is_given) for c in conditions}) > 1
    trajectory = task.simulate(drawn, generator(3))
    again = task.predict_clean(trajectory, [0, 2, 1], conditions)
    for number, step in enumerate([0, 2, 1]):
        simulated = trajectory[step].clean[number]
        torch.testing.assert_close(again[number].video_1CTHW, simulated.video_1CTHW, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(again[number].audio_1AC, simulated.audio_1AC, rtol=1e-5, atol=1e-5)
        assert again[number].video_1CTHW.requires_grad
        if conditions[number].audio_is_given:
            assert torch.equal(again[number].audio_1AC, drawn[number].clean.audio_1AC)


@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
def test_equal_scores_without_guidance_ask_for_nothing(make_task, clips, compute_dtype):
    task = make_task(replace(CONFIG, shares=MIXED), compute_dtype=compute_dtype)
    drawn = draw_clips(clips, MIXED, task.negative_text_1LC, generator())
    clean, conditions = [clip.clean for clip in drawn], [clip.conditions for clip in drawn]
    gradients, _ = task.gradients(clean, conditions, generator())
    assert all(not gradient.video_1CTHW.any() and not gradient.audio_1AC.any() for gradient in gradients)
    guided = make_task(replace(CONFIG, shares=MIXED, guidance=ScoreGuidance()), compute_dtype=compute_dtype)
    gradients, _ = guided.gradients(clean, conditions, generator())
    assert all(gradient.video_1CTHW.any() and gradient.audio_1AC.any() for gradient in gradients)


def test_the_gradient_is_the_scores_difference_over_the_real_ones_error():
    clean = Latents(torch.full((1, 48, 2, 2, 2), 3.0), torch.full((1, 5, 64), 2.0))
    real = Latents(torch.full((1, 48, 2, 2, 2), 1.0), torch.full((1, 5, 64), 4.0))
    fake = Latents(torch.full((1, 48, 2, 2, 2), 2.0), torch.full((1, 5, 64), 3.0))
    real.video_1CTHW[:, :, 0] = 100  # given, and so without influence
    image = Conditions(torch.zeros(1, 2, 48), image_1C1HW=clean.video_1CTHW[:, :, :1])
    gradient = matching_gradient(clean, real, fake, image)
    assert gradient.video_1CTHW[:, :, 1].unique().tolist() == [0.5]
    assert gradient.audio_1AC.unique().tolist() == [-0.5]


def test_guidance_of_the_real_score_is_the_samplers(make_transformer, clips, negative_text_LC):
    real = make_transformer(is_lively=True)
    drawn = draw_clips(clips[:2], ConditionShares(0, 0, 0), negative_text_LC.unsqueeze(0), generator())
    noisy, conditions = [clip.clean for clip in drawn], [clip.conditions for clip in drawn]
    levels_S = torch.tensor([0.9, 0.5])

    def velocities(guidance, conditions=conditions):
        return guided_velocities(real, noisy, levels_S, conditions, guidance)

    plain = velocities(NO_GUIDANCE)
    negative = velocities(NO_GUIDANCE, [Conditions(c.required_negative_text()) for c in conditions])
    guided = velocities(ScoreGuidance(5, 2, 0.5, 3))
    for number, scale in enumerate((5, 2)):
        wanted = negative[number].video_1CTHW + scale * (plain[number].video_1CTHW - negative[number].video_1CTHW)
        torch.testing.assert_close(guided[number].video_1CTHW, wanted, rtol=1e-4, atol=1e-5)
        wanted = negative[number].audio_1AC + 3 * (plain[number].audio_1AC - negative[number].audio_1AC)
        torch.testing.assert_close(guided[number].audio_1AC, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_matching_brings_a_new_student_to_the_bases_clips(make_transformer, make_task, trained_base, train, clips):
    """The student, and the fake score with it, begin from weights that know nothing."""
    new = make_transformer(seed=3, is_lively=True)
    real = frozen_transformer(trained_base.config, trained_base.state_dict(), torch.float32)
    networks = DistillationNetworks(new, real, deepcopy(new))
    faster = replace(RATES, learning_rate=4e-3)
    config = replace(CONFIG, fake=faster, num_fake_updates=4, shares=ConditionShares(0, 0, 0))
    task = DistillationTask(networks, torch.zeros(4, 48), config, Replicas())
    before = error(networks.student, clips[2], config.sampling)
    of_base = error(trained_base, clips[2], config.sampling)
    reports = train(task, clips[2:] * 4, 70)
    losses = [report["loss"] for report in reports]
    assert sum(losses[-20:]) < 0.85 * sum(losses[:20])
    after = error(networks.student, clips[2], config.sampling)
    assert after - of_base < 0.35 * (before - of_base)


@pytest.mark.slow
def test_the_discriminator_learns_and_reaches_the_student(make_task, train, clips):
    task = make_task(replace(WITH_GAN, shares=MIXED))
    reports = train(task, clips, 25)
    assert reports[-1]["gan_loss"] < reports[0]["gan_loss"]
    assert reports[-1]["student_gan_loss"] > 0
    without = make_task(replace(CONFIG, shares=MIXED))
    train(without, clips, 1)
    with_gan = make_task(replace(WITH_GAN, shares=MIXED))
    train(with_gan, clips, 1)
    assert not all(
        torch.equal(tensor, with_gan.networks.student.state_dict()[name])
        for name, tensor in without.networks.student.state_dict().items()
    )


@pytest.mark.parametrize("config", [CONFIG, replace(WITH_GAN, warm_up=WarmUpConfig(num_steps=3))])
def test_a_resumed_run_ends_with_the_same_bits(make_task, resumed_tensors, config):
    resumed, undisturbed = resumed_tensors(lambda: make_task(config))
    assert all(torch.equal(resumed.export()[name], tensor) for name, tensor in undisturbed.export().items())
    for one, other in zip(resumed.networks.critics(), undisturbed.networks.critics(), strict=True):
        assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_the_real_score_stays_and_the_export_runs_in_the_sampler(make_task, train, clips):
    task = make_task()
    before = {name: tensor.clone() for name, tensor in task.networks.real.state_dict().items()}
    train(task, clips, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.networks.real.state_dict().items())
    model = Transformer(task.networks.student.config)
    model.load_state_dict(task.export(), strict=True)
    assert error(model, clips[2], DistilledSampling()) > 0


def test_the_warm_ups_targets_are_where_small_guided_steps_end(make_transformer, clips, negative_text_LC):
    """For a student that is the base: the target at a level is what it says one small step further down."""
    base = make_transformer(is_lively=True)
    sigmas = fine_sigmas(2, 2, 5.0)
    torch.testing.assert_close(sigmas[::2], flow_sigmas(2, 5.0)[0])
    drawn = draw_clips(clips[:1], ConditionShares(0, 0, 0), negative_text_LC.unsqueeze(0), generator())
    seen = set()
    for seed in range(12):
        examples = consistency_examples(
            base, base, drawn, NO_GUIDANCE, sigmas, generator(seed), seeded_noise(seed, CPU)
        )
        [at], level = examples.noisy, float(examples.levels_S)
        step = sigmas.tolist().index(level)
        seen.add(step)
        [velocity] = guided_velocities(base, [at], sigmas[step : step + 1], examples.conditions, NO_GUIDANCE)
        nearer = Latents(
            at.video_1CTHW + (sigmas[step + 1] - level) * velocity.video_1CTHW,
            at.audio_1AC + (sigmas[step + 1] - level) * velocity.audio_1AC,
        )
        [said] = guided_velocities(base, [nearer], sigmas[step + 1 : step + 2], examples.conditions, NO_GUIDANCE)
        end = nearer.video_1CTHW - sigmas[step + 1] * said.video_1CTHW
        reached = at.video_1CTHW - level * examples.targets[0].video_1CTHW
        torch.testing.assert_close(reached, end, rtol=1e-4, atol=1e-4)
    assert seen == {0, 1, 2, 3}


@pytest.mark.slow
def test_the_warm_up_brings_few_steps_nearer_to_the_base(make_task, trained_base, train, clips):
    config = replace(CONFIG, warm_up=WarmUpConfig(num_steps=40), shares=ConditionShares(0, 0, 0))
    task = make_task(config, base=trained_base)
    reports = train(task, clips[2:] * 4, 40)
    assert all(set(report) == {"loss", "gradient_norm"} for report in reports)
    sampling = DistilledSampling(num_steps=1)
    assert error(task.networks.student, clips[2], sampling) < error(trained_base, clips[2], sampling)


def test_a_discriminator_and_its_weights_come_together(make_transformer, negative_text_LC):
    base = make_transformer()
    networks = networks_from(base, True, generator())
    assert isinstance(networks.discriminator, Discriminator)
    with pytest.raises(ValueError, match="gan must be set exactly when there is a discriminator, got None and one"):
        DistillationTask(networks, negative_text_LC, CONFIG, Replicas())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(CONFIG, num_fake_updates=0), "num_fake_updates must be at least 1, got 0"),
        (lambda: replace(CONFIG, lowest_level=0.99), "lowest_level and highest_level must rise between 0 and 1"),
        (
            lambda: replace(CONFIG, shares=ConditionShares()),
            r"shares.dropped_text must be 0 for distillation, got 0\.1",
        ),
        (lambda: ScoreGuidance(video=-1), "video must be at least 0, got -1"),
        (
            lambda: replace(CONFIG, warm_up=WarmUpConfig(num_steps=200)),
            "warm_up.num_steps must be less than 200, the steps of student, got 200",
        ),
        (
            lambda: replace(CONFIG, fake=replace(RATES, num_steps=100)),
            "fake.num_steps must be 200, as student's, got 100",
        ),
        (lambda: replace(CONFIG, average_decay=1), "average_decay must be at least 0 and below 1, got 1"),
        (lambda: WarmUpConfig(num_substeps=0), "num_substeps must be at least 1, got 0"),
        (lambda: GanConfig(student_weight=0), "student_weight must be more than 0, got 0"),
    ],
)
def test_a_bad_configuration_names_field_value_and_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()
