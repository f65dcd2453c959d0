"""Training as a job on a real cluster: a short run of the base model, and what is refused before one.

Its data are encoded by a tiny checkpoint with random weights. That every stage learns, and the whole small checkpoint
that they make, is in `test_small_checkpoint.py`, for `-m soak`.
"""

import json
import re
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from actors.checkpoint_source import CheckpointSource
from actors.small_world.clips import MAX_SECONDS, MIN_SECONDS, SIZES
from actors.small_world.listening import WordRecogniser
from actors.small_world.shards import ClipShards, LatentShards
from actors.small_world.vocabulary import WORDS
from actors.training.held_out import held_out_figures
from actors.training.recipe import RecipeError
from jobs.ablate import main as ablate
from jobs.train import main as train
from model.checkpoint import Checkpoint
from model.sampling import GuidedSampling
from pipeline import extras
from pipeline.small_checkpoint import SmallCheckpoint, load_checkpoint_recipe
from pipeline.training import DONE_NAME
from tests.actors.training.test_recipe import RECIPES
from tests.jobs.small_recipes import changed

NUM_STEPS = 12


@dataclass(frozen=True)
class Data:
    """Two shards of two clips, and of their latents."""

    clips: str
    latents: str


@pytest.fixture(scope="module")
def data(tiny_checkpoint, espeak, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    made, source = Data(f"{folder}/clips", f"{folder}/latents"), CheckpointSource(tiny_checkpoint, "unused")
    clips = ClipShards(made.clips, seed=1, num_clips=4, clips_per_shard=2)
    latents = LatentShards(made.clips, made.latents, source, num_large_shards=0)
    for number in range(clips.num_shards):
        clips.write(number)
        latents.write(number)
    latents.write_negative_prompt("nothing of this")
    return made


@pytest.mark.slow
def test_a_run_goes_on_to_the_same_weights_and_what_is_done_is_kept(data, recipes, cluster, tmp_path, capsys):
    checkpoint, run = tmp_path / "checkpoint", tmp_path / "runs" / "base"
    command = [str(recipes / "base.yaml"), "--data", data.latents, "--runs", str(run.parent), "--num-workers", "2"]
    command += ["--address", cluster.address, "--set", "network.text_channels=48"]
    command += ["--set", f"training.optimiser.num_steps={NUM_STEPS}"]
    here = ["--checkpoint", str(checkpoint)]
    assert train([*command, *here]) == 0
    assert f"base: {NUM_STEPS} steps, loss " in capsys.readouterr().out
    model = checkpoint / "base" / "model.safetensors"
    learnt, rows = load_file(model), json.loads((run / DONE_NAME).read_text())
    assert rows[-1]["step"] == NUM_STEPS
    transformer = Checkpoint(str(checkpoint)).transformer("base", torch.float32, torch.device("cpu"))
    assert transformer.config.text_channels == 48
    # As a run that was killed after its last state leaves it: that of step 10.
    (run / DONE_NAME).unlink()
    model.unlink()
    assert train([*command, *here]) == 0
    resumed = json.loads((run / DONE_NAME).read_text())
    assert resumed[:-1] == rows[:-1], "what was watched before, its seconds included"
    assert resumed[-1]["step_s"] != rows[-1]["step_s"]
    again = load_file(model)
    assert all(again[name].equal(tensor) for name, tensor in learnt.items())
    written = model.stat().st_mtime_ns
    assert train([*command, *here]) == 0
    assert model.stat().st_mtime_ns == written
    capsys.readouterr()
    assert train([*command, *here, "--set", "seed=9"]) == 2
    error = capsys.readouterr().err
    assert error.endswith("/runs/base was made from recipe.seed=1, not 9: name another folder, or remove this one\n")
    assert train([*command, "--checkpoint", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert f"run {run} has ended, but what it learnt is not in {tmp_path}/other" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("base", ["--num-workers", "3"], "batch_size must be a multiple of the 3 workers, got 4"),
        ("base", ["--num-workers", "4"], "num_workers must be at most 2, the shards in "),
        ("base", ["--set", "is_sharded=true"], "is_sharded must be false with one worker, got True"),
        ("base", ["--set", "network.text_channels=32"], "network.text_channels must be 48, as the text in "),
        ("distillation", ["--checkpoint", "{empty}"], "base: is absent, "),
        ("base", ["--num-workers", "2", "--set", "max_clips=1"], "max_clips must be at least 2, the workers, got 1"),
        ("audio_codec", [], "{latents}/part-00000.parquet must hold waveform, it lacks waveform"),
        ("base", ["--data", "{clips}"], "{clips}/part-00000.parquet must hold video, audio, text, it lacks audio"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line_before_any_worker_starts(
    data, recipes, cluster, tmp_path, capsys, stage, arguments, message
):
    (tmp_path / "empty" / "turbo_vae").mkdir(parents=True)
    (tmp_path / "empty" / "turbo_vae" / "x.json").write_text("{}")
    command = [str(recipes / f"{stage}.yaml"), "--data", data.latents, "--checkpoint", str(tmp_path / "new")]
    places = {"empty": tmp_path / "empty", "latents": data.latents, "clips": data.clips}
    command += [argument.format(**places) for argument in arguments]
    assert train([*command, "--runs", str(tmp_path / "runs"), "--address", cluster.address]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(**places)}")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_base_model_is_judged_by_latents(data, tiny_checkpoint):
    checkpoint, cpu = Checkpoint(tiny_checkpoint), torch.device("cpu")
    transformer, decoder = checkpoint.transformer("base", torch.float32, cpu), checkpoint.audio_decoder(cpu)
    noises = np.random.default_rng(0).standard_normal((2, 8000)).astype(np.float32)
    recogniser = WordRecogniser(WORDS[-2:], list(noises))
    arguments = torch.zeros(1, 2, 48), GuidedSampling(num_steps=2), decoder, recogniser
    figures = held_out_figures(transformer, data.latents, 2, *arguments)
    assert figures.num_clips == 2
    assert 0 < figures.audio_loss < 10
    assert 0 < figures.video_loss < 10
    assert figures.word_accuracy == 0, "neither clip asks for one of the two words"


def test_a_recipe_that_does_not_exist_is_one_line(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--checkpoint", str(tmp_path), "--runs", str(tmp_path)]
    assert train([str(tmp_path / "none.yaml"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--num-clips": "5"}, "num_clips must be at most 4, the clips in "),
        ({}, "/latents must hold no clip of "),
        ({"--seeds": "1,1"}, "seeds must differ, got 1, 1"),
    ],
)
def test_an_ablation_that_would_judge_wrongly_is_one_line_before_it_trains(
    data, recipes, cluster, tiny_checkpoint, tmp_path, capsys, changes, message
):
    values = {
        "--recipe": str(recipes / "base.yaml"),
        "--data": data.latents,
        "--held-out": data.latents,
        "--num-clips": "2",
    }
    values |= {"--checkpoint": tiny_checkpoint, "--output": str(tmp_path / "out"), "--address": cluster.address}
    assert ablate([text for pair in (values | changes).items() for text in pair]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_ablation_asks_for_what_draws_its_plot_before_anything_else(monkeypatch, capsys):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert ablate(["--data", "a", "--held-out", "b", "--checkpoint", "c", "--output", "d"]) == 2
    error = "error: matplotlib not installed: pip install -e '.[evaluation]' in the project's folder\n"
    assert capsys.readouterr().err == error


@pytest.mark.slow
def test_a_dry_run_tells_the_memory_of_a_gpu_at_full_size(capsys):
    recipe = str(RECIPES / "release" / "distillation.yaml")
    assert train([recipe, "--dry-run", "--num-workers", "64"]) == 0
    told = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    # Student and fake score in float32, the frozen real score in bfloat16, each of 15.3 B parameters over 64 GPUs.
    assert told["parameters"] == pytest.approx(15.3 * (4 + 4 + 2) / 64, abs=0.1)
    assert told["total"] == pytest.approx(sum(told.values()) - told["total"], abs=0.3)
    assert told["total"] < 80


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "arguments", "message"),
    [
        ("mini/audio_codec.yaml", [], "stage must be that of a Transformer for a dry run, got audio_codec"),
        ("release/base.yaml", ["--num-workers", "63"], "batch_size must be a multiple of the 63 workers, got 64"),
        (
            "release/base.yaml",
            ["--num-workers", "8", "--set", "training.optimiser.method=muon"],
            "training.optimiser.method must be adamw with is_sharded, got muon",
        ),
        ("release/base.yaml", ["--size", "16x16"], "width and height must be at least 32 pixels, got 16x16"),
        ("release/base.yaml", ["--seconds", "16"], "seconds must be between 0.2 and 15, got 16"),
    ],
)
def test_a_dry_run_of_what_cannot_be_is_one_line(recipe, arguments, message, capsys):
    assert train([str(RECIPES / recipe), "--dry-run", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_every_clip_of_the_world_can_be_asked_of_the_shipped_checkpoint():
    """The limits in config.json are those of the data, the samplers those it was trained for."""
    recipe, stage_recipes = load_checkpoint_recipe(str(RECIPES / "mini"))
    asked = SmallCheckpoint("unused", recipe, stage_recipes, "unused", 1).capabilities()
    assert Checkpoint(RECIPES.parent / "checkpoints" / "mini").capabilities == asked
    assert (asked.min_seconds, asked.max_seconds) == (MIN_SECONDS, MAX_SECONDS)
    sizes = {(label, aspect): size for label, by in SIZES.items() for aspect, size in by.items()}
    assert asked.pixel_sizes == sizes
    assert asked.samplers.distill == stage_recipes["distillation"].training.sampling
    assert asked.samplers.super_resolution == stage_recipes["super_resolution"].training.sampling


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        (
            "checkpoint",
            {"config": {"sampling": {"distill": {"num_steps": 4}}}},
            "checkpoint.yaml: config.sampling.distill must be left to distillation.yaml, got {'num_steps': 4}",
        ),
        (
            "super_resolution",
            {"max_clips": 9},
            "super_resolution.yaml: max_clips must be at most 4, the clips of latents.num_large_shards in "
            "checkpoint.yaml, got 9",
        ),
        (
            "base",
            {"network": {"text_channels": 64}},
            "base.yaml: network.text_channels must be 256, as text_encoder.width in checkpoint.yaml, got 64",
        ),
    ],
)
def test_recipes_that_do_not_go_together_are_one_line(recipes, tmp_path, name, changes, expected):
    folder = shutil.copytree(recipes, tmp_path / "recipes")
    values = yaml.safe_load((folder / f"{name}.yaml").read_text())
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(changed(values, changes)))
    with pytest.raises(RecipeError, match=re.escape(expected)):
        load_checkpoint_recipe(str(folder))
