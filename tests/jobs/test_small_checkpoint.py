"""The small checkpoint from nothing: every stage learns, goes on after kill -9, and what it makes loads in the job.

Takes minutes, so all of it is for `-m soak`. That each stage's loss falls and that its state is resumed to the bit is
tested in `tests/model/training`, a run as a job in `test_train.py`, a checkpoint of several trained parts by the demo.
"""

import json
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

from pipeline.ablation import VARIANTS
from pipeline.small_world import write_manifest
from pipeline.training import DONE_NAME
from tests.actors.training.test_recipe import STAGES
from tests.jobs.small_recipes import CHANGES, changed

pytestmark = [pytest.mark.soak, pytest.mark.timeout(900)]


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


def test_a_run_that_was_interrupted_and_killed_goes_on_and_learns_the_same(made, recipes, cluster, tmp_path):
    arguments = [str(recipes / "base.yaml"), "--data", f"{made.folder}/latents", "--address", cluster.address]
    arguments += ["--checkpoint", str(tmp_path / "checkpoint"), "--num-workers", "2"]
    # A state every five steps, and far more of them than are taken until the job has the signal.
    command = job_command("train", *arguments, "--set", "training.optimiser.num_steps=300")
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
