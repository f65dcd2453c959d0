"""Training as jobs on a real cluster: every stage learns, goes on after kill -9, and what it makes loads in the job."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from actors.small_world.clips import MAX_SECONDS, MIN_SECONDS, SIZES
from actors.training.recipe import RecipeError
from jobs.ablate import main as ablate
from jobs.train import main as train
from model.checkpoint import Checkpoint
from pipeline import extras
from pipeline.ablation import VARIANTS
from pipeline.small_checkpoint import SmallCheckpoint, load_checkpoint_recipe
from pipeline.small_world import write_manifest
from pipeline.training import DONE_NAME
from tests.actors.training.test_recipe import RECIPES, STAGES

RATES = {"num_steps": 12, "num_warmup_steps": 1, "final_share": 1.0}
NOISY_RATES = RATES | {"num_steps": 120, "learning_rate": 3e-3}
"""Of losses that depend on the drawn noise level: more of them are compared."""
TRANSFORMER = {"num_layers": 3, "hidden_size": 64, "head_dim": 16, "expert_layers": [0, 2]}
HALF = {"channels": 4, "multiples": [1, 1, 1, 2, 2]}
CHANGES = {
    "audio_codec": {
        "network": {"encoder": HALF, "decoder": HALF},
        "training": {"optimiser": RATES, "window_latents": 4, "is_compiled": False},
    },
    "video_autoencoder": {
        "encoder": {"base_dim": 4},
        "decoder": {"decoder_block_out_channels": [8, 8, 12, 16]},
        "training": {"optimiser": RATES | {"learning_rate": 2e-3}, "crop": 32, "num_frames": 5, "still_share": 0.9},
    },
    "base": {"network": TRANSFORMER, "training": {"optimiser": NOISY_RATES}},
    "super_resolution": {"network": TRANSFORMER, "training": {"optimiser": NOISY_RATES}},
    "distillation": {
        "training": {
            "student": RATES | {"learning_rate": 1e-3},
            "fake": RATES | {"learning_rate": 1e-3},
            "sampling": {"num_steps": 2},
            "num_fake_updates": 1,
            "warm_up": {"num_steps": 10, "num_substeps": 2},
        }
    },
}
"""What makes the kept recipes small: few steps, the last two of the distillation by distribution matching."""


def changed(values, changes):
    return values | {
        name: changed(values[name], change) if isinstance(change, dict) and name in values else change
        for name, change in changes.items()
    }


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """The kept recipes of the small checkpoint, much smaller."""
    folder = tmp_path_factory.mktemp("recipes")
    for stage in STAGES:
        values = yaml.safe_load((RECIPES / "mini" / f"{stage}.yaml").read_text())
        values = changed(values, CHANGES[stage] | {"batch_size": 4, "max_clips": 4, "save_every": 5})
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(values))
    values = yaml.safe_load((RECIPES / "mini" / "checkpoint.yaml").read_text())
    values["clips"] = {"num_clips": 4, "clips_per_shard": 2, "seed": 1}
    values["config"]["sampling"]["base"]["num_steps"] = 2
    (folder / "checkpoint.yaml").write_text(yaml.safe_dump(values))
    return folder


@dataclass(frozen=True)
class Made:
    """A small checkpoint made from nothing, and what belongs to it."""

    folder: str

    @property
    def checkpoint(self) -> str:
        return f"{self.folder}/checkpoint"


def job_command(name, *arguments):
    return [sys.executable, "-m", f"jobs.{name}", *map(str, arguments)]


def run_job(name, *arguments):
    """A job as its users run it, in a process of its own, which must end well; returns what it printed."""
    done = subprocess.run(job_command(name, *arguments), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def made(recipes, cluster, espeak, tmp_path_factory):
    """A small checkpoint made from nothing; twelve steps each make no faces."""
    folder = str(tmp_path_factory.mktemp("mini"))
    arguments = ["--output", folder, "--recipes", recipes, "--num-workers", "2", "--address", cluster.address]
    printed = run_job("make_mini_checkpoint", *arguments, "--report-every", "0")
    assert f"checkpoint in {folder}/checkpoint" in printed
    parts = ("clips of the small world", "latents", "training: ")
    assert sum(line.startswith(parts) for line in printed.splitlines()) == 6
    return Made(folder)


def history(made, stage):
    return json.loads(Path(made.folder, "runs", stage, DONE_NAME).read_text())


@pytest.mark.timeout(600)
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "distillation"])
def test_the_loss_goes_down(made, stage):
    losses = [row["loss"] for row in history(made, stage)]
    assert len(losses) == CHANGES[stage]["training"]["optimiser"]["num_steps"]
    third = len(losses) // 3
    assert sum(losses[-third:]) < 0.97 * sum(losses[:third])


def test_distillation_passes_from_regression_to_matching(made):
    rows = history(made, "distillation")
    warm_up = CHANGES["distillation"]["training"]["warm_up"]["num_steps"]
    assert ["fake_loss" in row for row in rows] == [False] * warm_up + [True] * (len(rows) - warm_up)
    losses = [row["loss"] for row in rows[:warm_up]]
    assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("mode", ["base", "distill"])
def test_the_checkpoint_makes_clips(made, mode, generate, tmp_path):
    resolution = "540p" if mode == "distill" else "256p"
    manifest = write_manifest(str(tmp_path / "asked"), 7, 2, resolution, "image")
    arguments = ["--checkpoint", made.checkpoint, "--mode", mode, "--set", "precision=fp32"]
    status, _, errors = generate(manifest, tmp_path / "out", *arguments)
    assert (status, errors) == (0, "")
    assert len(list((tmp_path / "out" / "clips").glob("*.mp4"))) == 2


def test_the_same_command_finds_everything_done(made, recipes, cluster):
    files = {path: path.stat().st_mtime_ns for path in Path(made.folder).rglob("*.safetensors")}
    arguments = ["--output", made.folder, "--recipes", recipes, "--num-workers", "2", "--address", cluster.address]
    assert f"checkpoint in {made.checkpoint}" in run_job("make_mini_checkpoint", *arguments)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_another_recipe_in_the_same_folder_is_one_line(made, recipes, cluster, capsys):
    folder = made.folder
    arguments = [str(recipes / "base.yaml"), "--data", f"{folder}/latents", "--checkpoint", made.checkpoint]
    assert train([*arguments, "--runs", f"{folder}/runs", "--set", "seed=9", "--address", cluster.address]) == 2
    error = capsys.readouterr().err
    assert error.endswith("/runs/base was made from recipe.seed=1, not 9: name another folder, or remove this one\n")


def test_an_ended_run_does_not_pass_for_one_of_another_checkpoint(made, recipes, cluster, tmp_path, capsys):
    arguments = [str(recipes / "audio_codec.yaml"), "--data", f"{made.folder}/clips", "--runs", f"{made.folder}/runs"]
    arguments += ["--address", cluster.address]
    assert train([*arguments, "--checkpoint", made.checkpoint]) == 0
    assert train([*arguments, "--checkpoint", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert f"run {made.folder}/runs/audio_codec has ended, but what it learnt is not in {tmp_path}/other" in error
    assert error.count("\n") == 1


def test_what_was_made_from_an_older_autoencoder_is_not_taken_for_new(made, recipes, cluster, tmp_path):
    """Whoever trains the codec again and forgets what was made with the old one is told."""
    folder = shutil.copytree(made.folder, tmp_path / "mini")
    shutil.rmtree(folder / "runs" / "audio_codec")
    changed_recipes = shutil.copytree(recipes, tmp_path / "recipes")
    values = yaml.safe_load((changed_recipes / "audio_codec.yaml").read_text())
    (changed_recipes / "audio_codec.yaml").write_text(yaml.safe_dump(changed(values, {"seed": 9})))
    arguments = ["--output", folder, "--recipes", changed_recipes, "--num-workers", "2", "--address", cluster.address]
    done = subprocess.run(job_command("make_mini_checkpoint", *arguments), capture_output=True, text=True)
    assert done.returncode == 2
    assert "/latents was made from checkpoint.audio_vae=" in done.stderr


@pytest.mark.parametrize(
    ("stage", "arguments", "message"),
    [
        ("base", ["--num-workers", "3"], "batch_size must be a multiple of the 3 workers, got 4"),
        ("base", ["--num-workers", "4"], "num_workers must be at most 2, the shards in "),
        ("base", ["--set", "is_sharded=true"], "is_sharded must be false with one worker, got True"),
        ("base", ["--set", "network.text_channels=48"], "network.text_channels must be 256, as the text in "),
        ("distillation", ["--checkpoint", "{empty}"], "base: is absent, "),
        ("base", ["--num-workers", "2", "--set", "max_clips=1"], "max_clips must be at least 2, the workers, got 1"),
        ("audio_codec", [], "{latents}/part-00000.parquet must hold waveform, it lacks waveform"),
        ("base", ["--data", "{clips}"], "{clips}/part-00000.parquet must hold video, audio, text, it lacks audio"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line_before_any_worker_starts(
    made, recipes, cluster, tmp_path, capsys, stage, arguments, message
):
    (tmp_path / "empty" / "turbo_vae").mkdir(parents=True)
    (tmp_path / "empty" / "turbo_vae" / "x.json").write_text("{}")
    latents = f"{made.folder}/latents"
    command = [str(recipes / f"{stage}.yaml"), "--data", latents, "--checkpoint", str(tmp_path / "new")]
    places = {"empty": tmp_path / "empty", "latents": latents, "clips": f"{made.folder}/clips"}
    command += [argument.format(**places) for argument in arguments]
    assert train([*command, "--runs", str(tmp_path / "runs"), "--address", cluster.address]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message.format(**places)}")
    assert error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_recipe_that_does_not_exist_is_one_line(tmp_path, capsys):
    arguments = ["--data", str(tmp_path), "--checkpoint", str(tmp_path), "--runs", str(tmp_path)]
    assert train([str(tmp_path / "none.yaml"), *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.timeout(600)
def test_an_ablation_compares_four_variants(made, recipes, cluster, tmp_path):
    address, clips, held_out = ["--address", cluster.address], tmp_path / "clips", tmp_path / "held-out"
    run_job("small_world", "clips", "--output", clips, "--num-clips", "2", "--per-shard", "1", "--seed", "2", *address)
    given = ["--clips", clips, "--checkpoint", made.checkpoint, "--output", held_out, "--num-workers", "1"]
    run_job("small_world", "latents", *given, *address)
    arguments = ["--recipe", recipes / "base.yaml", "--data", f"{made.folder}/latents", "--held-out", held_out]
    arguments += ["--checkpoint", made.checkpoint, "--output", tmp_path, "--num-steps", "3", "--seeds", "1"]
    arguments += ["--num-clips", "2", "--num-workers", "2", *address]
    assert "without gates" in run_job("ablate", *arguments)
    runs = {run["variant"]: run for run in json.loads((tmp_path / "ablation.json").read_text())["runs"]}
    assert list(runs) == list(VARIANTS)
    counts = {name: run["num_parameters"] for name, run in runs.items()}
    assert counts["without sandwich"] < counts["without gates"] < counts["as the release"] < counts["with timestep"]
    assert all(0 < run["figures"]["audio_loss"] < 10 for run in runs.values())
    assert len({run["figures"]["video_loss"] for run in runs.values()}) == 4
    assert (tmp_path / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "ablation.md").read_text().count("\n") == 6
    assert all(run["figures"]["num_clips"] == 2 for run in runs.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--num-clips": "5"}, "num_clips must be at most 4, the clips in "),
        ({}, "/latents must hold no clip of "),
        ({"--seeds": "1,1"}, "seeds must differ, got 1, 1"),
    ],
)
def test_an_ablation_that_would_judge_wrongly_is_one_line_before_it_trains(
    made, recipes, cluster, tmp_path, capsys, changes, message
):
    latents = f"{made.folder}/latents"
    values = {"--recipe": str(recipes / "base.yaml"), "--data": latents, "--held-out": latents, "--num-clips": "2"}
    values |= {"--checkpoint": made.checkpoint, "--output": str(tmp_path / "out"), "--address": cluster.address}
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


def test_a_dry_run_tells_the_memory_of_a_gpu_at_full_size(capsys):
    recipe = str(RECIPES / "release" / "distillation.yaml")
    assert train([recipe, "--dry-run", "--num-workers", "64"]) == 0
    told = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    # Student and fake score in float32, the frozen real score in bfloat16, each of 15.3 B parameters over 64 GPUs.
    assert told["parameters"] == pytest.approx(15.3 * (4 + 4 + 2) / 64, abs=0.1)
    assert told["total"] == pytest.approx(sum(told.values()) - told["total"], abs=0.3)
    assert told["total"] < 80


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


def stop_after_a_state(command, run_folder, number):
    """Send a signal to a job of training when it has saved a state; gives its exit status and what it printed."""

    def states():
        return set(run_folder.glob("checkpoint_*/history.json"))

    earlier, end = states(), time.monotonic() + 240
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        while not states() - earlier:
            assert process.poll() is None, "the run ended before it was stopped"
            assert time.monotonic() < end, "no state was saved in time"
            time.sleep(0.05)
        process.send_signal(number)
        printed = process.communicate(timeout=120)[0]
    assert not (run_folder / DONE_NAME).exists()
    return process.returncode, printed


@pytest.mark.timeout(600)
def test_a_run_that_was_interrupted_and_killed_goes_on_and_learns_the_same(made, recipes, cluster, tmp_path):
    arguments = [str(recipes / "base.yaml"), "--data", f"{made.folder}/latents", "--address", cluster.address]
    arguments += ["--checkpoint", str(tmp_path / "checkpoint"), "--num-workers", "2"]
    command = job_command("train", *arguments, "--set", "training.optimiser.num_steps=100")
    # The stopped run saves often, so that it is caught between two states; how often does not change what is learnt.
    runs = tmp_path / "stopped"
    status, printed = stop_after_a_state([*command, "--runs", str(runs)], runs / "base", signal.SIGINT)
    assert (status, printed.splitlines()[-1]) == (130, "interrupted: what is saved is kept, the same command continues")
    status, _ = stop_after_a_state([*command, "--runs", str(runs)], runs / "base", signal.SIGKILL)
    assert status == -signal.SIGKILL
    subprocess.run([*command, "--runs", str(runs)], check=True, capture_output=True)
    resumed = load_file(tmp_path / "checkpoint" / "base" / "model.safetensors")
    subprocess.run([*command, "--runs", str(tmp_path / "undisturbed")], check=True, capture_output=True)
    undisturbed = load_file(tmp_path / "checkpoint" / "base" / "model.safetensors")
    assert all(resumed[name].equal(tensor) for name, tensor in undisturbed.items())


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
